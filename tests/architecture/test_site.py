"""The documentation becomes a site without a broken link, and a broken one is found."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def build(docs: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", str(docs), str(out)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_site_is_built_with_its_references_and_a_broken_link_fails_it(tmp_path: Path) -> None:
    for name in ("docs", "app/web/static"):
        shutil.copytree(ROOT / name, tmp_path / name)
    done = build(tmp_path / "docs", tmp_path / "site")
    assert done.returncode == 0, done.stderr
    assert "lethe sanitize" in (tmp_path / "site/reference/commands.html").read_text()
    assert "/v1/jobs/{job_id}/events" in (tmp_path / "site/reference/http.html").read_text()
    page = tmp_path / "docs/sdk.md"
    page.write_text(page.read_text() + "\n[nowhere](nowhere.md) [here](api.md#no-such-part)\n")
    broken = build(tmp_path / "docs", tmp_path / "site")
    assert broken.returncode != 0
    assert "nowhere.md" in broken.stderr
    assert "no-such-part" in broken.stderr
