"""The SDK on asyncio and blocking: the same steps, and what they cost in requests."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import pytest

from client.api import LetheClient
from client.async_api import AsyncLetheClient
from client.errors import Unavailable, Unreachable
from client.places import Places
from client.steps import TRIES, Call, Pause, ask
from client.uploads import UploadPlace
from tests.full_service import Taken
from tests.service import Service

QUICK = {"steps": 4, "fisher_samples": 8}


def test_a_folder_that_is_known_costs_one_request(lethe: LetheClient, taken: Taken) -> None:
    asked: Counter[str] = Counter()
    lethe._http.event_hooks["request"].append(lambda request: asked.update([request.method]))
    assert lethe.push(taken.folder / "model").status == "admitted"
    assert asked == {"GET": 1}


def test_jobs_side_by_side_on_one_event_loop(service: Service, taken: Taken, tmp_path: Path) -> None:
    async def run() -> list[Any]:
        async with AsyncLetheClient(service.url, service.facts["api_key"]) as lethe:
            model = await lethe.push(taken.folder / "model")
            triggered = await lethe.add_samples(taken.folder / "triggered.jsonl", "triggered")
            orders = [lethe.submit(model.id, triggered.id, taken.clean, recipe=QUICK, seed=seed) for seed in (11, 12)]
            jobs = await asyncio.gather(*orders)
            seen = [event.kind async for event in lethe.events(jobs[0].id)]
            ended = await asyncio.gather(*(job.wait() for job in jobs))
            assert {"status", "metric"} <= set(seen)
            files = await lethe.pull(ended[0].id, tmp_path)
            assert all(file.is_file() for file in files)
            assert (await lethe.report(ended[0].id))["seed"] == 11
            assert b"<html" in await ended[0].report("html")
            return [job.status for job in ended]

    assert asyncio.run(run()) == ["succeeded", "succeeded"]


def steps_of(
    call: Call, answers: list[httpx2.Response | httpx2.TransportError], **how: bool
) -> tuple[Any, int, float]:
    """What a call comes to where the network says just this: the answer or error, requests and seconds of waiting."""
    steps, asked, waited, answer = ask(call, **how), 0, 0.0, None
    try:
        step = next(steps)
        while True:
            if isinstance(step, Pause):
                waited, step = waited + step.seconds, steps.send(None)
                continue
            asked, answer = asked + 1, answers.pop(0)
            step = steps.throw(answer) if isinstance(answer, Exception) else steps.send(answer)
    except StopIteration as end:
        return end.value, asked, waited
    except (Unavailable, Unreachable) as error:
        return error, asked, waited


def problem(status: int, retry_after: str = "7") -> httpx2.Response:
    body = {"code": "busy", "detail": "Wait.", "status": status}
    request = httpx2.Request("GET", "http://service")
    return httpx2.Response(status, json=body, headers={"Retry-After": retry_after}, request=request)


def fine() -> httpx2.Response:
    return httpx2.Response(200, json={}, request=httpx2.Request("GET", "http://service"))


BROKEN, REFUSED = httpx2.ReadError("cut"), httpx2.ConnectError("refused")


@pytest.mark.parametrize(
    ("method", "repeatable", "first", "again"),
    [
        ("GET", None, problem(503), True),
        ("GET", None, BROKEN, True),
        ("POST", None, problem(429), True),  # it was not carried out
        ("POST", None, REFUSED, True),
        ("POST", None, problem(503), False),  # it may have been
        ("POST", None, BROKEN, False),
        ("POST", True, BROKEN, True),
    ],
)
def test_a_request_is_sent_again_where_that_is_safe(
    method: str, repeatable: bool | None, first: Any, again: bool
) -> None:
    answer, asked, waited = steps_of(Call(method, "/"), [first, fine()], repeatable=repeatable)
    assert asked == (2 if again else 1)
    assert isinstance(answer, httpx2.Response) is again
    if again and isinstance(first, httpx2.Response):
        assert waited == 7.0  # as Retry-After says


def test_a_service_that_stays_away_is_given_up() -> None:
    error, asked, _ = steps_of(Call("GET", "/"), [BROKEN] * TRIES)
    assert (type(error), asked) == (Unreachable, TRIES)
    error, asked, _ = steps_of(Call("GET", "/"), [problem(503) for _ in range(TRIES)])
    assert (type(error), asked, error.status) == (Unavailable, TRIES, 503)


def test_unfinished_uploads_are_remembered_by_service_name_and_bytes(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"abc")
    ours, theirs = (Places(tmp_path / "cache/uploads.json", url) for url in ("http://one", "http://two"))
    key = ours.key_of(file, "weights")
    ours.keep(key, UploadPlace("/v1/uploads/1"))
    assert Places(tmp_path / "cache/uploads.json", "http://one").get(key) == UploadPlace("/v1/uploads/1")
    assert len({key, ours.key_of(file, "other"), theirs.key_of(file, "weights")}) == 3
    ours.forget(["1"])
    assert ours.get(key) is None
    (tmp_path / "cache/uploads.json").write_text("not json")
    assert ours.get(key) is None
