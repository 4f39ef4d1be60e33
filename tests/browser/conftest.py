"""A person before a real Chromium, signed in to the whole service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from client.api import LetheClient
from tests.browser.chromium import places
from tests.full_service import Taken
from tests.service import Service

expect.set_options(timeout=30_000)
QUICK = {"steps": 6, "eval_every": 3, "fisher_samples": 8, "rehearse": 0, "align": 0}
Visit = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Closed with the module: its event loop would be in the way of other tests'."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=places(playwright)[0])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Browser, service: Service) -> Iterator[Visit]:
    """Opens a page in a window of its own, signed in unless told otherwise. What a page writes to its console as an
    error, or may not load, fails the test."""
    opened: list[Any] = []
    troubles: list[str] = []

    def open_page(path: str, *, signed_in: bool = True, **window: Any) -> Page:
        context = browser.new_context(base_url=service.url, **window)
        opened.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda line: troubles.append(line.text) if "Content Security" in line.text else None)
        if signed_in:
            sign_in(page, service)
        page.goto(path)
        return page

    yield open_page
    for context in opened:
        context.close()
    assert troubles == []


def sign_in(page: Page, service: Service) -> None:
    page.goto("/ui/sign-in")
    page.get_by_label("API key").fill(service.facts["api_key"])
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()


@pytest.fixture(scope="module")
def finished(service: Service, taken: Taken) -> list[str]:
    """Two jobs that have succeeded."""
    with LetheClient(service.url, service.facts["api_key"]) as lethe:
        made = [lethe.submit(taken.model, taken.triggered, taken.clean, recipe=QUICK, seed=seed) for seed in (1, 2)]
        done = [lethe.wait(job.id) for job in made]
    assert [job.status for job in done] == ["succeeded", "succeeded"], service.logs()
    return [job.id for job in done]
