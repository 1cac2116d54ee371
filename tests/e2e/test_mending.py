"""Notes are edited on the page, saved beside the original, and exported again."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import mido
import pytest

pytest.importorskip("playwright.sync_api", reason="playwright's Python package is not installed")

from playwright.sync_api import expect

from tests.client import ServiceClient
from tests.e2e.pages import PATIENCE_MS, OpenTab, ServicePage

pytestmark = [pytest.mark.e2e, pytest.mark.browser]

Notes = list[dict[str, Any]]
AXIS, KEYS = 44, 46  # pixels of the ruler and of the keyboard


@pytest.fixture
def job_id(client: ServiceClient, bach: Path) -> str:
    return str(client.transcribe(bach)["id"])


def open_job(open_tab: OpenTab, job_id: str, **options: Any) -> ServicePage:
    tab = open_tab(**options)
    tab.page.goto(f"{tab.url}/#/t/{job_id}")
    tab.note_count.wait_for()
    tab.page.get_by_role("button", name="Edit notes").click()
    return tab


def stored(client: ServiceClient, job_id: str, name: str) -> Notes:
    return json.loads(client.artifact(client.job(job_id), name))["notes"]  # type: ignore[no-any-return]


def saved(tab: ServicePage, client: ServiceClient, job_id: str) -> Notes:
    """Wait until the corrections are stored; return their notes."""
    expect(tab.page.locator(".mend-status")).to_have_text("Saved beside the original")
    return stored(client, job_id, "corrections.json")


def differences(before: Notes, after: Notes) -> tuple[Notes, Notes]:
    def without_confidence(notes: Notes) -> Notes:
        return [note | {"confidence": None} for note in notes]

    old, new = without_confidence(before), without_confidence(after)
    return [note for note in old if note not in new], [note for note in new if note not in old]


def test_keys_change_notes_which_are_saved_and_exported(
    open_tab: OpenTab, client: ServiceClient, job_id: str
) -> None:
    before = stored(client, job_id, "notes.json")
    tab = open_job(open_tab, job_id)
    roll = tab.page.get_by_role("application")
    roll.press("n")
    roll.press("ArrowUp")
    roll.press("Shift+ArrowUp")
    after = saved(tab, client, job_id)
    removed, added = differences(before, after)
    assert (len(removed), len(added)) == (1, 1)
    assert added == [removed[0] | {"pitch": removed[0]["pitch"] + 13}]
    assert stored(client, job_id, "notes.json") == before, "the original is untouched"

    for key in ("Shift+ArrowRight", "ArrowRight"):
        roll.press(key)
    _, (moved,) = differences(before, saved(tab, client, job_id))
    assert moved["onset"] > removed[0]["onset"]
    assert moved["offset"] - moved["onset"] > removed[0]["offset"] - removed[0]["onset"] + 0.05

    with tab.page.expect_download(timeout=PATIENCE_MS) as download:
        tab.page.get_by_role("link", name="Download MIDI").click()
    midi = mido.MidiFile(file=BytesIO(download.value.path().read_bytes()))
    pitches = sorted(m.note for track in midi.tracks for m in track if m.type == "note_on" and m.velocity)
    expected = [note["pitch"] for note in before]
    expected[expected.index(removed[0]["pitch"])] = moved["pitch"]
    assert pitches == sorted(expected)
    with tab.page.expect_download(timeout=PATIENCE_MS) as download:
        tab.page.get_by_role("link", name="notes.json").click()
    notes = json.loads(download.value.path().read_bytes())["notes"]
    assert sorted(note["pitch"] for note in notes) == pitches

    tab.page.reload()
    expect(tab.page.locator(".mend-status")).to_have_text("These notes have been corrected.")
    tab.page.get_by_role("button", name="Discard corrections").click()
    tab.page.get_by_role("dialog").get_by_role("button", name="Discard").click()
    expect(tab.page.locator(".mend-status")).to_have_text("")
    assert [a["name"] for a in client.job(job_id)["artifacts"]].count("corrections.json") == 0


def test_notes_are_deleted_and_added_and_every_step_undone(
    open_tab: OpenTab, client: ServiceClient, job_id: str
) -> None:
    before = stored(client, job_id, "notes.json")
    tab = open_job(open_tab, job_id)
    roll = tab.page.get_by_role("application")
    count = tab.note_count
    roll.press("n")
    roll.press("Delete")
    expect(count).to_have_text(f"{len(before) - 1} notes")
    roll.press("Control+z")
    expect(count).to_have_text(f"{len(before)} notes")
    roll.press("Control+y")
    expect(count).to_have_text(f"{len(before) - 1} notes")
    tab.page.get_by_role("button", name="Undo", exact=True).click()
    expect(count).to_have_text(f"{len(before)} notes")

    roll.press("a")  # a note at the beginning, a beat long
    expect(count).to_have_text(f"{len(before) + 1} notes")
    roll.press("Shift+ArrowRight")
    roll.press("Control+z")
    roll.press("Control+z")
    expect(count).to_have_text(f"{len(before)} notes")
    expect(tab.page.get_by_role("button", name="Undo", exact=True)).to_be_disabled()
    assert differences(before, saved(tab, client, job_id)) == ([], [])


def test_pointer_moves_lengthens_and_adds_notes(open_tab: OpenTab, client: ServiceClient, job_id: str) -> None:
    tab = open_job(open_tab, job_id)
    notes = [{"onset": 2.0, "offset": 4.0, "pitch": 60, "velocity": 80, "program": 40, "is_drum": False}]
    beats = [n / 2 for n in range(17)]
    body = {"format": "mt3-infer/notes", "version": 2, "duration": 8.0, "notes": notes}
    body |= {"beats": beats, "downbeats": beats[::4], "meter": "4/4", "tempo_bpm": 120.0}
    tab.page.route("**/artifacts/notes.json*", lambda route: route.fulfill(json=body))
    tab.page.reload()
    expect(tab.note_count).to_have_text("1 note")
    tab.page.get_by_role("button", name="Edit notes").click()
    tab.page.get_by_role("button", name="Fit the whole recording").click()
    stage = tab.page.locator(".roll-stage")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    assert box
    second = (box["width"] - KEYS) / 8
    row = (box["height"] - AXIS) / 27  # the pitches from 47 to 73

    def point(time: float, pitch: int) -> tuple[float, float]:
        return box["x"] + KEYS + time * second, box["y"] + AXIS + (73.5 - pitch) * row

    def drag(start: tuple[float, float], end: tuple[float, float]) -> None:
        tab.page.mouse.move(*start)
        tab.page.mouse.down()
        tab.page.mouse.move(*end, steps=5)
        tab.page.mouse.up()

    drag(point(2.5, 60), point(3.55, 62))
    (moved,) = saved(tab, client, job_id)
    assert (moved["onset"], moved["offset"], moved["pitch"]) == (3.0, 5.0, 62), "snapped to the beats"
    drag((point(5.0, 62)[0] - 3, point(5.0, 62)[1]), point(6.02, 62))
    expect(tab.page.locator(".note-card")).to_contain_text("for 3.00 s")
    tab.page.get_by_role("button", name="Add note").click()
    tab.page.mouse.click(*point(1.03, 65))
    expect(tab.note_count).to_have_text("2 notes")
    added, longer = saved(tab, client, job_id)
    assert (longer["onset"], longer["offset"]) == (3.0, 6.0)
    assert (added["onset"], added["pitch"], added["program"]) == (1.0, 65, 40)

    tab.page.get_by_role("button", name="Add note").click()
    tab.page.mouse.click(*point(4.5, 62))
    card = tab.page.locator(".note-card")
    expect(card).to_contain_text("D4")
    tab.page.get_by_role("slider", name="Position").focus()
    for _ in range(8):
        tab.page.keyboard.press("ArrowRight")  # by beats, to 4 s
    tab.page.get_by_role("button", name="Split").click()
    expect(tab.note_count).to_have_text("3 notes")
    expect(card).to_contain_text("for 1.00 s")
    tab.page.get_by_role("button", name="Join").click()
    expect(tab.note_count).to_have_text("2 notes")
    expect(card).to_contain_text("for 3.00 s")
    tab.screenshot("mending")


def test_beats_are_corrected_and_everything_follows(open_tab: OpenTab, client: ServiceClient, job_id: str) -> None:
    def stored_grid(name: str) -> dict[str, Any]:
        content = json.loads(client.artifact(client.job(job_id), name))
        return {field: content[field] for field in ("beats", "downbeats", "meter", "tempo_bpm", "key")}

    found = stored_grid("notes.json")
    tab = open_tab()
    tab.page.goto(f"{tab.url}/#/t/{job_id}")
    tab.note_count.wait_for()
    tab.page.get_by_text("Correct the beats").click()
    beats = tab.page.get_by_role("group", name="Beats")
    facts = tab.page.locator(".facts")

    beats.get_by_role("button", name="Twice as many beats").press("Enter")
    expect(facts).to_contain_text(f"{2 * found['tempo_bpm']:.0f} beats per minute")
    saved(tab, client, job_id)
    assert len(stored_grid("corrections.json")["beats"]) == 2 * len(found["beats"]) - 1

    roll = tab.page.get_by_role("application")
    roll.click(position={"x": 300, "y": AXIS / 2})  # a beat: the ruler snaps
    beats.get_by_role("button", name="One is here").click()
    expect(tab.page.locator(".place")).to_contain_text("beat 1")
    beats.get_by_label("Meter").select_option("3/4")
    expect(facts).to_contain_text("3/4 time")
    expect(tab.page.locator(".place")).to_contain_text("beat 1")

    beats.get_by_label("Tempo").fill("9000")
    beats.get_by_label("Tempo").press("Enter")
    expect(beats.get_by_role("status")).to_have_text("A tempo is a number from 10 to 400.")
    beats.get_by_label("Tempo").fill("72")
    beats.get_by_label("Tempo").press("Enter")
    expect(facts).to_contain_text("3/4 time · 72 beats per minute")
    saved(tab, client, job_id)
    with tab.page.expect_download(timeout=PATIENCE_MS) as download:
        tab.page.get_by_role("button", name="Export MIDI").click()
    midi = mido.MidiFile(file=BytesIO(download.value.path().read_bytes()))
    meters = [m for m in midi.tracks[0] if m.type == "time_signature"]
    assert (meters[-1].numerator, meters[-1].denominator) == (3, 4)
    tempos = [m.tempo for m in midi.tracks[0] if m.type == "set_tempo"]
    assert round(mido.tempo2bpm(tempos[-1])) == 72

    beats.get_by_role("button", name="Reset beats").click()
    expect(facts).to_contain_text(f"{found['tempo_bpm']:.0f} beats per minute")
    saved(tab, client, job_id)
    assert stored_grid("corrections.json") == found


def test_changes_are_saved_when_the_network_is_back(open_tab: OpenTab, client: ServiceClient, job_id: str) -> None:
    tab = open_job(open_tab, job_id, allow_network_errors=True)
    before = stored(client, job_id, "notes.json")
    dialogs: list[str] = []

    def stay(dialog: Any) -> None:
        dialogs.append(dialog.type)
        dialog.dismiss()

    tab.page.on("dialog", stay)
    tab.page.context.set_offline(True)
    roll = tab.page.get_by_role("application")
    roll.press("n")
    roll.press("ArrowUp")
    expect(tab.page.locator(".mend-status")).to_contain_text("Not saved. Cannot reach the service")
    tab.page.close(run_before_unload=True)
    roll.press("ArrowUp")
    assert dialogs == ["beforeunload"]
    tab.page.context.set_offline(False)
    after = saved(tab, client, job_id)
    removed, added = differences(before, after)
    assert added == [removed[0] | {"pitch": removed[0]["pitch"] + 2}]


def test_changes_of_another_tab_are_not_overwritten(open_tab: OpenTab, client: ServiceClient, job_id: str) -> None:
    first, second = (open_job(open_tab, job_id, allow_network_errors=True) for _ in range(2))
    for tab, keys in ((first, ("n", "ArrowUp")), (second, ("n", "n", "ArrowDown"))):
        for key in keys:
            tab.page.get_by_role("application").press(key)
        if tab is first:
            kept = saved(tab, client, job_id)
    expect(second.page.locator(".mend-status")).to_contain_text("Not saved. These notes were corrected elsewhere")
    assert stored(client, job_id, "corrections.json") == kept
