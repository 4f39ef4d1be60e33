"""One door for a job's status: whatever else could write it would pass by the lock, the history and the moves."""

from __future__ import annotations

import ast
import re

import pytest

from tests.conftest import ROOT

# Who may name the column beside the table: those who write it, and those who only tell of it.
WRITERS = {"job_rows.insert", "job_rows.move", "claim_rows.claim"}
TELLERS = {"job_rows.status_event", "job_rows._job"}
SQL = re.compile(r"\b(update\s+jobs\b|insert\s+into\s+jobs\b|merge\s+into\s+jobs\b|copy\s+jobs\b)", re.IGNORECASE)


def found_in(source: str, module: str) -> list[str]:
    """Functions that name the status of jobs in a value to write, and texts that are such SQL."""
    tree = ast.parse(source)
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    found = [f"{module}: {text[:60]}" for text in texts if SQL.search(text)]
    if not _knows_the_table(tree):
        return found
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and any(map(_names_it, ast.walk(function))):
            found.append(f"{module}.{function.name}")
    return found


def _knows_the_table(tree: ast.AST) -> bool:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "app.store.tables":
            if any(alias.name in ("jobs", "*", "metadata") for alias in node.names):
                return True
        elif isinstance(node, ast.ImportFrom) and node.module == "app.store":
            if any(alias.name == "tables" for alias in node.names):
                return True
        elif isinstance(node, ast.Import) and any(alias.name.startswith("app.store.tables") for alias in node.names):
            return True
    return False


def _names_it(node: ast.AST) -> bool:
    """status=…, {"status": …}, values["status"] = …, {t.c.status: …}, setattr-like pairs of the name."""
    if isinstance(node, ast.keyword):
        return node.arg == "status"
    if isinstance(node, ast.Dict):
        return any(_is_name(key) for key in node.keys)
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
        return _is_name(node.slice)
    return isinstance(node, ast.Tuple) and len(node.elts) == 2 and _is_name(node.elts[0])


def _is_name(node: ast.AST | None) -> bool:
    if isinstance(node, ast.Constant):
        return node.value == "status"
    return isinstance(node, ast.Attribute) and node.attr == "status"


def test_a_job_s_status_is_written_at_its_one_door() -> None:
    files = [file for room in ("app", "workers") for file in sorted((ROOT / room).rglob("*.py"))]
    found = {each for file in files for each in found_in(file.read_text(), file.stem)}
    assert found == WRITERS | TELLERS


TABLE = "from app.store.tables import jobs as t\n"
PLANTED = {
    "a keyword": TABLE + "def f(c): c.execute(update(t).values(status='failed'))",
    "a dict": TABLE + "def f(c): c.execute(update(t).values({'status': 'failed'}))",
    "a column": TABLE + "def f(c): c.execute(update(t).values({t.c.status: 'failed'}))",
    "a dict made before": TABLE + "def f(c):\n v = {'status': 1}\n c.execute(update(t).values(**v))",
    "a dict filled": TABLE + "def f(c):\n v = dict()\n v['status'] = 1\n c.execute(update(t).values(**v))",
    "pairs": TABLE + "def f(c): c.execute(update(t).ordered_values(('status', 1)))",
    "dict()": TABLE + "async def f(c): c.execute(t.insert(), dict(status=1))",
    "the module": "from app.store import tables\ndef f(c): c.execute(update(tables.jobs).values(status=1))",
    "SQL": "def f(c): c.execute(text('UPDATE  jobs SET worker = 1, status = 2'))",
    "SQL in lower case": "Q = '''\n insert into jobs (id, status) values (1, 2)'''",
}


@pytest.mark.parametrize("form", PLANTED)
def test_every_form_of_a_second_door_is_seen(form: str) -> None:
    assert found_in(PLANTED[form], "planted") != []


def test_other_tables_may_have_a_status() -> None:
    assert found_in("from app.store.tables import models as t\ndef f(): update(t).values(status='a')", "other") == []
