"""docs/map.md is the plan of the house: every file has its line there, and every line its file."""

from __future__ import annotations

import re
import subprocess

from tests.conftest import ROOT

LINE = re.compile(r"^- `(?P<path>[^`]+)` .+$", re.MULTILINE)
# Rooms whose files are listed one by one; of what else is in the tree, each top entry has a line.
LISTED = ("app/", "workers/", "client/", "benchmarks/", "docs/", "migrations/")
UNLISTED = re.compile(r"(__init__\.py|docs/(decisions|benchmarks)/.+|migrations/versions/.+)$")


def files_in_the_tree() -> set[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {path for path in listing.splitlines() if (ROOT / path).is_file()}


def places_that_need_a_line() -> set[str]:
    places = set()
    for path in files_in_the_tree():
        if path.startswith(LISTED):
            places |= set() if UNLISTED.search(path) else {path}
        elif path.startswith("tests/") and path.count("/") > 1:
            places.add("/".join(path.split("/")[:2]) + "/")
        else:
            places.add(path)
    return places | {"docs/decisions/", "docs/benchmarks/", "migrations/versions/"}


def test_every_file_has_its_line_and_every_line_its_file() -> None:
    lines = [match["path"] for match in LINE.finditer((ROOT / "docs/map.md").read_text())]
    assert len(lines) == len(set(lines)), "a file has one line"
    assert sorted(places_that_need_a_line() - set(lines)) == [], "no line in docs/map.md"
    assert sorted(set(lines) - places_that_need_a_line()) == [], "a line in docs/map.md, and no such file"
