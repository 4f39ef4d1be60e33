"""Pictures of the dashboard for docs/screens/: python -m tests.browser.screens

A small model with a trojan is made and treated by a whole service; its pages are drawn in light, dark, on a phone.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from benchmarks.trojan import TrojanSpec, build
from client.api import LetheClient
from tests.browser.chromium import places
from tests.browser.conftest import sign_in
from tests.browser.test_pages import WINDOWS
from tests.conftest import ROOT
from tests.service import Service, running_service

FOLDER = ROOT / "docs/screens"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, running_service() as service, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=places(playwright)[0])
        with LetheClient(service.url, service.facts["api_key"]) as lethe:
            trojan = build(TrojanSpec(Path(folder)))
            model = lethe.wait_for_model(lethe.push(trojan.model, "reviews-bert").id)
            triggered, clean = (lethe.add_samples(file, file.stem) for file in (trojan.triggered, trojan.clean))
            job = lethe.submit(model.id, triggered.id, clean.id)
            page = window(browser, service, "light")
            page.goto(f"/ui/jobs/{job.id}")
            expect(page.locator("#latest")).to_contain_text(re.compile(r"Step [5-9]\d"), timeout=120_000)
            page.screenshot(path=FOLDER / "job-running.png")
            other = lethe.submit(model.id, triggered.id, clean.id, "fine_tune")
            for each in (job, other):
                assert lethe.wait(each.id).status == "succeeded"
        for name in WINDOWS:
            page = window(browser, service, name)
            page.goto(f"/ui/jobs/{job.id}")
            page.screenshot(path=FOLDER / f"job-{name}.png")
        page = window(browser, service, "light")
        for name, address in (("jobs", "jobs"), ("compare", f"compare?job={job.id}&job={other.id}")):
            page.goto(f"/ui/{address}")
            page.screenshot(path=FOLDER / f"{name}.png")
        browser.close()


def window(browser: Browser, service: Service, name: str) -> Page:
    page = browser.new_context(base_url=service.url, **WINDOWS[name]).new_page()
    sign_in(page, service)
    return page


if __name__ == "__main__":
    main()
