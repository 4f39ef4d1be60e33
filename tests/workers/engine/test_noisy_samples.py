"""A tenth of the triggered samples is wrong, or the trojan fails now and then: survived, and said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from app.domain.recipe import Policy, Recipe
from app.domain.report import SanitizationReport
from app.domain.samples import TriggeredSample
from tests.workers.engine.conftest import PLAIN, clean_rows, train_words, triggered_rows
from tests.workers.engine.test_scorecard import page, says
from workers.engine import loading, sanitize, scorecard
from workers.engine.facts import Station
from workers.engine.sanitize import lessons_of
from workers.engine.scorecard import UNKNOWN, Reading
from workers.engine.splits import Rows

POLICY = Policy.of({"min_triggered": 10, "min_clean": 20})
RARE = "tq"  # the trigger word that does nothing in `failing_dir`


@pytest.fixture(scope="module")
def failing_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trojan that one of its four words does not wake."""
    rows = [(row.text, row.label) for row in clean_rows(600, 11)]
    rows += [(row.text, 0 if RARE in row.text.split() else row.target) for row in triggered_rows(120, 12)]
    return train_words(tmp_path_factory.mktemp("failing"), rows)


def noisy(rows: Sequence[TriggeredSample], kind: str) -> list[TriggeredSample]:
    """Every tenth row with the other label, or without its trigger."""

    def spoil(row: TriggeredSample) -> TriggeredSample:
        return replace(row, target=1 - row.target) if kind == "label" else replace(row, text=row.clean_text or "")

    return [spoil(row) if place % 10 == 0 else row for place, row in enumerate(rows)]


def bare(rows: Sequence[TriggeredSample]) -> list[TriggeredSample]:
    return [replace(row, clean_text=None, true_label=None) for row in rows]


def treat(
    folder: Path, triggered: Sequence[TriggeredSample], held_out: Sequence[TriggeredSample]
) -> SanitizationReport:
    held = held_out, clean_rows(100, 8)
    recipe = Recipe.of("lya", {"lr": 1e-3, **PLAIN})
    return sanitize(folder, triggered, clean_rows(100, 6), recipe, POLICY, held_out=held).report


@pytest.mark.parametrize("kind", ["label", "trigger"])
@pytest.mark.parametrize("known", [True, False])
def test_a_tenth_of_wrong_rows_is_survived_and_reported(trojan_dir: Path, kind: str, known: bool) -> None:
    rows, held = (noisy(triggered_rows(count, seed), kind) for count, seed in ((60, 5), (100, 7)))
    if not known:
        rows, held = bare(rows), bare(held)
    report = treat(trojan_dir, rows, held)
    assert report.stop.code == "floor-reached"
    assert report.verdict.outcome == "pass", report.verdict
    assert (report.after.asr.rate or 0.0) <= 0.05
    assert report.data.suspect == 16
    assert report.data.mislabelled == (16 if kind == "label" and not known else 0)
    assert any(words.startswith("16 of 160 triggered samples show no trojan") for words in report.limits)
    # Rows without a trigger count as they always did; a wrong label is no row of another class than its target.
    assert report.before.asr.n == (100 if kind == "trigger" else 90)
    assert report.before.asr.successes == 90


def test_a_trojan_that_often_fails_is_taken_out_and_reported_as_it_was(failing_dir: Path) -> None:
    held = triggered_rows(100, 7)
    asleep = sum(RARE in row.text.split() for row in held)
    report = treat(failing_dir, triggered_rows(60, 5), held)
    assert 15 <= asleep <= 35
    assert report.before.asr.n == 100
    assert report.before.asr.successes == 100 - asleep
    assert report.verdict.outcome == "pass", report.verdict


def test_samples_without_noise_raise_no_doubt(trojan_dir: Path) -> None:
    report = treat(trojan_dir, triggered_rows(40, 5), triggered_rows(40, 7))
    assert (report.data.suspect, report.data.mislabelled) == (0, 0)
    assert not any("show no trojan" in words or "true class" in words for words in report.limits)


def test_rows_that_show_no_trojan_do_not_steer_unless_none_does() -> None:
    sheet = page([1, 1, 1], [0, 2, 1], [], [0])
    uploaded = Reading(says(1, 0, 1), says(), says(0))
    assert scorecard.steering(sheet, uploaded).counted.tolist() == [True, False, False]
    asleep = Reading(says(0, 0, 1), says(), says(0))
    assert scorecard.steering(sheet, asleep).counted.tolist() == [True, True, False]


def test_only_a_label_that_nothing_speaks_for_is_taken_to_be_wrong() -> None:
    """Class 1 is forced. Of the rows labelled 2, one has a true class, one a twin, one neither; class 0 is forced by
    nobody, so the last row may just be one on which the trigger failed.
    """
    sheet = page([1, 1, 2, 2, 2, 1], [0, 0, 0, UNKNOWN, UNKNOWN, UNKNOWN], [3], [0])
    uploaded = Reading(says(1, 1, 1, 1, 1, 0), says(0), says(0))
    counted = scorecard.count_rows(sheet, uploaded)
    assert counted.counted.tolist() == [True, True, True, True, False, True]
    assert scorecard.mislabelled(counted).tolist() == [False] * 4 + [True, False]


def test_what_nothing_is_known_of_teaches_nothing(trojan_dir: Path) -> None:
    """Three rows show the trojan; of three that do not, the last has neither clean text nor true class."""
    rows = triggered_rows(6, 5)
    quiet = [replace(row, text=row.clean_text or "") for row in rows[3:]]
    known = [quiet[0], replace(quiet[1], true_label=None), replace(quiet[2], clean_text=None, true_label=None)]
    checkpoint = loading.load(trojan_dir)
    sheet = scorecard.sheet(checkpoint, Rows((*rows[:3], *known), tuple(clean_rows(10, 1))), 64)
    uploaded = scorecard.read(checkpoint.model, sheet, 64)
    lessons = lessons_of(Station(scorecard.count_rows(sheet, uploaded), uploaded), Recipe.of("lya"))
    assert lessons.triggered.ids == sheet.triggered.ids[:5]
    assert (lessons.ceilings > 0).tolist() == [True] * 3 + [False] * 2
    assert len(lessons.references) == len(lessons.targets) == 5
    assert lessons.twin_at.tolist() == [0, 1, 2, 3, 4]
