"""Where the time of a job goes: python -m benchmarks.profile [--device cpu] [--without-service]

One treatment of the made trojan by the engine, taken apart into load, tokenize, Fisher, unlearn, look, evaluate and
save, with its floating-point operations, its padding, its peak memory, and the share of the rate at which this
machine multiplies matrices; then the same as a job of the service, whose time beyond the engine's is the service's.
Writes var/bench/profile.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.efficacy.machine import describe, in_words
from benchmarks.speed.made import Made, make
from workers.engine import batches, loading, scorecard, tuning
from workers.engine import device as devices

# What is timed by itself, inside of which phase, and under which name.
TIMED = ((scorecard, "tokenize", "tokenize"), (tuning, "_look", "looks while unlearning"))
SQUARE = 2048


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--without-service", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("var/bench"))
    asked = parser.parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    made = make(asked.out / "speed-trojan")
    found = profile(made, asked.device)
    if not asked.without_service:
        found["seconds"]["service"] = _service(made)
    (asked.out / "profile.json").write_text(json.dumps(found, indent=1))
    print(table(found))
    return 0


def profile(made: Made, device: str) -> dict[str, Any]:
    """Seconds by part; operations of a second run with a counter, which would slow the first."""
    inner: dict[str, float] = defaultdict(float)
    padding = _Padding()
    with _timed(inner), padding.counted():
        outcome = made.treat("lya", {}, device)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        loading.save(outcome.model, outcome.tokenizer, folder)
    save = time.perf_counter() - began
    cost = outcome.report.cost
    seconds = {
        "load": cost.seconds["loading"] - inner["tokenize"], "tokenize": inner["tokenize"],
        "Fisher": cost.seconds["fisher"], "unlearn": cost.seconds["ascent"] - inner["looks while unlearning"],
        "looks while unlearning": inner["looks while unlearning"], "evaluate": cost.seconds["evaluating"],
        "save": save,
    }  # fmt: skip
    operations = _operations(made, device)
    busy = cost.seconds["fisher"] + cost.seconds["ascent"] + cost.seconds["evaluating"]
    rate = matrix_rate(devices.pick(device)[0])
    return {
        "machine": in_words(describe()), "seconds": seconds, "steps": cost.steps, "operations": operations,
        "matrix_rate": rate, "share_of_matrix_rate": operations / busy / rate,
        "padding_share": padding.share, "peak_memory_bytes": cost.peak_memory_bytes,
    }  # fmt: skip


def matrix_rate(device: torch.device) -> float:
    """Floating-point operations a second of one large product in float32 (bfloat16 on a GPU)."""
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    one = torch.randn(SQUARE, SQUARE, device=device, dtype=kind)
    best = 0.0
    for _ in range(6):
        began = time.perf_counter()
        one @ one
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2 * SQUARE**3 / (time.perf_counter() - began))
    return best


def _operations(made: Made, device: str) -> float:
    with FlopCounterMode(display=False) as counter:
        made.treat("lya", {}, device)
    return float(counter.get_total_flops())


def _service(made: Made) -> float:
    """Seconds of a job from request to result that no phase of the engine takes."""
    from benchmarks.speed.job import bring  # noqa: PLC0415 - what the engine does not need
    from client.api import LetheClient  # noqa: PLC0415
    from tests.service import running_service  # noqa: PLC0415

    with running_service() as running, LetheClient(running.url, running.facts["api_key"]) as lethe:
        brought = bring(lethe, made)
        began = time.perf_counter()
        job = lethe.wait(lethe.submit(*brought).id)
        whole = time.perf_counter() - began
        return whole - sum(lethe.report(job.id)["cost"]["seconds"].values())


@contextmanager
def _timed(seconds: dict[str, float]) -> Iterator[None]:
    def timed(was: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return was(*given, **named)
            finally:
                seconds[name] += time.perf_counter() - began

        return call

    with ExitStack() as patches:
        for room, function, name in TIMED:
            patches.enter_context(mock.patch.object(room, function, timed(getattr(room, function), name)))
        yield


class _Padding:
    """How many of the tokens that were read stand for nothing."""

    def __init__(self) -> None:
        self._all, self._real = 0, 0

    @property
    def share(self) -> float:
        return 1 - self._real / self._all

    @contextmanager
    def counted(self) -> Iterator[None]:
        was = batches.pad

        def pad(*given: Any) -> tuple[torch.Tensor, torch.Tensor]:
            ids, mask = was(*given)
            self._all, self._real = self._all + mask.numel(), self._real + int(mask.sum())
            return ids, mask

        with mock.patch.object(batches, "pad", pad):
            yield


def table(found: dict[str, Any]) -> str:
    whole = sum(found["seconds"].values())
    lines = [found["machine"]]
    lines += [f"{name:24} {each:8.2f} s {100 * each / whole:6.1f} %" for name, each in found["seconds"].items()]
    lines += [
        f"{'whole':24} {whole:8.2f} s, {found['steps']} steps",
        f"{found['operations'] / 1e12:.2f} TFLOP, {100 * found['share_of_matrix_rate']:.0f} % of the matrix rate of "
        f"{found['matrix_rate'] / 1e9:.0f} GFLOP/s; padding {100 * found['padding_share']:.0f} %; "
        f"peak memory {found['peak_memory_bytes'] / 2**20:.0f} MiB",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
