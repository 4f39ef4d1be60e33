"""tar, tar.gz and zip, read member by member into files that we name: nothing is ever extracted to a path that an
archive gives. Links, devices, sparse and encrypted members are refused; count, bytes and ratio are capped while
reading, so that a bomb costs no more than the cap.
"""

from __future__ import annotations

import gzip
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from app.domain.errors import ModelRefused
from app.intake import zip_members
from app.intake.file_names import check_collisions, check_path
from app.intake.rules import refusal, shown
from app.intake.tar_members import TarReader

MEMBERS = 2_000
TAR_BYTES = 16 * MEMBERS * 512  # of a tar's headers and padding
RATIO = 200  # weights hardly compress: 1.1 is usual, and text at most 20
RATIO_FREE = 16 * 1024 * 1024  # small archives may compress as they like
NAME = "archive"


@dataclass
class Budget:
    """What may still be unpacked. `source` is the size of the archive in bytes."""

    source: int
    left: int
    unpacked: int = 0

    def spend(self, count: int) -> None:
        """Raises ModelRefused (AR-SIZE, AR-RATIO)."""
        self.left -= count
        self.unpacked += count
        if self.left < 0:
            raise refusal("AR-SIZE", NAME, "it unpacks to more than this service takes. Upload the files one by one.")
        if self.unpacked > max(RATIO_FREE, RATIO * self.source):
            raise refusal(
                "AR-RATIO", NAME, f"it unpacks to over {RATIO} times its size. Upload the files one by one."
            )


def unpack(archive: Path, target: Path, max_bytes: int) -> dict[str, Path]:
    """Every regular file: path inside -> file in `target`, which is empty. Raises ModelRefused (AR-*)."""
    source = archive.stat().st_size
    try:
        with archive.open("rb") as handle:
            members = _zip(handle) if _is_zip(handle) else _tar(handle, Budget(source, max_bytes + TAR_BYTES))
            return _store(members, target, Budget(source, max_bytes))
    except ModelRefused:
        raise
    except (zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise refusal(
            "AR-FORMAT", NAME, f"as tar, tar.gz or zip it cannot be read ({shown(error)}). Make it again."
        ) from None
    except (ValueError, struct.error, NotImplementedError, RuntimeError, OverflowError, UnicodeError) as error:
        raise refusal("AR-FORMAT", NAME, f"it is damaged ({shown(error)}). Make it again.") from None


Member = tuple[str, Iterator[bytes]]


def _store(members: Iterator[Member], target: Path, budget: Budget) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path, pieces in members:
        if len(found) >= MEMBERS:
            raise refusal("AR-COUNT", NAME, f"it has over {MEMBERS} members. Leave out what the model does not need.")
        if check_path(path) in found:
            raise refusal("AR-AMBIGUOUS", NAME, f"it holds {shown(path)} twice. Keep one of them.")
        file = target / f"{len(found):04d}"
        with file.open("xb") as out:
            for piece in pieces:
                budget.spend(len(piece))
                out.write(piece)
        found[path] = file
    check_collisions(found)
    return found


def _is_zip(handle: BinaryIO) -> bool:
    start = handle.read(262)
    handle.seek(0)
    if start[:4] not in (b"PK\x03\x04", b"PK\x05\x06"):
        return False
    if start[257:] == b"ustar":
        raise refusal("AR-AMBIGUOUS", NAME, "it is a zip and a tar at once. Make it again.")
    return True


def _tar(handle: BinaryIO, budget: Budget) -> Iterator[Member]:
    """Members of a tar or tar.gz, in order. What is read beside their content is capped like it."""
    zipped = handle.read(2) == b"\x1f\x8b"
    handle.seek(0)
    stream = gzip.GzipFile(fileobj=handle) if zipped else handle

    def read(count: int) -> bytes:
        data = stream.read(count)
        budget.spend(len(data))
        return data

    reader = TarReader(read)
    for count, member in enumerate(reader.members()):
        if count >= 2 * MEMBERS:
            raise refusal("AR-COUNT", NAME, f"it has over {MEMBERS} members.")
        path = member.name.removeprefix("./")
        if not member.folder:
            yield path, reader.content()
        elif path.rstrip("/") not in ("", "."):  # `tar -C folder .` names the folder itself
            check_path(path.removesuffix("/"))


def _zip(handle: BinaryIO) -> Iterator[Member]:
    for member in zip_members.read_directory(handle, NAME, "AR-AMBIGUOUS", 2 * MEMBERS):
        if stat.S_ISLNK(member.mode):
            raise refusal("AR-LINK", NAME, f"its member {shown(member.name)} is a link. Pack the file itself.")
        if member.name.endswith("/"):
            check_path(member.name.removesuffix("/"))
            continue
        if stat.S_IFMT(member.mode) not in (0, stat.S_IFREG):
            raise refusal("AR-SPECIAL", NAME, f"its member {shown(member.name)} is no ordinary file.")
        yield member.name, zip_members.unpacked(handle, member, NAME, "AR-AMBIGUOUS")
