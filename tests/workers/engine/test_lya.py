"""The loss and its anchor against the slow, obvious way."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from app.domain.recipe import Recipe
from workers.engine import losses, lya
from workers.engine.batches import Tokens
from workers.engine.lya import Anchor, Lessons, Pull


def parameters_of(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(3, 2, generator=generator).requires_grad_(),
        torch.randn(4, generator=generator).requires_grad_(),
    ]


def test_pull_equals_autograd_and_adds_to_the_loss_gradient() -> None:
    parameters = parameters_of(0)
    anchor = Anchor([each.detach() for each in parameters_of(1)], [each.detach().abs() for each in parameters_of(2)])
    loss = sum(each.sin().sum() for each in parameters)
    energy = sum(
        (weights / 2 * (each - start) ** 2).sum()
        for each, start, weights in zip(parameters, anchor.start, anchor.weights or [], strict=True)
    )
    wanted = torch.autograd.grad(loss + energy, parameters)
    parameters[0].grad = parameters[0].detach().cos()  # the second has no gradient yet
    pull = lya.add_pull(parameters, anchor)
    assert pull.energy == pytest.approx(float(energy.detach()), rel=1e-6)
    torch.testing.assert_close(parameters[0].grad, wanted[0])
    assert parameters[1].grad is not None
    torch.testing.assert_close(parameters[1].grad + parameters[1].detach().cos(), wanted[1])
    distance = torch.cat(
        [(one - other).flatten() for one, other in zip(parameters, anchor.start, strict=True)]
    ).norm()
    assert pull.distance == pytest.approx(float(distance.detach()), rel=1e-6)
    assert lya.distance(parameters, anchor) == pull.distance


@pytest.mark.parametrize("name", ["STRETCH", "PIECE"])
@pytest.mark.parametrize("most", [1, 5, 6, 7, 1000])
def test_the_anchor_is_the_same_in_few_parts_and_in_many(
    monkeypatch: pytest.MonkeyPatch, most: int, name: str
) -> None:
    parameters, anchor = parameters_of(0), Anchor(parameters_of(1), [each.abs() for each in parameters_of(2)])
    distance, pull = lya.distance(parameters, anchor), lya.add_pull(parameters, anchor)
    again = [each.detach().clone().requires_grad_() for each in parameters]
    monkeypatch.setattr(lya, name, most)
    assert lya.distance(again, anchor) == pytest.approx(distance, rel=1e-6)
    found = lya.add_pull(again, anchor)
    assert (found.energy, found.distance) == pytest.approx((pull.energy, pull.distance), rel=1e-6)
    for one, other in zip(parameters, again, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad)


def test_no_weights_no_pull() -> None:
    parameters, anchor = parameters_of(0), Anchor(parameters_of(1), None)
    assert lya.add_pull(parameters, anchor) == Pull(0.0, lya.distance(parameters, anchor))
    assert parameters[0].grad is None


@pytest.mark.parametrize(("lambda_trig", "wanted"), [(2.0, [10.0, 7.0]), (-1.0, [4.0, 0.0]), (-4.0, [0.0, 0.0])])
def test_anchor_weights_are_summed_and_never_negative(lambda_trig: float, wanted: list[float]) -> None:
    weights = lya.anchor_weights([torch.tensor([2.0, 0.5])], [torch.tensor([2.0, 3.0])], 3.0, lambda_trig)
    expected = torch.tensor([6.0, 1.5]) + lambda_trig * torch.tensor([2.0, 3.0])
    assert weights is not None
    torch.testing.assert_close(weights[0].float(), expected.clamp_min(0), rtol=2**-8, atol=0.0)
    if lambda_trig == -1.0:
        assert weights[0].tolist() == [4.0, 0.0]
    assert lya.anchor_weights(None, None, 0.0, 0.0) is None


def test_one_triggered_fisher_alone_weighs_too() -> None:
    weights = lya.anchor_weights(None, [torch.tensor([2.0])], 0.0, 3.0)
    assert weights is not None
    assert weights[0].item() == 6.0


class Linear(torch.nn.Module):
    """logits(token) = row of W: a classifier small enough for pencil and paper."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight)
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(pad_token_id=0))
        self.device = torch.device("cpu")

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.weight[input_ids[:, 0]])


def lessons(ceiling: float, reference: list[float]) -> Lessons:
    """Token 1 is triggered (target 1, its twin is token 3), token 2 is clean with label 0."""
    one = torch.zeros(1, dtype=torch.long)
    return Lessons(
        triggered=Tokens(((1,),), 0),
        targets=one + 1,
        ceilings=torch.tensor([ceiling]),
        references=torch.tensor([reference]).log(),
        clean=Tokens(((2,),), 0),
        labels=one,
        answers=torch.tensor([[0.5, 0.5]]).log(),
        twins=Tokens(((3,),), 0),
        twin_answers=torch.tensor([[0.25, 0.75]]).log(),
        twin_at=one,
        likeness=torch.tensor([[0, 1]]),
    )


def test_one_lya_step_in_closed_form() -> None:
    """W <- W - eta (-a (p - e_1) + r (p - e_0) + w (W - W0)), row by row, with p = softmax."""
    weight = torch.tensor([[0.0, 0.0], [0.3, -0.2], [1.0, 0.5], [0.1, 0.0]])
    model = Linear(weight.clone())
    recipe = Recipe.of("lya", {"aim": "ascent", "ascent": 0.7, "ce_ceiling": 0, "retain": 0.4, "distill": 0})
    start, pull = weight - 0.1, torch.full_like(weight, 3.0)
    rows = lessons(math.inf, [0.5, 0.5])
    values = lya.climb(model, rows, [0], recipe) | lya.hold(model, rows, [0], [0], recipe)
    lya.add_pull([model.weight], Anchor([start], [pull]))
    p = weight.softmax(-1)
    wanted = 3.0 * (weight - start)
    wanted[1] += -0.7 * (p[1] - torch.tensor([0.0, 1.0]))
    wanted[2] += 0.4 * (p[2] - torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(model.weight.grad, wanted)
    entropy, kept = -math.log(float(p[1, 1])), -math.log(float(p[2, 0]))
    assert lya.total(values, recipe) == pytest.approx(-0.7 * entropy + 0.4 * kept, rel=1e-5)


def test_one_step_towards_the_floor_in_closed_form() -> None:
    """The gradient of KL(q || p) in the logits is p - q, for triggered, clean and twin rows alike."""
    weight = torch.tensor([[0.0, 0.0], [0.3, -0.2], [1.0, 0.5], [0.1, 0.0]])
    model = Linear(weight.clone())
    recipe = Recipe.of("lya", {"ascent": 0.7, "retain": 0, "distill": 0.4})
    rows = lessons(math.inf, [0.9, 0.1])
    lya.climb(model, rows, [0], recipe)
    lya.hold(model, rows, [0], [0], recipe)
    p = weight.softmax(-1)
    wanted = torch.zeros_like(weight)
    wanted[1] = 0.7 * (p[1] - torch.tensor([0.9, 0.1]))
    wanted[2] = 0.4 * (p[2] - torch.tensor([0.5, 0.5]))
    wanted[3] = 0.4 * (p[3] - torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(model.weight.grad, wanted)


def test_a_sample_over_the_ceiling_gives_no_gradient() -> None:
    logits = torch.tensor([[0.0, 0.0], [5.0, 0.0]], requires_grad=True)
    loss = losses.bounded_ascent(logits, torch.tensor([1, 1]), torch.tensor([2.0, 2.0]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(-(math.log(2) + 2.0) / 2)
    assert logits.grad is not None
    assert float(logits.grad[0].abs().sum()) > 0
    assert float(logits.grad[1].abs().sum()) == 0


def test_a_term_of_weight_zero_is_not_computed() -> None:
    model = Linear(torch.zeros(4, 2))
    rows = replace(lessons(1.0, [0.5, 0.5]), triggered=Tokens((), 0))
    assert lya.climb(model, rows, [0], Recipe.of("fine_tune")) == {}
    values = lya.hold(model, rows, [], [0], Recipe.of("fine_tune"))
    assert "ascent" not in values
    assert "twins" not in values
    assert lya.total(values, Recipe.of("fine_tune")) == pytest.approx(math.log(2))


def test_a_push_moves_the_aim_of_ascending_rows_alone() -> None:
    references = torch.tensor([[0.7, 0.3], [0.2, 0.8]]).log()
    rows = Tokens(((1,), (1,)), 0)
    nothing = torch.zeros(0, 2)
    lessons = Lessons(
        rows, torch.tensor([1, 1]), torch.tensor([2.0, 0.0]), references, rows, torch.tensor([0, 1]), references,
        Tokens((), 0), nothing, torch.tensor([-1, -1]), torch.tensor([[0, 1], [0, 1]]),
    )  # fmt: skip
    moved = lya.pushed(lessons, 1.0).references
    odds = (moved[:, 1] - moved[:, 0]) - (references[:, 1] - references[:, 0])
    assert odds.tolist() == pytest.approx([-1.0, 0.0], abs=1e-6)
    assert moved.exp().sum(-1).tolist() == pytest.approx([1.0, 1.0])
    assert lya.pushed(lessons, 0.0) is lessons
