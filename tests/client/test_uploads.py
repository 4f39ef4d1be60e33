"""The client's uploads against the real API, through crashes of it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.api import LetheClient
from client.errors import ApiError, Unreachable
from client.transport import take
from client.uploads import UploadPlace, send_file
from tests.api_process import KEY, ApiProcess, running_api
from tests.conftest import free_port

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def api(database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    with running_api(database_url, redis_url, tmp_path_factory.mktemp("vault")) as process:
        yield process


@pytest.fixture
def lethe(api: ApiProcess) -> Iterator[LetheClient]:
    with LetheClient(api.url, KEY) as client:
        yield client


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """20 MiB that differ everywhere: three chunks."""
    file = tmp_path / "big.bin"
    with file.open("wb") as out:
        for number in range(20):
            out.write(hashlib.sha256(str(number).encode()).digest() * (MIB // 32))
    return file


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def stored(api: ApiProcess, upload_id: str) -> dict[str, object]:
    with api.client() as http:
        found: dict[str, object] = http.get(f"/v1/uploads/{upload_id}").json()
        return found


def test_a_file_arrives_whole_and_progress_tells_of_stored_bytes(
    api: ApiProcess, lethe: LetheClient, big: Path
) -> None:
    seen: list[tuple[int, int]] = []
    upload = lethe.upload(big, on_progress=lambda _name, done, total: seen.append((done, total)))
    assert stored(api, upload)["sha256"] == sha256(big)
    assert seen[0] == (0, 20 * MIB)
    assert seen[-1] == (20 * MIB, 20 * MIB)
    assert seen == sorted(seen)


def test_an_upload_goes_on_after_the_service_was_killed(api: ApiProcess, lethe: LetheClient, big: Path) -> None:
    restarts: list[threading.Thread] = []

    def crash_once(_name: str, done: int, _total: int) -> None:
        if done and not restarts:
            api.kill()
            restarts.append(threading.Thread(target=api.start))
            restarts[0].start()

    upload = lethe.upload(big, on_progress=crash_once)
    restarts[0].join()
    assert stored(api, upload)["sha256"] == sha256(big)


def test_a_later_process_goes_on_where_the_first_stopped(api: ApiProcess, big: Path) -> None:
    places: list[UploadPlace] = []

    class Stopped(Exception):
        pass

    def stop(done: int, _total: int) -> None:
        if done:
            raise Stopped

    with api.client() as http, pytest.raises(Stopped):
        take(http, send_file(big, "big.bin", on_place=places.append, on_progress=stop))
    offsets: list[int] = []
    with api.client() as http:
        steps = send_file(big, "big.bin", place=places[0], on_progress=lambda done, _total: offsets.append(done))
        upload = take(http, steps)
    assert upload == places[0].id
    assert offsets[0] == 8 * MIB
    assert stored(api, upload)["sha256"] == sha256(big)


def test_an_upload_that_is_gone_is_begun_anew(api: ApiProcess, tmp_path: Path) -> None:
    file = tmp_path / "small.bin"
    file.write_bytes(b"abc")
    gone = UploadPlace("/v1/uploads/01890000-0000-7000-8000-000000000000")
    with api.client() as http:
        upload = take(http, send_file(file, "small.bin", place=gone))
    assert upload != gone.id
    assert stored(api, upload)["sha256"] == sha256(file)


def test_an_empty_file_is_a_file(api: ApiProcess, lethe: LetheClient, tmp_path: Path) -> None:
    file = tmp_path / "empty.txt"
    file.touch()
    assert stored(api, lethe.upload(file))["size"] == 0


def test_put_sends_a_file_with_its_digest(lethe: LetheClient, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text("{}")
    upload = lethe.put(file)
    assert (upload.name, upload.size, upload.sha256) == ("config.json", 2, sha256(file))


def test_a_refusal_carries_the_problem(lethe: LetheClient, tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("x")
    with pytest.raises(ApiError) as refused:
        lethe.upload(file, "../escape")
    assert (refused.value.status, refused.value.code) == (400, "bad-request")
    with pytest.raises(ApiError) as absent:
        lethe.job("01890000-0000-7000-8000-000000000000")
    assert (absent.value.status, absent.value.code) == (404, "not-found")


def test_a_wrong_key_is_told_as_such(api: ApiProcess) -> None:
    with LetheClient(api.url, "lethe_wrong_key") as stranger, pytest.raises(ApiError) as refused:
        stranger.job("01890000-0000-7000-8000-000000000000")
    assert refused.value.code == "unauthenticated"


def test_a_service_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("x")
    with LetheClient(f"http://127.0.0.1:{free_port()}", "lethe_a_b") as nobody, pytest.raises(Unreachable):
        nobody.put(file)
