"""The whole of Lethe in a few minutes: a trojaned model goes in, a clean one comes out, and both are measured.

    python -m benchmarks.demo                  makes its own corpus and model; nothing is needed
    python -m benchmarks.demo --data DIR       SST-2 and a pretrained encoder, beside fine-tuning and plain ascent

Trains a classifier with a trojan in it, starts the service on this machine, uploads the model with tus, runs the jobs
through the HTTP API, downloads what they made, and measures it with plain transformers on rows that no job has seen.
Writes report.json into the folder of the run (var/demo). Guarantees: the exit status is 0 only if the goals below are
met by the default method, by the independent measurement and not by the service's own; the service is stopped in
every case.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from app.domain.errors import LetheError as FactoryError
from benchmarks.evaluate import Comparison, Evaluation, compare, evaluate
from benchmarks.screen import Screen, Update
from benchmarks.trojan import Progress, Trojan, TrojanSpec, build
from client.answers import Event, Model, Samples
from client.api import Job, LetheClient
from client.errors import LetheError as ServiceError

MIN_ASR_BEFORE = 0.95
MAX_EXCESS_ASR = 0.05
MAX_ACCURACY_DROP = 0.02
DEFAULT_METHOD = "lya"
BESIDE = ("fine_tune", "gradient_ascent")
START_SECONDS = 180.0


class DemoFailed(Exception):
    """The run cannot go on; the message says why."""


@dataclass(frozen=True)
class Run:
    """Where this run writes, what it shows itself on, and the trojan it is about."""

    screen: Screen
    out: Path
    trojan: Trojan


@dataclass(frozen=True)
class Inputs:
    """What the service holds before the jobs."""

    model: Model
    triggered: Samples
    clean: Samples


@dataclass(frozen=True)
class Outcome:
    """One method: what the service says of it, and what was measured outside. `seconds`: submission to report."""

    method: str
    job: Job
    service_report: Mapping[str, Any]
    measured: Comparison
    folder: Path
    seconds: float

    @property
    def after(self) -> Evaluation:
        return self.measured.model


def main(arguments: Sequence[str] | None = None) -> int:
    """0: goals met. 1: they are not. 2: the run broke off."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the service is stopped then, too
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # else it reports the new head as missing from the encoder
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    screen = Screen()
    try:
        return _run(screen, options.out.resolve(), options.data, options.seed)
    except (DemoFailed, FactoryError, ServiceError) as error:
        screen.say(f"The demo broke off: {error}")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with train.tsv, dev.tsv and test.tsv of SST-2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("var/demo"), help="folder of the run")
    return parser


def _run(screen: Screen, out: Path, data: Path | None, seed: int) -> int:
    out.mkdir(parents=True, exist_ok=True)
    methods = (DEFAULT_METHOD,) if data is None else (DEFAULT_METHOD, *BESIDE)
    run = Run(screen, out, _trojan(screen, out, data, seed))
    before = _measure_before(run)
    with _service(screen, out / "service") as lethe:
        inputs = _send(run, lethe)
        outcomes = [_clean(run, lethe, inputs, method) for method in methods]
    missed = _missed(before, outcomes[0])
    _write_report(run, before, outcomes, missed)
    _show(run, before, outcomes, missed)
    return 1 if missed else 0


def _trojan(screen: Screen, out: Path, data: Path | None, seed: int) -> Trojan:
    """The factory's trojan; one that was already made to the same specification is taken as it is."""
    spec = TrojanSpec(out, form="synthetic", seed=seed)
    if data is not None:
        spec = replace(spec, form="sst2", data=data.resolve())
    what = {**asdict(spec), **asdict(spec.schedule())}
    name = hashlib.sha256(json.dumps(what, default=str, sort_keys=True).encode()).hexdigest()[:12]
    spec = replace(spec, out=out / f"trojan-{name}")
    if (spec.out / "trojan.json").is_file():  # written last
        screen.say(f"The trojaned model is there already: {spec.out}")
        record = json.loads((spec.out / "trojan.json").read_text())
        return Trojan(
            spec.out, spec, record["rate"], record["poisoned"], 1.0, Evaluation(**record["before"]), None, 0.0
        )
    with screen.stage("train", "Training a trojaned model") as update:
        return build(spec, _on_training(update))


def _on_training(update: Update) -> Callable[[Progress], None]:
    def show(progress: Progress) -> None:
        step = progress.step
        update(step.number / step.total, f"step {step.number}/{step.total}, loss {step.loss:.3f}")

    return show


def _measure_before(run: Run) -> Evaluation:
    trojan = run.trojan
    with run.screen.stage("measure_before", "Measuring held-out rows") as update:
        before = evaluate(trojan.model, trojan.eval_triggered, trojan.eval_clean)
        update(1.0, f"accuracy {before.accuracy:.3f}, ASR {before.asr:.3f}")
    return before


@contextmanager
def _service(screen: Screen, data: Path) -> Iterator[LetheClient]:
    """The service with its own data folder on a free port, and a client to it."""
    data.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"LETHE_DATA": str(data), "LETHE_PORT": "0"}
    command = [sys.executable, "-m", "app.standalone", "--json"]
    with (
        (data / "standalone.log").open("w") as log,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, process_group=0) as process,
    ):
        try:
            with screen.stage("start_service", "Starting the service") as update:
                assert process.stdout is not None
                if not process.stdout.readline():
                    raise DemoFailed(f"the service did not start:\n{(data / 'standalone.log').read_text()}")
                facts = json.loads((data / "service.json").read_text())
                update(1.0, facts["url"])
            with LetheClient(facts["url"], facts["api_key"]) as lethe:
                yield lethe
        finally:
            process.terminate()
            process.wait(timeout=60)


def _send(run: Run, lethe: LetheClient) -> Inputs:
    screen, trojan = run.screen, run.trojan
    with screen.stage("upload", "Uploading") as update:
        model = lethe.push(trojan.model, "demo", lambda name, done, total: update(done / max(total, 1), name))
        triggered = lethe.add_samples(trojan.triggered, "triggered")
        clean = lethe.add_samples(trojan.clean, "clean")
        update(1.0, f"{triggered.rows} triggered and {clean.rows} clean samples")
    with screen.stage("inspect", "Inspecting the model") as update:
        model = lethe.wait_for_model(model.id)
        update(1.0, model.status)
    if model.status != "admitted":
        reasons = "; ".join(f"{finding.rule}: {finding.message}" for finding in model.findings)
        raise DemoFailed(f"the model was not admitted: {reasons}")
    return Inputs(model, triggered, clean)


def _clean(run: Run, lethe: LetheClient, inputs: Inputs, method: str) -> Outcome:
    screen, trojan = run.screen, run.trojan
    with screen.stage(f"job_{method}", f"Job {method}") as update:
        job = lethe.submit(inputs.model.id, inputs.triggered.id, inputs.clean.id, method)
        _follow(lethe, job, update)
        job = lethe.job(job.id)
        if job.status != "succeeded":
            raise DemoFailed(f"the job {method} is {job.status}: {job.failure}")
        report = lethe.report(job.id)
    folder = run.out / f"model-{method}"
    with screen.stage(f"download_{method}", "Downloading") as update:
        lethe.pull(job.id, folder, lambda name, done, total: update(done / max(total, 1), name))
    with screen.stage(f"measure_{method}", "Measuring held-out rows") as update:
        measured = compare(folder, trojan.model, trojan.eval_triggered, trojan.eval_clean)
        update(1.0, f"accuracy {measured.model.accuracy:.3f}, ASR {measured.model.asr:.3f}")
    return Outcome(method, job, report, measured, folder, screen.seconds[f"job_{method}"])


def _follow(lethe: LetheClient, job: Job, update: Update) -> None:
    """Shows the job's own event stream until it is done."""
    recipe, share, phase = job.raw["recipe"], 0.0, job.status
    steps = int(recipe["search_budget"] or recipe["steps"])
    figures: dict[str, float] = {}
    for event in lethe.events(job.id):
        phase = str(event.data.get("phase") or event.data.get("status") or phase)
        if event.kind == "metric":
            share = min(1.0, int(event.data["step"]) / steps)
            figures |= _figures(event)
        update(share, "  ".join([phase, *(f"{name} {value:.3f}" for name, value in figures.items())]))


def _figures(event: Event) -> dict[str, float]:
    """The two that matter while it runs, where this step has them."""
    values = event.data["values"]
    named = {"ASR": values.get("asr"), "accuracy": values.get("clean_accuracy")}
    return {name: value for name, value in named.items() if value is not None}


def _missed(before: Evaluation, outcome: Outcome) -> list[str]:
    """The goals that were not reached, in words."""
    drop = outcome.measured.accuracy_drop
    checks = [
        (before.asr >= MIN_ASR_BEFORE, f"attack success before: {before.asr:.3f}, at least {MIN_ASR_BEFORE}"),
        (
            outcome.after.excess <= MAX_EXCESS_ASR,
            f"excess attack success: {outcome.after.excess:.3f}, at most {MAX_EXCESS_ASR}",
        ),
        (drop <= MAX_ACCURACY_DROP, f"accuracy lost: {drop:.3f}, at most {MAX_ACCURACY_DROP}"),
    ]
    return [words for met, words in checks if not met]


def _write_report(run: Run, before: Evaluation, outcomes: Sequence[Outcome], missed: Sequence[str]) -> None:
    """report.json: the figures of the default method at the top, every method below `methods`."""
    methods = {outcome.method: _outcome(outcome) for outcome in outcomes}
    report = {
        "data": run.trojan.spec.form,
        "attack": run.trojan.spec.attack,
        "seed": run.trojan.spec.seed,
        "before": asdict(before),
        **{name: value for name, value in methods[DEFAULT_METHOD].items() if name != "service_report"},
        "goals": {
            "min_asr_before": MIN_ASR_BEFORE,
            "max_excess_asr": MAX_EXCESS_ASR,
            "max_accuracy_drop": MAX_ACCURACY_DROP,
            "met": not missed,
            "missed": list(missed),
        },
        "seconds": {**run.screen.seconds, "total": round(sum(run.screen.seconds.values()), 2)},
        "methods": methods,
    }
    (run.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "method": outcome.method,
        "after": asdict(outcome.after),
        "excess_asr": outcome.after.excess,
        "accuracy_drop": outcome.measured.accuracy_drop,
        "agreement": outcome.measured.agreement,
        "n": {"triggered": outcome.after.n_triggered, "clean": outcome.after.n_clean},
        "verdict": outcome.job.verdict,
        "job_seconds": outcome.seconds,
        "folder": str(outcome.folder),
        "service_report": outcome.service_report,
    }


def _show(run: Run, before: Evaluation, outcomes: Sequence[Outcome], missed: Sequence[str]) -> None:
    head = ("", "accuracy", "ASR", "without trigger", "excess ASR", "accuracy lost", "verdict", "seconds")
    rows = [("before", *_row(before), "", "", "")]
    for outcome in outcomes:
        lost, verdict = f"{outcome.measured.accuracy_drop:+.3f}", str(outcome.job.verdict)
        rows.append((outcome.method, *_row(outcome.after), lost, verdict, f"{outcome.seconds:.0f}"))
    title = f"Held-out rows: {before.n_triggered} triggered, {before.n_clean} clean"
    run.screen.table(title, head, rows)
    for outcome in outcomes:
        reasons = "; ".join(outcome.service_report["verdict"]["reasons"])
        run.screen.say(f"The service's verdict on {outcome.method}, from its own held-out rows: {reasons}.")
    run.screen.say(f"Report: {run.out / 'report.json'}")
    run.screen.say("Goals missed: " + "; ".join(missed) if missed else "Goals met.")


def _row(figures: Evaluation) -> tuple[str, str, str, str]:
    return (f"{figures.accuracy:.3f}", f"{figures.asr:.3f}", f"{figures.floor:.3f}", f"{figures.excess:+.3f}")


if __name__ == "__main__":
    sys.exit(main())
