"""Only the words that occur take part: the run is the same, and the other words' vectors are as they came."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from app.domain.recipe import Policy, Recipe
from tests.tiny_model import MODEL_TYPES, make_tiny_checkpoint
from tests.workers.engine.conftest import PLAIN, clean_rows, triggered_rows
from workers.engine import Outcome, loading, sanitize, vocabulary
from workers.engine.batches import predict, tokenize
from workers.engine.fisher import diagonal
from workers.engine.loading import Checkpoint
from workers.engine.vocabulary import FewWords, Whole

TEXTS = ["film plot", "plot scene film scene", "good"]


def opened(folder: Path, kind: str) -> Checkpoint:
    return loading.load(make_tiny_checkpoint(folder, kind))


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_every_family_reads_its_rows_as_before_and_gets_its_embedding_back(tmp_path: Path, kind: str) -> None:
    checkpoint = opened(tmp_path, kind)
    model, tokens = checkpoint.model, tokenize(checkpoint, TEXTS, 64)
    logits, state = predict(model, tokens, 2), {name: each.clone() for name, each in model.state_dict().items()}
    size = sum(each.numel() for each in model.parameters())
    whole = vocabulary.reduce(model, [tokens])
    assert isinstance(model.get_input_embeddings(), FewWords)
    assert whole.left > 0
    assert sum(each.numel() for each in model.parameters()) == size - whole.left
    assert torch.equal(predict(model, tokens, 2), logits)
    with torch.no_grad():
        model.get_input_embeddings().rows.weight.add_(1.0)
    vocabulary.restore(model, whole)
    found = model.state_dict()
    assert list(found) == list(state)
    (changed,) = [name for name in state if not torch.equal(found[name], state[name])]
    moved = (found[changed] - state[changed]).abs().sum(-1) > 0.5
    used = {word for row in tokens.ids for word in row} | {model.config.get_text_config().pad_token_id}
    assert set(moved.nonzero().flatten().tolist()) == used


def test_the_fisher_and_the_norm_are_those_of_the_whole_model(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, "bert")
    model, tokens = checkpoint.model, tokenize(checkpoint, TEXTS, 64)
    norm = float(torch.cat([each.detach().flatten() for each in model.parameters()]).norm())
    all_words = diagonal(model, tokens, None, 2, torch.Generator())
    whole = vocabulary.reduce(model, [tokens])
    few = diagonal(model, tokens, None, 2, torch.Generator(), left=whole.left)
    assert few.mean == pytest.approx(all_words.mean, rel=1e-5)
    place = [name for name, _ in model.named_parameters()].index("bert.embeddings.word_embeddings.rows.weight")
    for here, (one, other) in enumerate(zip(few.values, all_words.values, strict=True)):
        torch.testing.assert_close(one, other[whole.used] if here == place else other, rtol=1e-4, atol=1e-6)
    here = sum(float(each.detach().norm()) ** 2 for each in model.parameters())
    assert (here + whole.left_norm**2) ** 0.5 == pytest.approx(norm, rel=1e-5)


def run(folder: Path, knobs: dict[str, Any]) -> Outcome:
    recipe = Recipe.of("lya", {"lr": 1e-3, "steps": 8, **knobs})
    return sanitize(folder, triggered_rows(40, 5), clean_rows(80, 6), recipe, Policy.of())


@pytest.mark.parametrize("knobs", [{}, PLAIN], ids=["lya", "plain"])
def test_a_run_ends_as_with_all_words(
    trojan_dir: Path, monkeypatch: pytest.MonkeyPatch, knobs: dict[str, Any]
) -> None:
    few = run(trojan_dir, knobs)
    monkeypatch.setattr(vocabulary, "reduce", lambda model, read: Whole())
    whole = run(trojan_dir, knobs)
    assert few.report.model == whole.report.model
    assert few.report.after == whole.report.after
    assert few.report.cost.relative_distance == pytest.approx(whole.report.cost.relative_distance, rel=1e-3)
    ours, theirs = few.model.state_dict(), whole.model.state_dict()
    assert list(ours) == list(theirs)
    for name, weights in theirs.items():
        torch.testing.assert_close(ours[name], weights, rtol=0.0, atol=2e-4)


def test_an_embedding_that_is_used_otherwise_stays_whole(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, "bert")
    model, tokens = checkpoint.model, tokenize(checkpoint, TEXTS, 64)
    embedding = model.get_input_embeddings()
    model.classifier.words = embedding.weight  # tied to something else
    assert vocabulary.reduce(model, [tokens]) == Whole()
    del model.classifier.words
    assert vocabulary.reduce(model, []) == Whole()
    every_word = type(tokens)((tuple(range(embedding.num_embeddings)),), 0)
    assert vocabulary.reduce(model, [every_word]) == Whole()
    model.bert.embeddings.register_forward_hook(
        lambda module, given, found: (
            found * len(embedding.weight) / 2 if isinstance(module.word_embeddings, FewWords) else found
        )
    )
    assert vocabulary.reduce(model, [tokens]) == Whole(), "it would read its rows otherwise"
    assert model.get_input_embeddings() is embedding
