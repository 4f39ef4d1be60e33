"""A figure of a comparison: what was found beside its goal, by turns, so that a busy moment falls on all sides."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

ROUNDS = 5


@dataclass(frozen=True)
class Figure:
    """`found` None: it was not measured, and `words` say why. `goal` None: for comparison alone. `otherwise`: another
    figure and the most that it may be, which meets the goal as well.
    """

    name: str
    found: float | None
    goal: float | None = None
    sense: str = "at most"
    words: str = ""
    otherwise: tuple[float, float] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        if self.goal is None or self.found is None:
            return None
        if self.otherwise is not None and self.otherwise[0] <= self.otherwise[1]:
            return True
        return self.found <= self.goal if self.sense == "at most" else self.found >= self.goal

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


def by_turns(ways: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each way, one after the other in every round; each is run once before, uncounted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(each) for name, each in seconds.items()}
