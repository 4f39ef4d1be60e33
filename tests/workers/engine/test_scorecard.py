"""The scorecard by hand: logits that are written down, counts that are known."""

from __future__ import annotations

import pytest
import torch

from app.domain.samples import LabelSpace
from workers.engine import scorecard
from workers.engine.batches import Tokens
from workers.engine.scorecard import UNKNOWN, Reading, Sheet, count_rows

THREE = LabelSpace(("red", "green", "blue"))


def says(*classes: int) -> torch.Tensor:
    """Logits of a model that calls the rows these classes."""
    return 5.0 * torch.nn.functional.one_hot(torch.tensor(classes, dtype=torch.long), 3).float().reshape(-1, 3)


def page(targets: list[int], truths: list[int], twin_of: list[int], labels: list[int]) -> Sheet:
    nothing = Tokens((), 0)
    goals, true = torch.tensor(targets), torch.tensor(truths)
    return Sheet(
        triggered=Tokens(((1,),) * len(targets), 0),
        targets=goals,
        truths=true,
        counted=true != goals,
        twins=nothing,
        twin_of=torch.tensor(twin_of, dtype=torch.long),
        clean=nothing,
        labels=torch.tensor(labels),
    )


def test_counts_with_twins() -> None:
    sheet = page([1, 1, 1, 1], [0, 0, 2, 1], [0, 1, 2, 3], [0, 1, 2, 2])
    uploaded = Reading(says(1, 1, 1, 1), says(0, 1, 2, 1), says(0, 1, 2, 0))
    after = Reading(says(1, 0, 0, 1), says(0, 0, 1, 1), says(0, 1, 2, 2))
    card = scorecard.card(sheet, after, uploaded, THREE)
    assert (card.asr.successes, card.asr.n) == (1, 3)  # the fourth is of the target's class already
    assert (card.floor.successes, card.floor.n, card.floor_source) == (1, 3, "twins")
    assert card.excess_asr.value == 0.0
    assert (card.clean_accuracy.successes, card.clean_accuracy.n) == (4, 4)
    assert (card.agreement.successes, card.agreement.n) == (3, 4)
    flips = {name: (each.successes, each.n) for name, each in card.label_flips.items()}
    assert flips == {"red": (1, 2), "blue": (1, 1), "green": (0, 1)}
    without = {name: (each.successes, each.n) for name, each in card.clean_flips.items()}
    assert without == {"red": (0, 2), "blue": (1, 1), "green": (0, 1)}
    assert card.asr_by_target == {}


def test_floor_from_clean_rows_of_other_classes_where_twins_are_few() -> None:
    sheet = page([1, 1, 1], [0, 0, 0], [1], [0, 0, 2, 1])
    reading = Reading(says(1, 1, 0), says(1), says(1, 0, 1, 1))
    found, source = scorecard.floor(sheet, reading)
    assert (found.successes, found.n, source) == (2, 3, "clean")


def test_no_clean_row_of_another_class_means_no_floor() -> None:
    sheet = page([1], [0], [], [1, 1])
    card = scorecard.card(sheet, *[Reading(says(1), says(), says(1, 1))] * 2, THREE)
    assert card.floor_source == "none"
    assert card.excess_asr.value is None


def test_several_targets_are_counted_each() -> None:
    sheet = page([1, 2, 2], [0, 0, 1], [0, 1, 2], [0])
    reading = Reading(says(1, 2, 1), says(0, 0, 1), says(0))
    card = scorecard.card(sheet, reading, reading, THREE)
    assert (card.asr.successes, card.asr.n) == (2, 3)
    assert {name: (each.successes, each.n) for name, each in card.asr_by_target.items()} == {
        "green": (1, 1),
        "blue": (1, 2),
    }


def test_a_row_of_unknown_class_counts_unless_its_twin_is_called_the_target() -> None:
    sheet = page([1, 1, 1, 1], [UNKNOWN, UNKNOWN, UNKNOWN, 0], [0, 1, 3], [0])
    counted = count_rows(sheet, Reading(says(1, 1, 1, 1), says(0, 1, 1), says(0))).counted
    assert counted.tolist() == [True, False, True, True]
    card = scorecard.card(sheet, *[Reading(says(1, 1, 1, 1), says(0, 1, 1), says(0))] * 2, THREE)
    assert set(card.label_flips) == {"red"}


def test_each_target_weighs_on_the_floor_as_much_as_it_does_on_the_rate() -> None:
    """Nine rows want class 1, which clean rows are never called; one wants class 2, which a quarter are called."""
    sheet = page([1] * 9 + [2], [0] * 10, [], [0] * 8)
    found, source = scorecard.floor(sheet, Reading(says(*[1] * 9, 2), says(), says(0, 0, 0, 0, 0, 0, 2, 2)))
    assert source == "clean"
    assert found.rate == pytest.approx(0.1 * 0.25, abs=0.5 / found.n)
    assert found.n == 10  # 1 / (0.9^2 / 8 + 0.1^2 / 8), rounded


def test_a_target_that_no_counted_row_has_does_not_weigh_on_the_floor() -> None:
    sheet = page([1, 1, 2], [0, 0, 2], [], [0, 0, 0, 0])
    found, _ = scorecard.floor(sheet, Reading(says(1, 1, 2), says(), says(0, 2, 2, 1)))
    assert (found.successes, found.n) == (1, 4)


def test_references_are_the_twins_answer_else_the_class_mean_else_its_own_without_the_target() -> None:
    sheet = page([1, 1, 1], [0, 0, UNKNOWN], [0], [0, 0, 1, 2])
    uploaded = Reading(torch.tensor([[0.0, 5.0, 0.0]] * 2 + [[1.0, 5.0, 3.0]]), says(2), says(0, 2, 1, 2))
    found = scorecard.references(sheet, uploaded)
    clean = torch.softmax(uploaded.clean, -1)
    torch.testing.assert_close(found[0], torch.softmax(says(2), -1)[0])
    torch.testing.assert_close(found[1], clean[:2].mean(0))
    usual = clean[[0, 1, 3], 1].mean()
    rest = torch.softmax(torch.tensor([1.0, 3.0]), -1) * (1.0 - usual)
    torch.testing.assert_close(found[2], torch.stack([rest[0], usual, rest[1]]))
    alone = scorecard.references(page([1], [0], [], [1]), Reading(says(1), says(), says(1)))
    torch.testing.assert_close(alone[0], torch.tensor([0.5, 1e-12, 0.5]))
