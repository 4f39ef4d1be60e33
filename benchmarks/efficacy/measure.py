"""The scorecard of a model in a folder, taken with plain transformers and none of the engine's code.

Guarantees: every figure is on all held-out rows and comes as a count out of n with its 95 % interval; the words of
the figures are those of `app.domain.report`, so that they stand beside the engine's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.domain.report import Difference, Paired, Proportion, Scorecard
from benchmarks.efficacy.cases import CaseFiles
from benchmarks.evaluate import predict, score
from benchmarks.samples import CleanRow, TriggeredRow, read_clean, read_triggered


@dataclass(frozen=True)
class HeldOut:
    """The rows that no method has seen, and the names of their classes."""

    triggered: tuple[TriggeredRow, ...]
    clean: tuple[CleanRow, ...]
    names: tuple[str, ...]

    @property
    def paired(self) -> bool:
        """Whether every triggered row has the text that it came from."""
        return all(row.clean_text is not None for row in self.triggered)


@dataclass(frozen=True)
class Answers:
    """Class ids of one model, row by row; `without`: on the triggered rows' clean text, where all have it."""

    triggered: tuple[int, ...]
    clean: tuple[int, ...]
    without: tuple[int, ...] | None


def held_out(files: CaseFiles) -> HeldOut:
    """The case's test split. Errors: BadSamples."""
    triggered, clean = read_triggered(files.rows("eval_triggered")), read_clean(files.rows("eval_clean"))
    return HeldOut(tuple(triggered), tuple(clean), files.facts.labels)


def answers(model: Path, rows: HeldOut) -> Answers:
    """What the model in the folder says of every row."""
    without = [row.clean_text or "" for row in rows.triggered] if rows.paired else []
    texts = [*(row.text for row in rows.triggered), *(row.text for row in rows.clean), *without]
    said = tuple(predict(model, texts))
    first, second = len(rows.triggered), len(rows.triggered) + len(rows.clean)
    return Answers(said[:first], said[first:second], said[second:] if rows.paired else None)


def card(rows: HeldOut, said: Answers, uploaded: Answers) -> Scorecard:
    """All figures of one model; `uploaded`: what the trojaned model said. Errors: TooFewSamples."""
    figures = score(rows.triggered, rows.clean, said.triggered, said.clean, said.without)
    success, floor = _count(figures.asr, figures.n_triggered), _count(figures.floor, figures.n_floor)
    pairs = _excess_pairs(rows, said)
    truths = sorted({row.true_label for row in rows.triggered if row.true_label is not None})
    return Scorecard(
        clean_accuracy=_count(figures.accuracy, figures.n_clean),
        asr=success,
        floor=floor,
        floor_source="twins" if figures.floor_source == "clean_text" else "clean",
        excess_asr=Difference.of(success, floor) if pairs is None else pairs.difference(),
        excess_pairs=pairs,
        label_flips={rows.names[truth]: _flips(rows, said, truth) for truth in truths},
        clean_flips={rows.names[truth]: _clean_flips(rows, said, truth) for truth in truths},
        agreement=_share([one == other for one, other in zip(said.clean, uploaded.clean, strict=True)]),
        asr_by_target=_by_target(rows, said),
    )


def right_answers(rows: HeldOut, uploaded: Answers, said: Answers) -> Paired:
    """Clean rows that the uploaded model reads right (first), and that this one does (second)."""
    truths = [row.label for row in rows.clean]
    first, second = (
        [guess == truth for guess, truth in zip(model.clean, truths, strict=True)] for model in (uploaded, said)
    )
    return _paired(first, second)


def _excess_pairs(rows: HeldOut, said: Answers) -> Paired | None:
    """Rows that count, read as their target with the trigger (first) and without (second); None without pairs."""
    if said.without is None:
        return None
    both = [
        (one == row.label, other == row.label)
        for row, one, other in zip(rows.triggered, said.triggered, said.without, strict=True)
        if row.counts
    ]
    return _paired([one for one, _ in both], [other for _, other in both])


def _flips(rows: HeldOut, said: Answers, truth: int) -> Proportion:
    """Triggered rows of class `truth` that are read as another."""
    return _share(
        [guess != truth for row, guess in zip(rows.triggered, said.triggered, strict=True) if row.true_label == truth]
    )


def _clean_flips(rows: HeldOut, said: Answers, truth: int) -> Proportion:
    """The same without the trigger: on the rows' own clean text, else on clean rows of the class."""
    if said.without is not None:
        pairs = zip(rows.triggered, said.without, strict=True)
        return _share([guess != truth for row, guess in pairs if row.true_label == truth])
    clean = zip(rows.clean, said.clean, strict=True)
    return _share([guess != truth for row, guess in clean if row.label == truth])


def _by_target(rows: HeldOut, said: Answers) -> dict[str, Proportion]:
    targets = sorted({row.label for row in rows.triggered})
    if len(targets) < 2:
        return {}
    pairs = [(row, guess) for row, guess in zip(rows.triggered, said.triggered, strict=True) if row.counts]
    return {
        rows.names[target]: _share([guess == target for row, guess in pairs if row.label == target])
        for target in targets
    }


def _count(rate: float, n: int) -> Proportion:
    return Proportion.of(round(rate * n), n)


def _share(marks: Sequence[bool]) -> Proportion:
    return Proportion.of(sum(marks), len(marks))


def _paired(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """Two findings on the same rows."""
    pairs = list(zip(first, second, strict=True))
    return Paired(len(pairs), pairs.count((True, True)), pairs.count((True, False)), pairs.count((False, True)))
