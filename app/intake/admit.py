"""An upload, from hostile bytes to the files that workers load: unpack, examine, convert, rewrite.

Runs in a sandboxed child. Guarantee: everything in the `out` folder was written here, from values that were checked;
no file of the upload is copied there and no library opens one, but for the weights of a pickle that passed
`pickle_opcodes`. The steps that need torch are asked of a Bench, so that this room does not know of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from app.domain.model import Finding, ModelFacts
from app.intake import examine, unpack, weights
from app.intake import file_names as names
from app.intake.examine import Examined
from app.intake.safetensors_header import read_header
from app.intake.unpack import Gathered
from app.intake.weights import Part, Plan, Table


class Bench(Protocol):
    """The steps that need torch and transformers. All raise ModelRefused."""

    def table(self, config: Mapping[str, Any]) -> Table:
        """What the config implies, without making a single weight."""
        ...

    def convert_pickle(self, pickle: Path, name: str, out: Path) -> None:
        """The tensors of a checked pickle as one safetensors file."""
        ...

    def build_tokenizer(self, staging: Path, out: Path, table: Table) -> None:
        """tokenizer.json and tokenizer_config.json in `out`, from the staged files, tried on a text."""
        ...


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked: files by path, or one archive; `work` and `out` are empty folders."""

    files: Mapping[str, Path]
    archive: Path | None
    work: Path
    out: Path
    max_bytes: int

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Order:
        files = {path: Path(file) for path, file in data["files"].items()}
        archive = Path(data["archive"]) if data["archive"] else None
        return cls(files, archive, Path(data["work"]), Path(data["out"]), data["max_bytes"])

    def to_dict(self) -> dict[str, Any]:
        files = {path: str(file) for path, file in self.files.items()}
        archive = str(self.archive) if self.archive else None
        return {"files": files, "archive": archive, "work": str(self.work), "out": str(self.out)} | {
            "max_bytes": self.max_bytes
        }


@dataclass(frozen=True, slots=True)
class Admission:
    """What an admitted model is, and what was left out of the upload."""

    facts: ModelFacts
    notes: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def admit(order: Order, bench: Bench, on_phase: Callable[[str], None] = lambda _phase: None) -> Admission:
    """Fill `order.out` with config.json, model.safetensors and the tokenizer. Raises ModelRefused."""
    on_phase("unpack")
    gathered = _gather(order)
    on_phase("examine")
    staging = order.work / "tokenizer"
    staging.mkdir()
    examined = examine.examine(gathered, staging)
    on_phase("convert")
    parts = _safetensors(examined, order.work, bench)
    examine.refuse_size(examined.config, parts)
    table = bench.table(examined.config.config)
    plan = weights.plan(parts, table)
    on_phase("rewrite")
    weights.write(plan, order.out / names.WEIGHTS)
    config = _write_config(examined, plan, order.out)
    (staging / names.CONFIG).write_text(config, encoding="utf-8")
    bench.build_tokenizer(staging, order.out, table)
    rebuilt = examined.config
    facts = ModelFacts(rebuilt.model_type, rebuilt.architecture, rebuilt.labels, table.parameters)
    return Admission(facts, (*examined.notes, *plan.notes))


def _gather(order: Order) -> Gathered:
    if order.archive is None:
        return unpack.gather(order.files)
    target = order.work / "unpacked"
    target.mkdir()
    return unpack.from_archive(order.archive, target, order.max_bytes)


def _safetensors(examined: Examined, work: Path, bench: Bench) -> list[Part]:
    """The parts as uploaded, or the one made from the pickle."""
    if examined.pickle is None:
        return list(examined.parts)
    file = work / "converted.safetensors"
    bench.convert_pickle(examined.pickle, names.PICKLE, file)
    return [Part(names.PICKLE, file, read_header(file, names.PICKLE))]


def _write_config(examined: Examined, plan: Plan, out: Path) -> str:
    config = json.dumps({**examined.config.config, "dtype": plan.dtype}, indent=2, ensure_ascii=False)
    (out / names.CONFIG).write_text(config, encoding="utf-8")
    return config
