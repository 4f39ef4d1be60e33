"""A real run of one cell on a tiny corpus; and what is run again, what is not, and what a failure does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from app.domain.errors import Diverged
from app.domain.recipe import Recipe
from benchmarks.efficacy import cases, records, run
from benchmarks.efficacy.__main__ import main
from benchmarks.efficacy.cases import Place, fingerprints, prepare
from benchmarks.efficacy.plan import Asked, Case, Cell
from benchmarks.efficacy.records import CellRecord, Store, fingerprint
from benchmarks.screen import Screen
from tests.benchmarks.efficacy.conftest import folder_of, made_figures, made_record

ASKED = Asked(quick=True, attacks=("rare-words",), seeds=(0,), methods=("gradient_ascent",))
CELL = Cell(Case("synthetic", "scratch", "rare-words", 0), "gradient_ascent")


@pytest.fixture(scope="module")
def store(place: Place) -> Store:
    return Store(place.kept.parent)


@pytest.fixture(scope="module")
def record(place: Place, store: Store) -> CellRecord:
    """The one cell that is really run."""
    assert run.compare(Screen(), ASKED, place, store, pages=store.root / "docs") == 0
    found = store.find(CELL, fingerprint(CELL, place))
    assert found is not None
    return found


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """Cells are counted, not run."""
    seen: list[Cell] = []

    def count(cell: Cell, case: object, name: str, *_: object, **__: object) -> CellRecord:
        seen.append(cell)
        return replace(made_record(cell, made_figures()), fingerprint=name)

    monkeypatch.setattr(run, "run_cell", count)
    monkeypatch.setattr(run, "_prepare", lambda *_: object())
    return seen


def again(place: Place, store: Store, tmp_path: Path, asked: Asked = ASKED, minutes: float | None = None) -> int:
    return run.compare(Screen(), asked, place, store, pages=tmp_path, minutes=minutes)


def test_a_record_holds_every_figure(record: CellRecord) -> None:
    assert record.failure is None
    assert record.case is not None
    assert record.figures is not None
    assert (record.case.train, record.case.poisoned, record.case.labels) == (400, 20, ("negative", "positive"))
    assert record.case.retrain_seconds > 0
    figures = record.figures
    for card in (figures.before, figures.after, figures.twin):
        assert card.clean_accuracy.n == 60
        assert card.asr.n == card.floor.n > 0
        assert set(card.label_flips) == {"negative"}
        assert card.asr.low <= (card.asr.rate or 0.0) <= card.asr.high
    assert [each.k for each in figures.relearning] == [1, 5, 10]
    assert all(each.control_asr is not None for each in figures.relearning)
    assert 0.0 < figures.removal_seconds < figures.job_seconds
    assert {"cpu", "cores", "threads", "torch"} <= set(record.machine)


def test_the_independent_figures_are_those_of_the_engines_report(record: CellRecord) -> None:
    assert record.figures is not None
    report = record.figures.report
    for mine, theirs in ((record.figures.before, report["before"]), (record.figures.after, report["after"])):
        found = mine.to_dict()
        for name in ("clean_accuracy", "asr", "floor", "label_flips", "clean_flips", "agreement"):
            assert found[name] == theirs[name]
    assert record.figures.fidelity == report["fidelity"]


def test_a_record_survives_its_file_and_is_listed(record: CellRecord, store: Store) -> None:
    text = store.path(CELL).read_text(encoding="utf-8")
    assert CellRecord.from_dict(json.loads(text)) == record
    assert json.loads(store.listing.read_text(encoding="utf-8")) == [json.loads(text)]
    assert json.loads(text)["cell"] == {
        "case": {"form": "synthetic", "base": "scratch", "attack": "rare-words", "seed": 0},
        "method": "gradient_ascent",
    }
    assert not list(store.root.rglob(".*"))


def test_the_page_is_written_with_what_is_there(record: CellRecord, store: Store) -> None:
    page = (store.root / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert "`gradient_ascent` (1 of 3 seeds)" in page
    assert (store.root / "docs" / "benchmarks" / "quick-synthetic-scratch-tradeoff.svg").is_file()


def test_the_control_of_another_method_on_the_case_is_not_trained_again(
    record: CellRecord, place: Place, store: Store, tmp_path: Path
) -> None:
    own = Store(tmp_path / "own")
    own.put(record)
    beside = replace(CELL, method="ssd")
    assert again(place, own, tmp_path, replace(ASKED, methods=("ssd",))) == 0
    found = own.find(beside, fingerprint(beside, place))
    assert found is not None
    assert found.figures is not None
    assert record.figures is not None
    assert all(each["control_asr"] is None for each in found.figures.report["relearning"]), "no twin in this run"
    for mine, theirs in zip(found.figures.relearning, record.figures.relearning, strict=True):
        assert mine.asr != theirs.asr
        assert (mine.control_asr, mine.control_floor) == (theirs.control_asr, theirs.control_floor)
        assert mine.control_accuracy == theirs.control_accuracy is not None


def test_a_finished_cell_is_not_run_again(
    record: CellRecord, place: Place, store: Store, calls: list[Cell], tmp_path: Path
) -> None:
    assert again(place, store, tmp_path) == 0
    assert calls == []
    assert "`gradient_ascent` (1 of 3 seeds)" in (tmp_path / "benchmarks.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("record")
@pytest.mark.parametrize("change", ["recipe", "engine", "rows"])
def test_a_cell_of_another_specification_is_run_again(
    place: Place,
    calls: list[Cell],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    store = Store(place.kept.parent)
    kept = store.path(CELL).read_bytes()
    if change == "recipe":
        monkeypatch.setattr(records, "recipe_of", lambda method: Recipe.of(method, {"relearning": True, "steps": 7}))
    elif change == "engine":
        monkeypatch.setattr(records, "_engine", lambda: "another")
    else:
        monkeypatch.setattr(cases, "CLEAN", 90)
        monkeypatch.setattr(records, "fingerprints", fingerprints.__wrapped__)
    assert again(place, store, tmp_path) == 0
    store.path(CELL).write_bytes(kept)
    assert calls == [CELL]


def test_a_failing_cell_is_kept_with_its_reason_stops_nothing_and_is_tried_again(
    place: Place, tmp_path: Path, calls: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    count = run.run_cell

    def fail(cell: Cell, *rest: object, **named: object) -> CellRecord:
        if cell.method == "lya":
            raise Diverged("the loss is not finite")
        return count(cell, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "run_cell", fail)
    own, asked = Store(tmp_path / "own"), replace(ASKED, methods=("lya", "ssd"))
    assert again(place, own, tmp_path, asked) == 0, "a method that gives up is a result"
    lya, ssd = (replace(CELL, method=method) for method in ("lya", "ssd"))
    found = own.find(lya, fingerprint(lya, place))
    assert found is not None
    assert (found.failure, found.figures) == ("Diverged: the loss is not finite", None)
    assert calls == [ssd]
    assert "Diverged: the loss is not finite" in (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    monkeypatch.setattr(run, "run_cell", count)
    again(place, own, tmp_path, asked)
    assert calls == [ssd, lya]


def test_a_crash_and_a_case_that_cannot_be_made_are_told_apart_from_results(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Store(tmp_path / "own")
    monkeypatch.setattr(run, "_prepare", lambda *_: RuntimeError("out of memory"))
    assert again(place, own, tmp_path) == 1
    found = own.find(CELL, fingerprint(CELL, place))
    assert found is not None
    assert found.failure == "RuntimeError: out of memory"


def test_nothing_is_begun_that_would_end_after_the_limit(
    record: CellRecord, place: Place, tmp_path: Path, calls: list[Cell], capsys: pytest.CaptureFixture[str]
) -> None:
    own, asked = Store(tmp_path / "own"), replace(ASKED, methods=("lya", "ssd"))
    again(place, own, tmp_path, asked, minutes=0.01)
    assert calls == []
    assert "2 cells did not fit into the time" in capsys.readouterr().out
    again(place, own, tmp_path, asked, minutes=10.0)
    assert len(calls) == 2


def test_a_trojan_is_trained_once(record: CellRecord, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "build", None)
    files = prepare(CELL.case, place, lambda progress: None)
    assert files.facts == record.case
    assert (files.model / "model.safetensors").is_file()
    assert (files.twin / "model.safetensors").read_bytes() != (files.start / "model.safetensors").read_bytes()


def test_a_twin_is_shared_where_its_rows_and_its_start_are_the_same(small: None, tmp_path: Path) -> None:
    base = tmp_path / "encoder"
    base.mkdir()
    (base / "config.json").write_text("{}", encoding="utf-8")
    place = Place(tmp_path, data=folder_of(tmp_path), base=base)
    names = {
        (attack, seed): fingerprints(Case("sst2", "encoder", attack, seed), place)
        for attack in ("rare-words", "sentence")
        for seed in (0, 1)
    }
    assert names["rare-words", 0].reference == names["sentence", 0].reference
    assert names["rare-words", 0].reference != names["rare-words", 1].reference
    assert len({name.case for name in names.values()}) == 4
    own = [fingerprints(Case("synthetic", "scratch", attack, 0), place) for attack in ("rare-words", "sentence")]
    assert own[0].reference != own[1].reference, "each attack's words are in the vocabulary"


def test_an_unknown_method_ends_the_command_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--methods", "magic", "--kept", str(tmp_path), "--pages", str(tmp_path)]) == 2
    assert "choose one of" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
