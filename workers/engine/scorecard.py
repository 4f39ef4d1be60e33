"""What a model does with a set of rows, as counts.

Which triggered rows count for the ASR: those whose true class is not their target. Where the true class was not
given, a row is left out if the uploaded model reads its clean twin as the target already; with neither, it counts,
unless its label is plainly not the attacker's. A row that counts need not show the trojan: the
uploaded model may read it as another class than its target. Such a row takes no ascent and does not steer (`showing`,
`steering`), but the scorecard counts it like any other.
The floor is the same share on the twins, where at least half of the counted rows have one; else on clean rows whose
class is not the target, each target with the weight that it has among the counted rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from app.domain.report import Difference, Paired, Proportion, Scorecard
from app.domain.samples import LabelSpace
from workers.engine.batches import Tokens, predict, tokenize
from workers.engine.loading import Checkpoint, Model
from workers.engine.losses import NEVER
from workers.engine.splits import Rows

UNKNOWN = -1


@dataclass(frozen=True)
class Sheet:
    """Rows as tokens. triggered: n, with targets, truths (-1: not given) and counted, all [n]; twin_of: the triggered
    row of each twin; clean: m, with labels [m]."""

    triggered: Tokens
    targets: Tensor
    truths: Tensor
    counted: Tensor
    twins: Tokens
    twin_of: Tensor
    clean: Tokens
    labels: Tensor

    @property
    def truncated(self) -> int:
        """Rows that were cut to the model's length."""
        return self.triggered.truncated + self.clean.truncated


@dataclass(frozen=True)
class Reading:
    """A model's logits on a sheet: triggered [n, classes], twins [t, classes], clean [m, classes]."""

    triggered: Tensor
    twins: Tensor
    clean: Tensor

    def moved(self, shift: Tensor) -> Reading:
        """With the same number per class, [classes], added to each logit."""
        return Reading(self.triggered + shift, self.twins + shift, self.clean + shift)

    def finite(self) -> bool:
        """True if every logit is a number."""
        return all(bool(torch.isfinite(logits).all()) for logits in (self.triggered, self.twins, self.clean))


def sheet(checkpoint: Checkpoint, rows: Rows, max_length: int) -> Sheet:
    """Tokenize the rows. `counted` is not final before `count_rows`."""
    twins = [place for place, row in enumerate(rows.triggered) if row.clean_text is not None]
    truths = [UNKNOWN if row.true_label is None else row.true_label for row in rows.triggered]
    targets = torch.tensor([row.target for row in rows.triggered], dtype=torch.long)
    return Sheet(
        triggered=tokenize(checkpoint, [row.text for row in rows.triggered], max_length),
        targets=targets,
        truths=torch.tensor(truths, dtype=torch.long),
        counted=torch.tensor(truths, dtype=torch.long) != targets,
        twins=tokenize(checkpoint, [rows.triggered[place].clean_text or "" for place in twins], max_length),
        twin_of=torch.tensor(twins, dtype=torch.long),
        clean=tokenize(checkpoint, [row.text for row in rows.clean], max_length),
        labels=torch.tensor([row.label for row in rows.clean], dtype=torch.long),
    )


def count_rows(page: Sheet, uploaded: Reading) -> Sheet:
    """The sheet with the rows left out whose true class is unknown and whose twin the uploaded model
    calls the target, or whose label is plainly wrong.
    """
    counted = page.counted.clone()
    of_target = uploaded.twins.argmax(-1) == page.targets[page.twin_of]
    unknown = page.truths[page.twin_of] == UNKNOWN
    counted[page.twin_of[of_target & unknown]] = False
    return replace(page, counted=counted & ~_mislabelled(replace(page, counted=counted), uploaded))


def _mislabelled(page: Sheet, uploaded: Reading) -> Tensor:
    """Rows of which nothing is known but a label that is plainly not the attacker's, [n].

    They have neither true class nor twin, and the uploaded model reads them as a forced class (one that it reads at
    least half of the rows with this target as) which is not their target. To count them would take a repaired model's
    right answer for a success of the attack.
    """
    called = uploaded.triggered.argmax(-1)
    forced = torch.zeros(uploaded.triggered.shape[-1], dtype=torch.bool)
    for target, rows in counted_targets(page):
        hits = int((page.counted & (page.targets == target) & (called == target)).sum())
        forced[target] = 2 * hits >= rows
    return unexplained(page) & (called != page.targets) & forced[called]


def mislabelled(page: Sheet) -> Tensor:
    """Rows that `count_rows` left out for their label, [n]: it leaves out no other row that is unexplained."""
    return unexplained(page) & ~page.counted


def unexplained(page: Sheet) -> Tensor:
    """Rows with neither a true class nor a twin, [n]."""
    found = page.truths == UNKNOWN
    found[page.twin_of] = False
    return found


def showing(page: Sheet, uploaded: Reading) -> Tensor:
    """Counted rows that show the trojan, [n]: the uploaded model reads them as their target. All counted rows where
    none does.
    """
    shown = page.counted & (uploaded.triggered.argmax(-1) == page.targets)
    return shown if bool(shown.any()) else page.counted


def steering(page: Sheet, uploaded: Reading) -> Sheet:
    """The sheet with the rows alone counted that show the trojan."""
    return replace(page, counted=showing(page, uploaded))


def read(model: Model, page: Sheet, batch: int) -> Reading:
    """The model's logits on every row."""
    return Reading(
        predict(model, page.triggered, batch), predict(model, page.twins, batch), predict(model, page.clean, batch)
    )


def asr(page: Sheet, reading: Reading, target: int | None = None) -> Proportion:
    """Counted triggered rows (of one target) that are read as their target."""
    counted = page.counted if target is None else page.counted & (page.targets == target)
    return _share(reading.triggered.argmax(-1) == page.targets, counted)


def floor(page: Sheet, reading: Reading) -> tuple[Proportion, str]:
    """The same share without the trigger, and where it was measured: twins, clean or none."""
    if twins_serve(page):
        hits = reading.twins.argmax(-1) == page.targets[page.twin_of]
        return _share(hits, page.counted[page.twin_of]), "twins"
    called = reading.clean.argmax(-1)
    found = Proportion.mixed(
        [(_share(called == target, page.labels != target), rows) for target, rows in counted_targets(page)]
    )
    return found, "clean" if found.n else "none"


def twins_serve(page: Sheet) -> bool:
    """True if at least half of the counted rows have a twin."""
    with_twin = int(page.counted[page.twin_of].sum())
    return with_twin > 0 and 2 * with_twin >= int(page.counted.sum())


def counted_targets(page: Sheet) -> list[tuple[int, int]]:
    """The targets of counted rows, and how many of these rows each has."""
    targets = page.targets[page.counted]
    return [(target, int((targets == target).sum())) for target in _distinct(targets)]


def accuracy(page: Sheet, reading: Reading) -> Proportion:
    """Clean rows that are read as their class."""
    return _share(reading.clean.argmax(-1) == page.labels)


def answers(page: Sheet, uploaded: Reading, reading: Reading) -> Paired:
    """Clean rows that the uploaded model read right (first), and that this one does (second)."""
    return _paired(uploaded.clean.argmax(-1) == page.labels, reading.clean.argmax(-1) == page.labels)


def excess_pairs(page: Sheet, reading: Reading) -> Paired | None:
    """Counted rows that are read as their target with the trigger (first), and on their twin (second); None unless
    each has its twin.
    """
    has_twin = page.counted[page.twin_of]
    if not has_twin.any() or int(has_twin.sum()) < int(page.counted.sum()):
        return None
    rows = page.twin_of[has_twin]
    hits = reading.triggered.argmax(-1)[rows] == page.targets[rows]
    return _paired(hits, reading.twins.argmax(-1)[has_twin] == page.targets[rows])


def references(page: Sheet, uploaded: Reading) -> Tensor:
    """What each triggered row should be read as, [n, classes]: the uploaded model's probabilities without the
    trigger.

    Those of the row's own twin; without one, the mean over the clean rows of its true class. Without that too: the
    row's own probabilities, with the target's put to its mean over the clean rows of other classes (0 if there are
    none). The mean over those rows themselves would be no answer where the classes are many: it favours none.
    """
    clean = torch.softmax(uploaded.clean, -1)
    found = torch.empty(len(page.triggered), clean.shape[-1])
    for row, (truth, target) in enumerate(zip(page.truths.tolist(), page.targets.tolist(), strict=True)):
        alike, others = page.labels == truth, page.labels != target
        if bool(alike.any()):
            found[row] = clean[alike].mean(0)
        else:
            usual = clean[others, target].mean() if bool(others.any()) else torch.tensor(0.0)
            found[row] = _without(uploaded.triggered[row], target) * (1.0 - usual)
            found[row, target] = usual
    found[page.twin_of] = torch.softmax(uploaded.twins, -1)
    return found.clamp_min(NEVER)


def kin(page: Sheet) -> Tensor:
    """Of each triggered row the class whose mean answer is its reference, int64 [n]; -1: a reference of its own."""
    found = torch.where(torch.isin(page.truths, page.labels), page.truths, UNKNOWN)
    found[page.twin_of] = UNKNOWN
    return found


def _without(logits: Tensor, target: int) -> Tensor:
    """Probabilities over the other classes, [classes], with 0 for the target."""
    others = logits.clone()
    others[target] = -torch.inf
    return torch.softmax(others, -1)


def card(page: Sheet, reading: Reading, uploaded: Reading, labels: LabelSpace) -> Scorecard:
    """All figures of one model; `uploaded` is the reading of the model as it came."""
    success, (base, source) = asr(page, reading), floor(page, reading)
    targets = _distinct(page.targets)
    flips, clean_flips = _flips(page, reading, labels)
    pairs = excess_pairs(page, reading)
    return Scorecard(
        clean_accuracy=accuracy(page, reading),
        asr=success,
        floor=base,
        floor_source=source,
        excess_asr=pairs.difference() if pairs else Difference.of(success, base),
        excess_pairs=pairs,
        label_flips=flips,
        clean_flips=clean_flips,
        agreement=_share(reading.clean.argmax(-1) == uploaded.clean.argmax(-1)),
        asr_by_target={labels.names[t]: asr(page, reading, t) for t in targets} if len(targets) > 1 else {},
    )


def _flips(page: Sheet, reading: Reading, labels: LabelSpace) -> tuple[dict[str, Proportion], dict[str, Proportion]]:
    """Per true class: triggered rows read as another class, and the same on their twins, else on clean rows."""
    triggered, twins, clean = (logits.argmax(-1) for logits in (reading.triggered, reading.twins, reading.clean))
    with_trigger, without = {}, {}
    for truth in _distinct(page.truths[page.truths != UNKNOWN]):
        name, here = labels.names[truth], page.truths == truth
        with_trigger[name] = _share(triggered != truth, here)
        twin_here = here[page.twin_of]
        if 2 * int(twin_here.sum()) >= int(here.sum()):
            without[name] = _share(twins != truth, twin_here)
        else:
            without[name] = _share(clean != truth, page.labels == truth)
    return with_trigger, without


def _share(hits: Tensor, among: Tensor | None = None) -> Proportion:
    chosen = hits if among is None else hits[among]
    return Proportion.of(int(chosen.sum()), len(chosen))


def _paired(first: Tensor, second: Tensor) -> Paired:
    """Two findings, bool [n], on the same rows."""
    return Paired(len(first), int((first & second).sum()), int((first & ~second).sum()), int((second & ~first).sum()))


def _distinct(labels: Tensor) -> list[int]:
    return sorted(set(labels.tolist()))
