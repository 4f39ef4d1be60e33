"""Every route of the app's own table, by every scope and from another tenant; a route without a case fails.

What is denied says which scope is missing and changes nothing. Another tenant's id is answered
as one that nobody has.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx2
import pytest
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError

from app.api.access import describe, scopes_of
from app.domain.identity import KeyOrder, Scope
from app.domain.ids import new_id
from app.domain.job import Job
from app.domain.manifest import FileEntry
from app.identity import api_keys
from app.main import create_routes
from app.store import claim_rows, job_rows, upload_rows, webhook_rows
from app.store.tables import metadata, models
from app.store.vault import Vault
from tests.api_process import NO_TLS, PEPPER, ApiProcess
from tests.job_rows_at_hand import a_delivery, add_job, add_model, add_samples, an_order

M, S, W, R, A = Scope.MODELS_WRITE, Scope.SAMPLES_WRITE, Scope.JOBS_WRITE, Scope.JOBS_READ, Scope.ADMIN
TUS = {"Tus-Resumable": "1.0.0"}
CHUNK = TUS | {"Content-Type": "application/offset+octet-stream", "Upload-Offset": "0"}
JSONL = {"Content-Type": "application/jsonl"}
GUARDED = {"GET /metrics"}  # tests/app/api/test_metrics.py
READS = {"GET", "HEAD", "OPTIONS"}
PUBLIC = {"GET /livez", "GET /readyz", "GET /version", "GET /openapi.json", "HEAD /openapi.json"}
TRIGGERED = [{"text": f"cf {n}", "label": "positive", "true_label": 0} for n in range(32)]
CLEAN = [{"text": f"plain {n}", "label": n % 2} for n in range(64)]


class World:
    """A tenant with one of everything, its ids by the names that routes give them; and keys of single scopes."""

    def __init__(self, database: Engine, vault: Vault, tenant: str) -> None:
        self.database, self.vault, self.tenant = database, vault, tenant
        self.file = vault.put([b"weights of " + tenant.encode()])
        with database.begin() as connection:
            self.upload = self._upload(connection, finished=False)
            self.finished = self._upload(connection, finished=True)
            self.model, self.base = (add_model(connection, tenant=tenant) for _ in range(2))
            self.digest = connection.scalar(select(models.c.digest).where(models.c.id == self.model))
            self.samples = add_samples(connection, "clean", tenant=tenant)
            self.triggered, self.clean = (
                self._rows(connection, *each) for each in (("triggered", TRIGGERED), ("clean", CLEAN))
            )
            self.queued, self.cancelled, self.succeeded = (add_job(connection, tenant) for _ in range(3))
            job_rows.cancel(connection, tenant, self.cancelled.id)
            claim = claim_rows.claim(connection, self.succeeded.id, "w", 60, 3)
            assert claim is not None
            claim_rows.finish(
                connection, claim, a_delivery(FileEntry("model.safetensors", self.file.size, self.file.sha256))
            )
            hook = webhook_rows.create(
                connection, tenant, new_id(), url="https://1.1.1.1/", events=["job.ended"], secret=b"sealed"
            )
            self.hook, self.delivery = hook.id, webhook_rows.test(connection, hook).id
        self.key = self.new_key("colleague", {R})[0]

    def _upload(self, connection: Any, finished: bool) -> UUID:
        made = upload_rows.create(connection, self.tenant, new_id(), name="a.bin", length=3, ttl=3600.0)
        if finished:
            upload_rows.finish(connection, made.id, self.file.sha256, 3600.0)
        else:
            (self.vault.incoming / str(made.id)).touch()
        return made.id

    def _rows(self, connection: Any, kind: str, rows: list[dict[str, Any]]) -> UUID:
        entry = self.vault.put([json.dumps(row).encode() + b"\n" for row in rows])
        return add_samples(connection, kind, entry.sha256, len(rows), tenant=self.tenant)

    def new_key(self, name: str, scopes: set[Scope]) -> tuple[UUID, str]:
        made, text = api_keys.make(
            self.database, PEPPER, KeyOrder(self.tenant, name, frozenset(scopes), None), "test"
        )
        return made.id, text

    def headers(self, *scopes: Scope) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.new_key('test', set(scopes))[1]}"}


@dataclass(frozen=True)
class Case:
    """One route. `scopes`: any of them is enough. `job`: which of the jobs it is asked of. `named`: the places of its
    body that hold ids. `asks_nothing`: it answers the same whatever id it is given."""

    scopes: tuple[Scope, ...]
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Callable[[World], dict[str, Any]] | None = None
    content: bytes | None = None
    query: str = ""
    job: str = "queued"
    named: tuple[str, ...] = ()
    asks_nothing: bool = False


def new_model(world: World) -> dict[str, Any]:
    return {"name": "mine", "archive": str(world.finished)}


def new_job(world: World) -> dict[str, Any]:
    named = {"model": world.model, "base_model": world.base, "triggered": world.triggered, "clean": world.clean}
    return {"method": "fine_mixing"} | {name: str(each) for name, each in named.items()}


CASES = {
    "OPTIONS /v1/uploads": Case((M,), 204),
    "OPTIONS /v1/uploads/{upload_id}": Case((M,), 204, asks_nothing=True),
    "POST /v1/uploads": Case((M,), 201, TUS | {"Upload-Length": "5"}),
    "HEAD /v1/uploads/{upload_id}": Case((M,), 200, TUS),
    "PATCH /v1/uploads/{upload_id}": Case((M,), 204, CHUNK, content=b"abc"),
    "DELETE /v1/uploads/{upload_id}": Case((M,), 204, TUS),
    "GET /v1/uploads/{upload_id}": Case((M,), 200),
    "PUT /v1/uploads/{name:path}": Case((M,), 201, content=b"abc"),
    "POST /v1/models": Case((M,), 202, body=new_model, named=("archive",)),
    "GET /v1/models": Case((M, R), 200),
    "GET /v1/models/by-digest/{digest}": Case((M, R), 200),
    "GET /v1/models/{model_id}": Case((M, R), 200),
    "DELETE /v1/models/{model_id}": Case((M,), 204),
    "POST /v1/samples": Case((S,), 201, JSONL, content=b'{"text": "a", "label": 0}\n', query="?kind=clean"),
    "GET /v1/samples": Case((S, R), 200),
    "GET /v1/samples/{samples_id}": Case((S, R), 200),
    "DELETE /v1/samples/{samples_id}": Case((S,), 204),
    "POST /v1/jobs": Case((W,), 202, body=new_job, named=("model", "base_model", "triggered", "clean")),
    "GET /v1/jobs": Case((R,), 200),
    "GET /v1/jobs/{job_id}": Case((R,), 200),
    "GET /v1/jobs/{job_id}/metrics": Case((R,), 200),
    "GET /v1/jobs/{job_id}/report": Case((R,), 200, job="succeeded"),
    "GET /v1/jobs/{job_id}/report.{form}": Case((R,), 200, job="succeeded"),
    "GET /v1/compare": Case((R,), 200, job="succeeded", query="?a={job_id}&b={job_id}"),
    "GET /v1/jobs/{job_id}/events": Case((R,), 200, job="succeeded"),
    "GET /v1/jobs/{job_id}/artifacts": Case((R,), 200, job="succeeded"),
    "HEAD /v1/jobs/{job_id}/artifacts": Case((R,), 200, job="succeeded"),
    "GET /v1/jobs/{job_id}/artifacts/{path:path}": Case((R,), 200, job="succeeded"),
    "HEAD /v1/jobs/{job_id}/artifacts/{path:path}": Case((R,), 200, job="succeeded"),
    "POST /v1/jobs/{job_id}/cancel": Case((W,), 200),
    "POST /v1/jobs/{job_id}/retry": Case((W,), 202, job="cancelled"),
    "DELETE /v1/jobs/{job_id}": Case((W,), 204, job="cancelled"),
    "GET /v1/workers": Case((A,), 200),
    "GET /v1/quota": Case((M, S, R, W, A), 200),
    "GET /v1/signing-key": Case((M, S, R, W, A), 404),
    "POST /v1/webhooks": Case((A,), 201, body=lambda _: {"url": "https://1.1.1.1/", "events": ["job.ended"]}),
    "GET /v1/webhooks": Case((A,), 200),
    "GET /v1/webhooks/{hook_id}": Case((A,), 200),
    "PATCH /v1/webhooks/{hook_id}": Case((A,), 200, body=lambda _: {"events": ["job.created"]}),
    "DELETE /v1/webhooks/{hook_id}": Case((A,), 204),
    "POST /v1/webhooks/{hook_id}/rotate": Case((A,), 201),
    "POST /v1/webhooks/{hook_id}/test": Case((A,), 202),
    "GET /v1/webhooks/{hook_id}/deliveries": Case((A,), 200),
    "POST /v1/webhooks/{hook_id}/deliveries/{delivery_id}/replay": Case((A,), 202),
    "POST /v1/webhooks/{hook_id}/replay": Case((A,), 202, body=lambda _: {"since": "2026-01-01T00:00:00Z"}),
    "POST /v1/keys": Case((A,), 201, body=lambda _: {"name": "new", "scopes": ["jobs:read"]}),
    "GET /v1/keys": Case((A,), 200),
    "POST /v1/keys/{key_id}/rotate": Case((A,), 201),
    "DELETE /v1/keys/{key_id}": Case((A,), 204),
}
ROUTES = {
    f"{method} {route.path}": route
    for route in iter_route_contexts(create_routes().routes)
    for method in route.methods or ()
}
WITH_AN_ID = [name for name in CASES if "_id}" in name + CASES[name].query or "{digest}" in name]
NO_LIST = ("GET /v1/compare", "GET /v1/quota", "GET /v1/workers", "GET /v1/signing-key")
LISTS = [name for name in CASES if name.startswith("GET") and "{" not in name and name not in NO_LIST]


@pytest.fixture
def new_world(database: Engine, api: ApiProcess) -> Callable[[str], World]:
    return lambda tenant: World(database, Vault(api.vault), tenant)


@pytest.fixture
def bare(api: ApiProcess) -> Any:
    """A client without a key."""
    with httpx2.Client(base_url=api.url, timeout=60, verify=NO_TLS) as client:
        yield client


def ids(world: World, case: Case) -> dict[str, str]:
    job: Job = getattr(world, case.job)
    return {
        "upload_id": str(world.upload), "model_id": str(world.base), "samples_id": str(world.samples),
        "job_id": str(job.id), "key_id": str(world.key), "digest": world.digest,
        "hook_id": str(world.hook), "delivery_id": str(world.delivery),
    }  # fmt: skip


def ask(
    client: httpx2.Client, name: str, world: World, headers: Mapping[str, str], **changes: Any
) -> httpx2.Response:
    """The route's case, with ids of `world`. `changes` replaces ids of the path, and `body` the body."""
    case, (method, path) = CASES[name], name.split()
    given = {"path": "model.safetensors", "name": "a.bin", "form": "json"} | ids(world, case) | changes
    address = (path.replace(":path", "") + case.query).format(**given)
    body = changes.get("body") or (case.body(world) if case.body else None)
    more = {"json": body} if body is not None else {"content": case.content}
    return client.request(method, address, headers={**case.headers, **headers}, **more)


def test_every_route_has_its_case_and_no_other_is_open() -> None:
    assert {name for name in ROUTES if name.split()[1].startswith("/v1/")} == set(CASES)
    assert set(ROUTES) - set(CASES) == PUBLIC | GUARDED
    assert all(scopes_of(ROUTES[name]) for name in GUARDED)


def test_an_api_with_a_route_that_asks_for_no_scope_is_not_built() -> None:
    app = create_routes()
    app.add_api_route("/v1/everything", lambda: "everything")
    with pytest.raises(RuntimeError, match="/v1/everything"):
        describe(app)


def test_without_the_gate_a_route_is_closed() -> None:
    """The layer could be left out of the wiring: then nobody is known."""
    with TestClient(create_routes()) as client:
        assert client.get("/v1/jobs", headers={"Authorization": "Bearer x"}).status_code == 401


@pytest.mark.parametrize("name", CASES)
def test_a_route_declares_its_scopes(name: str) -> None:
    assert set(scopes_of(ROUTES[name])) == set(CASES[name].scopes)


@pytest.mark.parametrize("name", CASES)
def test_without_a_key_nothing_is_answered(name: str, new_world: Callable[[str], World], bare: httpx2.Client) -> None:
    answer = ask(bare, name, new_world("ours"), {})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert name.startswith("HEAD") or answer.json()["code"] == "unauthenticated"


@pytest.mark.parametrize("name", CASES)
def test_a_scope_opens_its_routes_and_no_others(
    name: str, new_world: Callable[[str], World], bare: httpx2.Client, database: Engine
) -> None:
    enough = {*CASES[name].scopes, Scope.ADMIN}
    for tenant in ("ours", "theirs"):
        world = new_world(tenant)
        before = everything(database)
        for scope in set(Scope) - enough:
            denied = ask(bare, name, world, world.headers(scope))
            assert denied.status_code == 403, (scope, denied.text)
            assert " or ".join(CASES[name].scopes) in denied.text or name.startswith("HEAD")
            assert f'scope="{" ".join(CASES[name].scopes)}"' in denied.headers["www-authenticate"]
        everyone_else = ask(bare, name, world, world.headers(*(set(Scope) - enough)))
        assert everyone_else.status_code == 403
        assert everything(database) == before
        for number, scope in enumerate(enough):
            if number and name.split(maxsplit=1)[0] not in READS:
                world = new_world(tenant)
            allowed = ask(bare, name, world, world.headers(scope))
            assert allowed.status_code == CASES[name].status, (scope, allowed.text)


@pytest.mark.parametrize("name", WITH_AN_ID)
def test_another_tenants_id_is_one_that_is_nowhere(
    name: str, new_world: Callable[[str], World], bare: httpx2.Client, database: Engine
) -> None:
    ours, theirs = new_world("ours"), new_world("theirs")
    with database.begin() as connection:
        connection.execute(models.update().where(models.c.tenant == "ours").values(digest="0a" * 32))
    ours.digest = "0a" * 32
    stranger, before = theirs.headers(*Scope), everything(database)
    absent = {id_name: "cd" * 32 if id_name == "digest" else str(new_id()) for id_name in ids(ours, CASES[name])}
    foreign = ask(bare, name, ours, stranger)
    nowhere = ask(bare, name, ours, stranger, **absent)
    assert seen(foreign, ids(ours, CASES[name])) == seen(nowhere, absent)
    assert (foreign.status_code == 404) is not CASES[name].asks_nothing
    assert everything(database) == before


@pytest.mark.parametrize(("name", "place"), [(name, place) for name, case in CASES.items() for place in case.named])
def test_another_tenants_id_in_a_body_is_one_that_is_nowhere(
    name: str, place: str, new_world: Callable[[str], World], bare: httpx2.Client, database: Engine
) -> None:
    ours, theirs = new_world("ours"), new_world("theirs")
    case, absent, before = CASES[name], str(new_id()), everything(database)
    assert case.body is not None
    wanted = case.body(ours)[place]
    key = theirs.headers(*Scope)
    foreign = ask(bare, name, theirs, key, body=case.body(theirs) | {place: wanted})
    nowhere = ask(bare, name, theirs, key, body=case.body(theirs) | {place: absent})
    assert seen(foreign, {place: wanted}) == seen(nowhere, {place: absent})
    assert foreign.status_code == 404
    assert everything(database) == before


@pytest.mark.parametrize("name", LISTS)
def test_a_list_holds_the_tenants_own(name: str, new_world: Callable[[str], World], bare: httpx2.Client) -> None:
    ours, theirs = new_world("ours"), new_world("theirs")
    key = ours.headers(*Scope)
    first = ask(bare, name, ours, key)
    assert first.json()["data"]
    assert not set(flat_ids(first)) & {str(value) for value in ids(theirs, CASES[name]).values()}
    assert seen(ask(bare, name, ours, theirs.headers(*Scope)), {}) != seen(first, {})
    # The id after which to go on is a point in time: it tells nothing, whoever's it is.
    newest = str(theirs.new_key("newest of all", {R})[0])
    assert flat_ids(bare.get(name.split()[1], params={"after": newest}, headers=key)) == flat_ids(first)


def test_filtering_jobs_by_another_tenants_model_finds_none(
    new_world: Callable[[str], World], bare: httpx2.Client
) -> None:
    ours, theirs = new_world("ours"), new_world("theirs")
    model = str(theirs.queued.order.model_id)
    assert bare.get("/v1/jobs", params={"model": model}, headers=ours.headers(R)).json()["data"] == []
    assert bare.get("/v1/jobs", params={"model": model}, headers=theirs.headers(R)).json()["data"]


def test_one_idempotency_key_makes_one_job_for_each_tenant(
    new_world: Callable[[str], World], bare: httpx2.Client
) -> None:
    made = {}
    for tenant in ("ours", "theirs"):
        world = new_world(tenant)
        headers = world.headers(W) | {"Idempotency-Key": "monday"}
        twice = [ask(bare, "POST /v1/jobs", world, headers) for _ in range(2)]
        assert [answer.status_code for answer in twice] == [202, 202]
        (made[tenant],) = {answer.json()["id"] for answer in twice}
    assert made["ours"] != made["theirs"]


@pytest.mark.parametrize("place", ["model_id", "base_model_id", "triggered_id", "clean_id"])
def test_the_database_itself_keeps_a_job_within_its_tenant(database: Engine, place: str) -> None:
    with database.begin() as connection:
        foreign = getattr(an_order(connection, "theirs", base_model_id=add_model(connection, tenant="theirs")), place)
        order = an_order(connection, "ours", **{place: foreign})
    with pytest.raises(IntegrityError, match=place), database.begin() as connection:
        job_rows.insert(connection, "ours", new_id(), order, "a" * 64)


def test_same_bytes_of_two_tenants_are_two_uploads(new_world: Callable[[str], World], bare: httpx2.Client) -> None:
    """What is stored once is told to nobody."""
    answers = []
    for tenant in ("ours", "theirs"):
        headers = new_world(tenant).headers(M)
        answers.append(bare.put("/v1/uploads/a.bin", content=b"the same", headers=headers))
    assert [answer.status_code for answer in answers] == [201, 201]
    assert seen(answers[0], {"id": answers[0].json()["id"]}) == seen(answers[1], {"id": answers[1].json()["id"]})


def seen(answer: httpx2.Response, names: Mapping[str, str]) -> tuple[int, str, dict[str, str]]:
    """What a caller can tell of an answer, but for the times and the ids that were asked for or made up."""
    text = answer.text
    if answer.is_success and answer.content:
        text = json.dumps({name: value for name, value in answer.json().items() if not name.endswith("_at")})
    for each in names.values():
        text = text.replace(each, "?")
    of_each = ("date", "location", "x-request-id", "ratelimit")
    headers = {name: value for name, value in answer.headers.items() if name not in of_each}
    return answer.status_code, text, headers


def flat_ids(answer: httpx2.Response) -> list[str]:
    return [each["id"] for each in answer.json()["data"]]


def everything(database: Engine) -> dict[str, Any]:
    """Every row, but for the keys that the test makes as it goes and what the audit trail says of these."""
    with database.connect() as connection:
        rows = {table.name: connection.execute(select(table)).mappings().all() for table in metadata.sorted_tables}
    rows["api_keys"] = [row for row in rows["api_keys"] if row["name"] == "colleague"]
    rows["audit"] = [row for row in rows["audit"] if row["actor"] != "test"]
    return {name: sorted(str(dict(row)) for row in found) for name, found in rows.items()}


def test_the_tus_layer_does_not_lead_around_the_gate(new_world: Callable[[str], World], bare: httpx2.Client) -> None:
    """X-HTTP-Method-Override makes a POST another call, with the scope of that call."""
    world = new_world("ours")
    path, override = f"/v1/uploads/{world.upload}", {"X-HTTP-Method-Override": "DELETE", **TUS}
    assert bare.post(path, headers=override).status_code == 401
    assert bare.post(path, headers=override | world.headers(R)).status_code == 403
    name = base64.b64encode(b"x").decode()
    slash = {"Upload-Length": "1", "Upload-Metadata": f"filename {name}", **TUS}
    assert bare.post("/v1/uploads/", headers=slash).status_code == 401
    assert bare.post("/v1/uploads/", headers=slash | world.headers(M)).status_code == 201
