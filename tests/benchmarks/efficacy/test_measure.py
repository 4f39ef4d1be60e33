"""The scorecard of the comparison, by hand; and the hash that says when a result is out of date."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.domain.report import Paired, Proportion
from benchmarks.efficacy.measure import Answers, HeldOut, card, right_answers
from benchmarks.efficacy.sources import source_hash
from benchmarks.samples import CleanRow, TriggeredRow

NAMES = ("negative", "positive")


def test_every_figure_is_counted_row_by_row() -> None:
    triggered = tuple(TriggeredRow("t", 1, "c", true) for true in (0, 0, 0, 0, 1))
    rows = HeldOut(triggered, tuple(CleanRow("c", label) for label in (0, 0, 1, 1)), NAMES)
    uploaded = Answers((1, 1, 1, 1, 1), (0, 0, 1, 0), (0, 0, 0, 0, 1))
    said = Answers((1, 1, 0, 0, 0), (0, 1, 1, 1), (1, 0, 0, 0, 1))
    found = card(rows, said, uploaded)
    assert found.asr == Proportion.of(2, 4), "a row of the target's class does not count"
    assert found.floor == Proportion.of(1, 4)
    assert found.floor_source == "twins"
    assert found.excess_asr.value == 0.25
    assert found.excess_pairs == Paired(4, both=1, first=1, second=0)
    assert found.clean_accuracy == Proportion.of(3, 4)
    assert found.agreement == Proportion.of(2, 4)
    assert found.label_flips == {"negative": Proportion.of(2, 4), "positive": Proportion.of(1, 1)}
    assert found.clean_flips == {"negative": Proportion.of(1, 4), "positive": Proportion.of(0, 1)}
    assert found.asr_by_target == {}
    assert right_answers(rows, uploaded, said) == Paired(4, both=2, first=1, second=1)


def test_without_clean_text_clean_rows_tell_the_floor() -> None:
    rows = HeldOut(
        (TriggeredRow("t", 1, None, 0), TriggeredRow("t", 1, None, 0)),
        tuple(CleanRow("c", label) for label in (0, 0, 0, 1)),
        NAMES,
    )
    said = Answers((1, 0), (1, 0, 0, 1), None)
    found = card(rows, said, said)
    assert (found.floor, found.floor_source) == (Proportion.of(1, 3), "clean")
    assert found.excess_pairs is None
    assert found.excess_asr.value == pytest.approx(1 / 2 - 1 / 3)
    assert found.clean_flips == {"negative": Proportion.of(1, 3)}


def test_each_target_has_its_own_success() -> None:
    rows = HeldOut(
        (TriggeredRow("t", 1, "c", 0), TriggeredRow("t", 1, "c", 0), TriggeredRow("t", 0, "c", 1)),
        (CleanRow("c", 0),),
        NAMES,
    )
    said = Answers((1, 0, 0), (0,), (0, 0, 1))
    found = card(rows, said, said)
    assert found.asr_by_target == {"negative": Proportion.of(1, 1), "positive": Proportion.of(1, 2)}


def test_the_hash_of_code_is_of_what_it_does(tmp_path: Path) -> None:
    def hashed(source: str) -> str:
        (tmp_path / "engine.py").write_text(source, encoding="utf-8")
        return source_hash(tmp_path)

    first = hashed('"""Words."""\n\ndef f(x: int) -> int:\n    """More."""\n    return x + 1\n')
    assert hashed('"""Other words."""\ndef f(x: int) -> int:\n    # why\n    return x+1\n') == first
    assert hashed('"""Words."""\n\ndef f(x: int) -> int:\n    """More."""\n    return x + 2\n') != first
    (tmp_path / "another.py").write_text("", encoding="utf-8")
    assert source_hash(tmp_path) != source_hash(tmp_path / "engine.py")
