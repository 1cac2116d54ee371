"""Everybody can use the page: axe-core finds nothing, fingers hit every target, nothing scrolls sideways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright's Python package is not installed")

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.client import ServiceClient
from tests.e2e.pages import PATIENCE_MS, PHONE, OpenTab

pytestmark = [pytest.mark.e2e, pytest.mark.browser]

LEAST_TARGET = 44  # CSS pixels
TARGETS_SCRIPT = """
(least) => [...document.querySelectorAll("#job button, #job select, #job a, #job input, #job label, #job summary")]
  .filter((each) => each.checkVisibility({ visibilityProperty: true }) && !each.closest("dialog"))
  .filter((each) => !each.matches(".visually-hidden") && !(each.matches("input") && each.closest("label")))
  .map((each) => [each.outerHTML.slice(0, 100), each.getBoundingClientRect()])
  .filter(([, box]) => box.height < least - 0.5 || box.width < least - 0.5)
  .map(([html, box]) => `${html}: ${box.width} x ${box.height}`)
"""
NAMES_SCRIPT = """
() => [...document.querySelectorAll("#job button, #job select, #job input")]
  .filter((each) => each.checkVisibility())
  .map((each) => each.getAttribute("aria-label") ?? each.labels?.[0]?.textContent ?? each.textContent)
"""

# What has the focus.
FOCUSED_SCRIPT = """
() => {
  const each = document.activeElement;
  const words = [each.id, each.getAttribute("aria-label"), each.labels?.[0]?.textContent, each.textContent];
  return words.filter(Boolean).map((word) => word.trim()).join(" ") + (each.closest("#jobs") ? " jobs" : "");
}
"""


@pytest.fixture(scope="module")
def job_id(service: Any, bach: Path) -> str:
    return str(ServiceClient(service.url).transcribe(bach)["id"])


def violations(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {node['html'][:160]}" for each in found for node in each["nodes"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(open_tab: OpenTab, job_id: str, scheme: str) -> None:
    tab = open_tab(color_scheme=scheme, reduced_motion="reduce", bypass_csp=True)
    assert violations(tab.page) == []
    tab.page.goto(f"{tab.url}/#/t/{job_id}")
    tab.note_count.wait_for()
    tab.page.get_by_text("Both", exact=True).click()
    tab.page.get_by_role("button", name="Loop", exact=True).click()
    tab.page.get_by_role("button", name="Edit notes").click()
    tab.page.get_by_role("application").press("n")
    assert violations(tab.page) == []
    tab.page.get_by_role("application").press("?")
    assert violations(tab.page) == []
    tab.page.keyboard.press("Escape")
    tab.page.get_by_text("Score", exact=True).click()
    tab.page.get_by_role("img", name="Score, page").first.wait_for(timeout=PATIENCE_MS)
    assert violations(tab.page) == []


def test_controls_of_a_result_are_large_and_in_view(open_tab: OpenTab, job_id: str) -> None:
    tab = open_tab()
    tab.page.goto(f"{tab.url}/#/t/{job_id}")
    tab.note_count.wait_for()
    tab.page.get_by_role("button", name="Edit notes").click()
    tab.page.evaluate("document.querySelector('.practice').open = true")
    for width, height in ((320, 640), (390, 844), (844, 390), (1360, 860), (2560, 1300)):
        tab.page.set_viewport_size({"width": width, "height": height})
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.page.evaluate(TARGETS_SCRIPT, LEAST_TARGET) == [], width
    names = [" ".join(str(name).split()) for name in tab.page.evaluate(NAMES_SCRIPT)]
    assert sorted(set(names)) == sorted(names), "one name for each control"
    assert all(names)


def test_phone_held_sideways_gives_its_screen_to_the_roll(open_tab: OpenTab, job_id: str) -> None:
    tab = open_tab(viewport={"width": PHONE["height"], "height": PHONE["width"]}, has_touch=True)
    tab.page.goto(f"{tab.url}/#/t/{job_id}")
    tab.note_count.wait_for()
    box = tab.page.locator(".roll-stage").bounding_box()
    assert box
    assert box["height"] > 0.8 * PHONE["width"]
    assert box["width"] >= 0.97 * PHONE["height"]


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_nothing_moves_where_motion_is_reduced(open_tab: OpenTab, motion: str) -> None:
    tab = open_tab(reduced_motion=motion)
    moving = tab.page.evaluate("document.getAnimations().filter((each) => each.playState === 'running').length")
    assert (moving == 0) == (motion == "reduce")


def test_first_view_and_a_result_are_operated_by_keyboard_alone(open_tab: OpenTab, job_id: str) -> None:
    tab = open_tab()
    reached: list[str] = []
    for _ in range(60):
        tab.page.keyboard.press("Tab")
        reached.append(tab.page.evaluate(FOCUSED_SCRIPT))
    for name in ("file-input", "model", "Record", "Address of a recording", "Search names", "State", "jobs"):
        assert any(name in each for each in reached), (name, reached)

    tab.page.goto(f"{tab.url}/#/t/{job_id}")
    tab.note_count.wait_for()
    tab.page.locator("#play").focus()
    tab.page.keyboard.press("Enter")
    expect(tab.page.get_by_role("button", name="Pause")).to_be_visible()
    reached = []
    for _ in range(30):
        tab.page.keyboard.press("Tab")
        reached.append(tab.page.evaluate(FOCUSED_SCRIPT))
    for name in ("Volume", "Speed", "Loop", "Piano roll:", "Position", "Edit notes", "Zoom in", "Export MIDI"):
        assert any(name in each for each in reached), (name, reached)
