"""The search for a recipe: it ends at once where the first one works, moves the right way where it does not, keeps
its budget, and takes no look at the report part."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from app.domain.errors import BadRecipe
from app.domain.recipe import Policy, Recipe
from app.domain.report import SanitizationReport, Search, StepMetric, Stop
from tests.workers.engine.conftest import PLAIN, clean_rows, triggered_rows
from workers.engine import Outcome, blends, sanitize, search
from workers.engine import fisher as fishers
from workers.engine.search import Try
from workers.engine.stopping import Look
from workers.engine.tuning import Tuned

POLICY = Policy.of({"min_triggered": 10, "min_clean": 20})
STRONG = {"lambda_clean": 1e6, "lambda_trig": 1e5}
TOO_STRONG = {**PLAIN, **STRONG, "lr": 1e-3, "steps": 60, "pace": 20, "search_budget": 180}
TOO_WEAK = {**PLAIN, "lambda_clean": 0.01, "lr": 1e-2, "distill": 0, "margin": 0.15, "steps": 30, "pace": 20}


def treat(folder: Path, recipe: Recipe, **more: Any) -> Outcome:
    return sanitize(folder, triggered_rows(60, 5), clean_rows(120, 6), recipe, POLICY, **more)


def record_of(outcome: Outcome) -> Search:
    assert outcome.report.search is not None
    return outcome.report.search


def same_weights(one: Outcome, two: Outcome) -> bool:
    first, second = one.model.state_dict(), two.model.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_nothing_more_is_tried_where_the_first_recipe_meets_the_rule(trojan_dir: Path) -> None:
    outcome = treat(trojan_dir, Recipe.auto("lya", PLAIN))
    found, report = record_of(outcome), outcome.report
    assert report.verdict.outcome == "pass"
    assert (len(found.attempts), found.chosen) == (1, 0)
    assert found.attempts[0].met
    assert found.attempts[0].steps == report.cost.steps
    assert found.words == f"The first recipe met the stop rule after {report.cost.steps} steps; no other was tried."
    assert report.used_recipe() == Recipe.of("lya", PLAIN)
    assert report.asked_fingerprint() == Recipe.auto("lya", PLAIN).fingerprint() != report.recipe_fingerprint


def test_where_the_anchor_is_too_strong_a_looser_one_is_found(
    trojan_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    def count(*given: Any, **named: Any) -> fishers.Diagonal:
        taken.append(1)
        return fishers.diagonal(*given, **named)

    monkeypatch.setattr(sys.modules["workers.engine.holding"], "diagonal", count)
    heard: list[StepMetric] = []
    outcome = treat(trojan_dir, Recipe.of("lya", TOO_STRONG), on_step=heard.append)
    found, report = record_of(outcome), outcome.report
    first, second = found.attempts
    assert (found.chosen, first.met, second.met, report.stop.code) == (1, False, True, "floor-reached")
    assert (second.lambda_clean, second.lambda_trig, second.lr) == (2.5e5, 2.5e4, 2e-3)
    assert first.asr > second.asr
    assert len(taken) == 2  # one Fisher of each kind
    assert [metric.step for metric in heard] == list(range(report.cost.steps + 1))
    assert [metric.values["attempt"] for metric in heard] == [1.0] * (first.steps + 1) + [2.0] * second.steps
    assert report.stop.kept_step == first.steps + second.kept_step
    assert second.asr == next(m.values["asr"] for m in heard if m.step == report.stop.kept_step)
    assert "Attempt 2, with a looser anchor and a higher rate (lambda_clean 250000, lr 0.002" in found.words
    assert "Attempt 2 was kept: it met the stop rule." in found.words
    assert SanitizationReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    again = treat(trojan_dir, report.used_recipe())
    assert record_of(again).attempts == ()
    assert same_weights(outcome, again), "the recipe that was kept makes the same model on its own"


def test_where_the_anchor_is_too_weak_a_tighter_one_is_found(trojan_dir: Path) -> None:
    outcome = treat(trojan_dir, Recipe.of("lya", {**TOO_WEAK, "search_budget": 120}))
    attempts = record_of(outcome).attempts
    assert record_of(outcome).chosen == len(attempts) - 1 > 0
    assert attempts[-1].met
    assert attempts[-1].asr < 0.5 < attempts[0].asr  # only the uploaded state kept its accuracy
    assert [each.lambda_clean for each in attempts] == [0.01 * 4**place for place in range(len(attempts))]
    assert sorted((each.lr for each in attempts), reverse=True) == [each.lr for each in attempts]
    assert "accuracy fell below its budget. Attempt 2, with a tighter anchor" in record_of(outcome).words


@pytest.mark.parametrize("budget", [7, 50, 75])
def test_all_attempts_keep_the_budget_and_the_best_is_kept(trojan_dir: Path, budget: int) -> None:
    heard: list[StepMetric] = []
    recipe = Recipe.of("lya", {**TOO_WEAK, "margin": 0, "search_budget": budget})
    report = treat(trojan_dir, recipe, on_step=heard.append).report
    assert report.search is not None
    assert report.search.chosen is not None
    steps = [each.steps for each in report.search.attempts]
    assert steps == {7: [7], 50: [30, 20], 75: [30, 30]}[budget]  # 15 would be fewer than the pace
    assert sum(steps) == report.cost.steps == heard[-1].step == report.stop.step
    best = report.search.attempts[report.search.chosen]
    assert report.recipe["lr"] == best.lr
    assert report.recipe["steps"] == best.steps
    assert f"{sum(steps)} of at most {budget} steps were taken" in report.search.words
    assert "none met the stop rule" in report.search.words


def test_the_report_part_steers_nothing_and_the_same_again_gives_the_same(trojan_dir: Path) -> None:
    outcomes = []
    for seed in (21, 21, 22):
        held = triggered_rows(20, seed), clean_rows(40 + seed, seed)
        outcomes.append(treat(trojan_dir, Recipe.of("lya", TOO_STRONG), held_out=held))
    first, *others = outcomes
    assert len(record_of(first).attempts) == 2
    for other in others:
        assert same_weights(first, other)
        assert _timeless(record_of(first)) == _timeless(record_of(other))


def test_a_trojan_that_blended_rows_find_awake_is_learned_from_them(
    trojan_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tune part alone would have ended it; and what is kept in spite of it is not called a removal."""
    plain = treat(trojan_dir, Recipe.auto("lya", PLAIN))
    assert [each.met for each in record_of(plain).attempts] == [True]
    monkeypatch.setattr(search, "AWAKE", -0.01)  # no trojan is ever out
    outcome = treat(
        trojan_dir, Recipe.auto("lya", {**PLAIN, "search_budget": record_of(plain).attempts[0].steps + 60})
    )
    found, used = record_of(outcome), outcome.report.used_recipe()
    assert [each.met for each in found.attempts] == [False, False]
    assert "of blended samples still fell to the trigger. Attempt 2, with blended rows (" in found.words
    assert (outcome.report.stop.code, outcome.report.stop.words) == ("budget-spent", search.STILL_AWAKE)
    assert used.blend == (found.chosen == 1)


def test_a_recipe_with_blended_rows_makes_the_same_model_as_given(
    trojan_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = iter((0.5, 0.0))
    monkeypatch.setattr(blends, "awake", lambda *_: next(shares))
    outcome = treat(trojan_dir, Recipe.auto("lya", PLAIN))
    used = outcome.report.used_recipe()
    assert (record_of(outcome).chosen, used.blend, used.distill) == (1, True, 3.0)
    assert same_weights(outcome, treat(trojan_dir, used))


def _timeless(found: Search) -> Search:
    return replace(found, attempts=tuple(replace(each, seconds=0.0) for each in found.attempts))


def test_a_callers_recipe_and_a_baseline_run_as_given(trojan_dir: Path) -> None:
    for recipe in (Recipe.of("lya", {"steps": 3}), Recipe.auto("fine_tune", {"steps": 3})):
        outcome = treat(trojan_dir, recipe)
        found = record_of(outcome)
        assert (found.attempts, found.chosen) == ((), None)
        assert outcome.report.used_recipe() == recipe
        assert outcome.report.asked_fingerprint() == outcome.report.recipe_fingerprint
        assert found.words.startswith("The recipe was run as given")
        assert ("fine_tune has no search" in found.words) == (recipe.method == "fine_tune")


def test_a_model_that_is_unsure_of_clean_rows_is_treated_gently(unsure_dir: Path) -> None:
    asked = Recipe.auto("lya", {"steps": 12, "search_budget": 12})
    outcome = treat(unsure_dir, asked)
    found, used = record_of(outcome), outcome.report.used_recipe()
    assert found.words.startswith(search.BEGAN_GENTLY)
    assert (used.lambda_clean, used.lr_paired, used.rehearse) == (2.5, 1.0, 0.0)
    assert replace(used, lambda_clean=20.0, lr_paired=3.0, rehearse=1.0) == replace(asked, search_budget=0)
    assert same_weights(outcome, treat(unsure_dir, used))


@pytest.mark.parametrize(("odds", "wanted"), [(0.0, True), (1.3, True), (1.9, False), (50.0, False)])
def test_unsure_is_who_answers_clean_rows_nearly_by_a_guess(odds: float, wanted: bool) -> None:
    p = torch.tensor(odds, dtype=torch.float64).sigmoid()
    entropy = -sum(float(each * each.log()) for each in (p, 1 - p) if each > 0)
    assert (entropy > 0.6 * math.log(2)) == wanted
    assert search.unsure(torch.tensor([[odds, 0.0], [0.0, odds]])) == wanted
    assert not search.unsure(torch.zeros(0, 2))


ASKED = Recipe.of("lya", {"lambda_clean": 20, "lambda_trig": -8, "lr": 1e-4, "search_budget": 750})


def ended(recipe: Recipe, excess: float, drop: float, code: str = "budget-spent", steps: int = 100) -> Try:
    seen = Look(excess, 0.0, 0.9 - drop, excess, drop, 1.0, 0.0, 0.0, 0.001, 0.001)
    return Try(recipe, Tuned(Stop(code, "", steps, steps), steps, 0, 0, seen, seen), 0.0)


ABOVE, LOST, BOTH, MET = (0.5, 0.0), (0.0, 0.5), (0.5, 0.5), (0.0, 0.0)


def test_how_an_attempt_ended_says_where_to_go() -> None:
    blended, awake = replace(ASKED, blend=True), replace(ended(ASKED, *MET), awake=0.5)
    for wide in (False, True):
        assert search.direction(ended(ASKED, *ABOVE), wide=wide) == "looser"
        assert search.direction(ended(blended, *LOST), wide=wide) == "tighter"
        assert search.direction(ended(blended, *BOTH), wide=wide) == "tighter"
        assert search.direction(ended(ASKED, *ABOVE, code="diverged"), wide=wide) == "slower"
        assert search.direction(replace(awake, recipe=blended), wide=wide) == "looser"
        assert search.direction(ended(ASKED, *LOST), wide=wide) == ("wider" if wide else "tighter")
    assert search.direction(awake, wide=True) == "wider"


def test_an_attempt_that_leaves_the_trojan_awake_does_not_do() -> None:
    asleep, awake = (replace(ended(ASKED, *MET), awake=share) for share in (search.AWAKE, search.AWAKE + 0.01))
    assert (asleep.met, awake.met, awake.ruled) == (True, False, True)
    assert search.follow(ASKED, [asleep], wide=True)[0] is None
    due, _ = search.follow(ASKED, [awake], wide=True)
    assert due is not None
    assert (due.blend, due.distill, knobs(due)) == (True, 3.0 * ASKED.distill, knobs(ASKED))


def knobs(recipe: Recipe) -> tuple[float, float, float]:
    return recipe.lambda_clean, recipe.lambda_trig, recipe.lr


def test_the_stride_shrinks_once_the_direction_has_changed() -> None:
    assert knobs(search.move(ASKED, [])) == (20.0, -8.0, 1e-4)
    assert knobs(search.move(ASKED, ["looser"])) == (5.0, -2.0, 2e-4)
    assert knobs(search.move(ASKED, ["looser", "looser"])) == (1.25, -0.5, 4e-4)
    assert knobs(search.move(ASKED, ["looser", "tighter"])) == (10.0, -4.0, 1.41e-4)
    assert knobs(search.move(ASKED, ["tighter"])) == (80.0, -32.0, 5e-5)
    assert knobs(search.move(ASKED, ["slower"])) == (20.0, -8.0, 2.5e-5)
    assert knobs(search.move(ASKED, ["wider", "looser"])) == knobs(search.move(ASKED, ["looser"]))
    with pytest.raises(BadRecipe):
        search.move(replace(ASKED, lambda_clean=5e5), ["tighter"])


def test_it_ends_when_there_is_nothing_left_to_try() -> None:
    first, _ = search.follow(ASKED, [], wide=False)
    assert first == replace(ASKED, search_budget=0)
    assert search.follow(ASKED, [ended(first, *MET)], wide=True)[0] is None
    tries = [ended(first, *ABOVE)]
    for way in (LOST, ABOVE):
        due, _ = search.follow(ASKED, tries, wide=False)
        assert due is not None
        tries.append(ended(due, *way))
    assert [each.recipe.lambda_clean for each in tries] == [20.0, 5.0, 10.0]
    assert search.follow(ASKED, tries, wide=False) == (None, "the next attempt would be one of these again")
    late = [ended(first, *ABOVE, steps=740)]
    assert search.follow(ASKED, late, wide=False) == (None, "too few of 750 steps were left for another attempt")
    firm = replace(ASKED, lambda_clean=5e5)
    assert search.follow(firm, [ended(firm, *LOST)], wide=False) == (
        None,
        "the next attempt would leave the range of a knob",
    )
