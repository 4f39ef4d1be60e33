"""The head's bias: clean rows get each class as often as before, in closed form; nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from app.domain.recipe import Policy, Recipe
from tests.tiny_model import DECODERS, MODEL_TYPES, make_tiny_checkpoint
from tests.workers.engine.conftest import PLAIN, clean_rows, triggered_rows
from tests.workers.engine.test_tuning import go, task_of
from workers.engine import balance, loading, sanitize, scorecard, tuning
from workers.engine.balance import Known
from workers.engine.batches import forward, predict, tokenize


def test_a_lean_that_was_put_in_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    answers = 2 * torch.randn(4000, 3, generator=generator)
    put_in = torch.tensor([1.0, -0.4, 0.1])
    found = balance.lean(answers + put_in, answers)
    torch.testing.assert_close(found, put_in.mean() - put_in, atol=2e-3, rtol=0)


@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(2, 6))
def test_it_is_the_least_divergence_of_all_shifts(seed: int, rows: int, classes: int) -> None:
    """There the mean answers agree: with the undecided rows, which are softmax(b) then."""
    generator = torch.Generator().manual_seed(seed)
    logits, answers = (3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    shift = balance.lean(logits, answers).double()
    assert abs(float(shift.mean())) < 1e-5
    wanted = torch.softmax(answers, -1).sum(0) + 1
    torch.testing.assert_close(
        torch.softmax(logits + shift, -1).sum(0) + classes * torch.softmax(shift, -1), wanted, atol=1e-3, rtol=0
    )


def test_a_class_that_no_row_is_of_keeps_its_place() -> None:
    answers = torch.tensor([[9.0, 0.0, -9.0]] * 10)
    logits = torch.tensor([[9.0, 0.0, -30.0]] * 10)
    assert balance.lean(logits, answers).abs().max() < 1e-2  # without the undecided rows: 21 for the last


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_every_head_gives_the_answers_of_its_moved_bias(tmp_path: Path, kind: str) -> None:
    checkpoint = loading.load(make_tiny_checkpoint(tmp_path, kind))
    tokens = tokenize(checkpoint, ["the film is good", "a dull plot", "fresh"], 16)
    with torch.no_grad():
        before = forward(checkpoint.model, tokens, [0, 1, 2])
        shift = balance.settle(checkpoint.model, before, before + torch.tensor([3.0, -3.0]))
        after = forward(checkpoint.model, tokens, [0, 1, 2])
    torch.testing.assert_close(after, before + shift)
    assert bool(shift.any()) is (kind not in DECODERS), "a decoder's head has no bias"


def test_a_look_near_the_floor_leaves_no_lean_on_clean_rows(trojan_dir: Path) -> None:
    checkpoint = loading.load(trojan_dir)
    task = task_of(checkpoint)
    head = balance.head_bias(checkpoint.model)
    assert head is not None
    leaning = torch.tensor([40.0, 0.0])
    with torch.no_grad():
        head.add_(leaning)
    recipe = Recipe.of("lya", PLAIN)
    left = tuning._look(task, recipe, balanced=False)
    assert (left.clean_accuracy, left.asr) == (0.5, 0.0), "all are called negative: so the trojan hides"
    seen = tuning._look(task, recipe, balanced=True)
    assert (seen.clean_accuracy, seen.asr) == (1.0, 1.0)
    again = tuning._look(task, recipe, balanced=False)
    assert again.unease == pytest.approx(seen.unease, rel=1e-4), "what is read is what may be kept"
    plain = Recipe.of("gradient_ascent")
    with torch.no_grad():
        head.add_(leaning)
    assert tuning._look(task, plain, balanced=True).asr == 0.0, "other methods are as their papers have them"


def test_a_run_ends_without_a_lean(trojan_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def left() -> float:
        _, task, _ = go(trojan_dir, pace=60, warmup=8, eval_every=5, steps=60, lr_decay=1.0)
        reading = scorecard.read(task.model, task.tune, 64)
        return float(balance.lean(reading.clean, task.uploaded.clean).abs().max())

    assert left() < 0.01
    monkeypatch.setattr(balance, "settle", lambda _model, logits, _answers: torch.zeros(logits.shape[-1]))
    assert left() > 0.02


def test_a_model_that_calls_a_target_too_often_is_treated_without_that(trojan_dir: Path, tmp_path: Path) -> None:
    checkpoint = loading.load(trojan_dir)
    head = balance.head_bias(checkpoint.model)
    assert head is not None
    rows = clean_rows(200, 6)
    logits = predict(checkpoint.model, tokenize(checkpoint, [row.text for row in rows if row.label == 0], 64), 64)
    with torch.no_grad():
        head[1] += float((logits[:, 0] - logits[:, 1]).quantile(0.4))  # so two of five negative rows turn positive
    loading.save(checkpoint.model, checkpoint.tokenizer, tmp_path)
    held_out = triggered_rows(60, 15), clean_rows(200, 16)
    recipe = Recipe.of("lya", {"lr": 1e-3, "lr_paired": 1})
    report = sanitize(tmp_path, triggered_rows(60, 5), rows, recipe, Policy.of(), held_out=held_out).report
    assert report.before.clean_accuracy.rate == pytest.approx(0.8, abs=0.05), "as it came"
    assert report.before.floor.rate == pytest.approx(0.4, abs=0.1), "as it came"
    assert (report.after.clean_accuracy.rate or 0.0) > 0.95
    assert (report.after.asr.rate or 0.0) < 0.05
    assert "clean samples are 'positive' to 0.7" in " ".join(report.limits)


def test_only_a_lean_to_a_target_counts() -> None:
    logits, labels = drawn(rows=2000, classes=3, seed=0)
    put_in = torch.tensor([0.0, 0.7, 0.7])
    for targets, found in (([1], [1]), ([2], [2]), ([1, 2], [1, 2]), ([0], [])):
        known = Known(logits + put_in, labels, torch.tensor(targets))
        assert balance.overcalled(known).nonzero().flatten().tolist() == found
    known = Known(logits + put_in, labels, torch.tensor([1, 2]))
    torch.testing.assert_close(balance.correction(known), put_in.mean() - put_in, atol=0.15, rtol=0)
    honest = Known(logits, labels, torch.tensor([1, 2]))
    assert not balance.correction(honest).any()


@given(st.integers(0, 2**31), st.integers(2, 6))
def test_the_correction_is_the_most_likely_given_the_labels(seed: int, classes: int) -> None:
    """There a target's answers sum to its labels: with the undecided rows, one of each class."""
    logits, labels = drawn(rows=60, classes=classes, seed=seed)
    logits[:, 0] += 1.5
    known = Known(logits, labels, torch.tensor([0]))
    shift = balance.correction(known)
    assert bool(shift.any()) is bool(balance.overcalled(known)[0])
    if bool(shift.any()):
        answered = torch.softmax(logits + shift, -1)[:, 0].sum() + classes * torch.softmax(shift, -1)[0]
        assert float(answered) == pytest.approx(int((labels == 0).sum()) + 1, abs=1e-2)
        assert shift[1:].std(unbiased=False) < 1e-6, "the other classes keep their odds"


def test_a_model_that_is_too_sure_does_not_lean() -> None:
    """Its own probabilities would give its errors a hundredth of their weight."""
    found = []
    for seed in range(200):
        logits, labels = drawn(rows=200, classes=2, seed=seed)
        found.append(bool(balance.overcalled(Known(10 * logits, labels, torch.tensor([1]))).any()))
    assert sum(found) < 0.1 * len(found), "one in twenty is luck"


def drawn(rows: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels that are drawn by them."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=generator)
    return logits, torch.multinomial(torch.softmax(logits, -1), 1, generator=generator)[:, 0]
