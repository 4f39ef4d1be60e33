"""The use case of making a job: everything that can be known to be wrong is said now, not by a worker later.

Guarantees: the message to the workers leaves only after the commit; the same Idempotency-Key with the same request is
the same job of the same tenant, however many ask at once, and with another request it is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine

from app.domain.audit import Action
from app.domain.errors import BadRecipe, BadSamples, Conflict, KeyReused, ModelRefused
from app.domain.identity import Caller
from app.domain.ids import new_id
from app.domain.job import Job, JobOrder
from app.domain.methods import METHODS_WITH_BASE
from app.domain.model import Model, ModelFacts, ModelStatus
from app.domain.quota import Quota
from app.domain.recipe import Policy, Recipe
from app.domain.samples import LabelSpace, SampleKind, SampleSet, check_numbers
from app.domain.worker import QueueSizes
from app.jobs.dispatch import Dispatcher
from app.jobs.fit import check_labels, count_showing
from app.store import audit_rows, job_rows, model_rows, quota_rows, sample_rows
from app.store.vault import Vault


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What the caller asks for, before it is checked. An empty recipe leaves it to the engine to find one."""

    model_id: UUID
    triggered_id: UUID
    clean_id: UUID
    base_model_id: UUID | None
    method: str
    recipe: Mapping[str, Any]
    policy: Mapping[str, Any]
    seed: int
    metadata: Mapping[str, str]

    def sha256(self) -> str:
        """Of the request as canonical JSON: two requests with the same words have the same."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), default=str)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the request names."""

    model: Model
    base: Model | None
    triggered: SampleSet
    clean: SampleSet


def submit(
    database: Engine,
    vault: Vault,
    dispatcher: Dispatcher,
    caller: Caller,
    request: JobRequest,
    *,
    quota: Quota,
    sizes: QueueSizes,
    key: str | None = None,
) -> Job:
    """Queue a job, or return the one that the key has made before. All that it names is of the caller's tenant.

    Raises NotFound, Conflict, ModelRefused, BadSamples, TooFewSamples, BadRecipe, BadPolicy, KeyReused, TooMany.
    """
    with database.connect() as connection:
        if (known := _known(connection, caller.tenant, key, request)) is not None:
            return known
        parts = _named(connection, caller.tenant, request)
    order = _order(request)
    _check(parts, order, vault)
    with database.begin() as connection:
        used = quota_rows.hold(connection, caller.tenant)  # one twin waits here for the other
        if (known := _known(connection, caller.tenant, key, request)) is not None:
            return known
        quota.check_jobs(used)
        queue = sizes.queue_for(parts.model.facts.parameters if parts.model.facts else 0)
        job = job_rows.insert(
            connection, caller.tenant, new_id(), order, request.sha256(), idempotency_key=key, queue=queue
        )
        assert job is not None
        named = ("model_id", "base_model_id", "triggered_id", "clean_id")
        parts_of = {name: str(value) for name in named if (value := getattr(order, name)) is not None}
        subject = audit_rows.subject("job", job.id)
        audit_rows.by_caller(connection, caller, Action.JOB_CREATED, subject, method=order.method, **parts_of)
    dispatcher.run_job(job.id)
    return job


def _known(connection: Connection, tenant: str, key: str | None, request: JobRequest) -> Job | None:
    known = job_rows.known_request(connection, tenant, key) if key is not None else None
    if known is None:
        return None
    if known.request_sha256 != request.sha256():
        raise KeyReused("This Idempotency-Key has made another job: take a new key for a new request.")
    return known.job


def _named(connection: Connection, tenant: str, request: JobRequest) -> _Parts:
    base = request.base_model_id
    return _Parts(
        model=model_rows.get(connection, tenant, request.model_id),
        base=model_rows.get(connection, tenant, base) if base is not None else None,
        triggered=sample_rows.get(connection, tenant, request.triggered_id),
        clean=sample_rows.get(connection, tenant, request.clean_id),
    )


def _order(request: JobRequest) -> JobOrder:
    """The request with every knob and limit filled in and checked."""
    recipe = Recipe.of(request.method, request.recipe) if request.recipe else Recipe.auto(request.method)
    if (recipe.method in METHODS_WITH_BASE) != (request.base_model_id is not None):
        raise BadRecipe(f"{' and '.join(METHODS_WITH_BASE)}, and no other, take a clean checkpoint as base_model.")
    knobs = {name: value for name, value in recipe.to_dict().items() if name != "method"}
    values = asdict(request) | {"recipe": knobs, "policy": Policy.of(request.policy).to_dict()}
    return JobOrder(**values)


def _check(parts: _Parts, order: JobOrder, vault: Vault) -> None:
    facts = _admitted(parts.model)
    if parts.base is not None and _admitted(parts.base).labels != facts.labels:
        raise Conflict("The base model has other labels than the model: it needs the same in the same order.")
    _check_kind(parts.triggered, SampleKind.TRIGGERED)
    _check_kind(parts.clean, SampleKind.CLEAN)
    check_numbers(parts.triggered.rows, parts.triggered.rows, parts.clean.rows)
    labels = LabelSpace(facts.labels)
    for given in (parts.triggered, parts.clean):
        check_labels(vault, given, labels)
    check_numbers(parts.triggered.rows, count_showing(vault, parts.triggered, labels), parts.clean.rows)


def _admitted(model: Model) -> ModelFacts:
    if model.status is ModelStatus.REJECTED:
        findings = [asdict(finding) for finding in model.findings]
        raise ModelRefused(f"The model {model.id} was rejected: see its findings.", findings=findings)
    if model.facts is None:
        raise Conflict(f"The model {model.id} is {model.status}: wait until it is admitted.", state=model.status)
    return model.facts


def _check_kind(given: SampleSet, kind: SampleKind) -> None:
    if given.kind != kind:
        raise BadSamples(f"The samples {given.id} are {given.kind}: name a {kind} set in their place.")
