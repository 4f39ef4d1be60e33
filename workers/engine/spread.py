"""Where a model lies: on one device, or where that is too small, its layers over several.

A row walks through the layers from device to device, one of which works at a time; what is held for a weight lies
beside it. Guarantees: a model that is spread computes what it would on one device; no layer is cut; what goes in and
what comes out is on the first device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from workers.engine import device as devices
from workers.engine.loading import Model

READ = 1.25  # of the bytes of its weights: what a model takes that is read


def to_read(model: Model) -> int:
    """Bytes that it takes to read rows with the model, about."""
    return round(READ * _size(model))


def settle(model: Model, places: Sequence[torch.device], needed: int) -> None:
    """Move a model to the first of the places; where that cannot hold the `needed` bytes, over as many as it takes,
    or over all where they are too few (memory.check tells). It never goes to fewer than it lies on.
    """
    if len(places) == 1:
        model.to(places[0])
        return
    lies, rooms, laid = _bytes(model), list[int](), dict[str, int]()
    least = max(1, sum(place in lies for place in places))
    for place in places:  # one after the other: to ask a GPU takes memory there
        rooms.append(devices.room(place, lies.get(place, 0)))
        laid = layout(model, rooms)
        if len(rooms) >= least and _fits(model, laid, rooms, needed):
            break
    if len(set(laid.values())) == 1:
        model.to(places[0])
    elif len(rooms) > least:
        _dispatch(model, {name: places[place] for name, place in laid.items()})


def gather(model: Model) -> None:
    """A model that is spread becomes a plain one, on the CPU."""
    if len(_bytes(model)) > 1:
        _unhook(model)


def layout(model: Model, rooms: Sequence[int]) -> dict[str, int]:
    """For each block of the model, by name, which of the devices takes it: layers in order, in proportion to their
    rooms. What comes before the first layer goes to the first device, and what follows the last one stays with it.
    """
    blocks = [(name, block, _size(block)) for name, block in _blocks("", model)]
    whole = max(1, sum(size for *_, size in blocks))
    ends = [sum(rooms[: place + 1]) / max(1, sum(rooms)) for place in range(len(rooms) - 1)]
    laid, below, latest = dict[str, int](), 0, 0
    for name, block, size in blocks:
        if isinstance(block, GradientCheckpointingLayer):
            latest = sum(end < (below + size / 2) / whole for end in ends)
        laid[name] = latest
        below += size
    return laid


def shares(model: Model) -> dict[torch.device, float]:
    """Of each device that the model lies on, the share of the weights there."""
    lies = _bytes(model)
    return {place: size / sum(lies.values()) for place, size in lies.items()}


def _fits(model: Model, laid: Mapping[str, int], rooms: Sequence[int], needed: int) -> bool:
    """Whether each of the devices holds its part of the needed bytes."""
    parts = [0] * len(rooms)
    for name, place in laid.items():
        parts[place] += _size(model.get_submodule(name))
    return all(part / max(1, sum(parts)) * needed <= room for part, room in zip(parts, rooms, strict=True))


def _blocks(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The parts that are not cut, in order: layers, and what holds none or has weights of its own beside them."""
    own = next(module.parameters(recurse=False), None) is not None
    holds = any(isinstance(each, GradientCheckpointingLayer) for each in module.modules())
    if own or not holds or isinstance(module, GradientCheckpointingLayer):
        yield name, module
        return
    for child, each in module.named_children():
        yield from _blocks(f"{name}.{child}" if name else child, each)


def _size(module: nn.Module) -> int:
    return sum(weight.nbytes for weight in module.parameters())


def _bytes(model: Model) -> dict[torch.device, int]:
    found: dict[torch.device, int] = {}
    for weight in model.parameters():
        found[weight.device] = found.get(weight.device, 0) + weight.nbytes
    return found


def _dispatch(model: Model, laid: dict[str, torch.device]) -> None:
    from accelerate import dispatch_model  # noqa: PLC0415 (a second or two, for the few models that need it)

    _unhook(model)  # so that no device holds a part twice
    first, skipped = next(iter(laid.values())), model._skip_keys_device_placement
    dispatch_model(model, {name: str(place) for name, place in laid.items()}, str(first), skip_keys=skipped)


def _unhook(model: Model) -> None:
    from accelerate.hooks import remove_hook_from_module  # noqa: PLC0415

    remove_hook_from_module(model, recurse=True)
    model.cpu()
