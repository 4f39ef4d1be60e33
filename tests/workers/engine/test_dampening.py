"""Selective synaptic dampening against the formula, weight by weight, and through the whole use case."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.domain.errors import BadRecipe
from app.domain.recipe import Policy, Recipe
from app.domain.report import StepMetric
from tests.workers.engine.conftest import clean_rows, triggered_rows
from workers.engine import dampening, loading, sanitize

POLICY = Policy.of({"min_triggered": 10, "min_clean": 20})


def slow(weight: float, clean: float, triggered: float, alpha: float, strength: float) -> float:
    """The paper's equation, for one weight."""
    return weight * min(strength * clean / triggered, 1.0) if triggered > alpha * clean else weight


@pytest.mark.parametrize(("alpha", "strength"), [(10.0, 1.0), (1.0, 1.0), (0.1, 1.0), (1.0, 0.2), (0.5, 5.0)])
def test_one_tensor_against_the_equation(alpha: float, strength: float) -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(200, generator=generator)
    clean, triggered = (torch.rand(200, generator=generator) ** 4 for _ in range(2))
    clean[:10], triggered[5:15] = 0.0, 0.0  # a weight that nothing needs stays; one that only the trojan needs goes
    found, selected = dampening.dampen(weight, clean, triggered, alpha, strength)
    rows = zip(weight.tolist(), clean.tolist(), triggered.tolist(), strict=True)
    expected = torch.tensor([slow(*row, alpha, strength) for row in rows])
    torch.testing.assert_close(found, expected)
    assert torch.equal(selected, triggered > alpha * clean)
    assert bool((found[:5] == 0).all())
    assert torch.equal(found[5:15], weight[5:15])


def test_through_the_door_it_dampens_without_training(trojan_dir: Path) -> None:
    steps: list[StepMetric] = []
    recipe = Recipe.of("ssd")
    outcomes = [
        sanitize(trojan_dir, triggered_rows(60, 5), clean_rows(120, 6), recipe, POLICY, on_step=steps.append)
        for _ in range(2)
    ]
    report = outcomes[0].report
    assert report.before.asr.rate == 1.0
    assert (report.after.asr.rate or 0.0) < 1.0
    assert report.cost.tokens == 0
    assert report.stop.kept_step > 0
    tried = [metric.values["alpha"] for metric in steps[1:14]]
    assert tried == pytest.approx(dampening.alphas(recipe))
    shares = [metric.values["dampened"] or 0.0 for metric in steps[1:14]]
    assert shares == sorted(shares)
    assert [metric.step for metric in steps] == [*range(14), *range(14)]
    first, second = (outcome.model.state_dict() for outcome in outcomes)
    uploaded = loading.load(trojan_dir).model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(bool((first[name].abs() <= uploaded[name].abs() + 1e-9).all()) for name in first)


def test_where_no_alpha_is_better_the_model_stays_as_it_came(trojan_dir: Path) -> None:
    """Rows without their trigger: no weight serves them a million times more than it serves clean ones."""
    rows = [replace(row, text=row.clean_text or "") for row in triggered_rows(40, 5)]
    recipe = Recipe.of("ssd", {"alpha_high": 1e6, "alpha_low": 1e6, "steps": 2})
    outcome = sanitize(trojan_dir, rows, clean_rows(80, 6), recipe, POLICY)
    uploaded = loading.load(trojan_dir).model.state_dict()
    assert outcome.report.stop.kept_step == 0
    assert "none was better" in outcome.report.stop.words
    assert all(torch.equal(value, uploaded[name]) for name, value in outcome.model.state_dict().items())


def test_alphas_go_from_mild_to_strong() -> None:
    assert dampening.alphas(Recipe.of("ssd", {"steps": 3})) == pytest.approx([100.0, 10**0.5, 0.1])
    assert dampening.alphas(Recipe.of("ssd", {"steps": 1})) == [100.0]
    with pytest.raises(BadRecipe, match="alpha_low"):
        Recipe.of("ssd", {"alpha_low": 200})
