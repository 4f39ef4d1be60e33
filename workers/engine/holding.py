"""What holds a run in place: the Fisher information of the uploaded model, and the anchor made of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from app.domain.recipe import Recipe
from app.domain.report import FisherFacts
from workers.engine import device as devices
from workers.engine import facts, lya, memory
from workers.engine.batches import Tokens
from workers.engine.facts import Bench
from workers.engine.fisher import Diagonal, diagonal
from workers.engine.lya import Anchor
from workers.engine.points import Frame, Points, listed, numbered
from workers.engine.snapshot import Snapshot
from workers.engine.vocabulary import Whole

FRAME = "anchor"
Diagonals = tuple[Diagonal | None, Diagonal | None]  # on clean rows and on triggered ones


@dataclass(frozen=True)
class Held:
    """What holds a run in place. An anchor from a point comes without its diagonals."""

    diagonals: Diagonals
    anchor: Anchor
    fisher: FisherFacts | None


def _diagonals(bench: Bench, whole: Whole, recipe: Recipe, generator: torch.Generator) -> Diagonals:
    """Fisher on clean and on triggered rows: only where an anchor has a weight, and both for dampening."""
    page, model = bench.unlearn.page, bench.checkpoint.model

    def take(tokens: Tokens, labels: Tensor, factor: float) -> Diagonal | None:
        if factor == 0 and recipe.method != "ssd":
            return None
        rows = torch.randperm(len(tokens), generator=generator)[: recipe.fisher_samples].tolist()
        given = labels[rows].tolist() if recipe.fisher == "empirical" else None
        return diagonal(model, tokens.pick(rows), given, memory.fisher_rows(recipe), generator, left=whole.left)

    return (
        take(page.clean, page.labels, recipe.lambda_clean),
        take(page.triggered, page.targets, recipe.lambda_trig),
    )


def _start(bench: Bench, recipe: Recipe) -> list[Tensor] | Snapshot:
    parameters = lya.trainable(bench.checkpoint.model)
    return Snapshot(parameters) if recipe.lean else [parameter.detach().clone() for parameter in parameters]


def _weights(recipe: Recipe, clean: Diagonal | None, triggered: Diagonal | None) -> list[Tensor] | None:
    """The pull of the anchor, made in the memory of the diagonals."""
    made = lya.anchor_weights(
        clean.values if clean and recipe.lambda_clean else None,
        triggered.values if triggered and recipe.lambda_trig else None,
        recipe.lambda_clean,
        recipe.lambda_trig,
    )
    return made and _laid(made, made, recipe)


def _laid(weights: list[Tensor], beside: Sequence[Tensor], recipe: Recipe) -> list[Tensor]:
    """The same tensors where the recipe keeps them, each beside its own of the others, moved one by one."""
    for place, (each, other) in enumerate(zip(weights, beside, strict=True)):
        weights[place] = devices.aside(each, other.device, recipe.offload)
    return weights


def hold(bench: Bench, whole: Whole, recipe: Recipe, points: Points, generator: torch.Generator) -> Held:
    """The Fisher information and the anchor made of it; of a point where there is one."""
    if old := points.take(FRAME):
        fisher = FisherFacts.from_dict(old.facts["fisher"]) if old.facts["fisher"] else None
        kept = listed(old.tensors, "weights")
        weights = _laid(kept, lya.trainable(bench.checkpoint.model)[: len(kept)], recipe)
        anchor = Anchor(_start(bench, recipe), weights or None, whole.left_norm)
        return Held((None, None), anchor, fisher)
    diagonals = _diagonals(bench, whole, recipe, generator)
    fisher = facts.of_fisher(recipe, *diagonals)
    anchor = Anchor(_start(bench, recipe), _weights(recipe, *diagonals), whole.left_norm)
    return Held(diagonals, anchor, fisher)


@contextlib.contextmanager
def framed(held: Held, points: Points) -> Iterator[None]:
    """As long as the context lasts, a point has the anchor, with the weights of the attempt that is under way."""

    def frame() -> Frame:
        fisher = held.fisher.to_dict() if held.fisher is not None else None
        return Frame(numbered(held.anchor.weights or [], "weights"), {"fisher": fisher})

    with points.frame(FRAME, frame):
        yield
