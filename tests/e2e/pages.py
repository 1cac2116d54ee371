"""The page as users operate it, for tests: find a browser, upload a file, read the page."""

from __future__ import annotations

import base64
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, TimeoutError, expect, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",  # a microphone that beeps
]
# Read at import: a fixture clears MT3_ settings of the shell before each test.
SCREENSHOTS = os.environ.get("MT3_SCREENSHOTS")
PAINT_SECONDS = 10
DESKTOP = {"width": 1360, "height": 860}
PHONE = {"width": 390, "height": 844}
PATIENCE_MS = 120_000  # the first job may download its model
LOADED_MS = 60_000  # for a page on a machine that is busy with other tests, where 6 s were measured
expect.set_options(timeout=LOADED_MS)  # by default 5 s, in which a page is not always loaded again

WATCH_SCRIPT = """
window.violations = [];
window.phases = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective}: ${event.blockedURI}`);
});
new MutationObserver(() => {
  const words = document.getElementById("job-phase")?.textContent;
  if (words && words !== window.phases.at(-1)) window.phases.push(words);
}).observe(document, { subtree: true, childList: true, characterData: true });
"""
# Why a page cannot be used: what it says, what it has fetched, and when.
STATE_SCRIPT = """
() => ({
  words: ["model-about", "connection", "jobs-error"].map((id) => document.getElementById(id)?.textContent),
  fetched: performance.getEntriesByType("resource").slice(-12).map((each) =>
    [new URL(each.name).pathname, Math.round(each.startTime), Math.round(each.duration), each.responseStatus]),
  now: Math.round(performance.now()),
})
"""
DROP_SCRIPT = """
([base64, name, type]) => {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name, { type }));
  const zone = document.getElementById("drop-zone");
  for (const kind of ["dragenter", "dragover", "drop"]) {
    zone.dispatchEvent(new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true }));
  }
}
"""
# The background, lines and keys of the piano roll are nearly gray; notes are not.
COLORED_PIXELS_SCRIPT = """
(canvas) => {
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
  let colored = 0;
  for (let n = 0; n < data.length; n += 4) {
    const channels = [data[n], data[n + 1], data[n + 2]];
    if (Math.max(...channels) - Math.min(...channels) > 40) colored += 1;
  }
  return colored;
}
"""


def find_browser() -> str | None:
    """Return the path of an installed Chromium, or None."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


@contextmanager
def launch(executable: str) -> Iterator[Browser]:
    """Run a headless browser without background traffic."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


class ServicePage:
    """One tab on the service, with its errors and warnings."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url.rstrip("/")
        self.complaints: list[str] = []
        page.add_init_script(WATCH_SCRIPT)
        page.on("console", self._listen)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _listen(self, message: ConsoleMessage) -> None:
        # Chromium drops all connections when an address of the machine changes, as when a container starts.
        if message.type in ("error", "warning") and "net::ERR_NETWORK_CHANGED" not in message.text:
            self.complaints.append(message.text)

    def open(self, address: str = "#/") -> None:
        """Load the page from the server, even if it is open."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.url}/{address}", timeout=LOADED_MS)
        try:
            self.page.locator("#model:enabled").wait_for(state="attached", timeout=LOADED_MS)
        except TimeoutError as error:
            state = self.page.evaluate(STATE_SCRIPT)
            raise AssertionError(f"No model can be chosen. {state} {self.complaints}") from error

    def drop(self, name: str, content: bytes, content_type: str) -> None:
        """Drop a file on the zone."""
        encoded = base64.b64encode(content).decode()
        self.page.evaluate(DROP_SCRIPT, [encoded, name, content_type])

    def transcribe(self, recording: Path) -> str:
        """Drop a recording, wait for its notes, and return the job's id."""
        self.drop(recording.name, recording.read_bytes(), "audio/flac")
        self.note_count.wait_for(timeout=PATIENCE_MS)
        return self.page.evaluate("location.hash").removeprefix("#/t/")  # type: ignore[no-any-return]

    @property
    def note_count(self) -> Locator:
        """The number of notes, visible with the piano roll."""
        return self.page.locator("#note-count:visible")

    def row(self, job_id: str) -> Locator:
        """Return a job's row in the list."""
        return self.page.locator(f"#jobs a[href='#/t/{job_id}']")

    def colored_pixels(self) -> int:
        """Return the number of pixels of the piano roll that belong to notes."""
        return int(self.page.locator(".roll-base").evaluate(COLORED_PIXELS_SCRIPT))

    def expect_color(self, *, over: float = -1, under: float = float("inf")) -> None:
        """Wait until the number of pixels that belong to notes is in range: drawing takes a frame."""
        until = time.monotonic() + PAINT_SECONDS
        while not over < (shown := self.colored_pixels()) < under:
            assert time.monotonic() < until, f"{shown} colored pixels: not over {over} and under {under}"
            self.page.wait_for_timeout(50)

    def screenshot(self, name: str) -> None:
        """Save a screenshot if MT3_SCREENSHOTS names a folder."""
        if SCREENSHOTS:
            self.page.wait_for_timeout(400)  # transitions end
            self.page.screenshot(path=str(Path(SCREENSHOTS) / f"{name}.png"))


OpenTab = Callable[..., ServicePage]
