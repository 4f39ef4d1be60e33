"""The `lethe` command line: what is there, what is absent, and how it ends."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.installed import declare, lethe


def test_it_says_its_version_and_lists_the_commands_of_the_entry_points(tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    said = lethe(tmp_path, "--version")
    assert (said.returncode, said.stdout) == (0, f"lethe {project['version']}\n")
    said = lethe(tmp_path, "--help")
    assert said.returncode == 0
    for name in project["entry-points"]["lethe.commands"]:
        assert f" {name} " in said.stdout
    said = lethe(tmp_path, "up", "--help")
    assert (said.returncode, "Start the whole service" in said.stdout) == (0, True)


@pytest.mark.parametrize("wrong", [["no-such-command"], ["--no-such-option"], ["scan"], ["scan", "no-such-file"]])
def test_wrong_usage_has_a_status_of_its_own(tmp_path: Path, wrong: list[str]) -> None:
    said = lethe(tmp_path, *wrong)
    assert (said.returncode, said.stdout) == (4, "")
    assert "Usage" in said.stderr
    assert "Traceback" not in said.stderr


def test_a_command_whose_packages_are_missing_is_absent(tmp_path: Path) -> None:
    """As with the client extra alone: the entry points are there, and what they import is not."""
    declare(tmp_path)
    for missing in ("numpy", "psutil"):
        (tmp_path / f"{missing}.py").write_text(f"raise ModuleNotFoundError('no {missing}', name='{missing}')\n")
    said = lethe(tmp_path, "--help")
    assert said.returncode == 0
    assert " scan " not in said.stdout
    assert " up " not in said.stdout
    assert lethe(tmp_path, "up").returncode == 4


def test_a_room_that_is_not_there_has_no_commands(tmp_path: Path) -> None:
    """As in the API's image, which has no workers."""
    declare(tmp_path)
    (next(tmp_path.glob("*.dist-info")) / "entry_points.txt").write_text(
        "[lethe.commands]\nscan = elsewhere.scan:x\n"
    )
    said = lethe(tmp_path, "--help")
    assert (said.returncode, " scan " in said.stdout) == (0, False)


def test_a_fault_of_our_own_is_no_absence(tmp_path: Path) -> None:
    declare(tmp_path)
    (next(tmp_path.glob("*.dist-info")) / "entry_points.txt").write_text("[lethe.commands]\nscan = workers.gone:x\n")
    said = lethe(tmp_path, "scan")
    assert said.returncode == 1
    assert "workers.gone" in said.stderr
