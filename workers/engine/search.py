"""The recipe for this model and these samples: attempts from one start, until one of them meets the stop rule.

The first attempt is the recipe that was asked for, gentler where the uploaded model is unsure of its clean rows;
within it the learning rate and the length already find themselves. How an attempt ended on the tune part says where
the next one goes:

    the run left its bounds                              slower   lr / s
    the attack is left above its floor, accuracy holds   looser   lambda / s, lr * sqrt(s)
    accuracy is lost, or the trojan moved elsewhere      tighter  lambda * s, lr / sqrt(s)
    the same, or the trojan is awake, the first time     wider    blended rows are learned from too

with s = 4, and 2 once the direction has changed. lambda stands for both weights of the anchor. Awake is a trojan that
the few rows of the tune part do not see any more, but blended pairs do (see blends); awake in spite of a wider recipe
it calls for a looser one. Where rows have no clean text there are no pairs, and no wider recipe.

Guarantees: all attempts together take at most `search_budget` steps; one Fisher and one theta0 serve them all; no
row of the report part has a say; every attempt draws the same batches, so the recipe that was kept makes the same
model again when it is run as given; the model ends in the state that ranks best over all attempts, the uploaded one
among them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from app.domain.errors import BadRecipe
from app.domain.methods import METHOD_SEARCH
from app.domain.recipe import Recipe
from app.domain.report import Attempt, Search
from workers.engine import blends, lya, points, rehearsal, stopping, tuning
from workers.engine.lya import Anchor
from workers.engine.points import Frame
from workers.engine.snapshot import Snapshot
from workers.engine.tuning import OnStep, Task, Tuned

FRAME = "search"
STRIDE = 4.0  # powers of 2 scale the anchor's weights without rounding
AWAKE = 0.1  # share of blended pairs; without a trojan a small model parts up to 0.06 of them
UNSURE = 0.6  # mean entropy of the answers to clean rows, as a share of the most that it can be
GENTLE = 8.0
HOLD = 3.0  # how much more a model is held to its own answers where half the rows are blended
BEGAN_GENTLY = (
    "The uploaded model is unsure of its clean samples, so the first recipe was a gentle one: 1/"
    f"{GENTLE:g} of the anchor, the plain learning rate and no rehearsal."
)
STILL_AWAKE = (
    "the tune part meets the stop rule, but samples blended with clean rows still fall to the trigger: the trojan is "
    "not out; the nearest state was kept"
)
Direction = Literal["wider", "looser", "tighter", "slower"]


@dataclass(frozen=True)
class Found:
    """How the run went, the recipe that was kept, and how that was found."""

    tuned: Tuned
    recipe: Recipe
    record: Search


@dataclass(frozen=True)
class Try:
    """One attempt: its recipe, how it went, its seconds, and the share of blended pairs in which its kept state
    still falls to the trigger; 0 where that was not asked."""

    recipe: Recipe
    tuned: Tuned
    seconds: float
    awake: float = 0.0

    @property
    def ruled(self) -> bool:
        """Its kept state meets the stop rule."""
        return stopping.meets(self.tuned.kept, self.recipe)

    @property
    def met(self) -> bool:
        """The same, and the trojan is not awake in other surroundings."""
        return self.ruled and self.awake <= AWAKE


@dataclass
class _Gone:
    """How far a search is: the state of the batches' generator before each attempt, the attempts, which was best and
    the state that it kept.
    """

    draws: Tensor
    tries: list[Try] = field(default_factory=list)
    best: int = 0
    state: Snapshot | None = None


def as_given(tuned: Tuned, recipe: Recipe) -> Found:
    """What is said of a run without a search."""
    words = f"The recipe was run as given; what was not given has the defaults of {recipe.method}."
    if recipe.method not in METHOD_SEARCH:
        words += f" {recipe.method} has no search for a recipe."
    return Found(tuned, recipe, Search(recipe.fingerprint(), words))


def run(task: Task, asked: Recipe, generator: torch.Generator, on_step: OnStep) -> Found:
    """Try recipes from `asked` on, and load the best state into `task.model`. The anchor's weights are scaled in
    place.
    """
    parameters = lya.trainable(task.model)
    first = gentle(asked) if unsure(task.uploaded.clean) else asked
    old = task.points.take(FRAME)
    gone = _gone_on(old) if old else _Gone(generator.get_state())
    if old is None:  # a point holds the anchor as its attempt had it
        _rescale(task.anchor, asked, first)
    wide = widens(task, first)
    due, why = follow(first, gone.tries, wide=wide)
    with task.points.frame(FRAME, lambda: _frame(gone)):
        while due is not None:
            if gone.tries and old is None:
                _rescale(task.anchor, gone.tries[-1].recipe, due)
                task.anchor.restore(parameters)
            old = None
            gone.tries.append(_try(task, due, gone, generator, on_step))
            if gone.state is None or _ranks(gone.tries[-1], asked) < _ranks(gone.tries[gone.best], asked):
                gone.best, gone.state = len(gone.tries) - 1, Snapshot(parameters)
            due, why = follow(first, gone.tries, wide=wide)
    assert gone.state is not None, "a first attempt is always due"
    gone.state.restore(parameters)
    tries, best = gone.tries, gone.best
    began = f"{BEGAN_GENTLY} " if first != asked else ""
    record = Search(asked.fingerprint(), began + _words(first, tries, best, why), tuple(map(_attempt, tries)), best)
    return Found(_together(tries, best), tries[best].recipe, record)


def _try(task: Task, due: Recipe, gone: _Gone, generator: torch.Generator, on_step: OnStep) -> Try:
    generator.set_state(gone.draws)
    task.points.before = _steps(gone.tries)
    began = time.perf_counter()
    hear = tuning.relay(on_step, _steps(gone.tries), attempt=len(gone.tries) + 1.0)
    tuned = tuning.run(task, due, generator, hear)
    asks = widens(task, due) and stopping.meets(tuned.kept, due)
    seed = generator.initial_seed() + 1  # not the blends that a wider recipe learns from
    awake = blends.awake(task.lessons, task.model, due.batch_eval, seed) if asks else 0.0
    return Try(due, tuned, time.perf_counter() - began, awake)


def widens(task: Task, recipe: Recipe) -> bool:
    """Whether blended pairs have something to say: most triggered rows have a clean text, they are drawn to what the
    uploaded model says of these, and what it says of rows that nobody wrote is no guess.
    """
    drawn = recipe.ascent > 0 and recipe.aim == "floor" and task.lessons.paired(recipe) >= rehearsal.MOST
    return drawn and not unsure(task.uploaded.clean)


def _ranks(one: Try, asked: Recipe) -> tuple[float, float, float]:
    over, woken, unease = stopping.rank(one.tuned.kept, asked)
    return max(over, one.awake - AWAKE), woken, unease


def _frame(gone: _Gone) -> Frame:
    tries = [
        {"recipe": each.recipe.to_dict(), "tuned": asdict(each.tuned), "seconds": each.seconds, "awake": each.awake}
        for each in gone.tries
    ]
    state = gone.state.mapped() if gone.state is not None else []
    tensors = points.numbered(state, "state") | {"draws": gone.draws}
    return Frame(tensors, {"tries": tries, "best": gone.best})


def _gone_on(old: Frame) -> _Gone:
    tries = [
        Try(Recipe.from_dict(each["recipe"]), Tuned.of(each["tuned"]), each["seconds"], each["awake"])
        for each in old.facts["tries"]
    ]
    state = points.listed(old.tensors, "state")
    return _Gone(old.tensors["draws"], tries, old.facts["best"], Snapshot(state) if state else None)


def unsure(clean: Tensor) -> bool:
    """Whether a model with these logits [m, classes] of clean rows hardly knows them: their answers' mean entropy is
    near that of a guess.
    """
    answers = torch.log_softmax(clean, -1)
    entropy = -(answers.exp() * answers).sum(-1).mean() if len(answers) else torch.zeros(())
    return float(entropy) > UNSURE * math.log(answers.shape[-1])


def gentle(asked: Recipe) -> Recipe:
    """The recipe for a model that is unsure of its clean rows.

    There a trojan moves a row by little, and so does the gradient that takes it out, which the anchor would outweigh
    (its Fisher is scaled to mean 1); a high rate throws all rows to one side and back; and a rehearsal teaches the
    clean rows above all: where it leads the trojan is drowned, not awake.
    """
    clean, triggered = asked.lambda_clean / GENTLE, asked.lambda_trig / GENTLE
    return replace(asked, lambda_clean=clean, lambda_trig=triggered, lr_paired=1.0, rehearse=0.0)


def follow(asked: Recipe, tries: Sequence[Try], *, wide: bool) -> tuple[Recipe | None, str]:
    """The recipe to try after `tries`; or None, and why there is no other. `wide`: whether one may be wider."""
    left = asked.search_budget - _steps(tries)
    if tries and tries[-1].met:
        return None, ""
    if tries and left < min(asked.pace, asked.steps):
        return None, f"too few of {asked.search_budget} steps were left for another attempt"
    try:
        moved = move(asked, [direction(each, wide=wide) for each in tries])
    except BadRecipe:
        return None, "the next attempt would leave the range of a knob"
    if any(_moves(each.recipe) == _moves(moved) for each in tries):
        return None, "the next attempt would be one of these again"
    return replace(moved, steps=min(asked.steps, left), search_budget=0), ""


def _moves(recipe: Recipe) -> tuple[float, float, bool]:
    return recipe.lambda_clean, recipe.lr, recipe.blend


def direction(ended: Try, *, wide: bool) -> Direction:
    """Where to go after an attempt that did not do."""
    if ended.tuned.stop.code == "diverged":
        return "slower"
    if not ended.ruled and stopping.above_floor(ended.tuned.last, ended.recipe):
        return "looser"
    if wide and not ended.recipe.blend:
        return "wider"
    return "looser" if ended.ruled else "tighter"


def move(asked: Recipe, directions: Sequence[Direction]) -> Recipe:
    """The recipe that lies that way from `asked`. Raises BadRecipe where it leaves the range of a knob."""
    clean, triggered, rate = asked.lambda_clean, asked.lambda_trig, asked.lr
    turns = [way for way in directions if way != "wider"]
    for place, way in enumerate(turns):
        stride = STRIDE if len(set(turns[: place + 1])) == 1 else STRIDE**0.5
        factor = {"looser": 1.0 / stride, "tighter": stride, "slower": 1.0}[way]
        clean, triggered = clean * factor, triggered * factor
        rate *= {"looser": stride**0.5, "tighter": stride**-0.5, "slower": 1.0 / stride}[way]
    if turns:
        rate = float(f"{rate:.3g}")
    wider = {"blend": True, "distill": HOLD * asked.distill} if "wider" in directions else {}
    moved = {"lambda_clean": clean, "lambda_trig": triggered, "lr": rate, **wider}
    return Recipe.from_dict({**asked.to_dict(), **moved})


def _rescale(anchor: Anchor, old: Recipe, new: Recipe) -> None:
    """Make the weights of one lambda those of another: both terms of the anchor moved by the same factor."""
    before, after = old.lambda_clean or old.lambda_trig, new.lambda_clean or new.lambda_trig
    if anchor.weights is not None and before != after:
        torch._foreach_mul_(anchor.weights, after / before)


def _steps(tries: Sequence[Try]) -> int:
    return sum(each.tuned.steps for each in tries)


def _together(tries: Sequence[Try], best: int) -> Tuned:
    """All attempts as one run, which ended as the kept one did."""
    kept, steps = tries[best].tuned, _steps(tries)
    stop = replace(kept.stop, step=steps, kept_step=_steps(tries[:best]) + kept.stop.kept_step)
    if tries[best].ruled and not tries[best].met:
        stop = replace(stop, code="budget-spent", words=STILL_AWAKE)
    tokens, rollbacks = (sum(getattr(each.tuned, name) for each in tries) for name in ("tokens", "rollbacks"))
    return Tuned(stop, steps, tokens, rollbacks, kept.kept, tries[-1].tuned.last)


def _attempt(one: Try) -> Attempt:
    recipe, tuned, kept = one.recipe, one.tuned, one.tuned.kept
    return Attempt(
        lambda_clean=recipe.lambda_clean,
        lambda_trig=recipe.lambda_trig,
        lr=recipe.lr,
        steps=tuned.steps,
        seconds=round(one.seconds, 3),
        ended=tuned.stop.code,
        kept_step=tuned.stop.kept_step,
        asr=kept.asr,
        floor=kept.floor,
        clean_accuracy=kept.clean_accuracy,
        met=one.met,
    )


def _words(asked: Recipe, tries: Sequence[Try], best: int, why: str) -> str:
    """What was tried, how each attempt ended, and why this one was kept."""
    if len(tries) == 1 and tries[0].met:
        return f"The first recipe met the stop rule after {tries[0].tuned.steps} steps; no other was tried."
    said, before = [], asked
    for number, each in enumerate(tries, start=1):
        figures = f"lambda_clean {each.recipe.lambda_clean:g}, lr {each.recipe.lr:g}, {each.tuned.steps} steps"
        said.append(f"Attempt {number}{_turn(before, each.recipe)} ({figures}): {_ended(each)}.")
        before = each.recipe
    reason = "it met the stop rule" if tries[best].met else f"none met the stop rule, it came nearest, and {why}"
    spent = f"{_steps(tries)} of at most {asked.search_budget} steps were taken; the report part had no say."
    return " ".join((*said, f"Attempt {best + 1} was kept: {reason}.", spent))


def _ended(one: Try) -> str:
    """What the tune part showed at its end."""
    if one.met:
        return "it met the stop rule"
    if one.ruled:
        return f"the tune part met the stop rule, {one.awake:.0%} of blended samples still fell to the trigger"
    match direction(one, wide=False):
        case "slower":
            return "the run left its bounds"
        case "looser":
            return "the attack was left above its floor while accuracy held"
    if stopping.loses(one.tuned.last, one.recipe):
        return "accuracy fell below its budget"
    return "triggered rows were misread as other classes"


def _turn(old: Recipe, new: Recipe) -> str:
    """What is another in the new recipe; nothing where both are the same."""
    blended = ", with blended rows" if new.blend and not old.blend else ""
    if (old.lambda_clean, old.lambda_trig, old.lr) == (new.lambda_clean, new.lambda_trig, new.lr):
        return blended
    rate = f"a {'higher' if new.lr > old.lr else 'lower'} rate"
    before, after = abs(old.lambda_clean or old.lambda_trig), abs(new.lambda_clean or new.lambda_trig)
    if before == after:
        return f", with {rate}"
    return f", with a {'looser' if after < before else 'tighter'} anchor and {rate}"
