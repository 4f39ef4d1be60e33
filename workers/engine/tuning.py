"""The loop that every method shares: step, guard, look, keep the best state, stop.

Guarantees: the model ends in the best state seen on the tune part (the start among them), which is finite and within
the allowed drift; the callback hears every step and may raise to cancel.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from app.domain.recipe import Recipe
from app.domain.report import StepMetric, Stop
from workers.engine import balance, blends, guards, lya, points, rehearsal, scorecard, stopping
from workers.engine import device as devices
from workers.engine import optimizer as optimizers
from workers.engine.batches import endless, predict
from workers.engine.loading import Model
from workers.engine.lya import Anchor, Lessons
from workers.engine.points import Frame, Points
from workers.engine.scorecard import Reading, Sheet
from workers.engine.snapshot import Snapshot
from workers.engine.stopping import Look

SETTLED = 0.02  # a learning rate that fell to this share of its peak moves nothing any more
PUSH = 0.5  # nats of log-odds that the aim moves beyond the floor at a look that finds the run stuck above it
MOST_PUSH = 4.0
MOST_GROWTH = 15.0  # the learning rate never rises beyond this multiple of the one asked for
MOST_AWAKE = 4.0  # nor beyond this one, or twice the first rate, for a trojan that only sleeps
CALMER = 0.93  # what the unease falls to where a look has brought something better
FAR = 0.5  # share of the way to the floor up to which a look reads triggered rows alone
FRAME = "tuning"
OnStep = Callable[[StepMetric], None]


@dataclass(frozen=True)
class Task:
    """What a run works on. `tune` steers, measured against `uploaded`, the uploaded model's reading of it without a
    lean to a target, which its logits are rid of by adding `shift`; `start` is what the model says of it before the
    run; `points` keeps the state now and then.
    """

    model: Model
    lessons: Lessons
    tune: Sheet
    anchor: Anchor
    uploaded: Reading
    start: Reading
    shift: Tensor = field(default_factory=lambda: torch.zeros(()))
    points: Points = field(default_factory=Points)

    def opening(self) -> Look:
        """The look at the model before the run: the trojan is awake, so nothing is rehearsed."""
        return stopping.look(self.tune, self.start, self.uploaded)


@dataclass(frozen=True)
class Tuned:
    """How a run went. `kept`: the tune part in the state that was kept, `last`: at the last look."""

    stop: Stop
    steps: int
    tokens: int
    rollbacks: int
    kept: Look
    last: Look

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Tuned:
        """The inverse of `dataclasses.asdict`."""
        looks = {name: Look.of(kept[name]) for name in ("kept", "last")}
        return cls(**{**kept, "stop": Stop(**kept["stop"]), **looks})


@dataclass
class _Best:
    """The best state so far: its rank, its step, the look at it and its parameters."""

    rank: tuple[float, float, float]
    step: int
    seen: Look
    state: Snapshot


@dataclass
class _Course:
    """What changes as a run goes."""

    parameters: list[Tensor]
    best: _Best
    opening: Look
    last: Look
    learning_rate: float
    optimizer: torch.optim.Optimizer
    least_unease: float = math.inf
    peak: float = 0.0
    near: bool = False
    push: float = 0.0
    since: int = 0
    stale: int = 0
    rested: int = 0
    rollbacks: int = 0
    tokens: int = 0
    step: int = 0
    started: float = field(default_factory=time.perf_counter)


_PLAIN = (
    "learning_rate", "least_unease", "peak", "near", "push", "since", "stale", "rested", "rollbacks", "tokens",
    "step",
)  # fmt: skip


def run(task: Task, recipe: Recipe, generator: torch.Generator, on_step: OnStep) -> Tuned:
    """Treat `task.model` in place until the stop rule holds or the budget is spent, and load the best state."""
    if recipe.blend:
        wider = blends.widen(task.lessons, task.model, task.shift, recipe.batch_eval, generator.initial_seed())
        task = replace(task, lessons=wider)
    parameters = lya.trainable(task.model)
    old = task.points.take(FRAME)
    course = _gone_on(old, parameters, recipe) if old else _begun(task, recipe, parameters, on_step)
    draws = old.tensors["draws"] if old else generator.get_state()
    generator.set_state(draws)
    batches = _batches(task.lessons, recipe, generator)
    for _ in range(course.step):
        next(batches)
    with task.points.frame(FRAME, lambda: _frame(course, draws)):
        stop, steps = _steps(task, recipe, course, batches, on_step)
    course.best.state.restore(parameters)
    task.model.zero_grad(set_to_none=True)
    return Tuned(stop, steps, course.tokens, course.rollbacks, course.best.seen, course.last)


def _begun(task: Task, recipe: Recipe, parameters: list[Tensor], on_step: OnStep) -> _Course:
    opening = task.opening()
    best = _Best(stopping.rank(opening, recipe), 0, opening, Snapshot(parameters))
    rate = task.lessons.first_rate(recipe)
    course = _Course(parameters, best, opening, opening, rate, optimizers.make(parameters, rate, recipe))
    on_step(_metric(0, None, opening, {"seconds": 0.0}))
    return course


def _frame(course: _Course, draws: Tensor) -> Frame:
    """All that changes as a run goes. The batches are drawn again from the state `draws` of their generator."""
    tensors = points.numbered(course.parameters, "theta") | points.numbered(course.best.state.mapped(), "best")
    for place, parameter in enumerate(course.parameters):
        tensors |= {f"adam.{key}.{place}": each for key, each in course.optimizer.state.get(parameter, {}).items()}
    best = {"rank": course.best.rank, "step": course.best.step, "seen": asdict(course.best.seen)}
    facts = {name: getattr(course, name) for name in _PLAIN}
    facts |= {"best": best, "opening": asdict(course.opening), "last": asdict(course.last)}
    return Frame(tensors | {"draws": draws}, facts | {"elapsed": time.perf_counter() - course.started})


def _gone_on(old: Frame, parameters: list[Tensor], recipe: Recipe) -> _Course:
    """The course of `_frame`, with its weights in the model."""
    facts, best = old.facts, old.facts["best"]
    guards.restore(parameters, points.listed(old.tensors, "theta"))
    kept = _Best(
        tuple(best["rank"]), best["step"], Look.of(best["seen"]), Snapshot(points.listed(old.tensors, "best"))
    )
    optimizer = optimizers.make(parameters, facts["learning_rate"], recipe)
    for name, tensor in old.tensors.items():
        if name.startswith("adam."):
            _, key, place = name.split(".")
            owner = parameters[int(place)]
            offload = recipe.offload and key in optimizers.MOMENTS
            optimizer.state[owner][key] = devices.aside(tensor, owner.device, offload)
    course = _Course(
        parameters, kept, Look.of(facts["opening"]), Look.of(facts["last"]), facts["learning_rate"], optimizer
    )
    for name in _PLAIN:
        setattr(course, name, facts[name])
    course.started = time.perf_counter() - facts["elapsed"]
    return course


def relay(on_step: OnStep, before: int, **figures: float) -> OnStep:
    """For one run of several: counts its steps on from the `before` that others took, and adds `figures` to each.
    The opening is told of the first run alone.
    """

    def tell(metric: StepMetric) -> None:
        if metric.step or not before:
            on_step(replace(metric, step=before + metric.step, values={**metric.values, **figures}))

    return tell


def _steps(
    task: Task, recipe: Recipe, course: _Course, batches: Iterator[tuple[list[int], list[int]]], on_step: OnStep
) -> tuple[Stop, int]:
    for step in range(course.step + 1, recipe.steps + 1):
        again = course.rested > 0 and step == course.rested + math.ceil(recipe.eval_every / 2)
        due = again or step % recipe.eval_every == 0 or step == recipe.steps
        figures = _one_step(task, recipe, course, next(batches), looked_at=due)
        if figures is not None:
            if due and step < recipe.steps and (glance := _glance(task, recipe, course)) is not None:
                figures["asr"], due = glance.asr, False
                _hasten(glance, step, recipe, course)
            seen = _look(task, recipe, balanced=course.near) if due else None
            on_step(_metric(step, figures.pop("loss"), seen, figures))
            if seen is not None and _enough(task.lessons, seen, step, recipe, course):
                return _ended(course, step, "the run settled"), step
        elif _roll_back(recipe, course):
            on_step(_metric(step, None, None, {"rolled_back": 1.0, "lr": course.learning_rate}))
        else:
            words = f"the run left its bounds {course.rollbacks} times, also at a lower learning rate"
            return Stop("diverged", words, step, course.best.step), step
        course.step = step
        task.points.offer(step)
    return _ended(course, recipe.steps, f"the {recipe.steps} steps are spent"), recipe.steps


def _ended(course: _Course, step: int, how: str) -> Stop:
    if course.best.rank[0] <= 0.0:
        words = (
            f"{how}; in the kept state triggered samples are read as the target no more often than clean ones, at no "
            "cost in accuracy, as far as the tune part can tell"
        )
        return Stop("floor-reached", words, step, course.best.step)
    words = f"{how} and the stop rule never held; the nearest state was kept"
    return Stop("budget-spent", words, step, course.best.step)


def _one_step(
    task: Task, recipe: Recipe, course: _Course, rows: tuple[list[int], list[int]], *, looked_at: bool
) -> dict[str, float] | None:
    """One optimizer step and its figures; None if a guard forbids it or its outcome.

    The drift comes with the pull, from where the step began; where its outcome is looked at, and so may be kept, from
    there too.
    """
    parameters = course.parameters
    course.optimizer.zero_grad()  # a step that was refused leaves its own
    lessons = lya.pushed(task.lessons, course.push)
    # Rehearsed first: it takes a gradient of its own, and the step's need not be held beside it.
    terms = rehearsal.climb(task.model, lessons, *rows, recipe)
    terms |= lya.hold(task.model, lessons, *rows, recipe)
    loss = lya.total(terms, recipe)
    if not guards.bounded(loss, parameters, recipe.max_grad_norm):
        return None
    pull, furthest = lya.add_pull(parameters, task.anchor), recipe.max_drift * task.anchor.size
    if not pull.distance <= furthest:  # NaN fails this too
        return None
    _set_rate(course, recipe)
    course.optimizer.step()
    course.optimizer.zero_grad()  # not held until the next step: a look takes a gradient of its own
    course.tokens += _count_tokens(task.lessons, rows)
    distance = lya.distance(parameters, task.anchor) if looked_at else pull.distance
    if not distance <= furthest:
        return None
    terms |= {"ewc": pull.energy, "drift": distance / task.anchor.size, "lr": _rate(course, recipe)}
    return {"loss": loss + pull.energy, **terms, "seconds": time.perf_counter() - course.started}


def _set_rate(course: _Course, recipe: Recipe) -> None:
    course.since += 1
    for group in course.optimizer.param_groups:
        group["lr"] = _rate(course, recipe)


def _rate(course: _Course, recipe: Recipe) -> float:
    """The learning rate rises in equal steps over the warm-up, anew after each rollback."""
    return course.learning_rate * min(1.0, course.since / (recipe.warmup + 1))


def _roll_back(recipe: Recipe, course: _Course) -> bool:
    """Back to the best state with half the learning rate and a new optimizer; False if there were too many."""
    course.rollbacks += 1
    if course.rollbacks > recipe.rollbacks:
        return False
    course.best.state.restore(course.parameters)
    course.learning_rate /= 2
    course.optimizer = optimizers.make(course.parameters, course.learning_rate, recipe)
    course.since = course.stale = course.rested = 0
    return True


def _enough(lessons: Lessons, seen: Look, step: int, recipe: Recipe, course: _Course) -> bool:
    """Keep the state if it is the best; True once two looks in a row met the rule also where relearning would lead
    (the second comes sooner), or `patience` of them met it and brought nothing better. While the trojan only sleeps
    and the rate may still rise, none of them counts.

    A run that is stuck above the floor (what it learned of its rows does not reach the tune part's) aims further.
    """
    rank, met = stopping.rank(seen, recipe), stopping.meets(seen, recipe)
    calmer = seen.unease < CALMER * course.least_unease
    course.least_unease = min(course.least_unease, seen.unease)
    course.last = seen
    if rank < course.best.rank:
        course.best = _Best(rank, step, seen, Snapshot(course.parameters))
    arrived = met or stopping.way(seen, course.opening) >= stopping.LAST_STRETCH
    awake = stopping.woken_way(seen, course.opening) < stopping.LAST_STRETCH
    # A trojan that only sleeps may take a higher rate, but not the climb that a small model needs to move at all.
    most_awake = max(MOST_AWAKE, 2.0 * lessons.first_rate(recipe) / recipe.lr)
    course.near = course.near or (arrived and not (awake and course.learning_rate < most_awake * recipe.lr))
    course.stale = course.stale + 1 if course.near and met and not calmer else 0
    stuck = course.near and not calmer and recipe.aim == "floor" and course.push < MOST_PUSH
    stuck = stuck and stopping.above_floor(seen, recipe)
    course.push += PUSH if stuck else 0.0
    rests = stopping.rests(seen, recipe)
    late = stopping.lags(seen, course.opening, step, recipe)
    asleep = stopping.lags_woken(seen, course.opening, step, recipe)
    course.learning_rate = next_rate(
        course.learning_rate,
        recipe,
        near=course.near,
        good=stuck or (calmer and not met),
        lagging=(late or asleep) and not rests,
        most=MOST_GROWTH if late else most_awake,
    )
    course.peak = max(course.peak, course.learning_rate)
    before, course.rested = course.rested, step if rests else 0
    return (
        (before > 0 and course.rested > 0)
        or course.stale >= recipe.patience
        or course.learning_rate < SETTLED * course.peak
    )


def _hasten(glance: Look, step: int, recipe: Recipe, course: _Course) -> None:
    """The learning rate after a glance. What is seen there does not rest."""
    course.rested = 0
    late = stopping.lags(glance, course.opening, step, recipe)
    course.learning_rate = next_rate(course.learning_rate, recipe, near=False, good=False, lagging=late)
    course.peak = max(course.peak, course.learning_rate)


def next_rate(
    rate: float, recipe: Recipe, *, near: bool, good: bool, lagging: bool, most: float = MOST_GROWTH
) -> float:
    """The learning rate after a look. It rises only on the way to the floor, and within `most` of the one asked for.

    `near`: the run has been close to the floor. If it swings away again it has overshot: from then on the rate only
    falls, at each look that is not `good` (still getting better, and not there yet).
    """
    if near:
        return rate if good else rate * recipe.lr_decay
    return max(rate, min(rate * recipe.lr_growth, recipe.lr * most)) if lagging else rate


def _batches(lessons: Lessons, recipe: Recipe, generator: torch.Generator) -> Iterator[tuple[list[int], list[int]]]:
    """Rows of one step: triggered and clean. A term that is switched off takes none."""
    nothing: list[int] = []
    size, others = lessons.batch_sizes(recipe)
    triggered = endless(lessons.triggered, size, generator) if recipe.ascent > 0 else None
    clean = endless(lessons.clean, others, generator) if recipe.retain + recipe.distill > 0 else None
    while True:
        yield (next(triggered) if triggered else nothing), (next(clean) if clean else nothing)


def _count_tokens(lessons: Lessons, rows: tuple[list[int], list[int]]) -> int:
    triggered, clean = rows
    return sum(len(lessons.triggered.ids[row]) for row in triggered) + sum(
        len(lessons.clean.ids[row]) for row in clean
    )


def _glance(task: Task, recipe: Recipe, course: _Course) -> Look | None:
    """A look at the triggered rows alone where these are still far from the floor; None where they are not, and once
    a look was whole: then they no longer were.

    The rule does not hold there, whatever the other rows say: they need not be read. It is no state to keep.
    """
    looked = course.last != course.opening
    if looked or recipe.ascent == 0 or recipe.aim != "floor" or not bool(task.tune.counted.any()):
        return None
    logits = predict(task.model, task.tune.triggered, recipe.batch_eval)
    seen = stopping.glance(task.tune, logits, course.opening)
    return seen if stopping.way(seen, course.opening) < FAR and stopping.attacked(seen, recipe) else None


def _look(task: Task, recipe: Recipe, *, balanced: bool) -> Look:
    # Woken first: the weights come back from it rounded, and those that are read are those that may be kept.
    woken = rehearsal.woken_logits(task.model, task.lessons, task.tune.triggered, recipe)
    reading = scorecard.read(task.model, task.tune, recipe.batch_eval)
    if balanced and recipe.distill > 0:
        lean = balance.settle(task.model, reading.clean, task.uploaded.clean)
        reading, woken = reading.moved(lean), None if woken is None else woken + lean
    return stopping.look(task.tune, reading, task.uploaded, woken)


def _metric(step: int, loss: float | None, seen: Look | None, figures: dict[str, float]) -> StepMetric:
    values: dict[str, float | None] = dict(figures)
    if seen is not None:
        values |= {"asr": seen.asr, "floor": seen.floor, "clean_accuracy": seen.clean_accuracy, "unease": seen.unease}
    return StepMetric(step, "ascent", loss, values)
