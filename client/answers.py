"""What the service answers, as frozen dataclasses. Members that this version does not know are passed over, so that a
newer service does not break an older client; a member that is missing raises KeyError."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Upload:
    """`received` of `size` bytes are stored; `sha256` is there once all are."""

    id: str
    name: str
    size: int
    received: int
    sha256: str | None

    @classmethod
    def of(cls, data: Json) -> Self:
        return cls(data["id"], data["name"], data["size"], data["received"], data["sha256"])


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule of the intake says of one file; `severity` is refusal or note."""

    rule: str
    severity: str
    file: str
    message: str

    @classmethod
    def of(cls, data: Json) -> Self:
        return cls(data["rule"], data["severity"], data["file"], data["message"])


@dataclass(frozen=True, slots=True)
class Model:
    """`status` is inspecting, admitted or rejected; `findings` say why."""

    id: str
    name: str
    status: str
    findings: tuple[Finding, ...]
    raw: Json

    @property
    def done(self) -> bool:
        return self.status != "inspecting"

    @classmethod
    def of(cls, data: Json) -> Self:
        findings = tuple(Finding.of(each) for each in data["findings"])
        return cls(data["id"], data["name"], data["status"], findings, data)


@dataclass(frozen=True, slots=True)
class Samples:
    """A set of `rows` samples; `kind` is triggered or clean."""

    id: str
    kind: str
    rows: int
    raw: Json

    @classmethod
    def of(cls, data: Json) -> Self:
        return cls(data["id"], data["kind"], data["rows"], data)


@dataclass(frozen=True)
class JobFacts:
    """`progress` is a share from 0 to 1. `failure` holds code and message of a job that has no result. `etag` names
    this version of the job; waiting asks for a later one. `raw` is the whole answer."""

    id: str
    status: str
    done: bool
    phase: str | None
    progress: float
    verdict: str | None
    failure: tuple[str, str] | None
    etag: str
    raw: Json

    @classmethod
    def read(cls, answer: Any) -> Self:
        """From a response of the service."""
        return cls.of(answer.json(), answer.headers["ETag"])

    @classmethod
    def of(cls, data: Json, etag: str) -> Self:
        failure = (data["failure"]["code"], data["failure"]["message"]) if data["failure"] else None
        return cls(
            data["id"],
            data["status"],
            data["done"],
            data["phase"],
            data["progress"],
            data["verdict"],
            failure,
            etag,
            data,
        )


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a job's history; `kind` is status, phase or metric, and `id` its number."""

    id: int
    kind: str
    data: Json


@dataclass(frozen=True, slots=True)
class ArtifactFile:
    """A file of the repaired model, and where to get it."""

    path: str
    size: int
    sha256: str
    href: str

    @classmethod
    def of(cls, data: Json) -> Self:
        return cls(data["path"], data["size"], data["sha256"], data["href"])


@dataclass(frozen=True, slots=True)
class Key:
    """An API key. `secret` is the whole key, told once, when it is made or rotated."""

    id: str
    name: str
    scopes: tuple[str, ...]
    expires_at: str | None
    secret: str | None
    raw: Json

    @classmethod
    def of(cls, data: Json) -> Self:
        return cls(data["id"], data["name"], tuple(data["scopes"]), data["expires_at"], data.get("key"), data)
