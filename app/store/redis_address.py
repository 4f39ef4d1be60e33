"""One address, two spellings."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit


def for_client(url: str) -> str:
    """Celery names a socket file `redis+socket:///path?virtual_host=0`, the client `unix:///path?db=0`."""
    parts = urlsplit(url)
    if parts.scheme != "redis+socket":
        return url
    return f"unix://{parts.path}?db={parse_qs(parts.query).get('virtual_host', ['0'])[0]}"
