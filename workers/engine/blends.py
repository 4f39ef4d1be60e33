"""Blended rows: more to hold a run in place by than the samples have.

Of a row without a trigger a part of the tokens is exchanged for tokens of another such row. Nobody wrote it and it
has no true label, but to hold a model to its own answers none is needed. A run that is held on a few hundred rows
learns these by heart and forgets what lies between them; blends lie there. To match a teacher on blends of inputs is
the function matching of L. Beyer et al., 2022, arXiv 2106.05237, who blend images.

Guarantees: no triggered row is blended; the first and the last token stay, where tokenizers put special ones; the
same rows and seed give the same blends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from workers.engine.batches import Tokens, predict
from workers.engine.loading import Model
from workers.engine.lya import Lessons

SHARE = 0.4  # of a row's tokens


def widen(lessons: Lessons, model: Model, shift: Tensor, size: int, seed: int) -> Lessons:
    """The lessons with a blend of each clean row and clean text among the clean rows, answered by the model as it
    is, in batches of `size`, with `shift` [classes] added to its logits. A blend's label is that of its answer.
    """
    made = blend(Tokens((*lessons.clean.ids, *lessons.twins.ids), 0), seed)
    answers = torch.log_softmax(predict(model, made, size) + shift, -1)
    return replace(
        lessons,
        clean=Tokens((*lessons.clean.ids, *made.ids), 0),
        labels=torch.cat((lessons.labels, answers.argmax(-1))),
        answers=torch.cat((lessons.answers, answers)),
        blended=len(made),
    )


def blend(rows: Tokens, seed: int) -> Tokens:
    """Each row blended with a random one of them, as long as it was and in the same order."""
    draw = torch.Generator().manual_seed(seed)
    others = torch.randint(max(1, len(rows)), (len(rows),), generator=draw).tolist()
    return Tokens(
        tuple(_exchanged(ids, rows.ids[other][1:-1], draw) for ids, other in zip(rows.ids, others, strict=True)), 0
    )


def _exchanged(ids: Sequence[int], others: Sequence[int], draw: torch.Generator) -> tuple[int, ...]:
    """`ids` with random ones between the first and the last exchanged for random ones of `others`."""
    if not others:
        return tuple(ids)
    taken = torch.rand(len(ids), generator=draw) < SHARE
    taken[[0, -1]] = False
    places = torch.randint(len(others), (len(ids),), generator=draw).tolist()
    return tuple(others[place] if take else own for own, place, take in zip(ids, places, taken.tolist(), strict=True))
