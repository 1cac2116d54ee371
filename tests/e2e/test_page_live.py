"""A job while it runs, and two results of one recording."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright's Python package is not installed")

from playwright.sync_api import Route, expect

from tests.client import ServiceClient
from tests.e2e.pages import PATIENCE_MS, OpenTab, ServicePage

pytestmark = [pytest.mark.e2e, pytest.mark.browser]

# Runs a job's states through the words for its time left: (ms, seconds done, estimate, hint) each.
TIME_SCRIPT = """
async (states) => {
  const { TimeLeft } = await import("/static/js/time_left.js");
  const timeLeft = new TimeLeft();
  return states.map(([now, done, eta, hint]) => timeLeft.words({
    id: "a", status: "processing", phase: "transcribing", hint,
    progress: { audio_seconds_done: done, audio_seconds_total: 1000, fraction: done / 1000, eta_seconds: eta },
  }, now));
}
"""

HIDING_SCRIPT = """
let hidden = false;
Object.defineProperty(document, "hidden", { get: () => hidden });
window.hide = (value) => { hidden = value; document.dispatchEvent(new Event("visibilitychange")); };
const opened = [];
window.EventSource = class extends EventSource { constructor(...given) { super(...given); opened.push(this); } };
window.streams = () => opened.map((each) => [each.url, each.readyState === 2 ? "closed" : "open"]);
"""


def note(number: int, onset: float, pitch: int) -> dict[str, Any]:
    return {
        **{"id": number, "onset": onset, "offset": onset + 1, "pitch": pitch, "velocity": 90},
        **{"program": 0, "is_drum": False, "confidence": None},
    }


def open_running(open_tab: OpenTab, client: ServiceClient, recording: Path, **options: Any) -> ServicePage:
    """Open a tab that believes that a job is running; it is not shown yet."""
    job = client.transcribe(recording)
    progress = {"audio_seconds_done": 12.3, "audio_seconds_total": 24.5, "fraction": 0.5, "eta_seconds": 5}
    job |= {"status": "processing", "phase": "transcribing", "progress": progress}
    job |= {"finished_at": None, "artifacts": []}
    tab = open_tab(allow_network_errors=True, **options)
    tab.page.route(re.compile(f"/v1/transcriptions/{job['id']}$"), lambda route: route.fulfill(json=job))
    tab.page.evaluate(f"window.running = {json.dumps(job['id'])}")
    return tab


def show(tab: ServicePage) -> None:
    tab.page.evaluate("location.hash = `#/t/${window.running}`")


def test_notes_appear_and_are_withdrawn_while_the_job_runs(
    open_tab: OpenTab, client: ServiceClient, bach: Path
) -> None:
    tab = open_running(open_tab, client, bach)
    events = [
        ("notes", {"notes": [note(1, 0, 60), note(2, 4, 64), note(3, 9, 67)]}),
        ("notes_withdrawn", {"ids": [2]}),
    ]
    text = "".join(
        f"id: {n}\nevent: {kind}\ndata: {json.dumps(data)}\n\n" for n, (kind, data) in enumerate(events)
    )
    tab.page.route("**/events", lambda route: route.fulfill(content_type="text/event-stream", body=text))
    show(tab)
    expect(tab.page.get_by_text("2 notes found so far")).to_be_visible()
    drawn = (
        "(canvas) => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean)"
    )
    assert tab.page.locator(".live-canvas").evaluate(drawn)
    tab.screenshot("live")


def test_hidden_tab_keeps_no_connection(open_tab: OpenTab, client: ServiceClient, bach: Path) -> None:
    tab = open_running(open_tab, client, bach, script=HIDING_SCRIPT)
    event = f"id: 7-1\nevent: notes\ndata: {json.dumps({'notes': [note(1, 0, 60)]})}\n\n"
    tab.page.route("**/events*", lambda route: route.fulfill(content_type="text/event-stream", body=event))
    show(tab)
    expect(tab.page.get_by_text("1 note found so far")).to_be_visible()
    tab.page.evaluate("hide(true)")
    assert [state for _, state in tab.page.evaluate("streams()")] == ["closed"]
    tab.page.evaluate("hide(false)")
    first, second = tab.page.evaluate("streams()")
    assert (first[1], second[0].rpartition("/")[2]) == ("closed", "events?after=7-1"), "it goes on where it was"


def test_notes_are_polled_where_there_is_no_stream(open_tab: OpenTab, client: ServiceClient, bach: Path) -> None:
    tab = open_running(open_tab, client, bach)
    pages = {
        "0": {"notes": [note(1, 0, 60), note(2, 1, 61)], "withdrawn": [], "cursor": "1", "complete": False},
        "1": {"notes": [note(4, 2, 62), note(5, 3, 62)], "withdrawn": [1], "cursor": "2", "complete": True},
    }

    def answer(route: Route) -> None:
        route.fulfill(json=pages[route.request.url.rpartition("after=")[2]])

    tab.page.route("**/events", lambda route: route.fulfill(status=503, json={"detail": "Too many."}))
    tab.page.route("**/notes?after=*", answer)
    show(tab)
    expect(tab.page.get_by_text("3 notes found so far")).to_be_visible()


def test_stream_of_a_real_job_has_its_notes(open_tab: OpenTab, client: ServiceClient, bach: Path) -> None:
    job_id = client.submit(bach).json["id"]
    tab = open_tab(allow_network_errors=True)

    def delay_the_end(route: Route) -> None:
        job = client.job(job_id)
        if job["status"] == "succeeded":
            job |= {"status": "processing", "phase": "transcribing", "finished_at": None, "artifacts": []}
        route.fulfill(json=job)

    tab.page.route(re.compile(f"/v1/transcriptions/{job_id}$"), delay_the_end)
    tab.open(f"#/t/{job_id}")
    count = client.wait(job_id)["note_count"]
    expect(tab.page.locator(".live-words")).to_have_text(f"{count} notes found so far", timeout=PATIENCE_MS)


def test_reason_for_waiting_is_shown(open_tab: OpenTab, client: ServiceClient, bach: Path) -> None:
    tab = open_tab()
    job = client.transcribe(bach)
    hint = "No worker is running: the transcription goes on as soon as one is started."
    job |= {"status": "queued", "hint": hint, "finished_at": None, "artifacts": [], "queue": {"position": 1}}
    tab.page.route(re.compile(f"/v1/transcriptions/{job['id']}$"), lambda route: route.fulfill(json=job))
    tab.open(f"#/t/{job['id']}")
    expect(tab.page.locator("#job-phase")).to_have_text(hint)


def test_time_left_does_not_grow_because_short_jobs_pass_by(open_tab: OpenTab) -> None:
    page = open_tab().page
    steady = [[1000 * n, 10 * n, 100 - n, None] for n in range(5)]
    words = page.evaluate(TIME_SCRIPT, steady)
    assert words[0] == "about 2 min left"
    assert words[-1] == "about 2 min left · 10× the speed of the music"
    paused = [
        [1000 * n, 50, 95 + 30 * n, "Paused: shorter recordings are transcribed first."] for n in range(5, 15)
    ]
    words = page.evaluate(TIME_SCRIPT, [*steady, *paused, [15_000, 50, 95, None]])
    assert words[5:15] == [""] * 10, "the phase names the pause"
    assert words[15].startswith("about 2 min left")
    bump = [[5000, 50, 400, None], [6000, 60, 94, None]]
    assert all(w.startswith("about 2 min") for w in page.evaluate(TIME_SCRIPT, [*steady, *bump]))
    slower = [[1000 * n, 50, 400, None] for n in range(5, 25)]
    assert page.evaluate(TIME_SCRIPT, [*steady, *slower])[-1].startswith("about 7 min left")


def test_words_say_what_is_downloaded(open_tab: OpenTab) -> None:
    tab = open_tab()

    def words(phase: str, done: int, total: int, *, waiting: bool = False) -> str:
        download = {"bytes_done": done, "bytes_total": total, "bytes_per_second": 0, "waiting": waiting}
        job = {"status": "processing", "phase": phase, "progress": {"download": download}}
        script = "async (job) => (await import('/static/js/format.js')).phaseWords(job)"
        return str(tab.page.evaluate(script, job)).replace("\N{NO-BREAK SPACE}", " ")

    assert words("fetching_source", 0, 0) == "Fetching the recording…"
    assert words("fetching_source", 200_000_000, 0) == "Fetching the recording: 200 MB"
    assert words("fetching_source", 200_000_000, 800_000_000) == "Fetching the recording: 200 MB of 800 MB"
    assert words("fetching_checkpoint", 0, 0) == "Downloading the model…"
    assert words("fetching_checkpoint", 200_000_000, 800_000_000) == "Downloading the model: 200 MB of 800 MB"
    assert words("fetching_checkpoint", 1, 8_000_000, waiting=True).startswith("Another worker is downloading")


def test_recording_is_transcribed_again_and_results_are_compared(
    open_tab: OpenTab, client: ServiceClient, bach: Path
) -> None:
    tab = open_tab(allow_network_errors=True)  # one request is refused
    first = tab.transcribe(bach)

    bodies: list[dict[str, Any]] = []

    def change(route: Route) -> None:
        if route.request.method != "POST":
            return route.fallback()
        bodies.append(json.loads(route.request.post_data or ""))
        # The weights of other models are not available in tests.
        changes = {"model": "basic_pitch", "options": bodies[-1]["options"] | {"onset_threshold": 0.95}}
        return route.continue_(post_data=json.dumps(bodies[-1] | changes))

    tab.page.route(re.compile("/v1/transcriptions$"), change)
    tab.page.get_by_role("button", name="Transcribe again with…").first.click()
    dialog = tab.page.get_by_role("dialog", name="Transcribe again")
    expect(dialog.get_by_label("Model").locator("optgroup")).not_to_have_count(0)
    tab.screenshot("again")
    dialog.get_by_label("Model").select_option("Basic Pitch, as before")
    expect(dialog.locator(".again-about")).to_contain_text("Apache-2.0")
    dialog.get_by_label("What do you hear?").fill("kazoo")
    dialog.get_by_role("button", name="Transcribe", exact=True).click()
    expect(dialog.get_by_role("alert")).to_contain_text("'kazoo' is not an instrument")
    dialog.get_by_label("What do you hear?").fill("violin")
    dialog.get_by_role("button", name="Transcribe", exact=True).click()
    expect(tab.page).not_to_have_url(re.compile(first))
    assert (bodies[-1]["model"], bodies[-1]["options"]) == ("basic_pitch", {"single_instrument": "violin"})
    expect(tab.page.locator("#job-status")).to_have_text("Done", timeout=PATIENCE_MS)
    tab.note_count.wait_for()

    second = tab.page.evaluate("location.hash").removeprefix("#/t/")
    counts = [client.job(job_id)["note_count"] for job_id in (second, first)]
    tab.page.get_by_label("Compare with").select_option(first)
    lines = tab.page.locator(".compare-words")
    expect(lines).to_have_text([re.compile(r"^Basic Pitch: \d+ notes? in both, \d+ notes? only here")] * 2)
    found = [[int(n) for n in re.findall(r"(\d+) notes?", text)] for text in lines.all_inner_texts()]
    assert [sum(each) for each in found] == counts
    assert found[0][0] == found[1][0] > 0
    assert found[1][1] > 0
    tab.page.get_by_label("Compare with").scroll_into_view_if_needed()
    tab.screenshot("compare")
    tab.page.get_by_label("Compare with").select_option("")
    expect(lines.first).to_be_hidden()
