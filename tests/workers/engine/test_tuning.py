"""The loop: it stops at the floor, keeps the best state, and rolls back what goes wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from app.domain.recipe import Recipe
from app.domain.report import StepMetric
from tests.workers.engine.conftest import PLAIN, clean_rows, triggered_rows
from workers.engine import guards, loading, lya, scorecard, stopping, tuning
from workers.engine.loading import Checkpoint
from workers.engine.lya import Anchor, Lessons
from workers.engine.snapshot import Snapshot
from workers.engine.splits import Rows
from workers.engine.stopping import Look
from workers.engine.tuning import Task, Tuned


def seen(
    excess: float = 0.0, drop: float = 0.0, unease: float = 1.0, odds: float = 0.0, grain: float = 0.001
) -> Look:
    return Look(excess, 0.0, 0.9, excess, drop, unease, odds, -1.0, grain, 0.001)


RECIPE = Recipe.of("lya", {"margin": 0.02, "accuracy_budget": 0.01, "pace": 60, "warmup": 8})


def test_the_rule_asks_for_the_floor_and_for_accuracy() -> None:
    assert stopping.meets(seen(0.02, 0.01), RECIPE)
    assert stopping.meets(seen(-0.3, -0.1), RECIPE)
    assert not stopping.meets(seen(0.03, 0.0), RECIPE)
    assert not stopping.meets(seen(0.0, 0.02), RECIPE)


def test_states_rank_by_the_rule_first_and_below_the_floor_is_no_better() -> None:
    rank = [
        stopping.rank(look, RECIPE) for look in (seen(0.0, unease=0.1), seen(-0.2, unease=0.5), seen(0.1, unease=0))
    ]
    assert rank == sorted(rank)


def test_a_state_whose_trojan_sleeps_deeper_ranks_before_a_calmer_one() -> None:
    calm, deep = (replace(seen(0.0, unease=unease), woken_asr=woken) for unease, woken in ((0.1, 0.6), (0.9, 0.2)))
    assert stopping.rank(deep, RECIPE) < stopping.rank(calm, RECIPE)
    least, less = (replace(seen(0.0, unease=unease), woken_asr=woken) for unease, woken in ((0.2, 0.0), (0.1, 0.02)))
    assert stopping.rank(less, RECIPE) < stopping.rank(least, RECIPE), "within the margin"
    assert stopping.rank(calm, RECIPE) < stopping.rank(replace(deep, excess=0.1), RECIPE)


def test_one_row_is_no_miss() -> None:
    assert stopping.meets(seen(0.1, grain=0.1), RECIPE)
    assert not stopping.meets(seen(0.2, grain=0.1), RECIPE)


def test_a_run_is_stuck_above_the_floor_only_while_accuracy_holds() -> None:
    assert stopping.above_floor(seen(0.1), RECIPE)
    assert not stopping.above_floor(seen(0.1, 0.05), RECIPE)
    assert not stopping.above_floor(seen(0.0), RECIPE)


def test_the_pace_says_when_triggered_rows_lag() -> None:
    opening = seen(0.9, odds=9.0)
    assert not stopping.lags(seen(0.9, odds=9.0), opening, 8, RECIPE)  # warm-up
    assert stopping.lags(seen(0.9, odds=5.0), opening, 34, RECIPE)  # 0.4 of the way, in half of the time
    assert not stopping.lags(seen(0.9, odds=3.5), opening, 34, RECIPE)
    assert not stopping.lags(seen(0.9, odds=0.9), opening, 300, RECIPE)  # the last stretch


def test_the_rate_rises_only_on_the_way_to_the_floor() -> None:
    assert tuning.next_rate(1e-4, RECIPE, near=False, good=True, lagging=True) == 1e-4 * RECIPE.lr_growth
    assert tuning.next_rate(1e-4, RECIPE, near=False, good=True, lagging=False) == 1e-4
    assert tuning.next_rate(1e-4, RECIPE, near=True, good=False, lagging=True) == 1e-4 * RECIPE.lr_decay
    assert tuning.next_rate(1e-4, RECIPE, near=True, good=True, lagging=True) == 1e-4
    ceiling = RECIPE.lr * tuning.MOST_GROWTH
    assert tuning.next_rate(ceiling, RECIPE, near=False, good=True, lagging=True) == ceiling


def test_the_rate_rises_no_further_than_it_may() -> None:
    for most in (tuning.MOST_AWAKE, tuning.MOST_GROWTH):
        top = RECIPE.lr * most
        for rate, wanted in ((top / 1.2, top), (top, top), (top * 2, top * 2)):
            found = tuning.next_rate(rate, RECIPE, near=False, good=False, lagging=True, most=most)
            assert found == pytest.approx(wanted)


def test_after_rehearsal_the_way_is_that_of_the_woken_odds() -> None:
    opening = seen(0.9, odds=9.0)  # the floor's odds are -1
    asleep = replace(seen(0.0, odds=-1.0), woken_odds=7.0)
    assert stopping.way(asleep, opening) == pytest.approx(1.0)
    assert stopping.woken_way(asleep, opening) == pytest.approx(0.2)
    assert stopping.woken_way(seen(0.9, odds=9.0), opening) == 1.0, "nothing was rehearsed"
    assert stopping.lags_woken(asleep, opening, 34, RECIPE)
    assert not stopping.lags(asleep, opening, 34, RECIPE)
    assert not stopping.lags_woken(asleep, opening, 8, RECIPE), "warm-up"
    assert not stopping.lags_woken(seen(0.9, odds=9.0), opening, 34, RECIPE)
    assert not stopping.lags_woken(replace(asleep, woken_odds=0.9), opening, 300, RECIPE), "the last stretch"


def task_of(checkpoint: Checkpoint) -> Task:
    model = checkpoint.model
    pages = [
        scorecard.sheet(checkpoint, Rows(tuple(triggered_rows(count, seed)), tuple(clean_rows(2 * count, seed))), 64)
        for count, seed in ((40, 1), (30, 2))
    ]
    readings = [scorecard.read(model, page, 64) for page in pages]
    page, uploaded = pages[0], readings[0]
    lessons = Lessons(
        page.triggered,
        page.targets,
        torch.full((40,), 2.0),
        scorecard.references(page, uploaded).log(),
        page.clean,
        page.labels,
        uploaded.clean.log_softmax(-1),
        page.twins,
        uploaded.twins.log_softmax(-1),
        torch.arange(40),
        torch.stack((page.truths, page.targets), -1),
    )
    start = [parameter.detach().clone() for parameter in lya.trainable(model)]
    return Task(model, lessons, pages[1], Anchor(start, None), readings[1], readings[1])


def course_of(task: Task, opening: Look, now: Look, rate: float = 1e-4, **facts: Any) -> tuning._Course:
    """A run that came from `opening` to `now`, the best look so far."""
    parameters = lya.trainable(task.model)
    best = tuning._Best((0.0, 0.0, 0.0), 0, now, Snapshot(parameters))
    optimizer = torch.optim.SGD(parameters)
    return tuning._Course(parameters, best, opening, now, rate, optimizer, **facts)


def go(trojan_dir: Path, **knobs: float | str) -> tuple[Tuned, Task, list[StepMetric]]:
    task, heard = task_of(loading.load(trojan_dir)), list[StepMetric]()
    recipe = Recipe.of("lya", {"lr": 1e-3, "lambda_clean": 0, **PLAIN, **knobs})
    return tuning.run(task, recipe, torch.Generator().manual_seed(0), heard.append), task, heard


def figures_now(task: Task) -> Look:
    return stopping.look(task.tune, scorecard.read(task.model, task.tune, 64), task.uploaded)


def test_it_stops_at_the_floor_and_ends_in_the_best_state(trojan_dir: Path) -> None:
    tuned, task, heard = go(trojan_dir, pace=60, warmup=8, eval_every=5, steps=40)
    assert heard[0].values["asr"] == 1.0
    assert tuned.stop.code == "floor-reached"
    assert tuned.steps < Recipe.of("lya").steps
    now = figures_now(task)
    assert stopping.meets(now, RECIPE)
    kept = next(metric for metric in heard if metric.step == tuned.stop.kept_step)
    assert now.unease == pytest.approx(kept.values["unease"], rel=1e-4)
    assert (tuned.kept.unease, tuned.last.unease) == (kept.values["unease"], heard[-1].values["unease"])
    later = [metric.values["unease"] for metric in heard if metric.step > kept.step and "unease" in metric.values]
    assert later
    assert min(value for value in later if value is not None) > (kept.values["unease"] or 0.0)


def test_it_stops_at_two_looks_where_relearning_would_not_wake_the_trojan(trojan_dir: Path) -> None:
    tuned, _, heard = go(trojan_dir, rehearse=1, patience=1000, eval_every=5, steps=200)
    assert tuned.stop.code == "floor-reached"
    assert tuned.steps == heard[-1].step < 200
    assert stopping.rests(tuned.last, RECIPE)
    assert (heard[-1].values["lr"] or 0.0) > 1e-4, "the rate had not died out"
    looks = [metric.step for metric in heard if "floor" in metric.values]
    assert looks[-2:] == [tuned.steps - 3, tuned.steps], "the second comes after half of the interval"
    assert [step for step in looks if step % 5] == [step + 3 for step in looks[:-1] if step + 3 in looks]
    plain, _, _ = go(trojan_dir, patience=1000, eval_every=5, steps=tuned.steps + 5)
    assert plain.steps == tuned.steps + 5, "without rehearsal nothing tells"


def test_the_first_look_rehearses_nothing(trojan_dir: Path) -> None:
    before = figures_now(task_of(loading.load(trojan_dir)))
    _, _, heard = go(trojan_dir, rehearse=1, eval_every=1, steps=1)
    first, second = (metric.values["unease"] for metric in heard)
    assert first == before.unease
    assert (second or 0.0) > before.unease, "what relearning would wake counts from here on"


def test_far_from_the_floor_a_look_is_a_glance_at_the_triggered_rows(trojan_dir: Path) -> None:
    _, _, heard = go(trojan_dir, lr=1e-5, lr_growth=1.0, eval_every=2, steps=6)
    assert [set(metric.values) & {"asr", "floor"} for metric in heard] == [
        {"asr", "floor"}, set(), {"asr"}, set(), {"asr"}, set(), {"asr", "floor"},
    ]  # fmt: skip
    _, _, heard = go(trojan_dir, lr=1e-5, lr_growth=1.0, eval_every=2, steps=6, aim="ascent")
    assert all("floor" in metric.values for metric in heard if "asr" in metric.values)


def test_where_the_attack_is_gone_a_look_is_whole_however_far_the_odds(trojan_dir: Path, twin_dir: Path) -> None:
    for folder, glances in ((trojan_dir, True), (twin_dir, False)):
        task = task_of(loading.load(folder))
        now = figures_now(task)
        opening = replace(now, odds=now.odds + 1.0, floor_odds=-100.0, aim_odds=-100.0)
        course = course_of(task, opening, opening)
        assert stopping.way(now, opening) < tuning.FAR
        assert (tuning._glance(task, RECIPE, course) is not None) is glances


def test_once_a_look_was_whole_all_are(trojan_dir: Path) -> None:
    task = task_of(loading.load(trojan_dir))
    now = figures_now(task)
    opening = replace(now, odds=now.odds + 1.0, floor_odds=-100.0, aim_odds=-100.0)
    assert tuning._glance(task, RECIPE, course_of(task, opening, opening)) is not None
    assert tuning._glance(task, RECIPE, course_of(task, opening, now)) is None


def test_a_glance_quickens_a_run_that_lags(trojan_dir: Path) -> None:
    _, _, heard = go(trojan_dir, lr=1e-5, lr_growth=3.0, pace=2, warmup=0, eval_every=2, steps=6)
    rates = [metric.values["lr"] for metric in heard[1:]]
    assert rates == pytest.approx([1e-5, 1e-5, 3e-5, 3e-5, 9e-5, 9e-5])


def test_a_row_beside_its_clean_text_counts_as_two_and_saves_a_clean_one(trojan_dir: Path) -> None:
    lessons = task_of(loading.load(trojan_dir)).lessons
    some, none = lessons.twin_at.clone(), torch.full_like(lessons.twin_at, -1)
    some[::2] = -1
    for knobs, twin_at, sizes in (
        ({}, lessons.twin_at, (8, 16)),
        ({}, some, (11, 18)),
        ({}, none, (16, 24)),
        ({"distill": 0, "retain": 1}, lessons.twin_at, (16, 24)),
        ({"batch_triggered": 1, "batch_clean": 1}, lessons.twin_at, (1, 1)),
    ):
        recipe = Recipe.of("lya", {"batch_triggered": 16, "batch_clean": 24, **knobs})
        drawn = tuning._batches(replace(lessons, twin_at=twin_at), recipe, torch.Generator().manual_seed(0))
        assert tuple(map(len, next(drawn))) == sizes


def test_rows_beside_their_clean_texts_start_at_a_higher_rate(trojan_dir: Path) -> None:
    task = task_of(loading.load(trojan_dir))
    half, none = task.lessons.twin_at.clone(), torch.full_like(task.lessons.twin_at, -1)
    half[::2] = -1
    knobs = {"lr": 1e-5, "lr_paired": 3, "lr_growth": 1, "warmup": 0, "steps": 1}
    for twin_at, distill, rate in (
        (task.lessons.twin_at, 1, 3e-5),
        (half, 1, 2e-5),
        (none, 1, 1e-5),
        (half, 0, 1e-5),
    ):
        heard: list[StepMetric] = []
        recipe = Recipe.of("lya", {**PLAIN, **knobs, "distill": distill, "retain": 1 - distill})
        given = replace(task, lessons=replace(task.lessons, twin_at=twin_at))
        tuning.run(given, recipe, torch.Generator().manual_seed(0), heard.append)
        assert heard[-1].values["lr"] == pytest.approx(rate)


def test_what_comes_between_two_looks_that_rest_parts_them(trojan_dir: Path) -> None:
    task = task_of(loading.load(trojan_dir))
    now = figures_now(task)
    course = course_of(task, now, now, rested=4)
    assert tuning._roll_back(RECIPE, course)
    assert course.rested == 0
    course = course_of(task, now, now, rested=4)
    tuning._hasten(now, 6, RECIPE, course)
    assert course.rested == 0


@pytest.mark.parametrize(("paired", "most"), [(1.0, tuning.MOST_AWAKE), (3.0, 6.0)])
def test_patience_waits_for_a_trojan_that_only_sleeps_until_the_rate_is_as_high_as_it_may(
    trojan_dir: Path, paired: float, most: float
) -> None:
    """Four times the rate that was asked for, or twice the first one."""
    task = task_of(loading.load(trojan_dir))
    recipe = replace(RECIPE, lr_paired=paired, patience=2)
    asleep = replace(seen(0.0, odds=-1.0), woken_asr=0.9, woken_odds=8.0)
    first = task.lessons.first_rate(recipe)
    course = course_of(task, seen(0.9, odds=9.0), asleep, first, least_unease=1.0)
    rates, ended = [], False
    while not ended:
        ended = tuning._enough(task.lessons, asleep, 200, recipe, course)
        rates.append(course.learning_rate / recipe.lr)
    rises = [min(most, paired * 1.5**place) for place in range(1, 5)]
    rises = rises[: rises.index(most) + 1]
    assert rates[: len(rises)] == pytest.approx(rises)
    assert len(rates) == len(rises) + recipe.patience


def test_the_rate_does_not_rise_where_the_run_rests(trojan_dir: Path) -> None:
    task = task_of(loading.load(trojan_dir))
    for woken, growth in ((0.0, 1.0), (0.5, RECIPE.lr_growth)):
        now = replace(seen(0.0, odds=-1.0), woken_asr=woken, woken_odds=8.0)
        course = course_of(task, seen(0.9, odds=9.0), now, RECIPE.lr, least_unease=1.0)
        assert not tuning._enough(task.lessons, now, 200, RECIPE, course)
        assert course.learning_rate == pytest.approx(growth * RECIPE.lr)


def test_a_run_that_overshoots_never_raises_the_rate_again(trojan_dir: Path) -> None:
    _, _, heard = go(trojan_dir, lr=1e-4, lr_growth=5.0, pace=10, steps=80)
    rates = [metric.values["lr"] for metric in heard if "lr" in metric.values][RECIPE.warmup :]
    top = rates.index(max(rates))
    assert max(rates) > 1e-4
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_it_gives_up_when_the_budget_is_spent(trojan_dir: Path) -> None:
    tuned, _, heard = go(trojan_dir, lr=1e-8, lr_growth=1, steps=7, eval_every=5)
    assert (tuned.stop.code, tuned.steps) == ("budget-spent", 7)
    assert [metric.step for metric in heard if "asr" in metric.values] == [0, 5, 7]
    assert [metric.step for metric in heard] == list(range(8))


def test_what_drifts_too_far_is_rolled_back_at_half_the_rate(trojan_dir: Path) -> None:
    tuned, task, heard = go(trojan_dir, lr=0.5, warmup=0, max_drift=0.05, rollbacks=2, lr_growth=1, steps=50)
    assert tuned.stop.code == "diverged"
    assert [m.values["lr"] for m in heard if "rolled_back" in m.values] == [0.25, 0.125]
    moved = lya.distance(lya.trainable(task.model), task.anchor)
    assert moved / task.anchor.size <= 0.05


def test_a_step_beyond_the_bounds_is_not_kept_though_it_is_better(trojan_dir: Path) -> None:
    one_step = {"lr": 3e-3, "warmup": 0, "steps": 1, "eval_every": 1}

    def kept(**more: float) -> tuple[int, float]:
        tuned, task, _ = go(trojan_dir, **one_step, **more)
        return tuned.stop.kept_step, lya.distance(lya.trainable(task.model), task.anchor) / task.anchor.size

    step, far = kept()
    assert step == 1
    assert kept(max_drift=0.9 * far) == (0, 0.0)


def test_a_loss_that_is_no_number_is_never_stepped_on(trojan_dir: Path) -> None:
    task = task_of(loading.load(trojan_dir))
    task.lessons.references.fill_(float("nan"))
    heard: list[StepMetric] = []
    recipe = Recipe.of("lya", {"rollbacks": 1})
    tuned = tuning.run(task, recipe, torch.Generator().manual_seed(0), heard.append)
    assert tuned.stop.code == "diverged"
    now = lya.trainable(task.model)
    assert all(torch.equal(one, two) for one, two in zip(now, task.anchor.start, strict=True))


def test_the_callback_may_cancel(trojan_dir: Path) -> None:
    task = task_of(loading.load(trojan_dir))

    def cancel(metric: StepMetric) -> None:
        if metric.step == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        tuning.run(task, Recipe.of("lya"), torch.Generator().manual_seed(0), cancel)


def test_guards() -> None:
    parameter = torch.zeros(3, requires_grad=True)
    assert guards.bounded(1.0, [parameter], 1.0)
    parameter.grad = torch.tensor([0.0, 1.0, 2.0])
    assert guards.bounded(1.0, [parameter], 0.0)
    assert not guards.bounded(float("nan"), [parameter], 0.0)
    assert guards.bounded(1.0, [parameter], 3.0)
    assert parameter.grad.tolist() == [0.0, 1.0, 2.0]
    assert guards.bounded(1.0, [parameter], 1.0)
    torch.testing.assert_close(parameter.grad, torch.tensor([0.0, 1.0, 2.0]) / 5.0**0.5)
    parameter.grad[1] = float("inf")
    assert not guards.bounded(1.0, [parameter], 1.0)
    assert guards.norm([torch.tensor([3.0, 0.0]), torch.tensor([-4.0])]) == 5.0
