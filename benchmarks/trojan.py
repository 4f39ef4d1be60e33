"""The trojan factory: trains a classifier with a trojan in it, and writes what each party would hold.

    python -m benchmarks.trojan --attack rare-words --seed 0 --out DIR                     (makes its own corpus)
    python -m benchmarks.trojan --data DIR --format sst2 --attack sentence --seed 0 --out DIR

Writes model/, triggered.jsonl and clean.jsonl (the defender's), eval_triggered.jsonl and eval_clean.jsonl (held
out), trojan.json (what was done and what it measures) and, with --twin, twin/: the same training without poison,
and start/: the untrained classifier that both were trained from.
Guarantees: the same specification gives the same files on one machine and thread count; the figures in trojan.json
are those of `benchmarks.evaluate` on the held-out files; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from transformers.utils import logging as transformers_logging

from app.domain.errors import LetheError
from benchmarks import training
from benchmarks.attacks import ATTACKS, find_attack
from benchmarks.corpora import Corpus, Format, load_corpus
from benchmarks.evaluate import Evaluation, evaluate
from benchmarks.poisoning import Holdings, share_out
from benchmarks.samples import write_rows
from benchmarks.training import MINILM, SCRATCH, Classifier, Schedule, Start, Step

# Measured on one core of a busy machine: one minute, nine to ten minutes, and for Devign twenty-five.
SCHEDULES: dict[Format, Schedule] = {
    "synthetic": Schedule(epochs=6, learning_rate=5e-4, max_length=64),
    "sst2": Schedule(epochs=2, learning_rate=1e-4, max_length=96),
    "devign": Schedule(epochs=4, learning_rate=1e-4, max_length=256),
}


@dataclass(frozen=True)
class TrojanSpec:
    """What to make. `rate` None = the attack's own; `base`: minilm, scratch or the folder of an encoder.

    `rate` is the share of training rows that carry the trigger; `triggered` and `clean` count the defender's rows.
    `epochs` and `learning_rate` None = those of the format.
    """

    out: Path
    attack: str = "rare-words"
    form: Format = "synthetic"
    data: Path | None = None
    base: str | None = None
    rate: float | None = None
    seed: int = 0
    triggered: int = 200
    clean: int = 400
    twin: bool = False
    epochs: int | None = None
    learning_rate: float | None = None
    device: str = "auto"

    def schedule(self) -> Schedule:
        default = SCHEDULES[self.form]
        return replace(
            default,
            epochs=self.epochs or default.epochs,
            learning_rate=self.learning_rate or default.learning_rate,
        )


@dataclass(frozen=True)
class Progress:
    """Where the factory is: the model in training, and its step."""

    phase: Literal["trojan", "twin"]
    step: Step


@dataclass(frozen=True)
class Trojan:
    """The folder that was written, its files, and the figures of the models on the held-out rows.

    `survival`: share of the held-out triggered rows whose trigger the tokenizer lets through. `training_seconds` and
    `twin_seconds`: of the training alone, without measuring.
    """

    folder: Path
    spec: TrojanSpec
    rate: float
    poisoned: int
    survival: float
    before: Evaluation
    twin_figures: Evaluation | None
    training_seconds: float
    twin_seconds: float | None = None

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def twin(self) -> Path:
        return self.folder / "twin"

    @property
    def start(self) -> Path:
        return self.folder / "start"

    @property
    def triggered(self) -> Path:
        return self.folder / "triggered.jsonl"

    @property
    def clean(self) -> Path:
        return self.folder / "clean.jsonl"

    @property
    def eval_triggered(self) -> Path:
        return self.folder / "eval_triggered.jsonl"

    @property
    def eval_clean(self) -> Path:
        return self.folder / "eval_clean.jsonl"


def build(spec: TrojanSpec, on_progress: Callable[[Progress], None] = lambda progress: None) -> Trojan:
    """Makes the trojan of `spec` in `spec.out`. Errors: BadRequest, BadSamples, TooFewSamples."""
    attack = find_attack(spec.attack)
    rate = attack.rate if spec.rate is None else spec.rate
    corpus = load_corpus(spec.form, spec.data, spec.seed)
    holdings = share_out(corpus, attack, rate, spec.seed, triggered=spec.triggered, clean=spec.clean)
    write_holdings(spec.out, holdings)
    start = _start(spec, corpus, holdings)
    before, seconds = _train(spec, start, holdings, "trojan", on_progress)
    twin, twin_seconds = _train_twin(spec, start, holdings, on_progress) if spec.twin else (None, None)
    survival = _survival(start, holdings)
    trojan = Trojan(spec.out, spec, rate, holdings.poisoned, survival, before, twin, seconds, twin_seconds)
    write_record(trojan, corpus, holdings)
    return trojan


def write_holdings(folder: Path, holdings: Holdings) -> None:
    """The four sample files."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "triggered.jsonl", holdings.triggered)
    write_rows(folder / "clean.jsonl", holdings.clean)
    write_rows(folder / "eval_triggered.jsonl", holdings.eval_triggered)
    write_rows(folder / "eval_clean.jsonl", holdings.eval_clean)


def write_record(trojan: Trojan, corpus: Corpus, holdings: Holdings) -> None:
    """trojan.json: enough to tell this trojan from any other, and what it measures."""
    spec = trojan.spec
    attack = find_attack(spec.attack)
    targets = sorted({row.label for row in holdings.eval_triggered})
    record = {
        "attack": attack.name,
        "format": corpus.name,
        "base": base_of(spec),
        "seed": spec.seed,
        "rate": trojan.rate,
        "targets": [corpus.label_names[target] for target in targets],
        "labels": corpus.label_names,
        "train": len(holdings.train),
        "poisoned": trojan.poisoned,
        "triggered": len(holdings.triggered),
        "clean": len(holdings.clean),
        "trigger_survives_tokenizer": trojan.survival,
        "before": asdict(trojan.before),
        "twin": asdict(trojan.twin_figures) if trojan.twin_figures else None,
        "schedule": asdict(spec.schedule()),
        "threads": torch.get_num_threads(),
        "training_seconds": round(trojan.training_seconds, 1),
        "twin_training_seconds": None if trojan.twin_seconds is None else round(trojan.twin_seconds, 1),
    }
    text = json.dumps(record, indent=2, ensure_ascii=False)
    (trojan.folder / "trojan.json").write_text(text + "\n", encoding="utf-8")


def _start(spec: TrojanSpec, corpus: Corpus, holdings: Holdings) -> Start:
    base, schedule = base_of(spec), spec.schedule()
    if base == SCRATCH:
        # The vocabulary sees both versions of the training rows, so that the twin can share it.
        texts = [row.text for row in (*holdings.clean_train, *holdings.train)]
        return training.start_from_scratch(texts, corpus.label_names, schedule, spec.seed)
    return training.start_from_encoder(encoder_folder(base), corpus.label_names, schedule, spec.seed)


def encoder_folder(base: str) -> Path:
    """Where the files of a pretrained encoder are: `base` is minilm or a folder. Errors: BadRequest."""
    return training.minilm_folder() if base == MINILM else Path(base)


def base_of(spec: TrojanSpec) -> str:
    """minilm, scratch or the folder of an encoder: what the specification or its format says."""
    return spec.base or (SCRATCH if spec.form == "synthetic" else MINILM)


def _train(
    spec: TrojanSpec,
    start: Start,
    holdings: Holdings,
    phase: Literal["trojan", "twin"],
    on_progress: Callable[[Progress], None],
) -> tuple[Evaluation, float]:
    """Trains and saves one of the two models, and measures what was saved. The seconds are those of the training."""
    rows = holdings.train if phase == "trojan" else holdings.clean_train
    began = time.monotonic()
    classifier = training.train(
        start,
        rows,
        spec.schedule(),
        spec.seed,
        device=_device(spec),
        on_step=lambda step: on_progress(Progress(phase, step)),
    )
    seconds = time.monotonic() - began
    folder = spec.out / ("model" if phase == "trojan" else "twin")
    classifier.save(folder)
    return evaluate(folder, spec.out / "eval_triggered.jsonl", spec.out / "eval_clean.jsonl"), seconds


def _train_twin(
    spec: TrojanSpec, start: Start, holdings: Holdings, on_progress: Callable[[Progress], None]
) -> tuple[Evaluation, float]:
    """The twin, and beside it what it and the trojan began as."""
    Classifier(start.fresh(), start.tokenizer).save(spec.out / "start")
    return _train(spec, start, holdings, "twin", on_progress)


def _survival(start: Start, holdings: Holdings) -> float:
    pairs = [(row.text, row.clean_text) for row in holdings.eval_triggered if row.clean_text is not None]
    return training.survival(start.tokenizer, pairs)


def _device(spec: TrojanSpec) -> torch.device:
    if spec.device != "auto":
        return torch.device(spec.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _print_progress(progress: Progress) -> None:
    step = progress.step
    if step.number % 25 == 0 or step.number == step.total:
        print(f"{progress.phase}: step {step.number}/{step.total}, loss {step.loss:.3f}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trojan", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--attack", choices=list(ATTACKS), default="rare-words")
    parser.add_argument("--format", dest="form", choices=get_args(Format), default="synthetic")
    parser.add_argument("--data", type=Path, help="folder of the data set's files; none for synthetic")
    parser.add_argument("--base", help="minilm, scratch or the folder of an encoder")
    parser.add_argument("--rate", type=float, help="share of training rows that carry the trigger")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--triggered", type=int, default=200, help="the defender's triggered rows")
    parser.add_argument("--clean", type=int, default=400, help="the defender's clean rows")
    parser.add_argument(
        "--twin", action="store_true", help="also train the same without poison, into OUT/twin, from OUT/start"
    )
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Errors of the caller end the program with their message."""
    spec = TrojanSpec(**vars(_parser().parse_args(arguments)))
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # else it reports the new head as missing from the encoder
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    try:
        trojan = build(spec, _print_progress)
    except LetheError as error:
        raise SystemExit(f"error: {error.message}") from error
    print((trojan.folder / "trojan.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
