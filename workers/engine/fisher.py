"""The diagonal of the Fisher information of a classifier's parameters, from per-sample gradients.

    F_i = 1/n * sum over samples of E_y[(d log p(y | x) / d theta_i)^2]

Guarantees: gradients are squared sample by sample, never as a batch mean; a parameter that is used several times
has its uses summed before the square; padding changes nothing; a converged model (p ~ 1) does not underflow,
because each sample's logit gradient is scaled to length 1 for the backward pass and its true length, taken in
float64, is put back as a weight. Every parameter's fast path is compared with plain autograd on a small probe
first, and one that differs is taken by the slow path instead, so a module of an unknown kind costs time and not
correctness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.batches import Tokens, by_length, forward, predict
from workers.engine.loading import Model
from workers.engine.squares import SquareHooks

PROBE_ROWS = 3
NOISE = 1e-12  # of the largest squared gradient; the key biases of float32 models were seen at 2e-14 and below


@dataclass(frozen=True)
class Diagonal:
    """The diagonal over all trainable parameters, in their order, scaled to mean 1.

    `mean` is the mean before scaling. `labels` says how labels were taken (true or empirical), `samples` how many
    rows were used, `slow` which parameters took the slow path, `fallback` why another way than the one asked was
    taken.
    """

    values: list[Tensor]
    mean: float
    labels: str
    samples: int
    slow: tuple[str, ...]
    fallback: str | None = None


def diagonal(
    model: Model,
    tokens: Tokens,
    labels: Sequence[int] | None,
    batch: int,
    generator: torch.Generator,
    *,
    left: int = 0,
) -> Diagonal:
    """The Fisher diagonal over the rows of `tokens`: empirical with `labels` given, true with None.

    `model` must be in evaluation mode. True labels are drawn from the model's own prediction with `generator`; with
    two classes both labels are weighed by their probability instead, which costs no more and has no noise. `left`:
    the number of weights that no row uses and that are not in the model now; their 0 counts in the mean.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    parameters = [parameter for _, parameter in named]
    slow = _probe(model, tokens, parameters)
    uniforms = torch.rand(len(tokens), dtype=torch.float64, generator=generator)
    draw = Draw(None if labels is None else torch.tensor(list(labels)), uniforms)
    totals = _Totals(parameters, [torch.zeros_like(parameter) for parameter in parameters], slow)
    reference = _accumulate(model, tokens, draw, batch, totals)
    sums = totals.sums
    return _normalised(
        sums,
        reference,
        "true" if labels is None else "empirical",
        samples=len(tokens),
        slow=tuple(named[place][0] for place in sorted(slow)),
        left=left,
    )


def _normalised(
    sums: list[Tensor], reference: float, labels: str, *, samples: int, slow: tuple[str, ...], left: int
) -> Diagonal:
    mean = _mean(sums, left)
    if reference == 0.0 or not mean > 0.0:
        flat = [torch.ones_like(total) for total in sums]
        return Diagonal(flat, 0.0, labels, samples, slow, "all gradients are zero: every weight counts alike")
    torch._foreach_div_(sums, mean)
    return Diagonal(sums, mean * reference / samples, labels, samples, slow)


def _mean(values: list[Tensor], left: int) -> float:
    total = sum(float(value.sum(dtype=torch.float64)) for value in values)
    return total / (left + sum(value.numel() for value in values))


@dataclass(frozen=True)
class Draw:
    """How the rows get their labels: `given` (int64 [n]), or drawn from the model by `uniforms` (float64 [n])."""

    given: Tensor | None
    uniforms: Tensor

    def pick(self, rows: Sequence[int]) -> Draw:
        """The same for some of the rows."""
        chosen = list(rows)
        return Draw(None if self.given is None else self.given[chosen], self.uniforms[chosen])


def directions(logits: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """Each sample's logit gradient as a unit vector and the expected square of its length.

    logits: [n, classes]. Returns float64 [n, classes] and float64 [n].
    The gradient of log p(y) is onehot(y) - p. Its y-th entry, 1 - p(y), is summed from the other probabilities:
    subtracting would give 0 for p ~ 1. With two classes the gradients for both labels are (1, -1) times 1 - p(y), and
    the expectation of the squared length over y is 2 p(0) p(1).
    """
    log_p = torch.log_softmax(logits.double(), dim=-1)
    labels = draw.given
    if labels is None and logits.shape[-1] == 2:
        unit = torch.tensor([0.5**0.5, -(0.5**0.5)], dtype=torch.float64).expand(len(logits), 2)
        return unit, 2.0 * log_p.sum(-1).exp()
    if labels is None:
        below = log_p.exp().cumsum(-1) <= draw.uniforms[:, None]
        labels = below.sum(-1).clamp_max(logits.shape[-1] - 1)
    chosen = torch.nn.functional.one_hot(labels, logits.shape[-1]).bool()
    others = log_p.exp().masked_fill(chosen, 0.0)
    gradient = torch.where(chosen, others.sum(-1, keepdim=True), -others)
    length = gradient.norm(dim=-1)
    return gradient / length.clamp_min(torch.finfo(torch.float64).tiny)[:, None], length.square()


@dataclass(frozen=True)
class _Totals:
    """The parameters, the running sum of squares of each, and the places of those that take the slow path."""

    parameters: list[Tensor]
    sums: list[Tensor]
    slow: set[int]

    def fast(self) -> dict[int, Tensor]:
        """Sums by id(parameter), for the hooks."""
        places = (place for place in range(len(self.sums)) if place not in self.slow)
        return {id(self.parameters[place]): self.sums[place] for place in places}


def _accumulate(model: Model, tokens: Tokens, draw: Draw, batch: int, totals: _Totals) -> float:
    """Fill the sums with squared gradients divided by the returned reference (the largest weight met).

    Weights below float32's range against the largest are lost: they are rounding noise in the sum.
    """
    if totals.fast():
        reference = _hooked(model, tokens, draw, batch, totals)
    else:
        reference = float(directions(predict(model, tokens, batch), draw)[1].max())
    if totals.slow and reference:
        _loop(model, tokens, draw, totals, reference)
    return reference


def _hooked(model: Model, tokens: Tokens, draw: Draw, batch: int, totals: _Totals) -> float:
    """The fast path: batches, and hooks that take their gradients apart by sample."""
    reference = 0.0
    with SquareHooks(model, totals.fast()) as hooks:
        for rows in by_length(tokens, batch):
            hooks.begin(len(rows))
            logits = forward(model, tokens, rows)
            unit, weight = directions(logits.detach().cpu(), draw.pick(rows))
            largest = max(reference, float(weight.max()))
            if largest == 0.0:
                continue
            if 0.0 < reference < largest:
                torch._foreach_mul_(totals.sums, reference / largest)
            reference = largest
            scaled = unit * (weight / reference).sqrt()[:, None]
            torch.autograd.backward(logits, scaled.to(logits))
    return reference


def _loop(model: Model, tokens: Tokens, draw: Draw, totals: _Totals, reference: float) -> None:
    """The slow path: one sample at a time through autograd."""
    places = sorted(totals.slow)
    parameters, sums = [totals.parameters[place] for place in places], [totals.sums[place] for place in places]
    for row in range(len(tokens)):
        logits = forward(model, tokens, [row])
        unit, weight = directions(logits.detach().cpu(), draw.pick([row]))
        scaled = unit * (weight / reference).sqrt()[:, None]
        _add_squared_gradients(logits, scaled.to(logits), parameters, sums)


def _add_squared_gradients(
    logits: Tensor, direction: Tensor, parameters: list[Tensor], sums: list[Tensor], sign: float = 1.0
) -> None:
    grads = torch.autograd.grad(logits, parameters, direction, allow_unused=True)
    for total, grad in zip(sums, grads, strict=True):
        if grad is not None:
            total.addcmul_(grad, grad, value=sign)


def _probe(model: Model, tokens: Tokens, parameters: list[Tensor]) -> set[int]:
    """The places of the parameters whose fast path differs from plain autograd on a few rows of unlike length."""
    order = sorted(range(len(tokens)), key=lambda row: len(tokens.ids[row]))
    picked = sorted({order[round(place * (len(order) - 1) / (PROBE_ROWS - 1))] for place in range(PROBE_ROWS)})
    few = _of_unlike_width(tokens.pick(picked))
    classes = int(model.config.num_labels)
    # A fixed direction that no softmax shrinks: the probe sees every parameter at full strength.
    direction = torch.linspace(-1.0, 1.0, classes).repeat(len(few), 1)
    fast = _probe_fast(model, few, parameters, direction)
    if fast is None:
        return set(range(len(parameters)))
    largest = [float(total.max()) for total in fast]
    for row in range(len(few)):
        logits = forward(model, few, [row])
        _add_squared_gradients(logits, direction[:1].to(logits), parameters, fast, sign=-1.0)
    # A gradient that is zero by construction (the key bias of attention) is rounding noise on either path. Its
    # measure is the largest entry of those that agree: what is wrong may be of any size.
    agreeing = [largest[place] for place, left in enumerate(fast) if _nothing(left, largest[place], 0.0)]
    noise = NOISE * max(agreeing, default=0.0)
    return {place for place, left in enumerate(fast) if not _nothing(left, largest[place], noise)}


def _of_unlike_width(tokens: Tokens) -> Tokens:
    """Three rows whose width is not three: a tensor laid out [tokens, rows] must not pass for [rows, tokens]."""
    if max(len(ids) for ids in tokens.ids) != len(tokens):
        return tokens
    return Tokens((*tokens.ids, tokens.ids[0]), 0)


def _probe_fast(model: Model, few: Tokens, parameters: list[Tensor], direction: Tensor) -> list[Tensor] | None:
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    try:
        with SquareHooks(model, {id(p): s for p, s in zip(parameters, sums, strict=True)}) as hooks:
            hooks.begin(len(few))
            logits = forward(model, few, range(len(few)))
            torch.autograd.backward(logits, direction.to(logits))
    except (RuntimeError, ValueError, IndexError):
        return None  # a module that our hooks disturb: everything takes the slow path
    return sums


def _nothing(left: Tensor, largest: float, noise: float) -> bool:
    """Whether what is `left` of the fast path's squares without autograd's is rounding, measured against the
    parameter's `largest` entry.

    Nothing at all on the fast path is no rounding: the hooks do not see this parameter, however small it is here.
    """
    allowed = 1e-3 * largest + noise if largest else 0.0
    return bool(torch.isfinite(left).all()) and float(left.abs().max()) <= allowed
