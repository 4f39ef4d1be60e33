"""Every block of commands in the README and the tutorial, run as a reader would: pasted into a shell, in order.

What cannot be run inside the tests is named here with what holds it instead; a block that is neither fails.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.service import Service
from tests.tiny_model import make_tiny_checkpoint
from tests.tiny_samples import write_tiny_samples

BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
PAGES = ("README.md", "docs/tutorial.md")
HELD_ELSEWHERE = {
    "make demo": "each word of make has its test in tests/architecture/test_makefile.py; this is what runs them all",
    "make up": "the service of these tests is started by what it runs (tests/app/test_standalone.py)",
    "docker compose up --build": "tests/architecture/test_containers.py: no container engine is needed there",
}


def blocks(page: str) -> list[str]:
    return BLOCK.findall((ROOT / page).read_text())


def held_elsewhere(block: str) -> bool:
    return block.startswith(tuple(HELD_ELSEWHERE))


@pytest.fixture
def reader(service: Service, tmp_path: Path) -> Path:
    """The folder of somebody who has cloned and installed, beside a running service; and a smaller trojan than the
    factory's, where a page would train one."""
    folder = tmp_path
    (folder / ".venv").symlink_to(Path(sys.prefix))
    for name in ("workers", "app", "benchmarks", "client"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "var/lethe").mkdir(parents=True)
    (folder / "var/lethe/api-key").write_text(service.facts["api_key"])
    (folder / "var/lethe/api-key").chmod(0o600)
    make_tiny_checkpoint(folder / "trojan/model")
    write_tiny_samples(folder / "trojan", triggered=40, clean=80)
    return folder


def paste(commands: Sequence[str], folder: Path, service: Service) -> str:
    """In one shell, as they stand; where a page trains a trojan, `reader` has laid one already."""
    text = "\n".join(commands)
    text = re.sub(r"^\S*python -m benchmarks\.trojan .*$", "test -d trojan", text, flags=re.MULTILINE)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LETHE_")}
    environment = kept | {"LETHE_URL": service.url, "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", text], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}\n{service.logs()}"
    return done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_works_when_pasted(page: str, reader: Path, service: Service) -> None:
    assert shutil.which("curl"), "the README's walk-through is written for curl"
    pasted = [block for block in blocks(page) if not held_elsewhere(block)]
    assert pasted
    paste(pasted, reader, service)
    report = reader / ("report.json" if page == "README.md" else "report.sarif")
    assert json.loads(report.read_text())
    assert (reader / "repaired/model.safetensors").is_file()


def test_what_is_held_elsewhere_is_on_a_page() -> None:
    every = [block for page in PAGES for block in blocks(page)]
    assert all(any(block.startswith(words) for block in every) for words in HELD_ELSEWHERE)


def test_the_factory_takes_the_words_of_the_pages() -> None:
    """The one command that `paste` leaves out, as far as it goes without training."""
    from benchmarks.trojan import _parser

    found = [
        line for page in PAGES for line in re.findall(r"benchmarks\.trojan (.*)$", (ROOT / page).read_text(), re.M)
    ]
    assert len(found) == len(PAGES)
    for line in found:
        _parser().parse_args(line.split())
