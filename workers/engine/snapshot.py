"""A state of the weights in a file without a name, out of the process's memory.

Guarantees: what is read is what was written, byte by byte; the file is gone when nobody holds the snapshot, and when
the process ends; never is more than one tensor, or one stretch of them, in memory for it.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor


class Snapshot:
    """A copy of tensors. Raises OSError where there is no room for it."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._like = [torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") for tensor in tensors]
        self._devices = [tensor.device for tensor in tensors]
        sizes = [tensor.numel() * tensor.element_size() for tensor in tensors]
        self._begins = [0, *accumulate(sizes)]
        # Closed with the last reference to it: a context would have to be held open by every owner.
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        for tensor in tensors:
            self._file.write(_bytes(tensor.detach().cpu().contiguous()))
        self._file.flush()

    def __len__(self) -> int:
        return len(self._like)

    def __getitem__(self, some: slice) -> list[Tensor]:
        """Those tensors, read anew, each on the device that it came from."""
        return [self._read(place).to(self._devices[place]) for place in range(*some.indices(len(self)))]

    def restore(self, tensors: Sequence[Tensor]) -> None:
        """Put the copied values back, one tensor after the other."""
        with torch.no_grad():
            for place, tensor in enumerate(tensors):
                tensor.copy_(self._read(place))

    def mapped(self) -> list[Tensor]:
        """All tensors, read only where they are looked at; they keep the file."""
        if not self._begins[-1]:
            return self[:]
        view = mmap.mmap(self._file.fileno(), self._begins[-1], access=mmap.ACCESS_COPY)
        return [
            torch.frombuffer(view, dtype=like.dtype, count=like.numel(), offset=begin).view(like.shape)
            if like.numel()
            else torch.empty_like(like, device="cpu")
            for like, begin in zip(self._like, self._begins[:-1], strict=True)
        ]

    def _read(self, place: int) -> Tensor:
        found = torch.empty_like(self._like[place], device="cpu")
        self._file.seek(self._begins[place])
        if self._file.readinto(_bytes(found)) != found.numel() * found.element_size():
            raise OSError("a snapshot of the weights was cut short")
        return found


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data
