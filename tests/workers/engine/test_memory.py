"""Memory: told before a run begins, refused where it cannot fit, and less of it with `lean`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from app.domain.errors import TooLarge
from app.domain.recipe import Policy, Recipe
from tests.tiny_model import MODEL_TYPES, make_tiny_checkpoint, write_checkpoint
from tests.workers.engine.conftest import clean_rows, triggered_rows
from workers import channel
from workers.engine import Outcome, device, loading, lya, memory, optimizer, sanitize
from workers.engine.batches import Tokens, tokenize

LEAN = Recipe.of("lya", {"memory": "lean"})
FEW_ROWS = {"batch_eval": 1, "fisher_samples": 1}
LONG = ["film plot scene " * 10, "plot"]


def opened(folder: Path, kind: str = "bert") -> tuple[Any, Tokens]:
    checkpoint = loading.load(make_tiny_checkpoint(folder, kind))
    return checkpoint.model, tokenize(checkpoint, LONG, 64)


def run(folder: Path, **knobs: Any) -> Outcome:
    recipe = Recipe.of("lya", {"lr": 1e-3, "steps": 12, **knobs})
    return sanitize(folder, triggered_rows(40, 5), clean_rows(80, 6), recipe, Policy.of())


def test_what_is_planned_is_counted_weight_by_weight(tmp_path: Path) -> None:
    model, tokens = opened(tmp_path)
    numbers = sum(each.numel() for each in lya.trainable(model))
    full = memory.plan(model, [tokens], Recipe.of("lya", FEW_ROWS))
    assert (full.weights, full.held) == (4 * numbers, 19 * numbers)
    assert memory.plan(model, [tokens], Recipe.of("lya", {"rehearse": 0, **FEW_ROWS})).held == 18 * numbers
    assert memory.plan(model, [tokens], Recipe.of("fine_tune")).held == 16 * numbers
    lean = memory.plan(model, [tokens], Recipe.of("lya", {"memory": "lean", **FEW_ROWS}))
    assert (lean.weights, lean.held) == (4 * numbers, 11 * numbers)
    assert memory.plan(model, [tokens], LEAN, left=100).weights == 4 * numbers + 400
    assert lean.total == lean.weights + lean.held + lean.activations
    fisher = memory.plan(model, [tokens.pick([0] * 500)], Recipe.of("lya_paper", {"batch_eval": 4096}))
    assert fisher.held == 8 * numbers, "with many rows at a time it is the Fisher information that takes most"


def test_the_weights_of_other_models_are_planned_too(tmp_path: Path) -> None:
    model, tokens = opened(tmp_path)
    alone = memory.plan(model, [tokens], LEAN)
    assert memory.plan(model, [tokens], LEAN, beside=[torch.zeros(10), torch.zeros(5)]).weights == alone.weights + 60


def test_offload_moves_what_the_step_alone_reads_to_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = opened(tmp_path)
    numbers = sum(each.numel() for each in lya.trainable(model))
    recipe = Recipe.of("lya", {"memory": "offload", **FEW_ROWS})
    assert memory.plan(model, [tokens], recipe) == memory.plan(model, [tokens], replace(recipe, memory="lean"))
    monkeypatch.setattr(memory, "_apart", lambda model: True)
    planned = memory.plan(model, [tokens], recipe)
    assert (planned.held, planned.host) == (5 * numbers, 6 * numbers)
    assert planned.total == planned.weights + planned.held + planned.activations
    lean = memory.plan(model, [tokens], replace(recipe, memory="lean"))
    assert (lean.held, lean.host) == (11 * numbers, 0)


def test_what_lies_aside_is_on_the_device_or_with_the_host() -> None:
    here, value = torch.device("meta"), torch.tensor([1.0, 2.0])
    assert device.aside(value, here, offload=False).device == here
    assert torch.equal(device.aside(value, here, offload=True), value)


def test_offloaded_moments_lie_with_the_host_and_the_steps_are_the_same() -> None:
    place, ways = device.pick()[0], []
    for kind, home in (("lean", place.type), ("offload", "cpu")):
        weight = torch.ones(50, 4, device=place, requires_grad=True)
        steps = optimizer.make([weight], 1e-3, Recipe.of("lya", {"memory": kind}))
        for step in range(5):
            weight.grad = torch.full_like(weight, 0.5 + step)
            steps.step()
        assert {each.device.type for each in steps.state[weight].values() if each.dim()} == {home}
        ways.append(weight.detach())
    assert torch.equal(*ways)


def test_activations_grow_with_the_batch_and_the_longest_row(tmp_path: Path) -> None:
    model, tokens = opened(tmp_path)
    many = tokens.pick([0, 1] * 8)
    recipe = Recipe.of("fine_tune", {"batch_triggered": 1, "batch_clean": 8})
    eight = memory.plan(model, [many], recipe).activations
    assert memory.plan(model, [many], Recipe.of("fine_tune", {"batch_clean": 16})).activations == 2 * eight
    assert memory.plan(model, [many], Recipe.of("fine_tune", {"batch_clean": 4096})).activations == 2 * eight
    assert memory.plan(model, [tokens.pick([1] * 8)], recipe).activations < eight / 3
    hidden, ids = model.config.hidden_size, len(tokens.ids[0])
    assert eight > 8 * 4 * hidden * ids * model.config.num_hidden_layers * 5, "five states of each layer, at least"


def test_layers_that_are_worked_out_again_drop_nothing_out(tmp_path: Path) -> None:
    """OPT drops out in the layer itself, by the flag of the layer."""
    config = AutoConfig.for_model(
        "opt", vocab_size=40, hidden_size=16, word_embed_proj_dim=16, num_hidden_layers=2, num_attention_heads=2,
        ffn_dim=32, max_position_embeddings=64, pad_token_id=0, dropout=0.5,
    )  # fmt: skip
    checkpoint = loading.load(write_checkpoint(tmp_path, config))
    tokens = tokenize(checkpoint, ["the film is good", "a very dull movie"], 64)
    recipe = Recipe.of("lya", {"memory": "lean", "precision": "fp32"})

    def gradients() -> list[torch.Tensor]:
        logits = lya.logits_of(checkpoint.model, tokens, [0, 1], recipe)
        return list(torch.autograd.grad(logits[:, 0].sum(), lya.trainable(checkpoint.model), materialize_grads=True))

    plain = gradients()
    with memory.recomputed(checkpoint.model, recipe):
        again = gradients()
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_activations_worked_out_again_give_the_same_gradients(tmp_path: Path, kind: str, precision: str) -> None:
    model, tokens = opened(tmp_path, kind)
    recipe = Recipe.of("lya", {"memory": "lean", "precision": precision})

    def gradients() -> list[torch.Tensor | None]:
        model.zero_grad(set_to_none=True)
        lya.logits_of(model, tokens, [0, 1], recipe)[:, 0].sum().backward()
        return [each.grad for each in model.parameters()]

    plain = gradients()
    kept = memory._saved(model, tokens.pick([0]), recipe)
    assert torch.is_autocast_cache_enabled()
    with memory.recomputed(model, recipe):
        assert not torch.is_autocast_cache_enabled(), "it would hold all weights once more"
        again, less = gradients(), memory._saved(model, tokens.pick([0]), recipe)
        assert not any(each.training for each in model.modules() if isinstance(each, torch.nn.Dropout))
    assert not any(each.training for each in model.modules())
    assert torch.is_autocast_cache_enabled()
    assert memory._saved(model, tokens.pick([0]), recipe) == kept
    if kind != "albert":  # one layer, several times
        assert less < kept
    for one, other in zip(plain, again, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            # Without a cache a decoder lays keys and values out in another way, and rounds their sums elsewhere.
            rounded = precision == "bf16" and float((one - other).abs().max()) <= float(one.abs().max()) * 2**-7
            assert rounded or torch.equal(one, other)


def test_the_lean_optimizer_goes_the_way_of_adamw_in_half_the_memory() -> None:
    recipe = Recipe.of("lya", {"weight_decay": 0.1})
    generator = torch.Generator().manual_seed(0)
    ours, theirs = ([torch.ones(50, 4, requires_grad=True), torch.zeros(3, requires_grad=True)] for _ in range(2))
    lean = optimizer.make(ours, 1e-3, Recipe.of("lya", {"weight_decay": 0.1, "memory": "lean"}))
    full = optimizer.make(theirs, 1e-3, recipe)
    for _ in range(100):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=generator) + 0.5
            other.grad = one.grad.clone()
        ours[1].grad = theirs[1].grad = None
        lean.step()
        full.step()
    torch.testing.assert_close(ours[0], theirs[0], rtol=0.0, atol=2e-3)  # of a way of about 0.05
    assert float((1.0 - ours[0].detach()).abs().mean()) > 0.02
    assert torch.equal(ours[1], torch.zeros(3))
    moments = [each for each in lean.state[ours[0]].values() if each.dim()]
    assert [each.dtype for each in moments] == [torch.bfloat16] * 2


def test_a_lean_run_removes_the_trojan_too(trojan_dir: Path) -> None:
    full, lean = run(trojan_dir, steps=60), run(trojan_dir, steps=60, memory="lean")
    assert lean.report.before.asr.rate == 1.0
    assert abs((lean.report.after.asr.rate or 0) - (full.report.after.asr.rate or 0)) <= 0.1
    assert (lean.report.cost.planned_memory_bytes or 0) < 0.75 * (full.report.cost.planned_memory_bytes or 0)


def test_a_run_in_bfloat16_goes_the_way_of_one_in_float32_and_is_as_certain(trojan_dir: Path) -> None:
    wide, narrow, again = (run(trojan_dir, steps=60, precision=kind) for kind in ("fp32", "bf16", "bf16"))
    assert narrow.report.model.precision == "bf16"
    assert narrow.report.before == wide.report.before, "figures are taken in float32"
    assert abs((narrow.report.after.asr.rate or 0) - (wide.report.after.asr.rate or 0)) <= 0.1
    for one, other in zip(narrow.model.parameters(), again.model.parameters(), strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)


def test_where_the_host_is_the_device_offload_is_lean(trojan_dir: Path) -> None:
    lean, offload = (run(trojan_dir, memory=kind, relearning=True) for kind in ("lean", "offload"))
    assert lean.report.relearning == offload.report.relearning != ()
    for one, other in zip(lean.model.parameters(), offload.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_host_that_cannot_hold_its_part_is_told_with_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "room", lambda place, held: 4_000 if place.type == "cpu" else 10**9)
    recipe = Recipe.of("lya", {"memory": "offload"})
    memory.check(memory.Plan(1_000, 1_000, 0, host=4_000), {torch.device("cuda"): 1.0}, recipe)
    with pytest.raises(TooLarge, match=r"of the host's memory, which has .*: choose memory lean") as refused:
        memory.check(memory.Plan(1_000, 1_000, 0, host=4_001), {torch.device("cuda"): 1.0}, recipe)
    assert refused.value.details == {"needed": 4_001, "limit": 4_000}


def test_a_run_that_cannot_fit_is_refused_with_the_number(trojan_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "room", lambda place, held: 100_000)
    with pytest.raises(TooLarge, match=r"would take .* GB .*choose memory lean, or smaller batches") as refused:
        run(trojan_dir)
    assert refused.value.details["limit"] == 100_000
    assert refused.value.details["needed"] > 100_000
    assert channel.ERRORS[refused.value.code] is TooLarge, "the sandboxed child may say so"
    with pytest.raises(TooLarge, match="smaller max_length"):
        run(trojan_dir, memory="lean")


def test_the_room_is_that_of_the_machine_the_container_or_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(device, "CONTAINER", tmp_path / "memory.max")
    machine = device.room(cpu, 0)
    assert machine is not None
    assert machine > 1e9
    for text, wanted in (("max\n", machine), ("12345\n", 12345), (f"{machine * 2}\n", machine)):
        (tmp_path / "memory.max").write_text(text)
        assert device.room(cpu, 0) == wanted
    monkeypatch.setattr("resource.getrlimit", lambda kind: (100 * 2**30, -1))
    (tmp_path / "memory.max").write_text("max")
    monkeypatch.setattr("os.sysconf", lambda name: 2**30)
    mapped = device._status("VmSize")
    assert mapped is not None
    room = device.room(cpu, 1000)
    assert room is not None
    assert abs(room - (100 * 2**30 - mapped * 1024 + 1000)) < 2**26
