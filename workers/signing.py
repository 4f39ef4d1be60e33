"""Signs what is delivered, in the worker's own process: the child that trained never sees the key.

Two files go with the model. `provenance.json` says what was made of what and how: an in-toto Statement v1 with a SLSA
v1 provenance in a DSSE envelope. `model.sig` signs every file of the folder, this one included: the format of OpenSSF
model signing 1.0, a Sigstore bundle that `model_signing verify key` takes. Both name files by the hashes under which
the vault has just stored them.

Keys are what securesystemslib takes: a PEM file (ECDSA on P-256 or P-384), or the URI of a key in a KMS or an HSM
(awskms:, gcpkms:, azurekms:, hv:, hsm:), whose public half is then given as a PEM file.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.dsse import Envelope
from securesystemslib.signer import (  # type: ignore[attr-defined]  # re-exported by its __init__
    SIGNER_FOR_URI_SCHEME,
    CryptoSigner,
    Signer,
    SSlibKey,
)

from app.domain.errors import OperatorError
from app.domain.job import Claim, Delivery
from app.domain.manifest import FileEntry, Manifest
from app.store.vault import Vault

PROVENANCE, SIGNATURE = "provenance.json", "model.sig"
STATEMENT = "https://in-toto.io/Statement/v1"
PAYLOAD = "application/vnd.in-toto+json"
MODEL_PREDICATE = "https://model_signing/signature/v1.0"
RUN_PREDICATE = "https://slsa.dev/provenance/v1"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
BUILD_TYPE = "urn:lethe:sanitization:v1"
CURVES = (ec.SECP256R1, ec.SECP384R1)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """`public` is its public half as PEM."""

    signer: Signer
    public: bytes

    @property
    def id(self) -> str:
        """SHA-256 of the PEM, in hex: what a bundle names its key by."""
        return hashlib.sha256(self.public).hexdigest()


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the run was given, by digest: name (model, base, triggered, clean) to SHA-256; and when it began."""

    digests: Mapping[str, str]
    began: datetime


def open_key(place: str, public: Path | None) -> SigningKey:
    """`place` is a PEM file of a private key, or a URI; then `public` is needed. Raises OperatorError."""
    try:
        if place.partition(":")[0] not in SIGNER_FOR_URI_SCHEME:
            private = load_pem_private_key(Path(place).read_bytes(), None)
            shown = _checked(private.public_key())
            return SigningKey(CryptoSigner(private), shown)
        if public is None:
            raise ValueError("the public half of a key in a KMS is needed: set LETHE_SIGNING_PUBLIC_KEY")
        known = load_pem_public_key(public.read_bytes())
        return SigningKey(Signer.from_priv_key_uri(place, SSlibKey.from_crypto(known)), _checked(known))
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise OperatorError(f"The key of LETHE_SIGNING_KEY cannot be used: {error}") from error


def _checked(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, CURVES):
        raise TypeError("it is not an ECDSA key on P-256 or P-384, which are what model signing takes")
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def sign(vault: Vault, key: SigningKey, claim: Claim, delivery: Delivery, inputs: Inputs) -> Delivery:
    """The delivery with both files beside the others."""
    files = list(delivery.manifest)
    statement = _provenance(claim, delivery, inputs)
    files.append(_store(vault, PROVENANCE, _envelope(key, statement).to_dict()))
    files.append(_store(vault, SIGNATURE, _bundle(key, _model_statement(f"job-{claim.job.id}", files))))
    return Delivery(delivery.report, Manifest.of(files))


def _store(vault: Vault, name: str, document: Mapping[str, Any]) -> FileEntry:
    entry = vault.put([json.dumps(document, indent=1).encode()])
    return FileEntry(name, entry.size, entry.sha256)


def _envelope(key: SigningKey, statement: Mapping[str, Any]) -> Envelope:
    """DSSE: the signature is over the type and the very bytes of the payload."""
    envelope = Envelope(json.dumps(statement, sort_keys=True).encode(), PAYLOAD, {})
    envelope.sign(key.signer)
    return envelope


def _bundle(key: SigningKey, statement: Mapping[str, Any]) -> dict[str, Any]:
    envelope = _envelope(key, statement).to_dict()
    signatures = [{"sig": each["sig"], "keyid": ""} for each in envelope["signatures"]]
    return {
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": key.id}, "tlogEntries": []},
        "dsseEnvelope": envelope | {"signatures": signatures},
    }


def _model_statement(name: str, files: Sequence[FileEntry]) -> dict[str, Any]:
    """Each file by its hash in the order of their names, and the hash over these hashes as the subject."""
    ordered = sorted(files, key=lambda entry: entry.path)
    root = hashlib.sha256(b"".join(bytes.fromhex(entry.sha256) for entry in ordered)).hexdigest()
    serialization = {
        "method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": [SIGNATURE],
    }  # fmt: skip
    resources = [{"name": entry.path, "algorithm": "sha256", "digest": entry.sha256} for entry in ordered]
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": MODEL_PREDICATE,
        "predicate": {"serialization": serialization, "resources": resources},
    }


def _provenance(claim: Claim, delivery: Delivery, inputs: Inputs) -> dict[str, Any]:
    """SLSA v1: `externalParameters` are what the caller asked for, `byproducts` what was measured."""
    job, order, report = claim.job, claim.job.order, delivery.report
    asked = {
        "method": order.method,
        "recipe": dict(order.recipe),
        "policy": dict(order.policy),
        "seed": order.seed,
    }
    given = [{"name": name, "digest": {"sha256": digest}} for name, digest in inputs.digests.items()]
    told = report.to_dict()
    figures = {"verdict": report.verdict.outcome, "before": told["before"], "after": told["after"]}
    content = base64.b64encode(json.dumps(figures, sort_keys=True).encode()).decode()
    return {
        "_type": STATEMENT,
        "subject": [{"name": entry.path, "digest": {"sha256": entry.sha256}} for entry in delivery.manifest],
        "predicateType": RUN_PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": asked,
                "internalParameters": {
                    "recipe": dict(report.recipe),
                    "environment": dict(report.environment),
                },
                "resolvedDependencies": given,
            },
            "runDetails": {
                "builder": {"id": "urn:lethe:worker", "version": {"lethe": version("lethe")}},
                "metadata": {
                    "invocationId": str(job.id),
                    "startedOn": _time(inputs.began),
                    "finishedOn": _time(datetime.now(UTC)),
                },
                "byproducts": [{"name": "scorecard", "mediaType": "application/json", "content": content}],
            },
        },
    }


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
