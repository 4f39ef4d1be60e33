"""The words of the tus resumable upload protocol 1.0.0 (https://tus.io/protocols/resumable-upload), and of the
digest fields of RFC 9530: headers to values and back. What is malformed raises BadRequest; no upload is touched."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from email.utils import format_datetime
from uuid import UUID

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.domain.errors import BadRequest, PreconditionFailed
from app.domain.upload import FINAL, PARTIAL, Checksum, Upload

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,termination,expiration,checksum,concatenation"
ALGORITHMS = ("sha1", "sha256")
CHUNK_TYPE = "application/offset+octet-stream"
METADATA_MAX = 8192
PARTS_MAX = 500
# RFC 9530 names the algorithms in its own way; these two are the registry's secure ones.
DIGEST_FIELDS = {"sha-256": "sha256", "sha-512": "sha512"}

_NAME_PART = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._+=@()-](?:[A-Za-z0-9._+=@() -]*[A-Za-z0-9._+=@()-])?"
NAME = re.compile(rf"{_NAME_PART}(?:/{_NAME_PART})*")
NAME_MAX = 255
# Clients may name a part by its whole address: what stands before the path is not looked at, and nothing is fetched.
_PART = re.compile(r"(?:https?://[^/ ]+)?/v1/uploads/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
_OVERRIDABLE = {"POST"}
_OVERRIDES = {"PATCH", "DELETE", "HEAD"}


class TusLayer:
    """An ASGI layer for the paths under `prefix`: X-HTTP-Method-Override, Tus-Resumable on every answer, and the
    '/' that many clients put behind the address where uploads are made."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(self._prefix):
            await self._app(scope, receive, send)
            return

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Tus-Resumable"] = VERSION
                if message["status"] == 412:
                    headers["Tus-Version"] = VERSION
            await send(message)

        if scope["path"] == f"{self._prefix}/" and scope["method"] in {"POST", "OPTIONS"}:
            scope = {**scope, "path": self._prefix, "raw_path": self._prefix.encode()}
        override = Headers(scope=scope).get("x-http-method-override", "").upper()
        if scope["method"] in _OVERRIDABLE and override in _OVERRIDES:
            scope = {**scope, "method": override}
        await self._app(scope, receive, send_marked)


def check_version(headers: Headers) -> None:
    """Raises PreconditionFailed for another protocol version, and for none."""
    if headers.get("tus-resumable") != VERSION:
        raise PreconditionFailed(
            f"Send 'Tus-Resumable: {VERSION}': no other version is spoken here. Without tus, PUT the file's bytes to "
            "/v1/uploads/{name}."
        )


def capabilities(max_bytes: int) -> dict[str, str]:
    return {
        "Tus-Version": VERSION,
        "Tus-Extension": EXTENSIONS,
        "Tus-Max-Size": str(max_bytes),
        "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
    }


def state(upload: Upload) -> dict[str, str]:
    """The headers that say where an upload stands."""
    return {
        "Upload-Offset": str(upload.received),
        "Upload-Expires": format_datetime(upload.expires_at, usegmt=True),
        "Cache-Control": "no-store",
    }


def number(headers: Headers, name: str) -> int:
    """A header that must be there once and hold a plain, non-negative number."""
    values = headers.getlist(name)
    if len(values) != 1 or not re.fullmatch(r"[0-9]{1,18}", values[0]):
        raise BadRequest(f"Send the header {name} once, as a plain number of bytes.")
    return int(values[0])


def metadata(text: str) -> Mapping[str, str]:
    """Upload-Metadata: 'key base64' pairs between commas, keys in ASCII and each once, values in UTF-8."""
    if len(text) > METADATA_MAX:
        raise BadRequest(f"Upload-Metadata has at most {METADATA_MAX} characters.")
    found: dict[str, str] = {}
    for pair in text.split(",") if text else ():
        key, _, value = pair.strip(" ").partition(" ")
        if not re.fullmatch(r"[!-+\--~]+", key) or key in found:
            raise BadRequest("Upload-Metadata must be 'key base64,key base64', with keys in plain ASCII, each once.")
        try:
            found[key] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, ValueError):
            raise BadRequest(f"The value of {key!r} in Upload-Metadata must be base64 of UTF-8 text.") from None
    return found


def parts(concat: str) -> list[UUID]:
    """Upload-Concat: none for 'partial', and those of 'final;/v1/uploads/a /v1/uploads/b'."""
    if concat == PARTIAL:
        return []
    found = [_PART.fullmatch(part) for part in concat.removeprefix(FINAL).split(" ")]
    each = [match[1] for match in found if match]
    if not concat.startswith(FINAL) or len(found) > PARTS_MAX or len(set(each)) < len(found):
        raise BadRequest(
            f"Upload-Concat is 'partial', or 'final;' and the addresses of 1 to {PARTS_MAX} parts, each once: "
            "final;/v1/uploads/{id} /v1/uploads/{id}."
        )
    return [UUID(part) for part in each]


def file_name(text: str) -> str:
    """A relative path with plain parts: what a file may be called here."""
    if len(text) > NAME_MAX or not NAME.fullmatch(text):
        raise BadRequest(
            f"A file name has at most {NAME_MAX} characters, of A-Z a-z 0-9 . _ + = @ ( ) - and inner spaces, with "
            "'/' between its parts and no part '.' or '..'. Rename the file."
        )
    return text


def checksum(text: str | None) -> Checksum | None:
    """Upload-Checksum: 'sha256 <base64>' or 'sha1 <base64>'."""
    if text is None:
        return None
    algorithm, _, value = text.partition(" ")
    if algorithm not in ALGORITHMS:
        raise BadRequest(f"Upload-Checksum must be one of {', '.join(ALGORITHMS)}, then a space and base64.")
    return Checksum(algorithm, _digest(value, {"sha1": 20, "sha256": 32}[algorithm], "Upload-Checksum"))


def digests(headers: Headers) -> list[Checksum]:
    """Repr-Digest and Content-Digest (RFC 9530): 'sha-256=:base64:', more than one between commas.

    Algorithms unknown here are passed over, as the RFC has it, unless no other is left.
    """
    found = []
    for name in ("repr-digest", "content-digest"):
        if not headers.getlist(name):
            continue
        known = [_member(member.strip(" \t"), name) for value in headers.getlist(name) for member in value.split(",")]
        if not any(known):
            raise BadRequest(f"Send {name} as {' or '.join(DIGEST_FIELDS)}: no other algorithm is known here.")
        found += [checksum for checksum in known if checksum]
    return found


def _member(text: str, name: str) -> Checksum | None:
    match = re.fullmatch(r"([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/=]*):", text)
    if not match:
        raise BadRequest(f"{name} must look like sha-256=:<base64>: .")
    algorithm = DIGEST_FIELDS.get(match[1])
    return (
        Checksum(algorithm, _digest(match[2], {"sha256": 32, "sha512": 64}[algorithm], name)) if algorithm else None
    )


def _digest(text: str, size: int, name: str) -> bytes:
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != size:
        raise BadRequest(f"{name} must carry {size} bytes in base64.")
    return digest


def repr_digest(sha256: str) -> str:
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"
