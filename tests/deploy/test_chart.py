"""The chart for Kubernetes: rendered by Helm, each object against the schema of its kind, settings that exist."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from app.settings import Settings
from tests.conftest import ROOT

CHART = ROOT / "deploy/helm/lethe"
HELM = Path(sys.executable).with_name("helm")
OWN = {"keda.sh/v1alpha1"}  # kinds of KEDA, which Kubernetes' own schemas do not have


def rendered(*options: str) -> list[dict[str, Any]]:
    said = subprocess.run(
        [HELM, "template", "release", CHART, "--kube-version", "1.33.0", *options],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return [each for each in yaml.safe_load_all(said) if each]


@pytest.mark.parametrize("options", [(), ("--set", "keda.enabled=true"), ("--set", "vault.claim=there")])
def test_every_object_keeps_the_schema_of_its_kind(options: tuple[str, ...]) -> None:
    found = rendered(*options)
    for each in found:
        if each["apiVersion"] not in OWN:
            kubernetes_validate.validate(each, "1.33", strict=True)
    kinds = {each["kind"] for each in found}
    assert {"Deployment", "Service", "Job", "PodDisruptionBudget", "NetworkPolicy"} <= kinds
    assert ("ScaledObject" in kinds) == ("keda.enabled=true" in options)
    assert ("PersistentVolumeClaim" in kinds) == ("vault.claim=there" not in options)


def containers(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    pods = [each["spec"]["template"]["spec"] for each in found if each["kind"] in ("Deployment", "Job")]
    return [container for pod in pods for container in pod["containers"]]


def test_every_setting_exists_and_no_secret_is_written_out() -> None:
    known = {f"LETHE_{name.upper()}" for name in Settings.model_fields} | {"DATABASE_URL", "REDIS_URL"}
    for container in containers(rendered()):
        names = [entry["name"] for entry in container["env"]]
        assert set(names) <= known
        assert len(names) == len(set(names))
        for entry in container["env"]:
            if entry["name"] in ("DATABASE_URL", "REDIS_URL", "LETHE_API_KEY", "LETHE_KEY_PEPPER"):
                assert "secretKeyRef" in entry["valueFrom"]


def test_no_container_has_a_right_that_it_does_not_need() -> None:
    for container in containers(rendered()):
        rights = container["securityContext"]
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["capabilities"] == {"drop": ["ALL"]}


def test_workers_have_time_to_drain_and_every_queue_is_served() -> None:
    found = [each for each in rendered() if "worker" in each["metadata"]["name"] and each["kind"] == "Deployment"]
    served: set[str] = set()
    for each in found:
        pod = each["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        told = {entry["name"]: entry.get("value") for entry in container["env"]}
        assert pod["terminationGracePeriodSeconds"] > float(told["LETHE_DRAIN_SECONDS"])
        served |= set(told["LETHE_QUEUES"].split(","))
    assert served == {"cpu", "gpu", "large"}
