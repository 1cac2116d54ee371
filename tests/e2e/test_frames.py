"""Three hours and 20,000 notes: what a frame costs, playing and scrolling."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright's Python package is not installed")

from playwright.sync_api import expect

from tests import servers
from tests.client import ServiceClient
from tests.e2e.pages import DESKTOP, PHONE, OpenTab, ServicePage

pytestmark = [pytest.mark.e2e, pytest.mark.browser]

SECONDS = 3 * 3600
NOTES = 20_000

COUNT_SCRIPT = """
window.drawn = 0;
for (const name of ["fillRect", "fill", "drawImage"]) {
  const original = CanvasRenderingContext2D.prototype[name];
  CanvasRenderingContext2D.prototype[name] = function (...values) {
    window.drawn += 1;
    return original.apply(this, values);
  };
}
"""
# Scrolls the roll there and back, for some frames; returns the calls that drew, and the times between frames.
SCROLL_SCRIPT = """
async ([frames, pixels]) => {
  const roll = document.querySelector(".roll-stage .roll-moving");
  const times = [];
  const nextFrame = () => new Promise((resolve) => requestAnimationFrame(resolve));
  for (let [still, seen] = [0, -1]; still < 10; still += 1) {  // what was asked for before is drawn
    if (window.drawn !== seen) [still, seen] = [0, window.drawn];
    await nextFrame();
  }
  let last = await nextFrame();
  window.drawn = 0;
  for (let n = 0; n < frames; n += 1) {
    const deltaX = n % 16 < 8 ? pixels : -pixels;
    if (pixels) roll.dispatchEvent(new WheelEvent("wheel", { deltaX, bubbles: true, cancelable: true }));
    const now = await nextFrame();
    times.push(now - last);
    last = now;
  }
  return { drawn: window.drawn, times };
}
"""
PIXELS_SCRIPT = """
(canvas) => {
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
  const before = window.pixels;
  window.pixels = data;
  if (!before) return null;
  let changed = 0;
  for (let n = 0; n < data.length; n += 4) {
    if ([0, 1, 2].some((c) => Math.abs(data[n + c] - before[n + c]) > 24)) changed += 1;
  }
  return (4 * changed) / data.length;
}
"""


@pytest.fixture(scope="module")
def job_id(service: Any, bach: Any) -> str:
    return str(ServiceClient(service.url).transcribe(bach)["id"])


def many_notes() -> dict[str, Any]:
    chance = random.Random(7)
    notes = []
    for _ in range(NOTES):
        onset = chance.random() * (SECONDS - 2)
        note = {"onset": onset, "offset": onset + chance.choice([0.3, 0.5, 1.5]), "pitch": chance.randint(30, 90)}
        notes.append(
            note | {"velocity": chance.randint(20, 120), "program": chance.choice([0, 24, 40]), "is_drum": False}
        )
    beats = [n / 2 for n in range(2 * SECONDS)]
    grid = {"beats": beats, "downbeats": beats[::4], "meter": "4/4", "tempo_bpm": 120.0, "key": "C major"}
    return {"format": "mt3-infer/notes", "version": 2, "duration": float(SECONDS), "notes": notes} | grid


def open_many(open_tab: OpenTab, job_id: str, **options: Any) -> ServicePage:
    body = json.dumps(many_notes())
    tab = open_tab(**options)
    tab.page.route("**/artifacts/notes.json*", lambda route: route.fulfill(body=body))
    with tab.page.expect_response(re.compile("artifacts/peaks")):  # the waveform: all is drawn again
        tab.page.goto(f"{tab.url}/#/t/{job_id}")
    expect(tab.note_count).to_have_text("20,000 notes")
    return tab


def zoom_out(tab: ServicePage) -> None:
    """Show two of the three hours."""
    for key in ("0", "+"):
        tab.page.get_by_role("application").press(key)


def test_scroll_draws_only_what_comes_into_view(open_tab: OpenTab, job_id: str) -> None:
    tab = open_many(open_tab, job_id, script=COUNT_SCRIPT, device_scale_factor=2)
    zoom_out(tab)
    found = tab.page.evaluate(SCROLL_SCRIPT, [16, 21])
    assert found["drawn"] < 16 * NOTES / 20, "of 13,000 notes in view"

    canvas = tab.page.locator(".roll-base")
    tab.page.evaluate(SCROLL_SCRIPT, [6, 21])
    canvas.evaluate(PIXELS_SCRIPT)
    for color in ("velocity", "instrument"):  # draws all of it anew
        tab.page.evaluate("window.drawn = 0")
        tab.page.get_by_label("Color the notes by").select_option(color)
        servers.wait_until(lambda: tab.page.evaluate("window.drawn") > NOTES / 2, what="all notes")
    assert canvas.evaluate(PIXELS_SCRIPT) < 0.002, "as if it were drawn anew"


@pytest.mark.soak
@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({"viewport": DESKTOP, "device_scale_factor": 2}, 20),
        ({"viewport": PHONE, "device_scale_factor": 3, "has_touch": True, "is_mobile": True}, 33.4),
    ],
    ids=["laptop", "phone"],
)
def test_frames_are_short(open_tab: OpenTab, job_id: str, options: dict[str, Any], limit: float) -> None:
    tab = open_many(open_tab, job_id, **options)
    tab.page.get_by_role("button", name="Play").click()
    expect(tab.page.locator("#time")).to_have_text("0:01 / 3:00:00")
    found = {"playing": (240, 0), "playing and scrolling": (240, 40)}
    times = {name: tab.page.evaluate(SCROLL_SCRIPT, list(how))["times"] for name, how in found.items()}
    zoom_out(tab)
    times["scrolling over two hours"] = tab.page.evaluate(SCROLL_SCRIPT, [240, 40])["times"]
    for name, each in times.items():
        each.sort()
        p95 = each[round(0.95 * len(each))]
        print(f"{name}: 95 of 100 frames within {p95:.1f} ms")
        assert p95 <= limit, name
