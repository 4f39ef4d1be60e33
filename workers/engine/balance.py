"""The head's bias, set so that each class is answered as often on clean rows as the uploaded model answers it.

    b = argmin mean KL(p0(x) || softmax(z(x) + b))   over clean rows x: there their mean answers agree

Where the labels of the clean rows show the uploaded model itself to lean to a target, p0 is its answer without that
lean: a model learns from poisoned rows also how often to call the target.

To climb off one class is to lean to another, and a little of that lean stays on rows without the trigger: most of the
accuracy that a run loses where triggered rows have no clean text. Steps of training take it out slowly, and swing
about it. It is one number per class, so it is worked out from logits that a look has at hand. As in the adjustment to
new priors of M. Saerens, P. Latinne, C. Decaestecker, 2002, Neural Computation 14:21-41.

Guarantees: no row with a trigger takes part, so nothing is hidden behind the bias; a head without a bias is left
alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.engine.loading import Model
from workers.engine.losses import NEVER, divergence

ROUNDS = 100
BEYOND_LUCK = 1.645  # standard errors: luck alone reaches so far on one side in 5 % of cases


def settle(model: Model, logits: Tensor, answers: Tensor) -> Tensor:
    """Move the head's bias by b, and return it: float32 [classes], 0 where the head has none.

    logits, answers: [m, classes], what the model and the uploaded one say of the same clean rows.
    """
    bias = head_bias(model)
    if bias is None or not len(logits):
        return torch.zeros(logits.shape[-1])
    shift = lean(logits, answers)
    with torch.no_grad():
        bias.add_(shift.to(bias))
    return shift


def lean(logits: Tensor, answers: Tensor, among: Tensor | None = None) -> Tensor:
    """b, of mean 0, by L-BFGS in float64. One undecided row for each class is
    put beside the others: of a class that no row is of, little is known. `among`, bool [classes]: only these move
    against the others.
    """
    classes = logits.shape[-1]
    undecided = torch.zeros(classes, classes)
    rows, wanted = (torch.cat((each, undecided)).double() for each in (logits, answers))
    wanted = torch.log_softmax(wanted, -1)
    moving = torch.ones(classes, dtype=torch.bool) if among is None else among
    shift = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([shift], max_iter=ROUNDS, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def apart() -> Tensor:
        solver.zero_grad()
        loss = divergence(rows + shift * moving, wanted)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        solver.step(apart)  # type: ignore[no-untyped-call]
    found = shift.detach() * moving
    return (found - found.mean()).float()


@dataclass(frozen=True)
class Known:
    """Clean rows with their labels: logits [m, classes], labels int64 [m]; and the classes that triggers aim at."""

    logits: Tensor
    labels: Tensor
    targets: Tensor

    @property
    def truth(self) -> Tensor:
        """The labels as probabilities, [m, classes]."""
        return functional.one_hot(self.labels, self.logits.shape[-1]).float()


def overcalled(known: Known) -> Tensor:
    """The targets that clean rows are called more often than they are, beyond luck: bool [classes].

    A row is called a class to the probability that it is given. The error of the sum is worked out from the
    differences as they are: a model that is too sure of itself is not taken for one that leans.
    """
    over = torch.softmax(known.logits, -1) - known.truth
    beyond = over.sum(0) > BEYOND_LUCK * over.square().sum(0).sqrt()
    return beyond & torch.isin(torch.arange(len(beyond)), known.targets)


def correction(known: Known) -> Tensor:
    """What to add to all logits so that no target is called too often, float32 [classes]: the most likely b given the
    labels, of mean 0; exactly 0 where there is no such lean.
    """
    return lean(known.logits, known.truth.clamp_min(NEVER).log(), overcalled(known))


def head_bias(model: Model) -> Tensor | None:
    """That of the last layer that gives one number per class."""
    classes = int(model.config.num_labels)
    heads = [each for each in model.modules() if isinstance(each, nn.Linear) and each.out_features == classes]
    return heads[-1].bias if heads else None
