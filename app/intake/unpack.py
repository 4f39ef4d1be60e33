"""From what was uploaded to the files of a checkpoint, by name: the first step behind the sandbox's door."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.domain.errors import ModelRefused
from app.domain.model import Finding
from app.intake import archives, file_names
from app.intake.file_names import Kind, classify
from app.intake.rules import MOST_FINDINGS, refusal


@dataclass(frozen=True, slots=True)
class Gathered:
    """`files`: name -> file on disk, only names that are read. `notes`: what was left out."""

    files: Mapping[str, Path]
    notes: tuple[Finding, ...]

    def need(self, name: str, message: str) -> Path:
        """The file of that name. Raises ModelRefused (FN-MISSING)."""
        if name not in self.files:
            raise refusal("FN-MISSING", name, message)
        return self.files[name]


def from_archive(archive: Path, target: Path, max_bytes: int) -> Gathered:
    """Raises ModelRefused (AR-*, FN-*)."""
    return gather(file_names.strip_top_folder(archives.unpack(archive, target, max_bytes)))


def gather(files: Mapping[str, Path]) -> Gathered:
    """Keep what is read, leave out what is harmless, refuse the rest: all such findings at once.

    Raises ModelRefused (FN-*).
    """
    for path in files:
        file_names.check_path(path)
    file_names.check_collisions(files)
    kinds: dict[str, Kind] = {}
    findings: list[Finding] = []
    for path in sorted(files):
        try:
            kinds[path] = classify(path)
        except ModelRefused as error:
            findings += error.details["findings"]
    if findings:
        first = findings[0]
        raise ModelRefused(f"{first.file}: {first.message}", findings=tuple(findings[:MOST_FINDINGS]))
    read = {path: files[path] for path, kind in kinds.items() if kind is Kind.READ}
    return Gathered(read, tuple(file_names.ignored(set(files) - set(read))))
