"""A model as Lethe knows it: what was uploaded, what inspection said, and what it was rewritten to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from app.domain.manifest import Manifest

# The one path of a source that is an archive of files.
ARCHIVE = "archive"


class ModelStatus(StrEnum):
    INSPECTING = "inspecting"
    ADMITTED = "admitted"
    REJECTED = "rejected"


class Severity(StrEnum):
    """`refusal` keeps the model out; `note` is said and changes nothing."""

    REFUSAL = "refusal"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule of the intake says of one file; `rule` is stable (for instance ST-DUPLICATE-KEY)."""

    rule: str
    severity: Severity
    file: str
    message: str


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a worker needs to know of an admitted model without opening it. `labels[i]` names class id i."""

    model_type: str
    architecture: str
    labels: tuple[str, ...]
    parameters: int


@dataclass(frozen=True, slots=True)
class Model:
    """`source` is what was uploaded (one archive, or files by path); `manifest` is what Lethe rewrote it to.
    `manifest` and `facts` exist once the model is admitted."""

    id: UUID
    tenant: str
    name: str
    status: ModelStatus
    source: Manifest
    manifest: Manifest | None
    facts: ModelFacts | None
    findings: tuple[Finding, ...]
    metadata: Mapping[str, str]
    token: int
    attempts: int
    created_at: datetime
    inspected_at: datetime | None
