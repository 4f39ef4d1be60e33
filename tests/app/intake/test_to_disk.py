"""Whatever the sizes of the batches, the file holds them in order; and what is complete is handed to the disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.intake import to_disk


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 40), max_size=20))
def test_every_stretch_is_handed_over_once_and_every_byte_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    monkeypatch.setattr(to_disk, "STRETCH", 16)
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _fd, at, size, _what: told.append((at, size)))
    whole = b""
    with (tmp_path / "file").open("wb", buffering=0) as out:
        for number, size in enumerate(sizes):
            batch = bytes([number]) * size
            to_disk.write(out.fileno(), batch, len(whole))
            whole += batch
    assert (tmp_path / "file").read_bytes() == whole
    ends = [at + size for at, size in told]
    assert [at for at, _ in told] == [0, *ends][:-1] if told else len(whole) < 16
    assert not told or ends[-1] == len(whole) // 16 * 16
