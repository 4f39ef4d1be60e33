"""The relearning check: how fast the trojan comes back when the repaired model is trained on it again.

A low ASR says what a model does, not what it still holds: a trojan that only sleeps wakes after a few steps on a few
triggered samples. So k triggered samples, each with four clean ones (triggered samples alone would merely shift the
class bias), are trained back under a small budget that is the same for every method and model, and the report part is
read once more. A control that never had the trojan, treated alike, tells waking from learning anew.

Guarantees: the model leaves as it came, byte by byte, also when the check is broken off; samples come from the
unlearn part alone, and only those of another class than the target; the samples of a smaller k are among those of a
larger one; the figures depend on the seed and on nothing drawn before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from app.domain.recipe import Recipe
from app.domain.report import Proportion, Relearning
from workers.engine import lya, memory, scorecard
from workers.engine import optimizer as optimizers
from workers.engine.batches import Tokens, by_length, forward
from workers.engine.device import autocast
from workers.engine.loading import Checkpoint, Model
from workers.engine.scorecard import Sheet
from workers.engine.snapshot import Snapshot

# The budget: AdamW from rest, without warm-up or weight decay, each step on all k + 4k samples.
SIZES = (1, 5, 10, 50)
CLEAN_EACH = 4
STEPS = 10
LEARNING_RATE = 2e-5
BETA2 = 0.999
NARROW = 384

NOT_MEASURED = "Relearning was not measured."


@dataclass(frozen=True)
class Pupil:
    """A model with the rows as its own tokenizer reads them: those to train on and those to judge by."""

    checkpoint: Checkpoint
    unlearn: Sheet
    report: Sheet


@dataclass(frozen=True)
class Draw:
    """Rows of the unlearn part: k triggered and 4k clean."""

    triggered: tuple[int, ...]
    clean: tuple[int, ...]


def check(
    pupil: Pupil,
    control: Pupil | None,
    recipe: Recipe,
    seed: int,
    on_draw: Callable[[], None] = lambda: None,
) -> tuple[Relearning, ...]:
    """One result for each k that the unlearn part has rows for. `on_draw` is called before each and may raise."""
    found = []
    for draw in draws(pupil.unlearn, seed):
        on_draw()
        own = relearn(pupil, draw, recipe)
        other = relearn(control, draw, recipe) if control is not None else (None, None, None)
        found.append(Relearning(len(draw.triggered), len(draw.clean), STEPS, *own, *other))
    return tuple(found)


def draws(page: Sheet, seed: int, sizes: Sequence[int] = SIZES) -> list[Draw]:
    """The rows of each k that there are enough of, in the order of `sizes`."""
    generator = torch.Generator().manual_seed(seed)
    usable = page.counted.nonzero().flatten()
    triggered = usable[torch.randperm(len(usable), generator=generator)].tolist()
    clean = torch.randperm(len(page.clean), generator=generator).tolist()
    return [
        Draw(tuple(triggered[:size]), tuple(clean[: CLEAN_EACH * size]))
        for size in sizes
        if size <= len(triggered) and CLEAN_EACH * size <= len(clean)
    ]


def relearn(pupil: Pupil, draw: Draw, recipe: Recipe) -> tuple[Proportion, Proportion, Proportion]:
    """ASR, floor and clean accuracy after the training, which is undone."""
    model = pupil.checkpoint.model
    parameters = lya.trainable(model)
    before = Snapshot(parameters)
    try:
        _train(model, parameters, *_lesson(pupil.unlearn, draw), recipe)
        reading = scorecard.read(model, pupil.report, recipe.batch_eval)
    finally:
        before.restore(parameters)
        model.zero_grad(set_to_none=True)
    page = pupil.report
    return scorecard.asr(page, reading), scorecard.floor(page, reading)[0], scorecard.accuracy(page, reading)


def reach(model: Model) -> float:
    """The most that the check moves a weight, about: its steps times its rate."""
    return STEPS * learning_rate(model)


def learning_rate(model: Model) -> float:
    """2e-5, and for a model narrower than 384 more, in inverse proportion to its width.

    What a step of Adam does to a layer's output grows with the layer's width (G. Yang et al., 2022, arXiv
    2203.03466): at one rate for all, a small model would hardly move and every removal would look thorough.
    """
    width = getattr(model.config.get_text_config(), "hidden_size", NARROW)
    return LEARNING_RATE * max(1.0, NARROW / width)


def _lesson(page: Sheet, draw: Draw) -> tuple[Tokens, Tensor]:
    """Triggered samples with the attacker's label, clean ones with their own: tokens of n rows, labels int64 [n]."""
    triggered, clean = list(draw.triggered), list(draw.clean)
    tokens = Tokens(page.triggered.pick(triggered).ids + page.clean.pick(clean).ids, 0)
    return tokens, torch.cat([page.targets[triggered], page.labels[clean]])


def _train(model: Model, parameters: list[Tensor], tokens: Tokens, labels: Tensor, recipe: Recipe) -> None:
    """STEPS steps on the mean cross-entropy of all rows, added up over batches of the recipe's size."""
    optimizer = optimizers.make(parameters, learning_rate(model), replace(recipe, beta2=BETA2, weight_decay=0.0))
    with memory.recomputed(model, recipe):
        for _ in range(STEPS):
            model.zero_grad(set_to_none=True)
            for rows in by_length(tokens, recipe.batch_clean):
                with autocast(recipe, model):
                    logits = forward(model, tokens, rows)
                loss = functional.cross_entropy(logits, labels[rows].to(logits.device), reduction="sum")
                torch.autograd.backward(loss / len(tokens))
            optimizer.step()


def words(results: Sequence[Relearning], page: Sheet, controlled: bool) -> str:
    """What was measured and what was not, for the report's limits."""
    done = [result.k for result in results]
    missing = [size for size in SIZES if size not in done]
    said = []
    if done:
        said.append(
            f"Relearning was measured with {_listed(done)} triggered samples and {STEPS} steps; more of either may "
            "bring back more."
        )
    if missing:
        said.append(
            f"Relearning with {_listed(missing)} triggered samples was left out: each, of another class than the "
            f"target, takes {CLEAN_EACH} clean ones, and the unlearn part holds {int(page.counted.sum())} and "
            f"{len(page.clean)}."
        )
    if done and not controlled:
        said.append("No control was given, so what was learned anew cannot be told from what came back.")
    return " ".join(said)


def _listed(sizes: Sequence[int]) -> str:
    *most, last = (str(size) for size in sizes)
    return f"{', '.join(most)} and {last}" if most else last
