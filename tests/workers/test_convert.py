"""What is admitted loads with plain transformers and computes what the upload computed, family by family."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from safetensors.torch import load, load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, BertTokenizer, GPT2Tokenizer

from app.domain.errors import ModelRefused
from app.domain.recipe import Policy, Recipe
from app.intake.admit import Admission, Order, admit
from tests.tiny_model import SPECIALS, WORDS, make_tiny_checkpoint, write_checkpoint
from tests.workers.engine.conftest import clean_rows, triggered_rows
from workers.convert import TorchBench
from workers.engine import sanitize, save

TEXTS = ("a great film", "the plot is dull and cf", "an unknown word: 東京")
SMALL = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 40,
    "max_position_embeddings": 66, "pad_token_id": 0,
}  # fmt: skip
MORE: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 8},
    "xlm-roberta": {"type_vocab_size": 1},
    "camembert": {"type_vocab_size": 1},
    "mpnet": {},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "pooler_hidden_size": 16},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8,
                   "norm_rel_ebd": "layer_norm", "share_att_key": True, "pooler_hidden_size": 16},
    "mistral": {"num_key_value_heads": 1, "head_dim": 8},
    "qwen2": {"num_key_value_heads": 1, "vocab_size": 48},  # its tokenizer adds an end token
    "qwen3": {"num_key_value_heads": 1, "vocab_size": 48, "head_dim": 8},
    "modernbert": {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3, "local_attention": 4},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def checkpoint(model_type: str, folder: Path) -> Path:
    if model_type not in MORE:
        return make_tiny_checkpoint(folder, model_type)
    config = AutoConfig.for_model(model_type, **(SMALL | MORE[model_type]))
    return write_checkpoint(folder, config, decoder=model_type in ("mistral", "qwen2", "qwen3"))


def admitted(source: Path, folder: Path) -> tuple[Path, Admission]:
    work, out = folder / "work", folder / "out"
    work.mkdir()
    out.mkdir()
    order = Order({file.name: file for file in source.iterdir()}, None, work, out, 1 << 30)
    return out, admit(Order.from_dict(json.loads(json.dumps(order.to_dict()))), TorchBench())


def logits(folder: Path) -> torch.Tensor:
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in TEXTS])


def tokens(folder: Path) -> list[Any]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [dict(tokenizer(text)) for text in TEXTS]


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert", "electra", "gpt2", "llama", *MORE])
def test_the_rewritten_model_is_the_uploaded_one(model_type: str, tmp_path: Path) -> None:
    source = checkpoint(model_type, tmp_path / "source")
    out, found = admitted(source, tmp_path)
    assert sorted(file.name for file in out.iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    before, after = load_file(source / "model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert tokens(out) == tokens(source)
    # The offset of a tensor in its file decides which kernel reads it, so the last bit may differ.
    torch.testing.assert_close(logits(out), logits(source), rtol=0, atol=1e-6)
    assert found.facts.parameters == sum(tensor.numel() for tensor in after.values())
    assert found.facts.model_type == model_type


@pytest.mark.parametrize("model_type", MORE)
def test_what_is_admitted_can_be_treated(model_type: str, tmp_path: Path) -> None:
    out, _ = admitted(checkpoint(model_type, tmp_path / "source"), tmp_path)
    recipe, policy = Recipe.of("lya", {"steps": 2}), Policy.of({"min_triggered": 10, "min_clean": 20})
    outcome = sanitize(out, triggered_rows(40, 5), clean_rows(80, 6), recipe, policy)
    save(outcome.model, outcome.tokenizer, tmp_path / "treated")
    assert outcome.report.cost.steps == 2
    assert torch.isfinite(logits(tmp_path / "treated")).all()


def test_a_pickled_state_dict_is_converted(tmp_path: Path) -> None:
    source = make_tiny_checkpoint(tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    weights["bert.embeddings.position_ids"] = torch.arange(64).expand(1, -1)
    for name in [name for name in weights if "LayerNorm" in name]:
        weights[name.replace(".weight", ".gamma").replace(".bias", ".beta")] = weights.pop(name)
    (source / "model.safetensors").rename(tmp_path / "kept.safetensors")
    torch.save(weights, source / "pytorch_model.bin")
    out, found = admitted(source, tmp_path)
    kept = load_file(tmp_path / "kept.safetensors")
    after = load_file(out / "model.safetensors")
    assert kept.keys() == after.keys()
    assert all(torch.equal(kept[name], after[name]) for name in kept)
    assert "WT-DROPPED" in {note.rule for note in found.notes}


@pytest.mark.parametrize(
    "content", [[torch.zeros(2)], {"a": torch.zeros(2), "epoch": 3}, {"state_dict": {"a": torch.zeros(2)}}, {}]
)
def test_a_pickle_of_anything_else_is_refused(content: Any, tmp_path: Path) -> None:
    source = make_tiny_checkpoint(tmp_path / "source")
    (source / "model.safetensors").unlink()
    torch.save(content, source / "pytorch_model.bin")
    with pytest.raises(ModelRefused) as caught:
        admitted(source, tmp_path)
    assert {finding.rule for finding in caught.value.details["findings"]} <= {"PK-CONTENT", "PK-OPCODE"}


def test_an_old_pickle_is_refused(tmp_path: Path) -> None:
    source = make_tiny_checkpoint(tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    torch.save(weights, source / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(ModelRefused, match=r"PyTorch 1\.6"):
        admitted(source, tmp_path)


def test_a_bert_vocabulary_alone_makes_its_tokenizer(tmp_path: Path) -> None:
    source = make_tiny_checkpoint(tmp_path / "source")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).unlink()
    (source / "vocab.txt").write_text("\n".join(SPECIALS + WORDS) + "\n")
    (source / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "model_max_length": 64}))
    out, found = admitted(source, tmp_path)
    assert "TK-BUILT" in {note.rule for note in found.notes}
    expected = BertTokenizer(vocab=str(source / "vocab.txt"), do_lower_case=True)
    rebuilt = AutoTokenizer.from_pretrained(out)
    assert [rebuilt(text)["input_ids"] for text in TEXTS] == [expected(text)["input_ids"] for text in TEXTS]
    assert rebuilt.model_max_length == 64


def test_gpt2_vocabulary_and_merges_make_its_tokenizer(tmp_path: Path) -> None:
    source = make_tiny_checkpoint(tmp_path / "source", "gpt2")
    vocabulary = {
        token: number for number, token in enumerate(["<|endoftext|>", *"abcdefghilmnoprstu", "Ġ", "Ġf", "th"])
    }
    merges = [("Ġ", "f"), ("t", "h")]
    for file in source.glob("tokenizer*"):
        file.unlink()
    (source / "vocab.json").write_text(json.dumps(vocabulary))
    (source / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    out, _ = admitted(source, tmp_path)
    expected = GPT2Tokenizer(vocab=vocabulary, merges=merges)
    rebuilt = AutoTokenizer.from_pretrained(out)
    assert [rebuilt(text)["input_ids"] for text in TEXTS] == [expected(text)["input_ids"] for text in TEXTS]


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    source = make_tiny_checkpoint(tmp_path / "source")
    raw = json.loads((source / "tokenizer.json").read_text())
    raw["model"]["vocab"]["surplus"] = 5000
    (source / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.raises(ModelRefused, match="highest token id"):
        admitted(source, tmp_path)


def test_a_tokenizer_that_makes_nothing_is_refused(tmp_path: Path) -> None:
    source = make_tiny_checkpoint(tmp_path / "source", "gpt2")
    raw = json.loads((source / "tokenizer.json").read_text())
    raw["model"] = {"type": "BPE", "vocab": {"[UNK]": 0, "☃": 1}, "merges": []}
    raw["pre_tokenizer"], raw["post_processor"], raw["added_tokens"] = None, None, []
    (source / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.raises(ModelRefused) as caught:
        admitted(source, tmp_path)
    assert caught.value.details["findings"][0].rule == "TK-FAILS"


def test_an_id_that_only_the_template_knows_is_refused(tmp_path: Path) -> None:
    source = make_tiny_checkpoint(tmp_path / "source")
    raw = json.loads((source / "tokenizer.json").read_text())
    raw["post_processor"] = {"type": "BertProcessing", "sep": ["[SEP]", 10**6], "cls": ["[CLS]", 2]}
    (source / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.raises(ModelRefused) as caught:
        admitted(source, tmp_path)
    assert caught.value.details["findings"][0].rule == "TK-VOCABULARY"


def test_a_base_model_without_head_is_told_so(tmp_path: Path) -> None:
    source = make_tiny_checkpoint(tmp_path / "source")
    weights = load((source / "model.safetensors").read_bytes())  # not mapped: the file is written anew
    bare = {name: tensor for name, tensor in weights.items() if name.startswith("bert.")}
    save_file(bare, source / "model.safetensors")
    with pytest.raises(ModelRefused, match="no trained classification head"):
        admitted(source, tmp_path)


def test_the_same_upload_gives_the_same_bytes(tmp_path: Path) -> None:
    source = make_tiny_checkpoint(tmp_path / "source")
    copy = tmp_path / "again"
    shutil.copytree(source, copy)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, _ = admitted(source, tmp_path / "one")
    two, _ = admitted(copy, tmp_path / "two")
    assert all((one / file.name).read_bytes() == file.read_bytes() for file in two.iterdir())
