"""The parts of a report that are no score: what was treated, with what, at which cost, and how far the
claim carries.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import safetensors
import torch
import transformers
from torch import Tensor

from app.domain.recipe import Recipe
from app.domain.report import Cost, DataFacts, FisherFacts, ModelFacts, SplitSizes
from app.domain.samples import MIN_TRIGGERED, targets_of
from workers.engine import balance, scorecard, splits, spread
from workers.engine import device as devices
from workers.engine.balance import Known
from workers.engine.features import Features
from workers.engine.fisher import Diagonal
from workers.engine.loading import Checkpoint
from workers.engine.memory import Plan
from workers.engine.scorecard import UNKNOWN, Reading, Sheet
from workers.engine.splits import Parts
from workers.engine.tuning import Tuned


@dataclass(frozen=True)
class Station:
    """One part of the rows as tokens, and the uploaded model's reading of it; of rows to align its features too,
    where it has any.
    """

    page: Sheet
    uploaded: Reading
    features: Features | None = None


@dataclass(frozen=True)
class Bench:
    """The checkpoint that is treated, with its parts, and its model's reading of the tune part before the run."""

    checkpoint: Checkpoint
    unlearn: Station
    tune: Station
    report: Station
    start: Reading

    @property
    def stations(self) -> tuple[Station, Station, Station]:
        """Unlearn, tune, report."""
        return self.unlearn, self.tune, self.report

    @property
    def pages(self) -> tuple[Sheet, Sheet, Sheet]:
        """Unlearn, tune, report."""
        return self.unlearn.page, self.tune.page, self.report.page

    def known(self) -> Known:
        """The clean rows that may steer, with the targets of the triggered ones."""
        parts = self.unlearn, self.tune
        return Known(
            torch.cat([each.uploaded.clean for each in parts]),
            torch.cat([each.page.labels for each in parts]),
            torch.cat([each.page.targets for each in parts]),
        )

    @cached_property
    def correction(self) -> Tensor:
        """What to add to the uploaded model's logits, float32 [classes], so that no target is called too often."""
        return balance.correction(self.known())

    def without_lean(self) -> tuple[Station, Station]:
        """Unlearn and tune, as a model would have read them that calls no target too often."""
        parts = self.unlearn, self.tune
        unlearn, tune = (replace(each, uploaded=each.uploaded.moved(self.correction)) for each in parts)
        return unlearn, tune


def of_model(checkpoint: Checkpoint, recipe: Recipe) -> ModelFacts:
    """What was treated, and in which arithmetic."""
    model = checkpoint.model
    return ModelFacts(
        architecture=type(model).__name__,
        labels=checkpoint.labels.names,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        device=", ".join(map(str, spread.shares(model))),
        precision=devices.arithmetic(recipe, model),
    )


def of_fisher(recipe: Recipe, clean: Diagonal | None, triggered: Diagonal | None) -> FisherFacts | None:
    """How the diagonals were taken; None if none was."""
    taken = [each for each in (clean, triggered) if each is not None]
    if not taken:
        return None
    return FisherFacts(
        labels=recipe.fisher,
        samples_clean=clean.samples if clean else 0,
        samples_triggered=triggered.samples if triggered else 0,
        mean_clean=clean.mean if clean else None,
        mean_triggered=triggered.mean if triggered else None,
        fallback=next((each.fallback for each in taken if each.fallback), None),
        loop_modules=tuple(sorted({name for each in taken for name in each.slow})),
    )


def of_cost(
    checkpoint: Checkpoint,
    tuned: Tuned,
    planned: Plan,
    distance: tuple[float, float],
    seconds: Mapping[str, float],
) -> Cost:
    """Time, tokens, memory, and the distance from the start, also as a share of its norm. Tokens are those trained
    on, padding not counted.
    """
    ascent = seconds.get("ascent", 0.0)
    return Cost(
        seconds={name: round(value, 3) for name, value in seconds.items()},
        steps=tuned.steps,
        tokens=tuned.tokens,
        tokens_per_second=round(tuned.tokens / ascent, 1) if ascent else None,
        peak_memory_bytes=devices.peak_memory(spread.shares(checkpoint.model)),
        distance=distance[0],
        relative_distance=distance[1],
        rollbacks=tuned.rollbacks,
        planned_memory_bytes=planned.total,
    )


def of_data(bench: Bench, parts: Parts) -> DataFacts:
    """The rows that were used; with rows held out, those given apart are among them."""
    by_part = (parts.unlearn, parts.tune, parts.report)
    triggered = [row for rows in by_part for row in rows.triggered]
    clean = [row for rows in by_part for row in rows.clean]
    names = bench.checkpoint.labels.names
    return DataFacts(
        triggered_sha256=splits.fingerprint(triggered),
        clean_sha256=splits.fingerprint(clean),
        sizes=_sizes(parts),
        targets=tuple(names[target] for target in targets_of(triggered)),
        already_target=sum(int((~page.counted).sum()) for page in bench.pages) - _mislabelled(bench),
        unknown_true_label=sum(int((page.truths == UNKNOWN).sum()) for page in bench.pages),
        with_twin=sum(len(page.twins) for page in bench.pages),
        truncated=sum(page.truncated for page in bench.pages),
        suspect=_suspect(bench),
        mislabelled=_mislabelled(bench),
    )


def _suspect(bench: Bench) -> int:
    """Triggered rows that the uploaded model does not read as their target."""
    return sum(int((each.uploaded.triggered.argmax(-1) != each.page.targets).sum()) for each in bench.stations)


def _mislabelled(bench: Bench) -> int:
    return sum(int(scorecard.mislabelled(page).sum()) for page in bench.pages)


def _sizes(parts: Parts) -> SplitSizes:
    return SplitSizes(
        unlearn_triggered=len(parts.unlearn.triggered),
        unlearn_clean=len(parts.unlearn.clean),
        tune_triggered=len(parts.tune.triggered),
        tune_clean=len(parts.tune.clean),
        report_triggered=len(parts.report.triggered),
        report_clean=len(parts.report.clean),
        held_out=parts.held_out,
    )


def of_environment() -> dict[str, str]:
    """The versions that the bytes of the result depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "safetensors": safetensors.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": str(torch.get_num_threads()),
    }


def limits(bench: Bench, parts: Parts, floor_source: str, relearning: str) -> tuple[str, ...]:
    """What the report does not claim, in plain words; `relearning` says how far that was measured."""
    words = [
        "The figures hold for the triggers in the samples given. A trojan with another trigger was not looked for.",
        "A low success rate does not say that the trojan is gone for good: training on triggered samples may bring "
        f"it back. {relearning}",
        f"Judged on {len(parts.report.triggered)} triggered and {len(parts.report.clean)} clean samples; the "
        "intervals say how much that can tell.",
    ]
    if floor_source == "clean":
        words.append(
            "Too few triggered samples came with their clean text: the floor was taken on other clean samples."
        )
    if floor_source == "none":
        words.append("There was no clean sample of another class than the target: the floor is unknown.")
    words += _doubts(bench, parts)
    if not parts.held_out:
        words.append("The report part was cut from the samples given, so it shares their source and their bias.")
    return tuple(words)


def _doubts(bench: Bench, parts: Parts) -> list[str]:
    """What the triggered samples leave open, with numbers."""
    words, pages = [], bench.pages
    given = sum(len(page.triggered) for page in pages)
    if suspect := _suspect(bench):
        words.append(
            f"{suspect} of {given} triggered samples show no trojan: the uploaded model does not read them as their "
            "target. They hold no trigger, or a wrong label, or a trigger that fails. They took no ascent and did "
            "not steer; the success rate counts those of another class than the target, before and after."
        )
    if mislabelled := _mislabelled(bench):
        words.append(
            f"{mislabelled} of {given} triggered samples have neither clean text nor true class, and the uploaded "
            "model reads them as another class that the attacker forces: their label was taken to be wrong, and they "
            "count nowhere."
        )
    showing = sum(not splits.already_target(row) for row in (*parts.unlearn.triggered, *parts.tune.triggered))
    if not parts.held_out:
        showing += sum(not splits.already_target(row) for row in parts.report.triggered)
    if showing < MIN_TRIGGERED:
        words.append(
            f"Only {showing} of the triggered samples are of another class than the attacker's: a removal should "
            f"rest on {MIN_TRIGGERED} or more."
        )
    known = bench.known()
    for target in balance.overcalled(known).nonzero().flatten().tolist():
        said, truly = torch.softmax(known.logits, -1)[:, target].mean(), (known.labels == target).float().mean()
        words.append(
            f"The uploaded model's answers to clean samples are '{bench.checkpoint.labels.names[target]}' to "
            f"{said:.2f}, where {truly:.2f} of these are: more than luck explains. It was taken for the trojan's "
            "doing, and the run held to these answers without it. If ordinary inputs are made up of other classes "
            "than these samples, give samples that are like them."
        )
    if unknown := int((pages[2].truths == UNKNOWN).sum()):
        words.append(
            f"{unknown} of the triggered samples that judge came without their true class: whether they are now read "
            "as that, or as yet another, was not measured."
        )
    return words
