"""Sessions of browsers: a person shows a key once, and a signed cookie stands for it until it expires.

Guarantees: the cookie holds no secret; it is worth what its key is worth at that moment, so revoking the key ends its
sessions; what changes anything needs a second token that other sites cannot read or send. Both tokens are void once
the operator's key or the pepper is another.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from itsdangerous import BadSignature, URLSafeTimedSerializer

LIFETIME_SECONDS = 12 * 3600
COOKIE = "lethe_session"
CSRF_HEADER = "X-CSRF-Token"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class Sessions:
    """Signs with what only this service knows: processes with the same settings know each other's sessions."""

    def __init__(self, *known: str | None) -> None:
        secret = hashlib.sha256("\0".join(["lethe session", *(each or "" for each in known)]).encode())
        self._secret = secret.digest()
        self._signer = URLSafeTimedSerializer(self._secret, salt="session")

    def begin(self, name: str) -> str:
        """The cookie of a new session of the caller with this name."""
        return self._signer.dumps([name, secrets.token_urlsafe(16)])

    def read(self, cookie: str) -> str | None:
        """The caller's name; None for what is forged, altered or too old."""
        try:
            name, _ = self._signer.loads(cookie, max_age=LIFETIME_SECONDS)
        except (BadSignature, ValueError, TypeError):
            return None
        return name if isinstance(name, str) else None

    def csrf_token(self, cookie: str) -> str:
        """What the session's own pages send beside the cookie (OWASP's HMAC-based token pattern)."""
        return hmac.new(self._secret, b"csrf\0" + cookie.encode(), hashlib.sha256).hexdigest()

    def is_csrf_token(self, cookie: str, token: str) -> bool:
        return hmac.compare_digest(self.csrf_token(cookie).encode(), token.encode())


def cookie_name(scheme: str) -> str:
    """Over https a name that no other host and no path of this one can set (RFC 6265bis, section 4.1.3.2)."""
    return f"__Host-{COOKIE}" if scheme == "https" else COOKIE
