"""Selective synaptic dampening: shrink the weights that matter more for the triggered rows than for the clean ones.

    theta_i = beta_i theta0_i,   beta_i = min(lambda F_clean,i / F_trig,i, 1)   where F_trig,i > alpha F_clean,i
    theta_i = theta0_i           elsewhere

J. Foster, S. Schoepf, A. Brintrup, 2024, "Fast Machine Unlearning Without Retraining Through Selective Synaptic
Dampening", AAAI 38, arXiv 2308.07707. There is no training. The paper takes the second Fisher over all the training
data, which nobody has here: the clean rows stand for it. Both diagonals are scaled to mean 1, as a converged trojan's
own is near zero; that rescales alpha and lambda. The paper searches alpha by hand, here the tune part does it.

Guarantees: every alpha is tried on the uploaded weights, never on dampened ones; the model ends in the state that
ranks best on the tune part, the uploaded one among them.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from app.domain.recipe import Recipe
from app.domain.report import StepMetric, Stop
from workers.engine import guards, lya, scorecard, stopping
from workers.engine.fisher import Diagonal
from workers.engine.stopping import Look
from workers.engine.tuning import Task, Tuned


def run(
    task: Task, clean: Diagonal, triggered: Diagonal, recipe: Recipe, on_step: Callable[[StepMetric], None]
) -> Tuned:
    """Try `recipe.steps` values of alpha, each one metric, and load the best state into `task.model`."""
    parameters, start, began = lya.trainable(task.model), task.anchor.start[:], time.perf_counter()
    opening = task.opening()
    best, seen, chosen = opening, opening, 0
    on_step(_metric(0, opening, {"seconds": 0.0}))
    tried = alphas(recipe)
    for step, alpha in enumerate(tried, start=1):
        share = _load(parameters, start, clean, triggered, alpha=alpha, strength=recipe.dampening)
        seen = _look(task, recipe)
        on_step(_metric(step, seen, {"alpha": alpha, "dampened": share, "seconds": time.perf_counter() - began}))
        if stopping.rank(seen, recipe) < stopping.rank(best, recipe):
            best, chosen = seen, step
    if chosen:
        _load(parameters, start, clean, triggered, alpha=tried[chosen - 1], strength=recipe.dampening)
    else:
        guards.restore(parameters, start)
    stop = _stop(stopping.meets(best, recipe), chosen, tried)
    return Tuned(stop, len(tried), 0, 0, best, seen)


def alphas(recipe: Recipe) -> list[float]:
    """`recipe.steps` values in equal ratios from alpha_high down to alpha_low, the mildest first."""
    high, low, count = recipe.alpha_high, recipe.alpha_low, recipe.steps
    return [high * (low / high) ** (place / max(1, count - 1)) for place in range(count)]


def dampen(weight: Tensor, clean: Tensor, triggered: Tensor, alpha: float, strength: float) -> tuple[Tensor, Tensor]:
    """The dampened weight and where it was selected; all of one shape. `strength` is lambda."""
    selected = triggered > alpha * clean
    # Where nothing is selected the quotient may be 0/0; it is not taken there.
    beta = (strength * clean / triggered).clamp_max(1.0)
    return torch.where(selected, beta * weight, weight), selected


def _load(
    parameters: list[Tensor],
    start: list[Tensor],
    clean: Diagonal,
    triggered: Diagonal,
    *,
    alpha: float,
    strength: float,
) -> float:
    """Put the weights of one alpha into the model; the share of them that was selected."""
    count = 0
    with torch.no_grad():
        for parameter, weight, kept, freed in zip(parameters, start, clean.values, triggered.values, strict=True):
            dampened, selected = dampen(weight, kept, freed, alpha, strength)
            parameter.copy_(dampened)
            count += int(selected.sum())
    return count / sum(parameter.numel() for parameter in parameters)


def _stop(met: bool, chosen: int, tried: list[float]) -> Stop:
    kept = f"alpha {tried[chosen - 1]:.3g} was kept" if chosen else "none was better than the uploaded weights"
    if met:
        return Stop("floor-reached", f"{len(tried)} values of alpha were tried; {kept}", len(tried), chosen)
    words = f"{len(tried)} values of alpha were tried and the stop rule never held; {kept}"
    return Stop("budget-spent", words, len(tried), chosen)


def _look(task: Task, recipe: Recipe) -> Look:
    return stopping.look(task.tune, scorecard.read(task.model, task.tune, recipe.batch_eval), task.uploaded)


def _metric(step: int, seen: Look, figures: dict[str, float]) -> StepMetric:
    shown = {"asr": seen.asr, "floor": seen.floor, "clean_accuracy": seen.clean_accuracy, "unease": seen.unease}
    return StepMetric(step, "ascent", None, {**figures, **shown})
