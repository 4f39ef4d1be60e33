"""Takes the steps of a call, on a blocking client or on an asyncio one. Nothing else differs between the two."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx2

from client.steps import Call, Pause, Steps, Value

BLOCK = 1024 * 1024


def take(http: httpx2.Client, steps: Steps[Value]) -> Value:
    """What the steps come to. Raises what they raise."""
    try:
        step = next(steps)
        while True:
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                step = steps.send(None)
                continue
            try:
                answer = _answer(http, step)
            except httpx2.TransportError as error:
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        value: Value = end.value
        return value


async def take_async(http: httpx2.AsyncClient, steps: Steps[Value]) -> Value:
    """As `take`, on the event loop. Files are read and written in between, in pieces of a few megabytes at most."""
    try:
        step = next(steps)
        while True:
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                step = steps.send(None)
                continue
            try:
                answer = await _async_answer(http, step)
            except httpx2.TransportError as error:
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        value: Value = end.value
        return value


def _answer(http: httpx2.Client, call: Call) -> httpx2.Response:
    if call.sink is None:
        return http.request(call.method, call.path, **_parts(call))
    with http.stream(call.method, call.path, **_parts(call)) as answer:
        if answer.status_code >= 400:
            answer.read()
            return answer
        for block in answer.iter_bytes(BLOCK):
            call.sink(block)
        return answer


async def _async_answer(http: httpx2.AsyncClient, call: Call) -> httpx2.Response:
    if call.sink is None:
        return await http.request(call.method, call.path, **_parts(call))
    async with http.stream(call.method, call.path, **_parts(call)) as answer:
        if answer.status_code >= 400:
            await answer.aread()
            return answer
        async for block in answer.aiter_bytes(BLOCK):
            call.sink(block)
        return answer


def _parts(call: Call) -> dict[str, Any]:
    given = {"headers": dict(call.headers), "params": dict(call.params) or None, "content": call.content}
    return given | ({"json": call.json} if call.json is not None else {})
