"""The notes of a running job as a stream of numbered events, in rows that clients read by polling or as SSE.

Workers publish the notes of finished segments and take back those that turn out otherwise. The transaction in
which a job succeeds appends what is missing, so that then the notes that were sent and not withdrawn are its final
notes. Events of all attempts and shards are numbered together: a client that has read up to a number, its cursor,
reads on from there, whatever died meanwhile.

The job's row is locked while events are appended, so that no reader sees a number before a lower one.
"""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import insert, select, tuple_, update
from sqlalchemy.orm import Session

from shared import work
from shared.kinds import Held
from shared.tables import Job, NoteEvent, WorkItem

NOTES, WITHDRAWN = "notes", "notes_withdrawn"  # kinds of events
NOTES_AT_ONCE = 500  # in one event
IDS_AT_ONCE = 2000
IDS_FOR_EACH = 1000  # a note's id: the number of its event times this, plus its place there
MOST_EVENTS = 20_000  # of a job; from then on only its final notes are added

Fields = Mapping[str, Any]
"""A note as in notes.json."""


@dataclass(frozen=True)
class Change:
    """The difference between the notes that were sent and those that there are."""

    withdrawn: Sequence[int]
    added: Sequence[Fields]

    def __bool__(self) -> bool:
        return bool(self.withdrawn or self.added)


@dataclass(frozen=True)
class Event:
    """An event, as text in JSON: `{"notes": [{"id": 1000, "onset": …}, …]}` or `{"ids": [1000, …]}`."""

    number: int
    kind: str
    text: str


@dataclass(frozen=True)
class Ending:
    """The events that make a stream end with the final notes, if its last event is still `after`."""

    after: int
    rows: Sequence[Mapping[str, Any]]


UNPLANNED = Ending(-1, ())


def compare(sent: Mapping[int, Fields], notes: Sequence[Fields]) -> Change:
    """Return the change from notes that were sent, by id, to other notes. Equal notes stay as they are."""
    ids: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
    for note_id, note in sent.items():
        ids[tuple(note.values())].append(note_id)
    added = []
    for note in notes:
        same = ids.get(tuple(note.values()))
        if same:
            same.pop()
        else:
            added.append(note)
    return Change(sorted(note_id for left in ids.values() for note_id in left), added)


def publish(session: Session, held: Held, change: Change) -> dict[int, Fields] | None:
    """Append a change; return the added notes by id. None: the attempt lost its item, or the stream is full."""
    work.lock_job(session, held.job_id)
    holds = select(Job.notes_cursor).join(WorkItem, WorkItem.job_id == Job.id).where(*work.held_under(held))
    cursor = session.scalar(holds)
    if cursor is None or cursor > MOST_EVENTS:
        return None
    rows, ids = _make_rows(held.job_id, cursor, change)
    _append(session, held.job_id, rows)
    return ids


def plan_ending(session: Session, job_id: UUID, notes: Sequence[Fields]) -> Ending:
    """Prepare the end of a stream, ahead of the transaction in which the job succeeds."""
    cursor, sent = read_notes(session, job_id)
    rows, _ = _make_rows(job_id, cursor, compare(sent, notes))
    return Ending(cursor, rows)


def end(session: Session, job_id: UUID, ending: Ending, notes: Sequence[Fields]) -> None:
    """Make a stream end with the final notes, in the transaction that has locked the job and completes it."""
    if session.scalar(select(Job.notes_cursor).where(Job.id == job_id)) != ending.after:
        ending = plan_ending(session, job_id, notes)
    _append(session, job_id, ending.rows)


def read_notes(session: Session, job_id: UUID) -> tuple[int, dict[int, Fields]]:
    """Return the number of the last event, and the notes that were sent and not withdrawn, by id."""
    cursor = 0
    notes: dict[int, Fields] = {}
    for event in read_events(session, job_id):
        cursor = event.number
        content = json.loads(event.text)
        for note_id in content.get("ids", ()):
            del notes[note_id]
        for note in content.get("notes", ()):
            note_id = note.pop("id")
            notes[note_id] = note
    return cursor, notes


def read_events(session: Session, job_id: UUID, *, after: int = 0, limit: int | None = None) -> Iterator[Event]:
    """Yield the events of a job after a number, in order."""
    query = select(NoteEvent.number, NoteEvent.kind, NoteEvent.content)
    query = query.where(NoteEvent.job_id == job_id, NoteEvent.number > after).order_by(NoteEvent.number)
    for number, kind, content in session.execute(query.limit(limit)):
        yield Event(number, kind, zlib.decompress(content).decode())


def read_next(session: Session, after: Mapping[UUID, int], *, limit: int) -> dict[UUID, list[Event]]:
    """Return the next few events of each job after a number, in one query for all of them."""
    wanted = [(job_id, number + step) for job_id, number in after.items() for step in range(1, limit + 1)]
    found: defaultdict[UUID, list[Event]] = defaultdict(list)
    if wanted:
        query = select(NoteEvent.job_id, NoteEvent.number, NoteEvent.kind, NoteEvent.content)
        query = query.where(tuple_(NoteEvent.job_id, NoteEvent.number).in_(wanted)).order_by(NoteEvent.number)
        for job_id, number, kind, content in session.execute(query):
            found[job_id].append(Event(number, kind, zlib.decompress(content).decode()))
    return found


def _append(session: Session, job_id: UUID, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        session.execute(insert(NoteEvent), list(rows))
        moved = update(Job).where(Job.id == job_id).values(notes_cursor=rows[-1]["number"])
        session.execute(moved, execution_options=work.UNSYNCHRONIZED)


def _make_rows(job_id: UUID, cursor: int, change: Change) -> tuple[list[dict[str, Any]], dict[int, Fields]]:
    """Return the rows of a change, and its added notes by id."""
    rows: list[dict[str, Any]] = []
    ids: dict[int, Fields] = {}

    def add(kind: str, content: Mapping[str, Any]) -> None:
        packed = zlib.compress(json.dumps(content, separators=(",", ":")).encode())
        rows.append({"job_id": job_id, "number": cursor + len(rows) + 1, "kind": kind, "content": packed})

    for at in range(0, len(change.withdrawn), IDS_AT_ONCE):
        add(WITHDRAWN, {"ids": list(change.withdrawn[at : at + IDS_AT_ONCE])})
    for at in range(0, len(change.added), NOTES_AT_ONCE):
        first = (cursor + len(rows) + 1) * IDS_FOR_EACH
        notes = dict(enumerate(change.added[at : at + NOTES_AT_ONCE], first))
        ids |= notes
        add(NOTES, {"notes": [{"id": note_id, **note} for note_id, note in notes.items()]})
    return rows, ids
