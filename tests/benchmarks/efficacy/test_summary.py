"""Means, intervals and goals from records."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from app.domain.methods import METHODS
from benchmarks.efficacy import summary
from benchmarks.efficacy.plan import Cell, Grid
from benchmarks.efficacy.records import CellRecord, Figures
from benchmarks.efficacy.summary import DEFAULT_METHOD, GOALS, Decision, Goal, Summary, decide
from tests.benchmarks.efficacy.conftest import made_card, made_figures, made_record

GRID = Grid("sst2", "minilm", ("sentence",), (0, 1, 2))


def records(figures: Callable[[Cell], Figures | None]) -> dict[Cell, CellRecord]:
    return {
        cell: made_record(cell, figures(cell), None if figures(cell) else "Diverged: no") for cell in GRID.cells()
    }


def goal(words: str) -> Goal:
    return next(each for each in GOALS["sst2"] if words in each.words)


def decided(words: str, figures: Callable[[Cell], Figures | None]) -> Decision:
    return decide(goal(words), GRID, "sentence", records(figures))


def test_the_interval_is_students_over_the_seeds() -> None:
    found = Summary.of([1.0, 2.0, 3.0])
    assert found is not None
    assert (found.mean, found.n) == (2.0, 3)
    assert found.half == pytest.approx(4.303 / math.sqrt(3))
    assert Summary.of([1.0]) == Summary(1.0, None, 1)
    assert Summary.of([]) is None
    many = Summary.of([0.0, 1.0] * 20)
    assert many is not None
    assert many.half == pytest.approx(1.96 * math.sqrt(10 / 39) / math.sqrt(40))


@pytest.mark.parametrize(
    ("words", "within", "beyond"),
    [
        ("excess ASR", {"excess": 0.02}, {"excess": 0.021}),
        ("accuracy drop", {"drop": 0.01}, {"drop": 0.011}),
        ("label-flip", {"excess": 0.10, "twin_asr": 0.15}, {"excess": 0.06}),
        ("relearning", {"relearned": 0.2}, {"relearned": 0.201}),
        ("retraining", {"seconds": 20.0}, {"seconds": 20.1}),
    ],
)
def test_a_goal_is_met_up_to_its_limit(words: str, within: dict[str, float], beyond: dict[str, float]) -> None:
    assert decided(words, lambda _: made_figures(**within)).status == "met"
    assert decided(words, lambda _: made_figures(**beyond)).status == "missed"


def test_the_mean_over_the_seeds_decides() -> None:
    excess = {0: 0.0, 1: 0.0, 2: 0.05}
    found = decided("excess ASR", lambda cell: made_figures(excess=excess[cell.case.seed]))
    assert found.status == "met"
    assert found.summary is not None
    assert found.summary.mean == pytest.approx(0.05 / 3)


def test_other_methods_do_not_decide_over_a_limit() -> None:
    good, bad = made_figures(), made_figures(excess=0.5)
    assert decided("excess ASR", lambda cell: good if cell.method == DEFAULT_METHOD else bad).status == "met"
    assert decided("excess ASR", lambda cell: bad if cell.method == DEFAULT_METHOD else good).status == "missed"


def test_fidelity_has_to_lie_above_every_other_method() -> None:
    best, worse = made_figures(excess=0.0), made_figures(excess=0.01)
    assert decided("fidelity", lambda cell: best if cell.method == DEFAULT_METHOD else worse).status == "met"
    assert decided("fidelity", lambda _: best).status == "missed", "as good is not above"
    found = decided("fidelity", lambda cell: best if cell.method == "ssd" else worse)
    assert found.status == "missed"
    assert found.best_other is not None
    assert found.best_other[0] == "ssd"


def test_a_failed_cell_misses_the_goal_of_its_method_and_loses_to_others() -> None:
    def fails(method: str) -> Callable[[Cell], Figures | None]:
        return lambda cell: None if cell.method == method and cell.case.seed == 1 else made_figures()

    assert decided("excess ASR", fails(DEFAULT_METHOD)).status == "missed"
    assert decided("fidelity", fails(DEFAULT_METHOD)).status == "missed"
    assert decided("excess ASR", fails("ssd")).status == "met"


def test_a_goal_stays_open_until_its_cells_have_run() -> None:
    best, worse = made_figures(), made_figures(excess=0.1)
    there = records(lambda cell: best if cell.method == DEFAULT_METHOD else worse)
    own, other = (Cell(GRID.cells()[0].case, method) for method in (DEFAULT_METHOD, METHODS[-1]))
    without_own = {cell: record for cell, record in there.items() if cell != own}
    without_other = {cell: record for cell, record in there.items() if cell != other}
    for each in GOALS["sst2"]:
        assert decide(each, GRID, "sentence", there).status == "met"
        assert decide(each, GRID, "sentence", without_own).status == "open"
        open_still = "open" if each.limit is None else "met"
        assert decide(each, GRID, "sentence", without_other).status == open_still


def test_no_goal_is_met_where_the_attack_did_not_take() -> None:
    weak = replace(made_figures(), before=made_card(0.9, 0.25))
    figures = {0: made_figures(), 1: weak, 2: made_figures()}
    for each in GOALS["sst2"]:
        assert decided(each.words, lambda cell: figures[cell.case.seed]).status == "no trojan"


def test_in_code_the_success_counts_above_the_clean_twins_floor() -> None:
    figures = made_figures(excess=0.04)
    assert summary.excess_over_twin(figures) == pytest.approx(0.04)
    limits = {each.words: each.limit for each in GOALS["devign"]}
    assert limits == {"ASR above the clean twin's floor": 0.05, "clean accuracy drop": 0.02}
