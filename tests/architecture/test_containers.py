"""The container files against each other, the README and the Compose Specification; no container engine is needed.

compose-spec.json is the specification's own schema (github.com/compose-spec/compose-spec, Apache-2.0).
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
OWN = ("api", "worker", "worker-gpu", "migrations")
BESIDE = {"obs": {"prometheus", "grafana", "jaeger"}, "s3": {"object-store"}}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
    return read


def stages() -> dict[str, str]:
    """The Dockerfile's stages by name, each with its own lines."""
    parts = re.split(r"^FROM \S+ AS (\S+)$", DOCKERFILE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def modules_run(command: list[str]) -> list[str]:
    return [after for before, after in itertools.pairwise(command) if before in ("-m", "-A")]


def test_the_compose_file_follows_the_specification(compose: dict[str, Any]) -> None:
    schema = json.loads((ROOT / "tests/architecture/compose-spec.json").read_text())
    from jsonschema import Draft7Validator

    Draft7Validator(schema).validate(compose)


def test_compose_itself_accepts_the_file_where_it_is_installed() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        return  # the specification's schema has judged the file above
    environment = os.environ | {"LETHE_API_KEY": "lethe_a_b", "LETHE_KEY_PEPPER": "p", "LETHE_DB_PASSWORD": "c"}
    command = [docker, "compose", "config", "-q"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_every_service_is_there_and_depends_on_services_that_are(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {*OWN, "postgres", "redis", *(name for names in BESIDE.values() for name in names)}
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
    volumes = {each.split(":")[0] for service in services.values() for each in service.get("volumes", [])}
    assert {name for name in volumes if not name.startswith("./")} == set(compose["volumes"])
    assert all((ROOT / name).exists() for name in volumes if name.startswith("./"))


def test_only_the_gpu_profile_asks_for_a_gpu(compose: dict[str, Any]) -> None:
    with_profile = {name for name, service in compose["services"].items() if service.get("profiles")}
    with_devices = {name for name, service in compose["services"].items() if "deploy" in service}
    assert with_devices == {"worker-gpu"}
    by_profile = {"gpu": {"worker-gpu"}} | BESIDE
    assert with_profile == {name for names in by_profile.values() for name in names}
    for profile, names in by_profile.items():
        assert all(compose["services"][name]["profiles"] == [profile] for name in names)


def test_services_are_built_from_stages_that_exist(compose: dict[str, Any]) -> None:
    built = {compose["services"][name]["build"]["target"] for name in OWN}
    assert built == {"api", "worker"}
    assert built <= set(stages())


def test_images_run_without_root_and_the_api_has_no_torch() -> None:
    for name in ("api", "worker"):
        assert "USER lethe" in stages()[name]
    assert "[worker]" not in stages()["api-build"]
    assert "workers" not in stages()["api-build"]


SECRETS = ("LETHE_API_KEY", "LETHE_KEY_PEPPER", "LETHE_DB_PASSWORD")


def test_no_secret_has_a_default() -> None:
    for name in SECRETS:
        uses = re.findall(rf"\$\{{{name}([^}}]*)\}}", COMPOSE_TEXT)
        assert uses
        assert all(use.startswith(":?") for use in uses)
        assert f"\n{name}=\n" in (ROOT / ".env.example").read_text()


@pytest.mark.parametrize("secret", ["LETHE_API_KEY", "LETHE_KEY_PEPPER"])
def test_only_the_api_gets_the_key_and_the_pepper(compose: dict[str, Any], secret: str) -> None:
    holders = {name for name, each in compose["services"].items() if secret in each.get("environment", {})}
    assert holders == {"api"}


def test_what_is_run_exists(compose: dict[str, Any]) -> None:
    commands = [json.loads(found) for found in re.findall(r"^\s*CMD (\[.*\])$", DOCKERFILE, flags=re.MULTILINE)]
    commands += [service["command"] for service in compose["services"].values() if "command" in service]
    ours = {name for command in commands for name in modules_run(command)}
    assert ours == {"app.server", "celery", "alembic", "workers.celery_app"}
    assert (ROOT / "workers/celery_app.py").is_file()
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, flags=re.MULTILINE):
        assert all((ROOT / name).exists() for name in source.split())


def test_images_are_installed_as_the_operations_page_says() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    commands = re.findall(r"^RUN (.*(?:pip|venv).*)$", DOCKERFILE, flags=re.MULTILINE)
    assert len(commands) == 6
    for command in commands:
        assert command.replace("${LOCK}", "requirements/api.lock") in page
    installs = [command for command in commands if "pip install" in command]
    assert all("--require-hashes" in each or "--no-deps --no-build-isolation" in each for each in installs)
    assert re.search(r"^ARG LOCK=requirements/worker\.lock$", DOCKERFILE, flags=re.MULTILINE)
