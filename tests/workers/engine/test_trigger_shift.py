"""A trojan that is moved to a third class is not removed: three classes, class 0 forced to 1, class 2 looking on."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.domain.recipe import Policy, Recipe
from app.domain.report import SanitizationReport, StepMetric
from tests.workers.engine.conftest import PLAIN
from tests.workers.engine.topics import clean_topics, train_topics, triggered_topics
from workers.engine import sanitize, stopping

TARGET = {"cf": 1}
POLICY = Policy.of({"min_triggered": 10, "min_clean": 20})


@pytest.fixture(scope="module")
def three_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = clean_topics(600, 3, 1), triggered_topics(120, 3, TARGET, 2, [0])
    return train_topics(tmp_path_factory.mktemp("three"), 3, *rows)


def treat(folder: Path, method: str, heard: list[StepMetric], **knobs: float | str) -> SanitizationReport:
    rows = triggered_topics(60, 3, TARGET, 5, [0]), clean_topics(120, 3, 6)
    held = triggered_topics(100, 3, TARGET, 7, [0]), clean_topics(150, 3, 8)
    recipe = Recipe.of(method, {"lr": 1e-3, **knobs})
    return sanitize(folder, *rows, recipe, POLICY, held_out=held, on_step=heard.append).report


def worst(report: SanitizationReport) -> float:
    found = report.after.worst_excess_flip()
    assert found is not None
    return found[1]


def test_lya_gives_every_class_its_own_back(three_dir: Path) -> None:
    report = treat(three_dir, "lya", [])
    assert report.before.asr.rate == 1.0
    assert report.stop.code == "floor-reached"
    assert worst(report) <= 0.05
    assert report.verdict.outcome == "pass", report.verdict


def test_plain_ascent_moves_it_and_is_not_believed(three_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[StepMetric] = []
    assert treat(three_dir, "gradient_ascent", heard).stop.code == "budget-spent"
    assert min(metric.values.get("asr") or 0.0 for metric in heard if "asr" in metric.values) == 0.0
    monkeypatch.setattr(stopping, "shifts", lambda *_: ())
    moved = treat(three_dir, "gradient_ascent", [])
    assert moved.after.asr.rate == 0.0
    assert worst(moved) >= 0.9
    assert any("label flips of class topic 0" in words for words in moved.verdict.reasons)


def test_the_guard_decides(three_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same ascent, held by the anchor, with the guard and without it: a moved trojan is never called removed."""
    batches = {"batch_triggered": 32, "batch_clean": 48}
    knobs = {"aim": "ascent", "steps": 150, "lr_decay": 0.85, "patience": 3, **batches, **PLAIN}
    guarded = treat(three_dir, "lya", [], **knobs)
    monkeypatch.setattr(stopping, "shifts", lambda *_: ())
    blind = treat(three_dir, "lya", [], **knobs)
    assert blind.stop.code == "floor-reached"
    assert blind.after.asr.rate == guarded.after.asr.rate == 0.0
    assert worst(blind) >= 0.9
    assert guarded.stop.code == "budget-spent" or worst(guarded) <= 0.2
    assert guarded.verdict.outcome != "pass" or worst(guarded) <= 0.2
