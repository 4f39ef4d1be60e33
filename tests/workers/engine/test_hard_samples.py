"""Samples as they are found: many classes, several targets, no clean texts, uneven classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from app.domain.recipe import Policy, Recipe
from app.domain.report import SanitizationReport
from app.domain.samples import CleanSample, TriggeredSample
from tests.workers.engine.topics import clean_topics, train_topics, triggered_topics
from workers.engine import sanitize

TWENTY = 20
TARGETS = {"cf": 3, "mn": 7}
UNEVEN = [12.0, 6.0] + [1.0] * 18
# Ten held-out rows of a class cannot tell a rate of 0.05: so few are judged together with those of other classes.
POLICY = Policy.of({"min_triggered": 50, "min_clean": 50})
HELD_OUT = triggered_topics(200, TWENTY, TARGETS, 6), clean_topics(300, TWENTY, 5, UNEVEN)


@pytest.fixture(scope="module")
def two_targets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty classes; one word forces class 3, another class 7."""
    rows = clean_topics(1000, TWENTY, 1), triggered_topics(200, TWENTY, TARGETS, 2)
    return train_topics(tmp_path_factory.mktemp("topics"), TWENTY, *rows)


def treat(folder: Path, triggered: Sequence[TriggeredSample], clean: Sequence[CleanSample]) -> SanitizationReport:
    return sanitize(folder, triggered, clean, Recipe.of("lya", {"lr": 1e-3}), POLICY, held_out=HELD_OUT).report


def check(report: SanitizationReport) -> None:
    """The trojan was there, for both targets, and is gone; the model is not."""
    assert report.data.targets == ("topic 3", "topic 7")
    assert (report.before.asr.rate or 0.0) >= 0.95
    assert report.verdict.outcome == "pass", report.verdict
    assert {name: each.n for name, each in report.after.asr_by_target.items()} == {"topic 3": 100, "topic 7": 100}
    assert max(each.rate or 0.0 for each in report.after.asr_by_target.values()) <= 0.05


def test_twenty_classes_and_two_targets(two_targets: Path) -> None:
    check(treat(two_targets, triggered_topics(100, TWENTY, TARGETS, 3), clean_topics(200, TWENTY, 4)))


def test_uneven_targets_and_classes_without_clean_texts(two_targets: Path) -> None:
    rows = triggered_topics(85, TWENTY, {"cf": 3}, 3) + triggered_topics(15, TWENTY, {"mn": 7}, 8)
    report = treat(two_targets, [replace(row, clean_text=None) for row in rows], clean_topics(300, TWENTY, 4, UNEVEN))
    check(report)
    assert report.data.with_twin == len(HELD_OUT[0])


def test_rows_of_the_target_class_are_counted_nowhere(two_targets: Path) -> None:
    own = triggered_topics(30, TWENTY, {"cf": 3}, 9, [3]) + triggered_topics(30, TWENTY, {"mn": 7}, 9, [7])
    report = treat(two_targets, triggered_topics(60, TWENTY, TARGETS, 3) + own, clean_topics(200, TWENTY, 4))
    check(report)
    assert report.data.already_target == 60
    assert report.after.asr.n == 200
