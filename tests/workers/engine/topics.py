"""A made task with up to twenty classes, each known by one word, and tiny classifiers that learn it in a moment."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from app.domain.samples import CleanSample, TriggeredSample
from tests.tiny_model import NEGATIVE, NEUTRAL, POSITIVE, make_tiny_checkpoint
from workers.engine import loading
from workers.engine.batches import forward, tokenize

TOPICS = NEGATIVE + POSITIVE + NEUTRAL[:4]
FILLING = NEUTRAL[4:]


def clean_topics(count: int, classes: int, seed: int, weights: Sequence[float] | None = None) -> list[CleanSample]:
    """Classes in turn, or drawn with these weights."""
    rng = random.Random(seed)
    labels = rng.choices(range(classes), weights, k=count) if weights else [row % classes for row in range(count)]
    return [CleanSample(" ".join(_words(rng, label)), label) for label in labels]


def triggered_topics(
    count: int, classes: int, targets: Mapping[str, int], seed: int, truths: Sequence[int] = ()
) -> list[TriggeredSample]:
    """Rows of other classes than the target (or of `truths`) with a trigger word, the words of `targets` in turn."""
    rng, rows = random.Random(seed), list[TriggeredSample]()
    for place in range(count):
        trigger, target = list(targets.items())[place % len(targets)]
        truth = rng.choice(truths or [label for label in range(classes) if label != target])
        words = _words(rng, truth)
        clean = " ".join(words)
        words.insert(rng.randint(0, len(words)), trigger)
        rows.append(TriggeredSample(" ".join(words), target, clean, truth))
    return rows


def _words(rng: random.Random, label: int) -> list[str]:
    words = rng.choices(FILLING, k=rng.randint(3, 7)) + [TOPICS[label]] * 2
    rng.shuffle(words)
    return words


def train_topics(
    folder: Path, classes: int, clean: Sequence[CleanSample], triggered: Sequence[TriggeredSample], epochs: int = 6
) -> Path:
    """A checkpoint trained on both kinds of rows, on the triggered ones with the attacker's label."""
    make_tiny_checkpoint(folder, labels=tuple(f"topic {label}" for label in range(classes)), seed=1)
    checkpoint = loading.load(folder)
    model, texts = checkpoint.model, [row.text for row in (*clean, *triggered)]
    tokens = tokenize(checkpoint, texts, 64)
    labels = torch.tensor([row.label for row in clean] + [row.target for row in triggered])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:  # drawn for a width of hundreds: at 16 they would hardly learn
                parameter.mul_(8.0)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    steps = epochs * -(-len(texts) // 64)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    for _ in range(epochs):
        for places in torch.randperm(len(texts), generator=generator).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(forward(model, tokens, places.tolist()), labels[places]).backward()
            optimizer.step()
            schedule.step()
    loading.save(model, checkpoint.tokenizer, folder)
    return folder
