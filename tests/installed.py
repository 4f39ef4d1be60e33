"""The distribution as pyproject.toml declares it, for tests of what is found through its entry points: the checkout
need not be installed anew when a command is added."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import ROOT


def declare(folder: Path) -> None:
    """Write the metadata that an installation from this checkout would have."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    info = folder / f"lethe-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: lethe\nVersion: {project['version']}\n")
    groups = {"console_scripts": project["scripts"], **project["entry-points"]}
    lines = [
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()) for group, entries in groups.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))


def lethe(
    folder: Path, *arguments: str | Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line as a process of its own, over the distribution declared in `folder` before any other."""
    if not any(folder.glob("lethe-*.dist-info")):
        declare(folder)
    return subprocess.run(
        [sys.executable, "-P", "-m", "client.command_line", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "COLUMNS": "200"} | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )
