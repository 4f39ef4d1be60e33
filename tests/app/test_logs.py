"""Log lines: one JSON object each, whatever a caller called it, and no secret in any."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import logs
from app.settings import Settings


def line(message: object, *args: object, secrets: tuple[str, ...] = (), **more: Any) -> str:
    record = logging.makeLogRecord({"name": "lethe", "levelname": "INFO", "msg": message, "args": args, **more})
    return logs.Line(secrets).format(record)


@given(st.text(st.characters(exclude_categories=())), st.text(st.characters(exclude_categories=())))
def test_any_text_stays_in_one_line_of_plain_ascii(text: str, field: str) -> None:
    written = line("%s", text, fields={field: [text]})
    assert written.isascii()
    assert written.isprintable()
    assert {"time", "level", "logger", "message"} <= set(json.loads(written))


KEY = "lethe_0123abcd_" + "9f" * 24


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"the key {KEY} is bad", "9f9f9f"),
        (f"{{'authorization': 'Bearer {KEY}'}}", "9f9f9f"),
        ("Authorization: Bearer abc.def-ghi", "abc.def"),
        ("authorization=Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl is bad", "c2lnbmF0dXJl"),
        ("cannot reach postgresql://lethe:hunter2@db:5432/lethe", "hunter2"),
        ("cannot reach redis://:hun@ter2@redis/0", "ter2"),
        ("connection to host=db user=lethe password=hunter2 failed", "hunter2"),
        ('webhook {"url": "https://x", "secret": "hunter2"}', "hunter2"),
        ("signed with whsec_aHVudGVyMg==", "aHVudGVyMg"),
    ],
)
def test_what_looks_like_a_secret_is_blotted_out(text: str, secret: str) -> None:
    for written in (line(text), line("%r", {"x": text}), line("x", fields={"deep": [{"y": text}]})):
        assert secret not in written
        assert logs.BLOT in written


def test_the_secrets_of_the_process_are_blotted_out_also_in_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql://u:p%40ssw0rd@db/x"
    settings = Settings.model_validate(
        {"DATABASE_URL": url, "REDIS_URL": "redis://:tops3cret@r/0", "api_key": "opensesame-opensesame"}
    )
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-bucket")
    known = {"p%40ssw0rd", "p@ssw0rd", "tops3cret", "opensesame-opensesame", "of-the-bucket"}
    assert known <= set(settings.secrets())
    try:
        raise ValueError("p@ssw0rd, tops3cret and opensesame-opensesame")
    except ValueError:
        written = line("it broke", secrets=tuple(settings.secrets()), exc_info=sys.exc_info())
    assert "Traceback" in json.loads(written)["exception"]
    for secret in ("p@ssw0rd", "tops3cret", "opensesame-opensesame"):
        assert secret not in written


def test_ordinary_words_stay() -> None:
    for text in ("GET /v1/models 200", "model 019ab1c2: admitted", "the secret of lethe", "https://host/path?x=1"):
        assert json.loads(line(text))["message"] == text
