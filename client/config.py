"""Which service, and with which key: what the command line says, else the environment, else a file.

    LETHE_URL, LETHE_KEY       the address and the API key
    LETHE_KEY_FILE             a file that holds the key, instead
    LETHE_PROFILE              a table of the file, `default` where nothing is said
    LETHE_CONFIG               the file; else ~/.config/lethe/config.toml

    [default]
    url = "https://lethe.example.org"
    key_file = "~/.lethe-key"        # or key = "lethe_..."

A file that holds a key must be readable by its owner alone.
"""

from __future__ import annotations

import os
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.errors import LetheError

DEFAULT_URL = "http://127.0.0.1:8420"


class ConfigError(LetheError):
    """The configuration cannot be used; the message says what to change."""

    def __init__(self, message: str) -> None:
        super().__init__("configuration", message)


@dataclass(frozen=True, slots=True)
class Config:
    url: str
    key: str


def load(url: str | None = None, profile: str | None = None) -> Config:
    """Raises ConfigError where no key is named, or the file is wrong."""
    name = profile or os.environ.get("LETHE_PROFILE") or "default"
    table = _table(_file(), name, wanted=profile is not None or "LETHE_PROFILE" in os.environ)
    key = os.environ.get("LETHE_KEY") or _from_file(os.environ.get("LETHE_KEY_FILE")) or _key_of(table)
    if not key:
        raise ConfigError("No API key is named: set LETHE_KEY, or write one into the file (see `lethe --help`).")
    return Config(url or os.environ.get("LETHE_URL") or table.get("url") or DEFAULT_URL, key.strip())


def cache() -> Path:
    """The folder for what may be lost."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lethe"


def _file() -> Path:
    named = os.environ.get("LETHE_CONFIG")
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Path(named) if named else home / "lethe" / "config.toml"


def _table(file: Path, name: str, *, wanted: bool) -> dict[str, str]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        if wanted:
            raise ConfigError(f"There is no {file} to hold the profile {name!r}.") from None
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    try:
        found: Any = tomllib.loads(text).get(name)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not TOML: {error}") from None
    if found is None and not wanted:
        return {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ConfigError(f"{file} needs a table [{name}] with texts: url, and key or key_file.")
    if unknown := set(found) - {"url", "key", "key_file"}:
        raise ConfigError(f"{file} has a setting that is not known: {', '.join(sorted(unknown))}.")
    if "key" in found:
        _check_private(file)
    return found


def _key_of(table: dict[str, str]) -> str | None:
    return table.get("key") or _from_file(table.get("key_file"))


def _from_file(name: str | None) -> str | None:
    if not name:
        return None
    file = Path(name).expanduser()
    try:
        _check_private(file)
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The key in {file} cannot be read: {error}") from None


def _check_private(file: Path) -> None:
    if os.name == "posix" and stat.S_IMODE(file.stat().st_mode) & 0o077:
        raise ConfigError(f"Others may read {file}, which holds a key: chmod 600 it.")
