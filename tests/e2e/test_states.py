"""The states of the page beside a result: axe-core finds nothing, fingers hit every target, all of it fits."""

from __future__ import annotations

import re
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright's Python package is not installed")

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import FilePayload, Page, expect

from tests.client import ServiceClient
from tests.e2e.pages import DESKTOP, PHONE, OpenTab

pytestmark = [pytest.mark.e2e, pytest.mark.browser]

LEAST_TARGET = 44  # CSS pixels
NARROW = {"width": 320, "height": 640}
TARGETS_SCRIPT = """
(least) => [...document.querySelectorAll("button, select, input, a, summary, .purpose")]
  .filter((each) => each.checkVisibility({ visibilityProperty: true }) && !each.matches(".visually-hidden, .skip"))
  .filter((each) => !(each.matches("input") && each.closest("label")))
  .map((each) => [each.outerHTML.slice(0, 100), each.getBoundingClientRect()])
  .filter(([, box]) => box.height < least - 0.5 || box.width < least - 0.5)
  .map(([html, box]) => `${html}: ${box.width} x ${box.height}`)
"""


@pytest.fixture(scope="module")
def job_id(service: Any, bach: Any) -> str:
    client = ServiceClient(service.url)
    client.submit(b"RIFF0000WAVE" + bytes(500), name="a recording with a rather long name that does not work.wav")
    return str(client.transcribe(bach)["id"])


def check(page: Page) -> None:
    found = Axe().run(page).response["violations"]
    assert [f"{each['id']}: {node['html'][:160]}" for each in found for node in each["nodes"]] == []
    assert page.evaluate(TARGETS_SCRIPT, LEAST_TARGET) == []
    width = page.viewport_size
    assert width
    assert page.evaluate("document.documentElement.scrollWidth") <= width["width"]


@pytest.mark.parametrize(
    ("size", "scheme"),
    [(NARROW, "light"), (PHONE, "dark"), (DESKTOP, "light"), (DESKTOP, "dark")],
    ids=["narrow", "phone-dark", "desktop", "desktop-dark"],
)
def test_states_of_the_page_are_usable_by_everybody(
    open_tab: OpenTab, job_id: str, size: dict[str, int], scheme: str
) -> None:
    tab = open_tab(viewport=size, color_scheme=scheme, reduced_motion="reduce", bypass_csp=True)
    page = tab.page
    wrong = FilePayload(name="a score that is not a recording.pdf", mimeType="audio/wav", buffer=b"%PDF-1.7")
    page.locator("#file-input").set_input_files([wrong, wrong])
    expect(page.locator("#uploads .failed")).to_have_count(2)
    check(page)

    tab.open(f"#/t/{job_id}")
    tab.note_count.wait_for()
    page.get_by_text("Correct the beats").click()
    page.get_by_role("button", name="Rename").click()
    check(page)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Transcribe again with…").first.click()
    check(page)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Share", exact=True).click()
    link = page.get_by_role("textbox", name="Link")
    expect(link).to_have_value(re.compile("/s/"))
    check(page)
    address = link.input_value()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Undo").wait_for()
    check(page)
    page.get_by_role("button", name="Undo").click()
    page.goto(address)
    tab.note_count.wait_for()
    check(page)
