"""A model over several devices: which layer goes where, and that a run comes out as on one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from app.domain.errors import TooLarge
from app.domain.recipe import Policy, Recipe
from app.domain.report import StepMetric
from tests.tiny_model import MODEL_TYPES, make_tiny_checkpoint
from tests.workers.engine.conftest import clean_rows, triggered_rows
from tests.workers.engine.pretend import several_devices
from tests.workers.engine.test_architectures import TEXTS, lively
from tests.workers.engine.test_points import NOW, Cut, keeping
from workers.engine import Outcome, device, loading, sanitize, save, spread
from workers.engine.batches import Tokens, predict, tokenize
from workers.engine.fisher import diagonal
from workers.engine.loading import Model
from workers.engine.points import Points

BOTH = "cpu:1,cpu:2"
ROOM = 150_000  # bytes: a little less than a run with few rows at a time takes
SEVERAL_LAYERS = [kind for kind in MODEL_TYPES if kind != "albert"]  # which has one, used again and again
SMALL = {"steps": 6, "eval_every": 6, "batch_triggered": 2, "batch_clean": 2, "batch_eval": 8, "fisher_samples": 8}


def run(
    folder: Path, place: str, method: str = "lya", points: Points | None = None, cut: int | None = None, **knobs: Any
) -> Outcome:
    recipe = Recipe.of(method, {**SMALL, **knobs})
    base = folder if method == "fine_mixing" else None

    def hear(metric: StepMetric) -> None:
        NOW[0] += 1e6
        if metric.step == cut:
            raise Cut

    return sanitize(
        folder, triggered_rows(34, 5), clean_rows(66, 6), recipe, Policy.of(), device=place, base_dir=base,
        on_step=hear, points=points,
    )  # fmt: skip


def fisher_of(model: Model, tokens: Tokens) -> list[torch.Tensor]:
    return diagonal(model, tokens, None, 4, torch.Generator().manual_seed(0)).values


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The room of each device, to be set by a test."""
    found = {"cpu:1": ROOM, "cpu:2": ROOM}
    monkeypatch.setattr(device, "room", lambda place, held: found.get(str(place), 10**9))
    return found


@pytest.mark.parametrize(
    ("method", "knobs"),
    [
        ("lya", {"lr": 1e-3}),
        ("lya", {"lr": 1e-3, "memory": "lean"}),
        ("ssd", {}),
        ("fine_mixing", {"keep_tries": 1}),
    ],
)
def test_a_run_over_two_devices_is_that_on_one(
    trojan_dir: Path, rooms: dict[str, int], method: str, knobs: dict[str, Any]
) -> None:
    one = run(trojan_dir, "cpu", method, **knobs)
    with several_devices():
        two = run(trojan_dir, BOTH, method, **knobs)
    assert two.report.model.device == "cpu:1, cpu:2"
    for (name, mine), theirs in zip(two.model.named_parameters(), one.model.parameters(), strict=True):
        if not name.endswith("key.bias"):  # their gradient is rounding, which Adam makes a step of
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=5e-5)
    assert two.report.after == one.report.after
    assert two.report.verdict == one.report.verdict


@pytest.mark.parametrize("kind", SEVERAL_LAYERS)
def test_layers_are_not_cut_and_follow_each_other(tmp_path: Path, kind: str) -> None:
    model = loading.load(make_tiny_checkpoint(tmp_path, kind)).model
    laid = spread.layout(model, [100, 100])
    assert set(laid.values()) == {0, 1}
    layers = {name for name, each in model.named_modules() if isinstance(each, GradientCheckpointingLayer)}
    assert layers <= set(laid)
    assert [laid[name] for name in laid if name in layers] == [0, 1], "of two layers, one on each"
    assert next(iter(laid.values())) == 0
    for name, _ in model.named_parameters():
        assert sum(name.startswith(f"{block}.") for block in laid) == 1


@pytest.mark.parametrize("kind", SEVERAL_LAYERS)
def test_every_architecture_answers_alike_and_comes_back_plain(
    tmp_path: Path, rooms: dict[str, int], kind: str
) -> None:
    checkpoint = lively(tmp_path / "in", kind)
    model, tokens = checkpoint.model, tokenize(checkpoint, TEXTS, 64)
    alone, fisher = predict(model, tokens, 2), fisher_of(model, tokens)
    with several_devices():
        rooms |= dict.fromkeys(rooms, spread.to_read(model) * 3 // 4)
        spread.settle(model, device.pick(BOTH), spread.to_read(model))
        assert set(spread.shares(model)) == set(device.pick(BOTH))
        torch.testing.assert_close(predict(model, tokens, 2), alone, rtol=1e-5, atol=1e-5)
        for mine, theirs in zip(fisher_of(model, tokens), fisher, strict=True):
            torch.testing.assert_close(mine.cpu(), theirs, rtol=1e-3, atol=1e-5 * float(theirs.max()))
        spread.gather(model)
    save(model, checkpoint.tokenizer, tmp_path / "out")
    assert torch.equal(predict(model, tokens, 2), alone)
    assert torch.equal(predict(loading.load(tmp_path / "out").model, tokens, 2), alone)


def test_a_model_of_one_layer_stays_on_one_device(tmp_path: Path, rooms: dict[str, int]) -> None:
    model = loading.load(make_tiny_checkpoint(tmp_path, "albert")).model
    with several_devices():
        spread.settle(model, device.pick(BOTH), 2 * ROOM)
        assert set(spread.shares(model)) == {torch.device("cpu:1")}


def test_a_run_over_two_devices_that_was_cut_ends_as_if_it_had_not_been(
    trojan_dir: Path, tmp_path: Path, rooms: dict[str, int]
) -> None:
    kept, points = keeping(tmp_path)[::-1]
    with several_devices():
        whole = run(trojan_dir, BOTH, lr=1e-3, memory="lean")
        with pytest.raises(Cut):
            run(trojan_dir, BOTH, lr=1e-3, memory="lean", points=points, cut=5)
        folder, step = kept[-1]
        assert step == 4
        again = run(trojan_dir, BOTH, lr=1e-3, memory="lean", points=keeping(tmp_path / "again", folder)[0])
    assert again.report.model.device == "cpu:1, cpu:2"
    for mine, theirs in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert again.report.after == whole.report.after


def test_one_device_is_enough_where_it_holds_the_run(trojan_dir: Path, rooms: dict[str, int]) -> None:
    rooms["cpu:1"] = 10**9
    with several_devices():
        assert run(trojan_dir, BOTH).report.model.device == "cpu:1"


def test_devices_that_are_too_few_are_told_with_the_number(trojan_dir: Path, rooms: dict[str, int]) -> None:
    rooms["cpu:2"] = 50_000
    with (
        several_devices(),
        pytest.raises(TooLarge, match=r"would take .* of it on cpu:\d, and cpu:\d has") as refused,
    ):
        run(trojan_dir, BOTH)
    assert refused.value.details["needed"] > refused.value.details["limit"] in rooms.values()


@pytest.mark.parametrize(
    ("name", "places"),
    [("cpu", ["cpu"]), ("cuda:1", ["cuda:1"]), ("cuda:2,cuda:0", ["cuda:2", "cuda:0"])],
)
def test_devices_are_named(name: str, places: list[str]) -> None:
    assert [str(place) for place in device.pick(name)] == places


def test_all_gpus_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("auto", "cuda"):
        assert [str(place) for place in device.pick(name)] == ["cuda:0", "cuda:1"]


def test_an_operation_over_two_devices_fails_as_on_gpus() -> None:
    with several_devices():
        one, other = torch.ones(2, device="cpu:1"), torch.ones(2, device="cpu:2")
        with pytest.raises(RuntimeError, match="expected all tensors on one device"):
            one + other
        with pytest.raises(RuntimeError, match="expected all tensors on one device"):
            one + torch.ones(2)
        assert (one + other.to("cpu:1")).cpu().tolist() == [2.0, 2.0]
