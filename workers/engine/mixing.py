"""Fine-mixing: a random share of the uploaded weights, the rest from a clean checkpoint, then training on clean rows.

    theta_i = m_i theta0_i + (1 - m_i) base_i,   m_i = 1 with probability rho, else 0

Z. Zhang, L. Lyu, X. Ma, C. Wang, X. Sun, 2022, "Fine-mixing: Mitigating Backdoors in Fine-tuned Language Models",
Findings of EMNLP, arXiv 2210.09545. A small rho leaves little of the trojan and little of the task: rho is the
smallest that training on few clean rows can make good. Here shares are tried from low to high until the stop rule
holds. The classification head, which the pretrained encoder lacks, stays as uploaded.

Guarantees: a base that does not match the model weight by weight is refused before anything is trained; every share
is mixed from the uploaded weights, never from trained ones; the model ends in the state that ranks best on the tune
part.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from app.domain.errors import ModelRefused
from app.domain.recipe import Recipe
from app.domain.report import Stop
from workers.engine import loading, lya, points, scorecard, stopping, tuning
from workers.engine.loading import Checkpoint
from workers.engine.points import Frame
from workers.engine.snapshot import Snapshot
from workers.engine.stopping import Look
from workers.engine.tuning import OnStep, Task, Tuned

FRAME = "mixing"
BaseWeights = list[Tensor | None]  # in the order of the trainable parameters; None where the base has no such weight


@dataclass(frozen=True)
class _Kept:
    """The best try so far: the look at it, its stop in the steps of the whole run, and its parameters."""

    seen: Look
    stop: Stop
    state: Snapshot


@dataclass
class _Gone:
    """How far the tries are: those that are over, their sums, and the best of them."""

    tries: int = 0
    steps: int = 0
    tokens: int = 0
    rollbacks: int = 0
    best: _Kept | None = None

    def add(self, tuned: Tuned) -> None:
        self.tries += 1
        self.steps, self.tokens = self.steps + tuned.steps, self.tokens + tuned.tokens
        self.rollbacks += tuned.rollbacks


def base_weights(base_dir: str | Path, uploaded: Checkpoint) -> BaseWeights:
    """The clean checkpoint's weight for each of the uploaded model's, on the CPU; None for the head, and for a pooler
    that the clean one lacks. Raises ModelRefused where they are not of one make.
    """
    base, own = loading.load_encoder(base_dir, uploaded)
    _check_make(base, uploaded)
    theirs = {name: weight.detach() for name, weight in base.model.named_parameters() if name in own}
    ours = {name: weight for name, weight in uploaded.model.named_parameters() if weight.requires_grad}
    prefix = uploaded.model.base_model_prefix + "."
    needed = {name for name in ours if name.startswith(prefix) and ".pooler." not in name}
    if strange := sorted((needed - theirs.keys()) | (theirs.keys() - ours.keys())):
        raise ModelRefused(
            f"the base and the model do not have the same weights: {strange[0]} is in one alone. Name the "
            "checkpoint that the model was fine-tuned from",
            weights=strange[:50],
        )
    for name, weight in theirs.items():
        if weight.shape != ours[name].shape:
            raise ModelRefused(
                f"{name} is {list(weight.shape)} in the base and {list(ours[name].shape)} in the model: name the "
                "checkpoint that the model was fine-tuned from"
            )
    return [theirs.get(name) for name in ours]


def mix(uploaded: Tensor, base: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Each entry of `uploaded` with probability `share`, else that of `base`; all of one shape."""
    kept = torch.rand(uploaded.shape, generator=generator) < share  # drawn on the CPU: the same on every device
    return torch.where(kept.to(uploaded.device), uploaded, base.to(uploaded.device))


def run(task: Task, base: BaseWeights, recipe: Recipe, generator: torch.Generator, on_step: OnStep) -> Tuned:
    """Mix and train share by share until the stop rule holds, and load the best state into `task.model`."""
    parameters = lya.trainable(task.model)
    old = task.points.take(FRAME)
    gone = _gone_on(old) if old else _Gone()
    with task.points.frame(FRAME, lambda: _frame(gone)):
        for share, budget in tries(recipe)[gone.tries :]:
            if old is None:  # a point holds the weights as they were mixed and trained
                _load(parameters, task.anchor.start[:], base, share, generator)
                task = replace(task, start=scorecard.read(task.model, task.tune, recipe.batch_eval))
            old = None
            task.points.before = gone.steps
            hear = tuning.relay(on_step, gone.steps, keep_share=share)
            tuned = tuning.run(task, replace(recipe, steps=budget), generator, hear)
            if gone.best is None or stopping.rank(tuned.kept, recipe) < stopping.rank(gone.best.seen, recipe):
                gone.best = _Kept(tuned.kept, _stop(tuned.stop, share, gone.steps), Snapshot(parameters))
            gone.add(tuned)
            if stopping.meets(tuned.kept, recipe):
                break
    assert gone.best is not None
    gone.best.state.restore(parameters)
    stop = replace(gone.best.stop, step=gone.steps)
    return Tuned(stop, gone.steps, gone.tokens, gone.rollbacks, gone.best.seen, tuned.last)


def _frame(gone: _Gone) -> Frame:
    facts: dict[str, Any] = {name: getattr(gone, name) for name in ("tries", "steps", "tokens", "rollbacks")}
    if gone.best is None:
        return Frame({}, facts | {"best": None})
    best = {"seen": asdict(gone.best.seen), "stop": asdict(gone.best.stop)}
    return Frame(points.numbered(gone.best.state.mapped(), "state"), facts | {"best": best})


def _gone_on(old: Frame) -> _Gone:
    facts = dict(old.facts)
    best = facts.pop("best")
    if best is not None:
        best = _Kept(Look.of(best["seen"]), Stop(**best["stop"]), Snapshot(points.listed(old.tensors, "state")))
    return _Gone(**facts, best=best)


def tries(recipe: Recipe) -> list[tuple[float, int]]:
    """The shares from low to high, each with its part of `recipe.steps`."""
    count = min(recipe.keep_tries, recipe.steps)
    low = recipe.keep_share
    ends = [recipe.steps * place // count for place in range(count + 1)]
    return [(low + (1.0 - low) * place / count, ends[place + 1] - ends[place]) for place in range(count)]


def _load(
    parameters: list[Tensor], start: list[Tensor], base: BaseWeights, share: float, generator: torch.Generator
) -> None:
    with torch.no_grad():
        for parameter, weight, other in zip(parameters, start, base, strict=True):
            parameter.copy_(weight if other is None else mix(weight, other, share, generator))


def _stop(stop: Stop, share: float, before: int) -> Stop:
    words = f"with a share of {share:.3g} of the weights kept as uploaded, {stop.words}"
    return Stop(stop.code, words, before + stop.step, before + stop.kept_step)


def _check_make(base: Checkpoint, uploaded: Checkpoint) -> None:
    theirs, ours = base.model.config.model_type, uploaded.model.config.model_type
    if theirs != ours:
        raise ModelRefused(f"the base is a {theirs} and the model a {ours}: only weights of one make can be mixed")
    if base.tokenizer.get_vocab() != uploaded.tokenizer.get_vocab():
        raise ModelRefused("the tokenizers of the base and the model number other words: name a base with the same")
