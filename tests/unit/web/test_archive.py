"""The ZIP file of many transcriptions."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from uuid import UUID

import pytest

from shared.config import Settings
from shared.db import Sessions
from shared.storage import result_prefix
from tests.access import KeyService, assert_problem, key_service

ARCHIVE = "/v1/transcriptions/archive"


@pytest.fixture
def service(settings: Settings, sessions: Sessions) -> Iterator[KeyService]:
    with key_service(settings, sessions) as running:
        yield running


def members(service: KeyService, key: str, query: str = "") -> dict[str, bytes]:
    answer = service.call(key, "GET", ARCHIVE + query)
    assert answer.status_code == 200, answer.text
    assert answer.content_type == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.data)) as zipped:
        assert zipped.testzip() is None
        return {name: zipped.read(name) for name in zipped.namelist()}


def rename(service: KeyService, key: str, job_id: str, name: str) -> None:
    answer = service.call(key, "PATCH", f"/v1/transcriptions/{job_id}", json={"name": name})
    assert answer.status_code == 200, answer.text


def test_archive_has_the_files_of_every_finished_job_of_the_owner(service: KeyService) -> None:
    key, other = service.key(), service.key()
    for _ in range(2):
        service.finished_job(key)
    rename(service, key, service.finished_job(key), "Größe/../a.b.flac")
    service.job(key)  # has no files yet
    rename(service, other, service.finished_job(other), "secret.wav")
    found = members(service, key)
    assert sorted(found) == sorted(
        [
            *("song.mid", "song.notes.json", "song (2).mid", "song.notes (2).json"),
            *("a.b.mid", "a.b.notes.json"),
        ]
    )
    assert found["song.mid"] == b"MThd"
    assert json.loads(found["song.notes.json"]) == {}


def test_archive_takes_the_filters_of_the_list(service: KeyService) -> None:
    key = service.key()
    for name in ("waltz.wav", "tango.wav"):
        rename(service, key, service.finished_job(key), name)
    group = service.submit(key, form={"metadata": '{"group": "a"}'}).json["id"]
    service.finish(group)
    assert set(members(service, key, "?q=WALTZ")) == {"waltz.mid", "waltz.notes.json"}
    assert set(members(service, key, "?metadata.group=a&files=transcription.mid")) == {"song.mid"}
    assert members(service, key, "?status=failed") == {}
    assert_problem(service.call(key, "GET", ARCHIVE + "?query=x"), 422, "invalid_request", "Unknown query")


def test_files_that_are_gone_are_left_out(service: KeyService) -> None:
    key = service.key()
    rename(service, key, service.finished_job(key), "kept.wav")
    gone = service.finished_job(key)
    service.storage.delete_prefix(result_prefix(UUID(gone), 1))
    assert set(members(service, key)) == {"kept.mid", "kept.notes.json"}


def test_archive_needs_a_key(service: KeyService) -> None:
    assert_problem(service.call(None, "GET", ARCHIVE), 401, "unauthorized")
