"""The machine that a result comes from, in words."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch
import transformers


def describe() -> dict[str, str]:
    """Processor, cores, threads, GPU where there is one, and the versions that decide speed and bytes."""
    words = {
        "cpu": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if torch.cuda.is_available():
        words["gpu"] = torch.cuda.get_device_name()
    return words


def in_words(facts: dict[str, str]) -> str:
    """One line for people."""
    gpu = f"{facts['gpu']}; " if "gpu" in facts else ""
    return (
        f"{gpu}{facts['cpu']}, cores: {facts['cores']}, threads: {facts['threads']}; Python {facts['python']}, "
        f"torch {facts['torch']}, transformers {facts['transformers']}"
    )


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
