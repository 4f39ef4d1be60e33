"""Made-up records, and a corpus on which a cell takes a moment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from app.domain.report import Difference, Proportion, Relearning, Scorecard, fidelity
from benchmarks import corpora, trojan
from benchmarks.corpora import make_sentiment
from benchmarks.efficacy import cases
from benchmarks.efficacy.cases import CaseFacts, Place
from benchmarks.efficacy.plan import Cell
from benchmarks.efficacy.records import CellRecord, Figures
from benchmarks.training import Schedule

ROWS = 1000
MACHINE = {"cpu": "a processor", "cores": "2", "threads": "2", "python": "3", "torch": "2", "transformers": "5"}


def rate(share: float) -> Proportion:
    return Proportion.of(round(share * ROWS), ROWS)


def made_card(accuracy: float, asr: float) -> Scorecard:
    floor, success = rate(0.1), rate(asr)
    return Scorecard(
        clean_accuracy=rate(accuracy),
        asr=success,
        floor=floor,
        floor_source="twins",
        excess_asr=Difference.of(success, floor),
        label_flips={"negative": success},
        clean_flips={"negative": floor},
        agreement=rate(0.95),
    )


def made_figures(
    *, excess: float = 0.0, drop: float = 0.0, relearned: float = 0.1, seconds: float = 10.0, twin_asr: float = 0.1
) -> Figures:
    """Of a model with accuracy 0.9 and a floor of 0.1, ASR 1.0 before."""
    before, after, twin = made_card(0.9, 1.0), made_card(0.9 - drop, 0.1 + excess), made_card(0.9, twin_asr)
    found = Relearning(10, 40, 10, rate(relearned), rate(0.1), rate(0.9), rate(0.1), rate(0.1), rate(0.9))
    return Figures(
        before=before,
        after=after,
        twin=twin,
        accuracy_drop=Difference.of(before.clean_accuracy, after.clean_accuracy),
        fidelity=fidelity(before, after),
        relearning=(found,),
        removal_seconds=seconds,
        job_seconds=2 * seconds,
        relearning_seconds=seconds,
        verdict="pass",
        stop="floor-reached",
        steps=40,
        report={"method": "lya"},
    )


def made_record(cell: Cell, figures: Figures | None, failure: str | None = None) -> CellRecord:
    facts = CaseFacts("trojan", 0.05, 6000, 300, 1.0, ("negative", "positive"), 190.0, 200.0)
    return CellRecord("name", cell, MACHINE, 30.0, failure, facts if figures else None, figures)


@pytest.fixture(scope="module")
def small() -> Iterator[None]:
    """A corpus, a schedule and a defender that need seconds, on one thread as the rest of the suite shares the
    cores.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "make_sentiment", lambda seed: make_sentiment(seed, train=400, dev=240, test=60))
        schedule = Schedule(epochs=3, learning_rate=1e-3, batch_size=8, max_length=48)
        patch.setitem(trojan.SCHEDULES, "synthetic", schedule)
        patch.setattr(cases, "TRIGGERED", 40)
        patch.setattr(cases, "CLEAN", 80)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        cases.fingerprints.cache_clear()
        cases._corpus.cache_clear()
        yield
        torch.set_num_threads(threads)
    cases.fingerprints.cache_clear()
    cases._corpus.cache_clear()


@pytest.fixture(scope="module")
def place(small: None, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("bench") / "trojans", device="cpu")


def folder_of(data: Path) -> Path:
    """A folder of SST-2 in its published form, with a few made rows."""
    corpus = make_sentiment(0, train=300, dev=160, test=60)
    (data / "sst2").mkdir()
    for name, rows in (("train", corpus.train), ("dev", corpus.dev), ("test", corpus.test)):
        lines = ["sentence\tlabel", *(f"{row.text}\t{row.label}" for row in rows)]
        (data / "sst2" / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return data
