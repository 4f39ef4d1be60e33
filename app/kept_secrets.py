"""Secrets that the first start on a machine makes and every later one finds, readable by their owner alone."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)


def kept(file: Path, make: Callable[[], str]) -> str:
    """The secret of the file, made now if it is not there."""
    with contextlib.suppress(FileNotFoundError):
        return file.read_text().strip()
    secret = make()
    write_private(file, secret + "\n")
    return secret


def new_key() -> str:
    """lethe_<8 hex digits>_<48 hex digits>."""
    return f"lethe_{secrets.token_hex(4)}_{secrets.token_hex(24)}"


def new_pepper() -> str:
    return secrets.token_hex(32)


def signing_key(folder: Path) -> tuple[Path, Path]:
    """The PEM files of a key (ECDSA on P-256) and of its public half."""
    private, public = folder / "signing-key.pem", folder / "signing-key.pub"
    key = load_pem_private_key(kept(private, _new_signing_key).encode(), None)
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def write_private(file: Path, text: str) -> None:
    """Whole or not at all."""
    fresh = file.with_name(f".{file.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
    fresh.rename(file)


def _new_signing_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode().strip()
