"""The stream of a job's notes: numbered, fenced, and in the end equal to the final notes."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select

from shared import jobs, note_stream, work
from shared.db import Sessions
from shared.kinds import SHARD, Claim, Result
from shared.note_stream import IDS_AT_ONCE, MOST_EVENTS, NOTES_AT_ONCE, UNPLANNED, Change, Fields, compare
from shared.tables import Job, NoteEvent, Status
from tests.work import add_job, add_split_job, complete, expire_lease, get, must_claim, rescue


def note(pitch: int, onset: float = 0.0) -> Fields:
    return {"onset": onset, "offset": onset + 1, "pitch": pitch, "velocity": 100}


def publish(sessions: Sessions, claim: Claim, change: Change) -> dict[int, Fields] | None:
    with sessions.begin() as session:
        return note_stream.publish(session, claim, change)


def read(sessions: Sessions, job_id: UUID) -> tuple[int, dict[int, Fields]]:
    with sessions() as session:
        return note_stream.read_notes(session, job_id)


def succeed(sessions: Sessions, claim: Claim, notes: Sequence[Fields], *, is_planned: bool = True) -> None:
    with sessions() as session:
        ending = note_stream.plan_ending(session, claim.job_id, notes) if is_planned else UNPLANNED
    with sessions.begin() as session:
        assert work.complete(session, claim, result=Result([], note_count=len(notes), audio_seconds=1.0))
        note_stream.end(session, claim.job_id, ending, notes)


def pitches(notes: dict[int, Fields]) -> list[int]:
    return sorted(found["pitch"] for found in notes.values())


def test_comparison_keeps_equal_notes_and_counts_duplicates() -> None:
    sent = {1: note(60), 2: note(60), 3: note(61), 4: note(62)}
    assert compare(sent, [note(60), note(62), note(63), note(63)]) == Change([1, 3], [note(63), note(63)])
    assert not compare(sent, [note(62), note(60), note(61), note(60)])


def test_what_is_published_can_be_read_from_any_number(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    claim = must_claim(any_sessions, job_id)
    first = publish(any_sessions, claim, Change([], [note(60), note(61)]))
    assert first == {1000: note(60), 1001: note(61)}
    assert publish(any_sessions, claim, Change([1000], [note(62)])) == {3000: note(62)}
    assert read(any_sessions, job_id) == (3, {1001: note(61), 3000: note(62)})
    assert get(any_sessions, job_id).notes_cursor == 3
    with any_sessions() as session:
        later = list(note_stream.read_events(session, job_id, after=1))
    assert [(event.number, event.kind) for event in later] == [(2, "notes_withdrawn"), (3, "notes")]
    assert later[0].text == '{"ids":[1000]}'


def test_many_notes_make_several_events_of_bounded_size(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    claim = must_claim(any_sessions, job_id)
    many = [note(60, float(onset)) for onset in range(IDS_AT_ONCE + 1)]
    ids = publish(any_sessions, claim, Change([], many))
    assert ids is not None
    assert get(any_sessions, job_id).notes_cursor == IDS_AT_ONCE // NOTES_AT_ONCE + 1
    assert publish(any_sessions, claim, Change(list(ids), [])) == {}
    assert read(any_sessions, job_id) == (7, {})


@pytest.mark.parametrize("end", ["rescued", "canceled", "succeeded"])
def test_attempt_that_lost_its_item_publishes_nothing(any_sessions: Sessions, end: str) -> None:
    job_id = add_job(any_sessions)
    claim = must_claim(any_sessions, job_id)
    publish(any_sessions, claim, Change([], [note(60)]))
    if end == "rescued":
        expire_lease(any_sessions, claim)
        assert rescue(any_sessions)[0]
        must_claim(any_sessions, job_id)
    elif end == "canceled":
        with any_sessions.begin() as session:
            jobs.cancel_job(session, "public", job_id)
    else:
        succeed(any_sessions, claim, [note(60)])
    assert publish(any_sessions, claim, Change([], [note(61)])) is None
    assert pitches(read(any_sessions, job_id)[1]) == [60]


def test_full_stream_takes_only_the_final_notes(any_sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_EVENTS >= 20_000
    monkeypatch.setattr(note_stream, "MOST_EVENTS", 2)
    job_id = add_job(any_sessions)
    claim = must_claim(any_sessions, job_id)
    while publish(any_sessions, claim, Change([], [note(60)])) is not None:
        pass
    assert get(any_sessions, job_id).notes_cursor == 3
    succeed(any_sessions, claim, [note(60), note(61)])
    assert pitches(read(any_sessions, job_id)[1]) == [60, 61]


def test_plan_that_became_old_is_made_again(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    claim = must_claim(any_sessions, job_id)
    with any_sessions() as session:
        old = note_stream.plan_ending(session, job_id, [note(60), note(61)])
    publish(any_sessions, claim, Change([], [note(60), note(99)]))
    with any_sessions.begin() as session:
        note_stream.end(session, job_id, old, [note(60), note(61)])
    assert pitches(read(any_sessions, job_id)[1]) == [60, 61]


@pytest.mark.parametrize("is_planned", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_stream_of_shards_ends_with_the_final_notes(any_sessions: Sessions, seed: int, is_planned: bool) -> None:
    chance = random.Random(seed)
    job_id = add_split_job(any_sessions, count=3)
    claims = [must_claim(any_sessions, job_id, SHARD, number) for number in range(3)]
    sent: dict[int, dict[int, Fields]] = {number: {} for number in range(3)}
    copy: dict[int, Any] = {}  # of a client that reads now and then
    cursor = 0
    for _ in range(30):
        number = chance.randrange(3)
        notes = [note(chance.randrange(20), float(number)) for _ in range(chance.randrange(6))]
        change = compare(sent[number], notes)
        added = publish(any_sessions, claims[number], change)
        assert added is not None
        kept = {note_id: n for note_id, n in sent[number].items() if note_id not in change.withdrawn}
        sent[number] = kept | added
        assert sorted(map(str, sent[number].values())) == sorted(map(str, notes))
        if chance.random() < 0.3:
            cursor, copy = follow(any_sessions, job_id, cursor, copy)
    for claim in claims:
        assert complete(any_sessions, claim)
    final = [note(chance.randrange(20), float(chance.randrange(3))) for _ in range(20)]
    succeed(any_sessions, must_claim(any_sessions, job_id, "assemble"), final, is_planned=is_planned)
    cursor, copy = follow(any_sessions, job_id, cursor, copy)
    job = get(any_sessions, job_id)
    assert (job.status, job.notes_cursor) == (Status.SUCCEEDED, cursor)
    assert sorted(map(str, copy.values())) == sorted(map(str, final))


def follow(sessions: Sessions, job_id: UUID, cursor: int, copy: dict[int, Any]) -> tuple[int, dict[int, Any]]:
    with sessions() as session:
        for event in note_stream.read_events(session, job_id, after=cursor):
            assert event.number == cursor + 1
            cursor, content = event.number, json.loads(event.text)
            for note_id in content.get("ids", ()):
                del copy[note_id]
            copy |= {found.pop("id"): found for found in content.get("notes", ())}
    return cursor, copy


def test_stream_is_removed_with_its_job(any_sessions: Sessions) -> None:
    job_id, other = add_job(any_sessions), add_job(any_sessions)
    for which in (job_id, other):
        publish(any_sessions, must_claim(any_sessions, which), Change([], [note(60)]))
    with any_sessions.begin() as session:
        jobs.delete_job(session, "public", job_id)
    with any_sessions() as session:
        assert session.scalars(select(NoteEvent.job_id)).all() == [other]
        assert session.scalar(select(func.count()).select_from(Job)) == 1


def test_retry_keeps_what_was_sent(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    publish(any_sessions, must_claim(any_sessions, job_id), Change([], [note(60)]))
    with any_sessions.begin() as session:
        jobs.cancel_job(session, "public", job_id)
    with any_sessions.begin() as session:
        jobs.retry_job(session, "public", job_id)
    claim = must_claim(any_sessions, job_id)
    assert publish(any_sessions, claim, Change([1000], [note(61)])) == {3000: note(61)}
