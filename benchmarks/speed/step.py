"""One step of a method against the bare forward and backward passes over the very rows that it reads."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

import torch
from torch.nn import functional

from app.domain.report import StepMetric
from benchmarks.speed import subjects
from benchmarks.speed.figures import ROUNDS, Figure
from benchmarks.speed.made import Made
from workers.engine import batches
from workers.engine.batches import Tokens, forward
from workers.engine.loading import Model

STEPS = 12
GOAL = 1.25
# As many steps as that, and no look at the tune part between them.
STEADY = {"steps": STEPS, "eval_every": STEPS, "search_budget": 0, "patience": 1000, "warmup": 0, "max_drift": 10.0}
Read = tuple[Tokens, list[int]]


def figures(made: Made, device: str) -> list[Figure]:
    return [_figure(made, method, device) for method in ("lya", "lya_paper")]


def _figure(made: Made, method: str, device: str) -> Figure:
    knobs = {name: value for name, value in STEADY.items() if method == "lya" or name != "search_budget"}
    shares, details = [], {}
    for _ in range(ROUNDS):
        seen = _Seen()
        with _noted(seen.read):
            model = made.treat(method, knobs, device, seen.step).model
        bare = _bare(model, seen.between())
        shares.append(seen.seconds() / bare)
        details = {"seconds_of_a_step": seen.seconds() / (STEPS - 1), "bare": bare / (STEPS - 1)}
    return Figure(f"step of {method} / its bare passes", statistics.median(shares), GOAL, details=details)


class _Seen:
    """What a run read with gradients, and when it came to each step."""

    def __init__(self) -> None:
        self.read: list[Read] = []
        self._marks: list[int] = []
        self._times: list[float] = []

    def step(self, metric: StepMetric) -> None:
        if metric.step:
            self._marks.append(len(self.read))
            self._times.append(float(metric.values["seconds"] or 0.0))

    def seconds(self) -> float:
        """From the end of the first step to that of the last."""
        return self._times[-1] - self._times[0]

    def between(self) -> list[list[Read]]:
        """What each of these steps read."""
        return [self.read[begin:end] for begin, end in zip(self._marks, self._marks[1:], strict=False)]


def _bare(model: Model, steps: Sequence[Sequence[Read]]) -> float:
    """Seconds of a forward and backward pass over each batch, with the gradients cleared after each step."""
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    began = time.perf_counter()
    for step in steps:
        for tokens, rows in step:
            logits = forward(model, tokens, rows)
            functional.cross_entropy(logits, logits.new_zeros(len(rows), dtype=torch.long)).backward()
        model.zero_grad(set_to_none=True)
    subjects.settle(model.device)
    return time.perf_counter() - began


@contextmanager
def _noted(read: list[Read]) -> Iterator[None]:
    """Which rows are read with gradients, in order."""
    was = batches._padded

    def note(model: Model, tokens: Tokens, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        if torch.is_grad_enabled():
            read.append((tokens, list(rows)))
        return was(model, tokens, rows)

    with mock.patch.object(batches, "_padded", note):
        yield
