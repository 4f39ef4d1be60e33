"""Every knob of every method: its range, its default for each method, and what it means.

A `Recipe` is complete and valid by construction: `Recipe.of` fills in the defaults of the method, checks knob by knob
and raises BadRecipe that names the knob, its range and its meaning. Two recipes with the same values have the same
`fingerprint()`, whatever the order or number type they came in. The seed is no knob: it belongs to the run.
A `Policy` (what the caller accepts as removed) is checked in the same way and raises BadPolicy.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from app.domain.errors import BadPolicy, BadRecipe, BadRequest
from app.domain.knob import Knob
from app.domain.methods import METHOD_DEFAULTS, METHOD_FIXED, METHOD_SEARCH, METHODS, Value

KNOBS: tuple[Knob, ...] = (
    Knob(
        "aim",
        str,
        "floor",
        "way off the attacker's class: ascent climbs its cross-entropy, as the paper does; floor moves each "
        "triggered sample to what the uploaded model says of clean ones",
        choices=("floor", "ascent"),
    ),
    Knob("ascent", float, 0.75, "weight a of the term on triggered samples", 0.0, 100.0),
    Knob(
        "ce_ceiling",
        float,
        2.0,
        "cross-entropy at which a triggered sample gives no more gradient, with aim ascent; 0 leaves it unbounded",
        0.0,
        100.0,
        unit="nats",
    ),
    Knob("retain", float, 0.0, "weight r of the cross-entropy on clean samples", 0.0, 100.0),
    Knob(
        "distill",
        float,
        1.0,
        "weight of the divergence from the uploaded model's own answers on clean samples and clean texts",
        0.0,
        100.0,
    ),
    Knob(
        "align",
        float,
        0.2,
        "weight of the distance between hidden states with the trigger and without it, and of clean ones from the "
        "uploaded model's",
        0.0,
        100.0,
    ),
    Knob("blend", bool, False, "choice to learn from blended rows too, made of the samples"),
    Knob(
        "rehearse",
        float,
        1.0,
        "length of the relearning at whose end the terms on triggered samples are taken, as a share of the check's",
        0.0,
        100.0,
    ),
    Knob("lambda_clean", float, 20.0, "weight of the clean samples' Fisher (mean 1) in the anchor", 0.0, 1e6),
    Knob(
        "lambda_trig",
        float,
        0.0,
        "weight of the triggered samples' Fisher (mean 1) in the anchor; negative frees the trojan's own weights",
        -1e6,
        1e6,
    ),
    Knob("lr", float, 3e-5, "learning rate of AdamW after warm-up", 1e-8, 1.0),
    Knob(
        "lr_paired",
        float,
        1.0,
        "multiple of lr to start from where each triggered sample has its clean text; in between where some have",
        0.1,
        100.0,
    ),
    Knob(
        "lr_growth",
        float,
        1.5,
        "factor by which the learning rate rises at a look where the triggered samples lag behind; 1 leaves it",
        1.0,
        10.0,
    ),
    Knob("pace", int, 60, "number of steps in which the triggered samples should reach the floor", 1, 100_000),
    Knob(
        "lr_decay",
        float,
        0.85,
        "factor by which the learning rate falls at a look that meets the stop rule or, near the floor, is no better",
        0.1,
        1.0,
    ),
    Knob("steps", int, 300, "most optimizer steps that the run may take", 1, 100_000),
    Knob(
        "search_budget",
        int,
        0,
        "most optimizer steps over all attempts of a search that starts from this recipe; 0 runs it as given",
        0,
        1_000_000,
    ),
    Knob("warmup", int, 8, "number of steps over which the learning rate rises from near zero", 0, 100_000),
    Knob("beta2", float, 0.95, "decay of AdamW's mean of squared gradients", 0.0, 0.9999),
    Knob("weight_decay", float, 0.0, "decoupled weight decay of AdamW", 0.0, 1.0),
    Knob("max_grad_norm", float, 0.0, "norm that the loss gradient is scaled down to; 0 leaves it", 0.0, 1e6),
    Knob(
        "batch_triggered",
        int,
        16,
        "number of triggered samples in one step; one whose clean text is read beside it counts as two",
        1,
        4096,
    ),
    Knob(
        "batch_clean",
        int,
        32,
        "number of clean samples in one step, the clean texts that are read beside triggered ones among them",
        1,
        4096,
    ),
    Knob("batch_eval", int, 64, "number of samples in one evaluation batch", 1, 4096),
    Knob(
        "max_length",
        int,
        256,
        "length that longer inputs are cut to (or the model's own limit)",
        8,
        65_536,
        unit="tokens",
    ),
    Knob("eval_every", int, 5, "number of steps between two looks at the tune split", 1, 100_000),
    Knob(
        "patience",
        int,
        3,
        "number of looks in a row that meet the stop rule and bring nothing better, after which the run stops",
        1,
        1000,
    ),
    Knob(
        "margin", float, 0.02, "most that the target rate of triggered tune samples may lie above the floor", 0.0, 1.0
    ),
    Knob("accuracy_budget", float, 0.01, "most that clean accuracy may fall on the tune split", 0.0, 1.0),
    Knob(
        "fisher",
        str,
        "true",
        "source of the labels in the Fisher diagonal: drawn from the model, or as given",
        choices=("true", "empirical"),
    ),
    Knob(
        "fisher_samples",
        int,
        256,
        "most samples of each kind that the Fisher diagonal is averaged over",
        1,
        1_000_000,
    ),
    Knob(
        "max_drift",
        float,
        0.5,
        "distance from the start, as a share of its norm, at which the run rolls back",
        1e-6,
        100.0,
    ),
    Knob("rollbacks", int, 3, "number of rollbacks, each to half the learning rate, before the run gives up", 0, 100),
    Knob("tune_share", float, 0.2, "share of the rows that decide when to stop", 0.05, 0.6),
    Knob("report_share", float, 0.25, "share of the rows that only the scorecard sees", 0.05, 0.6),
    Knob("alpha_high", float, 100.0, "first and mildest alpha that ssd tries: it selects least", 1e-6, 1e6),
    Knob("alpha_low", float, 0.1, "last and strongest alpha that ssd tries", 1e-6, 1e6),
    Knob("dampening", float, 1.0, "factor lambda in ssd: below 1 selected weights shrink more", 0.0, 1e6),
    Knob("keep_share", float, 0.2, "share of weights kept as uploaded, the lowest that fine_mixing tries", 0.0, 1.0),
    Knob("keep_tries", int, 4, "most shares that fine_mixing tries, in equal steps from keep_share to 1", 1, 100),
    Knob("fresh_head", bool, True, "choice, in retrain, to draw a new classification head instead of the base's own"),
    Knob(
        "relearning",
        bool,
        False,
        "choice to measure how fast the trojan comes back when the repaired model is trained on it again; costs "
        "up to 40 steps and 4 evaluations, twice that with a control",
    ),
    Knob(
        "precision",
        str,
        "auto",
        "arithmetic of the forward pass: auto takes bf16 where the device has it and gains by it",
        choices=("auto", "fp32", "bf16"),
    ),
    Knob(
        "memory",
        str,
        "full",
        "choice between speed and memory: lean keeps moments in 16 bits and the start in a file, and works out "
        "activations twice; offload also keeps moments and anchor in the host's memory instead of the GPU's",
        choices=("full", "lean", "offload"),
    ),
)


def knobs_of(method: str) -> tuple[Knob, ...]:
    """The knobs with the defaults of one method. Raises BadRecipe for an unknown method."""
    _check_method(method)
    own = {**METHOD_DEFAULTS[method], **METHOD_FIXED[method]}
    return tuple(replace(knob, default=own.get(knob.name, knob.default)) for knob in KNOBS)


@dataclass(frozen=True)
class Recipe:
    """One method with all its knobs set. Build it with `Recipe.of`."""

    method: str
    aim: str
    ascent: float
    ce_ceiling: float
    retain: float
    distill: float
    align: float
    blend: bool
    rehearse: float
    lambda_clean: float
    lambda_trig: float
    lr: float
    lr_paired: float
    lr_growth: float
    pace: int
    lr_decay: float
    steps: int
    search_budget: int
    warmup: int
    beta2: float
    weight_decay: float
    max_grad_norm: float
    batch_triggered: int
    batch_clean: int
    batch_eval: int
    max_length: int
    eval_every: int
    patience: int
    margin: float
    accuracy_budget: float
    fisher: str
    fisher_samples: int
    max_drift: float
    rollbacks: int
    tune_share: float
    report_share: float
    alpha_high: float
    alpha_low: float
    dampening: float
    keep_share: float
    keep_tries: int
    fresh_head: bool
    relearning: bool
    precision: str
    memory: str

    @classmethod
    def of(cls, method: str, given: Mapping[str, object] | None = None) -> Recipe:
        """The method's defaults, overridden by `given`. None as a value means the default. Raises BadRecipe."""
        values = _read_all(knobs_of(method), given or {}, f"the recipe of {method}", BadRecipe)
        for name, fixed in METHOD_FIXED[method].items():
            if values[name] != fixed:
                raise BadRecipe(
                    f"{name} is always {fixed} in {method}: leave it out, or choose method lya", knob=name
                )
        recipe = cls(method=method, **values)
        if recipe.tune_share + recipe.report_share > 0.8:
            raise BadRecipe(
                "tune_share and report_share together may take at most 0.8 of the rows", knob="tune_share"
            )
        if recipe.alpha_low > recipe.alpha_high:
            raise BadRecipe("alpha_low may not lie above alpha_high", knob="alpha_low")
        return recipe

    @classmethod
    def auto(cls, method: str, given: Mapping[str, object] | None = None) -> Recipe:
        """What a caller gets who asks for none: the method's defaults and, where it has one, a search from there."""
        return cls.of(method, {**METHOD_SEARCH.get(method, {}), **(given or {})})

    @property
    def most_steps(self) -> int:
        """The most optimizer steps that a run takes, all attempts together."""
        return self.search_budget or self.steps

    @property
    def lean(self) -> bool:
        """Whether memory is saved at the cost of time."""
        return self.memory != "full"

    @property
    def offload(self) -> bool:
        """Whether what only the optimizer's step reads lies in the host's memory."""
        return self.memory == "offload"

    def to_dict(self) -> dict[str, Value]:
        """All values by name, `method` among them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Recipe:
        """The inverse of `to_dict`, checked again. Raises BadRecipe."""
        rest = {name: value for name, value in data.items() if name != "method"}
        return cls.of(str(data.get("method", "")), rest)

    def fingerprint(self) -> str:
        """SHA-256, in hex, of the recipe as canonical JSON (sorted names, no spaces)."""
        return _fingerprint(self.to_dict())


POLICY_KNOBS: tuple[Knob, ...] = (
    Knob("max_excess_asr", float, 0.05, "most that the attack's success may lie above the floor", 0.0, 1.0),
    Knob("max_accuracy_drop", float, 0.02, "most clean accuracy that may be lost", 0.0, 1.0),
    Knob(
        "max_label_flip_rate",
        float,
        0.05,
        "most that triggered samples of any class may be misread beyond what they are without the trigger",
        0.0,
        1.0,
    ),
    Knob("min_triggered", int, 20, "fewer held-out triggered samples than this decide nothing", 1, 1_000_000),
    Knob("min_clean", int, 40, "fewer held-out clean samples than this decide nothing", 1, 1_000_000),
)


@dataclass(frozen=True)
class Policy:
    """What the caller accepts as removed. Build it with `Policy.of`."""

    max_excess_asr: float
    max_accuracy_drop: float
    max_label_flip_rate: float
    min_triggered: int
    min_clean: int

    @classmethod
    def of(cls, given: Mapping[str, object] | None = None) -> Policy:
        """The defaults, overridden by `given`. Raises BadPolicy naming the limit, its range and its meaning."""
        return cls(**_read_all(POLICY_KNOBS, given or {}, "the policy", BadPolicy))

    def to_dict(self) -> dict[str, Value]:
        """All limits by name."""
        return asdict(self)


def _check_method(method: object) -> None:
    if not isinstance(method, str) or method not in METHODS:
        raise BadRecipe(f"unknown method {method!r:.60}: choose one of {', '.join(METHODS)}", knob="method")


def _read_all(
    knobs: tuple[Knob, ...], given: Mapping[str, object], what: str, error: type[BadRequest]
) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise error(f"{what} must be an object of names and values")
    known = {knob.name for knob in knobs}
    for name in given:
        if name not in known:
            raise error(
                f"{name!r:.60} is not a setting of {what}: it has {', '.join(sorted(known))}", knob=str(name)[:60]
            )
    return {knob.name: _read_one(knob, given.get(knob.name), what, error) for knob in knobs}


def _read_one(knob: Knob, value: object, what: str, error: type[BadRequest]) -> Value:
    if value is None:
        return knob.default
    try:
        return knob.read(value)
    except ValueError as reason:
        raise error(
            f"{knob.name} in {what}: {reason}. It is the {knob.meaning}.",
            knob=knob.name,
            low=_finite(knob.low),
            high=_finite(knob.high),
            choices=list(knob.choices),
        ) from reason


def _finite(bound: float | None) -> float | None:
    return bound if bound is not None and math.isfinite(bound) else None


def _fingerprint(values: Mapping[str, Value]) -> str:
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
