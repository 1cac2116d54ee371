"""Jobs, their files and exports as clients see them: rows turned into the models of `schemas`."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from shared.exports import ExportState
from shared.kinds import Download
from shared.logs import get_logger
from shared.progress import ShardsProgress, eta_seconds
from shared.tables import Job, Status
from web.access import current_access, job_address
from web.job_links import view_links
from web.job_state import UNKNOWN, JobState
from web.schemas import (
    ArtifactView,
    DownloadView,
    ErrorView,
    ExportView,
    ProgressView,
    QueueView,
    TranscriptionView,
    WarningView,
)

log = get_logger(__name__)


def show_job(job: Job, **more: Any) -> dict[str, Any]:
    """Return a job as JSON types; see `encode_job`."""
    body: dict[str, Any] = json.loads(encode_job(job, **more))
    return body


def encode_job(job: Job, **more: Any) -> str:
    """Return a job as JSON, without the client's fields if they cannot be encoded."""
    try:
        return _to_json(view_job(job, **more))
    except Exception as error:
        log.error("job_cannot_be_shown", job_id=str(job.id), error=repr(error)[:500])
        bare: dict[str, Any] = {"options": {}, "metadata": {}, "filename": None}
        return _to_json(view_job(job, **more).model_copy(update=bare))


def _to_json(view: TranscriptionView) -> str:
    text = view.model_dump_json()
    if "NaN" in text or "Infinity" in text:  # as a number, which is no JSON, or in a string
        json.dumps(json.loads(text), allow_nan=False)
    return text


def _download(job: Job) -> DownloadView | None:
    if job.download is None:
        return None
    at = Download(**job.download)
    left = max(0, at.bytes_total - at.bytes_done)
    eta = round(left / at.bytes_per_second, 1) if at.bytes_per_second else None
    return DownloadView(**job.download, eta_seconds=eta)


def _error(error: tuple[str, str] | None) -> ErrorView | None:
    return None if error is None else ErrorView(code=error[0], detail=error[1])


def view_queue(state: JobState) -> QueueView | None:
    """Return the place of a queued job; the time is rounded to what the estimate is worth."""
    if state.place is None:
        return None
    eta = state.place.eta_seconds
    return QueueView(
        position=state.place.position, eta_seconds=None if eta is None else round(eta, 1 if eta < 10 else 0)
    )


def view_job(job: Job, *, ttl: timedelta, state: JobState = UNKNOWN) -> TranscriptionView:
    """Return a job as clients see it.

    Args:
        ttl: how long a job that has ended is kept.
    """
    shards = state.shards
    return TranscriptionView(
        id=str(job.id),
        links=view_links(job),
        status=job.status,
        phase=job.phase,
        progress=view_progress(job, shards),
        queue=view_queue(state),
        model=job.model,
        options=job.options,
        filename=job.filename,
        metadata={} if current_access().share else job.client_metadata,  # the client's own
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        expires_at=job.finished_at and job.finished_at + ttl,
        attempts=max(job.attempts, shards.attempts) if shards else job.attempts,
        note_count=job.note_count,
        error=view_error(job),
        last_error=_error(state.last_error(job)),
        hint=state.hint(job),
        warnings=[WarningView(**warning) for warning in job.warnings],
        artifacts=[view_artifact(job.id, artifact) for artifact in job.artifacts],
    )


def view_progress(job: Job, shards: ShardsProgress | None = None) -> ProgressView:
    """Return the progress of a job, or of its shards if it is split."""
    seconds_done, eta = job.audio_seconds_done, eta_seconds(job, datetime.now(UTC))
    if shards is not None:
        seconds_done = shards.seconds_done
        eta = shards.eta_seconds if job.status is Status.PROCESSING else None
    fraction = 1.0 if job.status is Status.SUCCEEDED else None
    if fraction is None and job.audio_seconds_total:
        fraction = round(min(1.0, seconds_done / job.audio_seconds_total), 4)
    return ProgressView(
        audio_seconds_done=round(seconds_done, 3),
        audio_seconds_total=job.audio_seconds_total,
        fraction=fraction,
        eta_seconds=eta,
        download=_download(job),
        shards_done=shards.done if shards else None,
        shards_total=shards.total if shards else None,
    )


def view_error(job: Job) -> ErrorView | None:
    """Return why a job failed; None if it did not."""
    if job.status is not Status.FAILED or not job.error_code:
        return None
    return _error((job.error_code, job.error_detail or ""))


def view_artifact(job_id: UUID, artifact: dict[str, Any]) -> ArtifactView:
    """Return a file of a job as clients see it."""
    return ArtifactView(
        name=artifact["name"],
        content_type=artifact["content_type"],
        size=artifact["size"],
        sha256=artifact["sha256"],
        href=f"{job_address(job_id)}/artifacts/{artifact['name']}",
    )


def view_export(export: ExportState) -> dict[str, Any]:
    """Return an export as JSON types."""
    error = None
    if export.error_code is not None:
        error = ErrorView(code=export.error_code, detail=export.error_detail or "")
    view = ExportView(
        id=str(export.id),
        format=export.format,
        options=export.options,
        source=export.source,  # type: ignore[arg-type]
        status=export.status.value,  # type: ignore[arg-type]  # of the states of an item, only these occur
        fraction=round(export.fraction, 4),
        created_at=export.created_at,
        finished_at=export.finished_at,
        error=error,
        artifact=view_artifact(export.job_id, export.artifact) if export.artifact else None,
    )
    return view.model_dump(mode="json")
