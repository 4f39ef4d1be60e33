"""The engine on the command line: python -m workers.engine --model DIR --triggered FILE --clean FILE --out DIR.

Writes the repaired model and report.json into OUT. Exit status: 0 treated (whatever the verdict), 1 the input
cannot be used, 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.domain.errors import BadRecipe, BadRequest, LetheError
from app.domain.methods import METHODS, METHODS_WITH_BASE
from app.domain.recipe import Policy, Recipe
from app.domain.report import Proportion, SanitizationReport, StepMetric


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one treatment; errors that the caller can fix are one line on stderr."""
    asked = _parser().parse_args(arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        _run(asked)
    except LetheError as error:
        print(f"error ({error.code}): {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    return 0


def _run(asked: argparse.Namespace) -> None:
    knobs = {} if asked.recipe == "auto" else _json(asked.recipe, "--recipe")
    recipe = Recipe.of(asked.method, knobs) if knobs else Recipe.auto(asked.method)
    policy = Policy.of(_json(asked.policy, "--policy"))
    if asked.method in METHODS_WITH_BASE and asked.base is None:
        raise BadRecipe(f"{asked.method} needs a clean checkpoint: name its folder with --base")
    if asked.control is not None and not recipe.relearning:
        raise BadRecipe("--control serves the relearning check alone: add relearning to --recipe", knob="relearning")
    if (asked.eval_triggered is None) != (asked.eval_clean is None):
        raise BadRequest("give --eval-triggered and --eval-clean together, or neither")
    # torch takes seconds to import: bad arguments are told before.
    from workers.engine import rows, sanitize  # noqa: PLC0415
    from workers.engine.loading import label_space, save  # noqa: PLC0415

    labels = label_space(asked.model)
    triggered, clean = rows.read_triggered(asked.triggered, labels), rows.read_clean(asked.clean, labels)
    held_out = None
    if asked.eval_triggered is not None:
        held_out = rows.read_triggered(asked.eval_triggered, labels), rows.read_clean(asked.eval_clean, labels)
    outcome = sanitize(
        asked.model,
        triggered,
        clean,
        recipe,
        policy,
        seed=asked.seed,
        on_step=_print_step,
        on_phase=_PhaseLines().say,
        base_dir=asked.base,
        control_dir=asked.control,
        held_out=held_out,
        device=asked.device,
    )
    save(outcome.model, outcome.tokenizer, asked.out)
    text = json.dumps(outcome.report.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    (asked.out / "report.json").write_text(text + "\n", encoding="utf-8")
    print(table(outcome.report))
    print(f"model and report.json are in {asked.out}")


def table(report: SanitizationReport) -> str:
    """Before and after, the verdict and the cost, for people."""
    before, after = report.before, report.after
    lines = [f"{'':16}{'before':>24}{'after':>24}{'n':>8}"]
    for name, first, second in (
        ("clean accuracy", before.clean_accuracy, after.clean_accuracy),
        ("ASR", before.asr, after.asr),
        (f"floor ({after.floor_source})", before.floor, after.floor),
        ("agreement", before.agreement, after.agreement),
    ):
        lines.append(f"{name:16}{_rate(first):>24}{_rate(second):>24}{second.n:>8}")
    excess = "-" if after.excess_asr.value is None else f"{after.excess_asr.value:+.3f}"
    fidelity = "-" if report.fidelity is None else f"{report.fidelity:.3f}"
    lines.append(f"excess ASR {excess}, fidelity {fidelity}, {report.stop.code} after {report.cost.steps} steps")
    lines += _relearned(report)
    lines.append(f"verdict: {report.verdict.outcome} ({'; '.join(report.verdict.reasons)})")
    lines += [f"recipe: {report.search.words}"] if report.search is not None else []
    lines.append("seconds: " + ", ".join(f"{name} {value:.1f}" for name, value in report.cost.seconds.items()))
    return "\n".join(lines)


def _relearned(report: SanitizationReport) -> list[str]:
    """A line for each size of the relearning check, under a heading; nothing where it was switched off."""
    if not report.relearning:
        return []
    lines = [f"{'relearned from':16}{'ASR':>24}{'floor':>24}{'clean accuracy':>24}{'control ASR':>24}"]
    for each in report.relearning:
        figures = (each.asr, each.floor, each.accuracy, each.control_asr)
        lines.append(f"{f'{each.k} + {each.n_clean}':16}" + "".join(f"{_rate(figure):>24}" for figure in figures))
    return lines


def _rate(figure: Proportion | None) -> str:
    return (
        "-" if figure is None or figure.rate is None else f"{figure.rate:.3f} [{figure.low:.3f}, {figure.high:.3f}]"
    )


class _PhaseLines:
    """One line for each phase, however often the engine names it."""

    def __init__(self) -> None:
        self._last = ""

    def say(self, phase: str) -> None:
        if phase != self._last:
            print(f"{phase} ...", flush=True)
        self._last = phase


def _print_step(metric: StepMetric) -> None:
    if "asr" not in metric.values:
        return
    shown = " ".join(f"{name} {value:.3g}" for name, value in metric.values.items() if value is not None)
    loss = "" if metric.loss is None else f" loss {metric.loss:.3f}"
    print(f"  step {metric.step}{loss} {shown}", flush=True)


def _json(given: str | None, option: str) -> dict[str, Any]:
    """A JSON object given inline or as the path of a file."""
    if given is None:
        return {}
    try:
        text = given if given.lstrip().startswith("{") else Path(given).read_text(encoding="utf-8")
        value = json.loads(text)
    except (OSError, ValueError) as error:
        raise BadRequest(f"{option} is neither a JSON object nor a file that holds one: {error}") from error
    if not isinstance(value, dict):
        raise BadRequest(f"{option} must be a JSON object")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m workers.engine", description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the classifier with the trojan")
    parser.add_argument("--triggered", type=Path, required=True, help="JSONL: text, label, clean_text, true_label")
    parser.add_argument("--clean", type=Path, required=True, help="JSONL: text, label")
    parser.add_argument("--out", type=Path, required=True, help="folder for the repaired model and report.json")
    parser.add_argument("--method", choices=METHODS, default="lya")
    parser.add_argument(
        "--base", type=Path, help=f"folder of a clean checkpoint, for {' and '.join(METHODS_WITH_BASE)}"
    )
    parser.add_argument("--control", type=Path, help="folder of a model without the trojan, for the relearning check")
    parser.add_argument("--recipe", default="auto", help="JSON object of knobs, a file with one, or auto")
    parser.add_argument("--policy", help="JSON object of limits, or a file with one")
    parser.add_argument("--eval-triggered", type=Path, help="JSONL that only the scorecard sees")
    parser.add_argument("--eval-clean", type=Path, help="JSONL that only the scorecard sees")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, or GPUs such as cuda:0,cuda:1")
    return parser


if __name__ == "__main__":
    sys.exit(main())
