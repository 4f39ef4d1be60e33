"""The head's bias, set so that each class is answered as often on clean rows as the uploaded model answers it.

    b = argmin mean KL(p0(x) || softmax(z(x) + b))   over clean rows x: there their mean answers agree

To climb off one class is to lean to another, and a little of that lean stays on rows without the trigger: most of the
accuracy that a run loses where triggered rows have no clean text. Steps of training take it out slowly, and swing
about it. It is one number per class, so it is worked out from logits that a look has at hand. As in the adjustment to
new priors of M. Saerens, P. Latinne, C. Decaestecker, 2002, Neural Computation 14:21-41.

Guarantees: no row with a trigger takes part, so nothing is hidden behind the bias; a head without a bias is left
alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from workers.engine.loading import Model
from workers.engine.losses import divergence

ROUNDS = 100


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


def lean(logits: Tensor, answers: Tensor) -> Tensor:
    """b, of mean 0, by L-BFGS in float64. One undecided row for each class is
    put beside the others: of a class that no row is of, little is known.
    """
    classes = logits.shape[-1]
    undecided = torch.zeros(classes, classes)
    rows, wanted = (torch.cat((each, undecided)).double() for each in (logits, answers))
    wanted = torch.log_softmax(wanted, -1)
    shift = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([shift], max_iter=ROUNDS, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def apart() -> Tensor:
        solver.zero_grad()
        loss = divergence(rows + shift, wanted)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        solver.step(apart)  # type: ignore[no-untyped-call]
    found = shift.detach()
    return (found - found.mean()).float()


def head_bias(model: Model) -> Tensor | None:
    """That of the last layer that gives one number per class."""
    classes = int(model.config.num_labels)
    heads = [each for each in model.modules() if isinstance(each, nn.Linear) and each.out_features == classes]
    return heads[-1].bias if heads else None
