"""A state in a file: the same bytes back, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.engine.snapshot import Snapshot

KINDS = (torch.float32, torch.bfloat16, torch.int8, torch.int64, torch.float64)
SHAPES = st.lists(st.tuples(st.lists(st.integers(0, 5), max_size=3), st.sampled_from(KINDS)), max_size=6)


@given(SHAPES)
def test_what_comes_back_is_what_was_put_in(shapes: list[tuple[list[int], torch.dtype]]) -> None:
    tensors = [torch.randn(shape).mul(50).to(kind) for shape, kind in shapes]
    kept = Snapshot(tensors)
    found = [torch.zeros_like(tensor) for tensor in tensors]
    kept.restore(found)
    for several in (found, kept[:], kept.mapped()):
        assert [each.shape for each in several] == [each.shape for each in tensors]
        assert all(torch.equal(one, other) for one, other in zip(several, tensors, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(kept[1:3], tensors[1:3], strict=True))


def test_it_is_a_copy_also_of_what_lies_across() -> None:
    across = torch.arange(6.0).view(2, 3).T
    kept = Snapshot([across])
    wanted = across.clone()
    across.zero_()
    assert torch.equal(kept[:][0], wanted)


def test_the_file_has_no_name_and_goes_with_its_last_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = len(list(Path("/proc/self/fd").iterdir()))
    kept = Snapshot([torch.ones(10)])
    assert list(tmp_path.iterdir()) == []
    mapped = kept.mapped()
    del kept
    assert mapped[0].tolist() == [1.0] * 10, "what is mapped stays"
    del mapped
    assert len(list(Path("/proc/self/fd").iterdir())) == before
