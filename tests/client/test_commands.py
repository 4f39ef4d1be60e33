"""The whole job in a terminal: every command as a process of its own, against the whole service."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import installed
from tests.full_service import Taken
from tests.service import Service

Lethe = Callable[..., subprocess.CompletedProcess[str]]
QUICK = '{"steps": 4, "fisher_samples": 8}'


@pytest.fixture
def run(service: Service, tmp_path: Path) -> Lethe:
    known = {
        "LETHE_URL": service.url,
        "LETHE_KEY": service.facts["api_key"],
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }

    def run(*arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        return installed.lethe(tmp_path / "installed", *arguments, environment=known | more)

    (tmp_path / "installed").mkdir()
    return run


def test_a_job_from_the_folder_to_the_result(run: Lethe, taken: Taken, tmp_path: Path) -> None:
    pushed = run("push", taken.folder / "model", "--json")
    assert pushed.returncode == 0, pushed.stderr
    assert json.loads(pushed.stdout)["already_stored"] is True
    assert "already stored" in run("push", taken.folder / "model").stdout
    added = run("samples", "add", taken.folder / "clean.jsonl", "--kind", "clean", "--json")
    clean = json.loads(added.stdout)["id"]
    done = run(
        "sanitize", taken.folder / "model", "--triggered", taken.folder / "triggered.jsonl", "--clean", clean,
        "--recipe", QUICK, "--max-excess-asr", "1", "--wait", "--pull", tmp_path / "repaired", "--json",
    )  # fmt: skip
    assert done.stdout, done.stderr
    said = json.loads(done.stdout)
    job, verdict = said["job"]["id"], said["job"]["verdict"]
    assert said["report"]["policy"]["max_excess_asr"] == 1
    assert done.returncode == (0 if verdict == "pass" else 1), done.stderr
    assert sorted(said["files"]) == sorted(str(file) for file in (tmp_path / "repaired").iterdir())
    again = run("pull", job, tmp_path / "repaired", "--json")
    assert json.loads(again.stdout)["files"] == said["files"]
    (tmp_path / "lethe.pub").write_text(run("signing-key").stdout)
    verified = run("verify", tmp_path / "repaired", "--key", tmp_path / "lethe.pub", "--json")
    assert json.loads(verified.stdout)["job"] == job, verified.stderr
    (tmp_path / "repaired/config.json").write_text("{}")
    refused = run("verify", tmp_path / "repaired", "--key", tmp_path / "lethe.pub")
    assert (refused.returncode, "config.json has other bytes" in refused.stderr) == (1, True)
    watched = run("watch", job)
    assert watched.returncode == done.returncode
    assert f"verdict: {verdict}" in watched.stdout
    assert "excess ASR" in run("report", job).stdout
    for form, sign in (
        ("json", '"verdict"'),
        ("sarif", "2.1.0"),
        ("cyclonedx", "1.7"),
        ("ocsf", "6007"),
        ("html", "<"),
    ):
        told = run("report", job, "--format", form, "-o", tmp_path / form)
        assert (told.returncode, told.stdout) == (0, "")
        assert sign in (tmp_path / form).read_text()
    assert any(each["id"] == job for each in json.loads(run("jobs", "--json").stdout))


def test_a_job_that_has_no_result_ends_with_an_error(run: Lethe, taken: Taken) -> None:
    order = ("sanitize", taken.model, "--triggered", taken.triggered, "--clean", taken.clean, "--recipe", QUICK)
    first, second = (run(*order, "--idempotency-key", str(taken.folder), "--json") for _ in range(2))
    job = json.loads(first.stdout)["id"]
    assert json.loads(second.stdout)["id"] == job
    assert run("cancel", job).returncode in (0, 2)  # it may be done already
    ended = run("watch", job, "--json")
    status = json.loads(ended.stdout).get("status", "succeeded")
    assert ended.returncode == (2 if status == "cancelled" else 1)


def test_what_the_intake_refuses_is_a_finding(run: Lethe, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "config.json").write_text("{}")
    refused = run("push", bad)
    assert refused.returncode == 1
    assert "rejected" in refused.stdout


def test_what_goes_wrong_says_what_to_do(run: Lethe, taken: Taken, tmp_path: Path) -> None:
    assert "LETHE_KEY" in run("jobs", LETHE_KEY="").stderr
    assert "unauthenticated" in run("jobs", LETHE_KEY="lethe_wrong_key").stderr
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a"}\n')
    wrong = run("samples", "add", rows, "--kind", "clean")
    assert (wrong.returncode, "label" in wrong.stderr) == (2, True)
    for use in (["sanitize", "nowhere", "--triggered", "x", "--clean", "y"], ["report", "x", "--format", "pdf"],
                ["samples", "add", rows, "--kind", "dirty"]):  # fmt: skip
        assert run(*use).returncode == 4, use


def test_the_shell_completes(run: Lethe) -> None:
    said = run("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert (said.returncode, "_LETHE_COMPLETE" in said.stdout) == (0, True)
