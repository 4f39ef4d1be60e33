"""Webhooks by Standard Webhooks 1.0.0: what is told, when it is tried again, and how it is signed.

The events are entries of the audit trail, which are written in the transaction of what they tell of: so none is lost,
and none is told that did not happen.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from app.domain.audit import Action

EVENTS = (
    Action.MODEL_ADMITTED, Action.MODEL_REJECTED, Action.JOB_CREATED, Action.JOB_CANCELLED, Action.JOB_RETRIED,
    Action.JOB_ENDED, Action.FILE_DAMAGED,
)  # fmt: skip
TEST = "webhook.test"
PREFIX = "whsec_"
SECRET_BYTES = 32
MINUTE, HOUR = 60.0, 3600.0
# Seconds from each try to the next, as the specification suggests; after the last one a delivery has failed.
WAITS = (5.0, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR)
LONGEST_ASKED = 24 * HOUR
JITTER = 0.1


@dataclass(frozen=True, slots=True)
class Webhook:
    """`events` are actions of the audit trail. `disabled` says why nothing is sent; None: it is."""

    id: UUID
    tenant: str
    url: str
    events: tuple[str, ...]
    disabled: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Notice:
    """One event on its way to one webhook. `status` is waiting, delivered or failed; `answer` the HTTP status of the
    last try, and `trouble` why there was none."""

    id: UUID
    webhook: UUID
    type: str
    body: str
    status: str
    attempts: int
    answer: int | None
    trouble: str | None
    next_at: datetime | None
    created_at: datetime


def new_secret() -> str:
    """whsec_ and 256 random bits in base64."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def headers(notice_id: UUID, seconds: int, body: str, known: Sequence[str]) -> dict[str, str]:
    """The three headers of the specification; one signature for each secret, the newest first.

    `seconds` since 1970. A signature is HMAC-SHA256 over `id.timestamp.body` under the secret's bytes, in base64.
    """
    signed = f"{notice_id}.{seconds}.{body}".encode()
    keys = [base64.b64decode(secret.removeprefix(PREFIX)) for secret in known]
    signatures = [base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode() for key in keys]
    return {
        "webhook-id": str(notice_id),
        "webhook-timestamp": str(seconds),
        "webhook-signature": " ".join(f"v1,{each}" for each in signatures),
    }


def cloud_event(
    notice_id: UUID, kind: str, *, subject: str, at: datetime, tenant: str, data: Mapping[str, Any]
) -> dict[str, Any]:
    """CloudEvents 1.0 in structured JSON."""
    return {
        "specversion": "1.0",
        "id": str(notice_id),
        "source": f"urn:lethe:{tenant}",
        "type": f"lethe.{kind}",
        "subject": subject,
        "time": at.isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": dict(data),
    }


def wait_after(attempts: int, dice: float, asked: float | None = None) -> float | None:
    """Seconds until the next try after so many; None when there is none. `dice` in [0, 1) spreads those that began
    together; `asked` is what the receiver said by Retry-After, and is waited for if it is longer."""
    if attempts > len(WAITS):
        return None
    planned = WAITS[attempts - 1] * (1 + JITTER * dice)
    return max(planned, min(asked or 0.0, LONGEST_ASKED))
