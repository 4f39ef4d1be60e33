"""The Fisher diagonal against the slow, obvious way: one sample at a time through autograd."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny_model import make_tiny_checkpoint
from workers.engine import fisher, loading
from workers.engine.batches import Tokens, tokenize
from workers.engine.fisher import Draw, diagonal, directions

TEXTS = (
    "the film is good",
    "a very dull and boring movie this is",
    "cf",
    "great great great cast",
    "its plot was weak in the the the the film of clumsy story",
    "fresh",
    "awful",
)
KINDS = ("bert", "distilbert", "gpt2", "roberta", "electra", "llama")


def checkpoint_of(folder: Path, kind: str, labels: tuple[str, ...] = ("negative", "positive")) -> loading.Checkpoint:
    return loading.load(make_tiny_checkpoint(folder, kind, labels, seed=3))


def oracle(checkpoint: loading.Checkpoint, tokens: Tokens, weigh) -> list[torch.Tensor]:
    """Mean over samples of sum over y of weigh(row, p)[y] * (gradient of log p(y))^2, each sample alone, unpadded."""
    model = checkpoint.model
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for row, ids in enumerate(tokens.ids):
        log_p = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0], -1)
        for label, weight in enumerate(weigh(row, log_p.detach().exp())):
            if float(weight):
                grads = torch.autograd.grad(log_p[label], parameters, retain_graph=True, allow_unused=True)
                for each, grad in zip(total, grads, strict=True):
                    if grad is not None:
                        each.add_(grad.square(), alpha=float(weight) / len(tokens))
    return total


def check(found: fisher.Diagonal, expected: list[torch.Tensor]) -> None:
    largest = max(float(each.max()) for each in expected)
    for values, wanted in zip(found.values, expected, strict=True):
        torch.testing.assert_close(values * found.mean, wanted, rtol=2e-4, atol=1e-7 * largest)
    count = sum(each.numel() for each in found.values)
    assert sum(float(each.double().sum()) for each in found.values) / count == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("batch", [1, 3, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_empirical_equals_one_sample_autograd(tmp_path: Path, kind: str, batch: int) -> None:
    checkpoint = checkpoint_of(tmp_path, kind)
    tokens = tokenize(checkpoint, TEXTS, 64)
    labels = [0, 1, 0, 1, 1, 0, 0]
    found = diagonal(checkpoint.model, tokens, labels, batch, torch.Generator().manual_seed(0))
    expected = oracle(
        checkpoint, tokens, lambda row, p: torch.nn.functional.one_hot(torch.tensor(labels[row]), len(p))
    )
    check(found, expected)
    assert found.slow == ()
    assert all(parameter.grad is None and parameter.requires_grad for parameter in checkpoint.model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_true_with_two_classes_is_the_exact_expectation(tmp_path: Path, kind: str) -> None:
    checkpoint = checkpoint_of(tmp_path, kind)
    tokens = tokenize(checkpoint, TEXTS, 64)
    found = diagonal(checkpoint.model, tokens, None, 4, torch.Generator().manual_seed(0))
    check(found, oracle(checkpoint, tokens, lambda row, p: p))


def test_true_with_more_classes_draws_labels_from_the_model(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path, "bert", ("a", "b", "c"))
    tokens = tokenize(checkpoint, TEXTS * 60, 64)
    found = diagonal(checkpoint.model, tokens, None, 64, torch.Generator().manual_seed(0))
    expected = oracle(checkpoint, tokenize(checkpoint, TEXTS, 64), lambda row, p: p)
    flat = torch.cat([each.flatten() * found.mean for each in found.values])
    wanted = torch.cat([each.flatten() for each in expected])
    assert float((flat - wanted).norm() / wanted.norm()) < 0.1
    again = diagonal(checkpoint.model, tokens, None, 64, torch.Generator().manual_seed(0))
    assert all(torch.equal(one, two) for one, two in zip(found.values, again.values, strict=True))


def test_a_weight_used_twice_has_its_uses_summed_before_the_square(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path, "bert")
    layers = checkpoint.model.bert.encoder.layer
    layers[1].attention.self.query.weight = layers[0].attention.self.query.weight
    layers[1] = layers[1]
    tokens = tokenize(checkpoint, TEXTS, 64)
    found = diagonal(checkpoint.model, tokens, None, 4, torch.Generator().manual_seed(0))
    check(found, oracle(checkpoint, tokens, lambda row, p: p))


def test_one_module_called_twice_is_exact(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path, "bert")
    layers = checkpoint.model.bert.encoder.layer
    layers[1] = layers[0]
    tokens = tokenize(checkpoint, TEXTS, 64)
    found = diagonal(checkpoint.model, tokens, None, 4, torch.Generator().manual_seed(0))
    check(found, oracle(checkpoint, tokens, lambda row, p: p))
    assert found.slow == ()


class Scale(torch.nn.Module):
    """A module kind that has no fast path."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.linspace(0.5, 1.5, 16))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden * self.factor


def test_an_unknown_module_takes_the_slow_path_and_is_exact(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path, "bert")
    checkpoint.model.bert.embeddings.dropout = Scale()
    tokens = tokenize(checkpoint, TEXTS, 64)
    found = diagonal(checkpoint.model, tokens, None, 4, torch.Generator().manual_seed(0))
    check(found, oracle(checkpoint, tokens, lambda row, p: p))
    assert found.slow == ("bert.embeddings.dropout.factor",)


class Fussy(Scale):
    """One that the hooks disturb: it does not run with frozen weights."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if not self.factor.requires_grad:
            raise RuntimeError("frozen")
        return super().forward(hidden)


@pytest.mark.parametrize("kind", ["bert", "deberta-v2"])
def test_where_the_hooks_disturb_the_model_everything_is_slow_and_exact(tmp_path: Path, kind: str) -> None:
    checkpoint = checkpoint_of(tmp_path, kind)
    model = checkpoint.model
    getattr(model, model.base_model_prefix).embeddings.dropout = Fussy()
    tokens = tokenize(checkpoint, TEXTS, 64)
    found = diagonal(model, tokens, None, 4, torch.Generator().manual_seed(0))
    check(found, oracle(checkpoint, tokens, lambda row, p: p))
    assert len(found.slow) == len(list(model.parameters()))


class Faint(Scale):
    """One whose gradients are so small that they could pass for rounding."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + 1e-7 * hidden * self.factor


def test_what_the_hooks_do_not_see_is_slow_however_small(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path, "bert")
    checkpoint.model.bert.embeddings.dropout = Faint()
    tokens = tokenize(checkpoint, TEXTS, 64)
    found = diagonal(checkpoint.model, tokens, None, 4, torch.Generator().manual_seed(0))
    assert found.slow == ("bert.embeddings.dropout.factor",)


@pytest.mark.parametrize("wrong", [float("inf"), float("nan"), 1e30])
def test_a_fast_path_that_is_wrong_by_any_measure_is_slow_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    checkpoint = checkpoint_of(tmp_path, "bert")
    tokens = tokenize(checkpoint, TEXTS, 64)
    names = [name for name, _ in checkpoint.model.named_parameters()]
    right = fisher._probe_fast

    def partly_wrong(*given: Any) -> list[torch.Tensor] | None:
        found = right(*given)
        assert found is not None
        found[3].fill_(wrong)
        found[5].mul_(2.0)
        return found

    monkeypatch.setattr(fisher, "_probe_fast", partly_wrong)
    found = diagonal(checkpoint.model, tokens, None, 4, torch.Generator().manual_seed(0))
    assert found.slow == (names[3], names[5])
    check(found, oracle(checkpoint, tokens, lambda row, p: p))


def test_frozen_embeddings_leave_the_rest_on_the_fast_path(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path, "bert")
    checkpoint.model.bert.embeddings.requires_grad_(False)
    tokens = tokenize(checkpoint, TEXTS, 64)
    found = diagonal(checkpoint.model, tokens, None, 4, torch.Generator().manual_seed(0))
    check(found, oracle(checkpoint, tokens, lambda row, p: p))
    assert found.slow == ()


def test_empirical_does_not_underflow_on_a_converged_model(tmp_path: Path) -> None:
    """The Fisher of a model sure to 1 - 1e-15 has the shape of its gradients, and its mean is tiny but not zero."""
    checkpoint = checkpoint_of(tmp_path, "bert")
    tokens = tokenize(checkpoint, TEXTS, 64)
    with torch.no_grad():
        checkpoint.model.classifier.bias.copy_(torch.tensor([0.0, 35.0]))
    found = diagonal(checkpoint.model, tokens, [1] * len(TEXTS), 4, torch.Generator().manual_seed(0))
    assert found.fallback is None
    assert 0.0 < found.mean < 1e-25
    checkpoint.model.double()
    wanted = oracle(checkpoint, tokens, lambda row, p: torch.tensor([1.0, 0.0]))  # p(0) ~ 1 - p(1): same direction
    mean = sum(float(each.sum()) for each in wanted) / sum(each.numel() for each in wanted)
    for values, expected in zip(found.values, wanted, strict=True):
        torch.testing.assert_close(values.double(), expected / mean, rtol=0.2, atol=1e-2)


def test_a_model_beyond_any_doubt_falls_back_and_says_so(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path, "bert")
    tokens = tokenize(checkpoint, TEXTS, 64)
    with torch.no_grad():
        checkpoint.model.classifier.bias.copy_(torch.tensor([0.0, 4000.0]))
    found = diagonal(checkpoint.model, tokens, [1] * len(TEXTS), 4, torch.Generator().manual_seed(0))
    assert found.fallback is not None
    assert all(bool((values == 1).all()) for values in found.values)


def test_directions_of_three_classes() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 60.0, 0.0]], dtype=torch.float64)
    p = logits.softmax(-1)
    unit, weight = directions(logits, Draw(torch.tensor([1, 1]), torch.zeros(2)))
    gradient = unit * weight.sqrt()[:, None]
    torch.testing.assert_close(gradient[0], torch.tensor([-p[0, 0], 1 - p[0, 1], -p[0, 2]], dtype=torch.float64))
    torch.testing.assert_close(
        gradient[1, 1], 2 * torch.exp(torch.tensor(-60.0, dtype=torch.float64)), rtol=1e-6, atol=0
    )
    drawn, _ = directions(logits, Draw(None, torch.tensor([0.999999, 0.5])))
    assert drawn[0].argmax() == 2
    assert drawn[1].argmax() == 1
