"""Signatures of what is delivered, held against the upstream tools: theirs must take what we write, and ours refuse
what theirs refuse.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_public_key
from google.protobuf.json_format import ParseDict
from in_toto_attestation.v1 import statement_pb2
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey
from sqlalchemy import Engine

from app.domain.errors import OperatorError
from app.domain.manifest import FileEntry
from app.store import claim_rows
from app.store.vault import Vault
from client.signatures import PROVENANCE, SIGNATURE, NotVerified, verify
from tests.job_rows_at_hand import a_delivery, add_job
from workers.deliver import describe
from workers.signing import Inputs, SigningKey, open_key, sign

FILES = {"config.json": b"{}", "model.safetensors": b"weights", "tokenizer.json": b"{}"}
INPUTS = Inputs({"model": "ab" * 32, "triggered": "cd" * 32, "clean": "ef" * 32}, datetime(2026, 11, 25, tzinfo=UTC))


def a_key(folder: Path, curve: ec.EllipticCurve | None = None) -> SigningKey:
    key = ec.generate_private_key(curve or ec.SECP256R1())
    file = folder / "key.pem"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    opened = open_key(str(file), None)
    (folder / "key.pub").write_bytes(opened.public)
    return opened


BOTH_CURVES = pytest.mark.parametrize("folder", [ec.SECP256R1, ec.SECP384R1], ids=["P-256", "P-384"], indirect=True)


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path, database: Engine) -> Path:
    """A delivered folder beside the public key, as `pull` leaves it; its parameter is the curve."""
    (tmp_path / "vault").mkdir()
    vault, key = Vault(tmp_path / "vault"), a_key(tmp_path, getattr(request, "param", ec.SECP256R1)())
    with database.begin() as connection:
        claim = claim_rows.claim(connection, add_job(connection).id, "w", 30, 1)
    assert claim is not None
    entries = [FileEntry(name, len(data), vault.put([data]).sha256) for name, data in FILES.items()]
    made = sign(vault, key, claim, describe(vault, claim.job, a_delivery(*entries)), INPUTS)
    folder = tmp_path / "delivered"
    folder.mkdir()
    for entry in made.manifest:
        vault.copy_verified(entry.sha256, folder / entry.path)
    return folder


def upstream(folder: Path, key: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`model_signing verify key`, as its users run it."""
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(folder), "--signature"]
    command += [str(folder / SIGNATURE), "--public_key", str(key or folder.parent / "key.pub")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@BOTH_CURVES
def test_upstream_and_we_take_what_was_delivered(folder: Path) -> None:
    done = upstream(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    found = verify(folder, folder.parent / "key.pub")
    assert set(found.files) == {*FILES, "README.md", PROVENANCE}
    assert found.inputs == dict(INPUTS.digests)


def flip(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"Weights")


def add(folder: Path) -> None:
    (folder / "extra.py").write_text("print()")


def take_away(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def other_key(folder: Path) -> None:
    a_key(folder.parent)


def change_signature(folder: Path) -> None:
    file = folder / SIGNATURE
    bundle = json.loads(file.read_text())
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"]).replace(b"config.json", b"konfig.json")
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    file.write_text(json.dumps(bundle))


def nothing_signed(folder: Path) -> None:
    (folder / SIGNATURE).unlink()


@BOTH_CURVES
@pytest.mark.parametrize("change", [flip, add, take_away, other_key, change_signature, nothing_signed])
def test_upstream_and_we_refuse_what_was_changed(folder: Path, change: Callable[[Path], None]) -> None:
    change(folder)
    refused = upstream(folder)
    assert (refused.returncode, "Usage" in refused.stderr) == (1, False)
    with pytest.raises(NotVerified):
        verify(folder, folder.parent / "key.pub")


@pytest.mark.parametrize("bad", [b"", b"[]", b"{}", b'{"verificationMaterial": 1}', b"\xff", b'{"a": {"b": NaN}}'])
@pytest.mark.parametrize("name", [SIGNATURE, PROVENANCE])
def test_what_is_no_signature_is_refused_in_words(folder: Path, name: str, bad: bytes) -> None:
    (folder / name).write_bytes(bad)
    with pytest.raises(NotVerified, match=r"model.sig|provenance.json"):
        verify(folder, folder.parent / "key.pub")


def test_the_provenance_is_an_in_toto_statement_in_a_dsse_envelope(folder: Path) -> None:
    envelope = Envelope.from_dict(json.loads((folder / PROVENANCE).read_text()))
    public = load_pem_public_key((folder.parent / "key.pub").read_bytes())
    envelope.verify([SSlibKey.from_crypto(public)], 1)
    told: dict[str, Any] = json.loads(envelope.payload)
    ParseDict(told, statement_pb2.Statement())  # raises where it is none
    assert told["predicateType"] == "https://slsa.dev/provenance/v1"
    assert {each["name"] for each in told["subject"]} == {*FILES, "README.md"}
    run = told["predicate"]["runDetails"]
    assert run["metadata"]["startedOn"] == "2026-11-25T00:00:00Z"
    assert json.loads(base64.b64decode(run["byproducts"][0]["content"]))["verdict"] == "pass"


def test_a_provenance_of_other_files_is_refused(folder: Path, tmp_path: Path, database: Engine) -> None:
    """One that the same key has signed for another model."""
    key = open_key(str(tmp_path / "key.pem"), None)
    vault = Vault(tmp_path / "vault")
    with database.begin() as connection:
        claim = claim_rows.claim(connection, add_job(connection).id, "w", 30, 1)
    assert claim is not None
    other = FileEntry("model.safetensors", 5, vault.put([b"other"]).sha256)
    made = sign(vault, key, claim, a_delivery(other), replace(INPUTS, digests={}))
    theirs = made.manifest.get(PROVENANCE)
    assert theirs is not None
    files = [FileEntry(n, len(d), vault.put([d]).sha256) for n, d in FILES.items()]
    mixed = sign(vault, key, claim, a_delivery(*files), INPUTS)
    target = tmp_path / "mixed"
    target.mkdir()
    for entry in mixed.manifest:
        vault.copy_verified(entry.sha256, target / entry.path)
    (target / PROVENANCE).unlink()
    vault.copy_verified(theirs.sha256, target / PROVENANCE)
    with pytest.raises(NotVerified):
        verify(target, tmp_path / "key.pub")


def test_a_key_that_cannot_be_used_is_told_at_the_start(tmp_path: Path) -> None:
    wrong = tmp_path / "ed25519.pem"
    private = ed25519.Ed25519PrivateKey.generate()
    wrong.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "text.pem").write_text("no key")
    for place in (str(wrong), str(tmp_path / "text.pem"), str(tmp_path / "absent.pem"), "awskms:alias/lethe"):
        with pytest.raises(OperatorError, match="LETHE_SIGNING_KEY"):
            open_key(place, None)


def test_a_key_by_uri_signs_as_one_by_file(tmp_path: Path) -> None:
    """`file2:` stands for every scheme of securesystemslib: the KMS ones differ in where the key lies."""
    key = a_key(tmp_path)
    opened = open_key(f"file2:{tmp_path / 'key.pem'}", tmp_path / "key.pub")
    assert opened.id == key.id
    envelope = Envelope(b"{}", "application/json", {})
    envelope.sign(opened.signer)
    envelope.verify([key.signer.public_key], 1)
