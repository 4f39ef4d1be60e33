"""The vault on a store that speaks S3, for more than one host: s3://bucket/prefix.

    objects/ab/<sha256>/<id>    one putting of the object; the ids grow with time, and the last one counts
    damaged/<sha256>/<id>       what turned out to be other bytes than its name says; for the operator

Each putting has a key of its own, which is written once: so the collector, which removes the keys that it has seen to
be old, cannot remove bytes that somebody puts at that moment. Who has put an object removes the keys before.

Guarantees: those of `app.store.vault`. A key appears with all of its bytes or not at all (S3 does this, and checks
their SHA-256 as they arrive); a reader has them on its own disk and checked before it is given the first one. The
hosts' clocks must agree with the store's to within CLOCKS_SECONDS.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from obstore.exceptions import BaseError
from obstore.store import S3Store

from app.domain.errors import DependencyDown
from app.domain.ids import new_id
from app.store.vault import Vault, checked, hash_file, missing

if TYPE_CHECKING:
    from obstore import ObjectMeta  # a type alone: it is not there at run time

log = logging.getLogger(__name__)

PAGE = 1000  # keys that one request lists
RANGE = 8 * 1024 * 1024  # bytes that one request reads: what a reader holds in memory
CLOCKS_SECONDS = 60.0
_PATIENCE = timedelta(seconds=30)


def open_vault(address: Path | str, scratch: Path | None = None) -> Vault:
    """The vault in a folder, or in the bucket of an s3:// address."""
    if isinstance(address, Path):
        return Vault(address, scratch)
    return BucketVault(address, scratch or Path("var/scratch"))


class BucketVault(Vault):
    """Endpoint, region and credentials are those of AWS's own variables (AWS_ENDPOINT_URL, AWS_REGION, ...), read
    once. Every method raises DependencyDown while the store does not answer."""

    def __init__(self, address: str, scratch: Path) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self.incoming = scratch
        self._store = S3Store.from_url(
            address,
            checksum_algorithm="sha256",
            client_options={"allow_http": True, "connect_timeout": timedelta(seconds=5), "timeout": _PATIENCE},
            retry_config={"max_retries": 3, "retry_timeout": _PATIENCE},
        )

    def path(self, sha256: str) -> Path:
        """An object has none here."""
        raise NotImplementedError(f"{sha256} lies in a bucket")

    def has(self, sha256: str) -> bool:
        return bool(self._puttings(sha256))

    def check(self) -> None:
        super().check()
        self.has("0" * 64)  # a short listing, whatever is there

    def after(self, sha256: str, count: int) -> list[str]:
        found: dict[str, None] = {}
        start = f"{_folder(sha256)}~" if sha256 else None  # beyond each of its ids
        with _answering():
            for batch in self._store.list("objects/", offset=start, chunk_size=PAGE):
                found.update((each["path"].split("/")[-2], None) for each in batch)
                if len(found) >= count:
                    break
        return list(found)[:count]

    def set_aside(self, sha256: str) -> None:
        """Each damaged putting: one that was made meanwhile stays."""
        for putting in self._puttings(sha256):
            # By way of a file: the store's own copy ends at 5 GiB.
            with tempfile.NamedTemporaryFile(dir=self.incoming) as copy:
                for part in self._ranges(putting):
                    copy.write(part)
                copy.flush()
                if hash_file(Path(copy.name))[0] == sha256:
                    continue
                with _answering():
                    self._store.put(f"damaged/{sha256}/{putting['path'].rpartition('/')[2]}", Path(copy.name))
                self._delete([putting["path"]])

    def collect(self, sha256: str, older_than_seconds: float) -> bool:
        puttings = self._puttings(sha256)
        before = datetime.now(UTC) - timedelta(seconds=older_than_seconds + CLOCKS_SECONDS)
        old = [each["path"] for each in puttings if each["last_modified"] <= before]
        self._delete(old)
        return bool(old) and len(old) == len(puttings)

    def put_back(self) -> None:
        """Nothing is ever moved aside here."""

    def _take(self, file: Path, sha256: str) -> None:
        key = f"{_folder(sha256)}{new_id()}"
        with _answering():
            self._store.put(key, file)
        self._delete([each["path"] for each in self._puttings(sha256) if each["path"] < key])

    def open_verified(self, sha256: str) -> BinaryIO:
        """A copy on this host's disk that has no name, checked while it was written."""
        copy = cast(BinaryIO, tempfile.TemporaryFile(dir=self.incoming))  # noqa: SIM115 - the caller closes it
        try:
            self._copy(sha256, copy)
        except BaseException:
            copy.close()
            raise
        copy.seek(0)
        return copy

    def _chunks(self, sha256: str) -> Iterator[bytes]:
        """Of the last putting; it goes on with the one after it where that takes its place meanwhile."""
        last, start = self._last(sha256), 0
        while start < last["size"]:
            try:
                part = self._range(last, start)
            except FileNotFoundError:
                last = self._last(sha256)
                continue
            start += len(part)
            yield part

    def _ranges(self, putting: ObjectMeta) -> Iterator[bytes]:
        for start in range(0, putting["size"], RANGE):
            yield self._range(putting, start)

    def _range(self, putting: ObjectMeta, start: int) -> bytes:
        """One request: neither memory nor the time that it may take grows with the object.

        Raises FileNotFoundError where the key has gone."""
        end = min(start + RANGE, putting["size"])
        with _answering(may_be_gone=True):
            return self._store.get_range(putting["path"], start=start, end=end).to_bytes()

    def _last(self, sha256: str) -> ObjectMeta:
        puttings = self._puttings(sha256)
        if not puttings:
            raise missing(sha256)
        return puttings[-1]

    def _puttings(self, sha256: str) -> list[ObjectMeta]:
        """Those of one object, the last at the end."""
        with _answering():
            found = [each for batch in self._store.list(_folder(sha256)) for each in batch]
        return sorted(found, key=lambda each: each["path"])

    def _delete(self, keys: list[str]) -> None:
        with _answering():
            if keys:
                self._store.delete(keys)


def _folder(sha256: str) -> str:
    return f"objects/{checked(sha256)[:2]}/{sha256}/"


@contextlib.contextmanager
def _answering(*, may_be_gone: bool = False) -> Iterator[None]:
    """Raises DependencyDown: no answer, no permission, no such bucket."""
    try:
        yield
    except (BaseError, FileNotFoundError, PermissionError) as error:
        if may_be_gone and isinstance(error, FileNotFoundError):
            raise
        log.error("the vault's store: %s", str(error).split("\n", 1)[0])
        raise DependencyDown("The storage does not answer. Try again.") from error
