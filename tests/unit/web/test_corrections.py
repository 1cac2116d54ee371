"""Corrected notes: what is accepted, what is stored beside the original, and what exports are made from."""

from __future__ import annotations

import io
import json
from copy import deepcopy
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select
from werkzeug.test import TestResponse

import web
from mt3_infer.symbolic.grid import BeatGrid
from mt3_infer.symbolic.notes import Note
from mt3_infer.transcription import Provenance, Transcription
from shared import work
from shared.config import Settings
from shared.db import Sessions
from shared.kinds import Result
from shared.queue import InMemoryQueue
from shared.storage import ObjectStorage, make_storage, result_prefix
from shared.tables import Garbage, WorkItem
from tests.unit.web.test_api import make_client
from tests.work import must_claim

ORIGINAL = Transcription(
    [Note(0.5, 1.0, 60, 80), Note(1.0, 1.5, 64, 80, 40, confidence=0.5)],
    4.0,
    Provenance("basic_pitch", "0" * 64, "Apache-2.0", "1", "cpu", 1.0, {}, {"dropped": 1}),
    grid=BeatGrid((0.5, 1.0, 1.5), (0.5,), "3/4", 120.0, "G major"),
)


@pytest.fixture
def storage(settings: Settings) -> ObjectStorage:
    return make_storage(settings)


@pytest.fixture
def client(settings: Settings, sessions: Sessions, storage: ObjectStorage) -> FlaskClient:
    return make_client(settings, sessions=sessions, storage=storage, queue=InMemoryQueue())


@pytest.fixture
def path(client: FlaskClient, sessions: Sessions, storage: ObjectStorage) -> str:
    """Return the address of a transcription that has succeeded."""
    answer = client.post("/v1/transcriptions", data={"file": (io.BytesIO(b"RIFF"), "song.wav")})
    claim = must_claim(sessions, UUID(answer.json["id"]))
    key = result_prefix(claim.job_id, claim.attempt) + "notes.json"
    stored = storage.put(key, io.BytesIO(ORIGINAL.to_json().encode()), content_type="application/json")
    artifact = {"name": "notes.json", "content_type": "application/json", "size": stored.size}
    artifact |= {"sha256": stored.sha256, "key": key}
    with sessions.begin() as session:
        assert work.complete(session, claim, result=Result([artifact], note_count=2, audio_seconds=4.0))
    return f"/v1/transcriptions/{claim.job_id}"


def body(**changes: Any) -> dict[str, Any]:
    return json.loads(ORIGINAL.to_json()) | changes  # type: ignore[no-any-return]


def artifacts(client: FlaskClient, path: str) -> list[str]:
    return [artifact["name"] for artifact in client.get(path).json["artifacts"]]


def export(client: FlaskClient, path: str, source: str) -> TestResponse:
    return client.post(f"{path}/exports", json={"format": "csv", "source": source})


def test_corrections_are_stored_beside_the_original(client: FlaskClient, path: str) -> None:
    changed = body(duration=99.0, provenance={"model": "mine"}, warnings=[], key="D major")
    changed["notes"][0] = changed["notes"][0] | {"pitch": 61}
    changed["notes"].reverse()
    answer = client.put(f"{path}/corrections", json=changed)
    assert (answer.status_code, answer.json["name"]) == (200, "corrections.json")
    assert artifacts(client, path) == ["notes.json", "corrections.json"]
    stored = Transcription.from_json(client.get(f"{path}/artifacts/corrections.json").data)
    assert [note.pitch for note in stored.notes] == [61, 64], "in the order of a notes.json"
    assert (stored.duration, stored.key, stored.meter) == (4.0, "D major", "3/4")
    assert stored.provenance.model == "basic_pitch"
    assert stored.provenance.counters == {"dropped": 1, "notes_added": 1, "notes_removed": 1}
    assert client.get(f"{path}/artifacts/notes.json").data == ORIGINAL.to_json().encode()


def test_what_was_downloaded_is_accepted_unchanged(client: FlaskClient, path: str) -> None:
    assert client.put(f"{path}/corrections", json=body()).status_code == 200
    stored = Transcription.from_json(client.get(f"{path}/artifacts/corrections.json").data)
    assert (stored.notes, stored.grid) == (ORIGINAL.notes, ORIGINAL.grid)


def test_corrections_of_another_client_are_not_replaced(client: FlaskClient, path: str) -> None:
    def put(key: str, **headers: str) -> TestResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return client.put(f"{path}/corrections", json=body(key=key), headers=named)

    first = put("D major", If_None_Match="*")
    assert first.status_code == 200
    refused = put("E major", If_None_Match="*")
    assert (refused.status_code, refused.json["code"]) == (412, "precondition_failed")
    assert "corrected elsewhere" in refused.json["detail"]
    assert put("D major", If_None_Match="*").status_code == 200, "the same again: its response was lost"

    second = put("F major", If_Match=f'"{first.json["sha256"]}"')
    assert second.status_code == 200
    assert put("G major", If_Match=f'"{first.json["sha256"]}"').status_code == 412
    assert put("F major", If_Match=f'"{first.json["sha256"]}"').status_code == 200
    stored = Transcription.from_json(client.get(f"{path}/artifacts/corrections.json").data)
    assert stored.key == "F major"
    for headers in ({}, {"If_Match": "*"}):
        assert put("A major", **headers).status_code == 200, "any are replaced"


NOTE = {"onset": 0.5, "offset": 1.0, "pitch": 60, "velocity": 80}


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 1},
        {"format": "midi"},
        {"notes": [NOTE | {"pitch": 128}]},
        {"notes": [NOTE | {"pitch": "60"}]},
        {"notes": [NOTE | {"velocity": 0}]},
        {"notes": [NOTE | {"offset": 0.5}]},
        {"notes": [NOTE | {"onset": -1.0}]},
        {"notes": [NOTE | {"offset": 1e300}]},
        {"notes": [NOTE | {"color": "red"}]},
        {"notes": [NOTE | {"is_drum": 1}]},
        {"notes": [NOTE | {"confidence": 1.5}]},
        {"notes": {"0": NOTE}},
        {"notes": [[]]},
        {"beats": [1.0, 0.5]},
        {"downbeats": [1.0, 1.0]},
        {"meter": "3 4"},
        {"key": "H major"},
        {"tempo_bpm": -1.0},
        {"pedals": [{"onset": 1.0, "offset": 0.5}]},
        {"extra": 1},
    ],
)
def test_what_is_no_notes_json_is_refused(client: FlaskClient, path: str, changes: dict[str, Any]) -> None:
    answer = client.put(f"{path}/corrections", json=body(**changes))
    assert answer.status_code == 422, answer.text
    assert artifacts(client, path) == ["notes.json"]


def test_numbers_that_are_none_are_refused(client: FlaskClient, path: str) -> None:
    for number in ("NaN", "Infinity", "1e999"):
        text = json.dumps(body()).replace('"onset": 0.5', f'"onset": {number}')
        answer = client.put(f"{path}/corrections", data=text, content_type="application/json")
        assert answer.status_code in (400, 422), number


def test_large_json_is_refused_before_it_is_read(
    client: FlaskClient, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "MAX_JSON_BYTES", 100)
    answer = client.put(f"{path}/corrections", json=body())
    assert (answer.status_code, json.loads(answer.text)["code"]) == (413, "body_too_large")


def test_later_corrections_replace_earlier_ones_and_their_removal_restores_the_original(
    client: FlaskClient, path: str, sessions: Sessions
) -> None:
    for pitch in (61, 62):
        changed = deepcopy(body())
        changed["notes"][0]["pitch"] = pitch
        assert client.put(f"{path}/corrections", json=changed).status_code == 200
    assert artifacts(client, path) == ["notes.json", "corrections.json"]
    stored = Transcription.from_json(client.get(f"{path}/artifacts/corrections.json").data)
    assert stored.notes[0].pitch == 62
    for _ in range(2):
        assert client.delete(f"{path}/corrections").status_code == 204
    assert artifacts(client, path) == ["notes.json"]
    with sessions() as session:
        garbage = session.scalars(select(Garbage.prefix)).all()
    assert len(garbage) == 2
    assert all("/corrections/" in prefix and prefix.endswith("/") for prefix in garbage)


def test_exports_are_made_from_the_notes_that_are_named(
    client: FlaskClient, path: str, sessions: Sessions
) -> None:
    assert export(client, path, "corrected").status_code == 409
    original = export(client, path, "original").json
    assert original is not None
    made = []
    for pitch in (61, 62):
        changed = body()
        changed["notes"][0]["pitch"] = pitch
        assert client.put(f"{path}/corrections", json=changed).status_code == 200
        made += [export(client, path, "corrected").json, export(client, path, "corrected").json]
    assert [each["source"] for each in (original, *made)] == ["original", *["corrected"] * 4]
    ids = [each["id"] for each in made]
    assert (ids[0], ids[2]) == (ids[1], ids[3])
    assert len({original["id"], *ids}) == 3
    assert export(client, path, "original").json["id"] == original["id"]
    with sessions() as session:
        items = session.scalars(select(WorkItem).where(WorkItem.kind == "export").order_by(WorkItem.number)).all()
    keys = [item.input_key or "" for item in items]
    assert keys[0].endswith("/notes.json")
    assert all(key.endswith("/corrections.json") for key in keys[1:])
    assert len(set(keys)) == len({item.payload["artifact"] for item in items}) == 3


def test_only_what_has_succeeded_can_be_corrected(client: FlaskClient) -> None:
    answer = client.post("/v1/transcriptions", data={"file": (io.BytesIO(b"RIFF"), "song.wav")})
    waiting = f"/v1/transcriptions/{answer.json['id']}"
    assert client.put(f"{waiting}/corrections", json=body()).status_code == 409
    assert client.put(f"/v1/transcriptions/{UUID(int=7)}/corrections", json=body()).status_code == 404
    assert client.delete(f"/v1/transcriptions/{UUID(int=7)}/corrections").status_code == 404
