"""Sends what webhooks are to be told. Every worker process has a thread for it; the database says whose turn it is.

Guarantees: at least once, under the same webhook-id; no transaction is open while a receiver is waited for; a
receiver that is slow, gone or hostile costs its own deliveries a try and nothing else. Addresses are looked up and
checked anew for each try, and the call goes to the address that was checked (`app.domain.outbound`).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx2

from app.domain.audit import Action
from app.domain.errors import BadRequest, OperatorError
from app.domain.outbound import Target, networks, target
from app.domain.webhook import headers, wait_after
from app.store import audit_rows, webhook_rows
from app.store.sealed import Seal
from app.store.webhook_rows import Due
from workers.services import Services

log = logging.getLogger(__name__)

ANSWER_SECONDS = 15.0
TURN_SECONDS = 60.0
READ_BYTES = 4096
PLANNED_AT_ONCE = 500
KEEP_SECONDS = 30 * 24 * 3600.0
GONE = 410


@dataclass(frozen=True, slots=True)
class Answer:
    """`status` of the receiver; `trouble` in words where the try came to nothing; `asked` seconds by Retry-After."""

    status: int | None
    trouble: str | None
    asked: float | None = None


def begin(services: Services, end: threading.Event | None = None) -> threading.Thread | None:
    """Until `end`. None where the operator has set no LETHE_WEBHOOK_KEY, so that there are no webhooks."""
    if services.settings.webhook_key is None:
        return None
    over = end or threading.Event()
    thread = threading.Thread(target=_keep, args=(services, over.wait), daemon=True, name="post")
    thread.start()
    return thread


def _keep(services: Services, wait: Callable[[float], bool]) -> None:
    while not wait(services.settings.webhook_seconds) and not services.drain.begun:
        try:
            deliver_due(services)
        except Exception as error:
            log.warning("no webhooks: %s", type(error).__name__)


def deliver_due(services: Services) -> int:
    """Plan what is new, send what is due; how many tries that took."""
    with services.database.begin() as connection:
        webhook_rows.plan(connection, PLANNED_AT_ONCE)
        webhook_rows.forget(connection, KEEP_SECONDS, PLANNED_AT_ONCE)
    tries = 0
    while not services.drain.begun and (due := _take(services)) is not None:
        _settle(services, due, _send(services, due))
        tries += 1
    return tries


def _take(services: Services) -> Due | None:
    with services.database.begin() as connection:
        return webhook_rows.take_due(connection, TURN_SECONDS)


def _send(services: Services, due: Due) -> Answer:
    key = services.settings.webhook_key
    try:
        if key is None:
            raise OperatorError("There is no LETHE_WEBHOOK_KEY.")
        seal = Seal(key.get_secret_value())
        secrets = [seal.open(each, str(due.hook.id)) for each in due.secrets]
        place = target(due.hook.url, networks(services.settings.webhook_networks))
    except (BadRequest, OperatorError) as error:
        return Answer(None, error.message)
    signed = headers(due.notice.id, int(time.time()), due.notice.body, secrets)
    return _post(place, due.notice.body, signed)


def _post(place: Target, body: str, signed: dict[str, str]) -> Answer:
    """To the very IP address that was checked; TLS still asks for the host's name. No redirect is followed."""
    ip = f"[{place.ip}]" if ":" in place.ip else place.ip
    usual = place.port == (443 if place.scheme == "https" else 80)
    host = f"[{place.host}]" if ":" in place.host else place.host
    sent = {
        **signed,
        "Host": host if usual else f"{host}:{place.port}",
        "Content-Type": "application/cloudevents+json; charset=utf-8",
        "User-Agent": "Lethe-Webhooks",
    }
    try:
        with (
            httpx2.Client(timeout=ANSWER_SECONDS, follow_redirects=False, trust_env=False) as http,
            http.stream(
                "POST", f"{place.scheme}://{ip}:{place.port}{place.path}", content=body.encode(), headers=sent,
                extensions={"sni_hostname": place.host},
            ) as answer,
        ):  # fmt: skip
            for _ in answer.iter_raw(READ_BYTES):  # what it says is nothing to us
                break
            return _judged(answer)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        return Answer(None, f"No answer: {type(error).__name__}.")


def _judged(answer: httpx2.Response) -> Answer:
    if answer.is_success:
        return Answer(answer.status_code, None)
    text = answer.headers.get("Retry-After", "")
    asked = float(text) if text.isdecimal() and len(text) < 10 and answer.status_code in (429, 503) else None
    return Answer(answer.status_code, f"It answered {answer.status_code}.", asked)


def _settle(services: Services, due: Due, answer: Answer) -> None:
    attempts = due.notice.attempts + 1
    gone = answer.status == GONE
    wait = None if gone else wait_after(attempts, random.random(), answer.asked)  # noqa: S311 - spreads, hides nothing
    why = "its receiver is gone (410)" if gone else "its receiver has failed through the whole schedule"
    with services.database.begin() as connection:
        webhook_rows.settle(
            connection, due.notice.id, attempts, answer=answer.status, trouble=answer.trouble, wait=wait
        )
        if answer.trouble is None or wait is not None or not webhook_rows.disable(connection, due.hook.id, why):
            return
        audit_rows.append(
            connection, tenant=due.hook.tenant, actor=services.actor, action=Action.WEBHOOK_DISABLED,
            subject=audit_rows.subject("webhook", due.hook.id), details={"why": why},
        )  # fmt: skip
    log.warning("webhook %s is disabled: %s", due.hook.id, why)
