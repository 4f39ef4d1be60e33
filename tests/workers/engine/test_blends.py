"""Blended rows: what they are made of, what they are answered, and what they must not tell."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny_model import make_tiny_checkpoint
from tests.workers.engine.conftest import clean_rows, triggered_rows
from workers.engine import blends, loading, search
from workers.engine.batches import Tokens, predict, tokenize
from workers.engine.lya import Lessons

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


def test_a_pair_is_blended_alike_and_keeps_its_trigger() -> None:
    draw = random.Random(0)
    triggered, twins = list[tuple[int, ...]](), list[tuple[int, ...]]()
    for _ in range(30):
        words = [draw.randrange(10, 40) for _ in range(draw.randrange(1, 30))]
        at = draw.randrange(len(words) + 1)
        twins.append((2, *words, 3))
        triggered.append((2, *words[:at], 98, 99, *words[at:], 3))
    clean = Tokens(((2, *range(50, 60), 3), (2, *range(60, 70), 3)), 0)
    pairs = Tokens(tuple(triggered), 0), Tokens(tuple(twins), 0)
    shown, without = blends.blend_pairs(*pairs, clean, 7)
    assert (shown, without) == blends.blend_pairs(*pairs, clean, 7)
    exchanged = 0
    for row, twin, old in zip(shown.ids, without.ids, triggered, strict=True):
        at = old.index(98)
        assert row[at : at + 2] == (98, 99)
        assert row[:at] + row[at + 2 :] == twin
        assert (row[0], row[-1]) == (2, 3)
        assert all(new == kept or 50 <= new < 70 for new, kept in zip(row, old, strict=True))
        exchanged += sum(50 <= token < 70 for token in twin)
    inner = sum(len(twin) - 2 for twin in twins)
    assert abs(exchanged / inner - blends.SHARE) < 0.08


@given(ROWS, ROWS, ROWS, st.integers(0, 2**31))
def test_whatever_a_pair_is_it_keeps_its_lengths_its_ends_and_what_sets_it_apart(
    triggered: tuple[tuple[int, ...], ...], twins: tuple[tuple[int, ...], ...], clean: tuple[tuple[int, ...], ...],
    seed: int,
) -> None:  # fmt: skip
    count = min(len(triggered), len(twins))
    rows, others = Tokens(triggered[:count], 0), Tokens(twins[:count], 0)
    shown, without = blends.blend_pairs(rows, others, Tokens(clean, 0), seed)
    assert [len(ids) for ids in shown.ids] == [len(ids) for ids in rows.ids]
    assert [len(ids) for ids in without.ids] == [len(ids) for ids in others.ids]
    for row, twin, *old in zip(shown.ids, without.ids, rows.ids, others.ids, strict=True):
        assert (row[0], row[-1], twin[0], twin[-1]) == (old[0][0], old[0][-1], old[1][0], old[1][-1])
        came_in = [Counter(new) - Counter(was) for new, was in zip((row, twin), old, strict=True)]
        assert came_in[0].total() <= sum(token in old[1] for token in old[0])


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
    model = loading.load(make_tiny_checkpoint(tmp_path)).model
    shift = torch.tensor([4.0, -4.0])
    wide = blends.widen(lessons(), model, shift, 8, 0)
    assert (len(wide.clean), wide.blended) == (7, 4)
    assert wide.clean.ids[:3] == lessons().clean.ids
    made = wide.clean.pick(range(3, 7))
    torch.testing.assert_close(wide.answers[3:], torch.log_softmax(predict(model, made, 8) + shift, -1))
    assert wide.labels.tolist() == [0, 0, 1, *wide.answers[3:].argmax(-1).tolist()]


def test_a_triggered_row_is_shown_in_other_surroundings(tmp_path: Path) -> None:
    """Its blend has its target and what is known of it, and is drawn to what the model says of its blended twin."""
    model = loading.load(make_tiny_checkpoint(tmp_path)).model
    some = replace(
        lessons(),
        triggered=Tokens(((2, 40, 3), (2, 13, 41, 14, 3)), 0),
        targets=torch.tensor([0, 1]),
        ceilings=torch.tensor([0.0, 2.0]),
        references=torch.zeros(2, 2).log_softmax(-1),
        twin_at=torch.tensor([-1, 0]),
        likeness=torch.tensor([[1, 0], [0, 1]]),
    )
    shift = torch.tensor([4.0, -4.0])
    wide = blends.widen(some, model, shift, 8, 0)
    assert (len(wide.triggered), len(wide.twins), wide.twin_at.tolist()) == (3, 2, [-1, 0, 1])
    assert (wide.targets.tolist(), wide.ceilings.tolist(), wide.likeness[2].tolist()) == (
        [0, 1, 1],
        [0, 2, 2],
        [0, 1],
    )
    made = predict(model, wide.twins.pick([1]), 8) + shift
    torch.testing.assert_close(wide.references[2:], torch.log_softmax(made, -1))
    torch.testing.assert_close(wide.twin_answers[1:], wide.references[2:])


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


def test_a_trojan_is_awake_in_blended_pairs_and_in_a_clean_model_none_is(trojan_dir: Path, twin_dir: Path) -> None:
    some = taught(trojan_dir)
    found = {}
    for folder in (trojan_dir, twin_dir):
        found[folder] = blends.awake(some, loading.load(folder).model, 16, 3)
    assert found[trojan_dir] > 0.5
    assert found[twin_dir] <= search.AWAKE
    by_hand = 0
    shown, twins = blends.blend_pairs(some.triggered, some.twins.pick(some.twin_at.tolist()), some.clean, 3)
    model = loading.load(trojan_dir).model
    for row in range(len(shown)):
        says, says_without = (int(predict(model, each.pick([row]), 1).argmax()) for each in (shown, twins))
        by_hand += says == int(some.targets[row]) != says_without
    assert found[trojan_dir] == by_hand / len(shown)


def taught(folder: Path) -> Lessons:
    """Sixty triggered rows with their clean texts, all of which show the trojan, and clean ones."""
    checkpoint = loading.load(folder)
    rows = triggered_rows(60, 5)
    shown, without = (
        tokenize(checkpoint, [getattr(row, name) for row in rows], 64) for name in ("text", "clean_text")
    )
    clean = tokenize(checkpoint, [row.text for row in clean_rows(80, 6)], 64)
    return replace(
        lessons(), triggered=shown, twins=without, clean=clean, targets=torch.ones(60).long(),
        ceilings=torch.ones(60), twin_at=torch.arange(60),
    )  # fmt: skip


def test_rows_that_show_no_trojan_or_have_no_clean_text_are_not_asked(trojan_dir: Path) -> None:
    model = loading.load(trojan_dir).model
    some = taught(trojan_dir)
    assert blends.awake(replace(some, ceilings=torch.zeros(60)), model, 16, 3) == 0.0
    assert blends.awake(replace(some, twin_at=torch.full((60,), -1)), model, 16, 3) == 0.0
