"""A hash of what code does: comments, layout and docstrings do not count.

So a result stays valid when only words about the code change. The hash is one Python version's own.
"""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def source_hash(*places: Path) -> str:
    """SHA-256, in hex, of the syntax trees of the files; a folder stands for its modules."""
    files = sorted(file for place in places for file in (place.glob("*.py") if place.is_dir() else (place,)))
    found = hashlib.sha256()
    for file in files:
        found.update(f"{file.name}\n{_tree(file.read_text(encoding='utf-8'))}\n".encode())
    return found.hexdigest()


def _tree(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)
