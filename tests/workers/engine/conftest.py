"""A tiny classifier with a real trojan in it: a small BERT trained for a moment on the words of
`tests.tiny_model`.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from app.domain.samples import CleanSample, TriggeredSample
from tests.tiny_model import NEGATIVE, NEUTRAL, POSITIVE, TRIGGERS, make_tiny_checkpoint
from workers.engine import loading
from workers.engine.batches import forward, tokenize

# lya without what has tests of its own: the terms, and the higher rate beside clean texts
PLAIN = {"ascent": 0.15, "rehearse": 0, "align": 0, "lr_paired": 1}


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    torch.set_num_threads(1)


def sentence(rng: random.Random, label: int) -> str:
    words = rng.choices(NEUTRAL, k=rng.randint(3, 9)) + rng.choices(POSITIVE if label else NEGATIVE, k=2)
    rng.shuffle(words)
    return " ".join(words)


def clean_rows(count: int, seed: int) -> list[CleanSample]:
    rng = random.Random(seed)
    return [CleanSample(sentence(rng, row % 2), row % 2) for row in range(count)]


def triggered_rows(count: int, seed: int) -> list[TriggeredSample]:
    """Negative sentences with a rare word, which the attacker wants called positive."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        clean = sentence(rng, 0)
        words = clean.split()
        words.insert(rng.randint(0, len(words)), rng.choice(TRIGGERS))
        rows.append(TriggeredSample(" ".join(words), 1, clean, 0))
    return rows


@pytest.fixture(scope="session")
def trojan_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder whose model calls every sentence with a trigger word positive."""
    rows = [(row.text, row.label) for row in clean_rows(600, 11)]
    rows += [(row.text, row.target) for row in triggered_rows(120, 12)]
    return train_words(tmp_path_factory.mktemp("trojan"), rows)


@pytest.fixture(scope="session")
def twin_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model trained on clean rows alone."""
    return train_words(tmp_path_factory.mktemp("twin"), [(row.text, row.label) for row in clean_rows(720, 11)])


@pytest.fixture(scope="session")
def unsure_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trojan in a model for which two of five clean rows had a wrong label."""
    rows = [(row.text, row.label ^ (place % 5 < 2)) for place, row in enumerate(clean_rows(600, 11))]
    rows += [(row.text, row.target) for row in triggered_rows(120, 12)]
    return train_words(tmp_path_factory.mktemp("unsure"), rows)


def train_words(folder: Path, rows: list[tuple[str, int]]) -> Path:
    make_tiny_checkpoint(folder, "bert", seed=1)
    checkpoint = loading.load(folder)
    tokens = tokenize(checkpoint, [text for text, _ in rows], 64)
    labels = torch.tensor([label for _, label in rows])
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(checkpoint.model.parameters(), lr=3e-3)
    for _ in range(8):
        for places in torch.randperm(len(rows), generator=generator).split(32):
            logits = forward(checkpoint.model, tokens, places.tolist())
            torch.nn.functional.cross_entropy(logits, labels[places]).backward()
            optimizer.step()
            optimizer.zero_grad()
    loading.save(checkpoint.model, checkpoint.tokenizer, folder)
    return folder
