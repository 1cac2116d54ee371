"""Listening on the page: recording and notes in step, loops, speed, clicks, and the roll."""

from __future__ import annotations

import re
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

pytest.importorskip("playwright.sync_api", reason="playwright's Python package is not installed")

from playwright.sync_api import Position, Request, expect

from tests import servers
from tests.client import ServiceClient
from tests.e2e.listening import APART, TAP_SCRIPT, notes_at_clicks, steps_between, write_clicks
from tests.e2e.pages import OpenTab, ServicePage

pytestmark = [pytest.mark.e2e, pytest.mark.browser]

SECONDS = 180
STEP = 0.020  # seconds that a note may be off
GAP = 0.010  # seconds that the rhythm may pause at the end of a loop


@pytest.fixture(scope="module")
def clicks(service: servers.Service, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the id of a job whose recording has a click every half second."""
    path = write_clicks(tmp_path_factory.mktemp("clicks") / "clicks.wav", SECONDS)
    return str(ServiceClient(service.url).transcribe(path)["id"])


def open_clicks(open_tab: OpenTab, job_id: str, **options: Any) -> ServicePage:
    """Open a job, with notes that are the clicks of its recording."""
    tab = open_tab(**{"script": TAP_SCRIPT, "bypass_csp": True} | options)
    tab.page.route("**/artifacts/notes.json*", lambda route: route.fulfill(json=notes_at_clicks(SECONDS)))
    tab.page.goto(f"{tab.url}/#/t/{job_id}")
    tab.note_count.wait_for()
    return tab


def seek(tab: ServicePage, seconds: float) -> None:
    overview = tab.page.get_by_role("slider", name="Position")
    box = overview.bounding_box()
    assert box
    overview.click(position={"x": box["width"] * seconds / SECONDS, "y": 10})


def onsets(tab: ServicePage, seconds: float) -> dict[str, list[float]]:
    """Return the onsets of the next seconds."""
    tab.page.evaluate("onsets.recording.length = onsets.notes.length = 0")
    tab.page.wait_for_timeout(1000 * seconds)
    return tab.page.evaluate("onsets")  # type: ignore[no-any-return]


def test_notes_are_in_step_with_the_recording(open_tab: OpenTab, clicks: str) -> None:
    tab = open_clicks(open_tab, clicks)
    tab.page.get_by_text("Both", exact=True).click()
    tab.page.get_by_role("button", name="Play").click()
    expect(tab.page.locator("#time")).to_have_text("0:01 / 3:00")
    tab.page.evaluate("listenForOnsets()")
    for speed in ("100", "70"):
        tab.page.get_by_label("Speed").select_option(speed)
        for start in (20, 170):
            seek(tab, start)
            found = onsets(tab, 4)
            assert len(found["recording"]) > 4
            assert len(found["notes"]) > 4
            steps = steps_between(found)[1:]  # the first note may belong to a click before the measurement
            assert np.abs(steps).max() < STEP, (speed, start, steps)


def test_sources_are_switched_at_the_same_spot(open_tab: OpenTab, clicks: str) -> None:
    tab = open_clicks(open_tab, clicks)
    tab.page.get_by_role("button", name="Play").click()
    expect(tab.page.locator("#time")).to_have_text("0:01 / 3:00")
    before = tab.page.evaluate("taps.recording.mediaElement.currentTime")
    began = tab.page.evaluate("performance.now()")
    for name in ("Transcription", "Original", "Both"):
        tab.page.get_by_text(name, exact=True).click()
        expect(tab.page.get_by_role("radio", name=name)).to_be_checked()
    after = tab.page.evaluate("taps.recording.mediaElement.currentTime")
    took = (tab.page.evaluate("performance.now()") - began) / 1000
    assert after - before == pytest.approx(took, abs=0.15), "the recording went on without a gap"
    fader = tab.page.get_by_role("slider", name="Balance")
    fader.fill("0.9")
    expect(fader).to_have_value("0.9")
    tab.page.get_by_role("slider", name="Volume").fill("0.3")


def test_a_loop_of_bars_is_repeated(open_tab: OpenTab, clicks: str) -> None:
    tab = open_clicks(open_tab, clicks)
    tab.page.get_by_label("Speed").select_option("70")
    seek(tab, 30)
    loop = tab.page.get_by_role("button", name="Loop", exact=True)
    loop.click()
    first, last = (tab.page.get_by_role("spinbutton", name=name) for name in ("Loop from bar", "Loop to bar"))
    expect(first).to_have_value("11")
    expect(last).to_have_value("14")
    last.fill("11")
    last.press("Tab")
    tab.page.get_by_role("button", name="Play").click()
    place = tab.page.locator(".place")
    for _ in range(2):
        expect(place).to_have_text("bar 11, beat 3", timeout=8000)
        expect(place).to_have_text("bar 11, beat 1", timeout=8000)
    loop.click()
    expect(place).to_have_text(re.compile("bar 12"), timeout=8000)


def test_ends_of_a_loop_are_set_by_keys_at_the_playhead(open_tab: OpenTab, clicks: str) -> None:
    tab = open_clicks(open_tab, clicks)
    seek(tab, 30)
    roll, place = tab.page.get_by_role("application"), tab.page.locator(".place")
    roll.press("[")
    roll.press("Space")
    expect(place).to_have_text("bar 11, beat 2")
    roll.press("]")
    expect(place).to_have_text("bar 11, beat 1")
    roll.press("Space")
    seek(tab, 30)
    for key in ("ArrowRight", "]"):
        roll.press(key)
    expect(place).to_have_text("bar 11, beat 2")
    roll.press("Space")
    expect(place).to_have_text("bar 11, beat 1")


@pytest.mark.parametrize("speed", [100, 70])
def test_a_loop_of_bars_has_no_gap(open_tab: OpenTab, clicks: str, speed: int) -> None:
    tab = open_clicks(open_tab, clicks)
    tab.page.get_by_label("Speed").select_option(str(speed))
    seek(tab, 30)
    tab.page.get_by_role("button", name="Loop", exact=True).click()
    last = tab.page.get_by_role("spinbutton", name="Loop to bar")
    last.fill("11")
    last.press("Tab")
    tab.page.get_by_role("button", name="Play").click()
    expect(tab.page.locator(".place")).to_have_text("bar 11, beat 2")
    tab.page.evaluate("listenToOutput()")
    found = onsets(tab, 7 * 100 / speed)
    assert len(found["notes"]) > 10, "two ends of the loop were reached"
    assert tab.page.evaluate("window.silence") <= GAP
    apart = np.diff(found["recording"]) - APART * 100 / speed
    assert np.abs(apart).max() < (GAP if speed == 100 else STEP), apart
    steps = steps_between(found)[1:]
    assert np.abs(steps).max() < STEP, steps


def test_recording_streams_and_its_waveform_is_shown(open_tab: OpenTab, clicks: str) -> None:
    tab = open_tab()
    asked: list[str | None] = []

    def keep(request: Request) -> None:
        if request.url.endswith("/audio?redirect=false"):
            asked.append(request.headers.get("range"))

    tab.page.on("request", keep)
    tab.page.route("**/artifacts/notes.json*", lambda route: route.fulfill(json=notes_at_clicks(SECONDS)))
    with tab.page.expect_response(re.compile("artifacts/peaks")):
        tab.page.goto(f"{tab.url}/#/t/{clicks}")
    seek(tab, 170)
    tab.page.get_by_role("button", name="Play").click()
    expect(tab.page.locator("#time")).to_have_text("2:51 / 3:00")
    assert any(range and not range.startswith("bytes=0-") for range in asked), asked


def test_sounds_of_the_instruments_are_loaded_when_notes_are_played(
    open_tab: OpenTab, client: ServiceClient, bach: Path
) -> None:
    tab = open_tab()
    job_id = tab.transcribe(bach)
    assert not any("sounds" in artifact["name"] for artifact in client.job(job_id)["artifacts"])
    with tab.page.expect_response(re.compile("artifacts/sounds")):
        tab.page.get_by_text("Transcription", exact=True).click()
    (name,) = (a["name"] for a in client.job(job_id)["artifacts"] if "sounds" in a["name"])
    with zipfile.ZipFile(BytesIO(client.artifact(client.job(job_id), name))) as archive:
        assert "index.json" in archive.namelist()


def test_count_in_and_clicks(open_tab: OpenTab, clicks: str) -> None:
    watch = """
    window.clicks = [];
    const start = OscillatorNode.prototype.start;
    OscillatorNode.prototype.start = function (at) {
      window.clicks.push([at, this.frequency.value]);
      start.call(this, at);
    };
    """
    tab = open_clicks(open_tab, clicks, script=TAP_SCRIPT + watch)
    tab.page.get_by_role("button", name="Count-in").click()
    tab.page.get_by_role("button", name="Click", exact=True).click()
    tab.page.get_by_role("button", name="Play").click()
    expect(tab.page.locator("#time")).to_have_text("0:01 / 3:00", timeout=8000)
    heard = np.array(tab.page.evaluate("window.clicks"))
    assert np.diff(heard[:4, 0]) == pytest.approx([1, 1, 1], abs=0.06), "a bar of three, then the first beat"
    assert (heard[:4, 1] > 1500).tolist() == [True, False, False, True]


def test_zoomed_view_follows_the_playhead(open_tab: OpenTab, clicks: str) -> None:
    tab = open_clicks(open_tab, clicks)
    tab.page.get_by_role("button", name="Zoom in").click()
    tab.page.get_by_role("button", name="Zoom in").click()
    seek(tab, 120)
    tab.page.get_by_role("button", name="Zoom in").click()
    tab.page.get_by_role("button", name="Play").click()
    expect(tab.page.locator("#time")).to_have_text(re.compile("2:0[2-3] / 3:00"))
    red = """(canvas) => {
      const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
      copy.drawImage(canvas, 0, 0);
      const { data } = copy.getImageData(0, canvas.height / 2, canvas.width, 1);
      for (let x = 0; x < canvas.width; x += 1) {
        if (data[4 * x] > 180 && data[4 * x + 3] > 200) return x / canvas.width;
      }
      return null;
    }"""
    roll = tab.page.locator(".roll-stage .roll-moving")
    place = servers.wait_until(lambda: roll.evaluate(red), seconds=5, what="the playhead in view")
    assert 0.04 < place < 0.98


def test_keyboard_seeks_by_beats_and_picks_notes(open_tab: OpenTab, clicks: str) -> None:
    tab = open_clicks(open_tab, clicks)
    roll = tab.page.get_by_role("application")
    place = tab.page.locator(".place")
    roll.press("ArrowRight")
    expect(place).to_have_text("bar 1, beat 2")
    roll.press("Shift+ArrowRight")
    expect(place).to_have_text("bar 2, beat 2")
    roll.press("ArrowLeft")
    expect(place).to_have_text("bar 2, beat 1")
    roll.press("n")
    card = tab.page.get_by_role("status", name="Selected note")
    expect(card).to_contain_text("C6acoustic grand piano · at 0:03.00 · bar 2, beat 1")
    expect(card).to_contain_text("velocity 127")
    roll.press("Escape")
    expect(card).to_be_hidden()
    roll.press("?")
    expect(tab.page.get_by_role("dialog", name="Keys on the piano roll")).to_be_visible()


@pytest.mark.parametrize("touch", [False, True], ids=["mouse", "touch"])
def test_a_tap_on_a_note_describes_it(open_tab: OpenTab, bach: Path, touch: bool) -> None:
    tab = open_tab(has_touch=touch)
    notes = [
        {
            "onset": 0.0,
            "offset": 3.9,
            "pitch": 60,
            "velocity": 64,
            "program": 40,
            "is_drum": False,
            "confidence": 0.42,
        }
    ]
    body = notes_at_clicks(4) | {"notes": notes}
    tab.page.route("**/artifacts/notes.json*", lambda route: route.fulfill(json=body))
    tab.transcribe(bach)
    stage = tab.page.locator(".roll-stage")
    box = stage.bounding_box()
    assert box
    card = tab.page.get_by_role("status", name="Selected note")
    rows = 26
    for row in range(rows):
        point: Position = {"x": box["width"] / 2, "y": 44 + (box["height"] - 44) * (row + 0.5) / rows}
        if touch:
            stage.tap(position=point)
        else:
            stage.click(position=point)
        if card.is_visible():
            break
    expect(card).to_contain_text("C4")
    expect(card).to_contain_text("violin")
    expect(card).to_contain_text("confidence 42 %")


def test_instruments_are_heard_alone_and_colored(open_tab: OpenTab, bach: Path) -> None:
    tab = open_tab()
    body = notes_at_clicks(8)
    for number, note in enumerate(body["notes"]):
        note["program"] = (0, 40)[number % 2]
    tab.page.route("**/artifacts/notes.json*", lambda route: route.fulfill(json=body))
    tab.transcribe(bach)
    tab.expect_color(over=100)
    both = tab.colored_pixels()
    tab.page.get_by_role("button", name="Only Violin").click()
    tab.expect_color(under=both * 0.8)
    expect(tab.page.get_by_role("button", name="Only Violin")).to_have_attribute("aria-pressed", "true")
    tab.page.get_by_role("button", name="Only Violin").click()
    tab.expect_color(over=both * 0.9)
    tab.page.get_by_label("Color the notes by").select_option("velocity")
    tab.expect_color(over=100)


def test_a_format_that_the_browser_cannot_play_is_played_from_a_copy(
    open_tab: OpenTab, client: ServiceClient, bach: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bach.aiff"
    with av.open(str(bach)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream("pcm_s16be", rate=source.streams.audio[0].rate)
        for frame in source.decode(audio=0):
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    job_id = client.transcribe(path)["id"]
    tab = open_tab()
    with tab.page.expect_response(re.compile("artifacts/recording")):
        tab.page.goto(f"{tab.url}/#/t/{job_id}")
    original = tab.page.get_by_role("radio", name="Original")
    expect(original).to_be_checked(timeout=20_000)
    expect(original).to_be_enabled()
    tab.page.get_by_role("button", name="Play").click()
    expect(tab.page.locator("#time")).to_have_text(re.compile("0:0[1-3] / 0:24"), timeout=20_000)


def test_notes_play_alone_where_there_is_no_recording(open_tab: OpenTab, bach: Path) -> None:
    tab = open_tab(allow_network_errors=True)
    gone = {"type": "about:blank", "title": "Gone", "status": 410, "detail": "Gone.", "code": "object_missing"}
    tab.page.route("**/audio?redirect=false", lambda route: route.fulfill(status=410, json=gone))
    tab.page.route("**/exports", lambda route: route.fulfill(status=410, json=gone))
    tab.transcribe(bach)
    expect(tab.page.get_by_role("radio", name="Original")).to_be_disabled()
    expect(tab.page.get_by_role("radio", name="Transcription")).to_be_checked()
    tab.page.get_by_role("button", name="Play").click()
    expect(tab.page.locator("#time")).to_have_text(re.compile("0:0[1-3] / 0:24"))
