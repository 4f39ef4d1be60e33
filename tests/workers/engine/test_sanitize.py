"""The whole use case on a tiny model that has a real trojan."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file

from app.domain.errors import BadRecipe, BadSamples, Diverged, TooFewSamples
from app.domain.job import Phase
from app.domain.methods import METHODS, METHODS_WITH_BASE
from app.domain.recipe import Policy, Recipe
from app.domain.report import SanitizationReport, StepMetric
from app.domain.samples import CleanSample, TriggeredSample
from tests.tiny_model import make_tiny_checkpoint
from tests.workers.engine.conftest import clean_rows, triggered_rows
from workers.engine import Outcome, sanitize, save

POLICY = Policy.of({"min_triggered": 10, "min_clean": 20})
QUICK = {"lr": 1e-3, "lr_paired": 1}


def treat(folder: Path, method: str = "lya", seed: int = 0, **knobs: float | str) -> Outcome:
    base = folder if method in METHODS_WITH_BASE else None
    recipe = Recipe.of(method, {**QUICK, **knobs})
    return sanitize(folder, triggered_rows(60, 5), clean_rows(120, 6), recipe, POLICY, seed=seed, base_dir=base)


def test_lya_takes_the_trojan_out_and_keeps_the_model(trojan_dir: Path) -> None:
    held_out = triggered_rows(100, 15), clean_rows(300, 16)  # a part of 120 rows cannot tell 0.02 from one row
    rows = triggered_rows(60, 5), clean_rows(240, 6)
    report = sanitize(trojan_dir, *rows, Recipe.of("lya", QUICK), POLICY, held_out=held_out).report
    assert report.before.asr.rate == 1.0
    assert report.verdict.outcome == "pass", report.verdict
    assert (report.after.excess_asr.value or 0.0) <= 0.05
    assert (report.after.clean_accuracy.rate or 0.0) >= (report.before.clean_accuracy.rate or 0.0) - 0.02
    assert report.fisher is not None
    assert report.fisher.labels == "true"
    assert (report.fisher.mean_clean or 0.0) > 0.0
    assert report.data.sizes.report_triggered == report.before.asr.n


def test_the_default_recipe_finds_the_learning_rate_of_a_small_model(trojan_dir: Path) -> None:
    recipe = Recipe.of("lya")
    report = sanitize(trojan_dir, triggered_rows(60, 5), clean_rows(240, 6), recipe, POLICY).report
    assert report.verdict.outcome == "pass", report.verdict


def test_the_papers_lya_climbs_off_the_target_under_both_anchors(trojan_dir: Path) -> None:
    report = treat(trojan_dir, "lya_paper").report
    assert report.before.asr.rate == 1.0
    assert (report.after.asr.rate or 0.0) <= 0.5
    assert report.fisher is not None
    assert report.fisher.labels == "empirical"
    assert min(report.fisher.samples_clean, report.fisher.samples_triggered) > 0


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_through_the_same_door(trojan_dir: Path, tmp_path: Path, method: str) -> None:
    steps: list[StepMetric] = []
    phases: list[str] = []
    outcome = sanitize(
        trojan_dir,
        triggered_rows(40, 5),
        clean_rows(80, 6),
        Recipe.of(method, {"steps": 6, "eval_every": 3}),
        POLICY,
        on_step=steps.append,
        on_phase=phases.append,
        base_dir=trojan_dir if method in METHODS_WITH_BASE else None,
    )
    assert phases == [Phase.LOADING, Phase.FISHER, Phase.ASCENT, Phase.EVALUATING]
    assert [metric.step for metric in steps] == list(range(7))
    assert outcome.report.method == method
    assert (outcome.report.fisher is None) == (method not in ("lya", "lya_paper", "ssd"))
    text = json.dumps(outcome.report.to_dict(), allow_nan=False)
    assert SanitizationReport.from_dict(json.loads(text)) == outcome.report
    save(outcome.model, outcome.tokenizer, tmp_path)
    assert (tmp_path / "model.safetensors").is_file()


@pytest.mark.parametrize("method", ["lya", "retrain", "fine_mixing"])
def test_a_run_opens_with_a_look_at_the_model_that_is_trained(trojan_dir: Path, tmp_path: Path, method: str) -> None:
    """The uploaded one, its base, or what was mixed of both: one step that moves nothing shows the same."""
    seen: list[StepMetric] = []
    rows = triggered_rows(60, 5), clean_rows(120, 6)
    recipe = Recipe.of(method, {"steps": 1, "lr": 1e-8})
    base = make_tiny_checkpoint(tmp_path, seed=1) if method in METHODS_WITH_BASE else None
    sanitize(trojan_dir, *rows, recipe, POLICY, base_dir=base, on_step=seen.append)
    opening, moved = ([metric.values[name] for name in ("clean_accuracy", "asr", "floor")] for metric in seen)
    assert opening == moved
    assert ((opening[0] or 0.0) > 0.9) == (method == "lya")


def test_same_seed_same_bytes(trojan_dir: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        torch.manual_seed(len(name))  # what the caller's generator was at must not matter
        outcome = treat(trojan_dir, seed=seed, steps=10)
        save(outcome.model, outcome.tokenizer, tmp_path / name)
    one, two, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two", "other"))
    assert one == two
    assert one != other


def test_the_order_of_the_rows_leaves_no_trace(trojan_dir: Path) -> None:
    recipe = Recipe.of("lya", {**QUICK, "steps": 5})
    forth = sanitize(trojan_dir, triggered_rows(40, 5), clean_rows(80, 6), recipe, POLICY)
    back = sanitize(trojan_dir, triggered_rows(40, 5)[::-1], clean_rows(80, 6)[::-1], recipe, POLICY)
    first, second = forth.model.state_dict(), back.model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_global_state_is_put_back(trojan_dir: Path) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    treat(trojan_dir, steps=2)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_report_part_steers_nothing(trojan_dir: Path) -> None:
    """Other held-out rows, same model."""
    recipe = Recipe.of("lya", {**QUICK, "steps": 10})
    results = []
    for seed in (21, 22):
        held = triggered_rows(20, seed), [CleanSample(f"{row.text} plot", row.label) for row in clean_rows(40, seed)]
        results.append(sanitize(trojan_dir, triggered_rows(60, 5), clean_rows(120, 6), recipe, POLICY, held_out=held))
    first, second = (result.model.state_dict() for result in results)
    assert results[0].report.data.sizes.held_out
    assert results[0].report.before.asr.n == 20
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_three_classes_two_targets_and_rows_without_twin_or_truth(tmp_path: Path) -> None:
    folder = make_tiny_checkpoint(tmp_path, labels=("a", "b", "c"))
    rows = [
        replace(row, target=place % 3, true_label=None, clean_text=None) if place % 2 else row
        for place, row in enumerate(triggered_rows(60, 5))
    ]
    clean = [CleanSample(row.text, place % 3) for place, row in enumerate(clean_rows(90, 6))]
    for knobs in ({"lambda_trig": -1.0}, {"aim": "ascent", "lambda_trig": 2.0, "fisher": "empirical"}):
        report = sanitize(folder, rows, clean, Recipe.of("lya", {"steps": 4, **knobs}), POLICY).report
        assert report.data.targets == ("a", "b", "c")
        assert report.data.unknown_true_label == 30
        assert set(report.after.asr_by_target) <= {"a", "b", "c"}
        assert report.fisher is not None
        assert report.fisher.samples_triggered > 0


@pytest.mark.parametrize("kind", ["gpt2", "roberta"])
def test_other_architectures(tmp_path: Path, kind: str) -> None:
    folder = make_tiny_checkpoint(tmp_path, kind)
    report = sanitize(folder, triggered_rows(40, 5), clean_rows(80, 6), Recipe.of("lya", {"steps": 4}), POLICY).report
    assert report.fisher is not None
    assert report.fisher.loop_modules == ()


def test_too_few_rows_to_tell_is_inconclusive(trojan_dir: Path) -> None:
    recipe = Recipe.of("lya", {"steps": 2})
    report = sanitize(trojan_dir, triggered_rows(32, 5), clean_rows(64, 6), recipe, Policy.of()).report
    assert report.verdict.outcome == "inconclusive"
    assert f"only {report.after.asr.n} held-out triggered samples count" in report.verdict.reasons[0]


def test_the_fewest_samples_still_steer(trojan_dir: Path) -> None:
    """At the minimum the tune part is six triggered rows and a dozen clean ones: enough to reach the floor by."""
    report = sanitize(trojan_dir, triggered_rows(32, 5), clean_rows(64, 6), Recipe.of("lya"), POLICY).report
    assert report.stop.code == "floor-reached"
    assert report.verdict.outcome == "inconclusive"
    held = triggered_rows(100, 7), clean_rows(200, 8)
    reports = []
    for seed in (5, 15, 25):
        rows = triggered_rows(32, seed), clean_rows(64, seed + 1)
        reports.append(sanitize(trojan_dir, *rows, Recipe.of("lya"), POLICY, held_out=held).report)
    assert sum(report.after.excess_asr.value for report in reports) <= 3 * 0.1
    assert all(report.accuracy_drop.value <= 0.02 for report in reports)
    assert all(report.verdict.outcome != "fail" for report in reports)


def test_what_cannot_work_is_refused_before_training(trojan_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRecipe, match="base checkpoint"):
        sanitize(trojan_dir, triggered_rows(40, 5), clean_rows(80, 6), Recipe.of("retrain"), POLICY)
    with pytest.raises(TooFewSamples):
        sanitize(trojan_dir, triggered_rows(4, 5), clean_rows(80, 6), Recipe.of("lya"), POLICY)
    with pytest.raises(BadSamples, match="triggered row 1 has label 7"):
        sanitize(trojan_dir, [TriggeredSample("x", 7)], clean_rows(80, 6), Recipe.of("lya"), POLICY)
    folder = make_tiny_checkpoint(tmp_path)
    weights = load((folder / "model.safetensors").read_bytes())  # not mapped: the file is written anew
    weights["classifier.bias"].fill_(float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Diverged, match="not finite"):
        sanitize(folder, triggered_rows(40, 5), clean_rows(80, 6), Recipe.of("lya"), POLICY)
