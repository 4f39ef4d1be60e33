"""The client without the service: its own distribution, and what it may and may not import."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from tests.conftest import ROOT

# Stands before every import: what the service is made of is not there.
HOOK = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"app", "workers", "torch", "transformers", "fastapi", "sqlalchemy", "celery"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


def test_the_wheel_alone_gives_the_commands_and_the_sdk(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "client", tmp_path / "source", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    subprocess.run([*command, "-w", str(tmp_path), str(tmp_path / "source")], check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "alone")
    (tmp_path / "alone/sitecustomize.py").write_text(HOOK)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "alone"), "COLUMNS": "200"}
    for arguments in (["-m", "client.command_line", "--help"], ["-c", "import client.api, client.async_api"]):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        if "--help" in arguments:
            assert " sanitize " in done.stdout


def test_both_distributions_say_the_same_of_the_client() -> None:
    whole, alone = (tomllib.loads((ROOT / path).read_text()) for path in ("pyproject.toml", "client/pyproject.toml"))
    assert alone["project"]["version"] == whole["project"]["version"]
    assert alone["project"]["dependencies"] == whole["project"]["optional-dependencies"]["client"]
    commands = whole["project"]["entry-points"]["lethe.commands"]
    ours = {name: place for name, place in commands.items() if place.startswith("client.")}
    assert alone["project"]["entry-points"]["lethe.commands"] == ours
