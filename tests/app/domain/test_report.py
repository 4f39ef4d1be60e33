"""Reports: intervals against published values, and JSON that comes back unchanged."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.recipe import Policy, Recipe
from app.domain.report import (
    Attempt,
    Cost,
    DataFacts,
    Difference,
    FisherFacts,
    ModelFacts,
    Paired,
    Proportion,
    Relearning,
    SanitizationReport,
    Scorecard,
    Search,
    SplitSizes,
    StepMetric,
    Stop,
    Verdict,
    fidelity,
    wilson,
)


# Newcombe 1998, Statistics in Medicine 17:857-872, table I, method 3 (Wilson score without continuity correction).
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_against_published_values(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


# Newcombe 1998, Statistics in Medicine 17:873-890, table II, method 10.
@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090), ((0, 10), (0, 20), -0.1611, 0.2775)],
)
def test_difference_against_published_values(first, second, low: float, high: float) -> None:
    difference = Difference.of(Proportion.of(*first), Proportion.of(*second))
    assert (difference.low, difference.high) == pytest.approx((low, high), abs=5e-5)


# both, first alone, second alone, neither: the two examples of chapter 8 in Fagerland, Lydersen, Laake 2017,
# Statistical Analysis of Contingency Tables, and table 6.2 of Altman et al. 2000, Statistics with Confidence.
@pytest.mark.parametrize(
    ("table", "low", "high"),
    [((1, 1, 7, 12), -0.507, -0.026), ((59, 6, 16, 80), -0.119, -0.005), ((14, 5, 0, 22), 0.011, 0.226)],
)
def test_paired_difference_against_published_values(table, low: float, high: float) -> None:
    found = Paired(sum(table), *table[:3]).difference()
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-4)


tables = st.tuples(*[st.integers(0, 60)] * 4).filter(any)


@given(tables)
def test_paired_difference_holds_its_value_and_turns_with_the_sides(table) -> None:
    both, first, second, _ = table
    found, turned = (Paired(sum(table), both, *sides).difference() for sides in ((first, second), (second, first)))
    assert -1.0 <= found.low <= (first - second) / sum(table) + 1e-12
    assert (first - second) / sum(table) - 1e-12 <= found.high <= 1.0
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


@given(tables, st.floats(1.0, 50.0))
def test_more_rows_at_the_same_rates_tell_more(table, factor: float) -> None:
    few, many = (Paired(sum(table), *table[:3]).difference(size) for size in (1.0, factor))
    assert many.value == few.value
    assert many.high - many.low <= few.high - few.low + 1e-9


@pytest.mark.parametrize("rates", [(0.85, 0.05, 0.02), (0.6, 0.1, 0.1), (0.05, 0.1, 0.0), (0.9, 0.03, 0.03)])
def test_the_paired_interval_covers_the_truth_as_often_as_it_says(rates) -> None:
    """Over every table of 40 rows, each weighted by its probability."""
    n, chances, covered = 40, (*rates, 1.0 - sum(rates)), 0.0
    for both in range(n + 1):
        for first in range(n + 1 - both):
            for second in range(n + 1 - both - first):
                found = Paired(n, both, first, second).difference()
                if found.low <= rates[1] - rates[2] <= found.high:
                    table = (both, first, second, n - both - first - second)
                    ways = math.factorial(n) // math.prod(map(math.factorial, table))
                    covered += ways * math.prod(chance**count for chance, count in zip(chances, table, strict=True))
    assert covered >= 0.94


@given(st.lists(st.tuples(st.integers(1, 200), st.floats(0.0, 1.0), st.floats(0.1, 9.0)), min_size=2, max_size=5))
def test_mixed_rates_weigh_as_asked_and_claim_no_more_rows_than_there_are(given_parts) -> None:
    parts = [(Proportion.of(round(share * n), n), weight) for n, share, weight in given_parts]
    mixed = Proportion.mixed(parts)
    total = sum(weight for _, weight in parts)
    rate = sum(weight / total * (part.rate or 0.0) for part, weight in parts)
    assert mixed.rate == pytest.approx(rate, abs=0.5 / mixed.n + 1e-9)
    assert min(part.n for part, _ in parts) - 1 <= mixed.n <= sum(part.n for part, _ in parts) + 1


def test_one_part_or_none_is_mixed_into_itself() -> None:
    one = Proportion.of(3, 7)
    assert Proportion.mixed([(one, 0.2), (Proportion.of(0, 0), 5.0)]) == one
    assert Proportion.mixed([(Proportion.of(0, 0), 1.0)]) == Proportion.of(0, 0) == Proportion.mixed([])


def test_no_rows_no_difference() -> None:
    assert Paired(0, 0, 0, 0).difference() == Difference(None, -1.0, 1.0)


@given(st.integers(0, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_holds_the_rate(pair) -> None:
    proportion = Proportion.of(*pair)
    assert 0.0 <= proportion.low <= proportion.high <= 1.0
    if proportion.rate is not None:
        assert proportion.low <= proportion.rate <= proportion.high


def test_proportion_refuses_impossible_counts() -> None:
    for successes, n in ((3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="out of"):
            Proportion.of(successes, n)


def card(asr: int, floor: int, accuracy: int, n: int = 100, flips: int = 0) -> Scorecard:
    rates = [Proportion.of(count, n) for count in (asr, floor, accuracy, flips, 0)]
    return Scorecard(
        clean_accuracy=rates[2],
        asr=rates[0],
        floor=rates[1],
        floor_source="twins",
        excess_asr=Difference.of(rates[0], rates[1]),
        label_flips={"negative": rates[3]},
        clean_flips={"negative": rates[4]},
        agreement=rates[2],
    )


def test_fidelity() -> None:
    assert fidelity(card(100, 10, 90), card(10, 10, 81)) == pytest.approx(0.9 * 0.9)
    assert fidelity(card(0, 10, 90), card(0, 10, 90)) is None


def report() -> SanitizationReport:
    recipe = Recipe.of("lya")
    return SanitizationReport(
        method="lya",
        recipe=recipe.to_dict(),
        recipe_fingerprint=recipe.fingerprint(),
        policy=Policy.of(),
        seed=7,
        model=ModelFacts("BertForSequenceClassification", ("negative", "positive"), 6482, "cpu", "fp32"),
        before=card(100, 10, 90),
        after=card(10, 10, 90),
        fidelity=0.9,
        accuracy_drop=Difference.of(Proportion.of(90, 100), Proportion.of(90, 100)),
        verdict=Verdict("pass", ("fine",)),
        stop=Stop("floor-reached", "done", 10, 10),
        cost=Cost({"loading": 1.0}, 10, 1000, 10.5, 1 << 20, 0.1, 0.001),
        data=DataFacts("a", "b", SplitSizes(1, 2, 3, 4, 5, 6, held_out=False), ("positive",), 0, 0, 5, 0),
        fisher=FisherFacts("true", 10, 10, 1e-9, None, None, ()),
        environment={"torch": "2"},
        limits=("one",),
    )


def relearning() -> tuple[Relearning, ...]:
    rates = [Proportion.of(count, 20) for count in (9, 1, 18, 2, 0, 19)]
    return (Relearning(1, 4, 10, *rates[:3]), Relearning(5, 20, 10, *rates))


def search() -> Search:
    attempt = Attempt(20.0, 0.0, 3e-5, 300, 12.5, "budget-spent", 295, 0.5, 0.0, 0.9, met=False)
    return Search("f" * 64, "two were tried", (attempt, replace(attempt, lambda_clean=5.0, met=True)), 1)


def test_the_recipe_that_was_asked_for_is_known_with_and_without_a_search() -> None:
    assert replace(report(), search=search()).asked_fingerprint() == "f" * 64
    assert report().asked_fingerprint() == Recipe.of("lya").fingerprint()


def test_report_round_trip() -> None:
    bare = replace(report(), fisher=None, fidelity=None)
    pairs = Paired(100, 80, 10, 5)
    paired = replace(report(), answers=pairs, after=replace(report().after, excess_pairs=pairs))
    searched = replace(report(), search=search())
    for original in (report(), bare, replace(report(), relearning=relearning()), paired, searched):
        text = json.dumps(original.to_dict(), allow_nan=False)
        assert SanitizationReport.from_dict(json.loads(text)) == original
    assert report().used_recipe() == Recipe.of("lya")


def test_report_from_a_later_version_with_more_names_is_read() -> None:
    assert SanitizationReport.from_dict({**report().to_dict(), "tomorrow": {}}) == report()


def test_reports_from_before_a_figure_was_added_are_read() -> None:
    data = report().to_dict()
    del data["relearning"], data["answers"], data["search"], data["after"]["excess_pairs"]
    del data["data"]["suspect"], data["data"]["mislabelled"]
    assert SanitizationReport.from_dict(data) == report()


def test_what_is_no_number_becomes_null() -> None:
    metric = StepMetric(3, "ascent", math.nan, {"asr": math.inf, "drift": 0.5})
    assert metric.to_dict() == {"step": 3, "phase": "ascent", "loss": None, "values": {"asr": None, "drift": 0.5}}
    assert StepMetric.from_dict(metric.to_dict()).values == {"asr": None, "drift": 0.5}
