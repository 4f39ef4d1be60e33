"""The drawing of a job's life, and the one door through which it moves."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from app.domain.job import ALLOWED_MOVES
from tests.conftest import ROOT

WRITERS = {"app/store/job_rows.py", "app/store/claim_rows.py"}


def test_the_drawing_shows_every_move_and_no_other() -> None:
    drawn = re.findall(r"^    (\w+) --> (\w+)$", (ROOT / "docs/durability.md").read_text(), flags=re.MULTILINE)
    assert sorted(drawn) == sorted((str(a), str(b)) for a, moves in ALLOWED_MOVES.items() for b in moves)


def test_nobody_else_writes_a_status_of_a_job() -> None:
    """An update or insert anywhere in app or workers that names a status is in these rooms."""
    found = set()
    for file in [*(ROOT / "app").rglob("*.py"), *(ROOT / "workers").rglob("*.py")]:
        for call in (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)):
            words = {keyword.arg for keyword in call.keywords}
            if isinstance(call.func, ast.Attribute) and call.func.attr == "values" and "status" in words:
                found.add(str(Path(file).relative_to(ROOT)))
    assert found & {str(path) for path in WRITERS}
    models = {"app/store/model_rows.py"}  # of models, which have a status of their own
    assert found - models <= WRITERS
