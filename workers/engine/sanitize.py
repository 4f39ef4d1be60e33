"""The use case: a trojaned classifier and its samples go in, a repaired one and a report come out.

    outcome = sanitize("model/", triggered, clean, Recipe.auto("lya"), Policy.of(), seed=0)
    save(outcome.model, outcome.tokenizer, "repaired/")

Guarantees: every method goes through the same splits, stop rule and scorecard; nothing measured on the report part
steers; the same inputs and seed give the same bytes on one device (see `device`).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from app.domain.errors import BadRecipe, Diverged, ModelRefused
from app.domain.methods import METHODS_WITH_BASE
from app.domain.recipe import Policy, Recipe
from app.domain.report import FisherFacts, Relearning, SanitizationReport, StepMetric, fidelity
from app.domain.samples import CleanSample, TriggeredSample
from app.domain.verdict import judge
from workers.engine import (
    dampening,
    facts,
    features,
    holding,
    loading,
    lya,
    memory,
    mixing,
    relearning,
    scorecard,
    search,
    splits,
    spread,
    tuning,
    vocabulary,
)
from workers.engine import device as devices
from workers.engine.facts import Bench, Station
from workers.engine.fisher import Diagonal
from workers.engine.holding import Held
from workers.engine.loading import Checkpoint, Model, Tokenizer
from workers.engine.lya import Lessons
from workers.engine.memory import Plan
from workers.engine.mixing import BaseWeights
from workers.engine.points import Points
from workers.engine.relearning import Pupil
from workers.engine.scorecard import Reading, Sheet
from workers.engine.search import Found
from workers.engine.splits import Parts, Rows
from workers.engine.tuning import Task
from workers.engine.vocabulary import Whole

ALL_WORDS = ("ssd", "fine_mixing")  # they also treat the vectors of words that no row uses
OnPhase = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """The repaired model in evaluation mode, its tokenizer, and the report. A model that was spread over several
    devices comes back on the CPU.
    """

    model: Model
    tokenizer: Tokenizer
    report: SanitizationReport


@dataclass
class _Clock:
    """Tells the caller of each phase and adds up its seconds, under the phase's name or one of its own."""

    on_phase: OnPhase
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def phase(self, name: str, counted_as: str | None = None) -> Iterator[None]:
        self.on_phase(name)
        started = time.perf_counter()
        yield
        entry = counted_as or name
        self.seconds[entry] = self.seconds.get(entry, 0.0) + time.perf_counter() - started


@dataclass(frozen=True)
class _Findings:
    """What a run found out, for the report. `distance` from theta0, and as a share of its norm."""

    planned: Plan
    distance: tuple[float, float]
    fisher: FisherFacts | None
    found: Found
    reading: Reading
    relearned: tuple[Relearning, ...]
    relearned_words: str


def sanitize(
    model_dir: str | Path,
    triggered: Sequence[TriggeredSample],
    clean: Sequence[CleanSample],
    recipe: Recipe,
    policy: Policy,
    *,
    seed: int = 0,
    on_step: Callable[[StepMetric], None] = lambda metric: None,
    on_phase: OnPhase = lambda phase: None,
    base_dir: str | Path | None = None,
    control_dir: str | Path | None = None,
    held_out: tuple[Sequence[TriggeredSample], Sequence[CleanSample]] | None = None,
    device: str = "auto",
    points: Points | None = None,
) -> Outcome:
    """Treat the classifier in `model_dir` with the recipe's method; with a `search_budget` from that recipe on.

    `on_phase` hears loading, fisher, ascent, evaluating (again for each part of it); `on_step` each step. Either may
    raise to cancel. `base_dir` is the clean checkpoint of METHODS_WITH_BASE, `control_dir` one that never had the
    trojan, for the relearning check. With `held_out` these rows alone make the scorecard. `points` keeps the state of
    the run and goes on from one; it changes the seconds of the report, its peak memory, and nothing else. Raises
    ModelRefused, BadSamples, TooFewSamples, BadRecipe, TooLarge, Diverged, and BadPoint before anything is trained.
    """
    _check_folders(recipe, base_dir, control_dir)
    devices.frugal_heap()
    places, clock = devices.pick(device), _Clock(on_phase)
    with devices.deterministic(seed, places[0]):
        with clock.phase("loading"):
            uploaded = _opened(loading.load(model_dir), places)
            parts = _parts(uploaded, Rows(tuple(triggered), tuple(clean)), recipe, held_out)
            bench = _bench(uploaded, parts, recipe)
            if recipe.method == "retrain" and base_dir is not None:
                bench = _on_base(bench, parts, recipe, base_dir, places)
            mixed_in = _mixed_in(bench, recipe, base_dir)
            control = _control(bench, parts, recipe, control_dir, places) if control_dir is not None else None
            recipe = devices.runnable(recipe, bench.checkpoint.model, bench.unlearn.page.clean)
            whole = _reduced(bench, recipe)
            others = [*(mixed_in or ()), *(control.checkpoint.model.parameters() if control else ())]
            planned = _planned(bench, whole, recipe, places, others)
        points = points or Points()
        points.open(_run_named(bench, parts, recipe, seed), lya.trainable(bench.checkpoint.model))
        generator = torch.Generator().manual_seed(seed)
        with clock.phase("fisher"):
            held = holding.hold(bench, whole, recipe, points, generator)
        with clock.phase("ascent"), holding.framed(held, points), memory.recomputed(bench.checkpoint.model, recipe):
            found = _treat(bench, held, recipe, points, mixed_in=mixed_in, generator=generator, on_step=on_step)
        with clock.phase("evaluating"):
            reading = scorecard.read(bench.checkpoint.model, bench.report.page, recipe.batch_eval)
        relearned = _relearn(bench, control, recipe, seed, clock)
        distance = lya.distance(lya.trainable(bench.checkpoint.model), held.anchor)
        vocabulary.restore(bench.checkpoint.model, whole)
        findings = _Findings(
            planned, (distance, distance / held.anchor.size), held.fisher, found, reading, *relearned
        )
        report = _report(bench, parts, findings, policy=policy, seed=seed, seconds=clock.seconds)
        spread.gather(bench.checkpoint.model)
    return Outcome(bench.checkpoint.model, bench.checkpoint.tokenizer, report)


def _check_folders(recipe: Recipe, base_dir: str | Path | None, control_dir: str | Path | None) -> None:
    if recipe.method in METHODS_WITH_BASE and base_dir is None:
        raise BadRecipe(f"{recipe.method} needs a clean base checkpoint: name one")
    if control_dir is not None and not recipe.relearning:
        raise BadRecipe("a control serves the relearning check alone: set relearning to true", knob="relearning")


def _parts(
    uploaded: Checkpoint,
    rows: Rows,
    recipe: Recipe,
    held_out: tuple[Sequence[TriggeredSample], Sequence[CleanSample]] | None,
) -> Parts:
    splits.check(rows, uploaded.labels)
    apart = Rows(tuple(held_out[0]), tuple(held_out[1])) if held_out is not None else None
    if apart is not None:
        splits.check(apart, uploaded.labels)
    return splits.split(rows, recipe.tune_share, recipe.report_share, apart)


def _opened(checkpoint: Checkpoint, places: Sequence[torch.device]) -> Checkpoint:
    """The checkpoint with its model where it can be read."""
    spread.settle(checkpoint.model, places, spread.to_read(checkpoint.model))
    return checkpoint


def _bench(uploaded: Checkpoint, parts: Parts, recipe: Recipe) -> Bench:
    """Tokenize the parts once, and read them with the model as it came."""

    def read(rows: Rows, *, aligned: bool = False) -> Station:
        page = scorecard.sheet(uploaded, rows, recipe.max_length)
        given = uploaded.model, page, recipe.batch_eval
        reading, found = features.read_sheet(*given) if aligned else (scorecard.read(*given), None)
        if not reading.finite():
            raise Diverged("the uploaded model gives logits that are not finite: its weights are damaged")
        return Station(scorecard.count_rows(page, reading), reading, found)

    unlearn, tune, report = read(parts.unlearn, aligned=recipe.align > 0), read(parts.tune), read(parts.report)
    return Bench(uploaded, unlearn, tune, report, tune.uploaded)


def _on_base(
    bench: Bench, parts: Parts, recipe: Recipe, base_dir: str | Path, places: Sequence[torch.device]
) -> Bench:
    """The same rows for the base checkpoint, which has its own tokenizer; what counts stays as it was."""
    base = _opened(loading.load_base(base_dir, bench.checkpoint, recipe.fresh_head), places)

    unlearn, tune, report = (
        replace(station, page=_reread(base, rows, station.page, recipe))
        for station, rows in zip(bench.stations, (parts.unlearn, parts.tune, parts.report), strict=True)
    )
    return Bench(base, unlearn, tune, report, scorecard.read(base.model, tune.page, recipe.batch_eval))


def _reduced(bench: Bench, recipe: Recipe) -> Whole:
    """Only the words that occur take part, where the method treats no others."""
    if recipe.method in ALL_WORDS:
        return Whole()
    return vocabulary.reduce(
        bench.checkpoint.model, [each for page in bench.pages for each in (page.triggered, page.twins, page.clean)]
    )


def _planned(
    bench: Bench, whole: Whole, recipe: Recipe, places: Sequence[torch.device], others: Sequence[Tensor | None]
) -> Plan:
    """What the run will take, with the model where that fits; `others`: the weights of other models. Raises TooLarge
    where it cannot fit.
    """
    page, model = bench.unlearn.page, bench.checkpoint.model
    beside = [each for each in others if each is not None and each.device.type == model.device.type]
    planned = memory.plan(model, (page.triggered, page.twins, page.clean), recipe, whole.left, beside)
    spread.settle(model, places, planned.total)
    memory.check(planned, spread.shares(model), recipe)
    return planned


def _mixed_in(bench: Bench, recipe: Recipe, base_dir: str | Path | None) -> BaseWeights | None:
    """The base's weights for the one method that mixes them in, read before anything is trained."""
    if recipe.method != "fine_mixing" or base_dir is None:
        return None
    return mixing.base_weights(base_dir, bench.checkpoint)


def _reread(checkpoint: Checkpoint, rows: Rows, page: Sheet, recipe: Recipe) -> Sheet:
    """The sheet of the same rows for another checkpoint; the same rows count."""
    return replace(scorecard.sheet(checkpoint, rows, recipe.max_length), counted=page.counted)


def _control(
    bench: Bench, parts: Parts, recipe: Recipe, control_dir: str | Path, places: Sequence[torch.device]
) -> Pupil:
    """The control, opened before anything is trained, so that a damaged one costs no run."""
    found = _opened(loading.load(control_dir), places)
    if found.labels.names != bench.checkpoint.labels.names:
        raise ModelRefused(
            f"the control's classes are {found.labels.describe()}: it needs those of the model, "
            f"{bench.checkpoint.labels.describe()}"
        )
    unlearn, _, report = bench.pages
    return Pupil(found, _reread(found, parts.unlearn, unlearn, recipe), _reread(found, parts.report, report, recipe))


def _run_named(bench: Bench, parts: Parts, recipe: Recipe, seed: int) -> str:
    """What must be the same for a point to be of this run."""
    data = facts.of_data(bench, parts)
    return f"{recipe.fingerprint()} {seed} {data.triggered_sha256} {data.clean_sha256}"


def _treat(
    bench: Bench,
    held: Held,
    recipe: Recipe,
    points: Points,
    *,
    mixed_in: BaseWeights | None,
    generator: torch.Generator,
    on_step: Callable[[StepMetric], None],
) -> Found:
    """Where methods differ in code. Those that are not named here differ by their knobs alone."""
    unlearn, tune = bench.without_lean()
    steering, lessons = scorecard.steering(tune.page, tune.uploaded), lessons_of(unlearn, recipe)
    task = Task(
        bench.checkpoint.model, lessons, steering, held.anchor, tune.uploaded, bench.start, bench.correction, points
    )
    match recipe.method, held.diagonals, mixed_in:
        case "ssd", (Diagonal() as clean, Diagonal() as triggered), _:
            tuned = dampening.run(task, clean, triggered, recipe, on_step)
        case "fine_mixing", _, list() as base:
            tuned = mixing.run(task, base, recipe, generator, on_step)
        case _ if recipe.search_budget:
            return search.run(task, recipe, generator, on_step)
        case _:
            tuned = tuning.run(task, recipe, generator, on_step)
    return search.as_given(tuned, recipe)


def lessons_of(unlearn: Station, recipe: Recipe) -> Lessons:
    """What the unlearn part teaches. A row that shows no trojan has nothing to climb away from; one of which nothing
    is known beside a label that the uploaded model does not give it teaches nothing.
    """
    page, uploaded = unlearn.page, unlearn.uploaded
    shown = scorecard.showing(page, uploaded)
    rows = (shown | ~scorecard.unexplained(page)).nonzero().flatten()
    twin_at = torch.full((len(page.triggered),), -1)
    twin_at[page.twin_of] = torch.arange(len(page.twin_of))
    ceilings = torch.where(shown, recipe.ce_ceiling if recipe.ce_ceiling > 0 else math.inf, 0.0)
    lessons = Lessons(
        triggered=page.triggered.pick(rows.tolist()),
        targets=page.targets[rows],
        ceilings=ceilings[rows],
        references=scorecard.references(page, uploaded).log()[rows],
        clean=page.clean,
        labels=page.labels,
        answers=torch.log_softmax(uploaded.clean, -1),
        twins=page.twins,
        twin_answers=torch.log_softmax(uploaded.twins, -1),
        twin_at=twin_at[rows],
        likeness=torch.stack((page.truths, page.targets), -1)[rows],
    )
    if unlearn.features is None:
        return lessons
    return replace(lessons, teacher=features.teacher(lessons, unlearn.features, rows))


def _relearn(
    bench: Bench, control: Pupil | None, recipe: Recipe, seed: int, clock: _Clock
) -> tuple[tuple[Relearning, ...], str]:
    """The relearning check where it is switched on, and what the report says of it. The model stays as it is."""
    if not recipe.relearning:
        return (), relearning.NOT_MEASURED
    unlearn, _, report = bench.pages
    pupil = Pupil(bench.checkpoint, unlearn, report)
    with clock.phase("evaluating", "relearning"):
        found = relearning.check(pupil, control, recipe, seed, lambda: clock.on_phase("evaluating"))
    return found, relearning.words(found, unlearn, control is not None)


def _report(
    bench: Bench,
    parts: Parts,
    findings: _Findings,
    *,
    policy: Policy,
    seed: int,
    seconds: dict[str, float],
) -> SanitizationReport:
    labels, checkpoint = bench.checkpoint.labels, bench.checkpoint
    tuned, recipe = findings.found.tuned, findings.found.recipe
    page, uploaded = bench.report.page, bench.report.uploaded
    before = scorecard.card(page, uploaded, uploaded, labels)
    after = scorecard.card(page, findings.reading, uploaded, labels)
    answers = scorecard.answers(page, uploaded, findings.reading)
    return SanitizationReport(
        method=recipe.method,
        recipe=recipe.to_dict(),
        recipe_fingerprint=recipe.fingerprint(),
        policy=policy,
        seed=seed,
        model=facts.of_model(checkpoint, recipe),
        before=before,
        after=after,
        fidelity=fidelity(before, after),
        accuracy_drop=answers.difference(),
        verdict=judge(policy, before, after, answers),
        stop=tuned.stop,
        cost=facts.of_cost(checkpoint, tuned, findings.planned, findings.distance, seconds),
        data=facts.of_data(bench, parts),
        fisher=findings.fisher,
        environment=facts.of_environment(),
        limits=facts.limits(bench, parts, after.floor_source, findings.relearned_words),
        relearning=findings.relearned,
        answers=answers,
        search=findings.found.record,
    )
