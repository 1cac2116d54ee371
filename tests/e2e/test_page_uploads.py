"""Uploads from the page: interrupted, resumed, recorded, fetched."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright's Python package is not installed")

from playwright.sync_api import Browser, FilePayload, Locator, Page, Response, Route, expect

from tests import servers
from tests.client import ServiceClient
from tests.e2e.pages import PATIENCE_MS, OpenTab

pytestmark = [pytest.mark.e2e, pytest.mark.browser]

# As if the browser had no room to keep the file.
NO_ROOM_SCRIPT = """
const put = IDBObjectStore.prototype.put;
IDBObjectStore.prototype.put = function (value) {
  if (value.file) throw new DOMException("No room.", "QuotaExceededError");
  return put.call(this, value);
};
"""
PART_BYTES = 256 * 1024


class Network:
    """Counts the parts that arrive, and can be cut after some of them."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.arrived: Counter[str] = Counter()
        self.cut_after: float = float("inf")
        page.route(re.compile("/v1/uploads"), self._pass)
        page.on("response", self._count)

    def _pass(self, route: Route) -> None:
        if len(self.arrived) >= self.cut_after:
            route.abort("internetdisconnected")
        else:
            route.continue_()

    def _count(self, response: Response) -> None:
        if response.request.method == "PUT" and response.status == 204:
            self.arrived[response.url.rpartition("/")[2]] += 1

    def wait_for(self, parts: int) -> None:
        """Wait until so many parts have arrived."""
        for _ in range(3000):
            if len(self.arrived) >= parts:
                return
            self.page.wait_for_timeout(100)
        raise AssertionError(f"{len(self.arrived)} parts arrived instead of {parts}")


def recording(path: Path, size: int) -> Path:
    """Write a file that begins like a recording and takes no room."""
    with path.open("wb") as file:
        file.write(b"RIFF\x00\x00\x00\x00WAVE")
        file.truncate(size)
    return path


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Start the web process, or restart it on the same port."""
    port = servers.lasting_port()
    with ExitStack() as stack:

        def start(part_bytes: int = PART_BYTES) -> str:
            stack.close()
            running = servers.web_process(tmp_path, port, MT3_UPLOAD_PART_BYTES=str(part_bytes))
            return stack.enter_context(running)

        yield start


def open_page(browser: Browser, url: str, script: str = "") -> Page:
    page = browser.new_context(locale="en-GB").new_page()
    if script:
        page.add_init_script(script)
    page.goto(url)
    page.locator("#model:enabled").wait_for(state="attached")
    return page


def words(page: Page) -> Locator:
    return page.locator("#uploads .upload-words")


@pytest.mark.parametrize(
    "size", [6_000_000, pytest.param(300_000_000, marks=pytest.mark.soak)], ids=["6MB", "300MB"]
)
def test_upload_survives_a_cut_a_reload_and_a_restart(
    browser: Browser, web: Callable[..., str], tmp_path: Path, size: int
) -> None:
    part_bytes = max(PART_BYTES, size // 60)
    url = web(part_bytes)
    page = open_page(browser, url)
    network = Network(page)
    count = -(-size // part_bytes)
    network.cut_after = round(0.3 * count)
    page.locator("#file-input").set_input_files(recording(tmp_path / "long.wav", size))
    network.wait_for(round(0.3 * count))
    expect(words(page)).to_contain_text("Upload interrupted", timeout=PATIENCE_MS)
    network.cut_after = round(0.6 * count)
    page.evaluate("window.dispatchEvent(new Event('online'))")
    network.wait_for(round(0.6 * count))
    expect(words(page)).to_contain_text("Upload interrupted", timeout=PATIENCE_MS)

    network.cut_after = round(0.8 * count)
    page.reload()
    network.wait_for(round(0.8 * count))
    web(part_bytes)
    network.cut_after = float("inf")

    row = page.locator("#jobs a", has_text="long.wav")
    expect(row).to_be_visible(timeout=5 * PATIENCE_MS)
    expect(page.locator("#uploads li")).to_have_count(0)
    assert len(network.arrived) == count
    assert sum(network.arrived.values()) == count, "nothing was sent twice"
    job = ServiceClient(url).get("/v1/transcriptions").json["items"][0]
    sent = ServiceClient(url).get(f"/v1/transcriptions/{job['id']}/audio?redirect=false", Range="bytes=0-11")
    assert sent.headers["Content-Range"] == f"bytes 0-11/{size}"
    page.reload()
    expect(row).to_be_visible()
    expect(page.locator("#uploads li")).to_have_count(0)
    page.context.close()


def test_file_that_the_browser_lost_is_asked_for_and_only_the_rest_is_sent(
    browser: Browser, web: Callable[..., str], tmp_path: Path
) -> None:
    page = open_page(browser, web(), NO_ROOM_SCRIPT)
    network = Network(page)
    network.cut_after = 10
    path = recording(tmp_path / "long.wav", 6_000_000)
    page.locator("#file-input").set_input_files(path)
    network.wait_for(10)
    expect(words(page)).to_contain_text("Upload interrupted", timeout=PATIENCE_MS)
    network.cut_after = float("inf")
    page.reload()
    expect(words(page)).to_contain_text("Choose long.wav (6.0 MB) again: only what is missing is sent.")
    again = page.locator("#uploads input[type=file]")
    (tmp_path / "other").mkdir()
    again.set_input_files(recording(tmp_path / "other" / "long.wav", 6_000_001))
    expect(words(page)).to_contain_text("This is another file")
    again.set_input_files(path)
    expect(page.locator("#jobs a", has_text="long.wav")).to_be_visible(timeout=PATIENCE_MS)
    assert sum(network.arrived.values()) == -(-6_000_000 // PART_BYTES)
    page.context.close()


def test_one_of_several_is_tried_again_by_itself(browser: Browser, web: Callable[..., str]) -> None:
    page = open_page(browser, web())
    refusals = iter([500] * 6)

    def answer(route: Route) -> None:
        body = (route.request.post_data_buffer or b"").decode("latin-1")
        if route.request.method == "POST" and "second.wav" in body and next(refusals, None):
            route.fulfill(status=507, body="{}")
        else:
            route.fallback()

    page.route(re.compile("/v1/transcriptions$"), answer)
    page.clock.install()
    content = b"RIFF\x00\x00\x00\x00WAVE" + bytes(1000)
    files = [FilePayload(name=f"{name}.wav", mimeType="audio/wav", buffer=content) for name in ("first", "second")]
    page.locator("#file-input").set_input_files(files)
    row = page.locator("#uploads li", has_text="second.wav")
    again = row.get_by_role("button", name="Try again")
    for _ in range(60):
        page.clock.fast_forward(20_000)
        page.wait_for_timeout(50)
        if again.is_visible():
            break
    expect(page.locator("#uploads li")).to_have_count(1)
    again.click()
    expect(page.locator("#uploads-summary")).to_have_text("2 recordings uploaded.", timeout=PATIENCE_MS)
    page.context.close()


def test_microphone_is_recorded_and_transcribed(open_tab: OpenTab) -> None:
    tab = open_tab(permissions=["microphone"])
    tab.page.get_by_role("button", name="Record", exact=True).click()
    expect(tab.page.locator(".recorder-words")).to_have_text("0:03", timeout=PATIENCE_MS)
    tab.screenshot("recording")
    tab.page.get_by_role("button", name="Stop and transcribe").click()
    tab.note_count.wait_for(timeout=PATIENCE_MS)
    expect(tab.page.get_by_role("heading", level=1)).to_have_text(re.compile(r"^Recording \d{4}-.*\.webm$"))


def test_discarded_recording_is_not_sent(open_tab: OpenTab) -> None:
    tab = open_tab(permissions=["microphone"])
    before = tab.page.locator("#jobs li").count()
    tab.page.get_by_role("button", name="Record", exact=True).click()
    expect(tab.page.locator(".recorder-words")).to_have_text("0:01", timeout=PATIENCE_MS)
    tab.page.get_by_role("button", name="Discard").click()
    expect(tab.page.get_by_role("button", name="Record", exact=True)).to_be_visible()
    expect(tab.page.locator("#uploads li")).to_have_count(0)
    expect(tab.page.locator("#jobs li")).to_have_count(before)


def test_recording_is_fetched_from_an_address(open_tab: OpenTab) -> None:
    tab = open_tab(allow_network_errors=True)
    field = tab.page.get_by_label("Address of a recording")
    field.fill("http://127.0.0.1:1/song.mp3")
    field.press("Enter")
    expect(tab.page.locator(".by-address .field-problem")).to_be_visible()

    sent: list[dict[str, str]] = []

    def accept(route: Route) -> None:
        if route.request.method != "POST":
            return route.fallback()
        sent.append(json.loads(route.request.post_data or ""))
        return route.fulfill(status=422, json={"detail": "Kept here."})

    tab.page.route(re.compile("/v1/transcriptions$"), accept)
    field.fill("https://example.org/song.mp3")
    field.press("Enter")
    expect(tab.page.get_by_text("Kept here.")).to_be_visible()
    assert sent[0]["source_url"] == "https://example.org/song.mp3"
