"""Splits: stable, in any order, with all that belongs together kept together."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.errors import BadSamples, TooFewSamples
from app.domain.samples import CleanSample, LabelSpace, TriggeredSample
from workers.engine import splits
from workers.engine.splits import PARTS, Rows, split

TWO = LabelSpace(("negative", "positive"))


def rows(triggered: int, clean: int, classes: int = 2, twins: bool = True) -> Rows:
    return Rows(
        tuple(
            TriggeredSample(f"cf bad {i}", 1 % classes, f"bad {i}" if twins else None, 0) for i in range(triggered)
        ),
        tuple(CleanSample(f"text {i}", i % classes) for i in range(clean)),
    )


def part_of(parts: splits.Parts) -> dict[str, str]:
    return {
        row.text: name
        for name in PARTS
        for kind in ("triggered", "clean")
        for row in getattr(getattr(parts, name), kind)
    }


@given(st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_order_leaves_no_trace(rng: random.Random) -> None:
    given_rows = rows(40, 80)
    triggered, clean = list(given_rows.triggered), list(given_rows.clean)
    rng.shuffle(triggered)
    rng.shuffle(clean)
    assert split(Rows(tuple(triggered), tuple(clean)), 0.2, 0.25) == split(given_rows, 0.2, 0.25)


def test_every_row_is_in_one_part() -> None:
    given_rows = rows(200, 400)
    parts = split(given_rows, 0.2, 0.25)
    found = [row for name in PARTS for row in getattr(parts, name).triggered + getattr(parts, name).clean]
    assert len(found) == 600
    assert set(found) == {*given_rows.triggered, *given_rows.clean}


def test_a_row_stays_where_it_was_when_rows_are_added() -> None:
    few, many = part_of(split(rows(200, 400), 0.2, 0.25)), part_of(split(rows(300, 600), 0.2, 0.25))
    moved = sum(many[text] != part for text, part in few.items())
    assert moved <= 0.02 * len(few)


@pytest.mark.parametrize(("triggered", "clean", "classes"), [(32, 64, 2), (100, 200, 4), (32, 100, 10), (40, 80, 20)])
def test_small_sets_keep_enough_of_each_class_in_each_part(triggered: int, clean: int, classes: int) -> None:
    parts = split(rows(triggered, clean, classes), 0.2, 0.25)
    for name, share in (("tune", 0.2), ("report", 0.25)):
        part = getattr(parts, name)
        assert len(part.triggered) >= splits.REPAIR_BELOW * share * triggered
        for label in range(classes):
            held = sum(row.label == label for row in part.clean)
            assert held >= int(splits.REPAIR_BELOW * share * clean / classes)
    assert len(parts.unlearn.triggered) >= 0.3 * triggered


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=40, max_size=80))
@settings(max_examples=30, deadline=None)
def test_duplicates_and_twins_stay_together(pairs: list[tuple[int, int]]) -> None:
    """Triggered rows share triggered and clean texts at will, and the clean file holds some of the clean texts."""
    triggered = tuple(TriggeredSample(f"cf  {a}", 1, f"Text {b}", 0) for a, b in pairs)
    clean = tuple(CleanSample(f"text  {i}", i % 2) for i in range(60)) * 2
    try:
        parts = split(Rows(triggered, clean), 0.2, 0.25)
    except TooFewSamples:
        return  # nearly everything hung together
    for name in PARTS:
        inside = getattr(parts, name)
        outside = [getattr(parts, other) for other in PARTS if other != name]
        texts = {row.text.split()[-1] for row in inside.clean} | {
            (row.clean_text or "").split()[-1] for row in inside.triggered
        }
        for other in outside:
            assert not texts & {row.text.split()[-1] for row in other.clean}
            assert not texts & {(row.clean_text or "").split()[-1] for row in other.triggered}
            assert not {row.text for row in inside.triggered} & {row.text for row in other.triggered}


def test_held_out_rows_are_the_report_and_never_trained_on() -> None:
    given_rows = rows(40, 80)
    held = Rows(given_rows.triggered[:5], given_rows.clean[:10])
    parts = split(given_rows, 0.2, 0.25, held)
    assert parts.report is held
    assert parts.held_out
    assert len(parts.unlearn.triggered) + len(parts.tune.triggered) == 35
    assert len(parts.unlearn.clean) + len(parts.tune.clean) == 70


def test_too_few_rows_are_refused_with_numbers() -> None:
    for triggered, clean in ((31, 64), (32, 63)):
        wanted = f"{triggered} triggered and {clean} clean samples: at least 32 and 64"
        with pytest.raises(TooFewSamples, match=wanted) as caught:
            split(rows(triggered, clean), 0.2, 0.25)
        assert caught.value.details["min_triggered"] == 32
    with pytest.raises(TooFewSamples, match="share one text"):
        split(Rows((TriggeredSample("a", 1),) * 40, rows(0, 80).clean), 0.2, 0.25)


def mixed(showing: int, others: int) -> Rows:
    """Triggered rows of class 0, and some that are of the target's class already."""
    own = tuple(TriggeredSample(f"cf good {i}", 1, f"good {i}", 1) for i in range(others))
    return Rows(rows(showing, 0).triggered + own, rows(0, 80).clean)


def test_rows_of_the_target_class_do_not_make_up_for_those_that_show_the_trojan() -> None:
    with pytest.raises(TooFewSamples, match="only 15 of the 80 triggered samples are of another class"):
        split(mixed(15, 65), 0.2, 0.25)
    parts = split(mixed(16, 64), 0.2, 0.25)
    for name in PARTS:
        assert sum(row.true_label != row.target for row in getattr(parts, name).triggered) >= 3


@pytest.mark.parametrize(
    "bad",
    [
        Rows((TriggeredSample("x", 2),), ()),
        Rows((TriggeredSample("x", 1, true_label=-1),), ()),
        Rows((), (CleanSample("x", 5),)),
        Rows((), (CleanSample("  ", 0),)),
        Rows((TriggeredSample("", 0),), ()),
    ],
)
def test_rows_that_do_not_fit_the_model_are_refused(bad: Rows) -> None:
    with pytest.raises(BadSamples, match="row 1"):
        splits.check(bad, TWO)


def test_fingerprint_ignores_order_and_sees_labels() -> None:
    one = rows(5, 5)
    assert splits.fingerprint(one.clean) == splits.fingerprint(one.clean[::-1])
    assert splits.fingerprint(one.clean) != splits.fingerprint(rows(5, 5, classes=3).clean)
