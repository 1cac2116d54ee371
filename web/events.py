"""`/v1/transcriptions/{id}/notes` and `…/events`: the notes of a job while it runs, by polling or as a stream."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from apiflask import APIBlueprint
from flask import Response, request
from pydantic import BaseModel, Field

from shared import jobs, note_stream
from shared.db import reading
from shared.errors import InvalidCursor, ServiceError
from shared.progress import shards_progress
from shared.tables import Job, Phase, Status
from web.access import access_check, current_owner
from web.errors import problem
from web.job_state import read_state
from web.schemas import ErrorView, QueueView
from web.services import Services, services
from web.streams import ENVIRON, EVENTS_AT_ONCE, News, Watch
from web.views import view_error, view_progress, view_queue

blueprint = APIBlueprint("events", __name__, url_prefix="/v1/transcriptions/<uuid:job_id>", tag="Transcriptions")

EVENTS_IN_A_PAGE = 20  # of at most 500 notes each
CURSOR = re.compile(r"(\d{1,9})(\.end)?")
NOTES_TEXT = """\
Poll at the interval of `Retry-After`, which is absent once `complete` is true, with the `cursor` of the page
before. While the job runs, notes are provisional: they may be withdrawn, and come again with other values. When it
has succeeded, what was sent and not withdrawn are the notes of notes.json."""
EVENTS_TEXT = """\
Each event has JSON as its data: `status` (`status`, `phase`, `queue`, `error`, `hint`), `progress` (as in the
job), `notes` (`{"notes": [{"id": 1000, "onset": 0.5, …}]}`), `notes_withdrawn` (`{"ids": [1000]}`) and, at last,
`end` (`status`, `note_count`, `error`). Events of notes have an `id`: sent back as `Last-Event-ID`, as browsers
do, the stream goes on after it. 204 if you have received `end`. 503 names, as `polling`, what to poll instead."""
PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/HTTPError"}}}
PROBLEMS = {404: "Not found", 410: "The notes are gone", 503: "Too many streams"}
EVENTS_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The events.", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
    204: {"description": "You have received all of the stream.", "content": {}},
    **{status: {"description": text, "content": PROBLEM} for status, text in PROBLEMS.items()},
}


class NotesGone(ServiceError):  # noqa: N818
    """The job ended before its notes were kept one by one."""

    code = "notes_gone"


class NotesQuery(BaseModel):
    """The query of `GET …/notes`."""

    after: str = Field("0", description="The `cursor` of the page before; without it, from the first note.")


class EventsQuery(BaseModel):
    """The query of `GET …/events`."""

    after: str = Field("0", description="As `Last-Event-ID`, for clients that cannot send that header.")


class EventsHeaders(BaseModel):
    """Headers of `GET …/events`."""

    last_event_id: str | None = Field(None, description="The `id` of the last event that you received.")


class NoteView(BaseModel):
    """A note: seconds from the beginning, and MIDI numbers."""

    id: int = Field(description="Identifies the note in this stream; not in notes.json.")
    onset: float
    offset: float
    pitch: int
    velocity: int
    program: int
    is_drum: bool
    confidence: float | None


class NotesView(BaseModel):
    """Notes since a cursor. First drop those whose ids are in `withdrawn`, then add `notes`."""

    status: Status
    complete: bool = Field(
        description="True if no more will come. The notes are final then if `status` is `succeeded`; if it is "
        "`failed` or `canceled`, they are only what was found until then."
    )
    cursor: str = Field(description="The value of `after` for the next request.")
    notes: list[NoteView]
    withdrawn: list[int] = Field(description="Ids of notes, sent in earlier pages, that turned out otherwise.")


class StatusView(BaseModel):
    """The data of the event `status`."""

    status: Status
    phase: Phase | None
    queue: QueueView | None
    error: ErrorView | None
    hint: str | None


class EndView(BaseModel):
    """The data of the event `end`; the status may also be `deleted`, without more."""

    status: str
    note_count: int | None
    error: ErrorView | None


@blueprint.get("/notes")
@blueprint.input(NotesQuery, location="query", arg_name="query")
@blueprint.output(NotesView)
@blueprint.doc(
    summary="Get the notes found so far",
    description=NOTES_TEXT,
    responses=[404, 410],
)
def notes(job_id: UUID, query: NotesQuery) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Return a page of notes."""
    after, _ = _parse(query.after)
    with reading(services().sessions) as session:
        job = jobs.get_job(session, current_owner(), job_id)
        _check(job, after)
        found = []
        if job.notes_cursor > after:
            found = list(note_stream.read_events(session, job_id, after=after, limit=EVENTS_IN_A_PAGE))
    cursor = found[-1].number if found else after
    is_complete = job.status.is_final and cursor >= job.notes_cursor
    added: dict[int, dict[str, Any]] = {}
    withdrawn: list[int] = []
    for event in found:
        content = json.loads(event.text)
        added |= {note["id"]: note for note in content.get("notes", ())}
        # A note that comes and goes within a page is not sent at all.
        withdrawn += [note_id for note_id in content.get("ids", ()) if added.pop(note_id, None) is None]
    body = {
        "status": job.status.value,
        "complete": is_complete,
        "cursor": str(cursor),
        "notes": list(added.values()),
        "withdrawn": withdrawn,
    }
    headers = {"Cache-Control": "no-store"}
    if not is_complete:
        headers["Retry-After"] = "0" if cursor < job.notes_cursor else "1"
    return body, 200, headers


@blueprint.get("/events")
@blueprint.input(EventsHeaders, location="headers", arg_name="headers")
@blueprint.input(EventsQuery, location="query", arg_name="query")
@blueprint.doc(
    summary="Follow a transcription as server-sent events",
    description=EVENTS_TEXT,
    responses=EVENTS_RESPONSES,
)
def events(job_id: UUID, headers: EventsHeaders, query: EventsQuery) -> Response:
    """Begin a stream; `web.bridge` continues it."""
    after, has_end = _parse(headers.last_event_id or query.after)
    with reading(services().sessions) as session:
        job = jobs.get_job(session, current_owner(), job_id)
    _check(job, after)
    if has_end and job.status.is_final and after == job.notes_cursor:
        return Response(status=204)
    request.environ[ENVIRON] = Watch(job_id, after, access_check())
    response = Response(content_type="text/event-stream")
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # nginx would hold events back
    return response


def too_many_streams(path: str) -> Response:
    """Return the response to one stream too many."""
    polling = path.removesuffix("/events") + "/notes"
    text = f"Too many clients follow transcriptions at this moment. Poll {polling} instead."
    return problem(503, "too_many_streams", text, polling=polling)


def read_news(services: Services, after: Mapping[UUID, int]) -> dict[UUID, News]:
    """Return the news of jobs after a number each; those that are gone are left out."""
    with reading(services.sessions) as session:
        found = jobs.read_jobs(session, list(after))
        progress = shards_progress(session, found, datetime.now(UTC))
        behind = {job.id: after[job.id] for job in found if job.notes_cursor > after[job.id]}
        events = note_stream.read_next(session, behind, limit=EVENTS_AT_ONCE)
        news = {}
        for job in found:
            state, error = read_state(services.line, session, job, progress.get(job.id)), view_error(job)
            status = StatusView(
                status=job.status, phase=job.phase, queue=view_queue(state), error=error, hint=state.hint(job)
            )
            end = EndView(status=job.status.value, note_count=job.note_count, error=error)
            news[job.id] = News(
                status=status.model_dump(mode="json"),
                progress=view_progress(job, progress.get(job.id)).model_dump(mode="json"),
                events=[(event.number, event.kind, event.text) for event in events.get(job.id, ())],
                cursor=job.notes_cursor,
                end=end.model_dump(mode="json") if job.status.is_final else None,
            )
    return news


def _parse(cursor: str) -> tuple[int, bool]:
    """Return a cursor's number, and whether it is that of the event `end`."""
    match = CURSOR.fullmatch(cursor)
    if match is None:
        raise InvalidCursor("The cursor is invalid. Leave it out to start from the first note.")
    return int(match[1]), match[2] is not None


def _check(job: Job, after: int) -> None:
    """Raise if a job does not have so many events.

    Raises:
        InvalidCursor, NotesGone
    """
    if after > job.notes_cursor:
        raise InvalidCursor(
            "The cursor is not one of this transcription. Leave it out to start from the first note."
        )
    if job.status is Status.SUCCEEDED and job.notes_cursor == 0 and job.note_count:
        raise NotesGone("This transcription ended before an upgrade of the service. Download its notes.json.")
