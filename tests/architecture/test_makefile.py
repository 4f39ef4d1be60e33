"""The words that people type."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.conftest import ROOT

WORDS = (
    "help",
    "demo",
    "up",
    "test",
    "lint",
    "check",
    "docs",
    "test-hostile",
    "faults",
    "load",
    "fuzz",
    "fuzz-api",
    "bench",
    "bench-efficacy",
    "bench-speed",
    "migrate",
    "constraints",
    "lock",
    "clean",
)


def test_help_names_every_word_in_one_line() -> None:
    said = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert re.findall(r"^  make ([\w-]+) +\S", said, flags=re.MULTILINE) == list(WORDS)


@pytest.mark.parametrize("word", ["up", "demo", "lint", "test-hostile", "faults", "load", "fuzz", "migrate"])
def test_a_word_installs_first(word: str) -> None:
    """On a fresh clone nothing is there but Python: a dry run from an empty folder shows the installation."""
    command = ["make", "--dry-run", "VENV=does-not-exist", word]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert said.index("-m venv does-not-exist") < said.index("pip install")


def test_packages_are_pinned_and_torch_to_a_version_without_a_build_tag() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line) for line in pins)
    assert "torch==2.13.0" in pins
