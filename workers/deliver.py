"""From the child's folder to the vault: the repaired model's files and the report.

The child trained on a caller's model, so what it left is read with care: plain files under plain names, a report of a
bounded size that says it did what was ordered. Files are in the vault, durable and under their hashes, before the row
that names them is written.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable
from pathlib import Path

from app.domain.errors import ChildMisspoke
from app.domain.job import Delivery, Job, JobOrder
from app.domain.manifest import FileEntry, Manifest
from app.domain.recipe import Recipe
from app.domain.report import SanitizationReport
from app.store.vault import Vault
from workers.card import CARD, card

REPORT = "report.json"
REPORT_BYTES = 4 * 1024 * 1024
MOST_FILES = 1000
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


def deliver(vault: Vault, out: Path, order: JobOrder, check: Callable[[], None]) -> Delivery:
    """Take the report and the files of `out` over. `check` is called before each file and may raise to stop.

    Raises ChildMisspoke when the folder does not hold what was ordered.
    """
    report = _report(out / REPORT, order)
    files = [file for file in _plain_files(out) if file.name != REPORT]
    if not files:
        raise ChildMisspoke("It left no model.")
    entries: list[FileEntry] = []
    for file in files:
        check()
        entries.append(vault.adopt(file))
    return Delivery(report, Manifest.of(entries))


def describe(vault: Vault, job: Job, made: Delivery) -> Delivery:
    """The delivery with a model card beside its files."""
    entry = vault.put([card(job, made.report).encode()])
    others = [file for file in made.manifest if file.path != CARD]
    return Delivery(made.report, Manifest.of([*others, FileEntry(CARD, entry.size, entry.sha256)]))


def _plain_files(out: Path) -> list[Path]:
    found = sorted(out.iterdir())
    for file in found[: MOST_FILES + 1]:
        if not stat.S_ISREG(file.lstat().st_mode) or not _NAME.fullmatch(file.name):
            raise ChildMisspoke("It left something that is not a plain file.")
    if len(found) > MOST_FILES:
        raise ChildMisspoke("It left too many files.")
    return found


def _report(file: Path, order: JobOrder) -> SanitizationReport:
    """Raises ChildMisspoke unless it is a report about this order."""
    try:
        if not stat.S_ISREG(file.lstat().st_mode) or file.lstat().st_size > REPORT_BYTES:
            raise ValueError("not a file of a report's size")
        report = SanitizationReport.from_dict(json.loads(file.read_bytes()))
        fingerprint = Recipe.of(order.method, order.recipe).fingerprint()
        if (report.method, report.seed, report.asked_fingerprint()) != (order.method, order.seed, fingerprint):
            raise ValueError("of another order")
        words = json.dumps(report.to_dict(), ensure_ascii=False, allow_nan=False)
        if "\\u0000" in words or not words.encode():  # a lone surrogate raises: PostgreSQL keeps neither
            raise ValueError("text that cannot be kept")
        if report.verdict.outcome not in ("pass", "fail", "inconclusive"):
            raise ValueError("no verdict")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, StopIteration) as error:
        raise ChildMisspoke(f"Its report cannot be read: {type(error).__name__}.") from error
    return report
