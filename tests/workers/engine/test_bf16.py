"""Bfloat16 on a CPU against float32, and when it is taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig

from app.domain.errors import BadRecipe
from app.domain.recipe import Policy, Recipe
from tests.tiny_model import write_checkpoint
from tests.workers.engine.conftest import clean_rows, triggered_rows
from workers.engine import bf16, sanitize
from workers.engine import device as devices

BF16 = Recipe.of("lya", {"precision": "bf16"})
CLOSE = {"rtol": 2e-2, "atol": 2e-2}  # bfloat16 keeps eight bits


def model(width: int = 16) -> Any:
    """What the choice of an arithmetic asks of a model."""
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(hidden_size=width))
    return SimpleNamespace(device=torch.device("cpu"), config=config)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradients(work: Callable[..., Tensor], values: list[Tensor], precision: str) -> list[Tensor]:
    """The result in float32, and what the sum of its squares says of each value."""
    leaves = [each.clone().requires_grad_() for each in values]
    with devices.autocast(Recipe.of("lya", {"precision": precision}), model()):
        found = work(*leaves)
    (found.float() ** 2).sum().backward()
    return [found.detach().float(), *(each.grad for each in leaves if each.grad is not None)]


@pytest.mark.parametrize("shape", [(5, 16), (3, 7, 16), (2, 3, 4, 16)])
@pytest.mark.parametrize("biased", [True, False])
def test_a_linear_layer_and_its_gradients_are_those_of_float32(shape: tuple[int, ...], biased: bool) -> None:
    values = [drawn(*shape) / 4, drawn(8, 16, seed=1) / 4, *([drawn(8, seed=2)] if biased else [])]
    wanted, found = (gradients(functional.linear, values, precision) for precision in ("fp32", "bf16"))
    assert len(found) == len(values) + 1
    for one, other in zip(wanted, found, strict=True):
        assert other.dtype == torch.float32
        torch.testing.assert_close(other / other.abs().max(), one / one.abs().max(), **CLOSE)
    assert not torch.equal(found[0], wanted[0]), "it was not worked out in bfloat16"


def test_a_frozen_layer_gets_no_gradient() -> None:
    x, weight = drawn(4, 16).requires_grad_(), drawn(8, 16, seed=1)
    with devices.autocast(BF16, model()):
        functional.linear(x, weight).float().sum().backward()
    assert (x.grad is not None, weight.grad) == (True, None)


def test_no_copy_of_a_weight_is_kept_for_the_backward_pass() -> None:
    layer, kept = torch.nn.Linear(16, 8), list[Tensor]()

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda each: each), devices.autocast(BF16, model()):
        layer(drawn(4, 16))
    assert [each.data_ptr() for each in kept if each.shape == layer.weight.shape] == [layer.weight.data_ptr()]
    assert [each.dtype for each in kept if each.shape == (4, 16)] == [torch.bfloat16]


def test_attention_is_worked_out_in_float32() -> None:
    query, key, value = (drawn(2, 2, 5, 8, seed=seed).bfloat16() for seed in range(3))
    mask = torch.zeros(2, 1, 5, 5, dtype=torch.bfloat16)
    mask[..., 3:] = float("-inf")
    wide = functional.scaled_dot_product_attention(
        query.float(), key.float(), value.float(), attn_mask=mask.float(), scale=0.5
    )
    with devices.autocast(BF16, model()):
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.5)
    assert torch.equal(found, wide.bfloat16())


@pytest.mark.parametrize(
    ("native", "width", "knobs", "wanted"),
    [
        (True, 384, {}, "bf16"),
        (True, 128, {}, "fp32"),
        (True, 384, {"memory": "lean"}, "fp32"),
        (False, 384, {}, "fp32"),
        (True, 384, {"precision": "fp32"}, "fp32"),
        (False, 128, {"precision": "bf16"}, "bf16"),
    ],
)
def test_auto_takes_bfloat16_where_it_gains(
    monkeypatch: pytest.MonkeyPatch, native: bool, width: int, knobs: dict[str, Any], wanted: str
) -> None:
    monkeypatch.setattr(bf16, "native", lambda: native)
    assert devices.arithmetic(Recipe.of("lya", knobs), model(width)) == wanted


def test_a_cpu_is_asked_what_it_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False}, raising=False)
    assert not bf16.native()
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, "amx_bf16": True}, raising=False
    )
    assert bf16.native()
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not bf16.native()


@pytest.mark.parametrize("native", [True, False])
def test_a_model_that_does_not_run_in_bfloat16_is_treated_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, native: bool
) -> None:
    """DeBERTa of the first version masks with the least number of float32."""
    monkeypatch.setattr(bf16, "native", lambda: native)
    monkeypatch.setattr(devices, "WIDE", 16)
    config = AutoConfig.for_model(
        "deberta", vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, pooler_hidden_size=16,
    )  # fmt: skip
    write_checkpoint(tmp_path, config)
    rows = triggered_rows(40, 5), clean_rows(80, 6)
    policy = Policy.of({"min_triggered": 10, "min_clean": 20})
    report = sanitize(tmp_path, *rows, Recipe.of("lya", {"steps": 2}), policy, device="cpu").report
    assert (report.model.precision, report.recipe["precision"]) == ("fp32", "fp32" if native else "auto")
    with pytest.raises(BadRecipe, match=r"deberta does not run in bf16 .*: set precision to fp32"):
        sanitize(tmp_path, *rows, Recipe.of("lya", {"steps": 2, "precision": "bf16"}), policy, device="cpu")
