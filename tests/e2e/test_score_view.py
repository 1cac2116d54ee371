"""The score on the page: engraved, follows the playhead, transposed, printed alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright's Python package is not installed")

from playwright.sync_api import Locator, expect

from tests.e2e.pages import PATIENCE_MS, OpenTab, ServicePage

pytestmark = [pytest.mark.e2e, pytest.mark.browser]

COUNTED_SCRIPT = """
async (image) => [...new DOMParser().parseFromString(
  (await (await fetch(image.src)).text()).replace(/<style[^]*?<.style>/g, ""), "image/svg+xml",
).querySelectorAll(".keyAccid, .measure")].map((each) => each.classList[0])
"""


def open_score(tab: ServicePage) -> Locator:
    tab.page.get_by_text("Score", exact=True).click()
    pages = tab.page.get_by_role("img", name="Score, page")
    pages.first.wait_for(timeout=PATIENCE_MS)
    return pages


def test_score_follows_the_playhead_and_seeks(open_tab: OpenTab, bach: Path) -> None:
    tab = open_tab()
    tab.transcribe(bach)
    page = open_score(tab).first
    cursor = tab.page.locator(".score-cursor")
    tab.page.get_by_role("button", name="Play").click()
    first = cursor.bounding_box()
    assert first
    expect(tab.page.locator("#time")).to_have_text(re.compile("0:0[5-6]"), timeout=10_000)
    later = cursor.bounding_box()
    assert later
    assert (later["y"], later["x"]) > (first["y"], first["x"]), "it moved on"
    tab.page.get_by_role("button", name="Pause").click()
    box = page.bounding_box()
    assert box
    page.click(position={"x": first["x"] + 5 - box["x"], "y": first["y"] + 20 - box["y"]})
    expect(tab.page.locator("#time")).to_have_text(re.compile("0:00"))
    tab.screenshot("score")


def test_score_is_transposed_and_printed_alone(open_tab: OpenTab, bach: Path) -> None:
    tab = open_tab(bypass_csp=True)  # the test reads the pictures
    tab.transcribe(bach)
    concert = open_score(tab).first.evaluate(COUNTED_SCRIPT)
    tab.page.get_by_label("Written for").select_option("b_flat")
    expect(tab.page.locator(".score-status")).to_have_text("", timeout=PATIENCE_MS)
    pages = tab.page.get_by_role("img", name="Score, page")
    transposed = pages.first.evaluate(COUNTED_SCRIPT)
    assert concert.count("measure") == transposed.count("measure") > 5
    assert concert.count("keyAccid") != transposed.count("keyAccid")

    tab.page.evaluate("window.print = () => { window.printed = true; }")
    tab.page.get_by_role("button", name="Print").click()
    assert tab.page.evaluate("window.printed")
    paper = tab.page.pdf(format="A4", prefer_css_page_size=True)
    assert len(re.findall(rb"/Type /Page\b", paper)) == pages.count()
    tab.page.emulate_media(media="print")
    for part in (".top", ".library", ".job-head", ".roll-tools", ".listen", ".score-tools", ".score-cursor"):
        expect(tab.page.locator(part)).to_be_hidden()
    expect(pages.first).to_be_visible()
    tab.page.emulate_media(media="screen")

    with tab.page.expect_download(timeout=PATIENCE_MS) as download:
        tab.page.get_by_role("button", name="PDF", exact=True).click()
    assert download.value.suggested_filename == "bach_piano.score.pdf"
    assert download.value.path().read_bytes().startswith(b"%PDF")


def test_a_score_without_instruments_asks_for_one(open_tab: OpenTab, bach: Path) -> None:
    tab = open_tab()
    tab.transcribe(bach)
    notes = [{"onset": n, "offset": n + 1, "pitch": 60, "velocity": 80, "program": 40 * n} for n in range(2)]
    body = {"format": "mt3-infer/notes", "version": 2, "duration": 8.0, "notes": notes}
    tab.page.route("**/artifacts/notes.json*", lambda route: route.fulfill(json=body))
    tab.page.reload()
    expect(tab.note_count).to_have_text("2 notes")
    open_score(tab)
    boxes = tab.page.get_by_role("group", name="Instruments of the score").get_by_role("checkbox")
    for box in boxes.all():
        box.uncheck()
    expect(tab.page.locator(".score-status")).to_have_text("Choose at least one instrument.")
    expect(tab.page.get_by_role("img", name="Score, page")).to_have_count(0)
    boxes.first.check()
    tab.page.get_by_role("img", name="Score, page").first.wait_for(timeout=PATIENCE_MS)
