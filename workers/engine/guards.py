"""What must hold before and after an optimizer step, and the way back to a state.

Guarantees: no step is taken on a loss or a gradient that is not finite; a run never ends in a state that was not
finite or lies further from the start than the recipe allows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

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
    return float(stacked(torch._foreach_norm(values)).norm())


def stacked(figures: Sequence[Tensor]) -> Tensor:
    """Single numbers from whichever devices, float64 [n] on that of the first."""
    return torch.stack([figure.to(figures[0].device) for figure in figures]).double()


def restore(parameters: list[Tensor], state: list[Tensor]) -> None:
    """Put a state back."""
    with torch.no_grad():
        torch._foreach_copy_(parameters, state)
