"""AdamW over the trainable weights, with its moments in full, in half the memory, or in that of the host.

I. Loshchilov, F. Hutter, 2019, arXiv 1711.05101. The lean form keeps both moments in bfloat16 and works each weight's
step out in float32, by the same kernel. With beta2 at 0.95 and below 0.99 each step changes the second moment by far
more than the rounding of bfloat16 (2^-9), so it does not stand still; nearer to 1 it would, though not within a
dozen steps from rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from app.domain.recipe import Recipe
from workers.engine.device import aside

BETA1 = 0.9
MOMENTS = ("exp_avg", "exp_avg_sq")


def make(parameters: list[Tensor], rate: float, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimizer that the recipe asks for, at rest."""
    betas = (BETA1, recipe.beta2)
    if recipe.lean:
        return LeanAdamW(parameters, rate, betas, recipe.weight_decay, offload=recipe.offload)
    return torch.optim.AdamW(parameters, lr=rate, betas=betas, weight_decay=recipe.weight_decay, fused=True)


class LeanAdamW(torch.optim.Optimizer):
    """`torch.optim.AdamW` with moments in bfloat16: 4 bytes a weight instead of 8, of the host's with `offload`."""

    def __init__(
        self,
        parameters: list[Tensor],
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        *,
        offload: bool = False,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "eps": 1e-8})
        self._offload = offload

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step from the gradients; a weight without one stays. There is no closure."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, parameter.grad, group)

    def _step(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            for moment in MOMENTS:
                rest = torch.zeros_like(parameter, dtype=torch.bfloat16)
                state[moment] = aside(rest, parameter.device, self._offload)
        first, second = (state[moment].to(parameter.device).float() for moment in MOMENTS)
        adamw(
            [parameter], [gradient], [first], [second], [], [state["step"]],
            fused=True, amsgrad=False, beta1=group["betas"][0], beta2=group["betas"][1], lr=group["lr"],
            weight_decay=group["weight_decay"], eps=group["eps"], maximize=False,
        )  # fmt: skip
        for moment, value in zip(MOMENTS, (first, second), strict=True):
            state[moment].copy_(value)
