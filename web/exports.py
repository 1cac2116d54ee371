"""`/v1/transcriptions/{id}/exports`: other files from the notes of a transcription."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from apiflask import APIBlueprint
from flask import request, url_for

from mt3_infer.exports import FORMATS, get_format
from shared import exports, jobs
from shared.quotas import check_stored
from shared.tables import Status, WorkStatus
from web.access import current_owner, current_quotas
from web.client_json import check_returnable
from web.schemas import ExportList, ExportView, NewExport
from web.services import services
from web.views import view_export
from web.waits import AWAITED
from web.workload import Workload, works_with

blueprint = APIBlueprint("exports", __name__, url_prefix="/v1/transcriptions/<uuid:job_id>/exports", tag="Exports")


def _describe_formats() -> str:
    """Return the formats with their options, for the documentation."""
    lines = []
    for row in FORMATS.values():
        options = row.options.model_json_schema().get("properties", {})
        described = "; ".join(f"`{name}`: {schema.get('description', '')}" for name, schema in options.items())
        lines.append(f"* `{row.name}`: {row.description} {described}".rstrip())
    return "\n".join(lines)


@blueprint.post("")
@blueprint.input(NewExport, arg_name="body")
@blueprint.output(ExportView, status_code=202, description="Accepted. Poll the URL in `Location`.")
@blueprint.doc(
    summary="Export a transcription in another format",
    description="The same format and options again give the same export; the status is 200 once it is made. "
    "With `Prefer: wait=N`, the response comes when it has ended, after at most N seconds.\n\n"
    + _describe_formats(),
    responses=[404, 409, 410, 503],
)
@works_with(Workload.STORAGE)
def create(job_id: UUID, body: NewExport) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Request an export; it may be there already."""
    row = get_format(body.format)
    check_returnable("options", body.options)
    options = row.check_options(body.options)
    if row.needs_recording:
        _require_recording(job_id)
    digest = row.hash_options(options)
    stem, _, suffix = row.file_name(options).partition(".")
    new = exports.NewExport(
        format=row.name,
        options=options.model_dump(mode="json"),
        options_hash=digest,
        artifact=f"{stem}-{digest[:12]}.{suffix}",
        source=body.source,
    )
    with services().sessions.begin() as session:
        check_stored(session, current_owner(), current_quotas(), added=0)
        state = exports.request_export(session, current_owner(), job_id, new)
    if state.status is WorkStatus.QUEUED:
        services().queue.notify()
    location = url_for(".show", job_id=job_id, export_id=state.id)
    if state.status is WorkStatus.SUCCEEDED:
        return view_export(state), 200, {"Location": location}
    request.environ[AWAITED] = state.id
    return view_export(state), 202, {"Location": location, "Retry-After": "1"}


@blueprint.get("")
@blueprint.output(ExportList)
@blueprint.doc(summary="List the exports of a transcription", responses=[404])
def index(job_id: UUID) -> dict[str, Any]:
    """Return all exports of a job."""
    with services().sessions() as session:
        return {"items": [view_export(state) for state in exports.list_exports(session, current_owner(), job_id)]}


@blueprint.get("/<uuid:export_id>")
@blueprint.output(ExportView)
@blueprint.doc(
    summary="Get an export",
    description="Poll at the interval of `Retry-After`, which is absent once the export has ended.",
    responses=[404],
)
def show(job_id: UUID, export_id: UUID) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Return an export."""
    with services().sessions() as session:
        state = exports.get_export(session, current_owner(), job_id, export_id)
    request.environ[AWAITED] = state.id
    has_ended = state.status in (WorkStatus.SUCCEEDED, WorkStatus.FAILED)
    return view_export(state), 200, {} if has_ended else {"Retry-After": "1"}


def _require_recording(job_id: UUID) -> None:
    """Raise if the recording of a job is gone.

    Raises:
        JobNotFound, ObjectMissing
    """
    with services().sessions() as session:
        job = jobs.get_job(session, current_owner(), job_id)
    if job.status is Status.SUCCEEDED:
        services().storage.size(job.upload_key)
