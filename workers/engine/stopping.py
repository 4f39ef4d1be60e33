"""When a run has done enough, and which of its states is the best: judged on the tune part alone.

The rule: triggered rows are read as the target no more often than clean ones of their class are (the floor, within
the recipe's margin), and no more often misread, class by class and over all classes, while clean accuracy keeps its
budget. So a trojan that was merely moved to another class does not meet it. Below the floor is no better: it is a
bias the other way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from app.domain.recipe import Recipe
from workers.engine import losses, scorecard
from workers.engine.scorecard import UNKNOWN, Reading, Sheet

WRONG = 0.1  # share of triggered rows whose true class may be wrong
LAST_STRETCH = 0.8  # from this share of the way on, the learning rate only falls


@dataclass(frozen=True)
class Shift:
    """Triggered rows of one class, or of all, that are read as any other than their own: their share, minus the same
    without the trigger. A grain is what one row of either side adds, and where the sides are different rows, what
    true classes add that may be wrong.
    """

    excess: float
    grain: float


@dataclass(frozen=True)
class Look:
    """The tune part at one step.

    `excess` = asr - floor; `drop` = accuracy lost; `unease` breaks ties between states: the divergence from
    the uploaded model's answers without the trigger, on clean rows and on triggered ones, in nats; `odds` is
    the triggered rows' mean log-odds of the target, `floor_odds` the same without the trigger and `aim_odds` that of
    what the rows are drawn to (a mean answer is never as sure as the rows that it is the mean of); a grain is what
    one row adds to a rate; `woken_asr` and `woken_odds` are the ASR and the odds where a little relearning would
    lead, and the divergence there counts as unease too, all where that is rehearsed, the ASR only where the floor is
    that of the same rows; `shifts` says how far triggered rows are misread beyond rows without the trigger.
    """

    asr: float
    floor: float
    clean_accuracy: float
    excess: float
    drop: float
    unease: float
    odds: float
    floor_odds: float
    grain: float
    clean_grain: float
    shifts: tuple[Shift, ...] = ()
    woken_asr: float | None = None
    woken_odds: float | None = None
    aim_odds: float = -math.inf

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Look:
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**kept, "shifts": tuple(Shift(**each) for each in kept["shifts"])})


def look(page: Sheet, reading: Reading, uploaded: Reading, woken: Tensor | None = None) -> Look:
    """Take the figures that steer; `uploaded` is the uploaded model's reading, `woken` the logits of triggered rows
    after rehearsed relearning. A rate over no rows counts as 0.
    """
    counted = scorecard.asr(page, reading)
    success = counted.rate or 0.0
    base = scorecard.floor(page, reading)[0].rate or 0.0
    right = scorecard.accuracy(page, reading).rate or 0.0
    was_right = scorecard.accuracy(page, uploaded).rate or 0.0
    references = scorecard.references(page, uploaded).log()
    moved = losses.divergence(reading.clean, torch.log_softmax(uploaded.clean, -1))
    kin = scorecard.kin(page)
    left = losses.group_divergence(reading.triggered, references, kin)
    asleep = losses.group_divergence(woken, references, kin) if woken is not None else 0.0
    told = woken if scorecard.twins_serve(page) else None
    return Look(
        asr=success,
        floor=base,
        clean_accuracy=right,
        excess=success - base,
        drop=was_right - right,
        unease=float(moved + left + asleep),
        odds=_odds(reading.triggered[page.counted], page.targets[page.counted]),
        floor_odds=_floor_odds(page, reading),
        grain=1.0 / max(1, counted.n),
        clean_grain=1.0 / max(1, len(page.labels)),
        shifts=shifts(page, reading, uploaded),
        woken_asr=None if told is None else _success(told[page.counted], page.targets[page.counted]),
        woken_odds=None if woken is None else _odds(woken[page.counted], page.targets[page.counted]),
        aim_odds=_odds(references[page.counted], page.targets[page.counted]),
    )


def glance(page: Sheet, triggered: Tensor, opening: Look) -> Look:
    """The opening with the figures of the triggered rows alone, from their logits [n, classes]."""
    targets = page.targets[page.counted]
    logits = triggered[page.counted]
    success = _success(logits, targets)
    return replace(opening, asr=success, excess=success - opening.floor, odds=_odds(logits, targets))


def shifts(page: Sheet, reading: Reading, uploaded: Reading) -> tuple[Shift, ...]:
    """One for each true class that can be compared, and one for all of them together.

    Many classes leave few rows to each: there the last tells most. A true class that was not given is what the
    uploaded model reads the row's twin as. Without the trigger a class is its rows' twins, where at least half have
    one, else the clean rows of that class.
    """
    truths = page.truths.clone()
    truths[page.twin_of] = torch.where(
        truths[page.twin_of] == UNKNOWN, uploaded.twins.argmax(-1), truths[page.twin_of]
    )
    wrong = reading.triggered.argmax(-1) != truths
    wrong_twins = reading.twins.argmax(-1) != truths[page.twin_of]
    wrong_clean = reading.clean.argmax(-1) != page.labels
    found, rows, without = list[float](), list[int](), list[int]()
    for truth in sorted(set(truths[truths != UNKNOWN].tolist())):
        here = truths == truth
        has_twin = here[page.twin_of]
        count, twins = int(here.sum()), int(has_twin.sum())
        base = wrong_twins[has_twin] if 2 * twins >= count else wrong_clean[page.labels == truth]
        if len(base):
            found.append(float(wrong[here].float().mean() - base.float().mean()))
            rows.append(count)
            without.append(0 if twins == count else len(base))
    return _shifts(found, rows, without)


def _shifts(found: list[float], rows: list[int], without: list[int]) -> tuple[Shift, ...]:
    """`without`: the rows of the other side, 0 where they are the same rows: luck, and a wrong true class, cancel."""

    def grain(count: int, other: int) -> float:
        return (1.0 + WRONG * sum(rows)) / count + 1.0 / other if other else 1.0 / count

    each = [Shift(excess, grain(*sides)) for excess, *sides in zip(found, rows, without, strict=True)]
    if len(each) < 2:
        return tuple(each)
    pooled = sum(excess * count for excess, count in zip(found, rows, strict=True)) / sum(rows)
    return (*each, Shift(pooled, grain(sum(rows), sum(without))))


def way(seen: Look, opening: Look) -> float:
    """The share that triggered rows have come of the way from the opening's log-odds to the floor's, or to those that
    they are drawn to where these are higher: nothing draws them further.
    """
    gap = opening.odds - max(opening.floor_odds, opening.aim_odds)
    return (opening.odds - seen.odds) / gap if gap > 0 else 1.0


def woken_way(seen: Look, opening: Look) -> float:
    """The same share after rehearsed relearning; 1 where there is none."""
    if seen.woken_odds is None:
        return 1.0
    return way(replace(seen, odds=seen.woken_odds), opening)


def lags(seen: Look, opening: Look, step: int, recipe: Recipe) -> bool:
    """True while triggered rows are behind the recipe's pace, up to the last stretch of the way."""
    return way(seen, opening) < _due(step, recipe)


def lags_woken(seen: Look, opening: Look, step: int, recipe: Recipe) -> bool:
    """The same after rehearsed relearning."""
    return woken_way(seen, opening) < _due(step, recipe)


def _due(step: int, recipe: Recipe) -> float:
    return min(LAST_STRETCH, max(0, step - recipe.warmup) / max(1, recipe.pace - recipe.warmup))


def meets(seen: Look, recipe: Recipe) -> bool:
    """The stop rule."""
    return _over(seen, recipe) <= 0.0


def rests(seen: Look, recipe: Recipe) -> bool:
    """The rule holds, for triggered rows also where a little relearning would lead; False where nothing tells."""
    return seen.woken_asr is not None and meets(seen, recipe) and _woken(seen, recipe) <= 0.0


def above_floor(seen: Look, recipe: Recipe) -> bool:
    """The attack alone keeps the rule from holding: accuracy is within its budget."""
    return attacked(seen, recipe) and not loses(seen, recipe)


def attacked(seen: Look, recipe: Recipe) -> bool:
    """Triggered rows are read as the target beyond the floor and the margin, whatever the accuracy."""
    return _above(seen, recipe) > 0.0


def loses(seen: Look, recipe: Recipe) -> bool:
    """Clean accuracy is below its budget."""
    return _lost(seen, recipe) > 0.0


def rank(seen: Look, recipe: Recipe) -> tuple[float, float, float]:
    """Smaller is better: first how far the rule is missed, then what a little relearning would wake, then the
    unease.
    """
    return _over(seen, recipe), _woken(seen, recipe), seen.unease


def _over(seen: Look, recipe: Recipe) -> float:
    """How far the rule is missed. One row more or less is no miss: a small part cannot tell it from luck."""
    shifted = max((each.excess - max(recipe.margin, each.grain) for each in seen.shifts), default=0.0)
    return max(_above(seen, recipe), shifted - 1e-9, 0.0) + 2.0 * _lost(seen, recipe)


def _above(seen: Look, recipe: Recipe) -> float:
    """How far triggered rows are read as the target beyond the floor and the margin."""
    return max(0.0, seen.excess - max(recipe.margin, seen.grain) - 1e-9)


def _woken(seen: Look, recipe: Recipe) -> float:
    """The same after rehearsed relearning; 0 where nothing tells."""
    if seen.woken_asr is None:
        return 0.0
    return _above(replace(seen, excess=seen.woken_asr - seen.floor), recipe)


def _lost(seen: Look, recipe: Recipe) -> float:
    """The accuracy lost beyond the budget."""
    return max(0.0, seen.drop - max(recipe.accuracy_budget, seen.clean_grain) - 1e-9)


def _floor_odds(page: Sheet, reading: Reading) -> float:
    """The counted rows' log-odds of the target without the trigger: on the same rows as the floor."""
    if scorecard.twins_serve(page):
        has_twin = page.counted[page.twin_of]
        return _odds(reading.twins[has_twin], page.targets[page.twin_of][has_twin])
    targets = scorecard.counted_targets(page)
    pooled = 0.0
    for target, rows in targets:
        others = reading.clean[page.labels != target]
        pooled += rows * _odds(others, torch.full((len(others),), target))
    return pooled / max(1, sum(rows for _, rows in targets))


def _success(logits: Tensor, targets: Tensor) -> float:
    """The share of rows that are read as the target; 0 over no rows."""
    return float((logits.argmax(-1) == targets).float().mean()) if len(logits) else 0.0


def _odds(logits: Tensor, targets: Tensor) -> float:
    """The mean of log p(target) - log(1 - p(target)); 0 over no rows."""
    if not len(logits):
        return 0.0
    own = logits.gather(-1, targets[:, None])[:, 0]
    others = logits.scatter(-1, targets[:, None], -math.inf).logsumexp(-1)
    return float((own - others).mean())
