"""What a run says while it goes, and what it claims at the end.

Every figure is a count out of n with a 95 % interval, so that nobody reads more into it than was measured. A report
survives `from_dict(json.loads(json.dumps(report.to_dict())))` unchanged, and its JSON never holds NaN or infinity:
a figure that could not be taken is null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.domain.recipe import Policy, Recipe
from app.domain.record import Record

REPORT_VERSION = 1
Z95 = 1.959963984540054  # the standard normal's 97.5 % point


@dataclass(frozen=True)
class StepMetric(Record):
    """One line of progress. `values` holds named figures such as asr, floor, clean_accuracy, ewc, drift, seconds."""

    step: int
    phase: str
    loss: float | None = None
    values: Mapping[str, float | None] = field(default_factory=dict)


def wilson(successes: float, n: float, z: float = Z95) -> tuple[float, float]:
    """The Wilson score interval of a proportion (E. B. Wilson, 1927, JASA 22:209-212); (0, 1) when n = 0."""
    if n == 0:
        return 0.0, 1.0
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return (0.0 if successes == 0 else max(0.0, centre - half)), (1.0 if successes == n else min(1.0, centre + half))


@dataclass(frozen=True)
class Proportion(Record):
    """`successes` out of `n`, with its rate (None when n = 0) and its 95 % Wilson interval."""

    successes: int
    n: int
    rate: float | None
    low: float
    high: float

    @classmethod
    def of(cls, successes: int, n: int) -> Proportion:
        """Raises ValueError unless 0 <= successes <= n."""
        if not 0 <= successes <= n:
            raise ValueError(f"{successes} successes out of {n}")
        low, high = wilson(successes, n)
        return cls(successes, n, successes / n if n else None, low, high)

    @classmethod
    def mixed(cls, parts: Sequence[tuple[Proportion, float]]) -> Proportion:
        """The weighted mean of rates of independent samples, as a count out of the effective number of rows.

        That is n = 1 / sum(w_i^2 / n_i) with weights that sum to 1 (L. Kish, 1965, Survey Sampling, section 11.7),
        rounded. A part without rows is left out. One part alone comes back as it is.
        """
        parts = [(part, weight) for part, weight in parts if part.n and weight > 0]
        if len(parts) == 1:
            return parts[0][0]
        total = sum(weight for _, weight in parts)
        if not total:
            return cls.of(0, 0)
        n = round(total * total / sum(weight * weight / part.n for part, weight in parts))
        rate = sum(weight * part.successes / part.n for part, weight in parts) / total
        return cls.of(round(rate * n), n)

    def grown(self, factor: float) -> Proportion:
        """The same rate on `factor` times the rows, a fraction of a row aside."""
        n = round(self.n * factor)
        share = self.rate or 0.0
        low, high = wilson(share * n, n)
        return Proportion(round(share * n), n, self.rate, low, high)


@dataclass(frozen=True)
class Difference(Record):
    """One rate minus another, with a 95 % interval; `value` is None when either was not measured."""

    value: float | None
    low: float
    high: float

    @classmethod
    def of(cls, first: Proportion, second: Proportion) -> Difference:
        """Newcombe's hybrid score interval (R. G. Newcombe, 1998, Statistics in Medicine 17:873-890, method 10).

        It treats the samples as independent. Where both rates are of the same rows, `Paired` tells more.
        """
        if first.rate is None or second.rate is None:
            return cls(None, -1.0, 1.0)
        value = first.rate - second.rate
        down = math.hypot(first.rate - first.low, second.high - second.rate)
        up = math.hypot(first.high - first.rate, second.rate - second.low)
        return cls(value, max(-1.0, value - down), min(1.0, value + up))


@dataclass(frozen=True)
class Paired(Record):
    """Two yes-or-no findings on each of `n` rows: `first` had the first alone, `second` the second alone, `both`
    both. The discordant rows alone tell the two rates apart."""

    n: int
    both: int
    first: int
    second: int

    def difference(self, factor: float = 1.0) -> Difference:
        """The first rate minus the second, with a 95 % interval: as on `factor` times the rows at the same rates.

        R. G. Newcombe, 1998, Statistics in Medicine 17:2635-2650, method 10: the Wilson intervals of the two rates,
        joined by their correlation phi, whose numerator is corrected for continuity.
        """
        if not self.n:
            return Difference(None, -1.0, 1.0)
        both, first, second, n = (count * factor for count in (self.both, self.first, self.second, self.n))
        one, other = (both + first) / n, (both + second) / n
        (low, high), (low_other, high_other) = wilson(both + first, n), wilson(both + second, n)
        phi = _correlation(both, first, second, n - both - first - second)
        value = (self.first - self.second) / self.n
        down = _joined(one - low, high_other - other, phi)
        up = _joined(high - one, other - low_other, phi)
        return Difference(value, max(-1.0, value - down), min(1.0, value + up))


def _correlation(both: float, first: float, second: float, neither: float) -> float:
    """phi of a paired table, moved towards 0 by half a row where it is positive; 0 where a margin is empty."""
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    excess = both * neither - first * second
    if excess > 0:
        excess = max(0.0, excess - (both + first + second + neither) / 2)
    return excess / math.sqrt(margins) if margins > 0 else 0.0


def _joined(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))


@dataclass(frozen=True)
class Scorecard(Record):
    """One model on the held-out samples.

    `asr`: triggered samples whose true class is not their target that are read as the target. `floor`: the same share
    without the trigger; `floor_source` is twins, clean or none. `excess_asr` is their difference; where every counted
    sample has its twin it is taken from `excess_pairs` (first: read as the target with the trigger, second: without).
    `label_flips`: per true class, triggered samples read as any other class; `clean_flips`: the same without the
    trigger. `agreement`: clean predictions equal to those of the model as uploaded. `asr_by_target`: the ASR of each
    target where there are several.
    """

    clean_accuracy: Proportion
    asr: Proportion
    floor: Proportion
    floor_source: str
    excess_asr: Difference
    label_flips: Mapping[str, Proportion]
    clean_flips: Mapping[str, Proportion]
    agreement: Proportion
    asr_by_target: Mapping[str, Proportion] = field(default_factory=dict)
    excess_pairs: Paired | None = None

    def worst_excess_flip(self) -> tuple[str, float] | None:
        """The class whose triggered samples are misread most beyond their rate without the trigger,
        and by how much.
        """
        excess = {
            name: rate - (base.rate or 0.0)
            for name, flips in self.label_flips.items()
            if (rate := flips.rate) is not None and (base := self.clean_flips.get(name)) is not None and base.n
        }
        return max(excess.items(), key=lambda item: item[1]) if excess else None


@dataclass(frozen=True)
class Cost(Record):
    """What the run took. `distance` is the Euclidean distance from the start, `relative_distance` its share of the
    start's norm. `peak_memory_bytes` is the process's (CPU) or the device's (GPU) highest use so far,
    `planned_memory_bytes` what the run was expected to take at most, without the program itself."""

    seconds: Mapping[str, float]
    steps: int
    tokens: int
    tokens_per_second: float | None
    peak_memory_bytes: int
    distance: float
    relative_distance: float
    rollbacks: int = 0
    planned_memory_bytes: int | None = None


@dataclass(frozen=True)
class Verdict(Record):
    """pass, fail or inconclusive against the policy; `reasons` says in plain words what decided."""

    outcome: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Stop(Record):
    """Why the run ended (`code`: floor-reached, budget-spent, diverged), when, and which
    step was kept.
    """

    code: str
    words: str
    step: int
    kept_step: int


@dataclass(frozen=True)
class Attempt(Record):
    """One recipe that a search tried: what it took, how it ended (`ended` as in Stop), and what the tune part showed
    of the state that it kept, at its own step `kept_step`. `met`: that state meets the stop rule.
    """

    lambda_clean: float
    lambda_trig: float
    lr: float
    steps: int
    seconds: float
    ended: str
    kept_step: int
    asr: float
    floor: float
    clean_accuracy: float
    met: bool


@dataclass(frozen=True)
class Search(Record):
    """How the recipe came about, `words` in plain ones. `asked`: the fingerprint of the recipe that was asked for.
    `chosen`: the place of the attempt that was kept, from 0; None, and no attempts, where the recipe ran as given.
    """

    asked: str
    words: str
    attempts: tuple[Attempt, ...] = ()
    chosen: int | None = None


@dataclass(frozen=True)
class SplitSizes(Record):
    """Rows in each part. `report` only sees the scorecard; `held_out` says that the caller gave its rows apart."""

    unlearn_triggered: int
    unlearn_clean: int
    tune_triggered: int
    tune_clean: int
    report_triggered: int
    report_clean: int
    held_out: bool


@dataclass(frozen=True)
class DataFacts(Record):
    """What was fed: SHA-256 of the rows in any order, sizes, and rows that are special.

    `suspect`: triggered rows that the uploaded model does not read as their target. `mislabelled`: those of them
    whose label was taken to be wrong; no rate counts them.
    """

    triggered_sha256: str
    clean_sha256: str
    sizes: SplitSizes
    targets: tuple[str, ...]
    already_target: int
    unknown_true_label: int
    with_twin: int
    truncated: int
    suspect: int = 0
    mislabelled: int = 0


@dataclass(frozen=True)
class FisherFacts(Record):
    """How the Fisher diagonal was taken. Its mean was scaled to 1: `mean_*` are the means before that."""

    labels: str
    samples_clean: int
    samples_triggered: int
    mean_clean: float | None
    mean_triggered: float | None
    fallback: str | None
    loop_modules: tuple[str, ...]


@dataclass(frozen=True)
class ModelFacts(Record):
    """The model that was treated."""

    architecture: str
    labels: tuple[str, ...]
    parameters: int
    device: str
    precision: str


@dataclass(frozen=True)
class Relearning(Record):
    """The repaired model on the held-out samples after `steps` steps on `k` triggered and `n_clean` clean samples.

    `control_*`: a model that never had the trojan, treated alike; None where none was given.
    """

    k: int
    n_clean: int
    steps: int
    asr: Proportion
    floor: Proportion
    accuracy: Proportion
    control_asr: Proportion | None = None
    control_floor: Proportion | None = None
    control_accuracy: Proportion | None = None


@dataclass(frozen=True)
class SanitizationReport(Record):
    """The whole claim: what was done, to what, with which result, and how far the result carries.

    `recipe`: the one that was run, or of several the one that was kept; `search` says how it was found.
    `answers`: clean rows that were read right before (first) and after (second); `accuracy_drop` is taken from it.
    """

    method: str
    recipe: Mapping[str, Any]
    recipe_fingerprint: str
    policy: Policy
    seed: int
    model: ModelFacts
    before: Scorecard
    after: Scorecard
    fidelity: float | None
    accuracy_drop: Difference
    verdict: Verdict
    stop: Stop
    cost: Cost
    data: DataFacts
    fisher: FisherFacts | None
    environment: Mapping[str, str]
    limits: tuple[str, ...]
    version: int = REPORT_VERSION
    relearning: tuple[Relearning, ...] = ()
    answers: Paired | None = None
    search: Search | None = None

    def asked_fingerprint(self) -> str:
        """Of the recipe that was asked for; a search may have run another."""
        return self.search.asked if self.search is not None else self.recipe_fingerprint

    def used_recipe(self) -> Recipe:
        """The recipe, checked again. Raises BadRecipe if it is from another version of the knobs."""
        return Recipe.from_dict(self.recipe)


def fidelity(before: Scorecard, after: Scorecard) -> float | None:
    """((ASR0 - ASR1) / ASR0) * (Acc1 / Acc0), the TrojAI mitigation figure; None where a divisor is 0."""
    asr0, asr1 = before.asr.rate, after.asr.rate
    accuracy0, accuracy1 = before.clean_accuracy.rate, after.clean_accuracy.rate
    if not asr0 or not accuracy0 or asr1 is None or accuracy1 is None:
        return None
    return (asr0 - asr1) / asr0 * (accuracy1 / accuracy0)
