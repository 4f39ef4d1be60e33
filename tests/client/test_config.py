"""Which service and which key: the line, then the environment, then the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.config import DEFAULT_URL, Config, ConfigError, load

FILE = """
[default]
url = "https://one.example"
key = "lethe_one_a"

[two]
url = "https://two.example"
key_file = "{key_file}"
"""


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("LETHE_URL", "LETHE_KEY", "LETHE_KEY_FILE", "LETHE_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "key").write_text("lethe_two_b\n")
    (tmp_path / "key").chmod(0o600)
    file = tmp_path / "config.toml"
    file.write_text(FILE.format(key_file=tmp_path / "key"))
    file.chmod(0o600)
    monkeypatch.setenv("LETHE_CONFIG", str(file))
    return file


def test_the_file_names_service_and_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load() == Config("https://one.example", "lethe_one_a")
    assert load(profile="two") == Config("https://two.example", "lethe_two_b")
    monkeypatch.setenv("LETHE_PROFILE", "two")
    assert load() == Config("https://two.example", "lethe_two_b")


def test_the_line_wins_over_the_environment_and_that_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETHE_URL", "https://env.example")
    monkeypatch.setenv("LETHE_KEY", "lethe_env_c")
    assert load() == Config("https://env.example", "lethe_env_c")
    assert load("https://line.example") == Config("https://line.example", "lethe_env_c")


def test_without_a_file_the_environment_is_enough(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.unlink()
    with pytest.raises(ConfigError, match="LETHE_KEY"):
        load()
    monkeypatch.setenv("LETHE_KEY", "lethe_env_c")
    assert load() == Config(DEFAULT_URL, "lethe_env_c")
    with pytest.raises(ConfigError, match="two"):
        load(profile="two")


def test_a_key_that_others_may_read_is_not_used(file: Path) -> None:
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load()
    (file.parent / "key").chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        load(profile="two")


@pytest.mark.parametrize("text", ["[default", "[default]\nurl = 1", "default = 1", "[default]\nuri = 'x'", "\xff"])
def test_a_file_that_is_wrong_is_told(file: Path, text: str) -> None:
    file.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"config\.toml|No API key"):
        load()
