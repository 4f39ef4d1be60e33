"""The GitHub Action and the pre-commit hook: by the schemas of their own tools, and run as a runner runs them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT
from tests.full_service import Taken
from tests.service import Service
from tests.tiny_model import make_tiny_checkpoint

QUICK = '{"steps": 6, "eval_every": 3, "fisher_samples": 8, "rehearse": 0, "align": 0}'
# As a runner calls it for `shell: bash`.
SHELL = (shutil.which("bash") or "bash", "--noprofile", "--norc", "-eo", "pipefail", "-c")
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())


def test_the_action_keeps_the_schema_of_actions() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-actions", "action.yml"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def test_the_hook_keeps_the_manifest_of_pre_commit() -> None:
    command = [sys.executable, "-m", "pre_commit", "validate-manifest", ".pre-commit-hooks.yaml"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def step(name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in ACTION["runs"]["steps"] if each["name"] == name)
    return found


def test_the_action_ends_as_the_evidence_says(service: Service, taken: Taken, tmp_path: Path) -> None:
    """So few rows decide nothing: the pipeline is told so, and gets all the same what there is to look at."""
    inputs = {name: given.get("default", "") for name, given in ACTION["inputs"].items()} | {
        "url": service.url, "key": service.facts["api_key"], "model": taken.model, "triggered": taken.triggered,
        "clean": taken.clean, "recipe": QUICK,
    }  # fmt: skip
    (tmp_path / "lethe/bin").mkdir(parents=True)
    (tmp_path / "lethe/bin/lethe").symlink_to(Path(sys.executable).parent / "lethe")
    runner = {"RUNNER_TEMP": str(tmp_path), "GITHUB_OUTPUT": str(tmp_path / "output")}
    runner["GITHUB_STEP_SUMMARY"] = str(tmp_path / "summary.md")
    sanitize = step("Sanitize")
    given = {
        name: inputs[value.removeprefix("${{ inputs.").removesuffix(" }}")] for name, value in sanitize["env"].items()
    }
    done = subprocess.run(
        [*SHELL, sanitize["run"]],
        cwd=tmp_path,
        env=os.environ | runner | given,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    told = dict(line.split("=", 1) for line in (tmp_path / "output").read_text().splitlines())
    assert told["verdict"] == "inconclusive"
    assert json.loads((tmp_path / "lethe.sarif").read_text())["version"] == "2.1.0"
    assert "verdict" in (tmp_path / "summary.md").read_text()
    assert (tmp_path / "repaired/model.safetensors").is_file()


def test_the_action_ends_with_the_error_of_a_service_that_is_away(tmp_path: Path) -> None:
    (tmp_path / "lethe/bin").mkdir(parents=True)
    (tmp_path / "lethe/bin/lethe").symlink_to(Path(sys.executable).parent / "lethe")
    given = dict.fromkeys(step("Sanitize")["env"], "x") | {"LETHE_URL": "http://127.0.0.1:9", "RECIPE": "auto"}
    given |= {"MODEL": "01a20000-0000-7000-8000-000000000000", "MAX_EXCESS_ASR": "0", "MAX_ACCURACY_DROP": "0"}
    given |= {"TRIGGERED": given["MODEL"], "CLEAN": given["MODEL"], "RUNNER_TEMP": str(tmp_path)}
    given |= {"GITHUB_OUTPUT": str(tmp_path / "o"), "GITHUB_STEP_SUMMARY": str(tmp_path / "s")}
    done = subprocess.run(
        [*SHELL, step("Sanitize")["run"]], cwd=tmp_path, env=os.environ | given, capture_output=True, check=False
    )
    assert done.returncode == 2
    assert not (tmp_path / "o").exists()


def test_the_hook_passes_a_good_checkpoint_and_finds_what_would_run_code(tmp_path: Path) -> None:
    """Its entry, on a file that the hook's pattern takes."""
    hook = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())[0]
    (tmp_path / "bad").mkdir()
    evil = tmp_path / "bad/pytorch_model.bin"
    evil.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    good = make_tiny_checkpoint(tmp_path / "good") / "model.safetensors"
    words = hook["entry"].split()
    for file, status in ((good, 0), (evil, 1)):
        assert re.search(hook["files"], file.name)
        command = [str(Path(sys.executable).parent / words[0]), *words[1:], str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stdout + done.stderr
