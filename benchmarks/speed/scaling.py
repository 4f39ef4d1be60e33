"""Whether time grows in step with what there is to do: rows, tokens of a row, parameters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.figures import Figure, by_turns
from benchmarks.speed.fisher import Ground, ours
from benchmarks.speed.subjects import Size

SMALLEST = Size(layers=2, width=256, heads=4, rows=32, tokens=32, batch=16, spread=False)
DOUBLINGS = 3
GOAL = 1.25  # how much faster than the work the time may grow, from the smallest to the largest


def figures(device: torch.device, out: Path) -> list[Figure]:
    """Each grows eightfold while the others stand."""
    found, lines = [], {}
    for name, sizes in _series().items():
        points = []
        for size in sizes:
            ground = Ground(size, device)
            work = {"rows": size.rows, "tokens": size.tokens}.get(name) or _parameters(ground)
            points.append((float(work), by_turns({"Fisher": lambda ground=ground: ours(ground)}, 3)["Fisher"]))
        (least, first), (most, last) = points[0], points[-1]
        growth = (last / first) / (most / least)
        lines[name] = points
        found.append(Figure(f"Fisher: growth of time / growth of {name}", growth, GOAL, details={"points": points}))
    _draw(lines, out)
    return found


def _series() -> dict[str, list[Size]]:
    steps = [2**step for step in range(DOUBLINGS + 1)]
    return {
        "rows": [replace(SMALLEST, rows=SMALLEST.rows * step) for step in steps],
        "tokens": [replace(SMALLEST, tokens=SMALLEST.tokens * step) for step in steps],
        "parameters": [replace(SMALLEST, layers=SMALLEST.layers * step) for step in steps],
    }


def _parameters(ground: Ground) -> int:
    """Those that every token passes: embeddings are looked up."""
    return sum(each.numel() for name, each in ground.model.named_parameters() if "embeddings" not in name)


def _draw(lines: dict[str, list[tuple[float, float]]], out: Path) -> None:
    """Time against work, each as a multiple of the smallest, with the straight line beside it."""
    import matplotlib  # noqa: PLC0415 - not on every machine that measures

    matplotlib.use("svg")
    from matplotlib import pyplot  # noqa: PLC0415

    figure: Any
    figure, axes = pyplot.subplots(figsize=(6, 4))
    top = 2**DOUBLINGS
    axes.plot([1, top], [1, top], color="grey", linestyle=":", label="in step")
    for name, points in lines.items():
        (least, first) = points[0]
        axes.plot([work / least for work, _ in points], [time / first for _, time in points], marker="o", label=name)
    axes.set(xlabel="work, multiple of the smallest", ylabel="time, multiple of the smallest")
    axes.legend()
    figure.savefig(out, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
