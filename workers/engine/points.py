"""Resume points: the state of a run, written now and then, from which a later process goes on as if nothing had been.

A run is a nest of loops (a search, an attempt of it). Each loop that is entered lays a *frame*: its name, and how to
tell its state as tensors and plain values. A point is all frames that are open. What is cheap to work out again from
the uploaded model and the samples (tokens, the uploaded model's readings, the order of batches) is not kept.

    state.safetensors    the tensors, as "<frame>/<name>"; "<name>.<i>" where there is one for each parameter
    state.json           {"version", "fingerprint", "step", "frames": {<frame>: values}}

Guarantees: a point is read by safetensors and JSON alone, and its tensors by the shapes of the model; one of another
run (recipe, seed, samples, shapes of the weights, or the engine's own code) is not taken; whether and when points are
written changes no result; writing them takes at most COST of the run's time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

VERSION = 1
TENSORS, FACTS = "state.safetensors", "state.json"
COST = 0.05  # of the run's time at most
TWICE = 2.0  # whoever keeps a point reads it once more
FIRST_RATE = 200e6  # bytes a second, until a point has been written and timed
LEAST_SECONDS = 1.0  # between two points of a model so small that none costs anything


class BadPoint(ValueError):
    """The point cannot be read, or is of another run. Begin again, or take an older one."""


@dataclass(frozen=True)
class Frame:
    """What one loop needs to go on."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Points:
    """Where a run keeps its points. `keep(folder, step)` takes over a folder with the two files, and is called on the
    run's own thread; `root` is where the folders are made, and `found` a folder to go on from. Without `root` nothing
    is written.
    """

    root: Path | None = None
    found: Path | None = None
    keep: Callable[[Path, int], None] = lambda folder, step: None
    clock: Callable[[], float] = time.monotonic
    least_seconds: float = LEAST_SECONDS
    before: int = 0  # steps of the attempts before this one
    _fingerprint: str = ""
    _frames: list[tuple[str, Callable[[], Frame]]] = field(default_factory=list)
    _old: dict[str, Frame] = field(default_factory=dict)
    _not_before: float | None = None
    _count: int = 0

    def open(self, fingerprint: str, parameters: Sequence[Tensor]) -> bool:
        """Name the run, and read the point to go on from; whether there is one. Raises BadPoint."""
        shapes = ",".join(f"{tuple(each.shape)}" for each in parameters)
        text = "\n".join((fingerprint, shapes, own_code()))
        self._fingerprint = hashlib.sha256(text.encode()).hexdigest()
        if self.found is not None:
            self._old = _read(self.found, self._fingerprint, [tuple(each.shape) for each in parameters])
        return self.found is not None

    def take(self, name: str) -> Frame | None:
        """The state of that frame in the point, once."""
        return self._old.pop(name, None)

    @contextlib.contextmanager
    def frame(self, name: str, state: Callable[[], Frame]) -> Iterator[None]:
        """As long as the context lasts, `state` tells what to keep of this loop."""
        self._frames.append((name, state))
        try:
            yield
        finally:
            self._frames.pop()

    def offer(self, step: int) -> None:
        """A moment at which all frames can be told. Writes a point if it is time."""
        if self.root is None:
            return
        now = self.clock()
        frames = {name: state() for name, state in self._frames} if self._due(now) else None
        if frames is None:
            return
        if self._not_before is None:  # the first moment: how large is it?
            size = sum(tensor.nbytes for frame in frames.values() for tensor in frame.tensors.values())
            self._space(now, TWICE * size / FIRST_RATE)
            return
        folder = self._write(frames, step)
        self._space(self.clock(), TWICE * (self.clock() - now))
        self.keep(folder, self.before + step)

    def _due(self, now: float) -> bool:
        return self._not_before is None or now >= self._not_before

    def _space(self, now: float, cost: float) -> None:
        self._not_before = now + max(self.least_seconds, cost / COST)

    def _write(self, frames: Mapping[str, Frame], step: int) -> Path:
        assert self.root is not None
        self._count += 1
        folder = self.root / f"{self._count}.part"
        folder.mkdir(parents=True)
        tensors = {
            f"{name}/{key}": tensor.detach().to("cpu").contiguous()
            for name, frame in frames.items()
            for key, tensor in frame.tensors.items()
        }
        save_file(tensors, folder / TENSORS)
        facts = {
            "version": VERSION,
            "fingerprint": self._fingerprint,
            "step": step,
            "frames": {name: frame.facts for name, frame in frames.items()},
        }
        (folder / FACTS).write_text(json.dumps(facts), encoding="utf-8")
        return folder.rename(self.root / str(self._count))


def _check(tensors: Mapping[str, Tensor], shapes: Sequence[tuple[int, ...]]) -> None:
    for key, tensor in tensors.items():
        name, _, place = key.rpartition(".")
        if name and not name.endswith("step") and tuple(tensor.shape) != shapes[int(place)]:
            raise BadPoint(f"{key} is {tuple(tensor.shape)}, and the parameter is {shapes[int(place)]}")


def numbered(tensors: Sequence[Tensor], name: str) -> dict[str, Tensor]:
    """A list of tensors as named ones; `listed` is the way back."""
    return {f"{name}.{place}": tensor for place, tensor in enumerate(tensors)}


def listed(tensors: Mapping[str, Tensor], name: str) -> list[Tensor]:
    """The tensors of `numbered`, in their order."""
    found = {int(key.removeprefix(f"{name}.")): each for key, each in tensors.items() if key.startswith(f"{name}.")}
    return [found[place] for place in sorted(found)]


@cache
def own_code() -> str:
    """SHA-256 of the engine's source: another engine may go on in another way."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _read(folder: Path, fingerprint: str, shapes: Sequence[tuple[int, ...]]) -> dict[str, Frame]:
    try:
        facts = json.loads((folder / FACTS).read_bytes())
        if facts["version"] != VERSION or facts["fingerprint"] != fingerprint:
            raise BadPoint("the point is of another run")
        tensors = load_file(folder / TENSORS)
        _check(tensors, shapes)
        frames = dict.fromkeys(facts["frames"])
        split = [(*key.split("/", 1), tensor) for key, tensor in tensors.items()]
        return {
            name: Frame({key: tensor for owner, key, tensor in split if owner == name}, facts["frames"][name])
            for name in frames
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise error if isinstance(error, BadPoint) else BadPoint(f"the point cannot be read: {error}") from error
