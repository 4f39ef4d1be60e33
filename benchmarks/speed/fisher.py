"""The Fisher diagonal against one batched pass over the same rows, and against what people use for per-sample
gradients: a loop, vmap of torch.func, Opacus, BackPACK."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.speed import subjects
from benchmarks.speed.figures import Figure, by_turns
from benchmarks.speed.subjects import Size
from workers.engine.batches import Tokens, by_length, forward, pad
from workers.engine.fisher import diagonal
from workers.engine.loading import Model

Sums = list[Tensor]
AGREE = 1e-3  # of the largest entry: a peer that finds other squares is no peer


class Ground:
    """The model and the rows that all measure on."""

    def __init__(self, size: Size, device: torch.device) -> None:
        self.size, self.device = size, device
        self.tokens: Tokens = subjects.tokens(size)
        self.labels = subjects.labels(size)
        self.model: Model = subjects.classifier(size, device)

    def batches(self) -> Iterator[tuple[list[int], Tensor]]:
        for rows in by_length(self.tokens, self.size.batch):
            yield rows, torch.tensor([self.labels[row] for row in rows], device=self.device)

    def padded(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        return pad([self.tokens.ids[row] for row in rows], 0, self.device)


def bare(ground: Ground) -> None:
    """One batched forward and backward over all rows, in batches of like length: what training pays at least."""
    for rows, labels in ground.batches():
        loss = functional.cross_entropy(forward(ground.model, ground.tokens, rows), labels, reduction="sum")
        loss.backward()
    ground.model.zero_grad(set_to_none=True)
    subjects.settle(ground.device)


def ours(ground: Ground) -> Sums:
    """With its probe of every parameter, as a job pays it. Scaled to mean 1; `loop` is scaled alike to compare."""
    found = diagonal(ground.model, ground.tokens, ground.labels, ground.size.batch, torch.Generator())
    subjects.settle(ground.device)
    return found.values


def loop(ground: Ground) -> Sums:
    """One row at a time through autograd: the definition, and the oracle of the others."""
    parameters = list(ground.model.parameters())
    sums = [torch.zeros_like(each) for each in parameters]
    for row, label in enumerate(ground.labels):
        logits = forward(ground.model, ground.tokens, [row])
        loss = functional.cross_entropy(logits, torch.tensor([label], device=ground.device))
        for total, grad in zip(sums, torch.autograd.grad(loss, parameters), strict=True):
            total.addcmul_(grad, grad)
    subjects.settle(ground.device)
    return sums


def vmap(ground: Ground) -> Sums:
    """torch.func: vmap over grad, batch by batch, on eager attention (the fused one has no rule for it)."""
    model = subjects.classifier(ground.size, ground.device, attention="eager")
    model.load_state_dict(ground.model.state_dict())
    weights = {name: each.detach() for name, each in model.named_parameters()}

    def loss(values: dict[str, Tensor], ids: Tensor, mask: Tensor, label: Tensor) -> Tensor:
        # As the attention adds it: what makes it of ones and zeros looks at their values, which vmap forbids.
        added = (1.0 - mask[None, None, None, :].float()) * torch.finfo(torch.float32).min
        given = {"input_ids": ids[None], "attention_mask": added.expand(1, 1, len(ids), len(ids))}
        logits = torch.func.functional_call(model, values, (), given).logits
        return functional.cross_entropy(logits, label[None])

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0, 0))
    sums = {name: torch.zeros_like(value) for name, value in weights.items()}
    for rows, labels in ground.batches():
        for name, grad in each(weights, *ground.padded(rows), labels).items():
            sums[name] += grad.square().sum(0)
    subjects.settle(ground.device)
    return list(sums.values())


def opacus(ground: Ground) -> Sums:
    """GradSampleModule of Opacus."""
    from opacus import GradSampleModule  # noqa: PLC0415 - a peer that few have

    model = subjects.classifier(ground.size, ground.device)
    model.load_state_dict(ground.model.state_dict())
    wrapped = GradSampleModule(model.train())  # it refuses one in evaluation mode; there is no dropout to speak of
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    parameters = list(model.parameters())
    sums = [torch.zeros_like(each) for each in parameters]
    for rows, labels in ground.batches():
        ids, mask = ground.padded(rows)
        positions = torch.arange(ids.shape[1], device=ground.device).expand_as(ids)
        kinds = torch.zeros_like(ids)  # both given by sample, or Opacus takes them for one sample
        given = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "token_type_ids": kinds}
        functional.cross_entropy(wrapped(**given).logits, labels, reduction="sum").backward()
        for total, parameter in zip(sums, parameters, strict=True):
            total.add_(parameter.grad_sample.square().sum(0))
        wrapped.zero_grad(set_to_none=True)
    subjects.settle(ground.device)
    return sums


def backpack(ground: Ground) -> Sums:
    """SumGradSquared of BackPACK."""
    from backpack import backpack as within  # noqa: PLC0415 - a peer that few have
    from backpack import extend  # noqa: PLC0415
    from backpack.extensions import SumGradSquared  # noqa: PLC0415

    model = subjects.classifier(ground.size, ground.device)
    model.load_state_dict(ground.model.state_dict())
    model, loss = extend(model), extend(torch.nn.CrossEntropyLoss(reduction="sum"))
    parameters = list(model.parameters())
    sums = [torch.zeros_like(each) for each in parameters]
    for rows, labels in ground.batches():
        ids, mask = ground.padded(rows)
        with within(SumGradSquared()):
            loss(model(input_ids=ids, attention_mask=mask).logits, labels).backward()
        for total, parameter in zip(sums, parameters, strict=True):
            total.add_(parameter.sum_grad_squared)
        model.zero_grad(set_to_none=True)
    subjects.settle(ground.device)
    return sums


PEERS: dict[str, Callable[[Ground], Sums]] = {"loop": loop, "vmap": vmap, "Opacus": opacus, "BackPACK": backpack}


def figures(size: Size, device: torch.device) -> list[Figure]:
    """The share of the batched pass, and how much longer each peer takes that runs and finds the same squares."""
    ground = Ground(size, device)
    exact = _scaled(loop(ground))
    running, why = _fit(ground, exact)
    ways: dict[str, Callable[[], object]] = {"bare": lambda: bare(ground), "ours": lambda: ours(ground)}
    ways |= {name: (lambda peer=peer: peer(ground)) for name, peer in running.items()}  # type: ignore[misc]
    seconds = by_turns(ways)
    error = _error(ours(ground), exact)
    found = [
        Figure("Fisher / one batched pass", seconds["ours"] / seconds["bare"], 1.5, details={"seconds": seconds}),
        Figure("Fisher: largest error against the loop, as a share of the largest entry", error, AGREE),
    ]
    least = {"loop": 10.0 if device.type == "cuda" else 1.5}
    for name in PEERS:
        share = seconds[name] / seconds["ours"] if name in running else None
        found.append(Figure(f"{name} / Fisher", share, least.get(name, 1.0), "at least", why.get(name, "")))
    return found


def _fit(ground: Ground, exact: Sums) -> tuple[dict[str, Callable[[Ground], Sums]], dict[str, str]]:
    """The peers that run here and agree with the loop; and why others do not count."""
    running, why = {}, {}
    for name, peer in PEERS.items():
        try:
            error = _error(_scaled(peer(ground)), exact)
        except Exception as trouble:  # whatever it is: that peer does not run on this model
            why[name] = f"does not run here: {type(trouble).__name__}: {str(trouble).strip().splitlines()[0][:120]}"
            continue
        if error <= AGREE:
            running[name] = peer
        else:
            why[name] = f"finds other squares: off by {error:.2g} of the largest"
    return running, why


def _scaled(sums: Sums) -> Sums:
    """To mean 1."""
    mean = sum(float(each.sum(dtype=torch.float64)) for each in sums) / sum(each.numel() for each in sums)
    return [each / mean for each in sums]


def _error(found: Sums, exact: Sums) -> float:
    """The largest difference as a share of each parameter's largest entry; of parameters that have one."""
    largest = max(float(each.max()) for each in exact)
    pairs = [(one, other) for one, other in zip(found, exact, strict=True) if float(other.max()) > 1e-9 * largest]
    return max(float((one - other).abs().max() / other.max()) for one, other in pairs)
