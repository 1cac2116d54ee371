"""A musician's whole way through the page, from a recording to a friend who reads its notes, and the end of it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any

import mido
import pytest

pytest.importorskip("playwright.sync_api", reason="playwright's Python package is not installed")

from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests import servers
from tests.client import ServiceClient
from tests.e2e.pages import PATIENCE_MS, ServicePage
from tests.sound_fonts import write_sound_font

pytestmark = [pytest.mark.e2e, pytest.mark.browser]

ROOT = Path(__file__).parents[2]
MT3_WEIGHTS = Path(os.environ.get("MT3_TEST_WEIGHTS", ROOT.parent / "shared" / "weights")) / "mt3"
JOB_ADDRESS = re.compile(r"/v1/transcriptions/[0-9a-f-]{36}$")


def pitches(midi: bytes) -> list[int]:
    return sorted(
        m.note for track in mido.MidiFile(file=BytesIO(midi)).tracks for m in track if m.type == "note_on"
    )


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def downloaded(page: Page, what: Locator) -> bytes:
    with page.expect_download(timeout=PATIENCE_MS) as download:
        what.click()
    return download.value.path().read_bytes()


class Journey:
    """One tab on the service, and one recording on its way; each step begins where the one before it ended."""

    def __init__(self, browser: Browser, url: str, recording: Path) -> None:
        self.browser, self.recording = browser, recording
        self.page = browser.new_context(locale="en-GB").new_page()
        self.tab = ServicePage(self.page, url)
        self.tab.open()
        self.id = ""

    def upload(self, model: str) -> None:
        """Upload the recording, and watch its notes appear: the end is not shown before they were seen."""
        ends = False

        def delay_the_end(route: Route) -> None:
            if ends or route.request.method != "GET":
                return route.continue_()
            answer = route.fetch()
            job = answer.json() if answer.status == 200 else {}
            if job.get("status") != "succeeded":
                return route.fulfill(response=answer)
            running: dict[str, Any] = {
                "status": "processing",
                "phase": "transcribing",
                "finished_at": None,
                "artifacts": [],
            }
            return route.fulfill(json=job | running)

        self.page.route(JOB_ADDRESS, delay_the_end)
        self.page.locator("#model").select_option(model)
        self.page.locator("#file-input").set_input_files(self.recording)
        live = self.page.locator(".live-words")
        expect(live).to_have_text(re.compile(r"^\d+ notes found so far"), timeout=10 * PATIENCE_MS)
        self.tab.screenshot(f"journey-live-{model}")
        self.id = self.page.evaluate("location.hash").removeprefix("#/t/")
        ServiceClient(self.tab.url).wait(self.id, seconds=1200)
        ends = True
        self.tab.note_count.wait_for(timeout=PATIENCE_MS)
        self.page.unroute(JOB_ADDRESS)

    def compare_by_ear(self) -> None:
        """Play the recording, its notes, and both; the switch keeps the place."""
        for name in ("Original", "Transcription", "Both"):
            self.page.locator(".segment", has_text=name).click()
            expect(self.page.get_by_role("radio", name=name)).to_be_checked()
            if name == "Original":
                button(self.page, "Play").click()
                expect(self.page.locator("#time")).to_have_text(re.compile("^0:0[1-3]"))
        expect(button(self.page, "Pause")).to_be_visible()
        button(self.page, "Pause").click()

    def loop_a_bar_slowly(self) -> None:
        self.page.get_by_label("Speed").select_option("70")
        self.page.get_by_role("application").press("Home")
        expect(self.page.locator(".place")).to_have_text("upbeat")
        button(self.page, "Loop").click()
        first, last = (self.page.get_by_role("spinbutton", name=f"Loop {word} bar") for word in ("from", "to"))
        last.fill(first.input_value())
        last.press("Tab")
        bar, place = first.input_value(), self.page.locator(".place")
        assert bar == "1", "the upbeat leads into the loop"
        button(self.page, "Play").click()
        for beat in (2, 1, 2):
            expect(place).to_have_text(f"bar {bar}, beat {beat}", timeout=10_000)
        self.tab.screenshot("journey-loop")
        button(self.page, "Pause").click()
        button(self.page, "Loop").click()

    def print_the_score(self) -> None:
        """Show the score, transpose it for a clarinet, and print it: a sheet for each of its pages."""
        self.page.get_by_text("Score", exact=True).click()
        pages = self.page.get_by_role("img", name="Score, page")
        pages.first.wait_for(timeout=PATIENCE_MS)
        before = pages.first.get_attribute("src")
        self.page.get_by_label("Written for").select_option("b_flat")
        expect(pages.first).not_to_have_attribute("src", str(before), timeout=PATIENCE_MS)
        self.tab.screenshot("journey-score")
        paper = self.page.pdf(format="A4", prefer_css_page_size=True)
        assert len(re.findall(rb"/Type /Page\b", paper)) == pages.count() > 0

    def mend_two_notes(self) -> None:
        """Raise two notes by a semitone; what is exported afterwards has them."""
        before = pitches(downloaded(self.page, button(self.page, "Export MIDI")))
        self.page.get_by_text("Piano roll", exact=True).click()
        button(self.page, "Edit notes").click()
        roll = self.page.get_by_role("application")
        for key in ("Home", "n", "ArrowUp", "n", "ArrowUp"):
            roll.press(key)
        expect(self.page.locator(".mend-status")).to_have_text("Saved beside the original", timeout=PATIENCE_MS)
        self.tab.screenshot("journey-mended")
        after = pitches(downloaded(self.page, button(self.page, "Export MIDI")))
        assert len(after) == len(before)
        assert sum(after) == sum(before) + 2

    def share(self) -> str:
        button(self.page, "Share").click()
        link = self.page.get_by_role("textbox", name="Link")
        expect(link).to_have_value(re.compile("/s/"))
        address = link.input_value()
        self.page.keyboard.press("Escape")
        return address

    def read_as_a_friend(self, address: str) -> None:
        """Look, listen and download; there is nothing else to do."""
        friend = self.browser.new_context(locale="en-GB").new_page()
        friend.goto(address)
        expect(friend.locator("#note-count")).to_have_text(self.tab.note_count.inner_text(), timeout=PATIENCE_MS)
        friend.get_by_role("button", name="Play", exact=True).click()
        expect(friend.locator("#time")).to_have_text(re.compile("^0:0[1-3]"))
        assert downloaded(friend, friend.get_by_role("link", name="Download MIDI")).startswith(b"MThd")
        assert downloaded(friend, button(friend, "Export PDF")).startswith(b"%PDF")
        friend.get_by_text("Score", exact=True).click()
        friend.get_by_role("img", name="Score, page").first.wait_for(timeout=PATIENCE_MS)
        for name in (
            "Delete",
            "Share",
            "Rename",
            "Edit notes",
            "Reset beats",
            "Transcribe again with…",
            "Export Stems",
        ):
            expect(button(friend, name)).to_have_count(0)
        friend.context.close()

    def delete(self, address: str) -> None:
        """Delete the transcription and leave: it is gone, for the friend too."""
        button(self.page, "Delete").click()
        expect(self.tab.row(self.id)).to_have_count(0)
        self.page.goto("about:blank")
        client = ServiceClient(self.tab.url)
        servers.wait_until(lambda: client.get(f"/v1/transcriptions/{self.id}").status == 404, what="the deletion")
        self.page.goto(address)
        expect(self.page.get_by_role("heading", level=1)).to_have_text("Transcription not found")
        self.page.context.close()


def travel(browser: Browser, url: str, recording: Path, model: str) -> None:
    journey = Journey(browser, url, recording)
    journey.upload(model)
    journey.compare_by_ear()
    journey.loop_a_bar_slowly()
    journey.print_the_score()
    journey.mend_two_notes()
    address = journey.share()
    journey.read_as_a_friend(address)
    assert journey.tab.complaints == []
    journey.delete(address)


def test_recording_is_transcribed_checked_mended_shared_and_deleted(
    browser: Browser, service: servers.Service, bach: Path
) -> None:
    travel(browser, service.url, bach, "basic_pitch")


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def write_catalog(path: Path, weights: Path, url: str) -> Path:
    """Write a catalog whose MT3 is fetched from a server of this machine; Basic Pitch is as in ours."""
    built_in = (ROOT / "checkpoints" / "catalog.toml").read_text()
    (basic_pitch,) = re.findall(r"^\[basic_pitch\].*?(?=^\[\w+\]|^#)", built_in, re.MULTILINE | re.DOTALL)
    lines = ["[mt3_pytorch]", "aliases = []", 'license = "Apache-2.0"', 'license_url = ""', 'attribution = "MT3"']
    for file in sorted(weights.glob("[!R]*")):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        lines += ["[[mt3_pytorch.files]]", f'name = "{file.name}"', f"size = {file.stat().st_size}"]
        lines += [
            f'sha256 = "{digest}"',
            "[[mt3_pytorch.files.sources]]",
            'kind = "url"',
            f'url = "{url}/{file.name}"',
        ]
    path.write_text("\n".join([basic_pitch, *lines]))
    return path


@pytest.fixture
def service_with_mt3(tmp_path: Path) -> Iterator[servers.Service]:
    if not MT3_WEIGHTS.is_dir():
        pytest.skip(f"no published weights in {MT3_WEIGHTS}; MT3_TEST_WEIGHTS names the folder above them")
    handler = partial(QuietHandler, directory=str(MT3_WEIGHTS))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as publisher:
        Thread(target=publisher.serve_forever, daemon=True).start()
        catalog = write_catalog(
            tmp_path / "catalog.toml", MT3_WEIGHTS, f"http://127.0.0.1:{publisher.server_port}"
        )
        environment = {
            "MT3_CHECKPOINT_CATALOG": str(catalog),
            "MT3_SOUND_FONT": str(write_sound_font(tmp_path / "a.sf2")),
        }
        with servers.whole_service(tmp_path, environment) as running:
            yield running
        publisher.shutdown()


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_same_with_mt3(browser: Browser, service_with_mt3: servers.Service, bach: Path) -> None:
    travel(browser, service_with_mt3.url, bach, "mt3_pytorch")
