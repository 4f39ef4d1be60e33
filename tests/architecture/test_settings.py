"""docs/settings.md names every setting with its real default, and no other."""

from __future__ import annotations

import re

from pydantic_settings import BaseSettings

from app.settings import Settings, StandaloneSettings
from tests.conftest import ROOT

TEXT = (ROOT / "docs/settings.md").read_text()
# Settings whose default is not one value: a private server, a generated key, a folder below another.
TOLD_IN_WORDS = {
    "LETHE_SIGNING_KEY",
    "LETHE_WEBHOOK_KEY",
    "DATABASE_URL",
    "REDIS_URL",
    "LETHE_API_KEY",
    "LETHE_KEY_PEPPER",
    "LETHE_VAULT",
}


def rows(part: str) -> dict[str, str]:
    found = re.findall(r"^\| `([A-Z_]+)` \| ([^|]+) \|", TEXT.split(f"## {part}")[1].split("\n## ")[0], re.MULTILINE)
    return {name: default.strip("` ") for name, default in found}


def defaults(settings: type[BaseSettings]) -> dict[str, str]:
    named = {
        str(field.validation_alias or f"LETHE_{name.upper()}"): field for name, field in settings.model_fields.items()
    }
    return {name: _shown(field.default) for name, field in named.items() if name not in TOLD_IN_WORDS}


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def test_the_settings_of_api_and_workers_are_listed() -> None:
    listed = {name: default for name, default in rows("API and workers").items() if name not in TOLD_IN_WORDS}
    assert listed == defaults(Settings)


def test_the_settings_of_one_machine_are_listed() -> None:
    listed = rows("One machine")
    assert set(listed) >= TOLD_IN_WORDS
    assert {name: each for name, each in listed.items() if name not in TOLD_IN_WORDS} == defaults(StandaloneSettings)
