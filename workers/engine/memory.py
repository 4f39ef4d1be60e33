"""How much memory a run will take, told before it begins, and how it takes less.

Bytes for each weight that takes part, beside the 4 of its own:

    memory     theta0   anchor   gradient   moments   rehearsal
    full            4        2          4         8           1
    lean            -        2          4         4           1
    offload         -       (2)         4        (4)          1      in brackets: of the host's memory, not the GPU's

The best state so far, and but for `full` theta0 too, lie in files. `lean` and `offload` also work the activations of
a layer out again on the way back instead of keeping them (T. Chen et al., 2016, arXiv 1604.06174). What the
activations of a row take is measured on the longest one, so it holds for any architecture.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from app.domain.errors import TooLarge
from app.domain.recipe import Recipe
from workers.engine import device as devices
from workers.engine import lya
from workers.engine.batches import Tokens, forward
from workers.engine.device import autocast
from workers.engine.loading import Model

LEAN_FISHER_ROWS = 8  # rows of one pass for the Fisher information, which keeps all activations
GB = 1e9


@dataclass(frozen=True)
class Plan:
    """Bytes at most: the weights of the models, what is held for each that takes part, and activations; `host`: what
    lies in the host's memory, where the device has its own.
    """

    weights: int
    held: int
    activations: int
    host: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.held + self.activations


def fisher_rows(recipe: Recipe) -> int:
    """Rows of one pass for the Fisher information."""
    return min(recipe.batch_eval, LEAN_FISHER_ROWS) if recipe.lean else recipe.batch_eval


def plan(model: Model, read: Sequence[Tokens], recipe: Recipe, left: int = 0, beside: Iterable[Tensor] = ()) -> Plan:
    """What the run of `recipe` on `model` takes. `read`: the rows that it learns from; `left`: weights that were put
    aside; `beside`: weights of other models that are held as long.
    """
    numbers = sum(parameter.numel() for parameter in lya.trainable(model))
    weights = 4 * left + sum(each.nbytes for each in (*model.parameters(), *beside))
    diagonals = (recipe.lambda_clean > 0) + (recipe.lambda_trig != 0)
    longest = max((Tokens((ids,), 0) for tokens in read for ids in tokens.ids), key=lambda one: len(one.ids[0]))
    whole, kept = _activations(model, longest, recipe)
    stepping = 2 * (diagonals > 0) + (4 if recipe.lean else 8)
    host = stepping if recipe.offload and _apart(model) else 0
    each = (0 if recipe.lean else 4) + 4 + stepping - host + (recipe.rehearse > 0)
    most = max(len(tokens) for tokens in read)
    rows = min(max(recipe.batch_triggered, recipe.batch_clean), most)
    climbing = Plan(weights, numbers * each, kept * rows, numbers * host)
    rows = min(fisher_rows(recipe), recipe.fisher_samples, most)
    fisher = Plan(weights, numbers * 4 * diagonals, whole * rows)
    return max(climbing, fisher if diagonals else climbing, key=lambda plan: plan.total)


def _apart(model: Model) -> bool:
    """Whether the device of the model has a memory of its own."""
    return bool(model.device.type != "cpu")


def _activations(model: Model, longest: Tokens, recipe: Recipe) -> tuple[int, int]:
    """Bytes of one row that a backward pass keeps: without and with what `recipe` saves of them."""
    whole = _saved(model, longest, recipe)
    if not recipe.lean:
        return whole, whole
    with recomputed(model, recipe):
        edges = _saved(model, longest, recipe)
    layers = max(1, int(getattr(model.config.get_text_config(), "num_hidden_layers", 1)))
    return whole, min(whole, edges + whole // layers)


def _saved(model: Model, row: Tokens, recipe: Recipe) -> int:
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        autocast(recipe, model),
    ):
        forward(model, row, [0])
    return sum(sizes.values())


@contextlib.contextmanager
def recomputed(model: Model, recipe: Recipe) -> Iterator[None]:
    """As long as the context lasts, activations are worked out again instead of kept, and weights are cast anew for
    each use, if the recipe is lean. The model stays in evaluation mode: its layers alone are told that they train, to
    be asked for that, and neither what is in them nor they themselves while they run.
    """
    modules = model.modules() if recipe.lean else ()
    layers = [each for each in modules if isinstance(each, GradientCheckpointingLayer)]
    config = model.config.get_text_config()
    cache = getattr(config, "use_cache", None)
    casts = torch.is_autocast_cache_enabled()
    try:
        torch.set_autocast_cache_enabled(casts and not recipe.lean)
        for layer in layers:
            layer.gradient_checkpointing = layer.training = True
            layer._gradient_checkpointing_func = _again(layer, recipe, model)
        if layers and cache:
            config.use_cache = False  # a layer that is run twice would add to it twice
        yield
    finally:
        torch.set_autocast_cache_enabled(casts)
        for layer in layers:
            layer.gradient_checkpointing = layer.training = False
        if layers and cache:
            config.use_cache = cache


def _again(layer: Any, recipe: Recipe, model: Model) -> Callable[..., Any]:
    """What runs a layer that is told to train: as if it were not (some drop out by that flag), and once more on the
    way back.
    """

    def as_evaluated(run: Callable[..., Any], *given: Any) -> Any:
        layer.training = False
        try:
            return run(*given)
        finally:
            layer.training = True

    return lambda run, *given: checkpoint(
        partial(as_evaluated, run),
        *given,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (contextlib.nullcontext(), devices.again(recipe, model)),
    )


def check(planned: Plan, shares: Mapping[torch.device, float], recipe: Recipe) -> None:
    """Raises TooLarge, with the numbers, where a device cannot hold its share of the run."""
    for device, share in shares.items():
        room = devices.room(device, round(share * planned.weights))
        if share * planned.total > room:
            raise _too_large(planned, device, share, room, recipe)
    _check_host(planned)


def _too_large(planned: Plan, device: torch.device, share: float, room: int, recipe: Recipe) -> TooLarge:
    smaller = "smaller batches or a smaller max_length"
    saved = {"full": "memory lean, or smaller batches", "lean": f"memory offload on a GPU, {smaller}"}
    advice = saved.get(recipe.memory, smaller)
    there = "and" if share == 1.0 else f"{share * planned.total / GB:.1f} of it on {device}, and"
    return TooLarge(
        f"The run would take {planned.total / GB:.1f} GB ({planned.weights / GB:.1f} for the weights, "
        f"{planned.held / GB:.1f} for what training holds beside them, {planned.activations / GB:.1f} for "
        f"activations), {there} {device} has {room / GB:.1f}: choose {advice}, or a worker with more memory.",
        needed=round(share * planned.total),
        limit=room,
    )


def _check_host(planned: Plan) -> None:
    room = devices.room(torch.device("cpu"), 0)
    if planned.host > room:
        raise TooLarge(
            f"With memory offload the run would take {planned.host / GB:.1f} GB of the host's memory, which has "
            f"{room / GB:.1f}: choose memory lean, or a worker with more memory.",
            needed=planned.host,
            limit=room,
        )
