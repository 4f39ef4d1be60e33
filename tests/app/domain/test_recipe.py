"""Recipes and policies: complete by construction, checked knob by knob, the same fingerprint for the same values."""

import math
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import BadPolicy, BadRecipe
from app.domain.methods import METHOD_DEFAULTS, METHOD_SEARCH, METHODS
from app.domain.recipe import (
    KNOBS,
    POLICY_KNOBS,
    Policy,
    Recipe,
    knobs_of,
)

NUMBERS = [knob for knob in KNOBS if knob.kind in (int, float)]


@pytest.mark.parametrize("method", METHODS)
def test_defaults_are_valid_and_round_trip(method: str) -> None:
    recipe = Recipe.of(method)
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert recipe == Recipe.of(method, dict.fromkeys(METHOD_DEFAULTS[method]))


@pytest.mark.parametrize("method", METHODS)
def test_auto_is_the_default_recipe_and_a_search_where_there_is_one(method: str) -> None:
    auto, plain = Recipe.auto(method), Recipe.of(method)
    assert replace(auto, search_budget=0) == plain
    assert plain.most_steps == plain.steps
    assert auto.most_steps == (auto.search_budget or plain.steps)
    assert (auto.search_budget >= 2 * plain.steps) == (method in METHOD_SEARCH)
    assert Recipe.auto(method, {"relearning": True}) == replace(auto, relearning=True)
    if method not in METHOD_SEARCH:
        with pytest.raises(BadRecipe, match="search_budget is always 0"):
            Recipe.of(method, {"search_budget": 500})


def test_table_and_dataclass_name_the_same_knobs() -> None:
    assert [knob.name for knob in KNOBS] == [each.name for each in fields(Recipe)][1:]
    assert [knob.name for knob in POLICY_KNOBS] == [each.name for each in fields(Policy)]


def test_knobs_of_shows_the_defaults_of_the_method() -> None:
    defaults = {knob.name: knob.default for knob in knobs_of("gradient_ascent")}
    assert defaults["lambda_clean"] == 0.0
    assert Recipe.of("gradient_ascent").to_dict() == {"method": "gradient_ascent", **defaults}


@pytest.mark.parametrize("value", [True, "1", math.nan, math.inf, -math.inf, [], {}, 1e300, -1e300, 10**400])
@pytest.mark.parametrize("knob", NUMBERS, ids=lambda knob: knob.name)
def test_what_is_no_number_in_range_is_refused(knob, value) -> None:
    with pytest.raises(BadRecipe, match=knob.name) as caught:
        Recipe.of("lya", {knob.name: value})
    assert caught.value.details["knob"] == knob.name
    assert knob.meaning in caught.value.message
    assert knob.range_words() in caught.value.message


@pytest.mark.parametrize(
    ("name", "value"), [("steps", 1.5), ("fisher", "both"), ("fresh_head", 1), ("precision", 32)]
)
def test_wrong_kind_is_refused(name: str, value: object) -> None:
    with pytest.raises(BadRecipe, match=name):
        Recipe.of("retrain", {name: value})


@pytest.mark.parametrize("name", ["lamda", "seed", "method", ""])
def test_unknown_knob_is_refused(name: str) -> None:
    with pytest.raises(BadRecipe, match="is not a setting of"):
        Recipe.of("lya", {name: 1})


@pytest.mark.parametrize("method", ["LYA", "", None, 3])
def test_unknown_method_is_refused(method) -> None:
    with pytest.raises(BadRecipe, match="unknown method"):
        Recipe.of(method)


def test_a_method_keeps_what_gives_it_its_name() -> None:
    with pytest.raises(BadRecipe, match=r"ascent is always 0\.0 in fine_tune"):
        Recipe.of("fine_tune", {"ascent": 1})


def test_the_papers_lya_has_both_anchors_and_nothing_of_ours() -> None:
    recipe = Recipe.of("lya_paper")
    assert (recipe.aim, recipe.ce_ceiling, recipe.retain, recipe.distill) == ("ascent", 0.0, 0.0, 0.0)
    assert recipe.ascent > 0
    assert recipe.lambda_clean > 0
    assert recipe.lambda_trig > 0
    for name, value in (("aim", "floor"), ("ce_ceiling", 2), ("retain", 1), ("distill", 1)):
        with pytest.raises(BadRecipe, match=f"{name} is always"):
            Recipe.of("lya_paper", {name: value})


def test_parts_must_leave_rows_to_unlearn() -> None:
    with pytest.raises(BadRecipe, match="tune_share"):
        Recipe.of("lya", {"tune_share": 0.5, "report_share": 0.5})


@given(st.data())
def test_any_value_in_range_is_kept(data) -> None:
    knob = data.draw(st.sampled_from(NUMBERS))
    drawn = st.integers(int(knob.low), int(knob.high)) if knob.kind is int else st.floats(knob.low, knob.high)
    value = data.draw(drawn)
    assert knob.read(value) == value
    assert type(knob.read(value)) is knob.kind


@given(st.permutations(list(Recipe.of("lya").to_dict().items())))
def test_fingerprint_ignores_order(items) -> None:
    assert Recipe.from_dict(dict(items)).fingerprint() == Recipe.of("lya").fingerprint()


def test_fingerprint_ignores_the_type_of_number_and_sees_the_value() -> None:
    assert (
        Recipe.of("lya", {"retain": 2, "steps": 9.0}).fingerprint()
        == Recipe.of("lya", {"retain": 2.0, "steps": 9}).fingerprint()
    )
    assert Recipe.of("lya", {"retain": 2}).fingerprint() != Recipe.of("lya", {"retain": 3}).fingerprint()
    assert Recipe.of("fine_tune").fingerprint() != Recipe.of("lya").fingerprint()


def test_policy() -> None:
    assert Policy.of().max_excess_asr == 0.05
    assert Policy.of({"max_accuracy_drop": 0}).max_accuracy_drop == 0.0
    for bad in ({"max_excess_asr": 2}, {"min_clean": True}, {"nonsense": 1}, [1]):
        with pytest.raises(BadPolicy):
            Policy.of(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["lya_paper", "gradient_ascent", "fine_tune", "retrain"])
def test_the_rate_of_what_lya_is_compared_with_is_not_steered(method: str) -> None:
    recipe = Recipe.of(method)
    assert (recipe.lr_growth, recipe.lr_decay) == (1.0, 1.0)
