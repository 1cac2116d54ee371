"""Write the pictures of the page in docs/images, from a service that it starts: `make screenshots`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from tests import servers
from tests.client import ServiceClient
from tests.e2e.pages import PATIENCE_MS, find_browser, launch

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
RECORDING = ROOT / "tests" / "data" / "bach_piano.flac"
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
LAPTOP = {"viewport": {"width": 1280, "height": 720}}
PAPER = {"viewport": {"width": 794, "height": 1123}}  # A4, at 96 pixels to the inch


def open_job(browser: Browser, address: str, options: dict[str, Any]) -> Page:
    """Open a job with its notes and its waveform."""
    page = browser.new_context(locale="en-GB", **options).new_page()
    page.goto(address)
    page.locator("#note-count:visible").wait_for(timeout=PATIENCE_MS)
    page.wait_for_timeout(1000)  # the waveform is drawn
    return page


def take(browser: Browser, address: str) -> None:
    """Write the pictures of one job."""
    laptop = open_job(browser, address, {"viewport": {"width": 1280, "height": 1180}})
    laptop.get_by_text("Both", exact=True).click()
    laptop.get_by_role("button", name="Loop", exact=True).click()
    laptop.get_by_text("Correct the beats").click()
    laptop.get_by_role("button", name="Play").click()
    laptop.locator(".place", has_text="bar 3").wait_for()
    laptop.screenshot(path=str(IMAGES / "page.png"))

    phone = open_job(browser, address, PHONE)
    phone.locator("#play").evaluate("(play) => window.scrollBy(0, play.getBoundingClientRect().top - 16)")
    phone.screenshot(path=str(IMAGES / "page-phone.png"))

    dark = open_job(browser, address, LAPTOP | {"color_scheme": "dark"})
    dark.get_by_text("Both", exact=True).click()
    dark.get_by_role("button", name="Edit notes").click()
    dark.get_by_role("application").press("n")
    dark.screenshot(path=str(IMAGES / "page-dark.png"))

    paper = open_job(browser, address, PAPER)
    paper.get_by_text("Score", exact=True).click()
    paper.get_by_role("img", name="Score, page").first.wait_for(timeout=PATIENCE_MS)
    paper.emulate_media(media="print")
    paper.screenshot(path=str(IMAGES / "page-print.png"), clip={"x": 0, "y": 0, "width": 794, "height": 480})


def main() -> None:
    """Start a service, transcribe a chorale, and write the pictures."""
    executable = find_browser()
    if executable is None:
        sys.exit("There is no Chromium on this machine: run `make browser` as root.")
    with tempfile.TemporaryDirectory() as folder, servers.whole_service(Path(folder)) as service:
        job = ServiceClient(service.url).transcribe(RECORDING)
        with launch(executable) as browser:
            take(browser, f"{service.url}/#/t/{job['id']}")


if __name__ == "__main__":
    main()
