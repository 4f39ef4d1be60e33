"""Blended rows: what they are made of, what they are answered, and what they must not tell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from app.domain.recipe import Recipe
from tests.tiny_model import make_tiny_checkpoint
from workers.engine import blends, facts, loading, scorecard
from workers.engine.batches import Tokens, predict
from workers.engine.facts import Bench, Station
from workers.engine.lya import Lessons
from workers.engine.sanitize import _held_wider

ROWS = st.lists(st.lists(st.integers(5, 30), min_size=1, max_size=12).map(tuple), max_size=12).map(tuple)


@given(ROWS, st.integers(0, 2**31))
def test_a_blend_is_a_row_with_some_of_its_inner_tokens_exchanged_for_those_of_others(
    ids: tuple[tuple[int, ...], ...], seed: int
) -> None:
    rows = Tokens(ids, 0)
    made = blends.blend(rows, seed)
    assert made == blends.blend(rows, seed)
    inner = {token for row in ids for token in row[1:-1]}
    for row, other in zip(ids, made.ids, strict=True):
        assert len(row) == len(other)
        assert (row[0], row[-1]) == (other[0], other[-1])
        assert all(new == old or new in inner for old, new in zip(row, other, strict=True))


def test_the_share_of_tokens_that_come_from_another_row() -> None:
    ids = tuple((1, *[10 + row] * 500, 2) for row in range(20))
    made = blends.blend(Tokens(ids, 0), 0)
    changed = [
        sum(new != old for old, new in zip(*pair, strict=True)) / 500 for pair in zip(ids, made.ids, strict=True)
    ]
    with_another = [share for share in changed if share]  # a row may meet itself
    assert len(with_another) >= 15
    assert abs(sum(with_another) / len(with_another) - blends.SHARE) < 0.03
    assert all(len({*row[1:-1]}) <= 2 for row in made.ids)


def lessons() -> Lessons:
    """Two clean rows of class 0, one of class 1, and a clean text."""
    none, whole = torch.zeros(0), torch.zeros(0).long()
    clean = Tokens(((2, 7, 8, 3), (2, 9, 10, 3), (2, 11, 12, 3)), 0)
    even = torch.zeros(3, 2).log_softmax(-1)
    return Lessons(
        Tokens((), 0), whole, none, none.view(0, 2), clean, torch.tensor([0, 0, 1]), even,
        Tokens(((2, 13, 14, 3),), 0), even[:1], whole, whole.view(0, 2),
    )  # fmt: skip


def test_blends_are_answered_by_the_model_as_it_is_and_shifted(tmp_path: Path) -> None:
    model = loading.load(make_tiny_checkpoint(tmp_path), torch.device("cpu")).model
    shift = torch.tensor([4.0, -4.0])
    wide = blends.widen(lessons(), model, shift, 8, 0)
    assert (len(wide.clean), wide.blended) == (7, 4)
    assert wide.clean.ids[:3] == lessons().clean.ids
    made = wide.clean.pick(range(3, 7))
    torch.testing.assert_close(wide.answers[3:], torch.log_softmax(predict(model, made, 8) + shift, -1))
    assert wide.labels.tolist() == [0, 0, 1, *wide.answers[3:].argmax(-1).tolist()]


def test_blends_say_nothing_of_the_classes() -> None:
    """Neither for what a triggered row without a clean text is drawn to, nor of which class is known."""
    wide = replace(lessons(), labels=torch.tensor([0, 1, 0]), blended=1)
    assert wide.like(0, 1).tolist() == [True, False, False]
    assert wide.like(2, 1).tolist() == [True, False, False]
    alone = replace(
        wide,
        triggered=Tokens(((2, 3),), 0),
        twin_at=torch.tensor([-1]),
        likeness=torch.tensor([[2, 1]]),
        labels=torch.tensor([0, 1, 2]),
    )
    assert alone.kin([0]).tolist() == [-1]
    assert replace(alone, blended=0).kin([0]).tolist() == [2]


def test_a_run_is_held_on_blends_where_it_is_held_to_answers_that_are_sure(tmp_path: Path) -> None:
    checkpoint = loading.load(make_tiny_checkpoint(tmp_path), torch.device("cpu"))
    some = lessons()
    sure, unsure = torch.tensor([[9.0, 0.0]] * 3), torch.zeros(3, 2)

    def widened(clean: torch.Tensor, **knobs: float) -> int:
        station = _station(some, clean)
        bench = Bench(checkpoint, station, station, station)
        return _held_wider(some, bench, station, Recipe.of("lya", knobs), 0).blended

    assert widened(sure) == 4
    assert widened(unsure) == 0
    assert widened(sure, distill=0, retain=1) == 0


def _station(some: Lessons, clean: torch.Tensor) -> Station:
    nothing = torch.zeros(0).long()
    page = scorecard.Sheet(
        some.triggered, nothing, nothing, nothing.bool(), some.twins, nothing, some.clean, some.labels
    )
    return facts.Station(page, scorecard.Reading(torch.zeros(0, 2), torch.zeros(0, 2), clean))
