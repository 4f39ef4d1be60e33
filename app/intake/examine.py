"""Reads what was gathered, strictly and without any library that models come with: config, headers, tokenizer.

What fails is collected, so that the caller learns of every broken part at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from app.domain.errors import ModelRefused
from app.domain.model import Finding
from app.intake import config_keys, pickle_opcodes, tokenizer_files, weights
from app.intake import file_names as names
from app.intake.config_keys import Rebuilt
from app.intake.rules import note, refusal
from app.intake.safetensors_header import read_header
from app.intake.strict_json import MIB, read_object
from app.intake.unpack import Gathered
from app.intake.weights import Part

CONFIG_BYTES = 1 * MIB
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Examined:
    """`parts` are the safetensors files; `pickle` stands in their place where the upload has none."""

    config: Rebuilt
    parts: tuple[Part, ...]
    pickle: Path | None
    notes: tuple[Finding, ...]


class _Collector:
    def __init__(self) -> None:
        self.refusals: list[Finding] = []

    def attempt(self, step: Callable[[], Found]) -> Found | None:
        try:
            return step()
        except ModelRefused as error:
            self.refusals += error.details["findings"]
            return None


def examine(gathered: Gathered, staging: Path) -> Examined:
    """`staging` gets the rebuilt tokenizer files. Raises ModelRefused with every finding."""
    collector = _Collector()
    config = collector.attempt(lambda: _config(gathered))
    parts = collector.attempt(lambda: _parts(gathered))
    pickle = collector.attempt(lambda: _pickle(gathered))
    model_type = config.model_type if config else "bert"
    tokenizer = collector.attempt(lambda: tokenizer_files.stage(gathered, model_type, staging))
    if config and parts:
        collector.attempt(lambda: refuse_size(config, parts))
    if collector.refusals:
        first = collector.refusals[0]
        raise ModelRefused(f"{first.file}: {first.message}", findings=tuple(collector.refusals))
    assert config is not None
    assert parts is not None
    assert tokenizer is not None
    unused = (
        (note("WT-UNUSED", names.PICKLE, "left out, as model.safetensors is there."),) if parts and pickle else ()
    )
    return Examined(config, parts, None if parts else pickle, (*gathered.notes, *config.notes, *tokenizer, *unused))


def _config(gathered: Gathered) -> Rebuilt:
    file = gathered.need(names.CONFIG, "it is not there. Upload the whole checkpoint folder.")
    return config_keys.rebuild(read_object(file, names.CONFIG, CONFIG_BYTES))


def _parts(gathered: Gathered) -> tuple[Part, ...]:
    """One model.safetensors, or all its shards with their index; nothing where there is only a pickle."""
    shards = sorted(name for name in gathered.files if names.SHARD.fullmatch(name))
    if names.WEIGHTS in gathered.files:
        if shards or names.INDEX in gathered.files:
            raise refusal("ST-INDEX", names.WEIGHTS, "there are shards beside it. Upload the one or the others.")
        return (_part(gathered, names.WEIGHTS),)
    if shards:
        index = gathered.need(names.INDEX, "the shards need their index.")
        weights.check_shards(shards)
        parts = {name: _part(gathered, name) for name in shards}
        weights.check_index(index, parts)
        return tuple(parts.values())
    if names.INDEX in gathered.files:
        raise refusal("ST-INDEX", names.INDEX, "its shards are not there. Upload them, or leave the index out.")
    gathered.need(names.PICKLE, "there are no weights: upload model.safetensors (or pytorch_model.bin).")
    return ()


def _part(gathered: Gathered, name: str) -> Part:
    file = gathered.files[name]
    return Part(name, file, read_header(file, name))


def _pickle(gathered: Gathered) -> Path | None:
    """Examined even where it is not used: a hostile file beside good weights is still an attack."""
    file = gathered.files.get(names.PICKLE)
    if file is not None:
        pickle_opcodes.check(file, names.PICKLE)
    return file


def refuse_size(config: Rebuilt, parts: Sequence[Part]) -> None:
    """Before anything is built by the config: its largest table must be there. Raises ModelRefused (CF-SIZE)."""
    elements = sum(part.header.elements for part in parts)
    if config_keys.largest_tables(config.config) > elements:
        message = f"it asks for a table of more numbers than the weights hold ({elements:,}). Correct its sizes."
        raise refusal("CF-SIZE", names.CONFIG, message)
