"""The documentation as a site: python -m sphinx docs var/site (make docs).

The pages are the Markdown files of this folder. The reference of the HTTP API is made from openapi.json, and that of
the command line from its own help, whenever the site is built: neither can fall behind.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from typer.main import get_command
from typer.testing import CliRunner

from client.command_line import app as commands

HERE = Path(__file__).parent
project, author = "Lethe", "The Lethe developers"
release = importlib.metadata.version("lethe")
extensions = ["myst_parser"]
html_theme = "furo"
html_title = f"Lethe {release}"
html_favicon = html_logo = "../app/web/static/lethe.svg"
html_static_path: list[str] = []
html_copy_source = False
exclude_patterns = ["openapi.json"]
myst_heading_anchors = 4
nitpicky = True
# A diagram of Mermaid is drawn where the repository is read; here its words stand.
suppress_warnings = ["myst.header", "misc.highlighting_failure"]
# Files beside the pages, which the site does not hold, are links into the repository.
linkcheck_ignore = [r"http://127\.0\.0\.1.*", r"http://localhost.*"]


def http_reference() -> Iterator[str]:
    """One section for each call of openapi.json."""
    document = json.loads((HERE / "openapi.json").read_text())
    yield "# HTTP reference\n\nMade from `openapi.json`. What it is for is told in [the HTTP API](../api.md).\n"
    for path, calls in sorted(document["paths"].items()):
        for method, call in calls.items():
            yield f"## {method.upper()} {path}\n"
            yield f"{call.get('description') or call.get('summary', '')}\n"
            scopes = [scope for way in call.get("security", []) for scope in way.get("key", [])]
            yield f"Needs {' or '.join(f'`{scope}`' for scope in scopes)}.\n" if scopes else "Needs no key.\n"
            yield from _parameters(call.get("parameters", []))
            yield f"Answers {', '.join(f'`{status}`' for status in call['responses'])}.\n"


def _parameters(found: list[Mapping[str, Any]]) -> Iterator[str]:
    if found:
        yield "| parameter | in | says |\n|---|---|---|"
        for each in found:
            words = each.get("description", "") or ("must be given" if each.get("required") else "")
            yield f"| `{each['name']}` | {each['in']} | {words.replace('|', ', ')} |"
        yield ""


def command_reference() -> Iterator[str]:
    """The help of each command."""
    yield "# Commands\n\nWhat `--help` says. Their use is told in [the command line](../command-line.md).\n"
    plain = {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}
    for name in get_command(commands).list_commands(None):
        told = CliRunner(env=plain).invoke(commands, [name, "--help"], prog_name="lethe")
        yield f"## lethe {name}\n\n```text\n{told.stdout.strip()}\n```\n"


def decisions() -> Iterator[str]:
    yield "# Decisions\n\nOne page each: what was chosen, and why.\n\n```{toctree}\n:maxdepth: 1\n"
    yield from sorted(page.stem for page in (HERE / "decisions").glob("0*.md"))
    yield "```"


def write(_app: Any) -> None:
    for name, lines in (
        ("reference/http", http_reference()),
        ("reference/commands", command_reference()),
        ("decisions/index", decisions()),
    ):
        page = HERE / f"{name}.md"
        page.parent.mkdir(exist_ok=True)
        page.write_text("\n".join(lines) + "\n")


def setup(app: Any) -> None:
    app.connect("builder-inited", write)
