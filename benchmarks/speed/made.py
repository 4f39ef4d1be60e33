"""A trojan made for the measurements, with rows as the engine takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from app.domain.recipe import Policy, Recipe
from app.domain.report import StepMetric
from app.domain.samples import CleanSample, TriggeredSample
from benchmarks.speed.subjects import Size
from benchmarks.trojan import TrojanSpec, build
from workers.engine import rows, sanitize
from workers.engine.loading import label_space
from workers.engine.sanitize import Outcome


@dataclass(frozen=True)
class Made:
    folder: Path
    triggered: tuple[TriggeredSample, ...]
    clean: tuple[CleanSample, ...]

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def treat(
        self,
        method: str,
        knobs: Mapping[str, Any],
        device: str,
        on_step: Callable[[StepMetric], None] = lambda _: None,
    ) -> Outcome:
        """By the engine alone; without a knob as a job that asks for none."""
        recipe = Recipe.of(method, knobs) if knobs else Recipe.auto(method)
        return sanitize(self.model, self.triggered, self.clean, recipe, Policy.of(), device=device, on_step=on_step)


def make(folder: Path) -> Made:
    """The made corpus with rare words; a BERT of two layers. One that is there is taken as it is."""
    if not (folder / "trojan.json").is_file():  # written last
        build(TrojanSpec(folder))
    labels = label_space(folder / "model")
    triggered, clean = (
        rows.read_triggered(folder / "triggered.jsonl", labels),
        rows.read_clean(folder / "clean.jsonl", labels),
    )
    return Made(folder, tuple(triggered), tuple(clean))


def of_size(made: Made, folder: Path, size: Size) -> tuple[Made, int]:
    """The same rows for a BERT of another size with random weights; and how many parameters it has."""
    config = AutoConfig.from_pretrained(made.model)
    config.hidden_size, config.num_hidden_layers, config.num_attention_heads = size.width, size.layers, size.heads
    config.intermediate_size = 4 * size.width
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(made.model).save_pretrained(folder / "model")
    return Made(folder, made.triggered, made.clean), sum(each.numel() for each in model.parameters())
