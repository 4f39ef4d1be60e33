"""`lethe scan PATH...`: what the service would say of a model, without the service.

Each target (a folder that is one checkpoint, one archive, or one file) goes through the very steps of an upload, in
the same sandboxed child, and nothing of it stays behind. Guarantees: this process opens what it scans only to copy
it; a target that cannot be judged is an error, never clean.

Exit status: 0 every target would be admitted, 1 findings, 2 a target could not be judged, 3 there was nothing to
scan, 4 wrong usage. An error outweighs findings, and these outweigh the rest.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.domain.errors import LetheError, ModelRefused, OperatorError
from app.domain.model import Finding, ModelFacts
from app.intake.file_names import Kind, classify
from app.intake.rules import listed, refusal
from app.settings import InspectionSettings
from workers.channel import plain
from workers.judge import INPUTS, Refused, judge, new_order

SCHEMA = 1
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
MOST_FILES = 2_000  # as many as one upload may name
CHUNK = 1024 * 1024


class Status(StrEnum):
    CLEAN = "clean"
    FINDINGS = "findings"
    ERROR = "error"
    NOTHING = "nothing-to-scan"


# The first that any target has is the status of the whole.
EXIT: Mapping[Status, int] = {Status.ERROR: 2, Status.FINDINGS: 1, Status.CLEAN: 0, Status.NOTHING: 3}


@dataclass(frozen=True, slots=True)
class Scanned:
    """What came of one target. `reason` is there where it was not judged."""

    path: Path
    status: Status
    findings: tuple[Finding, ...] = ()
    facts: ModelFacts | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": _escaped(self.path),
            "status": self.status,
            "reason": self.reason,
            "findings": [asdict(finding) for finding in self.findings],
            "facts": asdict(self.facts) if self.facts else None,
        }


def scan(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="A checkpoint's folder, an archive or a file.")
    ],
    each: Annotated[bool, typer.Option("--each", help="Scan each entry of a folder by itself.")] = False,
    folders: Annotated[
        bool, typer.Option("--folders", help="A file that is no archive stands for the folder that it lies in.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Say it as one JSON document.")] = False,
) -> None:
    """Say what an upload of PATH would get, without a service: what is wrong with it, rule by rule."""
    for path in paths:
        if not os.path.lexists(path):
            raise typer.BadParameter(f"{_escaped(path)} does not exist.", param_hint="PATH")
    limits, console = _limits(), Console(highlight=False, soft_wrap=False)
    results: list[Scanned] = []
    paths = list(dict.fromkeys(map(_checkpoint_of, paths))) if folders else paths
    for path in _targets(paths) if each else paths:
        results.append(scan_one(path, limits))
        if not as_json:
            _show(console, results[-1])
    if as_json:
        typer.echo(json.dumps(_document(results), indent=2))
    else:
        _sum_up(console, results)
    raise typer.Exit(EXIT[status_of(results)])


def _limits() -> InspectionSettings:
    try:
        return InspectionSettings()
    except ValidationError as error:
        wrong = [f"LETHE_{str(fault['loc'][0]).upper()}: {fault['msg']}" for fault in error.errors()]
        raise typer.BadParameter("; ".join(wrong), param_hint="environment") from None


def scan_one(path: Path, limits: InspectionSettings) -> Scanned:
    """Judge one target. Whatever happens, it is said in the result."""
    try:
        with tempfile.TemporaryDirectory(prefix="lethe-scan-", ignore_cleanup_errors=True) as folder:
            return _scan(path, Path(folder), limits)
    except ModelRefused as refused:
        return Scanned(path, Status.FINDINGS, tuple(refused.details["findings"]))
    except LetheError as error:
        return Scanned(path, Status.ERROR, reason=plain(error.message))
    except OSError as error:
        return Scanned(path, Status.ERROR, reason=f"It cannot be read or copied: {error.strerror or error}.")
    except Exception as error:  # the scan of the other targets goes on
        return Scanned(path, Status.ERROR, reason=f"The scan broke off by a fault of Lethe ({type(error).__name__}).")


def status_of(results: Iterable[Scanned]) -> Status:
    found = {result.status for result in results}
    return next((status for status in EXIT if status in found), Status.NOTHING)


def _checkpoint_of(path: Path) -> Path:
    """The folder, where the path is one file of it; as a tool gives it that knows files alone."""
    return path if path.is_dir() or path.name.lower().endswith(ARCHIVES) else path.parent


def _targets(paths: Iterable[Path]) -> Iterator[Path]:
    """The entries of each folder; a folder that cannot be read stands for itself, and its scan says why."""
    for path in paths:
        try:
            yield from sorted(path.iterdir()) if path.is_dir() else [path]
        except OSError:
            yield path


def _scan(path: Path, folder: Path, limits: InspectionSettings) -> Scanned:
    """Raises ModelRefused, LetheError and OSError."""
    if path.name.lower().endswith(ARCHIVES) and not path.is_dir():
        files, archive = {}, path
    else:
        files, archive = _files_of(path), None
        if all(_is_left_out(name) for name in files):
            said = f"of {listed(files)} nothing is read" if files else "it holds no file"
            return Scanned(path, Status.NOTHING, reason=f"There is nothing to scan: {said}.")
    copies = _Copies(folder, limits.model_max_bytes)
    laid = {name: copies.add(file, unless=_is_unread(name)) for name, file in files.items()}
    order = new_order(folder, laid, copies.add(archive) if archive else None, limits.model_max_bytes)
    verdict = judge(order, folder, limits)
    if isinstance(verdict, Refused):
        return Scanned(path, Status.FINDINGS, verdict.findings)
    return Scanned(path, Status.CLEAN, verdict.notes, verdict.facts)


def _files_of(path: Path) -> dict[str, Path]:
    """The files by the path that each would have in the upload. Raises ModelRefused (AR-COUNT)."""
    if not path.is_dir():
        return {path.name: path}
    found: dict[str, Path] = {}
    for top, folders, names in os.walk(path, onerror=_raise):
        links = [name for name in folders if Path(top, name).is_symlink()]  # not followed, so not a folder here
        for name in sorted([*names, *links]):
            file = Path(top, name)
            found[file.relative_to(path).as_posix()] = file
        if len(found) > MOST_FILES:
            raise refusal(
                "AR-COUNT", ".", f"it has over {MOST_FILES:,} files. Leave out what the model does not need."
            )
    return dict(sorted(found.items()))


def _raise(error: OSError) -> None:
    raise error


def _is_left_out(name: str) -> bool:
    try:
        return classify(name) is Kind.IGNORED
    except ModelRefused:
        return False


def _is_unread(name: str) -> bool:
    """Whether the name alone decides: the file is left out, or refused, without a look inside."""
    try:
        return classify(name) is not Kind.READ
    except ModelRefused:
        return True


class _Copies:
    """Copies in the child's private folder, under names of ours, so that it never sees the originals."""

    def __init__(self, folder: Path, left: int) -> None:
        self._folder = folder / INPUTS
        self._folder.mkdir()
        self._left = left
        self._count = 0

    def add(self, file: Path, *, unless: bool = False) -> Path:
        """A copy; an empty stand-in with `unless`. Raises ModelRefused (FN-FORMAT) and OperatorError."""
        target = self._folder / f"{self._count:04d}"
        self._count += 1
        with target.open("xb") as out:
            if not unless:
                self._copy(file, out)
        return target

    def _copy(self, file: Path, out: BinaryIO) -> None:
        with _opened(file) as source:
            while chunk := source.read(CHUNK):
                self._left -= len(chunk)
                if self._left < 0:
                    raise OperatorError("It is larger than LETHE_MODEL_MAX_BYTES, so that no upload would take it.")
                out.write(chunk)


def _opened(file: Path) -> BinaryIO:
    """An ordinary file, also through a link. Never waits, as on a pipe. Raises ModelRefused (FN-FORMAT)."""
    handle = os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
        handle.close()
        raise refusal("FN-FORMAT", plain(file.name, 255), "it is no ordinary file.")
    return handle


def _document(results: list[Scanned]) -> dict[str, Any]:
    counts = Counter(result.status for result in results)
    return {
        "schema": SCHEMA,
        "status": status_of(results),
        "summary": {status: counts[status] for status in Status},
        "results": [result.to_dict() for result in results],
    }


def _show(console: Console, result: Scanned) -> None:
    colour = {Status.CLEAN: "green", Status.FINDINGS: "red", Status.ERROR: "magenta", Status.NOTHING: "yellow"}
    console.print(Text.assemble((result.status, f"bold {colour[result.status]}"), "  ", _escaped(result.path)))
    if result.facts is not None:
        facts = result.facts
        labels = listed(facts.labels)
        console.print(Text(f"  {facts.architecture}, {facts.parameters:,} parameters, labels {labels}"))
    if result.reason is not None:
        console.print(Text(f"  {result.reason}"))
    if result.findings:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in ("rule", "severity", "file", "why"):
            table.add_column(column, overflow="fold", no_wrap=column in ("rule", "severity"))
        for finding in result.findings:
            table.add_row(*(Text(plain(value)) for value in asdict(finding).values()))
        console.print(table)


def _sum_up(console: Console, results: list[Scanned]) -> None:
    counts = Counter(result.status for result in results)
    console.print(", ".join(f"{counts[status]} {status}" for status in Status if counts[status]) or "nothing to scan")


def _escaped(path: Path) -> str:
    """As text that any terminal and any reader of JSON takes."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(path))
