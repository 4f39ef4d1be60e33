"""A real Chromium for the tests: one that is there, else Playwright's own, else the distribution's package.

python -m tests.browser.chromium      gets one where there is none
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Error, Playwright, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def places(playwright: Playwright) -> list[str]:
    """Where there is one; Playwright's own before the distribution's."""
    paths = (playwright.chromium.executable_path, *filter(None, map(shutil.which, NAMES)))
    return [path for path in paths if Path(path).exists()]


def found() -> str | None:
    """The path of one that starts."""
    with sync_playwright() as playwright:
        for path in places(playwright):
            try:
                playwright.chromium.launch(executable_path=path).close()
            except Error:
                continue
            return path
    return None


def get() -> str:
    """Raises SystemExit that says what to do."""
    if path := found():
        return path
    print("Getting Chromium for the tests of the dashboard", flush=True)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False, **quiet)
    if path := found():
        return path
    if shutil.which("apt-get") and os.geteuid() == 0:
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "-y", "--no-install-recommends", "chromium"]):
            subprocess.run(["apt-get", "-q", *command], check=False, env=environment, **quiet)
    if path := found():
        return path
    raise SystemExit("Install Chromium, for instance with: sudo apt-get install chromium")


if __name__ == "__main__":
    print(get())
