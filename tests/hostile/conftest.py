"""How every attack is made: as bytes, against the whole intake, with no library allowed to see what is hostile.

After every case, whatever it was: no canary file, no word at the canary's socket, no process and no temporary file
that was not there before. `refused` runs the intake in this process with a bench that fails the test when it is reached. `refused_by_child` goes
through the real sandbox. Both give the rule ids of the refusal; an admission fails the test.
"""

from __future__ import annotations

import contextlib
import re
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest

from app.domain.errors import ModelRefused
from app.domain.model import Severity
from app.intake.admit import Order, admit
from app.intake.rules import REFUSALS
from app.intake.weights import Table
from tests import checkpoint_by_hand as by_hand
from tests.api_process import ApiProcess, running_api
from tests.hostile.raw_http import Wire
from workers import sandbox

Files = Mapping[str, bytes]
MAX_BYTES = 64 * 1024 * 1024


class Unreachable:
    """The bench of an attack that must be refused before torch or transformers see anything."""

    def __getattr__(self, step: str) -> NoReturn:
        pytest.fail(f"the attack came as far as {step}")


class Tableless(Unreachable):
    """The bench of an attack on weights: it may be asked for the table alone."""

    def table(self, config: Mapping[str, Any]) -> Table:
        shapes = {
            "bert.embeddings.word_embeddings.weight": (8, 4),
            "classifier.weight": (2, 4),
            "classifier.bias": (2,),
        }
        return Table(shapes, "bert", 8)


@pytest.fixture
def good() -> dict[str, bytes]:
    """Files that only an attack spoils."""
    return {
        "config.json": by_hand.dumped(by_hand.CONFIG),
        "model.safetensors": by_hand.tensors(Tableless().table({}).shapes),
        "tokenizer.json": by_hand.dumped(by_hand.TOKENIZER),
    }


def order(source: Files | bytes, folder: Path, max_bytes: int = MAX_BYTES) -> Order:
    inputs, work, out = folder / "in", folder / "work", folder / "out"
    for room in (inputs, work, out):
        room.mkdir()
    if isinstance(source, bytes):
        archive = inputs / "archive"
        archive.write_bytes(source)
        return Order({}, archive, work, out, max_bytes)
    return Order(by_hand.write(inputs, source), None, work, out, max_bytes)


def rules_of(error: ModelRefused) -> set[str]:
    findings = error.details["findings"]
    assert findings
    for finding in findings:
        assert finding.rule in REFUSALS
        assert finding.severity is Severity.REFUSAL
        assert len(finding.message) > 20, "it says why"
    return {finding.rule for finding in findings}


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., set[str]]:
    def run(source: Files | bytes, *, max_bytes: int = MAX_BYTES, weights: bool = False) -> set[str]:
        asked = order(source, tmp_path, max_bytes)
        with pytest.raises(ModelRefused) as caught:
            admit(asked, Tableless() if weights else Unreachable())
        spent = sum(file.stat().st_size for file in (tmp_path / "work").rglob("*") if file.is_file())
        assert spent <= 1.1 * max_bytes
        return rules_of(caught.value)

    return run


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that must not be there at the end."""
    return tmp_path / "canary"


@pytest.fixture
def canary_port() -> Iterator[int]:
    """A port that nobody may have called at the end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.fixture(autouse=True)
def _nothing_is_left(
    tmp_path: Path, canary: Path, canary_port: int, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """What holds after every case of this folder."""
    rooms = tmp_path / "temporary"
    rooms.mkdir()
    monkeypatch.setenv("TMPDIR", str(rooms))
    monkeypatch.setattr(tempfile, "tempdir", str(rooms))
    before = _processes()
    yield
    assert not canary.exists(), "code of the upload was executed"
    assert list(rooms.iterdir()) == []
    assert _processes() <= before


def _processes() -> set[int]:
    """All below this one, but for those that a database has for its connections."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.name() != "postgres":
                found.add(child.pid)
    return found


@pytest.fixture
def refused_by_child(tmp_path: Path) -> Callable[[Files | bytes], set[str]]:
    def run(source: Files | bytes) -> set[str]:
        limits = sandbox.Limits(wall_seconds=10, memory_bytes=1024**3, file_bytes=MAX_BYTES)
        asked = order(source, tmp_path)
        paths: dict[str, Any] = {"readable": [tmp_path / "in"], "writable": [asked.work, asked.out]}
        with pytest.raises(ModelRefused) as caught:
            sandbox.run("inspect", asked.to_dict(), limits=limits, workdir=tmp_path, **paths)
        assert not (tmp_path / "home").exists()
        return rules_of(caught.value)

    return run


@pytest.fixture(scope="session")
def attacked_api(database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    """The API alone, for attacks over HTTP."""
    with running_api(database_url, redis_url, tmp_path_factory.mktemp("attacked")) as process:
        yield process


@pytest.fixture(scope="session")
def hasty_api(database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    """One that waits for nobody."""
    grace = {"LETHE_HEAD_GRACE_SECONDS": "0.3", "LETHE_BODY_GRACE_SECONDS": "0.3"}
    with running_api(database_url, redis_url, tmp_path_factory.mktemp("hasty"), **grace) as process:
        yield process


@pytest.fixture
def wire(attacked_api: ApiProcess) -> Iterator[Wire]:
    yield from unhurt(attacked_api)


@pytest.fixture
def hasty(hasty_api: ApiProcess) -> Iterator[Wire]:
    yield from unhurt(hasty_api)


def unhurt(api: ApiProcess) -> Iterator[Wire]:
    """What must hold after every attack: no 5xx, no fault in the log, and a good request is answered."""
    wire, log_before = Wire(api), len(api.log())
    yield wire
    assert [answer for answer in wire.answers if answer.status >= 500] == []
    assert wire.one("GET /v1/jobs?limit=1").status == 200
    assert not re.search("Traceback|ERROR|unexpected error", api.log()[log_before:]), api.log()[log_before:]
