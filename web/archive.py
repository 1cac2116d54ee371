"""`/v1/transcriptions/archive`: the files of many transcriptions as a ZIP file, made while it is sent."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Annotated, Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from apiflask import APIBlueprint
from flask import Response
from pydantic import BeforeValidator, Field, StringConstraints

from shared import jobs
from shared.db import Sessions
from shared.errors import ObjectMissing
from shared.storage import ObjectStorage
from shared.tables import Job
from web.access import current_owner
from web.filters import FilterQuery, split_at_commas
from web.services import services
from web.transcriptions import download_name, read_filter
from web.workload import Workload, works_with

blueprint = APIBlueprint("archive", __name__, url_prefix="/v1/transcriptions", tag="Transcriptions")

JOBS_AT_ONCE = 50
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The archive.", "content": {"application/zip": {}}}
}
EARLIEST = (1980, 1, 1, 0, 0, 0)  # of dates in ZIP files


class ArchiveQuery(FilterQuery):
    """The query of `GET /v1/transcriptions/archive`."""

    files: Annotated[
        tuple[Annotated[str, StringConstraints(min_length=1)], ...], BeforeValidator(split_at_commas)
    ] = Field(("transcription.mid", "notes.json"), description="Names of artifacts, with commas between them.")


class _Sink:
    """Collects what `ZipFile` writes until it is taken; it cannot seek, so nothing is written twice."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, piece: bytes) -> int:
        self._pieces.append(bytes(piece))
        return len(piece)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def take(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


@blueprint.get("/archive")
@blueprint.input(ArchiveQuery, location="query", arg_name="query")
@blueprint.doc(
    summary="Download the files of all transcriptions, or of those that fit a filter, as a ZIP file",
    description="Takes the filters of the list. Files that are gone are left out.",
    responses=RESPONSES,
)
@works_with(Workload.STORAGE)
def archive(query: ArchiveQuery) -> Response:
    """Return a ZIP file, newest transcription first."""
    found = _read_jobs(services().sessions, current_owner(), read_filter(query))
    response = Response(_zip(services().storage, found, query.files), content_type="application/zip")
    name = f"transcriptions-{datetime.now(UTC):%Y-%m-%d}.zip"
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def _read_jobs(sessions: Sessions, owner: str, filters: jobs.JobFilter) -> Iterator[Job]:
    cursor: str | None = None
    while True:
        with sessions() as session:
            page, cursor = jobs.list_jobs(session, owner, filters, limit=JOBS_AT_ONCE, cursor=cursor)
        yield from page
        if cursor is None:
            return


def _zip(storage: ObjectStorage, found: Iterator[Job], files: tuple[str, ...]) -> Iterator[bytes]:
    sink = _Sink()
    taken: set[str] = set()
    with ZipFile(sink, "w") as zipped:
        for job in found:
            for artifact in job.artifacts:
                if artifact["name"] not in files:
                    continue
                pieces = _open(storage, artifact["key"])
                if pieces is None:
                    continue
                name = _unique(download_name(job, artifact.get("file_name", artifact["name"])), taken)
                with zipped.open(_info(name, job), "w", force_zip64=True) as member:
                    for piece in pieces:
                        member.write(piece)
                        yield sink.take()
                yield sink.take()
    yield sink.take()


def _open(storage: ObjectStorage, key: str) -> Iterator[bytes] | None:
    """Return the pieces of an object, or None if it is gone."""
    pieces = storage.stream(key)
    try:
        first = next(pieces, b"")
    except ObjectMissing:
        return None
    return _chain(first, pieces)


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _info(name: str, job: Job) -> ZipInfo:
    at = job.finished_at or job.created_at
    info = ZipInfo(name, max(EARLIEST, at.timetuple()[:6]))
    info.compress_type = ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    return info


def _unique(name: str, taken: set[str]) -> str:
    """Return a name that is not taken in any case: `song.mid`, `song (2).mid`."""
    path = PurePath(name.replace("/", "_"))
    number, candidate = 1, path.name
    while candidate.lower() in taken:
        number += 1
        candidate = f"{path.stem} ({number}){path.suffix}"
    taken.add(candidate.lower())
    return candidate
