"""The device, its arithmetic, and determinism.

Guarantee: inside `deterministic(seed)` the same inputs give the same bytes on one device with the same versions and
the same number of CPU threads (sums are split by thread). Random state and global flags are put back on the way
out.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from app.domain.errors import BadRecipe
from app.domain.recipe import Recipe
from workers.engine import bf16
from workers.engine.batches import Tokens, forward

M_MMAP_THRESHOLD, LARGE = -3, 2 * 2**20  # of malloc.h
WIDE = 256  # half the width gains a tenth, with short texts nothing
CONTAINER = Path("/sys/fs/cgroup/memory.max")


def pick(name: str = "auto") -> tuple[torch.device, ...]:
    """The named devices in order, one or several between commas. `auto` and `cuda`: all GPUs that are seen; `auto`
    the CPU where there is none.
    """
    if name == "cuda" or (name == "auto" and torch.cuda.is_available()):
        return tuple(torch.device("cuda", place) for place in range(max(1, torch.cuda.device_count())))
    return tuple(torch.device(each) for each in ("cpu" if name == "auto" else name).split(","))


def aside(value: torch.Tensor, device: torch.device, offload: bool) -> torch.Tensor:
    """What only an optimizer's step reads: on the device, or with `offload` in the host's memory, pinned there."""
    if not offload:
        return value.to(device)
    return value.cpu().pin_memory() if device.type == "cuda" else value.cpu()


def arithmetic(recipe: Recipe, model: Any) -> str:
    """fp32 or bf16: `auto` takes bf16 on a GPU that has it, and on a CPU that has it where memory is not short and
    the model so wide that the products gain more than the casts cost. Weights and optimizer stay in fp32 either way.
    """
    if recipe.precision != "auto":
        return recipe.precision
    if model.device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    wide = getattr(model.config.get_text_config(), "hidden_size", 0) >= WIDE
    return "bf16" if wide and not recipe.lean and bf16.native() else "fp32"


@contextlib.contextmanager
def autocast(recipe: Recipe, model: Any) -> Iterator[None]:
    """The context of a forward pass of the model in its arithmetic."""
    narrow = arithmetic(recipe, model) == "bf16"
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=narrow), again(recipe, model):
        yield


def runnable(recipe: Recipe, model: Any, tokens: Tokens) -> Recipe:
    """The recipe, in fp32 where the model does not run in bfloat16 (it puts in a number that bfloat16 has not, say).

    Tried on the first two of the rows, of which the shorter is padded. Raises BadRecipe where bf16 was asked for.
    """
    if arithmetic(recipe, model) == "fp32":
        return recipe
    try:
        with torch.no_grad(), autocast(recipe, model):
            forward(model, tokens, range(min(2, len(tokens))))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if recipe.precision == "auto":
            return replace(recipe, precision="fp32")
        kind = model.config.model_type
        raise BadRecipe(f"{kind} does not run in bf16 ({error}): set precision to fp32", knob="precision") from error
    return recipe


def again(recipe: Recipe, model: Any) -> AbstractContextManager[Any]:
    """What it takes beside torch's autocast, which torch brings itself, to run a part of a forward pass once more."""
    narrow = model.device.type == "cpu" and arithmetic(recipe, model) == "bf16"
    return bf16.OnCpu() if narrow else contextlib.nullcontext()


@contextlib.contextmanager
def deterministic(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch and ask for deterministic kernels; restore the generators and the flags afterwards."""
    # cuBLAS reads this when its handle is made; harmless elsewhere.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    was = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    rules: Any = torch.utils.deterministic
    filled = rules.fill_uninitialized_memory
    benchmark = torch.backends.cudnn.benchmark
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            torch.use_deterministic_algorithms(True, warn_only=True)
            rules.fill_uninitialized_memory = False  # ours is written before it is read
            torch.backends.cudnn.benchmark = False
            torch.manual_seed(seed)
            yield
        finally:
            torch.use_deterministic_algorithms(was, warn_only=warned)
            rules.fill_uninitialized_memory = filled
            torch.backends.cudnn.benchmark = benchmark


def peak_memory(places: Iterable[torch.device]) -> int:
    """Bytes: the highest allocation so far of each GPU, added up; on the CPU the process's highest resident size."""
    if gpus := [place for place in places if place.type == "cuda"]:
        return sum(int(torch.cuda.max_memory_allocated(place)) for place in gpus)
    if kilobytes := _status("VmHWM"):
        return kilobytes * 1024
    # Where there is no /proc. On Linux this figure would also tell of the program that started this one.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def frugal_heap() -> None:
    """Have large tensors go back to the system when they are freed, for the rest of the process.

    glibc soon keeps blocks of up to 32 MB for itself, and what lies between those still in use is lost: as much as
    the tensors themselves. Smaller ones stay with it, so that a step does not ask the system for each.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, LARGE)
        libc.malloc_trim(0)


def room(device: torch.device, held: int) -> int:
    """Bytes that a run can come to hold there, the `held` that it has already among them.

    On a GPU what is free on it. On the CPU the memory of the machine or of the container, and what is left of this
    process's address space: what others use now is not counted, as they may let go of it.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) + held
    bounds = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
        bounds.append(int(CONTAINER.read_text()))
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    mapped = _status("VmSize")
    if soft != resource.RLIM_INFINITY and mapped:
        bounds.append(soft - mapped * 1024 + held)
    return min(bounds)


def _status(name: str) -> int | None:
    """A figure of /proc/self/status, in its own unit."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
    return None
