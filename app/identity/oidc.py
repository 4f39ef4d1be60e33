"""Bearer tokens of an OpenID Connect issuer, beside our own keys: RFC 7519, with keys published as in RFC 7517.

Guarantees: a token is good only with a signature of a key that the issuer publishes under the token's `kid`, by the
algorithm of that key, which is never a symmetric one; with our audience, this issuer and an expiry; nothing that the
token itself says of where keys are (`jku`, `jwk`, `x5u`) is looked at. The keys are fetched from the one configured
place, over TLS, without following redirects, and seldom however many bad tokens come.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

import jwt

from app.domain.errors import DependencyDown, Forbidden, Unauthenticated
from app.domain.identity import Caller, Scope, is_tenant
from app.settings import trusted_url

log = logging.getLogger(__name__)

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
REQUIRED = ("exp", "iss", "aud", "sub")
LEEWAY_SECONDS = 10
FETCH_SECONDS = 5.0
FRESH_SECONDS = 300.0  # keys are fetched again after this long
PAUSE_SECONDS = 10.0  # and not before this, whatever kid a token names or the issuer fails at
LARGEST_ANSWER = 1024 * 1024
LONGEST_SUBJECT = 255


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whom we trust, and what of its tokens is meant for us."""

    url: str
    audience: str
    jwks_url: str | None
    tenant_claim: str


class TokenReader:
    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self._keys = _KeySet(issuer)

    def read(self, token: str) -> Caller:
        """Raises Unauthenticated; Forbidden for a good token without a tenant; DependencyDown without keys."""
        try:
            claims = self._verified(token)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            log.info("refused a token: %s", type(error).__name__)
            raise Unauthenticated("The bearer token is not valid here: get a new one from the issuer.") from None
        tenant, subject = claims.get(self._issuer.tenant_claim), claims["sub"]
        if not is_tenant(tenant):
            raise Forbidden(f"The token names no tenant in its claim {self._issuer.tenant_claim!r}.")
        return Caller(str(tenant), f"oidc:{subject}", _scopes(claims.get("scope")))

    def _verified(self, token: str) -> Mapping[str, Any]:
        header = jwt.get_unverified_header(token)
        kid = header.get("kid")
        if header.get("alg") not in ALGORITHMS or not isinstance(kid, str):
            raise jwt.InvalidTokenError("no signature by a named key")
        claims: Mapping[str, Any] = jwt.decode(
            token,
            self._keys.get(kid),
            algorithms=list(ALGORITHMS),
            audience=self._issuer.audience,
            issuer=self._issuer.url,
            leeway=LEEWAY_SECONDS,
            options={"require": list(REQUIRED), "enforce_minimum_key_length": True},
        )
        subject = claims["sub"]
        if not (isinstance(subject, str) and 0 < len(subject) <= LONGEST_SUBJECT and subject.isprintable()):
            raise jwt.InvalidTokenError("no subject")
        return claims


def _scopes(claim: object) -> frozenset[Scope]:
    """Ours among those of RFC 8693, section 4.2: words between spaces."""
    words = set(claim.split(" ")) if isinstance(claim, str) else set()
    return frozenset(scope for scope in Scope if scope in words)


class _KeySet:
    """The issuer's public keys by kid. One thread fetches at a time, the others wait for it."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self._keys: Mapping[str, jwt.PyJWK] | None = None
        self._fetched = self._tried = float("-inf")
        self._lock = threading.Lock()

    def get(self, kid: str) -> jwt.PyJWK:
        """Raises PyJWTError for a kid that the issuer does not publish, and DependencyDown."""
        with self._lock:
            now = time.monotonic()
            fresh = self._keys is not None and now - self._fetched < FRESH_SECONDS
            if not (fresh and kid in (self._keys or {})) and now - self._tried >= PAUSE_SECONDS:
                self._fetch(now)
                fresh = True
            if self._keys is None or not fresh:
                raise _down()
            if kid not in self._keys:
                raise jwt.InvalidTokenError("an unknown kid")
            return self._keys[kid]

    def _fetch(self, now: float) -> None:
        self._tried = now
        try:
            found = _usable(_answer(self._place()))
        except (OSError, HTTPException, ValueError, KeyError, TypeError, RecursionError, jwt.PyJWTError) as error:
            log.warning("the issuer's keys could not be fetched: %s", type(error).__name__)
            raise _down() from None
        self._keys, self._fetched = found, now

    def _place(self) -> str:
        """As configured, or as the issuer's discovery document says (OpenID Connect Discovery 1.0, section 4)."""
        if self._issuer.jwks_url is not None:
            return self._issuer.jwks_url
        document = _answer(f"{self._issuer.url.rstrip('/')}/.well-known/openid-configuration")
        if document["issuer"] != self._issuer.url:
            raise ValueError("a discovery document of another issuer")
        return str(document["jwks_uri"])


def _usable(document: dict[str, Any]) -> Mapping[str, jwt.PyJWK]:
    keys = jwt.PyJWKSet.from_dict(document).keys
    return {
        key.key_id: key
        for key in keys
        if key.key_id and key.public_key_use in (None, "sig") and key.algorithm_name in ALGORITHMS
    }


def _answer(url: str) -> dict[str, Any]:
    if not trusted_url(url):
        raise ValueError("not a trusted address")
    with _opener().open(url, timeout=FETCH_SECONDS) as answer:
        body = answer.read(LARGEST_ANSWER + 1)
    if len(body) > LARGEST_ANSWER:
        raise ValueError("too long an answer")
    document = json.loads(body)
    if not isinstance(document, dict):
        raise TypeError("no JSON object")
    return document


def _opener() -> urllib.request.OpenerDirector:
    """HTTP and nothing else: an answer that points elsewhere is an error."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _down() -> DependencyDown:
    return DependencyDown("The issuer of tokens does not answer at the moment. Send the request again, or use a key.")
