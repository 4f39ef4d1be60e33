"""The cells of the comparison: all of them, and what a narrower run leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.domain.errors import BadRecipe, BadRequest
from app.domain.methods import METHODS
from benchmarks.attacks import ATTACKS as KNOWN
from benchmarks.efficacy.pace import BEFOREHAND, Pace
from benchmarks.efficacy.plan import ATTACKS, SEEDS, Asked, Case, Cell, grids, in_order


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("sst2", "devign"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_the_full_plan_is_every_method_on_every_attack_and_seed(data: Path) -> None:
    plan = grids(Asked(data=data))
    assert [grid.name for grid in plan] == ["sst2-minilm", "devign-minilm"]
    cells = in_order(plan, Asked(data=data))
    expected = {
        Cell(Case(form, "minilm", attack, seed), method)
        for form in ("sst2", "devign")
        for attack in ATTACKS[form]
        for seed in (0, 1, 2)
        for method in METHODS
    }
    assert len(cells) == len(expected)
    assert set(cells) == expected


def test_the_attacks_of_the_plan_are_known_and_fit_their_data_set() -> None:
    for form, attacks in ATTACKS.items():
        assert {KNOWN[attack].medium for attack in attacks} == {"code" if form == "devign" else "text"}
    assert not any(KNOWN[attack].shipped for attack in ATTACKS["synthetic"])


def test_without_data_the_plan_is_the_made_corpus() -> None:
    assert [grid.name for grid in grids(Asked())] == ["synthetic-scratch"]
    assert [grid.name for grid in grids(Asked(quick=True))] == ["quick-synthetic-scratch"]


def test_the_quick_plan_has_sections_of_its_own_and_one_seed_of_real_data(data: Path) -> None:
    made, real = grids(Asked(quick=True, data=data))
    assert made.seeds == SEEDS
    assert (real.name, real.attacks, real.seeds) == ("quick-sst2-minilm", ("rare-words",), (0,))
    assert not {made.name, real.name} & {grid.name for grid in (*grids(Asked()), *grids(Asked(data=data)))}


def test_another_base_is_named_for_its_folder(data: Path, tmp_path: Path) -> None:
    named = grids(Asked(data=data, base=tmp_path / "bert-base"))
    assert [grid.name for grid in named] == ["sst2-bert-base", "devign-bert-base"]


def test_a_run_goes_seed_by_seed_so_that_the_first_has_seen_every_attack(data: Path) -> None:
    asked = Asked(data=data)
    cells = in_order(grids(asked), asked)
    assert [cell.case.seed for cell in cells] == sorted(cell.case.seed for cell in cells)
    first = [cell for cell in cells if cell.case.seed == 0]
    assert {cell.case.attack for cell in first} == {*ATTACKS["sst2"], *ATTACKS["devign"]}
    assert (
        len({cell.case for cell in cells})
        == sum(
            one.case != other.case for one, other in zip(cells, [*cells[1:], None], strict=True) if other is not None
        )
        + 1
    ), "the cells of a case stand together"


def test_a_narrower_run_leaves_the_plan_as_it_is() -> None:
    asked = Asked(attacks=("sentence",), seeds=(1,), methods=("lya", "ssd"))
    assert grids(asked) == grids(Asked())
    case = Case("synthetic", "scratch", "sentence", 1)
    assert in_order(grids(asked), asked) == [Cell(case, "lya"), Cell(case, "ssd")]


def test_attacks_and_seeds_beyond_the_plan_join_where_they_fit(data: Path) -> None:
    text, code = grids(Asked(data=data, attacks=("zero-width", "constant-unfolding"), seeds=(7,)))
    assert text.attacks == (*ATTACKS["sst2"], "zero-width")
    assert code.attacks == (*ATTACKS["devign"], "constant-unfolding")
    assert text.seeds == (*SEEDS, 7)
    assert grids(Asked(attacks=("syntactic",)))[0].attacks == ATTACKS["synthetic"], "its rows come with SST-2"


def test_what_is_unknown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRecipe, match="choose one of"):
        grids(Asked(methods=("magic",)))
    with pytest.raises(BadRequest, match="choose one of"):
        grids(Asked(attacks=("magic",)))
    with pytest.raises(BadRequest, match="neither sst2 nor devign"):
        grids(Asked(data=tmp_path))


def test_the_time_left_is_foretold_from_what_the_same_work_took() -> None:
    cells = grids(Asked())[0].cells()
    case = cells[0].case
    pace = Pace()
    prepare, cell = BEFOREHAND["synthetic"]
    assert pace.left([cells[0], cells[1]], ready=[]) == prepare + 2 * cell
    assert pace.left([cells[0], cells[1]], ready=[case]) == 2 * cell
    pace.saw_case(case, 100.0)
    pace.saw(cells[0], 4.0)
    pace.saw(cells[0], 6.0)
    assert pace.left([cells[0]], ready=[]) == 105.0
    pace.saw(cells[1], 20.0)
    assert pace.of(cells[1]) == 20.0
    assert pace.of(cells[2]) == 10.0, "a method that was not seen: like the others"
    assert pace.of(Cell(Case("sst2", "minilm", "sentence", 0), "lya")) == BEFOREHAND["sst2"][1]
