"""Where the service may call on a caller's word, such as a webhook's address: never into the network it lives in.

Guarantees: an address is taken only if every IP address of its name is public (IANA's special-purpose registries by
`ipaddress`, also as embedded in IPv6) or in a network that the operator has allowed; and the call goes to the IP
address that was checked, so that a name which changes between look and call (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from app.domain.errors import BadRequest

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Sequence[str]]
LONGEST_URL = 2000
NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))


@dataclass(frozen=True, slots=True)
class Target:
    """A checked address: call `ip` and `port` in the name of `host`. `path` holds the query too."""

    scheme: str
    host: str
    ip: str
    port: int
    path: str


def networks(names: str) -> tuple[Network, ...]:
    """Networks between commas, or `none`. Raises ValueError."""
    return tuple(ipaddress.ip_network(name.strip()) for name in names.split(",") if name.strip() not in ("", "none"))


def resolve(host: str, port: int) -> Sequence[str]:
    """Every IP address of the name. Raises OSError."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def target(url: str, allowed: Iterable[Network] = (), lookup: Resolve = resolve) -> Target:
    """Raises BadRequest, which says what is wrong with the address; not where a name leads, which is ours to know."""
    parts = _split(url)
    host, port = str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = [ipaddress.ip_address(each.partition("%")[0]) for each in lookup(host, port)]
    except (OSError, ValueError, UnicodeError):
        raise BadRequest(f"The host {host[:100]!r} has no address.") from None
    inside = [any(_in(each, network) for network in allowed) for each in found]
    if not found or not all(ours or is_public(each) for each, ours in zip(found, inside, strict=True)):
        raise BadRequest("The address leads to a network that is not public: name a host on the Internet.")
    if parts.scheme != "https" and not all(inside):
        raise BadRequest("The address must be https://...")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, str(found[0]), port, path)


def is_public(address: Address) -> bool:
    """Whether the address, and any IPv4 address inside it, is one of the Internet's."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        inner += [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) for network in NAT64 if address in network]
        if any(each is not None and not is_public(each) for each in inner):
            return False
        if any(address in network for network in NAT64):
            return True
        if int(address) >> 32 == 0:  # IPv4-compatible, long deprecated
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved and not address.is_unspecified


def _split(url: str) -> SplitResult:
    """Raises BadRequest for what is no plain address of a host."""
    wrong = BadRequest("The address must be like https://example.org/path, without user, password or fragment.")
    if len(url) > LONGEST_URL or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise wrong
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.fragment or "@" in parts.netloc:
        raise wrong
    if port is not None and port not in (80, 443) and not 1024 <= port <= 65535:
        raise BadRequest("The port must be 443, or 1024 and above.")
    return parts


def _in(address: Address, network: Network) -> bool:
    return address.version == network.version and address in network
