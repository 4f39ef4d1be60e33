"""Forward passes in bfloat16 on a CPU, where torch's autocast alone falls short.

Guarantees: a linear layer keeps its input in bfloat16 for the backward pass and no copy of its weight, so a run takes
hardly more memory than in float32; attention is worked out in float32, as its backward pass in bfloat16 takes several
times as long; gradients of weights come in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

NATIVE = ("avx512_bf16", "amx_bf16")  # of x86; others lack the backward pass or gain nothing


def native() -> bool:
    """Whether this CPU multiplies in bfloat16; False where this version of torch cannot tell."""
    found = getattr(torch.cpu, "get_capabilities", dict[str, bool])()
    return any(found.get(name) for name in NATIVE)


class OnCpu(TorchFunctionMode):
    """As long as the context lasts, within autocast, linear layers and attention are as this module says."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.linear:
            return _linear(*args, **kwargs)
        if func is functional.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        return func(*args, **kwargs)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        found: Tensor = _Linear.apply(input.bfloat16(), weight, bias)  # type: ignore[no-untyped-call]
    return found


def _attention(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        wide = [_widened(each) for each in (query, *args)]
        found = functional.scaled_dot_product_attention(
            *wide, **{name: _widened(each) for name, each in kwargs.items()}
        )
    return found.to(query.dtype)


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


class _Linear(torch.autograd.Function):
    """x W^T + b of a bfloat16 x [..., n] and float32 W [m, n], b [m]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return functional.linear(x, weight.bfloat16(), None if bias is None else bias.bfloat16())

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        slope = slopes[0].bfloat16()
        for_x, for_weight, for_bias = ctx.needs_input_grad
        rows = slope.flatten(0, -2)
        return (
            slope @ weight.bfloat16() if for_x else None,
            (rows.T @ x.flatten(0, -2)).float() if for_weight else None,
            rows.sum(0, dtype=torch.float32) if for_bias else None,
        )
