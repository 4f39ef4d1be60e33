"""Rehearsed relearning: the trojan is also taken out of where a few steps of relearning would lead.

    theta' = theta - reach * sign(grad [CE(triggered, attacker's label) + CE(clean, true label)](theta))
    the gradient of the term on triggered samples at theta' is added to that at theta

A repaired model is often one short walk away from its trojan: each weight has moved a little, and a little training
moves all of them back. The first step of Adam goes along the sign of the gradient, so one step as long as the whole
budget of the relearning check stands for its end. The second gradient is taken as if it were that of theta (first
order, as in A. Nichol et al., 2018, arXiv 1803.02999); training against simulated fine-tuning is the idea of R.
Tamirisa et al., 2024, arXiv 2408.00761.

Guarantees: the weights leave as they came, up to the rounding of one sum; rows that show no trojan are not rehearsed.
Beyond the model and a gradient one byte for each weight is held.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from app.domain.recipe import Recipe
from workers.engine import lya, relearning
from workers.engine.batches import Tokens, predict
from workers.engine.loading import Model
from workers.engine.lya import Lessons

SHARE = 2  # half of a step's triggered texts play the attacker's, each with as many clean ones as CLEAN_EACH
CLEAN_EACH = 2


def add_gradients(
    model: Model, lessons: Lessons, triggered: Sequence[int], clean: Sequence[int], recipe: Recipe
) -> float | None:
    """Add the rehearsed gradient to the parameters'; return the term's value, unweighted, at theta'. None: no row to
    rehearse with.
    """
    rows = [row for row in triggered if float(lessons.ceilings[row]) > 0]
    if recipe.rehearse == 0 or not rows:
        return None
    few = rows[: max(1, recipe.batch_triggered // SHARE)]
    with _woken(model, lessons, few, list(clean)[: CLEAN_EACH * len(few)], recipe):
        loss = lya.off_target(model, lessons, rows, recipe)
        torch.autograd.backward(recipe.rehearse * loss)
    return float(loss.detach())


def woken_logits(model: Model, lessons: Lessons, tokens: Tokens, recipe: Recipe) -> Tensor | None:
    """Logits of all rows at theta', always from the same few rows of the lessons; None where nothing is rehearsed."""
    few = (lessons.ceilings > 0).nonzero().flatten()[: recipe.batch_triggered // SHARE or 1].tolist()
    if recipe.rehearse == 0 or recipe.ascent == 0 or not few:
        return None
    clean = list(range(min(CLEAN_EACH * len(few), len(lessons.clean))))
    with _woken(model, lessons, few, clean, recipe):
        return predict(model, tokens, recipe.batch_eval)


@contextlib.contextmanager
def _woken(model: Model, lessons: Lessons, triggered: list[int], clean: list[int], recipe: Recipe) -> Iterator[None]:
    """The model at theta' as long as the context lasts."""
    parameters = lya.trainable(model)
    way = _attack(model, lessons, triggered, clean, recipe)
    length = recipe.rehearse_reach * relearning.reach(model)
    _walk(parameters, way, -length)
    try:
        yield
    finally:
        _walk(parameters, way, length)


def _attack(
    model: Model, lessons: Lessons, triggered: list[int], clean: list[int], recipe: Recipe
) -> list[Tensor | None]:
    """The signs of the gradient that relearning would follow from here, int8; None where there is none."""
    logits = lya.logits_of(model, lessons.triggered, triggered, recipe)
    loss = functional.cross_entropy(logits, lessons.targets[triggered].to(logits.device), reduction="sum")
    if clean:
        logits = lya.logits_of(model, lessons.clean, clean, recipe)
        loss = loss + functional.cross_entropy(logits, lessons.labels[clean].to(logits.device), reduction="sum")
    way: list[Tensor | None] = list(torch.autograd.grad(loss, lya.trainable(model), allow_unused=True))
    for place, slope in enumerate(way):
        way[place] = None if slope is None else slope.sign_().to(torch.int8)
    return way


def _walk(parameters: list[Tensor], way: list[Tensor | None], length: float) -> None:
    with torch.no_grad():
        for parameter, sign in zip(parameters, way, strict=True):
            if sign is not None:
                parameter.add_(sign, alpha=length)
