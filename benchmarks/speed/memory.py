"""Peak memory of a run beyond what the activations of its passes take, in sizes of the parameters.

    python -m benchmarks.speed.memory FOLDER KNOBS DEVICE     one measurement, in a process of its own; prints JSON

The batches are tiny, so that activations hardly count, and the model is large against everything else.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.speed.figures import Figure
from benchmarks.speed.made import make, of_size
from benchmarks.speed.subjects import Size

WIDE = Size(layers=6, width=768, heads=12, rows=0, tokens=0, batch=2)
SMALL = {
    "steps": 6, "eval_every": 3, "fisher_samples": 4, "batch_triggered": 1, "batch_clean": 1, "batch_eval": 1,
    "search_budget": 0, "max_length": 8,
}  # fmt: skip
GOALS: Mapping[str, tuple[Mapping[str, Any], float | None]] = {
    "lya": ({}, 6.0),
    "lya with lean memory": ({"memory": "lean"}, 4.0),
}
OFFLOAD = {"lya with offloaded memory": ({"memory": "offload"}, None)}  # where the device has a memory of its own


def figures(folder: Path, device: str) -> list[Figure]:
    found = []
    kinds = GOALS if device == "cpu" else {**GOALS, **OFFLOAD}
    for name, (knobs, goal) in kinds.items():
        command = [sys.executable, "-m", "benchmarks.speed.memory", str(folder), json.dumps(SMALL | knobs), device]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        told = json.loads(done.stdout.splitlines()[-1])
        share = told["peak_bytes"] / told["parameter_bytes"]
        found.append(Figure(f"peak memory of {name} / parameter bytes", share, goal, details=told))
    return found


def measure(folder: Path, knobs: Mapping[str, Any], device: str) -> dict[str, int]:
    """Bytes above what the process held after a run on a model of no size, which has loaded all of the program; on a
    GPU those of its own memory.
    """
    with tempfile.TemporaryDirectory() as place:
        small = make(folder)
        for precision in ("fp32", "bf16"):  # the wide model's may be another than a small one's
            small.treat("lya", SMALL | {"steps": 1, "precision": precision}, device)
        made, parameters = of_size(small, Path(place), WIDE)
        floor = 0 if device == "cuda" else psutil.Process().memory_info().rss
        peak = made.treat("lya", knobs, device).report.cost.peak_memory_bytes
    return {"peak_bytes": peak - floor, "parameter_bytes": parameters * 4, "floor_bytes": floor}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(measure(Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3])))
