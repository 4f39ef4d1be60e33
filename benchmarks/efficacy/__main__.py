"""The comparison: every method against every attack, measured on held-out rows.

    python -m benchmarks.efficacy                    the made corpus; needs nothing
    python -m benchmarks.efficacy --data DIR         SST-2 and Devign, from DIR/sst2 and DIR/devign
    python -m benchmarks.efficacy --quick            within 30 minutes on two cores

Keeps one record per method x attack x seed in var/bench/efficacy, lists all in var/bench/efficacy.json, and writes
its part of docs/benchmarks.md with plots. Broken off, the same command goes on where it was. Exit status: 0 it ran as
far as it could (a method that gives up is a result), 1 a cell crashed, 2 the run cannot be done.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from app.domain.errors import LetheError
from benchmarks.efficacy.cases import Place
from benchmarks.efficacy.plan import Asked
from benchmarks.efficacy.records import Store
from benchmarks.efficacy.run import compare
from benchmarks.screen import Screen

QUICK_MINUTES = 28.0  # two for the page and what runs over


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the page is written then, too
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # else it reports the new head as missing from the encoder
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    screen = Screen()
    asked = Asked(options.quick, options.data, options.base, options.attacks, options.seeds, options.methods)
    place = Place(options.kept / "trojans", options.data, options.base, options.device)
    minutes = options.minutes or (QUICK_MINUTES if options.quick else None)
    try:
        crashed = compare(screen, asked, place, Store(options.kept), pages=options.pages, minutes=minutes)
    except LetheError as error:
        screen.say(f"The comparison cannot be run: {error.message}")
        return 2
    except KeyboardInterrupt:
        screen.say("Broken off; the same command goes on from here.")
        return 130
    return int(crashed > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.efficacy", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the subset that ends within 30 minutes on two cores")
    parser.add_argument("--data", type=_folder, help="folder that holds sst2/ and devign/")
    parser.add_argument(
        "--base", type=_folder, help="folder of a pretrained encoder, instead of the one that is here"
    )
    parser.add_argument("--attacks", type=_words, default=(), help="only these, with commas")
    parser.add_argument("--seeds", type=_numbers, default=(), help="only these, with commas")
    parser.add_argument("--methods", type=_words, default=(), help="only these, with commas")
    parser.add_argument("--minutes", type=float, help="begin nothing that is expected to end after this")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--kept", type=Path, default=Path("var/bench"), help="folder of records and trojans")
    parser.add_argument("--pages", type=Path, default=Path("docs"), help="folder of benchmarks.md and its plots")
    return parser


def _folder(given: str) -> Path:
    if not Path(given).is_dir():
        raise argparse.ArgumentTypeError(f"{given} is no folder")
    return Path(given).resolve()


def _words(given: str) -> tuple[str, ...]:
    return tuple(given.replace(",", " ").split())


def _numbers(given: str) -> tuple[int, ...]:
    return tuple(int(word) for word in _words(given))


if __name__ == "__main__":
    sys.exit(main())
