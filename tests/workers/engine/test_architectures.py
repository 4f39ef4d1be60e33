"""Every supported family, as a small random classifier: its Fisher diagonal, its bytes, a short treatment, and what
is refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from app.domain.errors import ModelRefused
from app.domain.recipe import Policy, Recipe
from tests.tiny_model import (
    DECODERS,
    MODEL_TYPES,
    make_tiny_checkpoint,
    tiny_config,
    tiny_tokenizer,
    write_checkpoint,
)
from tests.workers.engine.conftest import clean_rows, triggered_rows
from workers.engine import loading, lya, sanitize, save
from workers.engine.batches import Tokens, forward, predict, tokenize
from workers.engine.fisher import Diagonal, diagonal

CPU = torch.device("cpu")
TEXTS = (
    "the film is good",
    "a very dull and boring movie this is",
    "cf",
    "great great great cast",
    "its plot was weak in the the the the film of clumsy story",
    "fresh",
)
LABELS = (0, 1, 0, 1, 1, 0)


def lively(folder: Path, kind: str) -> loading.Checkpoint:
    """A tiny classifier with weights so large that attention, too, has gradients that cannot pass for rounding."""
    checkpoint = loading.load(make_tiny_checkpoint(folder, kind))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in checkpoint.model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.4, generator=generator)
    return checkpoint


def sample_gradients(model: Any, tokens: Tokens, row: int) -> list[tuple[float, list[torch.Tensor]]]:
    """For each class y the probability p(y) of one sample, alone and unpadded, and the gradients of log p(y)."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    log_p = torch.log_softmax(model(input_ids=torch.tensor([tokens.ids[row]])).logits[0], -1)
    return [
        (
            float(each.detach().exp()),
            list(torch.autograd.grad(each, parameters, retain_graph=True, materialize_grads=True, allow_unused=True)),
        )
        for each in log_p
    ]


def oracle(model: Any, tokens: Tokens, labels: tuple[int, ...] | None) -> list[torch.Tensor]:
    """The mean over samples of E_y[gradient^2], y as given or, without labels, as the model says."""
    total = [torch.zeros_like(parameter) for parameter in model.parameters() if parameter.requires_grad]
    for row in range(len(tokens)):
        for label, (p, gradients) in enumerate(sample_gradients(model, tokens, row)):
            weight = p if labels is None else float(labels[row] == label)
            for each, gradient in zip(total, gradients, strict=True):
                each.add_(gradient.square(), alpha=weight / len(tokens))
    return total


def same(found: Diagonal, expected: list[torch.Tensor]) -> None:
    """Equal parameter by parameter, each measured against its own largest entry.

    A gradient that is zero in exact arithmetic (the key bias of attention) is rounding noise in both.
    """
    noise = 1e-12 * max(float(each.max()) for each in expected)
    for values, wanted in zip(found.values, expected, strict=True):
        torch.testing.assert_close(values * found.mean, wanted, rtol=2e-4, atol=2e-5 * float(wanted.max()) + noise)


@pytest.mark.parametrize("labels", [None, LABELS], ids=["true", "empirical"])
@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_fisher_in_padded_batches_equals_one_sample_autograd(
    tmp_path: Path, kind: str, labels: tuple[int, ...] | None
) -> None:
    checkpoint = lively(tmp_path, kind)
    tokens = tokenize(checkpoint, TEXTS, 64)
    assert len({len(ids) for ids in tokens.ids}) > 3
    before = predict(checkpoint.model, tokens, 4)
    found = diagonal(checkpoint.model, tokens, labels, 4, torch.Generator().manual_seed(0))
    same(found, oracle(checkpoint.model, tokens, labels))
    assert found.slow == ()
    assert found.labels == ("true" if labels is None else "empirical")
    assert torch.equal(predict(checkpoint.model, tokens, 4), before)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in checkpoint.model.parameters())


def test_albert_sums_the_uses_of_a_shared_weight_before_the_square(tmp_path: Path) -> None:
    """Three layers, one set of weights: adding up each layer's own square is another figure, far off."""
    checkpoint = lively(tmp_path, "albert")
    model, tokens = checkpoint.model, tokenize(checkpoint, TEXTS, 64)
    found = diagonal(model, tokens, None, 4, torch.Generator().manual_seed(0))
    layer = model.albert.encoder.albert_layer_groups[0].albert_layers[0]
    assert sum(name.endswith("ffn.weight") for name, _ in model.named_parameters()) == 1
    place = [id(parameter) for parameter in lya.trainable(model)].index(id(layer.ffn.weight))

    uses: list[tuple[torch.Tensor, torch.Tensor]] = []
    handle = layer.ffn.register_forward_hook(lambda module, given, output: uses.append((given[0], output)))
    summed, apart = torch.zeros_like(layer.ffn.weight), torch.zeros_like(layer.ffn.weight)
    for row in range(len(tokens)):
        uses.clear()
        log_p = torch.log_softmax(forward(model, tokens, [row])[0], -1)
        assert len(uses) == 3
        for each in log_p:
            back = torch.autograd.grad(each, [output for _, output in uses], retain_graph=True)
            products = [g[0].T @ given[0].detach() for g, (given, _) in zip(back, uses, strict=True)]
            weight = float(each.detach().exp()) / len(tokens)
            summed.add_(torch.stack(products).sum(0).square().detach(), alpha=weight)
            apart.add_(torch.stack(products).square().sum(0).detach(), alpha=weight)
    handle.remove()
    torch.testing.assert_close(found.values[place] * found.mean, summed, rtol=2e-4, atol=2e-5 * float(summed.max()))
    assert float((apart - summed).norm() / summed.norm()) > 0.1


@pytest.mark.parametrize("kind", ["albert", "bert", "gpt2"])
def test_a_tied_weight_is_once_in_the_fisher_and_in_the_anchor(tmp_path: Path, kind: str) -> None:
    """The two projections of the feed-forward part share one weight between layers, by another name."""
    checkpoint = lively(tmp_path, kind)
    model = checkpoint.model
    if kind == "bert":
        layers = model.bert.encoder.layer
        layers[1].intermediate.dense.weight = layers[0].intermediate.dense.weight
    elif kind == "gpt2":
        model.transformer.h[1].mlp.c_fc.weight = model.transformer.h[0].mlp.c_fc.weight
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    parameters = lya.trainable(model)
    assert len({id(parameter) for parameter in parameters}) == len(parameters)
    assert len(names) == len(parameters) + (kind != "albert")
    tokens = tokenize(checkpoint, TEXTS, 64)
    found = diagonal(model, tokens, None, 4, torch.Generator().manual_seed(0))
    assert len(found.values) == len(parameters)
    same(found, oracle(model, tokens, None))
    assert found.slow == ()


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_saving_what_was_saved_gives_the_same_bytes_and_logits(tmp_path: Path, kind: str) -> None:
    first = loading.load(make_tiny_checkpoint(tmp_path / "in", kind))
    loading.save(first.model, first.tokenizer, tmp_path / "once")
    second = loading.load(tmp_path / "once")
    loading.save(second.model, second.tokenizer, tmp_path / "twice")
    assert contents(tmp_path / "once") == contents(tmp_path / "twice")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(contents(tmp_path / "once"))
    weights = contents(tmp_path / "in")["model.safetensors"]
    assert contents(tmp_path / "once")["model.safetensors"] == weights
    tokens = tokenize(first, TEXTS, 64)
    assert tokenize(second, TEXTS, 64) == tokens
    assert torch.equal(predict(first.model, tokens, 4), predict(second.model, tokens, 4))
    had_padding = "pad_token" in json.loads((tmp_path / "in/tokenizer_config.json").read_text())
    assert had_padding == (kind not in DECODERS)


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_a_short_treatment_gives_a_model_that_plain_transformers_opens(tmp_path: Path, kind: str) -> None:
    folder = make_tiny_checkpoint(tmp_path / "in", kind)
    recipe = Recipe.of("lya", {"steps": 3, "eval_every": 3, "lr": 1e-3})
    outcome = sanitize(folder, triggered_rows(40, 5), clean_rows(80, 6), recipe, Policy.of())
    assert outcome.report.fisher is not None
    assert outcome.report.fisher.loop_modules == ()
    save(outcome.model, outcome.tokenizer, tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    page = tokenizer(list(TEXTS), padding=True, padding_side="right", return_tensors="pt")
    logits = model(input_ids=page["input_ids"], attention_mask=page["attention_mask"]).logits.detach()
    again = loading.load(tmp_path / "out")
    torch.testing.assert_close(
        logits, predict(again.model, tokenize(again, TEXTS, 64), len(TEXTS)), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("model_type", ["vit", "swin2sr", "clip"])
def test_a_model_type_without_such_a_head_is_refused_by_name(tmp_path: Path, model_type: str) -> None:
    folder = make_tiny_checkpoint(tmp_path)
    AutoConfig.for_model(model_type).save_pretrained(folder)
    with pytest.raises(ModelRefused, match=rf"{model_type} cannot be opened as a sequence classifier") as refused:
        loading.load(folder)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("kind", ["bert", "llama", "albert"])
def test_a_token_classifier_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    """Llama's has a head of the same name and shape as the sequence classifier's: only the config tells."""
    model = AutoModelForTokenClassification.from_config(tiny_config(kind))
    model.save_pretrained(tmp_path)
    tiny_tokenizer(decoder=kind in DECODERS).save_pretrained(tmp_path)
    with pytest.raises(ModelRefused, match=f"{kind.capitalize()}ForTokenClassification"):
        loading.load(tmp_path)


def test_an_encoder_alone_is_refused_by_name(tmp_path: Path) -> None:
    folder = make_tiny_checkpoint(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["T5EncoderModel"]}))
    with pytest.raises(ModelRefused, match="T5EncoderModel"):
        loading.load(folder)
    base = loading.load_base(folder, loading.load(make_tiny_checkpoint(tmp_path / "like")), fresh_head=True)
    assert base.model.config.num_labels == 2


SMALL = {"vocab_size": 40, "pad_token_id": 0}
WIDE = {**SMALL, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
BART = {**SMALL, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "max_position_embeddings": 64} | {
    f"{part}_{what}": size
    for part in ("encoder", "decoder")
    for what, size in (("attention_heads", 2), ("ffn_dim", 32))
}
T5 = {**SMALL, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
FUNNEL = {"vocab_size": 40, "block_sizes": [1, 1], "num_decoder_layers": 1, "d_model": 16, "n_head": 2, "d_head": 8}
# What an architecture brings that the families above do not.
OTHERS: dict[str, dict[str, Any]] = {
    "bart": {**BART, "eos_token_id": 3, "decoder_start_token_id": 3},  # a decoder that reads what its encoder reads
    "t5": {**T5, "eos_token_id": 3},
    "squeezebert": {**WIDE, "embedding_size": 16, "q_groups": 1, "k_groups": 1, "v_groups": 1},  # no fast path at all
    "funnel": {**FUNNEL, "d_inner": 32, "max_position_embeddings": 64},  # layers that change the number of tokens
    "ibert": {**WIDE, "max_position_embeddings": 66},  # an embedding of its own make
}
REFUSED: dict[str, dict[str, Any]] = {
    "xmod": {**WIDE, "languages": ["en_XX", "de_DE"], "max_position_embeddings": 66},  # wants to know the language
    "lilt": {**WIDE, "max_position_embeddings": 66, "channel_shrink_ratio": 3},  # does not fit itself
}


@pytest.mark.parametrize("kind", OTHERS)
def test_any_other_classifier_of_tokens_is_treated(tmp_path: Path, kind: str) -> None:
    folder = write_checkpoint(tmp_path, AutoConfig.for_model(kind, **OTHERS[kind]))
    recipe, policy = Recipe.of("lya", {"steps": 2}), Policy.of({"min_triggered": 10, "min_clean": 20})
    outcome = sanitize(folder, triggered_rows(40, 5), clean_rows(80, 6), recipe, policy)
    assert outcome.report.cost.steps == 2
    assert outcome.report.fisher is not None
    assert outcome.report.fisher.fallback is None
    save(outcome.model, outcome.tokenizer, tmp_path / "out")
    again = loading.load(tmp_path / "out")
    tokens = tokenize(again, TEXTS, 64)
    torch.testing.assert_close(
        predict(again.model, tokens, 3), predict(outcome.model, tokens, 1), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("kind", REFUSED)
def test_one_that_does_not_run_on_tokens_alone_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    folder = write_checkpoint(tmp_path, AutoConfig.for_model(kind, **REFUSED[kind]))
    with pytest.raises(ModelRefused, match=f"{kind} does not run on token ids and a mask alone: "):
        loading.load(folder)
