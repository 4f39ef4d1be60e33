"""A vault in a bucket keeps the promises of one in a folder: the same tests over both."""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from sqlalchemy import Engine

from app.domain.errors import Corrupt, DependencyDown, NotFound
from app.domain.ids import new_id
from app.store import bucket_vault, vault_care
from app.store.bucket_vault import BucketVault, open_vault
from app.store.vault import Vault
from tests.app.store.test_vault_care import DAY, Life, PutAgain, age, live
from tests.s3_server import Bucket

DATA = b"some bytes" * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()


@dataclass(frozen=True)
class Kind:
    vault: Vault
    damage: Callable[[str, bytes], object]
    grow_old: Callable[[str], object]
    damaged: Callable[[], list[bytes]]


@pytest.fixture(params=["folder", "bucket"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    if request.param == "folder":
        return in_folder(Vault(tmp_path / "vault"), tmp_path / "vault/damaged")
    return in_bucket(request.getfixturevalue("bucket"), tmp_path)


def in_folder(vault: Vault, aside: Path) -> Kind:
    def damage(sha256: str, data: bytes) -> None:
        vault.path(sha256).chmod(0o600)
        vault.path(sha256).write_bytes(data)

    return Kind(vault, damage, lambda each: age(vault, each), lambda: [each.read_bytes() for each in aside.iterdir()])


def in_bucket(bucket: Bucket, tmp_path: Path) -> Kind:
    return Kind(
        bucket.vault(tmp_path / "scratch"),
        bucket.damage,
        lambda sha256: bucket.age(sha256, 2 * DAY),
        lambda: [each.value for each in bucket.keys("damaged/").values()],
    )


def read(vault: Vault, sha256: str = SHA256) -> bytes:
    with vault.open_verified(sha256) as handle:
        return handle.read()


def place(vault: Vault, data: bytes = DATA) -> Path:
    file = vault.incoming / "file"
    file.write_bytes(data)
    return file


def test_what_is_put_is_read_from_any_place_in_it(kind: Kind, tmp_path: Path) -> None:
    entry = kind.vault.put([DATA[:7], DATA[7:]])
    assert (entry.sha256, entry.size) == (SHA256, len(DATA))
    assert kind.vault.has(SHA256)
    with kind.vault.open_verified(SHA256) as handle:
        handle.seek(5000)
        assert handle.read(10) == DATA[5000:5010]
    kind.vault.copy_verified(SHA256, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == DATA
    assert list(kind.vault.incoming.iterdir()) == []


@pytest.mark.parametrize("known", [SHA256, None])
def test_adopting_takes_the_file_and_mends_a_damaged_object(kind: Kind, known: str | None) -> None:
    kind.vault.adopt(place(kind.vault), known)
    kind.damage(SHA256, b"damaged")
    file = place(kind.vault)
    assert kind.vault.adopt(file, known).sha256 == SHA256
    assert not file.exists()
    assert read(kind.vault) == DATA


def test_sharing_keeps_the_first_name_and_can_be_done_again(kind: Kind) -> None:
    file = place(kind.vault)
    for _ in range(2):
        kind.vault.share(file, SHA256)
        assert read(kind.vault) == DATA
        assert list(kind.vault.incoming.iterdir()) == [file]


def test_a_stream_that_breaks_leaves_nothing(kind: Kind) -> None:
    def broken() -> Iterator[bytes]:
        yield DATA
        raise OSError("the cable")

    with pytest.raises(OSError, match="cable"):
        kind.vault.put(broken())
    assert kind.vault.after("", 10) == []
    assert list(kind.vault.incoming.iterdir()) == []


@pytest.mark.parametrize("damage", [DATA[:-1], DATA + b"x", b"t" + DATA[1:], b""])
def test_damage_is_found_on_every_read_and_set_aside(
    kind: Kind, database: Engine, tmp_path: Path, damage: bytes
) -> None:
    kind.vault.put([DATA])
    kind.damage(SHA256, damage)
    with pytest.raises(Corrupt):
        kind.vault.open_verified(SHA256)
    with pytest.raises(Corrupt):
        kind.vault.copy_verified(SHA256, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert list(kind.vault.incoming.iterdir()) == []
    assert vault_care.scrub_some(database, kind.vault, "worker:test", DAY, 60.0) == [SHA256]
    assert kind.damaged() == [damage]
    assert not kind.vault.has(SHA256)


def test_what_is_not_there(kind: Kind, tmp_path: Path) -> None:
    assert not kind.vault.has(SHA256)
    with pytest.raises(NotFound):
        kind.vault.open_verified(SHA256)
    with pytest.raises(NotFound):
        kind.vault.copy_verified(SHA256, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert kind.vault.is_whole(SHA256)
    assert not kind.vault.collect(SHA256, 0)


def test_an_empty_object(kind: Kind) -> None:
    assert read(kind.vault, kind.vault.put([]).sha256) == b""


def test_objects_are_walked_in_order_each_once(kind: Kind) -> None:
    names = sorted(kind.vault.put([f"{number}".encode()]).sha256 for number in range(7))
    kind.vault.put([b"3"])
    assert kind.vault.after("", 100) == names
    assert kind.vault.after("", 3) == names[:3]
    assert kind.vault.after(names[2], 3) == names[3:6]
    assert kind.vault.after(names[6], 3) == []


@pytest.mark.parametrize("name", ["", "..", "A" * 64, "a" * 63, "../" + "a" * 61, "a" * 63 + "\n"])
def test_only_a_sha256_names_an_object(kind: Kind, name: str) -> None:
    with pytest.raises(ValueError, match="not a SHA-256"):
        kind.vault.has(name)


def test_only_the_old_is_collected(kind: Kind) -> None:
    kind.vault.put([DATA])
    assert not kind.vault.collect(SHA256, DAY)
    kind.grow_old(SHA256)
    kind.vault.put([DATA])
    assert not kind.vault.collect(SHA256, DAY)
    assert read(kind.vault) == DATA
    kind.grow_old(SHA256)
    assert kind.vault.collect(SHA256, DAY)
    assert not kind.vault.has(SHA256)


class _PutAgainInBucket(PutAgain):
    """Between the look at the ages and the removal."""

    def collect(self, sha256: str, older_than_seconds: float) -> bool:
        delete, hashed = self._vault._delete, hashlib.sha256(self._content).hexdigest()  # type: ignore[attr-defined]

        def put_first(keys: list[str]) -> None:
            if not self.done and sha256 == hashed:
                self.put()
            delete(keys)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self._vault, "_delete", put_first)
            return self._vault.collect(sha256, older_than_seconds)


def test_what_is_put_in_the_moment_of_its_removal_stays(kind: Kind) -> None:
    kind.vault.put([DATA])
    kind.grow_old(SHA256)
    again = (_PutAgainInBucket if isinstance(kind.vault, BucketVault) else PutAgain)(kind.vault, DATA)
    again.collect(SHA256, DAY)
    assert again.done
    assert read(kind.vault) == DATA


def test_nothing_that_is_named_is_ever_collected_from_a_bucket(
    database: Engine, bucket: Bucket, tmp_path: Path
) -> None:
    class LifeInBucket(Life):
        def new_vault(self) -> Vault:
            for name in (vault := bucket.vault(tmp_path)).after("", 100):
                bucket.age(name, 2 * DAY)
                vault.collect(name, 0)
            return vault

        def grow_old(self, sha256: str) -> None:
            bucket.age(sha256, 2 * DAY)

        def put_again(self, content: bytes) -> PutAgain:
            return _PutAgainInBucket(self.vault, content)

    live(type("Case", (LifeInBucket,), {"database": database, "folder": tmp_path}), examples=20, steps=15)


def test_the_store_is_told_the_hash_of_what_it_is_sent(bucket: Bucket, tmp_path: Path) -> None:
    headers: list[str | None] = []

    class Listener(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            headers.append(self.headers["x-amz-checksum-sha256"])
            self.send_response(503)  # and keeps nothing
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,)).start()
        address = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}
        with pytest.raises(DependencyDown):
            Bucket(bucket.name, bucket.environment | address).vault(tmp_path).put([DATA])
        server.shutdown()
    assert set(headers) == {base64.b64encode(bytes.fromhex(SHA256)).decode()}
    assert list(tmp_path.iterdir()) == []


def test_a_large_object_goes_in_parts_and_is_read_in_ranges(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_vault, "RANGE", 4_000_000)
    vault, data = bucket.vault(tmp_path), os.urandom(11_000_000)
    sha256 = vault.put([data]).sha256
    (stored,) = bucket.keys().values()
    assert stored.multipart is not None
    assert read(vault, sha256) == data


def test_a_reader_goes_on_where_the_object_is_put_again_meanwhile(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_vault, "RANGE", 1000)
    vault = bucket.vault(tmp_path)
    vault.put([DATA])
    chunks = vault._chunks(SHA256)
    first = next(chunks)
    vault.put([DATA])
    assert len(bucket.keys(SHA256)) == 1  # what was put before is gone
    assert first + b"".join(chunks) == DATA


def test_what_was_put_again_while_it_was_found_damaged_stays(bucket: Bucket, tmp_path: Path) -> None:
    vault = bucket.vault(tmp_path)
    vault.put([DATA])
    bucket.damage(SHA256, b"damaged")
    assert not vault.is_whole(SHA256)
    vault.put([DATA])
    vault.set_aside(SHA256)
    assert read(vault) == DATA


def test_a_store_that_does_not_answer_or_has_no_such_bucket(bucket: Bucket, tmp_path: Path) -> None:
    nowhere = Bucket(bucket.name, bucket.environment | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"})
    absent = Bucket(f"absent-{new_id()}", bucket.environment)
    for place_ in (nowhere, absent):
        vault = place_.vault(tmp_path)
        for call in (vault.check, lambda: vault.put([DATA]), lambda: vault.open_verified(SHA256)):  # noqa: B023
            with pytest.raises(DependencyDown):
                call()
        assert list(tmp_path.iterdir()) == []
    bucket.vault(tmp_path).check()


def test_an_address_says_which_kind_it_is(tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    assert isinstance(open_vault(bucket.address, tmp_path), BucketVault)
    assert type(open_vault(tmp_path / "vault")) is Vault


def test_a_folder_vault_takes_what_arrived_on_another_file_system(tmp_path: Path) -> None:
    memory = Path("/dev/shm")  # where there is none, all of it must hold on one file system, too
    scratch = (memory if memory.is_dir() else tmp_path) / f"lethe-test-{os.getpid()}"
    vault = Vault(tmp_path / "vault", scratch)
    try:
        file = place(vault)
        vault.share(file, SHA256)
        assert list(scratch.iterdir()) == [file]
        vault.adopt(file)
        assert list(scratch.iterdir()) == []
        assert read(vault) == DATA
        assert list((tmp_path / "vault/incoming").iterdir()) == []
    finally:
        scratch.rmdir()
