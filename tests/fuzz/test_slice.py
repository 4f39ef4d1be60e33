"""A short, always equal slice of the fuzzing, and what longer runs have found before."""

from __future__ import annotations

import tempfile
from pathlib import Path
from tarfile import XGLTYPE, TarInfo

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests import zip_by_hand
from tests.checkpoint_by_hand import CONFIG, dumped
from tests.fuzz import seeds
from tests.fuzz.judge import judge
from tests.fuzz.mutants import mutants
from tests.fuzz.tally import Tally
from tests.zip_by_hand import Part

MUTANTS = 60


def pax_for_all() -> bytes:
    info = TarInfo("all")
    info.type = XGLTYPE
    return info.tobuf()


# Kind, mutant: each once made a reader raise what it may not, or let in what another reader reads otherwise.
FOUND: list[tuple[str, bytes]] = [
    ("config", dumped(CONFIG | {"id2label": {"0": {}, "1": []}, "label2id": None})),  # TypeError: unhashable
    ("zip", zip_by_hand.make(Part(b"a.md", central={"needed": 255}))),  # zipfile refuses such a version
    ("tar", TarInfo("folder/").tobuf() + bytes(1024)),  # a file for tarfile
    ("pickle", seeds.pickled(seeds.PROGRAM.replace(b"q\x05", b"q\x04"))),  # pickletools: memo key already defined
    ("tar", pax_for_all() + bytes(1024)),  # tarfile fails where no member follows
]


@pytest.fixture(autouse=True)
def _own_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.parametrize("kind", seeds.KINDS)
def test_what_mutants_are_made_of_is_admitted(kind: str) -> None:
    assert {judge(kind, data) for data in seeds.files(kind)} == {"admitted"}


@pytest.mark.parametrize("kind", seeds.KINDS)
def test_mutants_are_refused_or_safe(kind: str) -> None:
    tally = Tally(kind)

    @settings(max_examples=MUTANTS, derandomize=True, deadline=None, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(mutants(kind))
    def slice_of_it(data: bytes) -> None:
        tally.take(data)

    slice_of_it()
    assert tally.findings == []
    assert tally.mutants >= MUTANTS // 2
    assert len(tally.rules) > 1, "mutants that all meet one rule show nothing"


def test_what_was_found_before_stays_found() -> None:
    for kind, data in FOUND:
        judge(kind, data)
