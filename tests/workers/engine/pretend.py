"""A machine with several devices, all of them pretended by the one CPU: `cpu:1`, `cpu:2` and so on.

    with several_devices():
        sanitize(..., device="cpu:1,cpu:2")

A tensor there keeps its numbers in one on the CPU, so an operation gives what it gives there. As on GPUs, one over
tensors of more than one device fails. Exceptions are those of torch: copies, an index from the CPU,
single numbers from the CPU, and the foreach operations, which go tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

CPU = torch.device("cpu")
ATEN: Any = torch.ops.aten
APART = ("copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_")


class Pretended(Tensor):
    """A tensor that says it is on `device`, with its numbers in `inner`, on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, device: torch.device) -> Pretended:
        made = Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=device,
            requires_grad=inner.requires_grad,
        )  # fmt: skip
        made.inner = inner
        return made

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inner.untyped_storage()

    @classmethod
    def __torch_dispatch__(
        cls, call: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _work_out(call, args, kwargs or {})


class _Machine(TorchDispatchMode):
    """So that tensors are also made on a pretended device."""

    def __torch_dispatch__(
        self, call: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _work_out(call, args, kwargs or {})


class _Making(TorchFunctionMode):
    """So that `torch.tensor`, which no dispatch mode sees through, makes them there too."""

    def __torch_function__(
        self, call: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if call is not torch.tensor:
            return call(*args, **given)
        place = given.pop("device", None)
        made = call(*args, **given)
        return made if place is None else made.to(place)


@contextmanager
def several_devices() -> Iterator[None]:
    """The pretended machine, as long as the context lasts."""
    future: Any = torch.__future__
    overwrites = future.get_overwrite_module_params_on_conversion()
    future.set_overwrite_module_params_on_conversion(True)  # a parameter cannot become of another class in place
    try:
        with _Making(), _Machine():
            yield
    finally:
        future.set_overwrite_module_params_on_conversion(overwrites)


def _work_out(call: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    asked = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
    if (asked is None or asked.index is None) and not any(isinstance(each, Pretended) for each in tensors):
        return call(*args, **kwargs)
    _check_places(call, tensors)
    plain = {key: CPU if key == "device" and value is not None else value for key, value in kwargs.items()}
    if call is ATEN._to_copy.default:
        plain.pop("device", None)  # a copy in any case
    args_inside, plain = tree_map(_inside, (tuple(args), plain))
    found = call(*args_inside, **plain)
    if _is_foreach(call):
        return found if found is None else [_beside(one, other) for one, other in zip(found, args[0], strict=True)]
    if call is ATEN.copy_.default:
        return args[0]
    place = asked or next(each.device for each in tensors if isinstance(each, Pretended))
    if place.index is None:
        return found
    made = tree_map(lambda each: Pretended(each, place) if isinstance(each, Tensor) else each, found)
    return return_and_correct_aliasing(call, args, kwargs, made)


def _check_places(call: Callable[..., Any], tensors: Sequence[Tensor]) -> None:
    if _is_apart(call):
        return
    places = {each.device for each in tensors if each.dim() or isinstance(each, Pretended)}
    if len(places) > 1:
        raise RuntimeError(f"{call}: expected all tensors on one device, found {sorted(map(str, places))}")


def _is_apart(call: Any) -> bool:
    return call.overloadpacket.__name__ in APART or _is_foreach(call)


def _is_foreach(call: Any) -> bool:
    return bool(call.overloadpacket.__name__.startswith("_foreach"))


def _inside(value: Any) -> Any:
    return value.inner if isinstance(value, Pretended) else value


def _beside(found: Tensor, other: Tensor) -> Tensor:
    return Pretended(found, other.device) if isinstance(other, Pretended) else found
