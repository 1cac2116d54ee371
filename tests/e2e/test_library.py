"""Finding transcriptions again: search, names, groups, deletion; and the choice of a model."""

from __future__ import annotations

import json
import re
import wave
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("playwright.sync_api", reason="playwright's Python package is not installed")

from playwright.sync_api import FilePayload, Locator, Route, expect

from tests import servers
from tests.client import ServiceClient
from tests.e2e.pages import PATIENCE_MS, OpenTab, ServicePage

pytestmark = [pytest.mark.e2e, pytest.mark.browser]

UNDO_MS = 12_000  # a deletion can be undone for 8 s


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a recording of four tones."""
    path = tmp_path_factory.mktemp("clips") / "clip.wav"
    times = np.arange(22_050) / 44_100
    tones = [np.sin(2 * np.pi * hertz * times) * np.exp(-2 * times) for hertz in (262, 330, 392, 523)]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(44_100)
        file.writeframes((20_000 * np.concatenate(tones)).astype("<i2").tobytes())
    return path


@pytest.fixture(scope="module")
def named(service: servers.Service, clip: Path) -> dict[str, str]:
    """Three finished jobs by name, of which two were dropped together, and one that failed."""
    client = ServiceClient(service.url)
    group = json.dumps({"group": "drop-of-two"})
    jobs = {}
    for name, fields in (
        ("zither.wav", {}),
        ("alphorn 10.wav", {"metadata": group}),
        ("alphorn 9.wav", {"metadata": group}),
    ):
        jobs[name] = client.submit(clip.read_bytes(), name=name, **fields).json["id"]
    jobs["broken.wav"] = client.submit(b"RIFF0000WAVE" + b"\x00" * 500, name="broken.wav").json["id"]
    for name, job_id in jobs.items():
        assert client.wait(job_id)["status"] == ("failed" if name == "broken.wav" else "succeeded")
    return jobs


def names(tab: ServicePage) -> Locator:
    return tab.page.locator("#jobs .row-name")


def test_list_is_searched_filtered_and_sorted(open_tab: OpenTab, named: dict[str, str]) -> None:
    tab = open_tab()
    tab.page.get_by_role("searchbox", name="Search names").fill("ALPHORN")
    expect(names(tab)).to_have_text(["alphorn 9.wav", "alphorn 10.wav"])
    tab.page.get_by_label("Order").select_option("oldest")
    expect(names(tab)).to_have_text(["alphorn 10.wav", "alphorn 9.wav"])
    tab.page.get_by_label("Order").select_option("name")
    expect(names(tab)).to_have_text(["alphorn 9.wav", "alphorn 10.wav"])
    tab.page.get_by_label("Date").select_option("1")
    expect(names(tab)).to_have_count(2)
    tab.page.get_by_label("State").select_option("failed")
    expect(tab.page.get_by_text("No transcription fits the search.")).to_be_visible()
    tab.page.get_by_role("searchbox", name="Search names").fill("broken")
    reason = tab.row(named["broken.wav"]).locator(".row-reason")
    expect(reason).to_contain_text(ServiceClient(tab.url).job(named["broken.wav"])["error"]["detail"])


def test_recordings_of_one_drop_are_a_group(open_tab: OpenTab, named: dict[str, str]) -> None:
    tab = open_tab()
    tab.page.get_by_role("searchbox", name="Search names").fill(".wav")
    tab.page.get_by_role("button", name="2 recordings dropped together").click()
    tab.page.get_by_role("searchbox", name="Search names").fill("")
    expect(names(tab)).to_have_text(["alphorn 9.wav", "alphorn 10.wav"])
    with tab.page.expect_download() as download:
        tab.page.get_by_role("link", name="Download these (zip)").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert {name for name in archive.namelist() if name.endswith(".mid")} == {
            "alphorn 9.mid",
            "alphorn 10.mid",
        }
    tab.page.get_by_role("button", name="Show all recordings").click()
    expect(tab.row(named["zither.wav"])).to_be_visible()


def test_name_is_changed_in_place(open_tab: OpenTab, named: dict[str, str]) -> None:
    tab = open_tab()
    tab.open(f"#/t/{named['zither.wav']}")
    tab.page.get_by_role("button", name="Rename").click()
    field = tab.page.get_by_role("textbox", name="Name of the transcription")
    field.press("Escape")
    expect(tab.page.get_by_role("button", name="Rename")).to_be_focused()
    for name in ("Zither <b>solo.wav", "zither.wav"):
        tab.page.get_by_role("button", name="Rename").press("Enter")
        field.fill(name)
        field.press("Enter")
        expect(tab.page.get_by_role("heading", level=1)).to_have_text(name)
        expect(tab.row(named["zither.wav"])).to_contain_text(name)
        assert ServiceClient(tab.url).job(named["zither.wav"])["filename"] == name


def test_result_shows_how_long_it_is_kept_and_a_friend_cannot_change_it(
    open_tab: OpenTab, named: dict[str, str]
) -> None:
    tab = open_tab()
    tab.open(f"#/t/{named['zither.wav']}")
    expect(tab.page.get_by_text("Kept until")).to_be_visible()
    client = ServiceClient(tab.url)
    share = client.call(
        "POST", f"/v1/transcriptions/{named['zither.wav']}/shares", data=b"{}", Content_Type="application/json"
    )
    friend = open_tab(allow_network_errors=True)
    friend.page.goto(tab.url + share.json["url"])
    friend.note_count.wait_for()
    for name in ("Rename", "Transcribe again with…", "Delete"):
        expect(friend.page.get_by_role("button", name=name, exact=True)).to_have_count(0)
    friend.screenshot("shared")


def test_deletion_can_be_undone(open_tab: OpenTab, clip: Path) -> None:
    tab = open_tab(allow_network_errors=True)
    client = ServiceClient(tab.url)
    kept, deleted = (client.transcribe(clip.read_bytes(), name=f"delete {n}.wav")["id"] for n in (1, 2))
    tab.open(f"#/t/{kept}")
    tab.page.get_by_role("button", name="Delete").click()
    expect(tab.row(kept)).to_have_count(0)
    tab.page.get_by_role("button", name="Undo").click()
    tab.note_count.wait_for()
    expect(tab.row(kept)).to_have_count(1)

    tab.open(f"#/t/{deleted}")
    with tab.page.expect_request(lambda request: request.method == "DELETE", timeout=UNDO_MS) as request:
        tab.page.get_by_role("button", name="Delete").click()
        expect(tab.page.locator("#home")).to_be_visible()
        assert client.get(f"/v1/transcriptions/{deleted}").status == 200
    response = request.value.response()
    assert response
    assert response.status == 204
    expect(tab.page.get_by_role("button", name="Undo")).to_have_count(0)
    assert client.get(f"/v1/transcriptions/{kept}").status == 200
    tab.open(f"#/t/{deleted}")
    expect(tab.page.get_by_role("heading", level=1)).to_have_text("Transcription not found")


def test_closed_tab_deletes_what_it_announced_as_deleted(open_tab: OpenTab, clip: Path) -> None:
    tab = open_tab()
    client = ServiceClient(tab.url)
    job_id = client.transcribe(clip.read_bytes(), name="closed.wav")["id"]
    tab.open(f"#/t/{job_id}")
    tab.page.get_by_role("button", name="Delete").click()
    tab.page.goto("about:blank")
    servers.wait_until(lambda: client.get(f"/v1/transcriptions/{job_id}").status == 404, what="the deletion")


def test_model_is_chosen_by_what_is_in_the_recording(open_tab: OpenTab) -> None:
    tab = open_tab()
    for words, model in (
        ("Piano", "transkun"),
        ("A singer or one instrument", "basic_pitch"),
        ("A band, orchestra or choir: several instruments", "mt3_pytorch"),
    ):
        tab.page.get_by_role("radio", name=words).check()
        expect(tab.page.locator("#model")).to_have_value(model)
        expect(tab.page.locator("#model-about")).to_contain_text("icense:")
    tab.page.locator("#model").select_option("mr_mt3")
    expect(tab.page.get_by_role("radio", name="A band")).to_be_checked()
    # Another test may have fetched it: the page says what the API says.
    is_installed = ServiceClient(tab.url).get("/v1/models/transkun").json["installed"]
    expect(tab.page.get_by_role("radio", name="Piano")).to_have_accessible_name(
        re.compile("installed" if is_installed else "56.4.MB to download first")
    )


def notes(count: int, voices: int, program: int = 0) -> dict[str, Any]:
    found = [
        {
            "onset": n / 2,
            "offset": n / 2 + 0.4,
            "pitch": 40 + 4 * voice,
            "velocity": 80,
            "program": program,
            "is_drum": False,
        }
        for n in range(count)
        for voice in range(voices)
    ]
    return {"format": "mt3-infer/notes", "version": 1, "duration": 60.0, "notes": found}


@pytest.mark.parametrize(
    ("model", "body", "hint"),
    [
        ("basic_pitch", notes(100, 8), "Many notes sound at once for one instrument"),
        ("basic_pitch", notes(100, 3), None),
        ("transkun", notes(3, 1), "Few notes were found"),
        ("transkun", notes(100, 8), None),
        ("mt3_pytorch", notes(100, 4), "Only piano was found"),
        ("mt3_pytorch", notes(100, 4, program=40), None),
    ],
)
def test_result_that_looks_wrong_for_its_model_has_a_hint(
    open_tab: OpenTab, named: dict[str, str], model: str, body: dict[str, Any], hint: str | None
) -> None:
    tab = open_tab()
    job_id = named["zither.wav"]
    job = ServiceClient(tab.url).job(job_id) | {"model": model}

    def answer(route: Route) -> None:
        route.fulfill(json=job)

    tab.page.route(re.compile(f"/v1/transcriptions/{job_id}$"), answer)
    tab.page.route("**/artifacts/notes.json*", lambda route: route.fulfill(json=body))
    tab.open(f"#/t/{job_id}")
    tab.note_count.wait_for()
    shown = tab.page.locator("#doubt")
    if hint is None:
        expect(shown).to_be_hidden()
        return
    expect(shown).to_contain_text(hint)
    shown.get_by_role("button", name="Transcribe again with…").click()
    expect(tab.page.get_by_role("dialog", name="Transcribe again")).to_be_visible()
    expect(tab.page.get_by_label("Model", exact=True).locator("visible=true")).not_to_have_value(model)


PAGE_NOTIFIES = """
window.shown = [];
window.Notification = class extends EventTarget {
  static permission = "default";
  static async requestPermission() { return (Notification.permission = "granted"); }
  constructor(title, { body }) { super(); window.shown.push([title, body]); }
};
"""
ONLY_WORKERS_NOTIFY = """
window.shown = [];
const granted = async () => "granted";
window.Notification = new Proxy(Notification, {
  construct() { throw new TypeError("Illegal constructor."); },
  get: (target, name) => ({ permission: "granted", requestPermission: granted })[name] ?? target[name],
});
const { prototype } = window.ServiceWorkerRegistration ?? { prototype: {} };
prototype.showNotification = async function (title, { body, data }) {
  if (this.active && data.address.includes("#/t/")) window.shown.push([title, body]);
};
"""


@pytest.mark.parametrize("script", [PAGE_NOTIFIES, ONLY_WORKERS_NOTIFY], ids=["of the page", "of a worker"])
def test_notification_is_shown_when_a_job_ends(open_tab: OpenTab, named: dict[str, str], script: str) -> None:
    tab = open_tab(script=script)
    job_id = named["zither.wav"]
    done = ServiceClient(tab.url).job(job_id)
    running = done | {"status": "processing", "phase": "transcribing", "finished_at": None, "artifacts": []}
    tab.page.clock.install()
    answers = {"job": running}
    tab.page.route(re.compile(f"/v1/transcriptions/{job_id}$"), lambda route: route.fulfill(json=answers["job"]))
    tab.open(f"#/t/{job_id}")
    tab.page.get_by_role("button", name="Notify me when it is done").click()
    expect(tab.page.get_by_role("button", name="You will be notified")).to_be_visible()
    answers["job"] = done
    tab.page.clock.fast_forward(6000)
    expect(tab.page.locator("#notify")).to_be_hidden()
    servers.wait_until(lambda: tab.page.evaluate("window.shown.length"), what="the notification")
    assert tab.page.evaluate("window.shown") == [["zither.wav", "Done"]]


def test_several_files_have_one_summary_and_wrong_ones_are_refused_at_once(open_tab: OpenTab, clip: Path) -> None:
    tab = open_tab()
    sent: list[str] = []
    tab.page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    good = [FilePayload(name=f"sum {n}.wav", mimeType="audio/wav", buffer=clip.read_bytes()) for n in (1, 2, 3)]
    wrong = {
        "score.pdf": (b"%PDF-1.7\n" + b"\x80" * 100, "This is a PDF document"),
        "words.mp3": ("Grüße, es ist nur Text. ".encode() * 99, "This is a text file"),
        "nothing.wav": (b"", "The file is empty"),
    }
    bad = [FilePayload(name=name, mimeType="audio/wav", buffer=content) for name, (content, _) in wrong.items()]
    tab.page.locator("#file-input").set_input_files(good + bad)
    for name, (_, words) in wrong.items():
        row = tab.page.locator("#uploads li", has_text=name)
        expect(row.locator(".upload-words")).to_contain_text(words)
        expect(row.get_by_role("button", name="Try again")).to_have_count(0)
    expect(tab.page.locator("#uploads-summary")).to_have_text(
        "3 recordings uploaded. 3 could not be uploaded: see below.", timeout=PATIENCE_MS
    )
    assert len([url for url in sent if url.endswith("/v1/transcriptions")]) == 3
    tab.screenshot("summary")
