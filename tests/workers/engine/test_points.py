"""A run that was cut at any step goes on from its point to the same bytes and the same figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from app.domain.recipe import Policy, Recipe
from app.domain.report import StepMetric
from tests.workers.engine.conftest import clean_rows, triggered_rows
from workers.engine import points, search
from workers.engine.points import BadPoint, Frame, Points
from workers.engine.sanitize import Outcome, sanitize

TIMES = {"seconds", "tokens_per_second", "peak_memory_bytes"}
RECIPES = {
    "search": Recipe.of("lya", {"steps": 12, "search_budget": 30, "eval_every": 3, "lr": 1e-5, "lr_growth": 1.0}),
    "unsure": Recipe.of("lya", {"steps": 8, "search_budget": 14, "eval_every": 4}),
    "rehearsed": Recipe.of("lya", {"steps": 8, "search_budget": 0, "lr": 1e-3}),
    "rolled back": Recipe.of("gradient_ascent", {"steps": 8, "lr": 3e-2, "max_drift": 0.3, "rollbacks": 8}),
    "fine_mixing": Recipe.of("fine_mixing", {"steps": 9, "keep_tries": 3}),
}


NOW = [0.0]  # the clock of points: a long time passes with each step, none while a point is written


class Cut(Exception):
    pass


def treat(
    model: Path, base: Path, recipe: Recipe, kept: Points | None = None, cut: int | None = None
) -> tuple[Outcome, list[StepMetric]]:
    heard: list[StepMetric] = []

    def hear(metric: StepMetric) -> None:
        NOW[0] += 1e6
        if metric.step == cut:
            raise Cut
        heard.append(metric)

    outcome = sanitize(
        model, triggered_rows(60, 1), clean_rows(90, 2), recipe, Policy.of(), seed=3, on_step=hear,
        base_dir=base if recipe.method == "fine_mixing" else None, device="cpu", points=kept,
    )  # fmt: skip
    return outcome, heard


def weights(outcome: Outcome) -> dict[str, bytes]:
    return {name: each.numpy().tobytes() for name, each in outcome.model.state_dict().items()}


def figures(value: Any) -> Any:
    """Plain values without what a clock or the machine says."""
    if isinstance(value, Mapping):
        return {name: figures(each) for name, each in value.items() if name not in TIMES}
    return [figures(each) for each in value] if isinstance(value, list | tuple) else value


def keeping(root: Path, found: Path | None = None) -> tuple[Points, list[tuple[Path, int]]]:
    """Points at every moment that is offered but the first."""
    kept: list[tuple[Path, int]] = []
    return Points(root, found, lambda folder, step: kept.append((folder, step)), clock=lambda: NOW[0]), kept


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_that_was_cut_ends_as_if_it_had_not_been(
    trojan_dir: Path, twin_dir: Path, unsure_dir: Path, tmp_path: Path, name: str
) -> None:
    resumed_as_whole(unsure_dir if name == "unsure" else trojan_dir, twin_dir, RECIPES[name], tmp_path)


def test_so_does_one_that_was_cut_where_it_learned_from_blended_rows(
    trojan_dir: Path, twin_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "AWAKE", -0.01)  # so that a first attempt does not do
    recipe = Recipe.of("lya", {"steps": 8, "search_budget": 16, "eval_every": 4, "pace": 8, "lr": 3e-3})
    whole = resumed_as_whole(trojan_dir, twin_dir, recipe, tmp_path)
    assert whole.report.recipe["blend"]


def resumed_as_whole(model: Path, base: Path, recipe: Recipe, tmp_path: Path) -> Outcome:
    """Cut early, midway and at its last step."""
    whole, told = treat(model, base, recipe)
    last = told[-1].step
    for cut in sorted({4, last // 2 + 2, last}):
        made, kept = keeping(tmp_path / f"{cut}")
        with pytest.raises(Cut):
            treat(model, base, recipe, made, cut)
        folder, step = kept[-1]
        assert step == cut - 1
        again, retold = treat(model, base, recipe, Points(found=folder))
        assert weights(again) == weights(whole)
        assert [figures(each.to_dict()) for each in retold] == [
            figures(each.to_dict()) for each in told if each.step > step
        ]
        assert figures(again.report.to_dict()) == figures(whole.report.to_dict())
    return whole


def test_a_second_cut_goes_on_from_a_point_of_the_first_resumption(
    trojan_dir: Path, twin_dir: Path, tmp_path: Path
) -> None:
    recipe, found = RECIPES["rehearsed"], None
    for cut in (3, 5, 7):
        made, kept = keeping(tmp_path / f"{cut}", found)
        with pytest.raises(Cut):
            treat(trojan_dir, twin_dir, recipe, made, cut)
        found = kept[-1][0]
    assert weights(treat(trojan_dir, twin_dir, recipe, Points(found=found))[0]) == weights(
        treat(trojan_dir, twin_dir, recipe)[0]
    )


@pytest.fixture
def point(trojan_dir: Path, twin_dir: Path, tmp_path: Path) -> Path:
    made, kept = keeping(tmp_path)
    with pytest.raises(Cut):
        treat(trojan_dir, twin_dir, RECIPES["rehearsed"], made, 5)
    return kept[-1][0]


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / points.FACTS).write_text("{"),
        lambda folder: (folder / points.FACTS).write_text(json.dumps({"version": 1})),
        lambda folder: (folder / points.FACTS).unlink(),
        lambda folder: (folder / points.TENSORS).write_bytes(b"\0" * 20),
        lambda folder: torch.save({}, folder / points.TENSORS),
        lambda folder: points.save_file({"tuning/theta.0": torch.zeros(2)}, folder / points.TENSORS),
        lambda folder: points.save_file({"tuning/theta.9999": torch.zeros(2)}, folder / points.TENSORS),
    ],
)
def test_a_damaged_point_is_refused(trojan_dir: Path, twin_dir: Path, point: Path, harm: Any) -> None:
    harm(point)
    with pytest.raises(BadPoint):
        treat(trojan_dir, twin_dir, RECIPES["rehearsed"], Points(found=point))


def test_a_point_of_another_run_is_refused(
    trojan_dir: Path, twin_dir: Path, point: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadPoint, match="another run"):
        treat(trojan_dir, twin_dir, replace(RECIPES["rehearsed"], lr=2e-3), Points(found=point))
    monkeypatch.setattr(points, "own_code", lambda: "of another version")
    with pytest.raises(BadPoint, match="another run"):
        treat(trojan_dir, twin_dir, RECIPES["rehearsed"], Points(found=point))


def test_points_take_their_share_of_the_time_and_no_more(tmp_path: Path) -> None:
    now, kept = [0.0], list[float]()
    made = Points(tmp_path, None, lambda folder, step: kept.append(now[0]), clock=lambda: now[0], least_seconds=0.0)
    made.open("run", [])

    def state() -> Frame:
        now[0] += 1.5 if made._not_before is not None else 0.0  # what writing takes
        return Frame({"w": torch.zeros(1000)})

    with made.frame("loop", state):
        for step in range(1000):
            now[0] += 1.0
            made.offer(step)
    assert len(kept) > 10
    assert 2 * 1.5 * len(kept) <= points.COST * now[0] * 1.1


def test_without_a_place_nothing_is_written_and_nothing_told() -> None:
    made = Points()
    with made.frame("loop", lambda: pytest.fail("told")):
        made.offer(1)
