"""Every page: axe finds nothing serious in light, dark and on a phone; and the keyboard is enough."""

from __future__ import annotations

import re
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser.conftest import Visit
from tests.full_service import Taken
from tests.service import Service

WINDOWS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light", "is_mobile": True},
}
SERIOUS = ("serious", "critical")


def addresses(taken: Taken, jobs: list[str]) -> list[str]:
    lists = ["jobs", "jobs/new", "models", "models/new", "samples", "keys", "webhooks", "workers"]
    ones = [f"jobs/{jobs[0]}", f"models/{taken.model}", f"samples/{taken.triggered}"]
    return [f"/ui/{each}" for each in (*lists, *ones, f"compare?job={jobs[0]}&job={jobs[1]}", "nothing")]


@pytest.mark.parametrize("window", WINDOWS)
def test_axe_finds_nothing_serious(visit: Visit, taken: Taken, finished: list[str], window: str) -> None:
    found = []
    page = visit("/ui/sign-in", signed_in=False, **WINDOWS[window])
    found += serious(page)
    page = visit("/ui/jobs", **WINDOWS[window])
    for address in addresses(taken, finished):
        page.goto(address)
        found += serious(page)
        wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wider <= 0, f"{address} is {wider} px wider than the window"
    assert found == []


def serious(page: Any) -> list[tuple[str, str, str]]:
    violations = Axe().run(page).response["violations"]
    return [(page.url, each["id"], each["nodes"][0]["html"]) for each in violations if each["impact"] in SERIOUS]


def test_two_jobs_are_chosen_and_compared_with_the_keyboard_alone(visit: Visit, finished: list[str]) -> None:
    page = visit("/ui/jobs")
    for job in finished:
        page.get_by_label(f"compare {job}").focus()
        page.keyboard.press("Space")
    page.get_by_role("button", name="Compare the two that are ticked").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Two jobs side by side")).to_be_visible()
    expect(page.get_by_role("heading", name="Knobs that differ").locator("..")).to_contain_text("seed")


def test_a_key_is_made_shown_once_and_revoked(visit: Visit, service: Service) -> None:
    page = visit("/ui/keys")
    page.get_by_label("Name").fill("for the pipeline")
    page.get_by_label("jobs:read").check()
    page.get_by_role("button", name="Make the key").click()
    shown = page.locator(".secret code")
    expect(shown).to_have_text(re.compile(r"^lethe_\S+_\S+$"))
    key = shown.inner_text()
    page.get_by_role("button", name="Done").click()
    expect(page.get_by_role("row", name="for the pipeline")).to_contain_text("in use")
    assert key not in page.content()
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Revoke for the pipeline").click()
    expect(page.get_by_role("row", name="for the pipeline")).to_contain_text("revoked")


def test_a_webhook_is_added_and_turned_off(visit: Visit) -> None:
    page = visit("/ui/webhooks")
    page.get_by_label("Address").fill("https://1.1.1.1/hook")
    page.get_by_label("job.ended").check()
    page.get_by_role("button", name="Add the webhook").click()
    expect(page.locator(".secret code")).to_contain_text("whsec_")
    page.get_by_role("button", name="Done").click()
    page.get_by_role("link", name="https://1.1.1.1/hook").first.click()
    page.get_by_role("button", name="Turn off").click()
    expect(page.get_by_text("Nothing is sent")).to_be_visible()
