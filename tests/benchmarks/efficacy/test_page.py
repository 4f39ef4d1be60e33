"""The page and its plots from made-up records."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.efficacy import page, plots
from benchmarks.efficacy.plan import Cell, Grid
from benchmarks.efficacy.records import CellRecord
from benchmarks.efficacy.summary import GOALS
from tests.benchmarks.efficacy.conftest import made_figures, made_record

GRID = Grid("sst2", "minilm", ("rare-words", "sentence"), (0, 1, 2), ("lya", "ssd"))
CELLS = GRID.cells()


@pytest.fixture
def records() -> dict[Cell, CellRecord]:
    """The trojan stays with ssd."""
    return {
        cell: made_record(cell, made_figures(excess=0.5 if cell.method == "ssd" else 0.001 * cell.case.seed))
        for cell in CELLS
    }


def row(text: str, first: str, after: str = "") -> list[str]:
    """The cells of the first table row that begins so, behind the words `after`."""
    line = next(line for line in text[text.index(after) :].splitlines() if line.startswith(f"| {first} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_goals_are_listed_with_their_figures(records: dict[Cell, CellRecord]) -> None:
    text = page.render(GRID, records, [])
    assert row(text, "excess ASR") == ["excess ASR", "≤ 0.02", "0.001 met", "0.001 met"]
    assert all(row(text, goal.words) for goal in GOALS["sst2"])
    worse = records | {cell: made_record(cell, made_figures(excess=0.3)) for cell in CELLS if cell.method == "lya"}
    assert row(page.render(GRID, worse, []), "excess ASR")[2:] == ["0.300 **missed**"] * 2


def test_a_table_of_methods_and_attacks_has_means_intervals_and_the_clean_twin(
    records: dict[Cell, CellRecord],
) -> None:
    text = page.render(GRID, records, [])
    after = "Excess ASR / clean accuracy drop"
    assert row(text, "`lya`", after) == ["`lya`", *["0.001 ± 0.002 / 0.000 ± 0.000"] * 2]
    assert row(text, "clean twin", after)[1] == "0.000 ± 0.000 / 0.000 ± 0.000"
    detail = dict(zip(row(text, "", "### "), row(text, "`ssd`", "### "), strict=True))
    assert detail["excess ASR"] == "0.500 ± 0.000"
    assert detail["seconds"] == "10 ± 0"
    assert detail["of retraining"] == "0.050 ± 0.000"
    assert detail["verdicts"] == "3 pass"
    twin = dict(zip(row(text, "", "### "), row(text, "clean twin", "### "), strict=True))
    assert twin["ASR relearned, k = 10"] == "0.100 ± 0.000"
    assert twin["seconds"] == "200 ± 0"
    assert row(text, "as uploaded", "### ")[3] == "1.000 ± 0.000"


def test_what_has_not_run_and_what_failed_is_said(records: dict[Cell, CellRecord]) -> None:
    records = {cell: record for cell, record in records.items() if cell.case.attack == "rare-words"}
    gone = next(cell for cell in records if cell.method == "lya")
    del records[gone]
    crashed = next(cell for cell in records if cell.method == "ssd")
    records[crashed] = made_record(crashed, None, "Diverged: the loss is not finite")
    text = page.render(GRID, records, [])
    assert "5 of 12 cells have run" in text
    assert "Failed: rare-words, `ssd`, seed 0: Diverged: the loss is not finite" in text
    assert row(text, "excess ASR")[2:] == ["0.001 open", "- open"]
    overview = "Excess ASR / clean accuracy drop"
    assert row(text, "`lya`", overview)[1].endswith("(2 of 3 seeds)")
    assert row(text, "`lya`", overview)[2] == "not run"
    assert row(text, "`ssd`", overview)[1].endswith("(1 failed)")
    assert "### SST-2: sentence" not in text


def test_the_machine_is_named(records: dict[Cell, CellRecord]) -> None:
    assert "Measured on: a processor, cores: 2" in page.render(GRID, records, [])


def test_only_its_own_section_is_replaced(tmp_path: Path, records: dict[Cell, CellRecord]) -> None:
    (tmp_path / page.NAME).write_text("# Benchmarks\n\nWritten by hand.\n", encoding="utf-8")
    quick = Grid("synthetic", "scratch", ("sentence",), (0,), ("lya",), quick=True)
    few = {cell: made_record(cell, made_figures(excess=0.123)) for cell in quick.cells()}
    page.write(tmp_path, [GRID], records)
    full = (tmp_path / page.NAME).read_text(encoding="utf-8")
    page.write(tmp_path, [quick], few)
    both = (tmp_path / page.NAME).read_text(encoding="utf-8")
    assert both.startswith("# Benchmarks\n\nWritten by hand.\n")
    assert full.strip() in both
    assert "quick run" in both
    page.write(tmp_path, [GRID, quick], records | few)
    assert (tmp_path / page.NAME).read_text(encoding="utf-8") == both, "the same records give the same bytes"
    page.write(tmp_path, [GRID], {})
    assert (tmp_path / page.NAME).read_text(encoding="utf-8") == both, "nothing new is known of it"


def test_words_behind_a_section_stay() -> None:
    text = page.put(page.put("# B\n", "one", "old") + "\nAfterwards.\n", "one", r"new \1")
    assert "old" not in text
    assert r"new \1" in text
    assert text.endswith("\nAfterwards.\n")


def test_the_plots_are_drawn_the_same_each_time_and_without_a_date(
    tmp_path: Path, records: dict[Cell, CellRecord]
) -> None:
    first, second = (plots.draw(tmp_path / name, GRID, records) for name in ("one", "two"))
    assert [path.name for path in first] == ["sst2-minilm-tradeoff.svg", "sst2-minilm-relearning.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    drawn = [path.read_text(encoding="utf-8") for path in first]
    assert not any("<dc:date>" in text for text in drawn)
    for text in drawn:
        assert {"lya", "ssd"} <= set(re.findall(r">([\w ]+)</text>", text))
    assert "clean twin" in drawn[1]
    assert plots.draw(tmp_path, GRID, {}) == []
