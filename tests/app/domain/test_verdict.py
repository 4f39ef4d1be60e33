"""The verdict says what the rows can tell, and no more."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.recipe import Policy
from app.domain.report import Difference, Paired, Proportion, Scorecard
from app.domain.verdict import ACCURACY_DROP, EXCESS_ASR, figures, judge
from tests.app.domain.test_report import card

BEFORE = card(100, 10, 90)
LENIENT = Policy.of({"min_triggered": 1, "min_clean": 1})


@pytest.mark.parametrize(
    ("after", "outcome", "word"),
    [
        (card(15, 10, 90), "pass", "excess ASR"),
        (card(16, 10, 90), "inconclusive", "excess ASR"),
        (card(40, 10, 90), "fail", "excess ASR"),
        (card(10, 10, 87), "inconclusive", "accuracy drop"),
        (card(10, 10, 70), "fail", "accuracy drop"),
        (card(10, 10, 90, flips=6), "inconclusive", "label flips of class negative"),
        (card(10, 10, 90, flips=20), "fail", "label flips of class negative"),
        (card(1, 1, 9, n=10), "inconclusive", "held-out triggered"),
        (card(9, 1, 1, n=10), "inconclusive", "held-out clean"),
    ],
)
def test_outcomes(after: Scorecard, outcome: str, word: str) -> None:
    verdict = judge(Policy.of(), BEFORE, after)
    assert verdict.outcome == outcome
    assert any(word in reason for reason in verdict.reasons)


def test_three_of_ninety_rows_lost_do_not_tell() -> None:
    before, after = card(90, 9, 80, n=90), card(9, 9, 77, n=90)
    verdict = judge(Policy.of(), before, after, Paired(90, 77, 3, 0))
    assert verdict.outcome == "inconclusive"
    assert len(verdict.reasons) == 1
    assert "clean accuracy drop is 0.033 (95 % interval -0.015 to 0.089 on 90" in verdict.reasons[0]
    assert "would decide" in verdict.reasons[0]


def test_pairs_decide_where_independent_samples_could_not() -> None:
    """Forty of 1000 rows lost and none won: the two accuracies alone could still be chance."""
    before, after = card(1000, 0, 900, n=1000), card(0, 0, 860, n=1000)
    assert judge(LENIENT, before, after).outcome == "inconclusive"
    assert judge(LENIENT, before, after, Paired(1000, 860, 40, 0)).outcome == "fail"
    over = card(85, 20, 900, n=1000)
    assert judge(LENIENT, before, over).outcome == "inconclusive"
    paired = replace(over, excess_pairs=Paired(1000, 20, 65, 0))
    assert judge(LENIENT, before, paired).outcome == "fail"


@given(st.integers(3, 30), st.integers(0, 5), st.integers(50, 200))
def test_as_many_rows_as_it_asks_for_do_decide(lost: int, won: int, rest: int) -> None:
    """At the same rates: that many rows fail, and a tenth fewer do not."""
    n = lost + won + rest
    pairs = Paired(n, rest, lost, won)
    cards = [replace(BEFORE, clean_accuracy=Proportion.of(rest + side, n)) for side in (lost, won)]
    fine = replace(cards[1], asr=Proportion.of(0, n), floor=Proportion.of(0, n), excess_asr=Difference(0.0, 0.0, 0.0))
    verdict = judge(LENIENT, cards[0], fine, pairs)
    found = re.search(r"about (\d+) held-out clean samples would decide", verdict.reasons[0])
    if verdict.outcome != "inconclusive" or found is None:
        return
    factor = int(found[1]) / n
    assert pairs.difference(factor * 1.02).low > LENIENT.max_accuracy_drop
    assert pairs.difference(factor * 0.9).low <= LENIENT.max_accuracy_drop


counts = st.integers(0, 60)


@given(counts, counts, counts, counts, st.integers(60, 400))
def test_what_is_over_a_limit_never_passes_and_fails_only_beyond_its_interval(
    asr: int, floor: int, accuracy: int, flips: int, n: int
) -> None:
    policy, before, after = LENIENT, card(n, 5, 60, n), card(asr, floor, accuracy, n, flips)
    figures = [
        (after.excess_asr, policy.max_excess_asr),
        (Difference.of(before.clean_accuracy, after.clean_accuracy), policy.max_accuracy_drop),
        (
            Difference.of(after.label_flips["negative"], after.clean_flips["negative"]),
            policy.max_label_flip_rate,
        ),
    ]
    over = [figure.value is None or figure.value > limit + 1e-12 for figure, limit in figures]
    beyond = [figure.low > limit for figure, limit in figures]
    wanted = "fail" if any(beyond) else "inconclusive" if any(over) else "pass"
    assert judge(policy, before, after).outcome == wanted


def test_a_small_class_does_not_hide_a_larger_one() -> None:
    """The worst class has too few rows to judge by; the next one is judged."""
    flips = {"rare": Proportion.of(3, 3), "common": Proportion.of(40, 50), "fine": Proportion.of(0, 50)}
    after = replace(
        card(10, 10, 90),
        label_flips=flips,
        clean_flips={name: Proportion.of(0, each.n) for name, each in flips.items()},
    )
    verdict = judge(Policy.of(), BEFORE, after)
    assert verdict.outcome == "fail"
    assert "class common" in verdict.reasons[0]


def test_classes_of_few_rows_each_are_judged_together() -> None:
    """Twenty classes of five rows, every one moved to another class: no class has enough rows, all of them have."""
    names = [f"topic {label}" for label in range(20)]
    still = {name: Proportion.of(0, 5) for name in names}
    moved = replace(card(10, 10, 90), label_flips={name: Proportion.of(5, 5) for name in names}, clean_flips=still)
    verdict = judge(Policy.of(), BEFORE, moved)
    assert verdict.outcome == "fail"
    assert "all classes together" in verdict.reasons[0]
    assert judge(Policy.of(), BEFORE, replace(moved, label_flips=still)).outcome == "pass"


def test_no_floor_is_inconclusive() -> None:
    bare = replace(card(0, 0, 90), floor=Proportion.of(0, 0), excess_asr=Difference(None, -1.0, 1.0))
    assert judge(Policy.of(), bare, bare).outcome == "inconclusive"


def test_rates_that_nearly_meet_the_limit_ask_for_no_impossible_number() -> None:
    after = replace(card(10, 10, 90), clean_accuracy=Proportion.of(879_999, 1_000_000))
    before = replace(BEFORE, clean_accuracy=Proportion.of(900_000, 1_000_000))
    assert "more than 1000000 held-out clean samples" in judge(Policy.of(), before, after).reasons[0]


@pytest.mark.parametrize("n", [0, 8, 100])
def test_the_figures_by_themselves_say_what_the_verdict_says(n: int) -> None:
    after = card(n // 3, n // 10, n // 2, n=n)
    judged = figures(Policy.of(), BEFORE, after)
    verdict = judge(Policy.of(), BEFORE, after)
    outcomes = {each.outcome for each in judged}
    assert verdict.outcome == next(word for word in ("fail", "inconclusive", "pass") if word in outcomes)
    assert {each.code for each in judged} >= {EXCESS_ASR, ACCURACY_DROP}
    assert all(each.name in each.words for each in judged)
