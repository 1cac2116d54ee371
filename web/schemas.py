"""What goes over the wire, as pydantic models: they check requests and describe answers in OpenAPI."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from apiflask.fields import UploadFile
from pydantic import BaseModel, BeforeValidator, Field, Json, StringConstraints
from pydantic_core import PydanticCustomError
from werkzeug.datastructures import FileStorage

from shared.jobs import Download, eta_seconds
from shared.logs import get_logger
from shared.shards import ShardsProgress
from shared.tables import Job, Phase, Status

log = get_logger(__name__)

Metadata = dict[str, Any]
MAX_METADATA_CHARACTERS = 16_384


def _a_file(value: object) -> object:
    """What a form sent as a file, and nothing else."""
    if not isinstance(value, FileStorage):
        raise PydanticCustomError(
            "no_file", "send the recording as a file in a form, as curl -F file=@song.mp3 does"
        )
    return value


class NewTranscription(BaseModel):
    """The form of `POST /v1/transcriptions`."""

    file: Annotated[
        UploadFile,
        BeforeValidator(_a_file),
        Field(description="The recording: any common audio or video format."),
    ]
    model: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None, description="A model's name or alias; see /v1/models."
    )
    options: Json[dict[str, Any]] = Field(
        default_factory=dict, description="Options of the model, as a JSON object."
    )
    metadata: Annotated[str, StringConstraints(max_length=MAX_METADATA_CHARACTERS)] | None = Field(
        None, description="Anything of yours, as a JSON object; it comes back with the job."
    )


class CreateHeaders(BaseModel):
    """Headers of `POST /v1/transcriptions`."""

    idempotency_key: str | None = Field(
        None,
        min_length=1,
        max_length=255,
        description="Any text of yours: the same request sent twice with it makes one job.",
    )


class ShowHeaders(BaseModel):
    """Headers of `GET /v1/transcriptions/{id}`."""

    prefer: str | None = Field(None, description="`wait=N`: answer when the job ends, after N seconds at most.")
    if_none_match: str | None = Field(None, description="The `ETag` seen last: 304 if nothing has changed.")


class ListQuery(BaseModel):
    """The query of `GET /v1/transcriptions`."""

    status: Status | None = None
    model: str | None = Field(None, description="A model's name or alias.")
    limit: int = Field(20, ge=1, le=100)
    cursor: str | None = None


class ArtifactQuery(BaseModel):
    """The query of an artifact's address."""

    redirect: bool = Field(
        True, description="false: the bytes come from here, even where storage could hand them out itself."
    )


class DownloadView(BaseModel):
    """How far the download of the model's checkpoint is."""

    bytes_done: int
    bytes_total: int
    bytes_per_second: float
    eta_seconds: float | None
    waiting: bool = Field(description="Another worker downloads, and these are its figures.")


class ProgressView(BaseModel):
    """How far a job is, in seconds of audio; and in bytes, while its model's checkpoint is fetched."""

    audio_seconds_done: float
    audio_seconds_total: float | None
    fraction: float | None
    eta_seconds: float | None
    download: DownloadView | None
    shards_done: int | None = Field(
        description="Of a long recording, which workers share: the parts that are done."
    )
    shards_total: int | None


class QueueView(BaseModel):
    """Where a waiting job stands; 1 is next. Whoever stands behind the first thousand is told 1001."""

    position: int
    eta_seconds: float | None = None


class ErrorView(BaseModel):
    """Why a job failed."""

    code: str
    detail: str


class WarningView(BaseModel):
    """Something about the recording that was mended or passed over."""

    code: str
    detail: str


class ArtifactView(BaseModel):
    """A file that a job made."""

    name: str
    content_type: str
    size: int
    sha256: str
    href: str


class ClientFields(BaseModel):
    """What an answer repeats of the request."""

    options: dict[str, Any]
    filename: str | None
    metadata: Metadata


class TranscriptionView(BaseModel):
    """A job."""

    id: str
    status: Status
    phase: Phase | None
    progress: ProgressView
    queue: QueueView | None
    model: str
    options: dict[str, Any]
    filename: str | None
    metadata: Metadata
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempts: int
    note_count: int | None
    error: ErrorView | None
    warnings: list[WarningView] = Field(
        description="What was mended or passed over in the recording, such as damage; also in notes.json."
    )
    artifacts: list[ArtifactView]


class TranscriptionList(BaseModel):
    """A page of jobs, newest first."""

    items: list[TranscriptionView]
    next_cursor: str | None


class ModelView(BaseModel):
    """A model that jobs may ask for."""

    name: str
    title: str
    description: str
    aliases: list[str]
    licence: str
    size: int = Field(description="Bytes of its weights.")
    files: list[dict[str, Any]]
    installed: bool = Field(description="Whether a worker has its weights; otherwise the first job fetches them.")
    default: bool
    variant_of: str | None = Field(description="The model that this one is another version of.")
    options: dict[str, Any] = Field(description="JSON Schema properties of its options.")
    realtime_factor: float | None = Field(description="Seconds of audio per second, as last measured here.")


class ModelList(BaseModel):
    """All models."""

    items: list[ModelView]


class WorkersView(BaseModel):
    """Workers that were seen lately."""

    present: int
    last_seen_at: str | None


class Readiness(BaseModel):
    """Whether requests can be served."""

    status: Literal["ready", "not ready"]
    checks: dict[str, Literal["ok", "unavailable"]]
    workers: WorkersView | None = Field(None, description="Informational only; null without a database.")


class Problem(BaseModel):
    """RFC 9457, with a `code` that stays the same."""

    type: Literal["about:blank"]
    title: str
    status: int
    detail: str
    code: str


def show_job(job: Job, **more: Any) -> dict[str, Any]:
    """Return a job as JSON types. One that cannot be shown whole is shown without what its client sent."""
    try:
        return _to_json(view_job(job, **more))
    except Exception as error:
        log.error("job_cannot_be_shown", job_id=str(job.id), error=repr(error)[:500])
        bare: dict[str, Any] = {"options": {}, "metadata": {}, "filename": None}
        return _to_json(view_job(job, **more).model_copy(update=bare))


def _to_json(view: TranscriptionView) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(view.model_dump_json())
    json.dumps(body, allow_nan=False)
    return body


def _download(job: Job) -> DownloadView | None:
    if job.download is None:
        return None
    at = Download(**job.download)
    left = max(0, at.bytes_total - at.bytes_done)
    eta = round(left / at.bytes_per_second, 1) if at.bytes_per_second else None
    return DownloadView(**job.download, eta_seconds=eta)


def view_job(job: Job, *, position: int | None = None, shards: ShardsProgress | None = None) -> TranscriptionView:
    """A job as clients see it; `shards`: how far they are, where it is cut into any."""
    seconds_done, eta = job.audio_seconds_done, eta_seconds(job, datetime.now(UTC))
    attempts = job.attempt - job.continuations
    if shards is not None:
        seconds_done = shards.seconds_done
        eta = shards.eta_seconds if job.status is Status.PROCESSING else None
        attempts = max(attempts, shards.attempts)
    fraction = None
    if job.status is Status.SUCCEEDED:
        fraction = 1.0
    elif job.audio_seconds_total:
        fraction = round(min(1.0, seconds_done / job.audio_seconds_total), 4)
    error = None
    if job.status is Status.FAILED and job.error_code:
        error = ErrorView(code=job.error_code, detail=job.error_detail or "")
    return TranscriptionView(
        id=str(job.id),
        status=job.status,
        phase=job.phase,
        progress=ProgressView(
            audio_seconds_done=round(seconds_done, 3),
            audio_seconds_total=job.audio_seconds_total,
            fraction=fraction,
            eta_seconds=eta,
            download=_download(job),
            shards_done=shards.done if shards else None,
            shards_total=shards.total if shards else None,
        ),
        queue=QueueView(position=position) if position else None,
        model=job.model,
        options=job.options,
        filename=job.filename,
        metadata=job.client_metadata,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        attempts=attempts,
        note_count=job.note_count,
        error=error,
        warnings=[WarningView(**warning) for warning in job.warnings],
        artifacts=[
            ArtifactView(
                name=artifact["name"],
                content_type=artifact["content_type"],
                size=artifact["size"],
                sha256=artifact["sha256"],
                href=f"/v1/transcriptions/{job.id}/artifacts/{artifact['name']}",
            )
            for artifact in job.artifacts
        ],
    )
