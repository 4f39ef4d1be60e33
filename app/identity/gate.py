"""The gate: from an Authorization header to a caller, or to no answer.

Guarantees: without a valid key or token nobody passes; whatever is wrong with a key, the answer is the same, so that
it tells nothing about which keys there are; secrets are compared in constant time, and something is compared even
where the keyid is unknown. A key is read from the database at most every REMEMBER_SECONDS, and so a revocation takes
that long at most to reach every process.
"""

from __future__ import annotations

import hmac
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from sqlalchemy import Engine

from app.domain.errors import Forbidden, Unauthenticated
from app.domain.identity import DEFAULT_TENANT, Caller, Scope
from app.identity import api_keys
from app.identity.oidc import TokenReader
from app.identity.sessions import CSRF_HEADER, SAFE_METHODS, Sessions
from app.store import key_rows

REMEMBER_SECONDS = 2.0
REMEMBERED_KEYS = 4096
LONGEST_TOKEN = 8192
NOBODY = bytes(32)
OPERATOR = Caller(DEFAULT_TENANT, "key:operator", frozenset(Scope))
# RFC 6750, section 2.1: the scheme in any case (RFC 9110), spaces alone between it and the token.
_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class _Known:
    """A key as it was read from the database. `until` is on the clock of this process."""

    digest: bytes
    caller: Caller
    until: float
    unseen: bool


class Gate:
    """One for a process. `operator_key` is good without a row, in the tenant `default` and with every scope."""

    def __init__(
        self, database: Engine, operator_key: str | None, pepper: str | None, tokens: TokenReader | None = None
    ) -> None:
        self._database = database
        self._operator_key = operator_key
        self._pepper = pepper
        self._tokens = tokens
        self.sessions = Sessions(operator_key, pepper)
        self._known: OrderedDict[UUID, _Known] = OrderedDict()
        self._lock = threading.Lock()

    def recall(self, headers: Sequence[str]) -> Caller | None:
        """The same without the database or an issuer, and so at once: None where one of them must be asked."""
        found = _BEARER.fullmatch(headers[0]) if len(headers) == 1 and len(headers[0]) <= LONGEST_TOKEN else None
        if found is None:
            return None
        if self._is_operator(found[1]):
            return OPERATOR
        key_id = api_keys.key_id_of(found[1])
        known = self._recall(key_id) if key_id is not None and self._pepper is not None else None
        if known is None or known.unseen or self._pepper is None:
            return None
        return known.caller if hmac.compare_digest(api_keys.digest(self._pepper, found[1]), known.digest) else None

    def admit(self, headers: Sequence[str]) -> Caller:
        """The caller whom the request's Authorization headers name: there must be one.

        Raises Unauthenticated, and DependencyDown where the issuer of tokens cannot be asked for its keys.
        """
        found = _BEARER.fullmatch(headers[0]) if len(headers) == 1 and len(headers[0]) <= LONGEST_TOKEN else None
        if found is None:
            raise _refused()
        caller = self._by_key(found[1])
        if caller is None and self._tokens is not None and not found[1].startswith("lethe_"):
            caller = self._tokens.read(found[1])
        if caller is None:
            raise _refused()
        return caller

    def sign_in(self, text: str) -> str:
        """The cookie of a new session for who has this key. Raises Unauthenticated."""
        caller = self._by_key(text) if len(text) <= LONGEST_TOKEN else None
        if caller is None:
            raise Unauthenticated("This is no valid key.")
        return self.sessions.begin(caller.name)

    def admit_session(self, cookie: str, method: str, csrf_token: str | None) -> Caller:
        """The caller of a session. Raises Unauthenticated, and Forbidden where a change comes without its token."""
        name = self.sessions.read(cookie)
        caller = self._by_name(name) if name is not None else None
        if caller is None:
            raise Unauthenticated("The session is over: sign in again, or send an API key.")
        if method not in SAFE_METHODS and not self.sessions.is_csrf_token(cookie, csrf_token or ""):
            raise Forbidden(f"With a session, a change needs the page's own token in {CSRF_HEADER}: reload the page.")
        return caller

    def forget(self, key_id: UUID) -> None:
        """Read the key anew at its next use: it was changed."""
        with self._lock:
            self._known.pop(key_id, None)

    def _by_key(self, text: str) -> Caller | None:
        if self._is_operator(text):
            return OPERATOR
        key_id = api_keys.key_id_of(text)
        if key_id is None or self._pepper is None:
            return None
        known = self._recall(key_id) or self._read(key_id)
        same = hmac.compare_digest(api_keys.digest(self._pepper, text), known.digest if known else NOBODY)
        if known is None or not same:
            return None
        if known.unseen:
            self._note_use(key_id, known)
        return known.caller

    def _by_name(self, name: str) -> Caller | None:
        """Whose key was shown before: by the caller's name, while that key is good."""
        if name == OPERATOR.name:
            return OPERATOR if self._operator_key else None
        key_id = UUID(name.removeprefix("key:"))
        known = (self._recall(key_id) or self._read(key_id)) if self._pepper is not None else None
        return known.caller if known else None

    def _is_operator(self, text: str) -> bool:
        return bool(self._operator_key) and hmac.compare_digest(text.encode(), (self._operator_key or "").encode())

    def _recall(self, key_id: UUID) -> _Known | None:
        with self._lock:
            known = self._known.get(key_id)
        return known if known and time.monotonic() < known.until else None

    def _read(self, key_id: UUID) -> _Known | None:
        """The key as the database has it now."""
        began = time.monotonic()
        with self._database.connect() as connection:
            found = key_rows.usable(connection, key_id)
        if found is None:
            self.forget(key_id)
            return None
        lasts = REMEMBER_SECONDS if found.left is None else min(REMEMBER_SECONDS, found.left)
        caller = Caller(found.key.tenant, f"key:{key_id}", found.key.scopes)
        known = _Known(found.digest, caller, began + lasts, found.unseen)
        self._remember(key_id, known)
        return known

    def _note_use(self, key_id: UUID, known: _Known) -> None:
        """Written once a minute at most, and only of who has the secret."""
        with self._database.begin() as connection:
            key_rows.note_use(connection, key_id)
        self._remember(key_id, replace(known, unseen=False))

    def _remember(self, key_id: UUID, known: _Known) -> None:
        with self._lock:
            self._known[key_id] = known
            self._known.move_to_end(key_id)
            while len(self._known) > REMEMBERED_KEYS:
                self._known.popitem(last=False)


def _refused() -> Unauthenticated:
    return Unauthenticated("Send a valid API key: 'Authorization: Bearer lethe_<keyid>_<secret>'.")
