"""Resume points between the child's folder, the vault and the database.

A point that the child has written is taken over like a delivery: plain files under our own names, durable in the
vault before the row that names them, and only while the claim holds. At the next claim the newest ones are laid out
again, byte by byte as they were. A point that is damaged, gone, or of no use to the child is forgotten; the one
before it, or the beginning, takes its place.
"""

from __future__ import annotations

import logging
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.domain.errors import ChildMisspoke, Corrupt, NotFound
from app.domain.job import Claim
from app.domain.manifest import Manifest
from app.store import claim_rows, point_rows, vault_care
from app.store.point_rows import Point
from workers.pulse import DATABASE_DOWN
from workers.services import Services

log = logging.getLogger(__name__)

FILES = ("state.json", "state.safetensors")
# An object that is no point any more goes at once, unless it was put in again just now.
YOUNG_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Points:
    """Those of one claim. `written` is where the child puts new ones, `laid_out` where old ones lie for it; `objects`
    are the hashes of all of them."""

    services: Services
    claim: Claim
    written: Path
    laid_out: Path
    objects: list[str]

    @classmethod
    def of(cls, services: Services, claim: Claim, folder: Path, objects: list[str]) -> Points:
        written, laid_out = folder / "points", folder / "found"
        written.mkdir()
        laid_out.mkdir()
        return cls(services, claim, written, laid_out, objects)

    def lay_out(self) -> list[Path]:
        """Folders of the points to go on from, the furthest first."""
        with self.services.database.connect() as connection:
            points = point_rows.newest(connection, self.claim.job.id)
        self.objects.extend(entry.sha256 for point in points for entry in point.manifest)
        return [folder for point in points if (folder := self._copy(point)) is not None]

    def hear(self, message: Mapping[str, Any]) -> None:
        """What the child says of its points. Raises LeaseLost, and ChildMisspoke for one that is not as it says."""
        if message["kind"] == "point":
            self._take_over(self.written / message["name"], message["step"])
        elif message["kind"] == "bad-point":
            log.warning("job %s: the point of step %d is of no use", self.claim.job.id, message["step"])
            self._forget(message["step"])

    def _copy(self, point: Point) -> Path | None:
        folder = self.laid_out / str(point.step)
        folder.mkdir()
        try:
            for entry in point.manifest:
                self.services.vault.copy_verified(entry.sha256, folder / entry.path)
        except (Corrupt, NotFound) as error:
            log.warning("job %s: the point of step %d is not used: %s", self.claim.job.id, point.step, error.message)
            self._forget(point.step)
            return None
        log.info("job %s: goes on from step %d if it can", self.claim.job.id, point.step)
        return folder

    def _take_over(self, folder: Path, step: int) -> None:
        entries = [self.services.vault.adopt(_plain(folder / name)) for name in FILES]
        shutil.rmtree(folder)
        self.objects.extend(entry.sha256 for entry in entries)
        try:
            with self.services.database.begin() as connection:
                old = point_rows.add(connection, self.claim, Point(step, Manifest.of(entries)))
        except DATABASE_DOWN as error:
            log.warning("job %s: no point of step %d: %s", self.claim.job.id, step, type(error).__name__)
            return
        collect(self.services, [entry.sha256 for point in old for entry in point.manifest])

    def _forget(self, step: int) -> None:
        """Raises LeaseLost."""
        with self.services.database.begin() as connection:
            claim_rows.lock_held(connection, self.claim)
            point_rows.drop(connection, self.claim.job.id, step)


def collect(services: Services, objects: list[str]) -> None:
    """Remove points that no row speaks of any more. What is missed here, the collector of the vault finds."""
    try:
        vault_care.collect(services.database, services.vault, objects, YOUNG_SECONDS)
    except DATABASE_DOWN as error:
        log.warning("%d objects of points stay for the collector: %s", len(objects), type(error).__name__)


def _plain(file: Path) -> Path:
    try:
        if stat.S_ISREG(file.lstat().st_mode):
            return file
    except OSError:
        pass
    raise ChildMisspoke("It named a resume point that is not there.")
