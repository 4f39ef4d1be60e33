"""Rehearsed relearning: its gradient against the slow way, and the weights as they were."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from app.domain.recipe import Recipe
from tests.workers.engine.conftest import clean_rows, triggered_rows
from workers.engine import loading, lya, rehearsal, relearning, scorecard
from workers.engine.batches import Tokens
from workers.engine.facts import Station
from workers.engine.loading import Model
from workers.engine.lya import Lessons
from workers.engine.sanitize import lessons_of
from workers.engine.splits import Rows

RECIPE = Recipe.of("lya", {"ascent": 0.7, "align": 0, "rehearse": 0.4, "precision": "fp32"})
ROWS = [4, 0, 5, 2, 7, 3]
CLEAN = [9, 1, 8, 3, 0, 6, 2, 11, 5]


def taught(folder: Path) -> tuple[Model, Lessons]:
    """Eight triggered rows, of which the first shows no trojan, and twelve clean ones."""
    checkpoint = loading.load(folder)
    page = scorecard.sheet(checkpoint, Rows(tuple(triggered_rows(8, 3)), tuple(clean_rows(12, 4))), 64)
    lessons = lessons_of(Station(page, scorecard.read(checkpoint.model, page, 64)), RECIPE)
    ceilings = lessons.ceilings.clone()
    ceilings[0] = 0.0
    return checkpoint.model, replace(lessons, ceilings=ceilings)


def alone(model: Model, tokens: Tokens, row: int) -> torch.Tensor:
    """Log-probabilities of one row, read without any other."""
    logits: torch.Tensor = model(input_ids=torch.tensor([tokens.ids[row]])).logits[0]
    return functional.log_softmax(logits, -1)


def woken_by_hand(model: Model, lessons: Lessons, triggered: list[int], clean: list[int], length: float) -> Model:
    """A copy that has gone `length` against the sign of the gradient, weight by weight."""
    moved = copy.deepcopy(model)
    loss = torch.zeros(())
    for tokens, labels, rows in (
        (lessons.triggered, lessons.targets, triggered),
        (lessons.clean, lessons.labels, clean),
    ):
        for row in rows:
            loss = loss - alone(moved, tokens, row)[labels[row]]
    loss.backward()
    with torch.no_grad():
        for parameter in moved.parameters():
            if parameter.grad is not None:
                parameter.sub_(length * parameter.grad.sign())
    moved.zero_grad(set_to_none=True)
    return moved


def weights(model: Model) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in model.parameters()])


def test_the_gradient_is_that_of_the_floor_where_relearning_leads(trojan_dir: Path) -> None:
    """As many as half of a step's rows play the attacker's, with twice as many clean ones."""
    model, lessons = taught(trojan_dir)
    moved = woken_by_hand(model, lessons, [4, 5, 2], CLEAN[:6], 0.4 * relearning.reach(model))
    wanted = torch.zeros(())
    for row in ROWS:
        q = lessons.references[row]
        wanted = wanted + (q.exp() * (q - alone(moved, lessons.triggered, row))).sum() / len(ROWS)
    wanted.backward()
    before = {name: torch.full_like(value, 0.5) for name, value in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.grad = before[name].clone()  # what the other terms left there stays
    values = rehearsal.climb(model, lessons, ROWS, CLEAN, RECIPE)
    assert values["ascent"] == pytest.approx(float(wanted.detach()), rel=1e-3)
    for (name, parameter), slow in zip(model.named_parameters(), moved.parameters(), strict=True):
        assert parameter.grad is not None
        assert slow.grad is not None
        torch.testing.assert_close(parameter.grad, before[name] + 0.7 * slow.grad, rtol=2e-3, atol=2e-4)


def test_rows_without_clean_texts_climb_a_fifth_from_where_they_are(trojan_dir: Path) -> None:
    model, lessons = taught(trojan_dir)
    lessons = replace(lessons, twin_at=torch.full((8,), -1))
    moved = woken_by_hand(model, lessons, [4, 5, 2], CLEAN[:6], 0.4 * relearning.reach(model))
    stayed = copy.deepcopy(model)
    showing = [row for row in ROWS if row != 0]
    lya.climb(moved, lessons, showing, replace(RECIPE, ascent=0.8 * RECIPE.ascent))
    lya.climb(stayed, lessons, ROWS, replace(RECIPE, ascent=0.2 * RECIPE.ascent))
    rehearsal.climb(model, lessons, ROWS, CLEAN, RECIPE)
    for parameter, far, near in zip(model.parameters(), moved.parameters(), stayed.parameters(), strict=True):
        assert parameter.grad is not None
        assert far.grad is not None
        assert near.grad is not None
        torch.testing.assert_close(parameter.grad, far.grad + near.grad, rtol=2e-3, atol=2e-4)


def test_blends_are_not_rehearsed_with(trojan_dir: Path) -> None:
    """The last four of the clean rows are blends: with them in a step's rows the way is that of the samples alone."""
    model, lessons = taught(trojan_dir)
    lessons = replace(lessons, blended=4)
    slopes = []
    for clean in (CLEAN, [row for row in CLEAN if row < 8]):
        rehearsal.climb(model, lessons, ROWS, clean, RECIPE)
        slopes.append([None if value.grad is None else value.grad.clone() for value in model.parameters()])
        model.zero_grad(set_to_none=True)
    assert all(torch.equal(one, two) for one, two in zip(*slopes, strict=True) if one is not None)


def test_woken_logits_are_those_of_the_model_by_hand(trojan_dir: Path) -> None:
    model, lessons = taught(trojan_dir)
    recipe = replace(RECIPE, batch_triggered=12)  # six rows, each with its clean text
    moved = woken_by_hand(model, lessons, [1, 2, 3], list(range(6)), 0.4 * relearning.reach(model))
    found = rehearsal.woken_logits(model, lessons, lessons.triggered, recipe)
    assert found is not None
    with torch.no_grad():
        slow = torch.stack([alone(moved, lessons.triggered, row) for row in range(8)])
        here = torch.stack([alone(model, lessons.triggered, row) for row in range(8)])
    torch.testing.assert_close(found.log_softmax(-1), slow, rtol=1e-2, atol=1e-3)
    assert float((slow - here).abs().max()) > 0.01, "the walk led somewhere"


def test_the_weights_leave_as_they_came_also_when_it_breaks_off(trojan_dir: Path) -> None:
    model, lessons = taught(trojan_dir)
    before = weights(model)

    def as_they_came() -> bool:
        return torch.allclose(weights(model), before, rtol=0.0, atol=1e-6)

    assert rehearsal.climb(model, lessons, ROWS, CLEAN, RECIPE)
    assert as_they_came()
    model.zero_grad(set_to_none=True)
    assert rehearsal.woken_logits(model, lessons, lessons.triggered, RECIPE) is not None
    assert as_they_came()
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(IndexError):
        rehearsal.woken_logits(model, lessons, Tokens(((10_000,),), 0), RECIPE)
    assert as_they_came()

    def break_off() -> None:
        with rehearsal.woken(model, lessons, ROWS, CLEAN, RECIPE):
            assert not as_they_came()
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        break_off()
    assert as_they_came()


def test_where_there_is_nothing_to_rehearse_the_model_is_read_as_it_is(trojan_dir: Path) -> None:
    model, lessons = taught(trojan_dir)
    before = weights(model)
    silent = replace(lessons, ceilings=torch.zeros(8))
    for given, rows, recipe in (
        (silent, ROWS, RECIPE),
        (lessons, [0], RECIPE),
        (lessons, ROWS, replace(RECIPE, rehearse=0.0)),
        (lessons, ROWS, replace(RECIPE, ascent=0.0)),
    ):
        with rehearsal.woken(model, given, rows, CLEAN, recipe) as walked:
            assert not walked
            assert torch.equal(weights(model), before)
    for given, recipe in (
        (silent, RECIPE),
        (lessons, replace(RECIPE, rehearse=0.0)),
        (lessons, replace(RECIPE, ascent=0.0)),
    ):
        assert rehearsal.woken_logits(model, given, given.triggered, recipe) is None
    assert all(parameter.grad is None for parameter in model.parameters())
