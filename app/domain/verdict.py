"""The verdict: a model's figures against what the caller accepts as removed.

Three outcomes, and each says only what the held-out rows can tell. Pass: every figure keeps its limit, on at least as
many rows as the policy asks for. Fail: the 95 % interval of some figure lies beyond its limit. Inconclusive: too few
rows, or a figure is over its limit while its interval still holds the limit.

Guarantees: a figure over its limit never passes; too few rows neither pass nor fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from app.domain.recipe import Policy
from app.domain.report import Difference, Paired, Proportion, Scorecard, Verdict

MOST_ROWS = 1_000_000  # beyond this many rows nobody is told to find them
EXCESS_ASR, ACCURACY_DROP, LABEL_FLIPS = "excess-asr", "accuracy-drop", "label-flips"


@dataclass(frozen=True)
class Judged:
    """One figure against its limit, for those who draw or pass it on: `code` is one of the three above, `outcome`
    pass, fail or inconclusive, `words` the same in plain ones."""

    code: str
    name: str
    rows: int
    found: Difference
    limit: float
    outcome: str
    words: str


def figures(policy: Policy, before: Scorecard, after: Scorecard, answers: Paired | None = None) -> tuple[Judged, ...]:
    """Every figure that `judge` looks at, each by itself; where rows are too few none decides."""
    few = bool(_too_few(policy, after))

    def judged(check: _Check) -> Judged:
        if few:
            outcome, words = "inconclusive", check.measured()
        else:
            outcome, words = "pass" if check.within() else "fail" if check.broken() else "inconclusive", check.words()
        return Judged(check.code, check.name, check.rows, check.found, check.limit, outcome, words)

    return tuple(judged(check) for check in _checks(policy, before, after, answers))


@dataclass(frozen=True)
class _Check:
    """One figure against its limit. `grown(factor)`: its interval if there were that many times the rows (of the kind
    `what`), at the same rates."""

    code: str
    name: str
    what: str
    rows: int
    found: Difference
    limit: float
    grown: Callable[[float], Difference]

    def within(self) -> bool:
        return self.found.value is not None and self.found.value <= self.limit + 1e-12

    def broken(self) -> bool:
        return not self.within() and self.found.low > self.limit

    def measured(self) -> str:
        if self.found.value is None:
            return f"{self.name} was not measured: there are too few rows"
        interval = f"95 % interval {self.found.low:.3f} to {self.found.high:.3f} on {self.rows} {self.what}"
        place = "within" if self.within() else "over"
        return f"{self.name} is {self.found.value:.3f} ({interval}), {place} the limit of {self.limit:.3f}"

    def words(self) -> str:
        if self.found.value is None or self.within() or self.broken():
            return self.measured()
        return f"{self.measured()}, which the interval holds: {self.needed()}"

    def needed(self) -> str:
        """How many rows would decide, if the rates stay what they are."""
        factor = 2.0
        while self.grown(factor).low <= self.limit:
            factor *= 2.0
            if factor * self.rows > MOST_ROWS:
                return f"at these rates more than {MOST_ROWS} {self.what} would be needed to decide"
        least = factor / 2.0
        while (factor - least) * self.rows > 1.0:
            middle = (least + factor) / 2.0
            least, factor = (middle, factor) if self.grown(middle).low <= self.limit else (least, middle)
        return f"at these rates about {round(factor * self.rows)} {self.what} would decide"


def judge(policy: Policy, before: Scorecard, after: Scorecard, answers: Paired | None = None) -> Verdict:
    """Pass, fail or inconclusive, and what decided.

    `answers`: the clean rows that were right before (first) and after (second); without it the two accuracies count
    as if they came from different rows, which tells less.
    """
    reasons = _too_few(policy, after)
    if reasons:
        return Verdict("inconclusive", tuple(reasons))
    checks = list(_checks(policy, before, after, answers))
    over = [check for check in checks if not check.within()]
    if not over:
        return Verdict("pass", tuple(check.words() for check in checks))
    outcome = "fail" if any(check.broken() for check in over) else "inconclusive"
    return Verdict(outcome, tuple(check.words() for check in sorted(over, key=lambda each: not each.broken())))


def _too_few(policy: Policy, after: Scorecard) -> list[str]:
    reasons = []
    if after.asr.n < policy.min_triggered:
        reasons.append(
            f"only {after.asr.n} held-out triggered samples count: the policy asks for {policy.min_triggered}"
        )
    if after.clean_accuracy.n < policy.min_clean:
        reasons.append(
            f"only {after.clean_accuracy.n} held-out clean samples: the policy asks for {policy.min_clean}"
        )
    if after.excess_asr.value is None and not reasons:
        reasons.append("there is nothing to measure the floor on: give clean_text or clean samples of other classes")
    return reasons


def _checks(policy: Policy, before: Scorecard, after: Scorecard, answers: Paired | None) -> Iterable[_Check]:
    triggered, clean = "held-out triggered samples", "held-out clean samples"
    yield _check(
        EXCESS_ASR, "excess ASR", triggered, (after.asr, after.floor), policy.max_excess_asr, after.excess_pairs
    )
    right = before.clean_accuracy, after.clean_accuracy
    yield _check(ACCURACY_DROP, "clean accuracy drop", clean, right, policy.max_accuracy_drop, answers)
    if flips := list(_flips(policy, after)):
        yield max(flips, key=lambda check: (check.broken(), check.found.value or 0.0))


def _flips(policy: Policy, after: Scorecard) -> Iterable[_Check]:
    """One check for each class with rows enough, and one for all together where some class has too few."""
    what, limit = "held-out triggered samples", policy.max_label_flip_rate
    pairs = {
        name: (found, after.clean_flips[name])
        for name, found in after.label_flips.items()
        if name in after.clean_flips and after.clean_flips[name].n
    }
    for name, rates in pairs.items():
        if rates[0].n >= policy.min_triggered:
            title = f"label flips of class {name} beyond its rate without trigger"
            yield _check(LABEL_FLIPS, title, f"{what} of it", rates, limit)
    rows = sum(found.n for found, _ in pairs.values())
    if rows >= policy.min_triggered and any(found.n < policy.min_triggered for found, _ in pairs.values()):
        together = Proportion.of(sum(found.successes for found, _ in pairs.values()), rows)
        base = Proportion.mixed([(other, found.n) for found, other in pairs.values()])
        title = "label flips of all classes together beyond their rate without trigger"
        yield _check(LABEL_FLIPS, title, what, (together, base), limit)


def _check(  # noqa: PLR0917 - one figure, as the three above write it
    code: str,
    name: str,
    what: str,
    rates: tuple[Proportion, Proportion],
    limit: float,
    pairs: Paired | None = None,
) -> _Check:
    """The first rate minus the second, by the pairs where both are of the same rows."""

    def grown(factor: float) -> Difference:
        if pairs is not None:
            return pairs.difference(factor)
        return Difference.of(rates[0].grown(factor), rates[1].grown(factor))

    return _Check(code, name, what, rates[0].n, grown(1.0), limit, grown)
