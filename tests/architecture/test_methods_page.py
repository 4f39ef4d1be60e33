"""docs/methods.md has a section for every method, and says of each what a reader needs in order to choose."""

from __future__ import annotations

import re

import pytest

from app.domain.methods import METHOD_DEFAULTS, METHOD_FIXED, METHOD_SEARCH, METHODS, METHODS_WITH_BASE
from app.domain.recipe import Recipe
from tests.conftest import ROOT

PAGE = (ROOT / "docs/methods.md").read_text()
SECTIONS = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
ROWS = dict(re.findall(r"^\| `(\w+)` \|(.*)\|$", PAGE, re.MULTILINE))


def test_the_page_and_the_tables_name_the_same_methods() -> None:
    assert tuple(SECTIONS) == tuple(ROWS) == METHODS
    assert set(METHOD_FIXED) == set(METHOD_DEFAULTS) == set(METHODS)
    assert set(METHODS_WITH_BASE) <= set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_a_section_has_formula_source_use_and_cost(method: str) -> None:
    assert re.search(r"^    \S", SECTIONS[method], re.MULTILINE), "a formula"
    for word in ("Source:", "When:", "Cost:"):
        assert f"\n{word} " in SECTIONS[method]


@pytest.mark.parametrize("method", METHODS)
def test_the_overview_gives_the_budget_and_says_who_needs_a_clean_checkpoint(method: str) -> None:
    assert f"up to {Recipe.of(method).steps} " in ROWS[method]
    if method in METHOD_SEARCH:
        assert f"{Recipe.auto(method).most_steps} in all" in ROWS[method]
    assert ("clean checkpoint" in ROWS[method]) == (method in METHODS_WITH_BASE)
