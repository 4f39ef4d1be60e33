"""Blended rows: rows that nobody wrote, made of the samples, to learn from and to judge by.

Of a row a part of the tokens is exchanged for tokens of clean rows. A triggered row is blended together with its
clean text: what both have in common is exchanged in both alike, so the pair still differs by the trigger alone, in
other surroundings.

A run on a few dozen rows may learn these by heart and leave the trojan alive in others, where the few rows of the
tune part do not see it. Blended pairs are such others: a trojan that is out is out of them too. They have no true
label, but to draw a triggered row to what the uploaded model says of its clean text none is needed, nor to hold the
model to its own answers. To match a teacher on blends of inputs is the function matching of L. Beyer et al., 2022,
arXiv 2106.05237, who blend images.

Guarantees: no token that sets a triggered row apart from its clean text is exchanged, and none is put into a clean
row; the first and the last token stay, where tokenizers put special ones; the same rows and seed give the same
blends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher

import torch
from torch import Tensor

from workers.engine import features
from workers.engine.batches import Tokens, predict
from workers.engine.loading import Model
from workers.engine.lya import Lessons

SHARE = 0.4  # of the tokens that may be exchanged
MOST_JUDGED = 64


def awake(lessons: Lessons, model: Model, size: int, seed: int) -> float:
    """The share of blended triggered rows that the model reads as the target, though not their blended clean text: of
    those that showed the trojan and have a clean text, MOST_JUDGED at most; 0 over none. Read in batches of `size`.
    """
    rows = ((lessons.twin_at >= 0) & (lessons.ceilings > 0)).nonzero().flatten()[:MOST_JUDGED]
    shown, twins = _blended_pairs(lessons, rows, seed)
    targets = lessons.targets[rows]
    hit = (predict(model, shown, size).argmax(-1) == targets).nonzero().flatten()
    alike = predict(model, twins.pick(hit.tolist()), size).argmax(-1) == targets[hit]
    return int((~alike).sum()) / max(1, len(rows))


def widen(lessons: Lessons, model: Model, shift: Tensor, size: int, seed: int) -> Lessons:
    """The lessons with a blend of each clean row and clean text among the clean rows, and of each triggered row that
    has a clean text among the triggered ones, its blended clean text among the clean texts. The model as it is
    answers those without the trigger, in batches of `size`, with `shift` [classes] added to its logits.
    """
    rows = (lessons.twin_at >= 0).nonzero().flatten()
    clean = blend(Tokens((*lessons.clean.ids, *lessons.twins.ids), 0), seed)
    shown, twins = _blended_pairs(lessons, rows, seed)
    (said, own), (twins_said, without) = (features.read(model, made, size) for made in (clean, twins))
    teacher = lessons.teacher
    if teacher is not None and own is not None:
        teacher = teacher.wider(own, without, len(rows))
    answers, twin_answers = torch.log_softmax(said + shift, -1), torch.log_softmax(twins_said + shift, -1)
    return replace(
        lessons,
        triggered=Tokens((*lessons.triggered.ids, *shown.ids), 0),
        targets=torch.cat((lessons.targets, lessons.targets[rows])),
        ceilings=torch.cat((lessons.ceilings, lessons.ceilings[rows])),
        references=torch.cat((lessons.references, twin_answers)),
        clean=Tokens((*lessons.clean.ids, *clean.ids), 0),
        labels=torch.cat((lessons.labels, answers.argmax(-1))),
        answers=torch.cat((lessons.answers, answers)),
        twins=Tokens((*lessons.twins.ids, *twins.ids), 0),
        twin_answers=torch.cat((lessons.twin_answers, twin_answers)),
        twin_at=torch.cat((lessons.twin_at, len(lessons.twins) + torch.arange(len(twins)))),
        likeness=torch.cat((lessons.likeness, lessons.likeness[rows])),
        teacher=teacher,
        blended=len(clean),
    )


def blend(rows: Tokens, seed: int) -> Tokens:
    """Each row blended with a random one of them, as long as it was and in the same order."""
    draw = torch.Generator().manual_seed(seed)
    others = torch.randint(max(1, len(rows)), (len(rows),), generator=draw).tolist()
    return Tokens(
        tuple(_exchanged(ids, rows.ids[other][1:-1], draw) for ids, other in zip(rows.ids, others, strict=True)), 0
    )


def blend_pairs(triggered: Tokens, twins: Tokens, clean: Tokens, seed: int) -> tuple[Tokens, Tokens]:
    """Each triggered row and its twin, what they have in common blended with tokens of random `clean` rows, in both
    alike. Both as long as they were and in the same order.
    """
    draw = torch.Generator().manual_seed(seed)
    pool = [token for ids in clean.ids for token in ids[1:-1]]
    shown, without = list[tuple[int, ...]](), list[tuple[int, ...]]()
    for ids, twin in zip(triggered.ids, twins.ids, strict=True):
        made, other = list(ids), list(twin)
        new = _exchanged(ids, pool, draw)
        for place, beside in _common(ids, twin):
            made[place] = other[beside] = new[place]
        shown.append(tuple(made))
        without.append(tuple(other))
    return Tokens(tuple(shown), 0), Tokens(tuple(without), 0)


def _blended_pairs(lessons: Lessons, rows: Tensor, seed: int) -> tuple[Tokens, Tokens]:
    """Those of triggered `rows` with clean texts."""
    twins = lessons.twins.pick(lessons.twin_at[rows].tolist())
    return blend_pairs(lessons.triggered.pick(rows.tolist()), twins, lessons.clean, seed)


def _common(ids: Sequence[int], twin: Sequence[int]) -> list[tuple[int, int]]:
    """The places of the tokens that both have, between the first and the last of each."""
    blocks = SequenceMatcher(None, twin, ids, autojunk=False).get_matching_blocks()
    places = [(block.b + step, block.a + step) for block in blocks for step in range(block.size)]
    return [(place, beside) for place, beside in places if place < len(ids) - 1 and 0 < beside < len(twin) - 1]


def _exchanged(ids: Sequence[int], others: Sequence[int], draw: torch.Generator) -> tuple[int, ...]:
    """`ids` with random ones between the first and the last exchanged for random ones of `others`."""
    if not others:
        return tuple(ids)
    taken = torch.rand(len(ids), generator=draw) < SHARE
    taken[[0, -1]] = False
    places = torch.randint(len(others), (len(ids),), generator=draw).tolist()
    return tuple(others[place] if take else own for own, place, take in zip(ids, places, taken.tolist(), strict=True))
