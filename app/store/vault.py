"""Files by the SHA-256 of their bytes, in one folder. `app.store.bucket_vault` keeps the same promises on S3.

    incoming/<id>          bytes that are still arriving, and folders of runs; or in the scratch folder
    objects/ab/<sha256>    whole files; never changed once there
    damaged/<sha256>       what turned out to be other bytes than its name says; for the operator

Guarantees: an object appears under its name complete and durable, or not at all (temporary name on the same file
system, fsync, rename, fsync of the folder); `open_verified` never hands out bytes that do not hash to the name; an
object that was put again meanwhile is not collected.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from app.domain.errors import Corrupt, NotFound
from app.domain.manifest import FileEntry

CHUNK = 1024 * 1024
_NAME = re.compile(r"[0-9a-f]{64}")


class Vault:
    """`incoming` is the scratch of this host: what lies there is not stored yet, and `adopt` takes it over."""

    def __init__(self, root: Path, scratch: Path | None = None) -> None:
        """Without `scratch`, what arrives lies beside the objects, so that storing it is a rename."""
        self.incoming = scratch or root / "incoming"
        self._landing = root / "incoming"
        self._objects = root / "objects"
        for folder in (self.incoming, self._landing, self._objects):
            folder.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Where the object is or would be. Raises ValueError for anything but 64 hex digits."""
        return self._objects / checked(sha256)[:2] / sha256

    def has(self, sha256: str) -> bool:
        return self.path(sha256).is_file()

    def check(self) -> None:
        """Raises OSError or DependencyDown when nothing can be stored."""
        if not os.access(self.incoming, os.W_OK | os.X_OK):
            raise PermissionError(self.incoming)

    def adopt(self, file: Path, sha256: str | None = None) -> FileEntry:
        """Take over `file`, which lies in `incoming` or below, and make it durable.

        `sha256` is its hash when the caller has just computed it over the same bytes; else it is computed here.
        Returns the entry (path: the file's name). The file is gone from its old place afterwards.
        """
        digest, size = (sha256, file.stat().st_size) if sha256 else hash_file(file)
        self._take(file, digest)
        file.unlink(missing_ok=True)  # still there if it was copied, or a second name of the very same object
        return FileEntry(file.name, size, digest)

    def _take(self, file: Path, sha256: str) -> None:
        """The bytes of `file` under their name, durable, though another name of the file may stay."""
        if file.stat().st_dev != self._landing.stat().st_dev:
            file = Path(shutil.copyfile(file, self._landing / uuid4().hex))
        target = self.path(sha256)
        target.parent.mkdir(exist_ok=True)
        sync(self._objects)
        file.chmod(0o444)
        os.utime(file)  # its age counts from here, for `collect`
        sync(file)
        file.replace(target)
        sync(target.parent)

    def share(self, file: Path, sha256: str) -> None:
        """As `adopt` with a known hash, but the file keeps its old name too: from here on nobody may write to it.

        A caller that must record the hash elsewhere removes the old name afterwards, so that a crash in between
        leaves a file with two names instead of an object that nobody knows of.
        """
        second = self.incoming / f"{file.name}.{uuid4().hex}"
        os.link(file, second)
        self.adopt(second, sha256)

    def put(self, chunks: Iterable[bytes]) -> FileEntry:
        """Store a stream of bytes. The entry's path is the hash."""
        handle, name = tempfile.mkstemp(dir=self.incoming)
        digest = hashlib.sha256()
        try:
            with os.fdopen(handle, "wb") as out:
                for chunk in chunks:
                    digest.update(chunk)
                    out.write(chunk)
            entry = self.adopt(Path(name), digest.hexdigest())
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return FileEntry(entry.sha256, entry.size, entry.sha256)

    def after(self, sha256: str, count: int) -> list[str]:
        """The names of at most `count` objects beyond that one, in order; all from the first on for ""."""
        found: list[str] = []
        for folder in sorted(self._objects.iterdir()):
            if folder.name >= sha256[:2]:
                found += sorted(file.name for file in folder.iterdir() if file.name > sha256)
            if len(found) >= count:
                break
        return [name for name in found[:count] if _NAME.fullmatch(name)]

    def is_whole(self, sha256: str) -> bool:
        """Whether the object's bytes are those of its name; also when it is gone."""
        digest = hashlib.sha256()
        try:
            for chunk in self._chunks(sha256):
                digest.update(chunk)
        except NotFound:
            return True
        return digest.hexdigest() == sha256

    def set_aside(self, sha256: str) -> None:
        """Take a damaged object out of reach, and keep it for the operator."""
        aside = self._aside("damaged")
        self.path(sha256).replace(aside / sha256)
        sync(aside)
        sync(self.path(sha256).parent)

    def collect(self, sha256: str, older_than_seconds: float) -> bool:
        """Remove an object that no row speaks of, unless it was put in less than that long ago; whether it went.

        The caller sees to it that no row comes to speak of it meanwhile. It may be put again at any moment: the file
        is moved aside, and back if it turns out to be a younger one.
        """
        aside = self._aside("collected") / f"{sha256}.{uuid4().hex}"
        try:
            if _age(self.path(sha256)) < older_than_seconds:
                return False
            self.path(sha256).rename(aside)
        except FileNotFoundError:
            return False
        if _age(aside) < older_than_seconds:
            with contextlib.suppress(FileExistsError):
                os.link(aside, self.path(sha256))
        gone = not self.has(sha256)
        aside.unlink()
        return gone

    def put_back(self) -> None:
        """What a crash left of `collect` between its two moves: there again, to be collected as anything else."""
        for file in self._aside("collected").iterdir():
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                os.link(file, self.path(file.name[:64]))
            file.unlink(missing_ok=True)

    def _aside(self, name: str) -> Path:
        folder = self._objects.parent / name
        folder.mkdir(exist_ok=True)
        return folder

    def open_verified(self, sha256: str) -> BinaryIO:
        """The object, opened for reading at 0, after its bytes were checked against its name on this very handle.

        Raises NotFound when there is no such object and Corrupt when its bytes are not those of its name.
        """
        handle = self._open(sha256)
        if hashlib.file_digest(handle, "sha256").hexdigest() != sha256:
            handle.close()
            raise _damaged(sha256)
        handle.seek(0)
        return handle

    def copy_verified(self, sha256: str, target: Path) -> None:
        """Write the object's bytes to `target`, hashing what is written; nothing stays there if they are wrong.

        Raises NotFound and Corrupt as `open_verified` does.
        """
        with target.open("xb") as out:
            try:
                self._copy(sha256, out)
            except BaseException:
                target.unlink()
                raise

    def _copy(self, sha256: str, out: BinaryIO) -> None:
        """Raises NotFound, and Corrupt when what was written is not what the name says."""
        digest = hashlib.sha256()
        for chunk in self._chunks(sha256):
            digest.update(chunk)
            out.write(chunk)
        if digest.hexdigest() != sha256:
            raise _damaged(sha256)

    def _chunks(self, sha256: str) -> Iterator[bytes]:
        """The object as it is stored, not checked. Raises NotFound."""
        with self._open(sha256) as source:
            while chunk := source.read(CHUNK):
                yield chunk

    def _open(self, sha256: str) -> BufferedReader:
        try:
            return self.path(sha256).open("rb")
        except FileNotFoundError:
            raise missing(sha256) from None


def checked(sha256: str) -> str:
    """Raises ValueError for anything but 64 hex digits."""
    if not _NAME.fullmatch(sha256):
        raise ValueError(f"not a SHA-256: {sha256[:80]!r}")
    return sha256


def missing(sha256: str) -> NotFound:
    return NotFound(f"The stored file {sha256} is not there.")


def _damaged(sha256: str) -> Corrupt:
    return Corrupt(f"The stored file {sha256} is damaged and was not used. Restore it from a backup.")


def _age(file: Path) -> float:
    """Seconds since the object was put in."""
    return time.time() - file.stat().st_mtime


def hash_file(file: Path) -> tuple[str, int]:
    """SHA-256 in hex, and size in bytes."""
    with file.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256")
        return digest.hexdigest(), handle.tell()


def sync(path: Path) -> None:
    """fsync a file or a folder, so that it is there after a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
