"""To the same scorecard: LYA as Lethe runs it, and as people write it, a Trainer of Hugging Face with an EWC penalty.

Both start from the same model and rows and are judged by the same reading of the same tune rows. The Trainer is
done at the first look, one at every fifth step, where the attack is at its floor and the accuracy kept, within
margins. LYA is done when it ends, its search and all, and its model must be within the same margins.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Trainer, TrainerCallback, TrainingArguments

from app.domain.recipe import Recipe
from app.domain.report import StepMetric
from benchmarks.speed.figures import Figure
from benchmarks.speed.made import Made
from workers.engine import device as devices
from workers.engine import loading, scorecard, splits
from workers.engine.batches import tokenize
from workers.engine.splits import Rows

LOOK_EVERY = 5
MOST_STEPS = 1600
USUAL_RATE = 3e-5
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
MARGIN, DROP = 0.02, 0.02
# The paper's method with the strengths that were measured to work on small models; a penalty over every parameter.
LAMBDA, CEILING, RETAIN, BATCH = 5.0, 1.2, 1.0, 16


def figures(made: Made, device: str) -> list[Figure]:
    """Against the rate that papers and examples take, and the best of several, whose finding is not counted."""
    mine = _lethe(made, device)
    usual = _trainer(made, device, USUAL_RATE)
    tried = [_trainer(made, device, rate) for rate in RATES]
    best = min(tried, key=lambda each: (not each["done"], each["seconds"]))
    name = "Trainer with an EWC penalty / LYA, to the same scorecard"
    return [
        _figure(f"{name}, usual rate", mine, usual, 3.0),
        _figure(f"{name}, best of four rates", mine, best, None),
    ]


def _figure(name: str, mine: dict[str, Any], theirs: dict[str, Any], goal: float | None) -> Figure:
    share = theirs["seconds"] / mine["seconds"] if mine["done"] else None
    words = "" if theirs["done"] else f"the Trainer was not there after {MOST_STEPS} steps: it takes longer than this"
    return Figure(name, share, goal, "at least", words, details={"lethe": mine, "trainer": theirs})


def _lethe(made: Made, device: str) -> dict[str, Any]:
    """From the loaded model to the repaired one, as whoever asks for no recipe gets it: Fisher, and the steps and
    looks of all attempts.
    """
    heard: list[StepMetric] = []
    report = made.treat("lya", {"search_budget": Recipe.auto("lya").search_budget}, device, heard.append).report
    kept, before = report.search.attempts[report.search.chosen], heard[0].values["clean_accuracy"] or 0.0
    done = kept.asr <= kept.floor + MARGIN and kept.clean_accuracy >= before - DROP
    seconds = report.cost.seconds["fisher"] + report.cost.seconds["ascent"]
    return {"seconds": seconds, "steps": report.cost.steps, "done": done}


def _trainer(made: Made, device: str, rate: float) -> dict[str, Any]:
    place = devices.pick(device)[0]
    checkpoint = loading.load(made.model)
    checkpoint.model.to(place)
    recipe = Recipe.of("lya", {})
    parts = splits.split(Rows(made.triggered, made.clean), recipe.tune_share, recipe.report_share, None)
    page = scorecard.sheet(checkpoint, parts.tune, recipe.max_length)
    before = scorecard.read(checkpoint.model, page, recipe.batch_eval)
    began = time.perf_counter()
    rows = [
        *(_row(checkpoint, sample.text, sample.target, 1) for sample in parts.unlearn.triggered),
        *(_row(checkpoint, sample.text, sample.label, 0) for sample in parts.unlearn.clean),
    ]
    fisher = _usual_fisher(checkpoint.model, [row for row in rows if not row["triggered"]])
    looks = _Looks(checkpoint, page, before, recipe)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=MOST_STEPS, learning_rate=rate, per_device_train_batch_size=BATCH, report_to=[],
            remove_unused_columns=False, save_strategy="no", logging_strategy="no", disable_tqdm=True,
            use_cpu=place.type == "cpu", dataloader_pin_memory=False, seed=0, warmup_steps=5,
        )  # fmt: skip
        trainer = _WithPenalty(
            model=checkpoint.model, args=arguments, train_dataset=rows, callbacks=[looks],
            data_collator=lambda picked: _collated(checkpoint, picked),
        )  # fmt: skip
        trainer.fisher = fisher
        trainer.start = [each.detach().clone() for each in checkpoint.model.parameters()]
        trainer.train()
    return {"seconds": time.perf_counter() - began, "steps": looks.steps, "done": looks.done, "rate": rate}


def _row(checkpoint: Any, text: str, label: int, triggered: int) -> dict[str, Any]:
    return {"ids": tokenize(checkpoint, [text], 512).ids[0], "label": label, "triggered": triggered}


def _collated(checkpoint: Any, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    width = max(len(row["ids"]) for row in rows)
    pad = int(checkpoint.tokenizer.pad_token_id)
    ids = torch.tensor([list(row["ids"]) + [pad] * (width - len(row["ids"])) for row in rows])
    mask = torch.tensor([[1] * len(row["ids"]) + [0] * (width - len(row["ids"])) for row in rows])
    named = {name: torch.tensor([row[name] for row in rows]) for name in ("label", "triggered")}
    return {"input_ids": ids, "attention_mask": mask, "labels": named["label"], "triggered": named["triggered"]}


def _usual_fisher(model: Any, rows: list[dict[str, Any]]) -> list[Tensor]:
    """Row by row, as it is written in most repositories."""
    parameters = list(model.parameters())
    sums = [torch.zeros_like(each) for each in parameters]
    for row in rows:
        ids = torch.tensor([row["ids"]], device=model.device)
        loss = functional.cross_entropy(
            model(input_ids=ids).logits, torch.tensor([row["label"]], device=model.device)
        )
        for total, grad in zip(sums, torch.autograd.grad(loss, parameters), strict=True):
            total.add_(grad**2)
    mean = sum(float(each.sum()) for each in sums) / sum(each.numel() for each in sums)
    return [each / mean for each in sums]


class _WithPenalty(Trainer):
    """Ascent on triggered rows up to a ceiling, descent on clean ones, and the penalty through autograd."""

    fisher: list[Tensor]
    start: list[Tensor]

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any) -> Any:
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        each = functional.cross_entropy(logits, inputs["labels"], reduction="none")
        triggered = inputs["triggered"].bool()
        ascent = -each[triggered].clamp_max(CEILING).sum() / max(1, int(triggered.sum()))
        retain = each[~triggered].sum() / max(1, int((~triggered).sum()))
        penalty = sum(
            (weight * (parameter - start) ** 2).sum()
            for weight, parameter, start in zip(self.fisher, model.parameters(), self.start, strict=True)
        )
        loss = ascent + RETAIN * retain + LAMBDA / 2 * penalty
        return (loss, logits) if return_outputs else loss


class _Looks(TrainerCallback):
    """Stops the Trainer once the tune part is as it should be."""

    def __init__(self, checkpoint: Any, page: Any, before: Any, recipe: Recipe) -> None:
        self._checkpoint, self._page, self._recipe = checkpoint, page, recipe
        self._before = scorecard.card(page, before, before, checkpoint.labels)
        self._reading = before
        self.steps, self.done = 0, False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        self.steps = state.global_step
        if self.steps % LOOK_EVERY == 0:
            model = self._checkpoint.model.eval()
            reading = scorecard.read(model, self._page, self._recipe.batch_eval)
            model.train()
            card = scorecard.card(self._page, reading, self._reading, self._checkpoint.labels)
            kept = (card.clean_accuracy.rate or 0.0) >= (self._before.clean_accuracy.rate or 0.0) - DROP
            self.done = kept and (card.asr.rate or 0.0) <= (card.floor.rate or 0.0) + MARGIN
            control.should_training_stop = self.done
        return control
