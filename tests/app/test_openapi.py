"""docs/openapi.json is the contract that the routes keep."""

from __future__ import annotations

import json

from app.openapi import document
from tests.conftest import ROOT


def test_the_document_is_that_of_the_routes() -> None:
    written = (ROOT / "docs/openapi.json").read_text()
    assert written == document(), "the API has changed: python -m app.openapi > docs/openapi.json"


def test_every_call_below_v1_asks_for_the_key_and_answers_errors_as_problems() -> None:
    for path, calls in json.loads(document())["paths"].items():
        for call in calls.values():
            assert bool(call.get("security")) is path.startswith(("/v1/", "/metrics"))
            assert all(len(way["key"]) == 1 for way in call.get("security", [])), "one scope is enough"
            assert set(call["responses"]["default"]["content"]) == {"application/problem+json"}
