"""What must hold before and after an optimizer step, and the states to fall back to.

Guarantees: no step is taken on a loss or a gradient that is not finite; a run never ends in a state that was not
finite or lies further from the start than the recipe allows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def bounded(loss: float, parameters: Iterable[Tensor], most: float) -> bool:
    """True if the loss and the gradient are finite; the gradient is then scaled down to the norm `most` (0 leaves
    it). One reading of the gradients serves both.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    size = norm(gradients) if gradients else 0.0
    if not (math.isfinite(loss) and math.isfinite(size)):
        return False
    if 0.0 < most < size:
        torch._foreach_mul_(gradients, most / size)
    return True


def norm(values: list[Tensor]) -> float:
    """The Euclidean norm over all tensors together."""
    return float(torch.stack(torch._foreach_norm(values)).double().norm())


def moved(parameters: list[Tensor], start: list[Tensor]) -> list[Tensor]:
    """The way from one state to another, tensor by tensor."""
    with torch.no_grad():
        return list(torch._foreach_sub(parameters, start))


def distance(parameters: list[Tensor], start: list[Tensor]) -> float:
    """The Euclidean distance between two states."""
    return norm(moved(parameters, start))


def snapshot(parameters: list[Tensor]) -> list[Tensor]:
    """A copy in the CPU's memory."""
    return [parameter.detach().to("cpu", copy=True) for parameter in parameters]


def restore(parameters: list[Tensor], state: list[Tensor]) -> None:
    """Put a snapshot back."""
    with torch.no_grad():
        torch._foreach_copy_(parameters, state)
