"""What is stored stays whole and referenced: whatever comes between putting, naming, forgetting and collecting."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import Engine, text

from app.domain.errors import Corrupt, NotFound
from app.domain.identity import DEFAULT_TENANT
from app.domain.ids import new_id
from app.domain.job import Claim
from app.domain.manifest import FileEntry, Manifest
from app.domain.model import ModelStatus
from app.store import audit_rows, claim_rows, model_rows, point_rows, references, sample_rows, upload_rows, vault_care
from app.store.tables import metadata
from app.store.vault import Vault
from tests.job_rows_at_hand import add_job, add_samples

DAY = 86_400.0
CONTENTS = [bytes([place]) * 10 for place in range(4)]


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def age(vault: Vault, sha256: str, seconds: float = 2 * DAY) -> None:
    then = time.time() - seconds
    os.utime(vault.path(sha256), (then, then))


class Life(RuleBasedStateMachine):
    """Uploads of four contents, put and named and forgotten, beside a collector and the passing of days."""

    database: Engine
    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.vault = self.new_vault()
        self.rows: dict[UUID, str] = {}
        self.young: set[str] = set()  # put within the day
        with self.database.begin() as connection:
            connection.execute(text("DELETE FROM uploads"))

    def new_vault(self) -> Vault:
        return Vault(self.folder / new_id().hex)

    def grow_old(self, sha256: str) -> None:
        age(self.vault, sha256)

    def put_again(self, content: bytes) -> PutAgain:
        return PutAgain(self.vault, content)

    @rule(content=st.sampled_from(CONTENTS))
    def put(self, content: bytes) -> None:
        """As an upload does before its row says so; a crash may come next."""
        self.young.add(self.vault.put([content]).sha256)

    @precondition(lambda self: self.young)
    @rule(data=st.data())
    def name(self, data: st.DataObject) -> None:
        """Within the day of its being put."""
        sha256 = data.draw(st.sampled_from(sorted(self.young)))
        with self.database.begin() as connection:
            made = upload_rows.create(connection, DEFAULT_TENANT, new_id(), name="a", length=10, ttl=DAY)
            upload_rows.finish(connection, made.id, sha256, DAY)
        self.rows[made.id] = sha256

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        upload_id = data.draw(st.sampled_from(sorted(self.rows)))
        with self.database.begin() as connection:
            upload_rows.remove(connection, upload_id)
        del self.rows[upload_id]

    @rule()
    def days_pass(self) -> None:
        for sha256 in self.vault.after("", 100):
            self.grow_old(sha256)
        self.young.clear()

    @rule(again=st.sampled_from([None, *CONTENTS]))
    def collect(self, again: bytes | None) -> None:
        """`again` is put once more in the very moment in which the collector has looked at its age."""
        vault = self.vault if again is None else self.put_again(again)
        before = set(self.vault.after("", 100))
        vault_care.collect(self.database, vault, self.vault.after("", 100), DAY)  # type: ignore[arg-type]
        left = set(self.vault.after("", 100))
        if again is not None and vault.done:  # type: ignore[union-attr]
            self.young.add(sha(again))
        assert left - {sha(again or b"")} == (before & (self.young | set(self.rows.values()))) - {sha(again or b"")}

    @invariant()
    def what_is_named_or_young_is_there(self) -> None:
        for sha256 in self.young | set(self.rows.values()):
            self.vault.open_verified(sha256).close()


class PutAgain:
    """A vault in which somebody puts a content while it is being collected."""

    def __init__(self, vault: Vault, content: bytes) -> None:
        self._vault, self._content, self.done = vault, content, False

    def put(self) -> None:
        self.done = True
        self._vault.put([self._content])

    def collect(self, sha256: str, older_than_seconds: float) -> bool:
        if sha256 != sha(self._content):
            return self._vault.collect(sha256, older_than_seconds)
        rename = Path.rename

        def put_first(file: Path, target: Path) -> Path:
            if not self.done and file == self._vault.path(sha256):
                self.put()
            return rename(file, target)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "rename", put_first)
            return self._vault.collect(sha256, older_than_seconds)


@pytest.mark.usefixtures("database")
def test_nothing_that_is_named_is_ever_collected(database: Engine, tmp_path: Path) -> None:
    live(type("Case", (Life,), {"database": database, "folder": tmp_path}))


def live(life: type[Life], examples: int = 30, steps: int = 20) -> None:
    """Many lives, in any order of events."""
    case = life.TestCase  # type: ignore[attr-defined]
    case.settings = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
    )
    case().runTest()


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "vault")


def test_every_kind_of_row_is_a_reference(database: Engine, vault: Vault) -> None:
    """One object for each place that can name one: the collector takes none, and all once the rows are gone."""
    hashes = {
        name: vault.put([name.encode()]).sha256 for name in ("source", "manifest", "samples", "upload", "point")
    }
    for each in hashes.values():
        age(vault, each)

    def one(name: str) -> Manifest:
        return Manifest.of([FileEntry("a", 1, hashes[name])])

    with database.begin() as connection:
        model = model_rows.create(connection, DEFAULT_TENANT, new_id(), "m", source=one("source"), metadata={})
        connection.execute(
            metadata.tables["models"].update().where(metadata.tables["models"].c.id == model.id),
            {"manifest": one("manifest").to_dict(), "status": ModelStatus.REJECTED},
        )
        add_samples(connection, "clean", hashes["samples"])
        upload = upload_rows.create(connection, DEFAULT_TENANT, new_id(), name="a", length=1, ttl=DAY)
        upload_rows.finish(connection, upload.id, hashes["upload"], DAY)
        claim = claimed(connection)
        point_rows.add(connection, claim, point_rows.Point(1, one("point")))
    assert vault_care.collect(database, vault, list(hashes.values()), DAY) == 0
    with database.connect() as connection:
        assert references.referenced(connection, hashes.values()) == set(hashes.values())
        assert set(hashes.values()) <= set(references.everything(connection))
        assert references.owners(connection, hashes["point"]) == {DEFAULT_TENANT: [f"job/{claim.job.id}"]}
    with database.begin() as connection:
        connection.execute(text("TRUNCATE models, samples, uploads, jobs CASCADE"))
    assert vault_care.collect(database, vault, list(hashes.values()), DAY) == len(hashes)


def claimed(connection: Any) -> Claim:
    job = add_job(connection)
    claim = claim_rows.claim(connection, job.id, "w", 60, 3)
    assert claim is not None
    return claim


def test_nothing_is_collected_while_somebody_names_an_object(database: Engine, vault: Vault) -> None:
    stored = vault.put([b"x"]).sha256
    age(vault, stored)
    with database.begin() as connection:
        sample_rows_writer_at_work(connection)
        assert vault_care.collect(database, vault, [stored], DAY) == 0
    assert vault_care.collect(database, vault, [stored], DAY) == 1


def sample_rows_writer_at_work(connection: Any) -> None:
    references.hold(connection)
    assert sample_rows.page(connection, DEFAULT_TENANT, 1) is not None


def test_a_walk_takes_portions_and_begins_again_when_its_period_is_over(
    database: Engine, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault_care, "PORTION", 3)
    for place in range(7):
        age(vault, vault.put([f"{place}".encode()]).sha256)
    assert [vault_care.collect_some(database, vault, DAY, 3600.0) for _ in range(5)] == [3, 3, 1, 0, 0]
    age(vault, vault.put([b"late"]).sha256)
    assert vault_care.collect_some(database, vault, DAY, 3600.0) == 0
    with database.begin() as connection:
        connection.execute(text("UPDATE vault_walks SET began_at = began_at - interval '2 hours'"))
    assert vault_care.collect_some(database, vault, DAY, 3600.0) == 1


def test_what_a_crash_left_of_a_collection_comes_back(database: Engine, vault: Vault) -> None:
    stored = vault.put([b"precious"]).sha256
    aside = vault.path(stored).parents[2] / "collected"
    aside.mkdir()
    vault.path(stored).rename(aside / f"{stored}.0123")
    vault_care.collect_some(database, vault, DAY, 3600.0)
    vault.open_verified(stored).close()
    assert list(aside.iterdir()) == []


def test_a_damaged_object_is_set_aside_and_said_to_whom_it_belongs(database: Engine, vault: Vault) -> None:
    good, bad = vault.put([b"good"]).sha256, vault.put([b"bad"]).sha256
    with database.begin() as connection:
        samples = add_samples(connection, "clean", bad, tenant="theirs")
    file = vault.path(bad)
    file.chmod(0o600)
    file.write_bytes(b"bAd")
    with pytest.raises(Corrupt):
        vault.open_verified(bad)
    assert vault_care.scrub_some(database, vault, "worker:w", DAY, 10.0) == [bad]
    with pytest.raises(NotFound):
        vault.open_verified(bad)
    vault.open_verified(good).close()
    assert [item.name for item in (file.parent.parent.parent / "damaged").iterdir()] == [bad]
    with database.connect() as connection:
        (entry,) = [each for each in audit_rows.read(connection) if each.action == "file.damaged"]
    assert (entry.tenant, entry.details["named_by"]) == ("theirs", [f"samples/{samples}"])
    assert vault_care.scrub_some(database, vault, "worker:w", DAY, 10.0) == []


def test_a_scrub_without_time_reads_one_object_a_round_and_all_in_the_end(database: Engine, vault: Vault) -> None:
    hashes = sorted(vault.put([f"{place}".encode()]).sha256 for place in range(4))
    for each in hashes:
        vault.path(each).chmod(0o600)
        vault.path(each).write_bytes(b"")
    found = [vault_care.scrub_some(database, vault, "w", DAY, 0.0) for _ in range(6)]
    assert [name for portion in found for name in portion] == hashes
    assert max(map(len, found)) == 1
