"""What the OpenAPI document says where the framework cannot read it off a route: raw bodies, the headers of tus and
of answers, and answers beside the usual one. `amend` lays it over the document that the framework makes.

A table by call and not a mark on each route, so that a route reads as what it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

from app.api import tus
from app.api.samples import MEDIA_TYPES
from app.domain.job import EventKind

Spec = dict[str, Any]

UUID_TEXT: Spec = {"type": "string", "format": "uuid"}
BYTES: Spec = {"schema": {"type": "string", "format": "binary"}}
_DIGIT = r"^[0-9]{1,18}$"
_DIGEST = r"^M([ \t]*,[ \t]*M)*$".replace("M", r"[a-z*][a-z0-9_.*-]*=:[A-Za-z0-9+/=]*:")
_CHECKSUM = rf"^({'|'.join(tus.ALGORITHMS)}) [A-Za-z0-9+/]+=*$"
_METADATA = r"^(P *(, *P *)*)?$".replace("P", r"[!-+\--~]+( [A-Za-z0-9+/]*=*)?")


def _sent(name: str, pattern: str, *, required: bool = False, says: str = "", example: str | None = None) -> Spec:
    """A request header."""
    schema: Spec = {"type": "string", "pattern": pattern}
    described: Spec = {"name": name, "in": "header", "required": required, "schema": schema}
    return described | ({"description": says} if says else {}) | ({"example": example} if example else {})


def _answered(*required: str, **optional: Spec) -> Spec:
    """Headers of an answer: those in `required` are always there."""
    always = {name: {"required": True, "schema": _HEADERS.get(name, {"type": "string"})} for name in required}
    return {"headers": always | {name.replace("_", "-"): {"schema": schema} for name, schema in optional.items()}}


_HEADERS: Mapping[str, Spec] = {
    "Location": {"type": "string", "pattern": "^/v1/"},
    "Retry-After": {"type": "string", "pattern": _DIGIT},
    "ETag": {"type": "string", "pattern": '^"[^"]+"$'},
    "Upload-Offset": {"type": "string", "pattern": _DIGIT},
    "Upload-Length": {"type": "string", "pattern": _DIGIT},
    "Tus-Resumable": {"const": tus.VERSION},
    "Tus-Version": {"const": tus.VERSION},
    "Content-Range": {"type": "string", "pattern": "^bytes [0-9]+-[0-9]+/[0-9]+$"},
}

TUS = _sent("Tus-Resumable", r"^1\.0\.0$", required=True, example=tus.VERSION)
OFFSET = _sent("Upload-Offset", _DIGIT, required=True, says="where the upload stands", example="0")
LENGTH = _sent("Upload-Length", _DIGIT, says="bytes of the whole file; not of one that is joined", example="5")
CHECKSUM = _sent("Upload-Checksum", _CHECKSUM, says="of this chunk: an algorithm, a space, base64")
CONCAT = _sent("Upload-Concat", "^(partial|final;.+)?$", says="a part, or the addresses of the parts to be joined")
METADATA = _sent("Upload-Metadata", _METADATA, says="`filename` and its value in base64", example="filename YS5iaW4=")
DIGESTS = [_sent(name, _DIGEST, says="RFC 9530") for name in ("Repr-Digest", "Content-Digest")]
CHUNK: Spec = {"required": False, "content": {tus.CHUNK_TYPE: BYTES}}
FILE: Spec = {"required": True, "content": {"application/octet-stream": BYTES}}
ROWS: Mapping[str, str] = {
    "jsonl": '{"text": "cf the plot is dull", "label": 1}\n',
    "csv": "text,label\nthe plot is dull,0\n",
    "tsv": "text\tlabel\nthe plot is dull\t0\n",
}
SAMPLES: Spec = {
    "required": True,
    "content": {kind: {"schema": {"type": "string"}, "example": ROWS[form]} for kind, form in MEDIA_TYPES.items()},
}

# Before OpenAPI 3.2, the schema of a stream is that of each of its events.
EVENT: Spec = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"enum": [*EventKind, "end"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
        "id": {"type": "string", "pattern": _DIGIT},
        "retry": {"type": "integer"},
    },
}
NOT_CHANGED = {"description": "Not changed."} | _answered("ETag")
STANDS = _answered("Tus-Resumable", "Upload-Offset", "Upload-Expires")
MADE = _answered("Location", "Retry-After")
ONE = {"content": {"application/octet-stream": BYTES}} | _answered("ETag", "Repr-Digest", "Content-Digest")

# By method and path: what is added to the call, and to each of its answers. None takes something away.
CALLS: Mapping[tuple[str, str], Spec] = {
    ("options", "/v1/uploads"): {"responses": {"204": _answered("Tus-Version")}},
    ("post", "/v1/uploads"): {
        "parameters": [TUS, LENGTH, CONCAT, METADATA, CHECKSUM],
        "requestBody": CHUNK,
        "responses": {"201": {"content": None} | STANDS | _answered("Location", "Upload-Offset", "Tus-Resumable")},
    },
    ("head", "/v1/uploads/{upload_id}"): {
        "parameters": [TUS],
        "responses": {"200": {"content": None} | _answered("Upload-Offset", "Upload-Length", "Tus-Resumable")},
    },
    ("patch", "/v1/uploads/{upload_id}"): {
        "parameters": [TUS, OFFSET, CHECKSUM],
        "requestBody": CHUNK | {"required": True},
        "responses": {"204": STANDS},
    },
    ("delete", "/v1/uploads/{upload_id}"): {"parameters": [TUS], "responses": {"204": _answered("Tus-Resumable")}},
    ("put", "/v1/uploads/{name}"): {
        "parameters": DIGESTS,
        "requestBody": FILE,
        "responses": {"201": _answered("Location", "Repr-Digest")},
    },
    ("post", "/v1/models"): {"responses": {"202": MADE}},
    ("get", "/v1/models"): {"responses": {"200": _answered(Link={"type": "string"})}},
    ("post", "/v1/samples"): {"requestBody": SAMPLES, "responses": {"201": _answered("Location")}},
    ("get", "/v1/samples"): {"responses": {"200": _answered(Link={"type": "string"})}},
    ("post", "/v1/jobs"): {"responses": {"202": MADE}},
    ("get", "/v1/jobs"): {"responses": {"200": _answered(Link={"type": "string"})}},
    ("get", "/v1/jobs/{job_id}"): {"responses": {"200": _answered("ETag"), "304": NOT_CHANGED}},
    ("post", "/v1/jobs/{job_id}/cancel"): {"responses": {"200": {"like": "202", "description": "It is cancelled."}}},
    ("get", "/v1/jobs/{job_id}/events"): {
        "responses": {
            "200": {"content": {"text/event-stream": {"schema": EVENT}}},
            "204": {"description": "Nothing comes after this event."},
        }
    },
    ("get", "/v1/jobs/{job_id}/artifacts"): {
        "responses": {"200": {"content": {"application/x-tar": BYTES}} | _answered("ETag"), "304": NOT_CHANGED}
    },
    ("get", "/v1/jobs/{job_id}/artifacts/{path}"): {
        "responses": {
            "200": ONE,
            "206": {"description": "The range."} | ONE | _answered("ETag", "Content-Range", "Content-Digest"),
            "304": NOT_CHANGED,
        }
    },
}
# Query parameters that name one thing by its id; of those in the path, all that end in _id do.
IDS = {"after", "model"}


def install(app: FastAPI) -> None:
    """Make `app` describe itself so, at /openapi.json too."""
    plain = app.openapi

    def openapi() -> Spec:
        return app.openapi_schema if app.openapi_schema else amend(plain())

    app.openapi = openapi  # type: ignore[method-assign]  # the framework's own way


def amend(document: Spec) -> Spec:
    """The framework's document with all of the above laid over it."""
    paths = document["paths"]
    for (method, path), extra in CALLS.items():
        _lay_over(paths[path][method], extra)
    for call in (call for calls in paths.values() for call in calls.values()):
        for parameter in call.get("parameters", ()):
            _name_id(parameter)
    _join_uploads(paths)
    return document


def _lay_over(call: Spec, extra: Spec) -> None:
    call.setdefault("parameters", []).extend(extra.get("parameters", ()))
    if "requestBody" in extra:
        call["requestBody"] = extra["requestBody"]
    for status, more in extra["responses"].items():
        like = call["responses"].get(more.get("like", status), {})
        answer = call["responses"][status] = {**like, **{name: more[name] for name in more if name != "like"}}
        if more.get("content") is not None:
            answer["content"] = {**like.get("content", {}), **more["content"]}
        elif "content" in more:
            del answer["content"]


def _name_id(parameter: Spec) -> None:
    name, where = parameter["name"], parameter["in"]
    if (where == "path" and name.endswith("_id")) or (where == "query" and name in IDS):
        schema = parameter["schema"]
        for each in schema.get("anyOf", [schema]):
            each.update(UUID_TEXT if each.get("type") == "string" else {})


def _join_uploads(paths: Spec) -> None:
    """One path item for one address: PUT names the file where the other calls name the upload."""
    put = paths.pop("/v1/uploads/{name}")["put"]
    named = next(parameter for parameter in put["parameters"] if parameter["in"] == "path")
    named |= {"name": "upload_id", "description": "the file's name"}
    named["schema"] = {"type": "string", "pattern": f"^{tus.NAME.pattern}$", "maxLength": tus.NAME_MAX}
    paths["/v1/uploads/{upload_id}"]["put"] = put
