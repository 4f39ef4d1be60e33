"""The trojaned model of a case and what is measured beside it, made once and kept by fingerprint.

Guarantees: a case is known by its rows, its base, its schedule and the training code, so it is made anew only when
one of them changes; a clean twin is shared by all cases that train it on truly the same rows from the same start.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path

from app.domain.errors import LetheError
from app.domain.record import Record
from benchmarks import training
from benchmarks.attacks import find_attack
from benchmarks.corpora import Corpus, Format, load_corpus
from benchmarks.efficacy.plan import CLEAN, TRIGGERED, Case
from benchmarks.efficacy.sources import source_hash
from benchmarks.poisoning import Holdings, share_out
from benchmarks.training import MINILM, SCRATCH
from benchmarks.trojan import Progress, TrojanSpec, build, encoder_folder


@dataclass(frozen=True)
class Place:
    """Where cases come from: the folder of data sets, the folder of the encoder, and where they are kept."""

    kept: Path
    data: Path | None = None
    base: Path | None = None
    device: str = "auto"


@dataclass(frozen=True)
class CaseFacts(Record):
    """How the trojan was made. `retrain_seconds`: training the clean twin, on the full training set."""

    fingerprint: str
    rate: float
    train: int
    poisoned: int
    survival: float
    labels: tuple[str, ...]
    training_seconds: float
    retrain_seconds: float


@dataclass(frozen=True)
class CaseFiles:
    """The folders and files of one case. `start` is the untrained classifier, `twin` the one without the trojan."""

    folder: Path
    reference: Path
    facts: CaseFacts

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def twin(self) -> Path:
        return self.reference / "twin"

    @property
    def start(self) -> Path:
        return self.reference / "start"

    def rows(self, name: str) -> Path:
        """One of triggered, clean, eval_triggered, eval_clean."""
        return self.folder / f"{name}.jsonl"


@dataclass(frozen=True)
class Fingerprints:
    """`case` tells the trojan and its rows from any other; `reference` the twin and what it started from."""

    case: str
    reference: str


@lru_cache(maxsize=256)
def fingerprints(case: Case, place: Place) -> Fingerprints:
    """What the case depends on, as SHA-256 in hex. Errors: those of reading the data and drawing the rows."""
    spec = _spec(case, place)
    attack = find_attack(case.attack)
    holdings = share_out(
        _corpus(case.form, spec.data, case.seed), attack, attack.rate, case.seed, triggered=TRIGGERED, clean=CLEAN
    )
    training_parts = (_base_digest(spec.base), spec.schedule(), case.seed, source_hash(Path(training.__file__)))
    # The vocabulary of a model from scratch is learned from both versions of the rows: no other attack has the same.
    seen = (holdings.clean_train, holdings.train) if spec.base == SCRATCH else holdings.clean_train
    return Fingerprints(_digest(holdings, *training_parts), _digest(seen, *training_parts))


def prepare(case: Case, place: Place, on_progress: Callable[[Progress], None]) -> CaseFiles:
    """The files of the case; what is not kept yet is trained. Errors: BadRequest, BadSamples, TooFewSamples."""
    name = fingerprints(case, place)
    folder, reference = place.kept / name.case[:16], _reference(name, place)
    _adopt(folder, reference)
    have_reference = _done(reference)
    if not (folder / "trojan.json").is_file() or not have_reference:
        build(replace(_spec(case, place), out=folder, twin=not have_reference), on_progress)
        _adopt(folder, reference)
    return CaseFiles(folder, reference, _facts(name.case, folder, reference))


def is_kept(case: Case, place: Place) -> bool:
    """Whether `prepare` has nothing to train. False for a case that cannot be made."""
    try:
        name = fingerprints(case, place)
    except LetheError:
        return False
    return (place.kept / name.case[:16] / "trojan.json").is_file() and _done(_reference(name, place))


def _adopt(folder: Path, reference: Path) -> None:
    """Moves a finished twin to where other cases find it; reference.json is written last."""
    if _done(reference) or not (folder / "trojan.json").is_file() or not (folder / "twin").is_dir():
        return
    seconds = json.loads((folder / "trojan.json").read_text(encoding="utf-8"))["twin_training_seconds"]
    if seconds is None:
        return
    reference.mkdir(parents=True, exist_ok=True)
    for part in ("twin", "start"):
        shutil.rmtree(reference / part, ignore_errors=True)
        (folder / part).replace(reference / part)
    (reference / "reference.json").write_text(json.dumps({"training_seconds": seconds}) + "\n", encoding="utf-8")


def _reference(name: Fingerprints, place: Place) -> Path:
    return place.kept / f"reference-{name.reference[:16]}"


def _done(reference: Path) -> bool:
    return (reference / "reference.json").is_file()


def _facts(fingerprint: str, folder: Path, reference: Path) -> CaseFacts:
    made = json.loads((folder / "trojan.json").read_text(encoding="utf-8"))
    seconds = json.loads((reference / "reference.json").read_text(encoding="utf-8"))["training_seconds"]
    return CaseFacts(
        fingerprint=fingerprint,
        rate=made["rate"],
        train=made["train"],
        poisoned=made["poisoned"],
        survival=made["trigger_survives_tokenizer"],
        labels=tuple(made["labels"]),
        training_seconds=made["training_seconds"],
        retrain_seconds=seconds,
    )


def _spec(case: Case, place: Place) -> TrojanSpec:
    """The factory's specification, without its folder. `base` is always named."""
    named = case.base in (SCRATCH, MINILM)
    return TrojanSpec(
        out=place.kept,
        attack=case.attack,
        form=case.form,
        data=None if case.form == "synthetic" or place.data is None else place.data / case.form,
        base=case.base if named or place.base is None else str(place.base),
        seed=case.seed,
        triggered=TRIGGERED,
        clean=CLEAN,
        device=place.device,
    )


@lru_cache(maxsize=4)
def _corpus(form: Format, data: Path | None, seed: int) -> Corpus:
    return load_corpus(form, data, seed)


@cache
def _base_digest(base: str | None) -> str:
    """The encoder by what is in its files; a model from scratch by that word."""
    if base is None or base == SCRATCH:
        return SCRATCH
    files = sorted(
        path for path in encoder_folder(base).iterdir() if path.suffix in (".json", ".txt", ".safetensors")
    )
    found = hashlib.sha256()
    for path in files:
        with path.open("rb") as source:
            found.update(path.name.encode() + hashlib.file_digest(source, "sha256").digest())
    return found.hexdigest()


def _digest(*parts: Holdings | object) -> str:
    """SHA-256 of parts whose `repr` says all there is to them: frozen dataclasses of plain values."""
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()
