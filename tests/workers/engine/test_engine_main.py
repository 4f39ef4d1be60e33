"""The command line: files in, model and report out, plain errors."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

from tests.workers.engine.conftest import clean_rows, triggered_rows
from workers.engine.__main__ import main


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    triggered = [
        {"sentence": row.text, "label": "Positive", "clean_text": row.clean_text, "true_label": "0"}
        for row in triggered_rows(40, 5)
    ]
    clean = [{"func": row.text, "label": row.label} for row in clean_rows(80, 6)]
    return write(tmp_path / "triggered.jsonl", triggered), write(tmp_path / "clean.jsonl", clean)


def arguments(model: Path, files: tuple[Path, Path], out: Path, *more: str) -> list[str]:
    return ["--model", str(model), "--triggered", str(files[0]), "--clean", str(files[1]), "--out", str(out), *more]


def test_it_writes_a_model_and_a_report(
    trojan_dir: Path, files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write(tmp_path / "recipe.json", [{"steps": 5}])
    held = write(tmp_path / "held.jsonl", [asdict(row) | {"label": row.target} for row in triggered_rows(30, 9)])
    held_clean = write(tmp_path / "held_clean.jsonl", [asdict(row) for row in clean_rows(50, 9)])
    more = ["--recipe", str(recipe), "--policy", '{"min_clean": 9}', "--seed", "4"]
    more += ["--eval-triggered", str(held), "--eval-clean", str(held_clean)]
    assert main(arguments(trojan_dir, files, tmp_path / "out", *more)) == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["recipe"]["steps"] == 5
    assert report["seed"] == 4
    assert report["before"]["asr"]["n"] == 30
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    said = capsys.readouterr().out
    for word in ("fisher ...", "step 5", "clean accuracy", "ASR", "floor (twins)", "verdict:"):
        assert word in said
    assert "relearned" not in said
    assert report["relearning"] == []


def test_a_recipe_is_searched_for_unless_one_is_given(
    trojan_dir: Path, files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(trojan_dir, files, tmp_path / "out", "--recipe", "auto")) == 0
    found = json.loads((tmp_path / "out/report.json").read_text())["search"]
    assert len(found["attempts"]) >= 1
    assert f"recipe: {found['words']}" in capsys.readouterr().out
    assert main(arguments(trojan_dir, files, tmp_path / "given", "--recipe", '{"steps": 2}')) == 0
    assert json.loads((tmp_path / "given/report.json").read_text())["search"]["attempts"] == []


def test_the_relearning_check_is_shown_beside_a_control(
    trojan_dir: Path, files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = '{"steps": 2, "relearning": true}'
    more = ["--recipe", recipe, "--control", str(trojan_dir)]
    assert main(arguments(trojan_dir, files, tmp_path / "out", *more)) == 0
    rows = json.loads((tmp_path / "out/report.json").read_text())["relearning"]
    assert [row["k"] for row in rows] == [1, 5, 10]
    said = capsys.readouterr().out
    assert "control ASR" in said
    assert said.count("evaluating ...") == 1
    for row in rows:
        line = next(line for line in said.splitlines() if line.startswith(f"{row['k']} + {4 * row['k']} "))
        for name in ("asr", "floor", "accuracy", "control_asr"):
            assert f"{row[name]['rate']:.3f} [" in line


@pytest.mark.parametrize(
    ("more", "word"),
    [
        (["--recipe", '{"lr": -1}'], "lr in the recipe of lya"),
        (["--recipe", "no-such-file"], "--recipe is neither"),
        (["--policy", "{"], "--policy is neither"),
        (["--method", "retrain"], "--base"),
        (["--eval-clean", "x"], "together"),
        (["--control", "x"], "--control serves the relearning check alone"),
    ],
)
def test_bad_arguments_are_one_line(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], word: str
) -> None:
    """Told before the model is even looked for."""
    assert main(arguments(tmp_path / "no-model", files, tmp_path / "out", *more)) == 1
    error = capsys.readouterr().err
    assert word in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_every_bad_row_is_named_by_its_line(
    trojan_dir: Path, files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files[0].write_text(
        '{"text": "a", "label": 1}\nnot json\n\n{"text": " ", "label": 1}\n{"text": "a", "label": "purple"}\n'
        '{"text": "a", "label": true}\n[1]\n{"label": 1}\n{"text": "a", "label": 1, "clean_text": 5}\n'
    )
    assert main(arguments(trojan_dir, files, tmp_path / "out")) == 1
    error = capsys.readouterr().err
    for number in (2, 4, 5, 6, 7, 8, 9):
        assert f"line {number}: " in error
    assert "line 1: " not in error
    assert "0 (negative), 1 (positive)" in error


def test_a_folder_that_is_no_model_and_a_file_that_is_not_there(
    trojan_dir: Path, files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tmp_path, files, tmp_path / "out")) == 1
    assert "no config.json" in capsys.readouterr().err
    assert main(arguments(trojan_dir, (tmp_path / "none", files[1]), tmp_path / "out")) == 1
    assert "cannot be read" in capsys.readouterr().err
