"""What a child may open of the system holds nothing that is anybody's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers import landlock
from workers.file_rules import PROJECT, rules

PRIVATE = (
    "/etc/passwd", "/etc/shadow", "/home", "/root/.ssh", "/var", "/tmp", "/run", "/proc/1", "/proc/sys/kernel",
    "/dev", "/sys/kernel/security", str(PROJECT / "var"), str(PROJECT / ".env"), str(PROJECT / "tests"),
)  # fmt: skip


@pytest.mark.parametrize("gpu", [False, True])
def test_no_rule_reaches_what_is_private(gpu: bool) -> None:
    opened = {path for path, _ in rules(gpu)}
    for private in PRIVATE:
        assert opened.isdisjoint({private, *map(str, Path(private).parents)}), private


def test_nothing_of_the_system_may_be_changed_or_executed() -> None:
    for path, rights in rules(gpu=False):
        assert not rights & landlock.EXECUTE
        if path.startswith("/dev/"):
            assert rights == landlock.DEVICE
        else:
            assert rights == landlock.READ


def test_the_gpu_is_there_for_a_child_that_may_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/driver/lib:")
    more = dict(rules(gpu=True)).items() - dict(rules(gpu=False)).items()
    assert {"/opt/driver/lib", "/proc/driver/nvidia", "/dev/shm"} <= {path for path, _ in more}
    assert "" not in dict(rules(gpu=True))
    nvidia = {str(path) for path in Path("/dev").glob("nvidia*")}
    assert nvidia <= {path for path, rights in more if rights == landlock.DEVICE}
