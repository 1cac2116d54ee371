"""The backlog on both databases: items by kind and status, seconds of audio, ages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import update

from shared.backlog import ASSUMED_BYTES_PER_SECOND, measure
from shared.db import Sessions, now_plus
from shared.kinds import Progress
from shared.tables import Job, Phase, Status
from tests.work import add_job, add_split_job, change_items, must_claim, renew


def change_job(sessions: Sessions, job_id: UUID, **values: object) -> None:
    with sessions.begin() as session:
        session.execute(update(Job).where(Job.id == job_id).values(values))


def test_empty_database_has_no_backlog(any_sessions: Sessions) -> None:
    with any_sessions() as session:
        backlog = measure(session)
    assert (backlog.items, backlog.oldest_due, backlog.oldest_job) == ({}, 0, 0)
    assert set(backlog.audio_seconds.values()) == {0}


def test_items_are_counted_by_kind_and_status(any_sessions: Sessions) -> None:
    add_split_job(any_sessions, count=3)
    add_job(any_sessions)
    must_claim(any_sessions, add_job(any_sessions))
    with any_sessions() as session:
        items = measure(session).items
    assert items == {
        ("transcribe", "succeeded"): 1,
        ("transcribe", "queued"): 1,
        ("transcribe", "processing"): 1,
        ("shard", "queued"): 3,
        ("assemble", "blocked"): 1,
    }


def test_length_of_an_unopened_recording_is_estimated_from_those_before(any_sessions: Sessions) -> None:
    add_job(any_sessions, upload_bytes=int(10 * ASSUMED_BYTES_PER_SECOND))
    with any_sessions() as session:
        assert measure(session).audio_seconds["queued"] == pytest.approx(10)
    change_job(
        any_sessions, add_job(any_sessions, upload_bytes=100), audio_seconds_total=50.0, status=Status.SUCCEEDED
    )
    with any_sessions() as session:  # 2 bytes a second; its own item is queued in this test, with a known length
        seconds = measure(session).audio_seconds["queued"]
    assert seconds == pytest.approx(5 * ASSUMED_BYTES_PER_SECOND + 50)


def test_audio_that_is_done_does_not_count(any_sessions: Sessions) -> None:
    held = must_claim(any_sessions, add_job(any_sessions))
    renew(any_sessions, held, Progress(Phase.TRANSCRIBING, audio_seconds_done=30.0, audio_seconds_total=100.0))
    with any_sessions() as session:
        seconds = measure(session).audio_seconds
    assert seconds["processing"] == pytest.approx(70)
    assert seconds["queued"] == 0


def test_ages_are_those_of_the_oldest(any_sessions: Sessions) -> None:
    for minutes in (1, 3, 2):
        job = add_job(any_sessions)
        change_job(any_sessions, job, created_at=datetime.now(UTC) - timedelta(minutes=minutes))
        change_items(any_sessions, job, run_after=now_plus(-60 * minutes + 30))
    change_items(any_sessions, add_job(any_sessions), run_after=now_plus(60))
    with any_sessions() as session:
        backlog = measure(session)
    assert backlog.oldest_job == pytest.approx(180, abs=20)
    assert backlog.oldest_due == pytest.approx(150, abs=20)
