"""One machine: a start from nothing, its data found again, a clean end, and no end that leaves something behind."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator

import httpx2
import psutil
import psycopg
import pytest

from app import standalone
from app.domain.confinement import Confinement
from tests.conftest import ROOT, new_database
from tests.poorer_machine import on_a_machine_without
from tests.service import INHERITED, Service, data_folder, running_service, until


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running_service() as running:
        yield running


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if _is_alive(each)]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # gone between the two questions
        return False


def test_a_ready_service_answers_only_with_its_key(service: Service) -> None:
    assert httpx2.get(f"{service.url}/readyz").status_code == 200
    assert httpx2.get(f"{service.url}/v1/jobs").status_code == 401
    with service.client() as client:
        assert client.get("/v1/jobs").status_code == 200


def test_it_listens_on_the_loopback_address_alone(service: Service) -> None:
    listening = {
        connection.laddr.ip
        for process in service.processes()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_secrets_are_readable_by_their_owner_alone(service: Service) -> None:
    for name in ("api-key", "key-pepper", "service.json"):
        assert stat.S_IMODE((service.data / name).stat().st_mode) == 0o600
    for name in ("vault", "sockets", "postgres", "redis"):
        assert stat.S_IMODE((service.data / name).stat().st_mode) == 0o700


def test_workers_are_given_neither_the_key_nor_the_pepper(service: Service) -> None:
    environment = psutil.Process(service.facts["pids"]["worker"]).environ()
    assert not {"LETHE_API_KEY", "LETHE_KEY_PEPPER"} & set(environment)


def test_the_operator_makes_keys_for_the_running_service(service: Service) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in INHERITED}
    command = [sys.executable, "-m", "app.key_commands", "create", "ci", "--scope", "jobs:read", "--tenant", "blue"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment | {"LETHE_DATA": str(service.data)},
        check=True,
        capture_output=True,
        text=True,
    )
    headers = {"Authorization": f"Bearer {done.stdout.strip()}"}
    assert httpx2.get(f"{service.url}/v1/jobs", headers=headers).status_code == 200
    assert httpx2.get(f"{service.url}/v1/keys", headers=headers).status_code == 403


def test_a_second_start_on_the_same_folder_says_so_and_ends(service: Service) -> None:
    second = service.launch()
    _, words = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "already runs" in words
    assert service.url in words


@pytest.mark.parametrize("name", ["api", "worker", "redis", "postgres"])
def test_a_process_that_dies_is_started_again(service: Service, name: str) -> None:
    before = service.facts["pids"][name]
    os.kill(before, signal.SIGKILL)
    until(lambda: service.facts["pids"][name] != before)
    until(lambda: httpx2.get(f"{service.url}/readyz").status_code == 200)


def test_what_is_stored_and_the_key_are_there_at_the_next_start_and_nothing_is_left_in_between() -> None:
    with data_folder() as data:
        service = Service(data)
        service.start()
        first = service.facts
        with psycopg.connect(first["database_url"]) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS value")
        processes = service.processes()
        assert len(processes) > 5
        assert service.stop(signal.SIGINT) == 0
        assert alive(processes) == []
        assert not (data / "service.json").exists()

        service.start()
        assert service.facts["api_key"] == first["api_key"]
        with psycopg.connect(service.facts["database_url"]) as connection:
            assert connection.execute("SELECT value FROM kept").fetchone() == (42,)

        processes = service.processes()
        service.stop(signal.SIGKILL)
        until(lambda: not alive(processes))

        service.start()  # at once, after a crash
        assert service.stop() == 0


def test_servers_named_by_the_environment_are_used(postgres_url: str, redis_url: str) -> None:
    database_url = new_database(postgres_url)
    key = "lethe_own_0123456789"
    with running_service(DATABASE_URL=database_url, REDIS_URL=redis_url, LETHE_API_KEY=key) as service:
        assert set(service.facts["pids"]) == {"standalone", "api", "worker"}
        assert service.facts["database_url"] == database_url
        assert not (service.data / "postgres").exists()
        with service.client() as client:
            assert client.headers["authorization"] == f"Bearer {key}"
            assert client.get("/v1/jobs").status_code == 200


def test_a_port_in_use_is_named() -> None:
    with data_folder() as data, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = Service(data, {"LETHE_PORT": str(port)}).launch()
        _, words = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"127.0.0.1:{port}" in words
    assert "LETHE_PORT" in words


@pytest.mark.parametrize(
    ("name", "value"),
    [("LETHE_PORT", "http"), ("LETHE_DEVICE", "abacus"), ("DATABASE_URL", "mysql://x/y"), ("LETHE_HOST", "8.8.8.8")],
)
def test_a_wrong_setting_is_named_before_anything_starts(name: str, value: str) -> None:
    with data_folder() as data:
        process = Service(data, {name: value}).launch()
        _, words = process.communicate(timeout=60)
        assert not (data / "postgres").exists()
    assert process.returncode == 1
    assert (value if name == "LETHE_HOST" else name) in words
    assert "Traceback" not in words


def test_neither_the_service_nor_the_api_imports_torch() -> None:
    code = "import app.standalone, app.main, sys; sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_without_a_layer_it_starts_says_so_and_refuses_untrusted_work() -> None:
    with data_folder() as data:
        poor = Service(data)
        on_a_machine_without("landlock", poor.start)
        try:
            ready = httpx2.get(f"{poor.url}/readyz")
            assert ready.status_code == 503
            assert (ready.json()["code"], ready.json()["parts"]["sandbox"]) == ("sandbox-unavailable", False)
            assert list(ready.json()["sandboxes"][0]["missing"]) == ["landlock"]
        finally:
            poor.stop()
        assert "LETHE_SANDBOX_WITHOUT=landlock" in poor.said
        named = Service(data, {"LETHE_SANDBOX_WITHOUT": "landlock"})
        on_a_machine_without("landlock", named.start)
        try:
            ready = httpx2.get(f"{named.url}/readyz")
            assert (ready.status_code, ready.json()["sandboxes"][0]["without"]) == (200, ["landlock"])
        finally:
            named.stop()


def test_a_layer_that_does_not_exist_stops_the_start() -> None:
    with data_folder() as data:
        process = Service(data, {"LETHE_SANDBOX_WITHOUT": "firewall"}).launch()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "LETHE_SANDBOX_WITHOUT" in said
    assert "no such layer: firewall" in said


def test_people_are_told_what_the_sandbox_is() -> None:
    known = standalone.Service(ROOT, "127.0.0.1", 1, "key", "pepper", ROOT, 1)
    assert "sandbox   every layer is in force\n" in standalone._block(known, [Confinement()])
    poor = Confinement(missing={"landlock": "not there"})
    assert "untrusted work waits (landlock)" in standalone._block(known, [poor])
