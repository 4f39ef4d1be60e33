"""The relearning check: a trojan that sleeps is seen to wake, and the repaired model leaves as it came."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from app.domain.errors import BadRecipe, ModelRefused
from app.domain.recipe import Policy, Recipe
from app.domain.report import SanitizationReport
from app.domain.samples import TriggeredSample
from tests.tiny_model import make_tiny_checkpoint
from tests.workers.engine.conftest import PLAIN, clean_rows, triggered_rows
from workers.engine import Outcome, loading, relearning, sanitize, scorecard
from workers.engine.batches import Tokens
from workers.engine.relearning import Draw, Pupil
from workers.engine.splits import Rows

POLICY = Policy.of({"min_triggered": 10, "min_clean": 20})
RECIPE = Recipe.of("lya", {"lr": 1e-3, **PLAIN})


@dataclass(frozen=True)
class Run:
    """An outcome, and the phases that it came by."""

    outcome: Outcome
    phases: list[str]


def treat(folder: Path, recipe: Recipe, control: Path | None = None, seed: int = 0) -> Run:
    phases: list[str] = []
    triggered = [replace(row, clean_text=None) for row in triggered_rows(60, 5)]
    clean = clean_rows(240, 6)
    outcome = sanitize(
        folder, triggered, clean, recipe, POLICY, seed=seed, control_dir=control, on_phase=phases.append
    )
    return Run(outcome, phases)


def pupil(folder: Path, triggered: list[TriggeredSample], clean: int) -> Pupil:
    checkpoint = loading.load(folder)
    unlearn = scorecard.sheet(checkpoint, Rows(tuple(triggered), tuple(clean_rows(clean, 8))), 64)
    report = scorecard.sheet(checkpoint, Rows(tuple(triggered_rows(30, 9)), tuple(clean_rows(40, 9))), 64)
    return Pupil(checkpoint, unlearn, report)


def state(held: Pupil) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in held.checkpoint.model.state_dict().items()}


def bits(values: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in values.items()}


@pytest.fixture(scope="module")
def plain(trojan_dir: Path) -> Run:
    return treat(trojan_dir, RECIPE)


@pytest.fixture(scope="module")
def checked(trojan_dir: Path, twin_dir: Path) -> Run:
    return treat(trojan_dir, replace(RECIPE, relearning=True), twin_dir)


def test_a_sleeping_trojan_wakes_and_a_model_without_one_learns_nothing(checked: Run) -> None:
    report = checked.outcome.report
    assert (report.after.asr.rate or 0.0) <= 0.1
    assert [(each.k, each.n_clean) for each in report.relearning] == [(1, 4), (5, 20), (10, 40)]
    last = report.relearning[-1]
    assert last.control_asr is not None
    assert (last.asr.rate or 0.0) >= (last.control_asr.rate or 0.0) + 0.15
    assert last.asr.n == last.control_asr.n == report.after.asr.n
    assert last.accuracy.n == report.data.sizes.report_clean


def test_the_report_says_what_was_measured_and_what_was_left_out(plain: Run, checked: Run) -> None:
    held = checked.outcome.report.data.sizes
    said = " ".join(checked.outcome.report.limits)
    assert "measured with 1, 5 and 10 triggered samples" in said
    assert (
        f"Relearning with 50 triggered samples was left out: each, of another class than the target, takes 4 clean "
        f"ones, and the unlearn part holds {held.unlearn_triggered} and {held.unlearn_clean}." in said
    )
    assert "No control" not in said
    assert "Relearning was not measured." in " ".join(plain.outcome.report.limits)


def test_its_seconds_are_apart_and_its_phase_is_known(plain: Run, checked: Run) -> None:
    assert list(dict.fromkeys(checked.phases)) == plain.phases
    assert list(checked.outcome.report.cost.seconds) == [*plain.outcome.report.cost.seconds, "relearning"]


def test_the_delivered_model_and_the_rest_of_the_report_are_those_without_the_check(plain: Run, checked: Run) -> None:
    without, with_check = (bits(dict(run.outcome.model.state_dict())) for run in (plain, checked))
    assert without == with_check
    assert not plain.outcome.report.relearning
    assert comparable(plain.outcome.report) == comparable(checked.outcome.report)
    planned, more = (run.outcome.report.cost.planned_memory_bytes or 0 for run in (plain, checked))
    assert more > planned > 0, "the control's weights are held too"


def comparable(report: SanitizationReport) -> SanitizationReport:
    cost = replace(report.cost, seconds={}, tokens_per_second=None, peak_memory_bytes=0, planned_memory_bytes=0)
    return replace(report, cost=cost, recipe={}, recipe_fingerprint="", limits=(), relearning=(), search=None)


def test_same_seed_same_figures(trojan_dir: Path, twin_dir: Path, checked: Run) -> None:
    torch.manual_seed(5)  # what the caller's generator was at must not matter
    again = treat(trojan_dir, replace(RECIPE, relearning=True), twin_dir)
    assert again.outcome.report.relearning == checked.outcome.report.relearning


def test_the_state_is_put_back_byte_by_byte_also_when_the_check_breaks_off(trojan_dir: Path) -> None:
    held = pupil(trojan_dir, triggered_rows(10, 7), 40)
    before = bits(state(held))
    draw = relearning.draws(held.unlearn, seed=0)[-1]
    relearning.relearn(held, draw, RECIPE)
    assert bits(state(held)) == before
    assert all(parameter.grad is None for parameter in held.checkpoint.model.parameters())
    unreadable = replace(held, report=replace(held.report, clean=Tokens(((10_000,),), 0)))
    with pytest.raises(IndexError):
        relearning.relearn(unreadable, draw, RECIPE)
    assert bits(state(held)) == before


def test_with_a_larger_budget_a_model_that_never_had_it_learns_the_trojan(
    twin_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triggered samples are trained on with the attacker's label, and clean ones with their own."""
    held = pupil(twin_dir, triggered_rows(40, 7), 60)
    monkeypatch.setattr(relearning, "STEPS", 40)
    monkeypatch.setattr(relearning, "LEARNING_RATE", 2e-4)
    asr, floor, accuracy = relearning.relearn(held, Draw(tuple(range(40)), tuple(range(60))), RECIPE)
    assert (asr.rate or 0.0) > (floor.rate or 0.0) + 0.3
    assert (accuracy.rate or 0.0) > 0.8


def test_batches_do_not_change_the_step(trojan_dir: Path) -> None:
    held = pupil(trojan_dir, triggered_rows(10, 7), 40)
    draw = relearning.draws(held.unlearn, seed=0)[-1]
    at_once, in_parts = (relearning.relearn(held, draw, replace(RECIPE, batch_clean=size)) for size in (64, 7))
    assert at_once == in_parts


def test_rows_are_drawn_by_seed_from_those_of_another_class_and_nested(trojan_dir: Path) -> None:
    rows = [replace(row, true_label=1) if place % 2 else row for place, row in enumerate(triggered_rows(24, 7))]
    page = pupil(trojan_dir, rows, 60).unlearn
    first, second, third = relearning.draws(page, seed=3)
    assert [len(draw.triggered) for draw in (first, second, third)] == [1, 5, 10]
    assert [len(draw.clean) for draw in (first, second, third)] == [4, 20, 40]
    assert set(first.triggered) < set(second.triggered) < set(third.triggered)
    assert set(first.clean) < set(second.clean) < set(third.clean)
    assert all(place % 2 == 0 for place in third.triggered)
    assert relearning.draws(page, seed=3) == [first, second, third]
    assert relearning.draws(page, seed=4) != [first, second, third]


@pytest.mark.parametrize(
    ("triggered", "clean", "sizes"), [(60, 200, [1, 5, 10, 50]), (60, 199, [1, 5, 10]), (4, 200, [1]), (0, 200, [])]
)
def test_a_size_with_too_few_rows_is_left_out(trojan_dir: Path, triggered: int, clean: int, sizes: list[int]) -> None:
    page = pupil(trojan_dir, triggered_rows(triggered, 7), clean).unlearn
    assert [len(draw.triggered) for draw in relearning.draws(page, seed=0)] == sizes


def test_where_nothing_could_be_measured_that_is_all_that_is_said(trojan_dir: Path) -> None:
    page = pupil(trojan_dir, triggered_rows(3, 7), 3).unlearn
    said = relearning.words([], page, controlled=False)
    assert said.startswith("Relearning with 1, 5, 10 and 50 triggered samples was left out")
    assert said.endswith("holds 3 and 3.")


@pytest.mark.parametrize("kind", ["bert", "distilbert", "gpt2", "llama"])
def test_a_narrow_model_learns_at_a_higher_rate(tmp_path: Path, kind: str) -> None:
    model = loading.load(make_tiny_checkpoint(tmp_path, kind)).model
    assert relearning.learning_rate(model) == pytest.approx(2e-5 * 384 / 16)
    model.config.hidden_size = 1024
    assert relearning.learning_rate(model) == pytest.approx(2e-5)


def test_a_control_that_cannot_serve_is_refused_before_training(trojan_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRecipe, match="set relearning to true"):
        treat(trojan_dir, RECIPE, trojan_dir)
    other = make_tiny_checkpoint(tmp_path, labels=("a", "b", "c"))
    phases: list[str] = []
    with pytest.raises(ModelRefused, match="the control's classes"):
        sanitize(
            trojan_dir,
            triggered_rows(60, 5),
            clean_rows(120, 6),
            replace(RECIPE, relearning=True),
            POLICY,
            control_dir=other,
            on_phase=phases.append,
        )
    assert phases == ["loading"]
