"""The page in a real browser, on the whole service."""

from __future__ import annotations

import json
import random
import re
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright's Python package is not installed")

from playwright.sync_api import FilePayload, Route, expect

from tests.client import ServiceClient
from tests.e2e.pages import DESKTOP, PATIENCE_MS, PHONE, OpenTab

pytestmark = [pytest.mark.e2e, pytest.mark.browser]


def test_dropped_recording_becomes_notes_and_midi(open_tab: OpenTab, bach: Path) -> None:
    tab = open_tab()
    job_id = tab.transcribe(bach)

    expect(tab.page.locator("#job-status")).to_have_text("Done")
    phases = tab.page.evaluate("window.phases")
    assert phases, "no progress was shown"
    assert "undefined" not in " ".join(phases)

    with tab.page.expect_download() as midi:
        tab.page.get_by_role("link", name="Download MIDI").click()
    assert midi.value.suggested_filename == "bach_piano.mid"
    assert midi.value.path().read_bytes().startswith(b"MThd")

    with tab.page.expect_download() as notes:
        tab.page.get_by_role("link", name="notes.json").click()
    count = len(json.loads(notes.value.path().read_bytes())["notes"])
    assert count > 100
    expect(tab.note_count).to_have_text(f"{count} notes")
    tab.expect_color(over=2000)
    expect(tab.row(job_id)).to_contain_text(f"{count} notes")
    tab.screenshot("done")


def test_reloaded_page_shows_the_same_jobs_and_notes(open_tab: OpenTab, bach: Path) -> None:
    tab = open_tab()
    job_id = tab.transcribe(bach)

    tab.open(f"#/t/{job_id}")
    tab.note_count.wait_for()
    tab.expect_color(over=2000)

    tab.open()
    expect(tab.row(job_id)).to_contain_text("bach_piano.flac")
    expect(tab.row(job_id)).to_contain_text("Done")
    tab.row(job_id).click()
    tab.note_count.wait_for()


def test_text_file_is_rejected_with_a_message(open_tab: OpenTab) -> None:
    tab = open_tab(allow_network_errors=True)
    tab.drop("shopping.txt", b"milk, eggs, a violin\n" * 20, "text/plain")

    problem = tab.page.locator("#uploads .failed .upload-words, #job-problem:visible")
    problem.wait_for(timeout=PATIENCE_MS)
    words = problem.inner_text()
    assert len(words.split()) > 3
    assert not re.search(r"[{}<>]|Traceback|Error\b|0x", words)
    assert tab.page.get_by_role("button", name="Try again").count() == 0, "the same file fails in the same way"
    tab.screenshot("rejected")


def test_several_files_are_uploaded_at_once(open_tab: OpenTab, bach: Path) -> None:
    tab = open_tab()
    before = tab.page.locator("#jobs li").count()
    content = bach.read_bytes()
    files = [FilePayload(name=f"part {n}.flac", mimeType="audio/flac", buffer=content) for n in (1, 2, 3)]
    tab.page.locator("#file-input").set_input_files(files)

    expect(tab.page.locator("#jobs li")).to_have_count(before + 3)
    expect(tab.page.locator("#uploads li")).to_have_count(0)
    for n in (1, 2, 3):
        row = tab.page.locator("#jobs a", has_text=f"part {n}.flac").first
        expect(row.locator(".chip")).to_have_text("Done", timeout=PATIENCE_MS)
    expect(tab.page.get_by_role("heading", level=1)).to_contain_text("Drop a recording")


def test_changed_options_are_sent_with_the_upload(open_tab: OpenTab, bach: Path) -> None:
    tab = open_tab()
    tab.page.locator("#model").select_option("basic_pitch")
    tab.page.get_by_text("Options", exact=True).click()
    slider = tab.page.get_by_role("slider", name="Onset threshold")
    field = tab.page.get_by_role("spinbutton", name="Onset threshold")
    expect(field).to_have_value("0.6")
    slider.fill("0")
    expect(field).to_have_value(field.get_attribute("min") or "")
    field.fill("0.8")
    assert int(slider.input_value()) > 500
    tab.screenshot("options")

    tab.transcribe(bach)
    expect(tab.page.locator(".job-meta")).to_contain_text("onset threshold 0.8")
    expect(tab.page.locator(".job-meta")).not_to_contain_text("frame threshold")


def test_checked_instruments_are_sent_with_the_upload(open_tab: OpenTab, bach: Path) -> None:
    tab = open_tab(allow_network_errors=True)
    sent: list[str] = []

    def refuse(route: Route) -> None:
        if route.request.method != "POST":
            return route.fallback()
        sent.append((route.request.post_data_buffer or b"").decode("latin-1"))
        problem = {"type": "about:blank", "title": "No", "status": 422, "detail": "Not today.", "code": "no"}
        return route.fulfill(status=422, content_type="application/problem+json", body=json.dumps(problem))

    # The weights of MT3 are not available in tests: the request is inspected and rejected.
    tab.page.route(re.compile("/v1/transcriptions$"), refuse)
    tab.page.locator("#model").select_option("mt3_pytorch")
    tab.page.get_by_text("Options", exact=True).click()
    tab.page.get_by_label("Piano", exact=True).check()
    tab.page.get_by_label("Bass", exact=True).check()
    tab.screenshot("instruments")
    tab.page.get_by_role("button", name="Reset to defaults").click()
    expect(tab.page.get_by_label("Bass", exact=True)).not_to_be_checked()
    tab.page.get_by_label("Bass", exact=True).check()
    tab.page.locator("input[type=file]").set_input_files(bach)
    expect(tab.page.get_by_text("Not today.", exact=True)).to_be_visible()
    expect(tab.page.get_by_role("button", name="Try again")).to_have_count(0)  # it would fail in the same way
    assert '{"instruments":["bass"]}' in sent[0]


def test_single_instrument_is_suggested_and_given_to_every_note(open_tab: OpenTab, bach: Path) -> None:
    tab = open_tab()
    tab.page.locator("#model").select_option("basic_pitch")
    field = tab.page.get_by_label("What do you hear? (optional)", exact=True)
    suggestions = tab.page.locator(f"#{field.get_attribute('list')} option")
    expect(suggestions).to_have_count(128)
    field.fill(" violin ")
    tab.transcribe(bach)
    expect(tab.page.locator(".job-meta")).to_contain_text("single instrument violin")


def test_variants_of_a_model_are_grouped(open_tab: OpenTab) -> None:
    choice = open_tab().page.locator("#model")
    expect(choice.locator("> option")).to_have_text(["Basic Pitch", "MT3", "MR-MT3", "YourMT3+", "Transkun"])
    expect(choice.locator("> optgroup")).to_have_attribute("label", "Variants of YourMT3+")
    expect(choice.locator("> optgroup > option")).to_have_count(4)


def test_title_of_the_model_appears_even_if_models_load_late(open_tab: OpenTab, bach: Path) -> None:
    tab = open_tab()
    job_id = tab.transcribe(bach)

    def answer_late(route: Route) -> None:
        tab.note_count.wait_for()
        route.fallback()

    tab.page.route("**/v1/models", answer_late)
    tab.open(f"#/t/{job_id}")
    expect(tab.page.locator(".job-meta")).to_contain_text("Basic Pitch · 0:24")


def test_progress_is_shown_as_text_and_as_a_bar(open_tab: OpenTab, bach: Path) -> None:
    tab = open_tab()
    job_id = tab.transcribe(bach)

    job = tab.page.request.get(f"{tab.url}/v1/transcriptions/{job_id}").json()
    progress = {"audio_seconds_done": 12.3, "audio_seconds_total": 24.5, "fraction": 0.5, "eta_seconds": 5}
    job |= {"status": "processing", "phase": "transcribing", "progress": progress}
    job |= {"finished_at": None, "artifacts": []}

    tab.page.route(f"**/v1/transcriptions/{job_id}", lambda route: route.fulfill(json=job))
    tab.open(f"#/t/{job_id}")
    expect(tab.page.locator("#job-phase")).to_have_text("Transcribing 0:12 of 0:24")
    expect(tab.page.get_by_text("about 5 s left")).to_be_visible()
    expect(tab.page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "50")
    expect(tab.page.get_by_role("button", name="Cancel")).to_be_visible()
    tab.screenshot("working")

    download = {"bytes_done": 45e6, "bytes_total": 183.7e6, "bytes_per_second": 11.5e6, "eta_seconds": 12.1}
    fetching = dict.fromkeys(progress) | {"download": download | {"waiting": True}}
    job |= {"phase": "fetching_checkpoint", "progress": fetching}
    tab.open(f"#/t/{job_id}")
    expect(tab.page.locator("#job-phase")).to_have_text(
        "Another worker is downloading the model: 45.0 MB of 184 MB, 11.5 MB/s"
    )
    expect(tab.page.get_by_text("about 13 s left")).to_be_visible()

    tab.page.unroute(f"**/v1/transcriptions/{job_id}")
    tab.note_count.wait_for()  # without a reload


def test_page_reconnects_when_the_service_is_back(open_tab: OpenTab) -> None:
    tab = open_tab(allow_network_errors=True)
    tab.page.route("**/v1/**", lambda route: route.abort())
    tab.page.reload()
    expect(tab.page.get_by_text("Reconnecting…")).to_be_visible()
    tab.page.unroute("**/v1/**")
    expect(tab.page.locator("#connection")).to_have_text("", timeout=20_000)
    tab.page.locator("#model:enabled").wait_for()


def test_notes_play_and_a_click_seeks(open_tab: OpenTab, bach: Path) -> None:
    tab = open_tab()
    tab.transcribe(bach)
    clock = tab.page.locator("#time")
    expect(clock).to_have_text("0:00 / 0:24")

    tab.page.get_by_role("button", name="Fit the whole recording").click()
    roll = tab.page.locator(".roll-stage")
    box = roll.bounding_box()
    assert box
    roll.click(position={"x": box["width"] / 2, "y": 10})
    expect(clock).to_have_text(re.compile(r"0:1[1-3] / 0:24"))

    tab.page.get_by_role("button", name="Play").click()
    expect(clock).to_have_text(re.compile(r"0:1[4-6] / 0:24"))
    tab.screenshot("playing")
    tab.page.get_by_role("button", name="Pause").click()
    rest = clock.inner_text()
    time.sleep(0.5)
    assert clock.inner_text() == rest


def test_note_under_the_pointer_is_described(open_tab: OpenTab, bach: Path) -> None:
    tab = open_tab()
    notes = [{"onset": 1.0, "offset": 3.0, "pitch": 69, "velocity": 90, "program": 40, "is_drum": False}]
    body = {"format": "mt3-infer/notes", "version": 1, "duration": 4.0, "provenance": {}, "notes": notes}
    tab.page.route("**/artifacts/notes.json*", lambda route: route.fulfill(json=body))
    tab.transcribe(bach)
    expect(tab.note_count).to_have_text("1 note")

    box = tab.page.locator(".roll-stage").bounding_box()
    assert box
    tip = tab.page.locator(".roll-tip")
    middle = box["x"] + box["width"] / 2
    for step in range(1, 40):
        tab.page.mouse.move(middle, box["y"] + box["height"] * step / 40)
        tab.page.wait_for_timeout(50)
        if tip.is_visible():
            break
    expect(tip).to_have_text("A4 · violin · at 0:01.00 · for 2.00 s · velocity 90")

    violin = tab.page.get_by_role("list", name="Instruments").get_by_role("button", name="Violin")
    tab.expect_color(over=100)
    shown = tab.colored_pixels()
    violin.click()
    expect(violin).to_have_attribute("aria-pressed", "false")
    tab.page.mouse.move(0, 0)
    tab.expect_color(under=shown / 2)


def test_result_without_notes_says_what_to_do_instead(
    open_tab: OpenTab, client: ServiceClient, bach: Path
) -> None:
    job_id = client.transcribe(bach)["id"]
    tab = open_tab()
    body = {"format": "mt3-infer/notes", "version": 1, "duration": 24.0, "notes": []}
    tab.page.route("**/artifacts/notes.json*", lambda route: route.fulfill(json=body))
    tab.open(f"#/t/{job_id}")
    expect(tab.page.get_by_text("No notes were found in this recording. Try another model")).to_be_visible()
    expect(tab.page.get_by_role("button", name="Transcribe again with…")).to_be_visible()
    for part in (".roll-stage", "#play", ".downloads"):
        expect(tab.page.locator(part)).to_be_hidden()


def test_fifty_thousand_notes_scroll_and_zoom(open_tab: OpenTab, bach: Path) -> None:
    chance = random.Random(7)
    notes = [
        {
            "onset": chance.random() * 3600,
            "offset": 3600.5,
            "pitch": chance.randint(30, 90),
            "velocity": chance.randint(1, 127),
            "program": chance.choice([0, 24, 33, 40, 56]),
            "is_drum": chance.random() < 0.2,
        }
        for _ in range(50_000)
    ]
    for note in notes:
        note["offset"] = float(note["onset"]) + 0.4
    tab = open_tab()
    body = json.dumps({"format": "mt3-infer/notes", "version": 1, "duration": 3601, "notes": notes})
    tab.page.route("**/artifacts/notes.json*", lambda route: route.fulfill(body=body))
    tab.transcribe(bach)
    expect(tab.note_count).to_have_text("50,000 notes")
    tab.expect_color(over=2000)

    roll = tab.page.locator(".roll-stage .roll-moving")
    roll.press("0")
    tab.expect_color(over=50_000)
    started = time.monotonic()
    for key in ("+", "ArrowRight", "+", "ArrowRight", "-", "End", "0", "+", "Home", "0"):
        roll.press(key)
    assert time.monotonic() - started < 15
    tab.screenshot("many-notes")


def test_empty_list_shows_a_hint(open_tab: OpenTab) -> None:
    tab = open_tab()
    nothing: dict[str, Any] = {"items": [], "next_cursor": None}
    tab.page.route("**/v1/transcriptions?*", lambda route: route.fulfill(json=nothing))
    tab.open()
    expect(tab.page.get_by_text("No transcriptions yet.")).to_be_visible()
    tab.screenshot("empty")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_page_fits_the_screen(open_tab: OpenTab, bach: Path, scheme: str, size: dict[str, int]) -> None:
    tab = open_tab(viewport=size, color_scheme=scheme, device_scale_factor=2)
    name = f"{'phone' if size is PHONE else 'desktop'}-{scheme}"
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    tab.screenshot(f"{name}-home")
    tab.transcribe(bach)
    tab.expect_color(over=2000)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    tab.screenshot(name)
