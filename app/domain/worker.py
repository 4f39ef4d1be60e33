"""A worker as others see it, and which jobs are for whom: queues by the size of the model.

    cpu      whatever fits an ordinary machine
    gpu      a model whose weights take more than LETHE_GPU_BYTES: on a CPU it would take hours
    large    one whose weights take more than LETHE_LARGE_BYTES: for machines with much memory

A worker serves all of them unless it is told which; so on one machine nothing waits for a queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from app.domain.confinement import Confinement

BYTES_OF_A_WEIGHT = 4  # fp32, as the engine loads them


class Queue(StrEnum):
    CPU = "cpu"
    GPU = "gpu"
    LARGE = "large"


@dataclass(frozen=True, slots=True)
class QueueSizes:
    """Above how many bytes of weights a model is for another queue."""

    gpu_bytes: int = 2 * 1024**3
    large_bytes: int = 16 * 1024**3

    def queue_for(self, parameters: int) -> Queue:
        """The queue of a model with so many parameters."""
        size = parameters * BYTES_OF_A_WEIGHT
        return Queue.LARGE if size > self.large_bytes else Queue.GPU if size > self.gpu_bytes else Queue.CPU


@dataclass(frozen=True, slots=True)
class Worker:
    """What a worker process says of itself; `seen_at` is the database's time when it last did. `busy` of its `slots`
    run a job now; one that is `draining` takes no more."""

    name: str
    version: str
    queues: tuple[str, ...]
    slots: int
    busy: int
    draining: bool
    devices: tuple[str, ...]
    sandbox: Confinement
    seen_at: datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """Without name and time, which are columns of their own."""
        said = {name: value for name, value in asdict(self).items() if name not in ("name", "seen_at", "sandbox")}
        return said | {"sandbox": self.sandbox.to_dict()}

    @classmethod
    def from_dict(cls, name: str, said: Mapping[str, Any], seen_at: datetime) -> Worker:
        return cls(
            name, said["version"], tuple(said["queues"]), said["slots"], said["busy"], said["draining"],
            tuple(said["devices"]), Confinement.from_dict(said["sandbox"]), seen_at,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Waiting:
    """One queue: jobs that wait and that run, and the seconds that the oldest has waited."""

    queue: str
    queued: int
    running: int
    oldest_seconds: float | None
