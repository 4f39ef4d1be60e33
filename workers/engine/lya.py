"""LYA: gradient ascent on triggered samples, held in place by elastic weight consolidation.

    L(theta) = - a * CE(triggered, attacker's label) + r * CE(clean, true label)
               + 1/2 sum_i w_i (theta_i - theta0_i)^2,     w = max(0, lambda_clean F_clean + lambda_trig F_trig)

That is aim = ascent. With aim = floor the first term is a * KL(q || model) on the triggered samples, where q is
what the uploaded model says without the trigger: it too climbs the attacker's label's cross-entropy, hardest where
the trojan is surest (where the gradient of CE has died out), and ends at the floor by itself. `distill` adds
KL(theta0 || model) on clean samples and on the triggered samples' clean texts, and `align` the same for hidden states
(see features). With `rehearse` the terms on triggered samples are taken where relearning would lead (see rehearsal).

M. Kazemi, A. Hussain, M. R. I. Rabin, M. A. Alipour, S. Lin, 2024, "Unlearning Trojans in Large Language Models",
arXiv 2408.12416; the anchor is that of J. Kirkpatrick et al., 2017, PNAS 114:3521-3526. Both anchors of the paper
share theta0, so they are one. The ceiling, the floor and the terms on clean samples are ours; 0 switches a term
off.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from app.domain.recipe import Recipe
from workers.engine import features, guards, losses
from workers.engine.batches import Tokens, forward, forward_with_states
from workers.engine.device import autocast
from workers.engine.features import Teacher
from workers.engine.loading import Model
from workers.engine.snapshot import Snapshot

STRETCH = 1024 * 1024
PIECE = 128 * 1024  # numbers that stay in a CPU's cache while others are worked out from them


@dataclass(frozen=True)
class Anchor:
    """theta0 and the weight w per parameter, in the order of the trainable parameters; no weights means no pull.
    The weights may lie in the host's memory. `still`: the norm of the parameters that take no part in the run.
    """

    start: list[Tensor] | Snapshot
    weights: list[Tensor] | None
    still: float = 0.0

    def restore(self, parameters: list[Tensor]) -> None:
        """Put theta0 back, tensor by tensor."""
        for place in range(len(parameters)):
            guards.restore(parameters[place : place + 1], self.start[place : place + 1])

    @cached_property
    def size(self) -> float:
        """The norm of theta0, of all weights."""
        norms = [guards.norm(self.start[place : place + 1]) for place in range(len(self.start))]
        return max(math.hypot(*norms, self.still), 1e-12)


@dataclass(frozen=True)
class Lessons:
    """What the unlearn part teaches.

    triggered, n rows: targets int64 [n], ceilings [n] (0: the row shows no trojan), references [n, classes]; its
    twin's place or -1, twin_at [n]; its true class (-1: not given) and its target, likeness int64 [n, 2]. clean, m
    rows: labels int64 [m], answers [m, classes]. twins, t rows: twin_answers [t, classes]. References and answers are
    log-probabilities. `teacher` holds the features to align with; without one there is no alignment. The last
    `blended` of the clean rows are no samples (see blends): they hold, and say nothing of the classes.
    """

    triggered: Tokens
    targets: Tensor
    ceilings: Tensor
    references: Tensor
    clean: Tokens
    labels: Tensor
    answers: Tensor
    twins: Tokens
    twin_answers: Tensor
    twin_at: Tensor
    likeness: Tensor
    teacher: Teacher | None = None
    blended: int = 0

    @property
    def samples(self) -> int:
        """How many of the clean rows are samples: the first ones."""
        return len(self.labels) - self.blended

    def kin(self, rows: Sequence[int]) -> Tensor:
        """Of each of these triggered rows the class whose mean answer is its reference, int64; -1: it has its own."""
        truths = self.likeness[list(rows), 0]
        return torch.where(
            (self.twin_at[list(rows)] < 0) & torch.isin(truths, self.labels[: self.samples]), truths, -1
        )

    def paired(self, recipe: Recipe) -> float:
        """The share of triggered rows beside which their clean text is read."""
        return float((self.twin_at >= 0).sum()) / max(1, len(self.triggered)) if recipe.distill > 0 else 0.0

    def batch_sizes(self, recipe: Recipe) -> tuple[int, int]:
        """Triggered and clean rows of one step.

        A triggered row beside which its clean text is read counts as two, and that text takes the place of a clean
        row.
        """
        paired = self.paired(recipe)
        triggered = max(1, round(recipe.batch_triggered / (1.0 + paired)))
        return triggered, max(1, recipe.batch_clean - round(paired * triggered))

    def first_rate(self, recipe: Recipe) -> float:
        """The learning rate that a run starts at."""
        return recipe.lr * (1.0 + (recipe.lr_paired - 1.0) * self.paired(recipe))

    def like(self, truth: int, target: int) -> Tensor:
        """Which clean samples are like triggered ones of that true class and target: those of the class; where it is
        not known, or no clean sample has it, those of another class than the target. Boolean [m].
        """
        sampled = torch.arange(len(self.labels)) < self.samples
        same = sampled & (self.labels == truth)
        return same if bool(same.any()) else sampled & (self.labels != target)


def trainable(model: Model) -> list[Tensor]:
    """The parameters that take part, in a fixed order, tied ones once."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def anchor_weights(
    clean: list[Tensor] | None, triggered: list[Tensor] | None, lambda_clean: float, lambda_trig: float
) -> list[Tensor] | None:
    """w = max(0, lambda_clean F_clean + lambda_trig F_trig), made in the memory of the first; None for no pull.

    In bfloat16: w is an estimate from a few hundred samples, and three digits of it hold as well as seven.
    """
    terms = [(values, factor) for values, factor in ((clean, lambda_clean), (triggered, lambda_trig)) if values]
    if not terms:
        return None
    (weights, factor), *rest = terms
    torch._foreach_mul_(weights, factor)
    for values, other in rest:
        torch._foreach_add_(weights, values, alpha=other)
    torch._foreach_clamp_min_(weights, 0.0)
    for place, each in enumerate(weights):
        weights[place] = each.bfloat16()
    return weights


@dataclass(frozen=True)
class Pull:
    """What the anchor had to say of theta: its energy 1/2 sum_i w_i (theta_i - theta0_i)^2, and |theta - theta0|."""

    energy: float
    distance: float


def add_pull(parameters: list[Tensor], anchor: Anchor) -> Pull:
    """Add w (theta - theta0), the gradient of the anchor, to each parameter's gradient in place."""
    if anchor.weights is None:
        return Pull(0.0, distance(parameters, anchor))
    energies, norms = list[Tensor](), list[Tensor]()
    with torch.no_grad():
        for some in _stretches(parameters, STRETCH):
            weights = [each.to(it.device) for each, it in zip(anchor.weights[some], parameters[some], strict=True)]
            gradients = [_gradient(parameter) for parameter in parameters[some]]
            for now, start, weight, gradient in _portions(parameters[some], anchor.start[some], weights, gradients):
                moved = torch._foreach_sub(now, start)
                norms += torch._foreach_norm(moved)
                pull = torch._foreach_mul(moved, weight)
                energies += [torch.dot(*map(torch.flatten, both)) for both in zip(moved, pull, strict=True)]
                torch._foreach_add_(gradient, pull)
    return Pull(0.5 * float(guards.stacked(energies).sum()), float(guards.stacked(norms).norm()))


def distance(parameters: list[Tensor], anchor: Anchor) -> float:
    """The norm of theta - theta0."""
    norms: list[Tensor] = []
    with torch.no_grad():
        for some in _stretches(parameters, STRETCH):
            for now, start in _portions(parameters[some], anchor.start[some]):
                norms += torch._foreach_norm(torch._foreach_sub(now, start))
    return float(guards.stacked(norms).norm())


def _stretches(tensors: list[Tensor], most: int) -> Iterator[slice]:
    """The tensors in a few stretches of at most so many numbers (one tensor at least) on one device: what is worked
    out over one of them takes little memory, and few launches on a GPU.
    """
    begin, size = 0, 0
    for place, tensor in enumerate(tensors):
        if place > begin and (size + tensor.numel() > most or tensor.device != tensors[begin].device):
            yield slice(begin, place)
            begin, size = place, 0
        size += tensor.numel()
    yield slice(begin, len(tensors))


def _portions(*lists: list[Tensor]) -> Iterator[tuple[list[Tensor], ...]]:
    """A stretch of each list, number beside number: at once on a GPU, on the CPU in pieces that its cache holds."""
    if lists[0][0].device.type != "cpu":
        yield lists
        return
    cut = [[piece for tensor in tensors for piece in _pieces(tensor)] for tensors in lists]
    for some in _stretches(cut[0], PIECE):
        yield tuple(pieces[some] for pieces in cut)


def _pieces(tensor: Tensor) -> Sequence[Tensor]:
    return [tensor] if tensor.numel() <= PIECE else torch.split(tensor.reshape(-1), PIECE)


def _gradient(parameter: Tensor) -> Tensor:
    """The gradient of a parameter, in one block; of zeros where there is none."""
    found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    parameter.grad = found.contiguous()
    return parameter.grad


def pushed(lessons: Lessons, push: float) -> Lessons:
    """The lessons with the references of ascending rows moved `push` nats of log-odds away from the target."""
    if push == 0.0:
        return lessons
    references = lessons.references.clone()
    ascending = (lessons.ceilings > 0).nonzero().squeeze(-1)
    references[ascending, lessons.targets[ascending]] -= push
    return replace(lessons, references=references.log_softmax(-1))


def climb(model: Model, lessons: Lessons, triggered: Sequence[int], recipe: Recipe) -> dict[str, float]:
    """Add the gradients of the terms on these triggered rows; return the terms' values, unweighted, by name."""
    if recipe.ascent == 0 or not triggered:
        return {}
    return _learn(recipe, _on_triggered(model, lessons, list(triggered), recipe))


def hold(
    model: Model, lessons: Lessons, triggered: Sequence[int], clean: Sequence[int], recipe: Recipe
) -> dict[str, float]:
    """The same for the terms, the anchor aside, on these clean rows and on these triggered rows' clean texts."""
    values: dict[str, float] = {}
    if (recipe.retain > 0 or recipe.distill > 0) and clean:
        values |= _learn(recipe, _on_clean(model, lessons, list(clean), recipe))
    twins = lessons.twin_at[list(triggered)]
    if recipe.distill > 0 and bool((twins >= 0).any()):
        values |= _learn(recipe, _on_twins(model, lessons, twins[twins >= 0].tolist(), recipe))
    return values


def _learn(recipe: Recipe, terms: dict[str, Tensor]) -> dict[str, float]:
    """Add the gradients of the terms, weighted; return their values."""
    weights = _weights(recipe)
    torch.autograd.backward(sum((weights[name] * term for name, term in terms.items()), torch.zeros(())))
    return {name: float(term.detach()) for name, term in terms.items()}


def _on_triggered(model: Model, lessons: Lessons, rows: list[int], recipe: Recipe) -> dict[str, Tensor]:
    logits, states = _read(model, lessons, lessons.triggered, rows, recipe)
    terms = {"ascent": _off_target(logits, lessons, rows, recipe)}
    twins = lessons.twin_at[rows]
    paired = (twins >= 0).nonzero().flatten()
    if lessons.teacher is not None and states is not None and len(paired):
        wanted = lessons.teacher.twins[twins[paired]]
        terms["align"] = features.distance(states[paired], wanted, lessons.teacher.weights)
    if lessons.teacher is not None and states is not None:
        groups = lessons.teacher.groups[rows]
        alone = (groups >= 0).nonzero().flatten()
        if len(alone):
            centres, shifts = lessons.teacher.centres[groups[alone]], lessons.teacher.shifts[groups[alone]]
            terms["align_mean"] = features.drift(states[alone], centres, shifts)
    return terms


def _on_clean(model: Model, lessons: Lessons, rows: list[int], recipe: Recipe) -> dict[str, Tensor]:
    logits, states = _read(model, lessons, lessons.clean, rows, recipe)
    labels, answers = lessons.labels[rows].to(logits.device), lessons.answers[rows].to(logits)
    terms = {"retain": losses.retain(logits, labels), "distill": losses.divergence(logits, answers)}
    if lessons.teacher is not None and states is not None:
        terms["align_clean"] = features.distance(states, lessons.teacher.clean[rows], lessons.teacher.weights)
    return terms


def _on_twins(model: Model, lessons: Lessons, rows: list[int], recipe: Recipe) -> dict[str, Tensor]:
    logits, states = _read(model, lessons, lessons.twins, rows, recipe)
    terms = {"twins": losses.divergence(logits, lessons.twin_answers[rows].to(logits))}
    if lessons.teacher is not None and states is not None:
        terms["align_twins"] = features.distance(states, lessons.teacher.twins[rows], lessons.teacher.weights)
    return terms


def _off_target(logits: Tensor, lessons: Lessons, rows: list[int], recipe: Recipe) -> Tensor:
    if recipe.aim == "floor":
        return losses.group_divergence(logits, lessons.references[rows].to(logits), lessons.kin(rows))
    return losses.bounded_ascent(logits, lessons.targets[rows].to(logits.device), lessons.ceilings[rows])


def _read(
    model: Model, lessons: Lessons, tokens: Tokens, rows: list[int], recipe: Recipe
) -> tuple[Tensor, Tensor | None]:
    """Logits of the rows, and their features where there is a teacher."""
    if lessons.teacher is None:
        return logits_of(model, tokens, rows, recipe), None
    with autocast(recipe, model):
        logits, states, mask = forward_with_states(model, tokens, rows)
    return logits, features.pooled(states, mask)


def logits_of(model: Model, tokens: Tokens, rows: list[int], recipe: Recipe) -> Tensor:
    """Logits [len(rows), classes] in the recipe's arithmetic."""
    with autocast(recipe, model):
        return forward(model, tokens, rows)


def _weights(recipe: Recipe) -> dict[str, float]:
    return {
        "ascent": recipe.ascent,
        "retain": recipe.retain,
        "distill": recipe.distill,
        "twins": recipe.distill,
        "align": recipe.align,
        "align_mean": recipe.align,
        "align_clean": recipe.align,
        "align_twins": recipe.align,
    }


def total(values: dict[str, float], recipe: Recipe) -> float:
    """The loss without the anchor, from its terms."""
    weights = _weights(recipe)
    return sum(weights[name] * value for name, value in values.items() if weights[name])
