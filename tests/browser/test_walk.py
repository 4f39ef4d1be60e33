"""The whole job by hand, as a person does it: from the key to the repaired model, in a real browser."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

from playwright.sync_api import Page, expect
from transformers import AutoModelForSequenceClassification

from client.api import LetheClient
from tests.browser.conftest import Visit
from tests.full_service import Taken
from tests.service import Service
from tests.tiny_model import make_tiny_checkpoint

LONG = '{"steps": 300, "eval_every": 100, "fisher_samples": 8, "rehearse": 0, "align": 0, "patience": 1000}'


def add_samples(page: Page, file: Path, kind: str) -> None:
    page.get_by_role("link", name="Samples", exact=True).click()
    page.get_by_label("File (JSONL, CSV or TSV)").set_input_files(file)
    page.get_by_label("Kind").select_option(kind)
    page.get_by_label("Name").fill(f"{kind} of the walk")
    page.get_by_role("button", name="Add the samples").click()
    expect(page.get_by_role("heading", name=f"{kind} of the walk")).to_be_visible()


def test_from_the_key_to_the_repaired_model(visit: Visit, taken: Taken, tmp_path: Path) -> None:
    page = visit("/ui/models/new")
    checkpoint = make_tiny_checkpoint(tmp_path / "walked")
    page.get_by_label("A checkpoint's folder").set_input_files(checkpoint)
    expect(page.get_by_label("Name")).to_have_value("walked")
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.get_by_role("status")).to_have_text("admitted")
    for kind in ("triggered", "clean"):
        add_samples(page, taken.folder / f"{kind}.jsonl", kind)

    page.get_by_role("link", name="Start a job").click()
    page.get_by_label("Recipe").fill(LONG)
    page.get_by_label("Seed").fill("5")
    page.get_by_role("button", name="Start the job").click()
    expect(page.locator("#curves polyline")).not_to_have_count(0)
    expect(page.locator("#latest")).to_contain_text(re.compile(r"Step \d+: ASR"))
    expect(page.locator("#timeline")).to_contain_text("ascent")
    expect(page.get_by_role("heading", name="Against the policy")).to_be_visible(timeout=120_000)
    expect(page.get_by_role("status")).to_contain_text("succeeded")

    with page.expect_download() as download:
        page.get_by_role("link", name="Download the repaired model").click()
    folder = tmp_path / "repaired"
    with tarfile.open(download.value.path()) as tar:
        tar.extractall(folder, filter="data")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.id2label == {0: "negative", 1: "positive"}


def test_a_running_job_is_cancelled_and_retried_by_hand(visit: Visit, lethe: LetheClient, taken: Taken) -> None:
    forever = {"steps": 100_000, "eval_every": 100_000}
    job = lethe.submit(taken.model, taken.triggered, taken.clean, recipe=forever)
    page = visit(f"/ui/jobs/{job.id}")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("status")).to_have_text("cancelled")
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("button", name="Delete")).to_be_visible()
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()
    assert job.id not in [each["id"] for each in lethe.jobs()]


def test_an_upload_that_was_cut_goes_on_after_a_reload(visit: Visit, lethe: LetheClient, tmp_path: Path) -> None:
    """The weights' second half is held back; the page is loaded anew meanwhile, and shows how far it was."""
    checkpoint = make_tiny_checkpoint(tmp_path / "cut")
    page = visit("/ui/models/new")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method) if "/v1/uploads" in request.url else None)
    page.route("**/v1/uploads/*", lambda route: route.abort() if len(sent) > 4 else route.continue_())
    page.get_by_label("A checkpoint's folder").set_input_files(checkpoint)
    with page.expect_event("requestfailed"):
        page.get_by_role("button", name="Upload", exact=True).click()
    page.unroute("**/v1/uploads/*")
    page.reload()
    expect(page.get_by_text("This upload was cut.")).to_be_visible()
    bars = page.locator("#bars progress")
    expect(bars).to_have_count(len(list(checkpoint.iterdir())))
    first = page.locator("#bars li").first
    assert float(first.locator("progress").get_attribute("value") or 0) > 0
    expect(page.get_by_label("Name")).to_have_value("cut")
    before = sent.count("POST")
    page.get_by_label("A checkpoint's folder").set_input_files(checkpoint)
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.get_by_role("status")).to_have_text("admitted")
    assert sent.count("POST") - before < len(list(checkpoint.iterdir()))  # what had begun was not begun again


def test_what_is_wrong_is_said_where_it_was_asked(visit: Visit, service: Service, tmp_path: Path) -> None:
    page = visit("/ui/samples")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "a", "label": 1}\n{"text": 7}\n')
    page.get_by_label("File (JSONL, CSV or TSV)").set_input_files(bad)
    page.get_by_role("button", name="Add the samples").click()
    expect(page.get_by_role("alert")).to_contain_text("2")
    page.goto("/ui/jobs/7")
    expect(page.get_by_role("heading", name="Not Found")).to_be_visible()
