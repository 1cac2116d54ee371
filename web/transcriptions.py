"""`/v1/transcriptions`: create, list, get, cancel, retry and delete jobs, and download their results."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import PurePath
from typing import Any
from uuid import UUID

from apiflask import APIBlueprint
from flask import Response, request, url_for
from sqlalchemy.orm import Session
from werkzeug.exceptions import PreconditionFailed

from shared import jobs
from shared.db import reading
from shared.errors import JobNotFound, RecordingRemoved, ServiceError
from shared.logs import get_logger
from shared.progress import shards_progress
from shared.tables import Job
from web.access import current_owner, current_quotas
from web.downloads import make_conditional, send_object, sound_type
from web.errors import InvalidRequest
from web.filters import FilterQuery, ListQuery
from web.job_state import read_state
from web.schemas import (
    ArtifactList,
    ArtifactQuery,
    ChangeHeaders,
    Changes,
    CreateHeaders,
    NewTranscription,
    ShowHeaders,
    TranscriptionList,
    TranscriptionView,
)
from web.services import services
from web.sources import JsonTranscription, create_from_json, or_json
from web.uploads import check_metadata, read_name, receive, resolve_model
from web.views import encode_job, show_job, view_artifact
from web.waits import AWAITED, wait_seconds
from web.workload import Workload, works_with

log = get_logger(__name__)
blueprint = APIBlueprint("transcriptions", __name__, url_prefix="/v1/transcriptions", tag="Transcriptions")
METADATA = "metadata."  # query parameters that begin so filter by the value of a key
FILE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": {"*/*": {}}},
    206: {"description": "The part that `Range` asks for.", "content": {"*/*": {}}},
    303: {"description": "Redirect to a short-lived link.", "content": {}},
}


@blueprint.post("")
@blueprint.input(CreateHeaders, location="headers", arg_name="headers")
@or_json
@blueprint.input(NewTranscription, location="form_and_files", arg_name="form")
@blueprint.output(TranscriptionView, status_code=202, description="Accepted. Poll the URL in `Location`.")
@blueprint.doc(
    summary="Upload a recording for transcription",
    description="Send a form, or the recording as the body with a `Content-Type` of `audio/…`, `video/…` or "
    "`application/octet-stream` and the other fields, and `filename`, in the query. With `Prefer: wait=N`, the "
    "response comes when the job has ended, after at most N seconds.",
    responses=[404, 409, 410, 413, 503, 507],
)
@works_with(Workload.STORAGE)
def create(headers: CreateHeaders, form: NewTranscription | JsonTranscription) -> Response:
    """Create a job."""
    if isinstance(form, JsonTranscription):
        job = create_from_json(services(), form, idempotency_key=headers.idempotency_key)
    else:
        job = receive(services(), form, idempotency_key=headers.idempotency_key)
    has_waited = job.finished_at is not None and wait_seconds(headers.prefer) > 0  # for a repeated request
    response = _respond(job, 200 if has_waited else 202)
    response.headers["Location"] = url_for(".show", job_id=job.id)
    if job.finished_at is None:
        response.headers["Retry-After"] = "1"
        request.environ[AWAITED] = job.id
    return response


@blueprint.get("")
@blueprint.input(ListQuery, location="query", arg_name="query")
@blueprint.output(TranscriptionList)
@blueprint.doc(
    summary="List transcriptions, newest first",
    description="`metadata.KEY=VALUE`, for any key of your own data, restricts the list to jobs with this text or "
    "number there, also that of the archive.",
)
def index(query: ListQuery) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Return a page of jobs."""
    with services().sessions() as session:
        page, cursor = jobs.list_jobs(
            session, current_owner(), read_filter(query), limit=query.limit, cursor=query.cursor
        )
        progress = shards_progress(session, page, datetime.now(UTC))
        shown = [(job, read_state(services().line, session, job, progress.get(job.id))) for job in page]
    items = []
    for job, state in shown:
        try:
            items.append(show_job(job, ttl=_ttl(), state=state))
        except Exception as error:
            log.error("job_left_out_of_list", job_id=str(job.id), error=repr(error)[:500])
    headers = {}
    if cursor:
        following = request.args.to_dict() | {"cursor": cursor}
        headers["Link"] = f'<{url_for(".index", **following)}>; rel="next"'  # type: ignore[arg-type]
    return {"items": items, "next_cursor": cursor}, 200, headers


@blueprint.get("/<uuid:job_id>")
@blueprint.input(ShowHeaders, location="headers", arg_name="headers")
@blueprint.output(TranscriptionView)
@blueprint.doc(
    summary="Get a transcription",
    description="Poll at the interval of `Retry-After`, which is absent once the job has ended.",
    responses=[404],
)
def show(job_id: UUID, headers: ShowHeaders) -> Response:
    """Return a job."""
    with reading(services().sessions) as session:
        job = jobs.read_job(session, current_owner(), job_id)
        text = _encode_in(session, job)
    response = Response(text, content_type="application/json")
    response.set_etag(_etag(text.encode()))
    response.headers["Cache-Control"] = "no-cache"
    if job.finished_at is None:  # `web.bridge` calls this again once it has ended, for a client that waits
        response.headers["Retry-After"] = "1"
        request.environ[AWAITED] = job_id
    return make_conditional(response)


@blueprint.patch("/<uuid:job_id>")
@blueprint.input(ChangeHeaders, location="headers", arg_name="headers")
@blueprint.input(Changes, arg_name="changes")
@blueprint.output(TranscriptionView)
@blueprint.doc(summary="Rename a transcription, or replace its metadata", responses=[400, 404])
def change(job_id: UUID, headers: ChangeHeaders, changes: Changes) -> Response:
    """Change what a client may change of a job."""
    name = None if changes.name is None else read_name(changes.name)
    metadata = changes.metadata
    if metadata is not None:
        check_metadata(metadata)
    with services().sessions.begin() as session:
        _check_unchanged(session, job_id)
        job = jobs.update_job(session, current_owner(), job_id, name=name, metadata=metadata)
    response = _respond(job)
    response.set_etag(_etag(response.get_data()))
    return response


@blueprint.post("/<uuid:job_id>/cancel")
@blueprint.output(TranscriptionView, status_code=202)
@blueprint.doc(summary="Cancel a queued or running transcription", responses=[404, 409])
def cancel(job_id: UUID) -> Response:
    """Cancel a job. Its worker stops within a second or two."""
    with services().sessions.begin() as session:
        job = jobs.cancel_job(session, current_owner(), job_id)
    return _respond(job, 202)


@blueprint.post("/<uuid:job_id>/retry")
@blueprint.output(TranscriptionView, status_code=202)
@blueprint.doc(summary="Retry a failed or canceled transcription", responses=[404, 409])
def retry(job_id: UUID) -> Response:
    """Queue a job again."""
    with services().sessions.begin() as session:
        job = jobs.retry_job(session, current_owner(), job_id, current_quotas())
    services().queue.notify()
    return _respond(job, 202)


@blueprint.delete("/<uuid:job_id>")
@blueprint.input(ChangeHeaders, location="headers", arg_name="headers")
@blueprint.output({}, status_code=204)
@blueprint.doc(summary="Delete a transcription and its files", responses=[404])
@works_with(Workload.STORAGE)
def remove(job_id: UUID, headers: ChangeHeaders) -> tuple[str, int]:
    """Delete a job. If storage fails now, the scheduler deletes the files later."""
    with services().sessions.begin() as session:
        _check_unchanged(session, job_id)
        prefixes = jobs.delete_job(session, current_owner(), job_id)
    for prefix in prefixes:
        try:
            services().storage.delete_prefix(prefix)
        except ServiceError as error:
            log.warning("files_left_for_the_scheduler", prefix=prefix, error=str(error))
            break  # if storage hangs, so would each of the others
    return "", 204


@blueprint.get("/<uuid:job_id>/artifacts")
@blueprint.output(ArtifactList)
@blueprint.doc(summary="List the files of a transcription", responses=[404])
def artifacts(job_id: UUID) -> dict[str, Any]:
    """Return the files of a job, as they are listed in the job."""
    with reading(services().sessions) as session:
        job = jobs.get_job(session, current_owner(), job_id)
    view = ArtifactList(items=[view_artifact(job_id, artifact) for artifact in job.artifacts])
    return view.model_dump(mode="json")


@blueprint.get("/<uuid:job_id>/artifacts/<name>")
@blueprint.input(ArtifactQuery, location="query", arg_name="query")
@blueprint.doc(
    summary="Download a result: transcription.mid, notes.json or an export",
    description="Redirects to a short-lived link if the storage provides one; `redirect=false` prevents that.",
    responses=FILE_RESPONSES,
)
@works_with(Workload.STORAGE)
def artifact(job_id: UUID, name: str, query: ArtifactQuery) -> Response:
    """Return a result, or redirect to it."""
    with services().sessions() as session:
        job = jobs.get_job(session, current_owner(), job_id)
    found = next((a for a in job.artifacts if a["name"] == name), None)
    if found is None:
        raise JobNotFound(f"Transcription {job_id} has no artifact {name!r}. Its status is {job.status}.")
    return send_object(
        found["key"],
        content_type=found["content_type"],
        filename=download_name(job, found.get("file_name", name)),
        etag=found["sha256"],
        as_attachment=True,
        may_redirect=query.redirect,
    )


@blueprint.get("/<uuid:job_id>/audio")
@blueprint.input(ArtifactQuery, location="query", arg_name="query")
@blueprint.doc(
    summary="Download the recording as it was uploaded",
    description="Redirects to a short-lived link if the storage provides one; `redirect=false` prevents that. "
    "Parts of it are sent for `Range`.",
    responses=FILE_RESPONSES,
)
@works_with(Workload.STORAGE)
def audio(job_id: UUID, query: ArtifactQuery) -> Response:
    """Return the recording, or redirect to it."""
    with services().sessions() as session:
        job = jobs.get_job(session, current_owner(), job_id)
    if not job.upload_bytes:
        raise JobNotFound(f"The recording of transcription {job_id} has not been fetched yet.")
    if job.upload_removed_at is not None:
        raise RecordingRemoved
    return send_object(
        job.upload_key,
        content_type=sound_type(job.filename),
        filename=job.filename or "recording",
        etag=str(job.id),
        as_attachment=False,
        may_redirect=query.redirect,
    )


def read_filter(query: FilterQuery) -> jobs.JobFilter:
    """Return the filter of a query, with its `metadata.…` parameters."""
    return jobs.JobFilter(
        statuses=query.status,
        model=resolve_model(services(), query.model) if query.model else None,
        created_after=query.created_after,
        created_before=query.created_before,
        name=query.q,
        metadata=_metadata_filter(),
    )


def _metadata_filter() -> dict[str, str]:
    found = {
        name.removeprefix(METADATA): value for name, value in request.args.items() if name.startswith(METADATA)
    }
    if any('"' in key or "\0" in key + value for key, value in found.items()):
        raise InvalidRequest("Filters by metadata must not have quotation marks in the key, or NUL characters.")
    return found


def download_name(job: Job, artifact: str) -> str:
    """Return `song.mid` for `song.flac`, or the artifact's own name if the recording has no name."""
    if not job.filename:
        return artifact
    stem, suffix = PurePath(job.filename).stem, PurePath(artifact).suffix
    return f"{stem}{suffix}" if suffix == ".mid" else f"{stem}.{artifact}"


def _check_unchanged(session: Session, job_id: UUID) -> None:
    """Raise if the client has seen another state of a job than there is, which stays until the transaction ends.

    Raises:
        JobNotFound, PreconditionFailed
    """
    if not request.if_match:
        return
    job = jobs.lock_job(session, current_owner(), job_id)
    if not request.if_match.contains_weak(_etag(_encode_in(session, job).encode())):
        raise PreconditionFailed("The transcription has changed. Get it again, then repeat the change.")


def _etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _respond(job: Job, status: int = 200) -> Response:
    with services().sessions() as session:
        return Response(_encode_in(session, job), status, content_type="application/json")


def _encode_in(session: Session, job: Job) -> str:
    progress = shards_progress(session, [job], datetime.now(UTC))
    return encode_job(job, ttl=_ttl(), state=read_state(services().line, session, job, progress.get(job.id)))


def _ttl() -> timedelta:
    return timedelta(days=min(36_500, services().settings.result_ttl_days))  # more would exceed the last date
