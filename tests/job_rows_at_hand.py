"""Rows that a test of jobs begins with: an admitted model, its samples, orders, deliveries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, func, text

from app.domain.identity import DEFAULT_TENANT
from app.domain.ids import new_id
from app.domain.job import Delivery, Job, JobOrder
from app.domain.manifest import FileEntry, Manifest
from app.domain.recipe import Policy, Recipe
from app.domain.report import (
    Cost,
    DataFacts,
    Difference,
    ModelFacts,
    Proportion,
    SanitizationReport,
    Scorecard,
    SplitSizes,
    Stop,
    Verdict,
)
from app.store import job_rows
from app.store.tables import models, samples

DIGEST = "ab" * 32
FACTS = {
    "model_type": "bert",
    "architecture": "BertForSequenceClassification",
    "labels": ["negative", "positive"],
    "parameters": 10,
}


def add_model(
    connection: Connection, status: str = "admitted", facts: Mapping[str, Any] = FACTS, tenant: str = DEFAULT_TENANT
) -> UUID:
    model_id, admitted = new_id(), status == "admitted"
    manifest = Manifest.of([FileEntry("model.safetensors", 3, DIGEST)])
    row: dict[str, Any] = {
        "id": model_id,
        "tenant": tenant,
        "name": "tiny",
        "status": status,
        "sent_at": func.clock_timestamp(),
    }
    row["source"] = manifest.to_dict()
    if admitted:
        row |= {"digest": manifest.digest, "manifest": manifest.to_dict(), "facts": dict(facts)}
    connection.execute(models.insert().values(**row))
    return model_id


def add_samples(
    connection: Connection, kind: str, sha256: str = DIGEST, rows: int = 40, tenant: str = DEFAULT_TENANT
) -> UUID:
    samples_id = new_id()
    row = {
        "id": samples_id,
        "tenant": tenant,
        "name": kind,
        "kind": kind,
        "sha256": sha256,
        "size": 1,
        "rows": rows,
        "summary": {},
    }
    connection.execute(samples.insert().values(**row))
    return samples_id


def an_order(connection: Connection, tenant: str = DEFAULT_TENANT, **changes: Any) -> JobOrder:
    values: dict[str, Any] = {
        "model_id": add_model(connection, tenant=tenant),
        "triggered_id": add_samples(connection, "triggered", tenant=tenant),
        "clean_id": add_samples(connection, "clean", tenant=tenant),
        "base_model_id": None,
        "method": "lya",
        "recipe": {name: value for name, value in Recipe.of("lya").to_dict().items() if name != "method"},
        "policy": Policy.of().to_dict(),
        "seed": 0,
        "metadata": {},
    }
    return JobOrder(**values | changes)


def add_job(connection: Connection, tenant: str = DEFAULT_TENANT, **changes: Any) -> Job:
    job = job_rows.insert(connection, tenant, new_id(), an_order(connection, tenant, **changes), DIGEST)
    assert job is not None
    return job


def end_lease(connection: Connection, job_id: UUID) -> None:
    """As if its worker had been silent for a long time."""
    connection.execute(
        text("UPDATE jobs SET lease_until = clock_timestamp() - interval '1 s' WHERE id = :id"),
        {"id": job_id},
    )


def a_delivery(*files: FileEntry, outcome: str = "pass") -> Delivery:
    manifest = Manifest.of(files or [FileEntry("model.safetensors", 3, DIGEST)])
    return Delivery(a_report(outcome), manifest)


def a_report(outcome: str = "pass") -> SanitizationReport:
    rate, recipe = Proportion.of(1, 100), Recipe.of("lya")
    gap = Difference.of(rate, rate)
    card = Scorecard(rate, rate, rate, "twins", gap, {"negative": rate}, {"negative": rate}, rate)
    return SanitizationReport(
        method="lya", recipe=recipe.to_dict(), recipe_fingerprint=recipe.fingerprint(), policy=Policy.of(), seed=0,
        model=ModelFacts("BertForSequenceClassification", ("negative", "positive"), 10, "cpu", "fp32"),
        before=card, after=card, fidelity=1.0, accuracy_drop=gap,
        verdict=Verdict(outcome, ("because",)), stop=Stop("floor-reached", "at the floor", 3, 3),
        cost=Cost({"ascent": 1.5}, 3, 100, 66.7, 1, 0.1, 0.01),
        data=DataFacts("a" * 64, "b" * 64, SplitSizes(1, 1, 1, 1, 1, 1, False), ("positive",), 0, 0, 0, 0),
        fisher=None, environment={"torch": "2"}, limits=(),
    )  # fmt: skip
