"""How fast the engine is, beside what people use today, in one run on one machine: `make bench-speed`.

    python -m benchmarks.speed [--device cpu] [--parts fisher,step,...] [--out var/bench]

Prints a table and writes speed.json and speed.svg. Ratios are medians of rounds taken by turns. Exit status 1 where a
goal is missed. The parts `fisher`, `step`, `memory`, `scaling` and `trainer` need the engine and torch alone; `job`
starts the service.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.efficacy.machine import describe, in_words
from benchmarks.speed import fisher, memory, scaling, step, trainer
from benchmarks.speed.figures import Figure
from benchmarks.speed.made import make
from benchmarks.speed.subjects import BERT_BASE, MINILM
from workers.engine import device as devices

PARTS = ("fisher", "step", "trainer", "memory", "scaling", "job")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--out", type=Path, default=Path("var/bench"))
    asked = parser.parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    machine, found = in_words(describe()), list[Figure]()
    print(machine)
    for name in asked.parts.replace(",", " ").split():
        for each in _part(name, devices.pick(asked.device)[0], asked.out)():
            found.append(each)
            print(_line(each), flush=True)
            _write(asked.out / "speed.json", machine, found)
    return 0 if all(each.met is not False for each in found) else 1


def _part(name: str, device: torch.device, out: Path) -> Callable[[], list[Figure]]:
    trojan = out / "speed-trojan"
    size = BERT_BASE if device.type == "cuda" else MINILM
    parts: dict[str, Callable[[], list[Figure]]] = {
        "fisher": lambda: fisher.figures(size, device),
        "step": lambda: step.figures(make(trojan), device.type),
        "trainer": lambda: trainer.figures(make(trojan), device.type),
        "memory": lambda: memory.figures(make(trojan).folder, device.type),
        "scaling": lambda: scaling.figures(device, out / "speed.svg"),
        "job": lambda: _job(trojan),
    }
    return parts[name]


def _job(folder: Path) -> list[Figure]:
    from benchmarks.speed import job  # noqa: PLC0415 - the one part that needs the service

    return job.figures(make(folder))


def _line(each: Figure) -> str:
    found = "-" if each.found is None else f"{each.found:.2f}"
    goal = "" if each.goal is None else f"{each.sense} {each.goal:g}"
    met = {True: "met", False: "MISSED", None: ""}[each.met]
    return f"{each.name:70} {found:>8} {goal:>14} {met:7} {each.words}"


def _write(file: Path, machine: str, found: list[Figure]) -> None:
    report: dict[str, Any] = {"machine": machine, "figures": [each.to_dict() for each in found]}
    file.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    sys.exit(main())
