"""The stop rule by hand: logits that are written down."""

from __future__ import annotations

import math

import pytest
import torch

from app.domain.recipe import Recipe
from tests.workers.engine.test_scorecard import page, says
from workers.engine import stopping
from workers.engine.scorecard import UNKNOWN, Reading, Sheet

RECIPE = Recipe.of("lya", {"margin": 0.02, "accuracy_budget": 0.01})


def odds(logits: torch.Tensor, target: int) -> float:
    chance = torch.softmax(logits, -1)[target].item()
    return math.log(chance / (1.0 - chance))


def test_the_odds_at_the_floor_are_of_each_target_as_often_as_rows_have_it() -> None:
    """Three rows want class 1 and one wants class 2; no row has a twin."""
    sheet = page([1, 1, 1, 2], [0, 0, 0, 0], [], [0, 0, 2])
    clean = torch.tensor([[2.0, 0.0, 1.0], [3.0, 1.0, 0.0], [0.0, 1.0, 4.0]])
    reading = Reading(says(1, 1, 1, 2), says(), clean)
    wanted = 0.75 * sum(odds(row, 1) for row in clean) / 3 + 0.25 * sum(odds(row, 2) for row in clean[:2]) / 2
    assert stopping.look(sheet, reading, reading).floor_odds == pytest.approx(wanted, rel=1e-5)


def test_the_odds_at_the_floor_are_of_the_twins_only_where_the_floor_is() -> None:
    """One twin for three rows is too few for the floor: the odds are of the clean rows then."""
    sheet = page([1, 1, 1], [0, 0, 0], [0], [0])
    reading = Reading(says(1, 1, 1), says(1), says(0))
    assert stopping.look(sheet, reading, reading).floor_odds == pytest.approx(odds(says(0)[0], 1), rel=1e-5)


def meets(sheet: Sheet, triggered: torch.Tensor, twins: torch.Tensor, clean: torch.Tensor) -> bool:
    """Whether a model of these answers meets the rule; the uploaded one read twins and clean rows the same way."""
    uploaded = Reading(says(*sheet.targets.tolist()), twins, clean)
    return stopping.meets(stopping.look(sheet, Reading(triggered, twins, clean), uploaded), RECIPE)


@pytest.mark.parametrize("twins", [True, False])
def test_a_trojan_that_was_moved_to_a_third_class_does_not_meet_the_rule(twins: bool) -> None:
    sheet = page([1] * 12, [0] * 12, list(range(12)) if twins else [], [0] * 20 + [2] * 20)
    bases = says(*[0] * 12) if twins else says()
    clean = says(*[0] * 20, *[2] * 20)
    assert meets(sheet, says(*[0] * 12), bases, clean)
    assert not meets(sheet, says(*[2] * 12), bases, clean)


def test_a_run_rests_where_relearning_would_not_wake_the_trojan() -> None:
    sheet = page([1] * 20, [0] * 20, list(range(20)), [0] * 20)
    without, trojan = says(*[0] * 20), says(*[1] * 20)
    uploaded = Reading(trojan, without, without)
    for now, woken, rests in (
        (without, without, True),
        (without, says(1, *[0] * 19), True),  # one row
        (without, says(1, 1, *[0] * 18), False),
        (without, None, False),  # not rehearsed: nobody knows
        (trojan, without, False),
    ):
        seen = stopping.look(sheet, Reading(now, without, without), uploaded, woken)
        assert stopping.rests(seen, RECIPE) is rests
    apart = page([1] * 20, [0] * 20, [], [0] * 20)  # the floor is of other rows, and luck may lie between
    seen = stopping.look(apart, Reading(without, says(), without), Reading(trojan, says(), without), without)
    assert stopping.meets(seen, RECIPE)
    assert not stopping.rests(seen, RECIPE)


def test_true_classes_that_were_not_given_are_those_of_the_twins() -> None:
    sheet = page([1] * 12, [UNKNOWN] * 12, list(range(12)), [0, 2])
    assert not meets(sheet, says(*[2] * 12), says(*[0] * 12), says(0, 2))
    assert meets(sheet, says(*[0] * 12), says(*[0] * 12), says(0, 2))


def test_one_class_that_was_moved_among_others_that_were_not_is_enough() -> None:
    sheet = page([1] * 80, [0] * 76 + [2] * 4, list(range(80)), [0])
    bases = says(*[0] * 76, *[2] * 4)
    assert not meets(sheet, says(*[0] * 80), bases, says(0))
    assert meets(sheet, says(*[0] * 76, 2, 2, 2, 0), bases, says(0))  # one row


def test_classes_are_told_one_by_one_and_together() -> None:
    """Half of the rows are of class 0 and read so, half are of class 2 and moved there."""
    sheet, bases = page([1] * 10, [0, 2] * 5, list(range(10)), [0]), says(*[0, 2] * 5)
    found = stopping.shifts(sheet, Reading(says(*[0] * 10), bases, says(0)), Reading(says(), bases, says()))
    assert [round(each.excess, 3) for each in found] == [0.0, 1.0, 0.5]
    assert [round(each.grain, 3) for each in found] == [0.2, 0.2, 0.1]


def test_where_a_class_has_one_row_all_of_them_together_decide() -> None:
    """One row of each of two classes is no miss alone; both are."""
    bases, moved = says(0, 2), says(2, 0)
    sheet = page([1, 1], [0, 2], [0, 1], [0])
    assert not meets(sheet, moved, bases, says(0))
    assert meets(sheet, says(2, 2), bases, says(0))


def test_rows_that_are_misread_without_the_trigger_too_are_no_shift() -> None:
    sheet = page([1] * 12, [0] * 12, list(range(12)), [0])
    assert meets(sheet, says(*[2] * 12), says(*[2] * 12), says(0))


def test_a_tenth_of_wrong_true_classes_does_not_keep_a_run_from_stopping() -> None:
    """Two of twenty rows of class 0 are given as class 2, and the repaired model reads them rightly."""
    truths = [2] * 2 + [0] * 18
    clean = says(*[0] * 20, *[2] * 20)
    for twin_of, bases in (([], says()), (list(range(20)), says(*[0] * 20))):
        sheet = page([1] * 20, truths, twin_of, [0] * 20 + [2] * 20)
        assert meets(sheet, says(*[0] * 20), bases, clean)
    assert not meets(page([1] * 20, truths, [], [0] * 20 + [2] * 20), says(*[2] * 20), says(), clean)
