"""Secrets that must be read again, such as a webhook's, as they lie in the database: AES-256-GCM (NIST SP 800-38D).

Guarantees: who reads the database alone learns nothing, and one row's secret cannot be put into another's place,
since its owner is part of what is sealed.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.domain.errors import OperatorError

NONCE_BYTES = 12


class Seal:
    """Made of the operator's own secret by HKDF-SHA256 (RFC 5869)."""

    def __init__(self, secret: str) -> None:
        key = HKDF(hashes.SHA256(), 32, None, b"lethe webhook secrets").derive(secret.encode())
        self._cipher = AESGCM(key)

    def close(self, text: str, owner: str) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, text.encode(), owner.encode())

    def open(self, sealed: bytes, owner: str) -> str:
        """Raises OperatorError under another secret."""
        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], owner.encode()).decode()
        except InvalidTag:
            raise OperatorError("A webhook's secret was sealed under another LETHE_WEBHOOK_KEY.") from None
