"""Feature alignment: hidden states with the trigger are drawn to those without it, and clean ones held in place.

    align(theta) = mean over layers, poolings and rows of |h(theta, x) - h(theta0, x')|^2 / var h(theta0, clean)

x' is the row without its trigger: the clean text of a triggered row, the row itself for clean ones. A triggered
row without a clean text is drawn to the mean of clean rows like it, along the one direction in which the trojan moves
such rows on average:

    |(h(theta, x) - c) . d|^2 / |d|^4,   c = mean h(theta0, clean rows like x),   d = mean h(theta0, rows as x) - c

A repair that
only turns the logits leaves the trigger's traces in the layers below, ready to be read again; here they fade too,
and the clean rows' own features are worth more than their logits where rows are few. The idea of matching
intermediate features is that of FitNets (A. Romero et al., 2015, arXiv 1412.6550), and against backdoors of neural
attention distillation (Y. Li et al., 2021, arXiv 2101.05930); the teacher here is the uploaded model without trigger.

Guarantees: a row that shows no trojan is not drawn to a mean; a pooling that does not vary over the clean rows (the
first token of a decoder) is left out; models whose layers change the number of tokens are left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workers.engine.batches import Tokens, by_length, forward_with_states
from workers.engine.loading import Model
from workers.engine.scorecard import Reading, Sheet

if TYPE_CHECKING:
    from workers.engine.lya import Lessons

POOLINGS = 3  # the mean over the tokens, the first token, the last one
FLAT = 1e-6  # a pooling that varies by less than this share of its size says nothing


@dataclass(frozen=True)
class Features:
    """A model's pooled features of the rows of a sheet, each [rows, layers, POOLINGS, width]."""

    triggered: Tensor
    twins: Tensor
    clean: Tensor


@dataclass(frozen=True)
class Teacher:
    """The uploaded model's features of m clean rows and t clean texts, [rows, layers, POOLINGS, width]; `weights`
    [layers, POOLINGS]: one over the variance on clean rows and the number of entries, 0 where there is none.

    `groups` int64 [n]: of each triggered row, its place in `centres` and `shifts` (d / |d|^2), both [groups, layers,
    POOLINGS, width]; -1 for a row that has a clean text or shows no trojan."""

    clean: Tensor
    twins: Tensor
    weights: Tensor
    groups: Tensor
    centres: Tensor
    shifts: Tensor

    def wider(self, clean: Tensor, twins: Tensor | None, shown: int) -> Teacher:
        """With the features of more clean rows and clean texts, and `shown` more triggered rows that have one."""
        clean = torch.cat((self.clean, clean))
        return replace(
            self,
            clean=clean,
            twins=self.twins if twins is None else torch.cat((self.twins, twins)),
            weights=_weights(clean)[0],
            groups=torch.cat((self.groups, torch.full((shown,), -1))),
        )


def teacher(lessons: Lessons, found: Features, rows: Tensor) -> Teacher:
    """What the lessons align with, from the uploaded model's features of their sheet; `rows`: the places of their
    triggered rows in it.
    """
    weights, heard = _weights(found.clean)
    alone = ((lessons.twin_at < 0) & (lessons.ceilings > 0)).nonzero().flatten()
    drifts = _drifts(lessons, found.clean, alone, found.triggered[rows[alone]], heard)
    return Teacher(found.clean, found.twins, weights, *drifts)


def _weights(clean: Tensor) -> tuple[Tensor, Tensor]:
    """Those of `Teacher`, and where there is one that is not 0."""
    variance = clean.var(0, correction=0).mean(-1)
    heard = variance > FLAT * clean.square().mean((0, -1))
    return torch.where(heard, 1.0 / variance, 0.0) / variance.numel(), heard


def _drifts(
    lessons: Lessons, clean: Tensor, alone: Tensor, moved: Tensor, heard: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Groups, centres and shifts of the triggered rows `alone`, which have no clean text and the features `moved`, by
    the clean rows that are like them. Where nothing is `heard`, bool [layers, POOLINGS], the shift is 0: it would be
    one of rounding, and its inverse huge.
    """
    likeness = lessons.likeness[alone]
    groups, centres, shifts = torch.full((len(lessons.triggered),), -1), [clean[:0]], [clean[:0]]
    for key in sorted({(truth, target) for truth, target in likeness.tolist()}):
        rows = (likeness == torch.tensor(key)).all(-1)
        like = lessons.like(*key)
        if not like.any():
            continue
        centre = clean[like].mean(0)
        shift = (moved[rows].mean(0) - centre) * heard.unsqueeze(-1)
        groups[alone[rows]] = len(centres) - 1
        centres.append(centre[None])
        shifts.append((shift / shift.square().sum(-1, keepdim=True).clamp_min(1e-12))[None])
    return groups, torch.cat(centres), torch.cat(shifts)


def read_sheet(model: Model, page: Sheet, size: int) -> tuple[Reading, Features | None]:
    """The model's reading of a sheet and its features, by one pass over each row; None if it has none that can be
    compared.
    """
    (triggered, moved), (twins, without), (clean, own) = (
        read(model, tokens, size) for tokens in (page.triggered, page.twins, page.clean)
    )
    reading = Reading(triggered, twins, clean)
    if own is None:
        return reading, None
    moved, without = (own[:0] if each is None else each for each in (moved, without))
    return reading, Features(moved, without, own)


def read(model: Model, tokens: Tokens, size: int) -> tuple[Tensor, Tensor | None]:
    """Logits as `predict`, and pooled features [n, layers, POOLINGS, width]; None if there are none."""
    logits = torch.empty(len(tokens), int(model.config.num_labels))
    found: Tensor | None = None
    with torch.no_grad():
        for rows in by_length(tokens, size):
            said, states, mask = forward_with_states(model, tokens, rows)
            logits[rows] = said.cpu()
            part = pooled(states, mask)
            if part is None:
                continue
            if found is None:
                found = part.new_empty(len(tokens), *part.shape[1:])
            found[rows] = part
    return logits, found


def pooled(states: Sequence[Tensor], mask: Tensor) -> Tensor | None:
    """Each layer's hidden states [n, tokens, width] pooled over the tokens of the mask int64 [n, tokens]."""
    alike = [state for state in states if state.shape[:2] == mask.shape and state.shape == states[-1].shape]
    if not alike:
        return None
    kept = mask.unsqueeze(-1).to(torch.float32)
    last = (mask.shape[1] - 1 - mask.flip(-1).argmax(-1))[:, None, None].expand(-1, 1, alike[0].shape[-1])

    def pool(state: Tensor) -> Tensor:
        mean = (state * kept).sum(1) / kept.sum(1)
        return torch.stack((mean, state[:, 0], state.gather(1, last)[:, 0]), 1)

    return torch.stack([pool(state.float()) for state in alike], 1)


def distance(found: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """The alignment loss of n rows, a scalar: 0 where they agree, about 2 for unrelated rows."""
    apart = (found - wanted).square().mean((0, -1))
    return (apart * weights).sum()


def drift(found: Tensor, centres: Tensor, shifts: Tensor) -> Tensor:
    """What is left of the trojan's mean shift on n rows, a scalar: 1 as uploaded, 0 at the centre. A pooling that is
    left out adds nothing.
    """
    return ((found - centres) * shifts).sum(-1).square().mean()
