"""Files of an upload, judged: the steps of `app.intake.admit` in a sandboxed child, and what they came to.

Guarantees: files are admitted only if the child wrote all of them anew and said what they are; whatever it does
otherwise (a refusal, a crash, a time-out, too much memory, an answer outside the protocol) is a refusal with a rule
id. A fault of ours or of the machine is no verdict, and is raised.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.domain.errors import (
    ChildCrashed,
    ChildFailed,
    ChildMisspoke,
    ChildOutOfMemory,
    ChildTimeout,
    ModelRefused,
)
from app.domain.model import Finding, ModelFacts, Severity
from app.intake.admit import Order
from app.intake.config_keys import FAMILIES
from app.intake.file_names import CONFIG, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS
from app.settings import InspectionSettings
from workers import sandbox
from workers.channel import findings_of, plain
from workers.start import Ahead

FILES = frozenset({CONFIG, WEIGHTS, TOKENIZER, TOKENIZER_CONFIG})
INPUTS = "in"
TICK_SECONDS = 0.5
# What it says of the content when the inspector came to no answer of its own.
RULES: Mapping[type[ChildFailed], str] = {
    ChildCrashed: "SB-CRASH",
    ChildTimeout: "SB-TIMEOUT",
    ChildOutOfMemory: "SB-MEMORY",
    ChildMisspoke: "SB-PROTOCOL",
}


@dataclass(frozen=True, slots=True)
class Admitted:
    """`files` lie in the order's `out` folder, under our names."""

    files: tuple[Path, ...]
    facts: ModelFacts
    notes: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """`failure` is there where the inspector came to no answer: its log is for the operator."""

    findings: tuple[Finding, ...]
    failure: ChildFailed | None = None


def new_order(folder: Path, files: Mapping[str, Path], archive: Path | None, max_bytes: int) -> Order:
    """An order on files that lie in INPUTS of the private `folder`, with the rooms that it needs made there."""
    work, out = folder / "work", folder / "out"
    for room in (work, out):
        room.mkdir()
    return Order(files, archive, work, out, max_bytes)


def judge(
    order: Order,
    folder: Path,
    limits: InspectionSettings,
    on_tick: Callable[[], None] = lambda: None,
    ahead: Ahead | None = None,
) -> Admitted | Refused:
    """Any error but those of the content is raised: it is no verdict."""
    try:
        return _checked(order.out, _ask_child(order, folder, limits, on_tick, ahead))
    except ModelRefused as refused:
        findings: tuple[Finding, ...] = refused.details["findings"]
        return Refused(findings or (Finding("SB-PROTOCOL", Severity.REFUSAL, "", refused.message),))
    except ChildFailed as failed:
        message = f"The inspection came to no answer. {failed.message} Such a file is not admitted."
        rule = RULES.get(type(failed), "SB-CRASH")
        return Refused((Finding(rule, Severity.REFUSAL, "", message),), failed)


def _ask_child(
    order: Order, folder: Path, limits: InspectionSettings, on_tick: Callable[[], None], ahead: Ahead | None
) -> Mapping[str, Any]:
    return sandbox.run(
        "inspect",
        order.to_dict(),
        limits=sandbox.Limits(
            wall_seconds=limits.inspect_seconds,
            memory_bytes=limits.inspect_memory_bytes,
            cpu_seconds=math.ceil(limits.inspect_seconds),
            file_bytes=limits.model_max_bytes,
        ),
        workdir=folder,
        readable=[folder / INPUTS],
        writable=[order.work, order.out],
        without=limits.sandbox_gone_without,
        on_tick=on_tick,
        tick_seconds=TICK_SECONDS,
        ahead=ahead,
    )


def _checked(out: Path, result: Mapping[str, Any]) -> Admitted:
    """Raises ChildMisspoke."""
    facts, notes = _facts(result.get("facts")), _notes(result.get("notes"))
    found = tuple(sorted(out.iterdir()))
    if {file.name for file in found} != FILES or not all(stat.S_ISREG(file.lstat().st_mode) for file in found):
        raise ChildMisspoke("It did not leave the files of a model.")
    return Admitted(found, facts, notes)


def _facts(data: Any) -> ModelFacts:
    match data:
        case {
            "model_type": str(kind),
            "architecture": str(name),
            "labels": list(labels),
            "parameters": int(count),
        } if kind in FAMILIES and FAMILIES[kind].architecture == name and 0 < count < 1 << 48 and len(labels) >= 2:
            return ModelFacts(kind, name, tuple(plain(label, 200) for label in labels), count)
    raise ChildMisspoke("It did not say what the model is.")


def _notes(data: Any) -> tuple[Finding, ...]:
    if not isinstance(data, list):
        raise ChildMisspoke("Its notes are no list.")
    return tuple(finding for finding in findings_of(data) if finding.severity is Severity.NOTE)
