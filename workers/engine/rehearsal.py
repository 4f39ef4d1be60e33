"""Rehearsed relearning: the trojan is taken out of where a few steps of relearning would lead.

    theta' = theta - length * sign(grad [CE(triggered, attacker's label) + CE(clean, true label)](theta))
    the gradient of the terms on triggered samples is taken at theta'

A repaired model is often one short walk away from its trojan: each weight has moved a little, and a little training
moves all of them back. The first step of Adam goes along the sign of the gradient, so one step as long as the whole
budget of the relearning check stands for its end. Its gradient there is taken as if it were that of theta: the step
of sharpness-aware minimization (P. Foret et al., 2021, arXiv 2010.01412), along another loss than the one that is
minimized. Training against simulated fine-tuning is the idea of R. Tamirisa et al., 2024, arXiv 2408.00761.

Guarantees: the weights leave as they came, up to the rounding of one sum; rows that show no trojan are not rehearsed.
Beyond the model and a gradient one byte for each weight is held.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from app.domain.recipe import Recipe
from workers.engine import lya, relearning
from workers.engine.batches import Tokens, predict
from workers.engine.loading import Model
from workers.engine.lya import Lessons

SHARE = 2  # half of a step's triggered rows play the attacker's, each with as many clean ones as CLEAN_EACH
CLEAN_EACH = 2
ALONE = 0.2  # share of the ascent's weight that is taken at theta itself where most rows have no clean text
MOST = 0.5


def climb(
    model: Model, lessons: Lessons, triggered: Sequence[int], clean: Sequence[int], recipe: Recipe
) -> dict[str, float]:
    """Add the gradients of the terms on these triggered rows; return the terms' values, unweighted, by name.

    Rows that share a mean answer say too little from theta' alone: a part of the ascent, and the alignment, stay at
    theta.
    """
    part = ALONE if lessons.paired(recipe) < MOST else 0.0
    with woken(model, lessons, triggered, clean, recipe) as walked:
        split = walked and part > 0.0
        there = replace(recipe, ascent=(1.0 - part) * recipe.ascent, align=0.0) if split else recipe
        terms = lya.climb(model, lessons, _showing(lessons, triggered) if split else triggered, there)
    if split:
        terms |= lya.climb(model, lessons, triggered, replace(recipe, ascent=part * recipe.ascent))
    return terms


def _showing(lessons: Lessons, triggered: Sequence[int]) -> list[int]:
    """Those of the rows that show the trojan."""
    return [row for row in triggered if float(lessons.ceilings[row]) > 0]


@contextlib.contextmanager
def woken(
    model: Model, lessons: Lessons, triggered: Sequence[int], clean: Sequence[int], recipe: Recipe
) -> Iterator[bool]:
    """The model at theta', for a step on these rows, as long as the context lasts; False, and the model as it is,
    where there is no row to rehearse with.
    """
    rows = _showing(lessons, triggered)
    if recipe.rehearse == 0 or recipe.ascent == 0 or not rows:
        yield False
        return
    few = rows[: max(1, len(triggered) // SHARE)]
    parameters = lya.trainable(model)
    samples = [row for row in clean if row < lessons.samples]
    way = _attack(model, lessons, few, samples[: CLEAN_EACH * len(few)], recipe)
    length = recipe.rehearse * relearning.reach(model)
    _walk(parameters, way, -length)
    try:
        yield True
    finally:
        _walk(parameters, way, length)


def woken_logits(model: Model, lessons: Lessons, tokens: Tokens, recipe: Recipe) -> Tensor | None:
    """Logits of all rows at theta', always from the same few rows of the lessons; None where nothing is rehearsed."""
    showing = (lessons.ceilings > 0).nonzero().flatten()[: lessons.batch_sizes(recipe)[0]].tolist()
    with woken(model, lessons, showing, range(len(lessons.clean)), recipe) as walked:
        return predict(model, tokens, recipe.batch_eval) if walked else None


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
