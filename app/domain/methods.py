"""The methods by name: what makes each of them itself, and where its defaults differ.

A method is a row of these tables. Its formula and its source stand in `docs/methods.md`; the code that no knob can
express is chosen in one place, `workers.engine.sanitize`.
"""

from __future__ import annotations

from collections.abc import Mapping

METHODS = ("lya", "lya_paper", "gradient_ascent", "fine_tune", "retrain", "ssd", "fine_mixing")
METHODS_WITH_BASE = ("retrain", "fine_mixing")  # they need a clean checkpoint that the caller names
Value = int | float | bool | str

_AS_GIVEN: Mapping[str, Value] = {"search_budget": 0}
_NO_ANCHOR: Mapping[str, Value] = {"lambda_clean": 0.0, "lambda_trig": 0.0}
_PLAIN: Mapping[str, Value] = {"distill": 0.0, "align": 0.0, "blend": False, "rehearse": 0.0, **_AS_GIVEN}
_PLAIN_ASCENT: Mapping[str, Value] = {"aim": "ascent", "ce_ceiling": 0.0, "retain": 0.0, **_PLAIN}
_CLEAN_ONLY: Mapping[str, Value] = {"ascent": 0.0, **_NO_ANCHOR, **_PLAIN}
# Knobs that give a method its name: any other value would be another method.
METHOD_FIXED: Mapping[str, Mapping[str, Value]] = {
    "lya": {},
    "lya_paper": _PLAIN_ASCENT,
    "gradient_ascent": {**_PLAIN_ASCENT, **_NO_ANCHOR},
    "fine_tune": _CLEAN_ONLY,
    "retrain": _CLEAN_ONLY,
    "ssd": {**_CLEAN_ONLY, "retain": 0.0},
    "fine_mixing": _CLEAN_ONLY,
}
# Where else a method's default differs from the table of knobs.
METHOD_DEFAULTS: Mapping[str, Mapping[str, Value]] = {
    "lya": {
        "lr": 1e-4,
        "lr_paired": 3.0,
        "pace": 16,
        "warmup": 4,
        "eval_every": 4,
        "patience": 2,
        "batch_clean": 24,
    },
    "lya_paper": {
        "ascent": 1.0,
        "lambda_trig": 20.0,
        "lr": 2e-5,
        "lr_growth": 1.0,
        "lr_decay": 1.0,
        "fisher": "empirical",
        "steps": 60,
        "max_drift": 1.0,
    },
    "gradient_ascent": {
        "ascent": 1.0,
        "lr": 2e-5,
        "lr_growth": 1.0,
        "lr_decay": 1.0,
        "warmup": 0,
        "steps": 60,
        "max_drift": 1.0,
    },
    "fine_tune": {"retain": 1.0, "lr": 2e-5, "lr_growth": 1.0, "lr_decay": 1.0, "steps": 120},
    "retrain": {
        "retain": 1.0,
        "lr": 5e-5,
        "lr_growth": 1.0,
        "lr_decay": 1.0,
        "steps": 200,
        "eval_every": 20,
        "max_drift": 2.0,
    },
    "ssd": {"fisher": "empirical", "steps": 13},
    "fine_mixing": {
        "retain": 1.0,
        "lr": 2e-5,
        "lr_growth": 1.0,
        "lr_decay": 1.0,
        "steps": 480,
        "max_drift": 2.0,
    },
}
# What a recipe has that nobody gave: a search from the defaults, for the one method that is no baseline.
METHOD_SEARCH: Mapping[str, Mapping[str, Value]] = {"lya": {"search_budget": 750}}
