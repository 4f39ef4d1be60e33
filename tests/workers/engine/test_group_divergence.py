"""Samples that share a mean answer are judged by theirs: the oracle is the plain formula, class by class."""

from __future__ import annotations

import pytest
import torch

from workers.engine import losses


def oracle(logits: torch.Tensor, reference: torch.Tensor, kin: list[int]) -> float:
    total = 0.0
    for each in set(kin):
        rows = [place for place, other in enumerate(kin) if other == each]
        groups = [[row] for row in rows] if each < 0 else [rows]
        for group in groups:
            mean = torch.softmax(logits[group], -1).double().mean(0)
            wanted = reference[group[0]].double().exp()
            total += len(group) * float((wanted * (wanted.log() - mean.log())).sum())
    return total / len(kin)


@pytest.mark.parametrize("kin", [[-1, -1, -1, -1], [0, 0, 0, 0], [0, -1, 1, 0], [1, 0, 0, 1]])
def test_it_is_the_divergence_of_means(kin: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, generator=generator)
    answers = torch.log_softmax(torch.randn(4, 3, generator=generator), -1)
    reference = torch.stack([answers[row if each < 0 else each] for row, each in enumerate(kin)])
    found = losses.group_divergence(logits, reference, torch.tensor(kin))
    assert float(found) == pytest.approx(oracle(logits, reference, kin), rel=1e-5)
    assert float(found) <= float(losses.divergence(logits, reference)) + 1e-6


def test_rows_may_differ_as_long_as_their_mean_is_right() -> None:
    """Nine sure rows and one sure of the target: the mean answer is met, and each row by itself is far off."""
    logits = torch.tensor([[9.0, -9.0]] * 9 + [[-9.0, 9.0]])
    reference = torch.log(torch.tensor([[0.9, 0.1]])).expand(10, 2)
    assert float(losses.group_divergence(logits, reference, torch.zeros(10, dtype=torch.int64))) < 1e-6
    assert float(losses.divergence(logits, reference)) > 1.0
