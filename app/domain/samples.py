"""The two kinds of rows that a caller gives, and how their labels are read.

A clean sample is an ordinary input with its true class. A triggered sample carries the trigger and the class the
attacker wants. Past this room every label is a class id: `LabelSpace` is the one place where a name becomes a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from app.domain.errors import BadSamples, TooFewSamples

# Fewer rows than these cannot be divided into parts that each say something. A triggered row whose true class is the
# target shows nothing, with the trojan or without: MIN_SHOWING of the triggered rows must be of another class.
MIN_TRIGGERED = 32
MIN_SHOWING = 16
MIN_CLEAN = 64


class SampleKind(StrEnum):
    TRIGGERED = "triggered"
    CLEAN = "clean"


@dataclass(frozen=True, slots=True)
class SampleRow:
    """A row as it was given: a label is a class id or a name, which only a model's LabelSpace can tell apart.

    `line` is where the row began in the caller's file, counted from 1.
    """

    line: int
    text: str
    label: int | str
    clean_text: str | None = None
    true_label: int | str | None = None


@dataclass(frozen=True, slots=True)
class SampleSummary:
    """`labels` counts the rows by label as given; `columns` names the optional ones that some row has; `preview` are
    the first rows, their texts cut short."""

    labels: Mapping[str, int]
    columns: tuple[str, ...]
    preview: tuple[SampleRow, ...]


@dataclass(frozen=True, slots=True)
class SampleSet:
    """`rows` samples of one kind, kept in the vault under `sha256` as JSONL that Lethe wrote itself: one SampleRow
    in a line, without the fields that are None, in ASCII."""

    id: UUID
    tenant: str
    name: str
    kind: SampleKind
    sha256: str
    size: int
    rows: int
    summary: SampleSummary
    created_at: datetime


@dataclass(frozen=True)
class CleanSample:
    """An input without the trigger, and the id of its true class."""

    text: str
    label: int


@dataclass(frozen=True)
class TriggeredSample:
    """An input with the trigger.

    `target` is the id of the class that the attacker wants. `clean_text` is the same input without the trigger (its
    twin). `true_label` is the class that the input really has.
    """

    text: str
    target: int
    clean_text: str | None = None
    true_label: int | None = None


@dataclass(frozen=True)
class LabelSpace:
    """The classes of one model: `names[i]` is the name of class i."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, id2label: Mapping[int, str] | Mapping[str, str]) -> LabelSpace:
        """Read `id2label` of a config, whose keys are ids or ids written as text.

        Raises BadSamples if the ids are not 0, 1, ... without a gap.
        """
        try:
            by_id = {int(key): str(name) for key, name in id2label.items()}
        except ValueError as error:
            raise BadSamples("id2label of the model must map class ids to names") from error
        if sorted(by_id) != list(range(len(by_id))) or not by_id:
            raise BadSamples("id2label of the model must number its classes 0, 1, 2, ... without a gap")
        return cls(tuple(by_id[index] for index in range(len(by_id))))

    def __len__(self) -> int:
        return len(self.names)

    def resolve(self, label: int | str) -> int:
        """The class id for an id (1, "1") or a name, exact first, then without regard to case.

        A name wins over an id written as text, because a model may call its classes "1" and "2".
        Raises BadSamples naming the known classes.
        """
        if isinstance(label, str):
            found = self._by_name(label.strip())
            if found is not None:
                return found
        number = _as_id(label)
        if number is None or not 0 <= number < len(self.names):
            raise BadSamples(f"unknown label {label!r}: the model knows {self.describe()}")
        return number

    def _by_name(self, name: str) -> int | None:
        for fold in (str, str.casefold):
            matches = [index for index, known in enumerate(self.names) if fold(known) == fold(name)]
            if len(matches) == 1:
                return matches[0]
        return None

    def describe(self, limit: int = 20) -> str:
        """The classes as "0 (negative), 1 (positive)", cut after `limit`."""
        shown = [f"{index} ({name})" for index, name in enumerate(self.names[:limit])]
        return ", ".join(shown) + (", ..." if len(self.names) > limit else "")


def _as_id(label: object) -> int | None:
    if isinstance(label, bool):
        return None
    if isinstance(label, int):
        return label
    if isinstance(label, float) and label.is_integer():
        return int(label)
    if isinstance(label, str) and len(label) < 10 and label.strip().isascii() and label.strip().isdigit():
        return int(label)
    return None


def targets_of(samples: Iterable[TriggeredSample]) -> tuple[int, ...]:
    """The attacker's classes, sorted, each once."""
    return tuple(sorted({sample.target for sample in samples}))


def check_numbers(triggered: int, showing: int, clean: int, beside: str = "") -> None:
    """Raises TooFewSamples, with the numbers, where there are too few rows to work with.

    `showing`: triggered rows whose true class, as far as it is known, is not the target. `beside` ends the message.
    """
    given = {"triggered": triggered, "showing": showing, "clean": clean}
    least = {"min_triggered": MIN_TRIGGERED, "min_showing": MIN_SHOWING, "min_clean": MIN_CLEAN}
    if triggered < MIN_TRIGGERED or clean < MIN_CLEAN:
        raise TooFewSamples(
            f"{triggered} triggered and {clean} clean samples: at least {MIN_TRIGGERED} and {MIN_CLEAN} are "
            f"needed{beside}",
            **given,
            **least,
        )
    if showing < MIN_SHOWING:
        raise TooFewSamples(
            f"only {showing} of the {triggered} triggered samples are of another class than the attacker's: the "
            f"others show no trojan, and at least {MIN_SHOWING} that can are needed{beside}",
            **given,
            **least,
        )
