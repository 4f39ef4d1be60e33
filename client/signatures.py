"""Checks a delivered folder offline: its signature, every file, and where it came from.

    model.sig          signs every other file (OpenSSF model signing 1.0, a Sigstore bundle with a DSSE envelope)
    provenance.json    says what was made of what and how (in-toto Statement v1, SLSA provenance v1, a DSSE envelope)

Guarantees: with no trouble told, the folder holds exactly the files that the owner of the key signed, byte for byte,
and the provenance is signed by the same key and speaks of these very files. DSSE 1.0.2 with ECDSA of FIPS 186-5; a
signature is checked over the bytes as they are, before they are read as JSON.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from client.errors import LetheError

SIGNATURE, PROVENANCE = "model.sig", "provenance.json"
PAYLOAD = "application/vnd.in-toto+json"
MODEL_PREDICATE, RUN_PREDICATE = "https://model_signing/signature/v1.0", "https://slsa.dev/provenance/v1"
MOST_BYTES = 16 * 1024 * 1024


class NotVerified(LetheError):
    """The folder is not what was signed, or nothing is signed; the message says which check failed."""

    def __init__(self, message: str) -> None:
        super().__init__("not-verified", message)


@dataclass(frozen=True, slots=True)
class Verified:
    """`job` made `files` of what `inputs` names by digest, says the owner of the key `key_id`."""

    key_id: str
    job: str
    files: tuple[str, ...]
    inputs: Mapping[str, str]


def verify(folder: Path, public_key: Path) -> Verified:
    """Raises NotVerified; OSError and ValueError where the key cannot be read."""
    key = load_pem_public_key(public_key.read_bytes())
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise NotVerified("The key is not an ECDSA key, which is what model signing takes.")
    bundle = _document(folder / SIGNATURE)
    key_id = _fingerprint(key)
    with _reading(SIGNATURE):
        hint = bundle["verificationMaterial"]["publicKey"]["hint"]
        if hint != key_id:
            raise NotVerified(f"{SIGNATURE} was made with another key: {str(hint)[:64]}. Yours is {key_id}.")
        signed = _signed(bundle["dsseEnvelope"], key, SIGNATURE)
        files = _files_of(signed)
    _compare(folder, files)
    with _reading(PROVENANCE):
        told = _signed(_document(folder / PROVENANCE), key, PROVENANCE)
        return _provenance(told, files, key_id)


def _document(file: Path) -> Any:
    if not file.is_file():
        raise NotVerified(f"There is no {file.name}: nothing here is signed.")
    if file.stat().st_size > MOST_BYTES:
        raise NotVerified(f"{file.name} is larger than any that Lethe writes.")
    try:
        return json.loads(file.read_bytes())
    except ValueError:
        raise NotVerified(f"{file.name} is not JSON.") from None


class _reading:  # noqa: N801 - used as a statement
    """What is not where the format has it is a failed check, not a fault of ours."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, KeyError | TypeError | ValueError | AttributeError | IndexError):
            raise NotVerified(f"{self._name} is not in the form that it should have.") from None


def _signed(envelope: Mapping[str, Any], key: ec.EllipticCurvePublicKey, name: str) -> Any:
    """The statement of a DSSE envelope, after one of its signatures was found to be the key's."""
    payload, kind = base64.b64decode(envelope["payload"], validate=True), str(envelope["payloadType"])
    if kind != PAYLOAD:
        raise NotVerified(f"{name} holds another kind of statement: {kind[:80]}.")
    encoded = b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload)
    found = [base64.b64decode(each["sig"], validate=True) for each in envelope["signatures"]]
    if not any(_fits(key, signature, encoded) for signature in found):
        raise NotVerified(f"The signature of {name} is not of this key over these words.")
    return json.loads(payload)


def _fits(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes) -> bool:
    algorithm = {256: hashes.SHA256, 384: hashes.SHA384}[key.curve.key_size]()
    try:
        key.verify(signature, data, ec.ECDSA(algorithm))
    except InvalidSignature:
        return False
    return True


def _files_of(statement: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 by path, of everything that is signed."""
    if statement["predicateType"] != MODEL_PREDICATE:
        raise NotVerified(f"{SIGNATURE} signs something else than a model.")
    resources = statement["predicate"]["resources"]
    root = hashlib.sha256(b"".join(bytes.fromhex(each["digest"]) for each in resources)).hexdigest()
    if any(each["algorithm"] != "sha256" for each in resources) or [
        each["digest"]["sha256"] for each in statement["subject"]
    ] != [root]:
        raise NotVerified(f"{SIGNATURE} contradicts itself.")
    return {each["name"]: each["digest"] for each in resources}


def _compare(folder: Path, signed: Mapping[str, str]) -> None:
    there = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if not path.is_dir()}
    there.pop(SIGNATURE, None)
    troubles = [f"{name} is not signed" for name in there if name not in signed]
    troubles += [f"{name} is missing" for name in signed if name not in there]
    for name, path in there.items():
        if path.is_symlink() or not path.is_file():
            troubles.append(f"{name} is not a plain file")
        elif name in signed and _sha256(path) != signed[name]:
            troubles.append(f"{name} has other bytes")
    if troubles:
        raise NotVerified(f"The folder is not what was signed: {', '.join(troubles[:20])}.")


def _provenance(statement: Mapping[str, Any], files: Mapping[str, str], key_id: str) -> Verified:
    if statement["predicateType"] != RUN_PREDICATE:
        raise NotVerified(f"{PROVENANCE} tells of something else than a run.")
    subjects = {each["name"]: each["digest"]["sha256"] for each in statement["subject"]}
    if subjects != {name: digest for name, digest in files.items() if name != PROVENANCE}:
        raise NotVerified(f"{PROVENANCE} tells of other files.")
    definition, run = statement["predicate"]["buildDefinition"], statement["predicate"]["runDetails"]
    inputs = {each["name"]: each["digest"]["sha256"] for each in definition["resolvedDependencies"]}
    return Verified(key_id, run["metadata"]["invocationId"], tuple(sorted(files)), inputs)


def _fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
