"""What the images install is pinned by hash, as the other pins say, and is audited."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.conftest import ROOT

LOCKS = ("api", "worker", "build")
PIN = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?==([^ ]+) (?:; .*)?\\$", re.MULTILINE)


def name_of(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def pins(text: str) -> dict[str, str]:
    return {name_of(name): version for name, version in PIN.findall(text)}


def locked(lock: str) -> dict[str, str]:
    return pins((ROOT / f"requirements/{lock}.lock").read_text())


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_of_a_lock_has_a_hash(lock: str) -> None:
    text = (ROOT / f"requirements/{lock}.lock").read_text()
    parts = re.split(r"^(?=[A-Za-z])", text, flags=re.MULTILINE)[1:]
    assert len(parts) == len(locked(lock)) > 0
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", part) for part in parts)


def test_locks_and_constraints_name_the_same_versions() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    constraints = {name_of(name): version for name, _, version in (line.partition("==") for line in lines) if version}
    api, worker = locked("api"), locked("worker")
    assert api.items() <= worker.items()
    assert "torch" not in api
    for name, version in worker.items():
        assert constraints.get(name, version) == version, name


def test_the_locks_hold_all_that_is_asked_for() -> None:
    """Another requirement in pyproject.toml needs `make lock`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {"api": project["dependencies"], "worker": project["optional-dependencies"]["worker"]}
    for lock, requirements in asked.items():
        names = {name_of(re.split(r"[\[<>=! ;]", each)[0]) for each in requirements}
        assert names <= set(locked(lock))


class _Osv(BaseHTTPRequestHandler):
    """An advisory service that knows one vulnerability, of the package in `bad`."""

    bad = ""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        of = asked["package"]
        found = {"id": "OSV-1", "affected": [{"package": of, "ranges": []}], "modified": "2026-01-01T00:00:00Z"}
        body = json.dumps({"vulns": [found]} if of["name"] == self.bad else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def osv() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Osv) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


def audit(url: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "requirements/audit.py", "-s", "osv", "--osv-url", url]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_known_vulnerability_fails_the_check(osv: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = audit(osv)
    assert (said.returncode, len(said.stdout.splitlines()), " 0 findings" in said.stdout) == (0, 1, True), said
    monkeypatch.setattr(_Osv, "bad", "starlette")
    said = audit(osv)
    assert said.returncode == 1
    assert re.search(r"^starlette \S+: OSV-1, ", said.stdout, flags=re.MULTILINE)


def test_a_service_that_cannot_be_reached_is_one_line_and_no_failure() -> None:
    said = audit("http://127.0.0.1:1/v1/query")
    assert (said.returncode, said.stdout.count("\n")) == (0, 1)
    assert "nothing was audited" in said.stdout
