"""Webhooks from the event to the receiver: a real HTTP server that verifies with the library of the specification."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID

import pytest
from cloudevents.v1.http import from_json
from pydantic import SecretStr
from sqlalchemy import text
from standardwebhooks.webhooks import Webhook as Verifier

from app.domain.audit import Action
from app.domain.errors import OperatorError
from app.domain.identity import DEFAULT_TENANT, Caller, Scope
from app.domain.outbound import networks
from app.domain.webhook import WAITS, wait_after
from app.store import audit_rows, webhook_rows
from app.store.sealed import Seal
from app.webhooks import manage
from workers.post import deliver_due
from workers.services import Services

KEY = "k" * 32
ADMIN = Caller(DEFAULT_TENANT, "key:1", frozenset({Scope.ADMIN}))


@dataclass
class Receiver:
    """`answers` are given in turn, the last one for good; `heard` is what came: headers and body."""

    url: str = ""
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=lambda: [(200, {})])
    heard: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.heard.append(({name.lower(): value for name, value in self.headers.items()}, body))
            status, headers = found.answers.pop(0) if len(found.answers) > 1 else found.answers[0]
            self.send_response(status)
            for name, value in {"Content-Length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}/hook?team=red"
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def posting(services: Services) -> Services:
    known = {"webhook_key": SecretStr(KEY), "webhook_networks": "127.0.0.0/8"}
    return replace(services, settings=services.settings.model_copy(update=known))


@pytest.fixture
def desk(posting: Services) -> manage.Desk:
    return manage.Desk(posting.database, Seal(KEY), networks("127.0.0.0/8"))


def happens(
    services: Services, action: Action = Action.JOB_ENDED, tenant: str = DEFAULT_TENANT, **details: Any
) -> None:
    with services.database.begin() as connection:
        audit_rows.append(
            connection, tenant=tenant, actor="worker:w", action=action, subject="job/1", details=details
        )  # fmt: skip


def due_now(services: Services) -> None:
    with services.database.begin() as connection:
        connection.execute(text("UPDATE notices SET next_at = clock_timestamp() WHERE status = 'waiting'"))


def deliveries(services: Services, hook_id: UUID) -> list[Any]:
    with services.database.connect() as connection:
        return webhook_rows.notices(connection, hook_id, 100)


def test_an_event_is_told_signed_and_once(posting: Services, desk: manage.Desk, receiver: Receiver) -> None:
    happens(posting, status="failed")  # before there was a webhook
    hook, secret = manage.make(desk, ADMIN, receiver.url, ["job.ended"])
    happens(posting, status="succeeded", verdict="pass")
    happens(posting, Action.JOB_CREATED)  # not asked for
    happens(posting, tenant="theirs")
    deliver_due(posting)
    deliver_due(posting)
    ((headers, body),) = receiver.heard
    told = Verifier(secret).verify(body.decode(), headers)
    assert told["data"] == {"status": "succeeded", "verdict": "pass"}
    event = from_json(body)  # raises where it is no CloudEvent
    assert (event["type"], event["source"], event["subject"]) == ("lethe.job.ended", "urn:lethe:default", "job/1")
    assert event["id"] == headers["webhook-id"]
    (sent,) = deliveries(posting, hook.id)
    assert (sent.status, sent.answer, sent.attempts) == ("delivered", 200, 1)


def test_what_is_rolled_back_is_not_told(posting: Services, desk: manage.Desk, receiver: Receiver) -> None:
    manage.make(desk, ADMIN, receiver.url, ["job.ended"])
    with posting.database.connect() as connection, connection.begin() as change:
        said = {"tenant": DEFAULT_TENANT, "actor": "w", "subject": "job/1", "details": {}}
        audit_rows.append(connection, action=Action.JOB_ENDED, **said)
        change.rollback()
    deliver_due(posting)
    assert receiver.heard == []


def test_a_failed_try_comes_again_under_the_same_id(posting: Services, desk: manage.Desk, receiver: Receiver) -> None:
    receiver.answers = [
        (500, {}),
        (302, {"Location": "http://127.0.0.1:1/"}),
        (429, {"Retry-After": "1800"}),
        (204, {}),
    ]
    hook, _ = manage.make(desk, ADMIN, receiver.url, ["job.ended"])
    happens(posting)
    for expected in (5.0, 300.0, 1800.0):
        deliver_due(posting)
        (waiting,) = deliveries(posting, hook.id)
        with posting.database.connect() as connection:
            left = (waiting.next_at - connection.scalar(text("SELECT clock_timestamp()"))).total_seconds()
        assert expected - 5 < left <= expected * 1.1
        deliver_due(posting)  # nothing is due
        due_now(posting)
    deliver_due(posting)
    assert len(receiver.heard) == 4
    assert len({headers["webhook-id"] for headers, _ in receiver.heard}) == 1
    assert deliveries(posting, hook.id)[0].status == "delivered"


def test_a_receiver_that_is_gone_is_left_alone(posting: Services, desk: manage.Desk, receiver: Receiver) -> None:
    receiver.answers = [(410, {})]
    hook, _ = manage.make(desk, ADMIN, receiver.url, ["job.ended"])
    happens(posting)
    deliver_due(posting)
    happens(posting)
    deliver_due(posting)
    assert len(receiver.heard) == 1
    with posting.database.connect() as connection:
        assert "410" in str(webhook_rows.get(connection, DEFAULT_TENANT, hook.id).disabled)
        assert [entry.action for entry in audit_rows.read(connection)][-2] == Action.WEBHOOK_DISABLED
    receiver.answers = [(200, {})]
    manage.change(desk, ADMIN, hook.id, enabled=True)
    deliver_due(posting)
    assert len(receiver.heard) == 2  # what happened meanwhile is told


def test_after_the_whole_schedule_a_delivery_has_failed_and_can_be_replayed(
    posting: Services, desk: manage.Desk, receiver: Receiver
) -> None:
    receiver.answers = [(500, {})]
    hook, _ = manage.make(desk, ADMIN, receiver.url, ["job.ended"])
    happens(posting)
    for _ in range(len(WAITS) + 1):
        deliver_due(posting)
        due_now(posting)
    deliver_due(posting)
    assert len(receiver.heard) == len(WAITS) + 1
    (failed,) = deliveries(posting, hook.id)
    assert failed.status == "failed"
    receiver.answers = [(200, {})]
    manage.change(desk, ADMIN, hook.id, enabled=True)
    assert manage.replay(desk, ADMIN, hook.id, since=failed.created_at - timedelta(seconds=1)) == 1
    assert manage.replay(desk, ADMIN, hook.id, since=failed.created_at - timedelta(seconds=1)) == 0
    deliver_due(posting)
    assert deliveries(posting, hook.id)[0].status == "delivered"


def test_both_secrets_sign_while_a_rotation_overlaps(
    posting: Services, desk: manage.Desk, receiver: Receiver
) -> None:
    hook, old = manage.make(desk, ADMIN, receiver.url, ["job.ended"])
    _, new = manage.rotate(desk, ADMIN, hook.id)
    manage.send_test(desk, ADMIN, hook.id)
    deliver_due(posting)
    with posting.database.begin() as connection:
        connection.execute(text("UPDATE webhooks SET old_until = clock_timestamp()"))
    manage.send_test(desk, ADMIN, hook.id)
    deliver_due(posting)
    (first, body), (second, later) = receiver.heard
    for secret in (old, new):
        assert Verifier(secret).verify(body.decode(), first)["type"] == "lethe.webhook.test"
    Verifier(new).verify(later.decode(), second)
    with pytest.raises(Exception, match="No matching signature"):
        Verifier(old).verify(later.decode(), second)


def test_two_workers_send_each_event_once(posting: Services, desk: manage.Desk, receiver: Receiver) -> None:
    manage.make(desk, ADMIN, receiver.url, ["job.ended"])
    for number in range(20):
        happens(posting, number=number)
    threads = [threading.Thread(target=deliver_due, args=(posting,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    deliver_due(posting)
    assert sorted(json.loads(body)["data"]["number"] for _, body in receiver.heard) == list(range(20))


def test_a_receiver_that_is_not_there_costs_a_try(posting: Services, desk: manage.Desk) -> None:
    hook, _ = manage.make(desk, ADMIN, "http://127.0.0.1:1024/", ["job.ended"])
    happens(posting)
    deliver_due(posting)
    (tried,) = deliveries(posting, hook.id)
    assert (tried.status, tried.answer, tried.attempts) == ("waiting", None, 1)
    assert "No answer" in tried.trouble


def test_an_address_that_came_to_lead_inside_is_not_called(
    posting: Services, desk: manage.Desk, receiver: Receiver
) -> None:
    """It was fine when the webhook was made."""
    hook, _ = manage.make(desk, ADMIN, receiver.url, ["job.ended"])
    happens(posting)
    known = posting.settings.model_copy(update={"webhook_networks": "none"})
    deliver_due(replace(posting, settings=known))
    assert receiver.heard == []
    assert "not public" in deliveries(posting, hook.id)[0].trouble


def test_a_secret_is_sealed_to_its_row() -> None:
    seal = Seal(KEY)
    kept = seal.close("whsec_abc", "1")
    assert b"whsec" not in kept
    assert seal.open(kept, "1") == "whsec_abc"
    for other, owner in ((seal, "2"), (Seal("x" * 32), "1")):
        with pytest.raises(OperatorError):
            other.open(kept, owner)


def test_the_schedule_is_that_of_the_specification() -> None:
    hours = [round((wait_after(tries, 0.0) or 0) / 3600, 4) for tries in range(1, 10)]
    assert hours == [0.0014, 0.0833, 0.5, 2, 5, 10, 14, 20, 24]
    assert wait_after(10, 0.0) is None
    assert wait_after(1, 0.999) < 5.5
    assert wait_after(1, 0.0, asked=60.0) == 60.0
    assert wait_after(1, 0.0, asked=1e9) == 24 * 3600
