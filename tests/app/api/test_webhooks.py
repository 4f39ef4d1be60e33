"""Webhooks over HTTP: made, shown without their secret, changed, rotated, tried, told again."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from tests.api_process import ApiProcess

HOOK = {"url": "https://1.1.1.1/hook", "events": ["job.ended"]}


@pytest.fixture
def http(api: ApiProcess, database: object) -> Iterator[httpx2.Client]:
    with api.client() as client:
        yield client


def test_a_webhook_from_its_making_to_its_end(http: httpx2.Client) -> None:
    made = http.post("/v1/webhooks", json=HOOK)
    assert made.status_code == 201
    secret, facts = made.json()["secret"], made.json()["facts"]
    assert secret.startswith("whsec_")
    assert facts == facts | HOOK | {"disabled": None}
    place = f"/v1/webhooks/{facts['id']}"
    assert secret not in http.get(place).text
    assert http.get("/v1/webhooks").json()["data"] == [facts]
    changed = http.patch(place, json={"events": ["model.admitted"], "enabled": False}).json()
    assert (changed["url"], changed["events"]) == (HOOK["url"], ["model.admitted"])
    assert changed["disabled"] is not None
    assert http.patch(place, json={"enabled": True}).json()["disabled"] is None
    assert http.post(f"{place}/rotate").json()["secret"] not in ("", secret)
    tried = http.post(f"{place}/test")
    assert (tried.status_code, tried.json()["type"], tried.json()["status"]) == (202, "webhook.test", "waiting")
    assert [each["id"] for each in http.get(f"{place}/deliveries").json()["data"]] == [tried.json()["id"]]
    assert http.post(f"{place}/deliveries/{tried.json()['id']}/replay").json() == {"count": 1}
    assert http.post(f"{place}/replay", json={"since": "2026-01-01T00:00:00Z"}).json() == {"count": 0}
    assert http.delete(place).status_code == 204
    assert http.get(place).status_code == 404


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"url": "http://1.1.1.1/"}, 400),
        ({"url": "https://127.0.0.1/"}, 400),
        ({"url": "https://[::ffff:169.254.169.254]/latest"}, 400),
        ({"url": "https://user@1.1.1.1/"}, 400),
        ({"events": []}, 422),
        ({"events": ["key.created"]}, 400),
        ({"url": 5}, 422),
        ({"secret": "mine"}, 422),
    ],
)
def test_what_cannot_be_told_is_refused(http: httpx2.Client, change: dict[str, object], status: int) -> None:
    answer = http.post("/v1/webhooks", json=HOOK | change)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert http.get("/v1/webhooks").json()["data"] == []


def test_a_tenant_has_a_bounded_number(http: httpx2.Client) -> None:
    answers = [http.post("/v1/webhooks", json=HOOK).status_code for _ in range(51)]
    assert answers == [201] * 50 + [429]
