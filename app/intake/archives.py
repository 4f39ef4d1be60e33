"""tar, tar.gz and zip, read member by member into files that we name: nothing is ever extracted to a path that an
archive gives. Links, devices, sparse and encrypted members are refused; count, bytes and ratio are capped while
reading, so that a bomb costs no more than the cap.
"""

from __future__ import annotations

import gzip
import io
import stat
import struct
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from app.domain.errors import ModelRefused
from app.intake import zip_members
from app.intake.file_names import check_collisions, check_path
from app.intake.rules import refusal, shown

CHUNK = 1024 * 1024
MEMBERS = 2_000
HEADER_BYTES = 128 * 1024  # of one extended tar header
HEADERS = 4 * MEMBERS  # of a tar, extended ones among them
END_BYTES = 1024  # of zeros end a tar
LARGE = 1 << 33  # from this size on a tar's plain header cannot hold the size
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
            members = _zip(handle) if _is_zip(handle) else _tar(handle, Budget(source, max_bytes + HEADERS * 512))
            return _store(members, target, Budget(source, max_bytes))
    except ModelRefused:
        raise
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile) as error:
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
            raise refusal("AR-AMBIGUOUS", NAME, f"it holds {shown(path)} twice.")
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
    """Members of a tar or tar.gz, in order, up to the zeros that end it; nothing follows them."""
    zipped = handle.read(2) == b"\x1f\x8b"
    handle.seek(0)
    stream = _Bounded(gzip.GzipFile(fileobj=handle) if zipped else handle, budget)
    with tarfile.open(fileobj=stream, mode="r|", errorlevel=2, tarinfo=_Header) as reader:
        for info in reader:
            reader.members = []  # type: ignore[attr-defined] # it would keep every header to the end
            path = info.name.removeprefix("./")
            if info.isdir():
                _folder(info, path)
                continue
            _plain_member(info, path)
            yield path, _content(reader, info)
        stream.drain()
        if stream.last > reader.offset:
            raise refusal("AR-AMBIGUOUS", NAME, "bytes follow the last member that can be read. Make it again.")
        if stream.place < reader.offset + END_BYTES:
            raise refusal("AR-FORMAT", NAME, "it does not end as a tar does: it may be cut short. Make it again.")


def _content(reader: tarfile.TarFile, info: tarfile.TarInfo) -> Iterator[bytes]:
    content = reader.extractfile(info)
    assert content is not None
    while piece := content.read(CHUNK):
        yield piece


def _folder(info: tarfile.TarInfo, path: str) -> None:
    if info.size:
        raise refusal("AR-AMBIGUOUS", NAME, f"its folder {shown(path)} has a content. Make it again.")
    if path.rstrip("/") != ".":  # `tar -C folder .` names the folder itself
        check_path(path.rstrip("/"))


def _plain_member(info: tarfile.TarInfo, path: str) -> None:
    if info.issym() or info.islnk():
        raise refusal("AR-LINK", NAME, f"its member {shown(path)} is a link. Pack the file itself.")
    sparse = info.issparse() or any(key.startswith("GNU.sparse") for key in info.pax_headers)
    if not info.isreg() or sparse:
        raise refusal("AR-SPECIAL", NAME, f"its member {shown(path)} is no ordinary file.")
    if "size" in info.pax_headers and info.size < LARGE:
        raise refusal("AR-AMBIGUOUS", NAME, f"its member {shown(path)} has two sizes. Make it again.")


class _Header(tarfile.TarInfo):
    """Looks at each header before tarfile acts on it: an extended one is read into memory whole."""

    def _proc_member(self, reader: tarfile.TarFile) -> tarfile.TarInfo:
        bounded = reader.fileobj.fileobj  # type: ignore[attr-defined] # tarfile's own buffer around it
        bounded.headers += 1
        if bounded.headers > HEADERS:
            raise refusal("AR-COUNT", NAME, f"it has over {MEMBERS} members. Leave out what the model does not need.")
        if self.size < 0:
            raise refusal("AR-FORMAT", NAME, "a member of it has a negative size. Make it again.")
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise refusal("AR-SPECIAL", NAME, f"its member {shown(self.name)} is no ordinary file.")
        plain = self.isreg() or self.isdir() or self.type not in tarfile.SUPPORTED_TYPES
        if not plain and self.size > HEADER_BYTES:
            raise refusal("AR-FORMAT", NAME, "a header in it is far too large. Make it again.")
        found: tarfile.TarInfo = super()._proc_member(reader)  # type: ignore[misc]
        return found


class _Bounded(io.RawIOBase):
    """A stream of a bounded number of bytes. `place` is how many were read, `last` the place after the last that is
    not zero."""

    def __init__(self, stream: gzip.GzipFile | BinaryIO, budget: Budget) -> None:
        self._stream, self._budget = stream, budget
        self.place = self.last = self.headers = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._budget.spend(len(data))
        if content := len(data.rstrip(b"\0")):
            self.last = self.place + content
        self.place += len(data)
        return data

    def drain(self) -> None:
        while self.read(CHUNK):
            pass


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
