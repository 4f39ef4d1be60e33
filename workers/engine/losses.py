"""The terms of the loss, one function each."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

NEVER = 1e-12  # a probability of which a logarithm can be taken: in float32 a sure answer holds exact zeros


def bounded_ascent(logits: Tensor, targets: Tensor, ceilings: Tensor) -> Tensor:
    """- mean of min(CE(x, target), ceiling): gradient ascent that lets go of a sample once it is high enough.

    logits: [n, classes]; targets: int64 [n]; ceilings: [n], infinity for none. The plain ascent of LYA (arXiv
    2408.12416) has no ceiling; without one the loss has no lower end and destroys the model.
    """
    entropy = functional.cross_entropy(logits, targets, reduction="none")
    return -torch.minimum(entropy, ceilings.to(entropy)).mean()


def retain(logits: Tensor, labels: Tensor) -> Tensor:
    """CE on clean samples. logits: [n, classes]; labels: int64 [n]."""
    return functional.cross_entropy(logits, labels)


def divergence(logits: Tensor, reference: Tensor) -> Tensor:
    """Mean over samples of KL(reference || model). logits, reference: [n, classes], the reference as
    log-probabilities.

    With the reference of a clean twin this is an ascent off the target that ends at the floor by itself; with the
    uploaded model's answers on clean samples it is distillation (G. Hinton et al., 2015, arXiv 1503.02531).
    """
    return functional.kl_div(torch.log_softmax(logits, -1), reference, reduction="batchmean", log_target=True)


def group_divergence(logits: Tensor, reference: Tensor, kin: Tensor) -> Tensor:
    """The mean over samples of `divergence`, where samples of one kin are judged by their mean answer.

    logits, reference: [n, classes]; kin: int64 [n], -1 for a sample with a reference of its own. The reference of a
    kin is the mean answer to other samples; to hold every sample to it would make all answers alike, and none the
    target. KL is convex, so this is never above `divergence`.
    """
    alone = kin < 0
    total = (
        len(logits[alone]) * divergence(logits[alone], reference[alone]) if bool(alone.any()) else logits.sum() * 0
    )
    log_p = torch.log_softmax(logits, -1)
    for each in sorted(set(kin[~alone].tolist())):
        rows = kin == each
        mean = torch.logsumexp(log_p[rows], 0) - math.log(int(rows.sum()))
        wanted = reference[rows][0]
        total = total + int(rows.sum()) * (wanted.exp() * (wanted - mean)).sum()
    return total / len(logits)
