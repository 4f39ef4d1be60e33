"""Uploads that are cut, killed, raced and starved: what was acknowledged is there, and the file comes out exact."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest
from tusclient.client import TusClient

from tests.api_process import KEY, ApiProcess, running_api
from tests.service import until

TUS = {"Tus-Resumable": "1.0.0"}
CHUNK = TUS | {"Content-Type": "application/offset+octet-stream"}
MIB = 1024 * 1024


@contextlib.contextmanager
def cutting_proxy(port: int, cuts: list[int]) -> Iterator[int]:
    """A TCP proxy on its own port; its nth connection that sends more than `cuts[n]` bytes is cut there."""
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket, counted: bool) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                passed += len(data)
                if counted and cuts and passed > cuts[0]:
                    cuts.pop(0)
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", port))
                threading.Thread(target=pump, args=(client, server, True), daemon=True).start()
                threading.Thread(target=pump, args=(server, client, False), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()


class HalfSent:
    """A PATCH of `total` bytes over a bare socket, of which as many are sent as the test likes."""

    def __init__(self, api: ApiProcess, url: str, offset: int, total: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", api.port), timeout=60)
        headers = CHUNK | {
            "Host": "127.0.0.1",
            "Authorization": f"Bearer {KEY}",
            "Upload-Offset": str(offset),
            "Content-Length": str(total),
        }
        lines = [f"PATCH {url} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        self._socket.sendall("\r\n".join(lines).encode())

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def status(self) -> int:
        return int(self._socket.recv(4096).split()[1])

    def cut(self) -> None:
        self._socket.close()


def create(http: httpx2.Client, length: int) -> str:
    answer = http.post("/v1/uploads", headers=TUS | {"Upload-Length": str(length)})
    return str(answer.headers["location"])


def offset_of(http: httpx2.Client, url: str) -> int:
    return int(http.head(url, headers=TUS).headers["upload-offset"])


def append(http: httpx2.Client, url: str, offset: int, data: bytes) -> httpx2.Response:
    return http.patch(url, headers=CHUNK | {"Upload-Offset": str(offset)}, content=data)


def on_disk(api: ApiProcess, url: str) -> int:
    return (api.vault / "incoming" / url.rsplit("/", 1)[1]).stat().st_size


def resident(api: ApiProcess) -> int:
    return int(psutil.Process(api.pid).memory_info().rss)


def test_tuspy_sends_300_mb_over_cut_connections(api: ApiProcess, http: httpx2.Client, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    digest = hashlib.sha256()
    with file.open("wb") as out:
        for _ in range(300):
            part = os.urandom(1_000_000)
            digest.update(part)
            out.write(part)
    idle, peak, done = resident(api), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, resident(api))

    watcher = threading.Thread(target=watch)
    watcher.start()
    cuts = [70_000_000, 110_000_000]
    try:
        with cutting_proxy(api.port, cuts) as port:
            client = TusClient(f"http://127.0.0.1:{port}/v1/uploads", headers={"Authorization": f"Bearer {KEY}"})
            uploader = client.uploader(str(file), metadata={"filename": file.name}, retries=100, retry_delay=0.1)
            uploader.upload()
    finally:
        done.set()
        watcher.join()
    assert cuts == []
    seen = http.get(httpx2.URL(uploader.url).path).json()
    assert seen["sha256"] == digest.hexdigest()
    assert peak - idle < 150 * MIB


def test_what_arrived_before_a_cut_is_kept(api: ApiProcess, http: httpx2.Client) -> None:
    data = os.urandom(3 * MIB)
    url = create(http, len(data))
    sent = HalfSent(api, url, 0, len(data))
    sent.send(data[: 2 * MIB + 5])
    until(lambda: on_disk(api, url) >= MIB)
    sent.cut()
    until(lambda: offset_of(http, url) > 0)
    at = offset_of(http, url)
    assert MIB <= at <= 2 * MIB + 5
    assert append(http, url, at, data[at:]).status_code == 204
    assert http.get(url).json()["sha256"] == hashlib.sha256(data).hexdigest()


@pytest.fixture
def own(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[ApiProcess]:
    with running_api(database_url, redis_url, tmp_path / "vault", LETHE_BODY_GRACE_SECONDS="1") as process:
        yield process


def test_kill_9_in_the_middle_of_a_chunk(own: ApiProcess) -> None:
    data = os.urandom(80 * MIB)
    with own.client() as http:
        url = create(http, len(data))
        sent = HalfSent(own, url, 0, len(data))
        sent.send(data[: 70 * MIB])
        until(lambda: offset_of(http, url) >= 32 * MIB)
        own.kill()
    sent.cut()
    own.start()
    with own.client() as http:
        at = offset_of(http, url)
        assert 32 * MIB <= at <= on_disk(own, url)
        assert append(http, url, at, data[at:]).status_code == 204
        assert http.get(url).json()["sha256"] == hashlib.sha256(data).hexdigest()


def test_a_body_that_stalls_is_given_up_and_kept(own: ApiProcess) -> None:
    data = os.urandom(2 * MIB)
    with own.client() as http:
        url = create(http, len(data))
        sent = HalfSent(own, url, 0, len(data))
        sent.send(data[:MIB])
        assert sent.status() == 408
        assert offset_of(http, url) == MIB


def test_one_request_at_a_time_writes_across_processes(
    api: ApiProcess, http: httpx2.Client, database_url: str, redis_url: str
) -> None:
    data = os.urandom(40 * MIB)
    url = create(http, len(data))
    first = HalfSent(api, url, 0, len(data))
    first.send(data[: 35 * MIB])
    until(lambda: offset_of(http, url) >= 32 * MIB)
    at = offset_of(http, url)
    with running_api(database_url, redis_url, api.vault) as other, other.client() as there:
        for client in (http, there):
            answer = append(client, url, at, b"x")
            assert (answer.status_code, answer.json()["code"]) == (423, "locked")
            assert client.delete(url, headers=TUS).status_code == 423
    first.send(data[35 * MIB :])
    assert first.status() == 204
    assert http.get(url).json()["sha256"] == hashlib.sha256(data).hexdigest()


def test_racing_writers_never_mix_their_bytes(api: ApiProcess) -> None:
    data = os.urandom(4 * MIB)
    step = 256 * 1024
    strange: list[int] = []
    with api.client() as http:
        url = create(http, len(data))

    def race() -> None:
        with api.client() as client:
            while (at := offset_of(client, url)) < len(data):
                status = append(client, url, at, data[at : at + step]).status_code
                if status not in (204, 409, 423):
                    strange.append(status)

    racers = [threading.Thread(target=race) for _ in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert strange == []
    with api.client() as http:
        assert http.get(url).json()["sha256"] == hashlib.sha256(data).hexdigest()
