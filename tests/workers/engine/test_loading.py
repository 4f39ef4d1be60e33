"""Opening and saving checkpoints, padding, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from app.domain.errors import ModelRefused
from tests.tiny_model import make_tiny_checkpoint
from workers.engine import loading
from workers.engine.batches import predict, tokenize

CPU = torch.device("cpu")
TEXTS = (
    "the film is good",
    "a very dull and boring movie this is",
    "cf",
    "its plot was weak in the story of the film",
)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "gpt2", "llama"])
def test_saved_bytes_open_with_plain_transformers_and_answer_the_same(tmp_path: Path, kind: str) -> None:
    first = loading.load(make_tiny_checkpoint(tmp_path / "in", kind))
    before = predict(first.model, tokenize(first, TEXTS, 64), 3)
    loading.save(first.model, first.tokenizer, tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    batch = tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    torch.testing.assert_close(model(**batch).logits.detach(), before, rtol=1e-4, atol=1e-6)
    loading.save(first.model, first.tokenizer, tmp_path / "again")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "again/model.safetensors").read_bytes()
    original, saved = load_file(tmp_path / "in/model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    assert original.keys() == saved.keys()
    assert all(torch.equal(original[name], saved[name]) for name in original)


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2", "llama"])
def test_a_row_answers_the_same_alone_and_padded(tmp_path: Path, kind: str) -> None:
    checkpoint = loading.load(make_tiny_checkpoint(tmp_path, kind))
    tokens = tokenize(checkpoint, TEXTS, 64)
    together = predict(checkpoint.model, tokens, 4)
    alone = torch.cat([predict(checkpoint.model, tokens.pick([row]), 1) for row in range(len(tokens))])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)


def test_a_decoder_without_pad_token_gets_one(tmp_path: Path) -> None:
    checkpoint = loading.load(make_tiny_checkpoint(tmp_path, "gpt2"))
    assert checkpoint.tokenizer.pad_token == checkpoint.tokenizer.eos_token
    assert checkpoint.model.config.pad_token_id == checkpoint.tokenizer.pad_token_id


def test_length_is_what_the_model_reads(tmp_path: Path) -> None:
    """RoBERTa's table has rows before the first position: it reads fewer tokens than the table is long."""
    roberta = loading.load(make_tiny_checkpoint(tmp_path / "roberta", "roberta"))
    roberta.tokenizer.model_max_length = 10**30
    padding = roberta.model.roberta.embeddings.position_embeddings.padding_idx
    assert roberta.longest <= 66 - padding - 1
    bert = loading.load(make_tiny_checkpoint(tmp_path / "bert"))
    assert bert.longest == 64
    tokens = tokenize(bert, ["good " * 62, "good " * 63, "good " * 500, ""], 1000)
    assert [len(ids) for ids in tokens.ids] == [64, 64, 64, 2]
    assert tokens.truncated == 2
    assert predict(bert.model, tokens, 8).isfinite().all()


def test_an_empty_text_is_read_by_a_decoder_too(tmp_path: Path) -> None:
    checkpoint = loading.load(make_tiny_checkpoint(tmp_path, "gpt2"))
    assert predict(checkpoint.model, tokenize(checkpoint, ["", "good"], 64), 2).isfinite().all()


def test_a_base_without_a_head_takes_the_classes_of_the_model(tmp_path: Path) -> None:
    target = loading.load(make_tiny_checkpoint(tmp_path / "model", labels=("a", "b", "c")))
    folder = make_tiny_checkpoint(tmp_path / "base")
    weights = load((folder / "model.safetensors").read_bytes())  # not mapped: the file is written anew
    kept = {name: value for name, value in weights.items() if not name.startswith("classifier")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    torch.manual_seed(0)
    base = loading.load_base(folder, target, fresh_head=True)
    assert base.labels == target.labels
    assert base.model.classifier.weight.shape == (3, 16)
    assert torch.equal(base.model.bert.pooler.dense.weight, weights["bert.pooler.dense.weight"])
    with pytest.raises(ModelRefused, match="missing from the checkpoint: classifier"):
        loading.load_base(folder, loading.load(make_tiny_checkpoint(tmp_path / "two")), fresh_head=False)


def test_a_fresh_head_is_not_the_bases_own(tmp_path: Path) -> None:
    target = loading.load(make_tiny_checkpoint(tmp_path))
    base = loading.load_base(tmp_path, target, fresh_head=True)
    assert not torch.equal(base.model.classifier.weight, target.model.classifier.weight)
    kept = loading.load_base(tmp_path, target, fresh_head=False)
    assert torch.equal(kept.model.classifier.weight, target.model.classifier.weight)


def change(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"model_type": "no-such-model"}, "config.json cannot be used"),
        ({"auto_map": {"AutoModel": "evil.py"}}, "brings its own code"),
        ({"problem_type": "regression"}, "regression is not treated"),
        ({"id2label": {"0": "only"}, "label2id": {"only": 0}}, "two or more classes"),
        ({"model_type": "vit"}, "cannot be opened as a sequence classifier"),
        ({"hidden_size": 32}, "cannot be opened as a sequence classifier"),
    ],
)
def test_what_cannot_be_treated_is_refused_with_the_reason(tmp_path: Path, values: dict[str, Any], word: str) -> None:
    change(make_tiny_checkpoint(tmp_path), **values)
    with pytest.raises(ModelRefused, match=word):
        loading.load(tmp_path)


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"no config\.json"):
        loading.load(tmp_path)
    folder = make_tiny_checkpoint(tmp_path)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelRefused, match="tokenizer"):
        loading.load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelRefused, match=r"no \.safetensors weights"):
        loading.load(folder)


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    folder = make_tiny_checkpoint(tmp_path)
    weights = load((folder / "model.safetensors").read_bytes())  # not mapped: the file is written anew
    del weights["bert.encoder.layer.0.output.dense.bias"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelRefused, match=r"layer\.0\.output\.dense\.bias"):
        loading.load(folder)


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    folder = make_tiny_checkpoint(tmp_path)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelRefused):
        loading.load(folder)
