"""The pydantic models of requests and responses; OpenAPI is generated from them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from apiflask.fields import UploadFile
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Json, StringConstraints
from pydantic_core import PydanticCustomError
from werkzeug.datastructures import FileStorage

from mt3_infer.exports import FORMATS
from mt3_infer.models import Purpose
from shared.logs import get_logger
from shared.tables import Phase, Status
from web.forms import SEND_RECORDING
from web.job_links import LinksView
from web.webhook_fields import WebhookFields

log = get_logger(__name__)

Metadata = dict[str, Any]
MAX_METADATA_CHARACTERS = 16_384


def _a_file(value: object) -> object:
    """Raise unless the form sent the field as a file."""
    if not isinstance(value, FileStorage):
        raise PydanticCustomError("no_file", SEND_RECORDING)
    return value


class NewTranscription(WebhookFields):
    """The form of `POST /v1/transcriptions`."""

    file: Annotated[
        UploadFile,
        BeforeValidator(_a_file),
        Field(description="The recording: any common audio or video format."),
    ]
    model: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None, description="A model's name or alias, or `auto`; see /v1/models."
    )
    options: Annotated[Json[dict[str, Any]], BeforeValidator(lambda text: text or "{}")] = Field(
        default_factory=dict, description="Options of the model, as a JSON object."
    )
    metadata: Annotated[str, StringConstraints(max_length=MAX_METADATA_CHARACTERS)] | None = Field(
        None, description="Your own data, as a JSON object. It is returned with the job."
    )


class CreateHeaders(BaseModel):
    """Headers of `POST /v1/transcriptions`."""

    idempotency_key: str | None = Field(
        None,
        min_length=1,
        max_length=255,
        description="A unique string for this upload. Repeating the request with it creates no second job.",
    )
    prefer: str | None = Field(None, description="`wait=N`: respond when the job ends, after at most N seconds.")


class ShowHeaders(BaseModel):
    """Headers of `GET /v1/transcriptions/{id}`."""

    prefer: str | None = Field(None, description="`wait=N`: respond when the job ends, after at most N seconds.")
    if_none_match: str | None = Field(None, description="The last `ETag`: 304 if nothing has changed.")


class ChangeHeaders(BaseModel):
    """Headers of `PATCH` and `DELETE /v1/transcriptions/{id}`."""

    if_match: str | None = Field(None, description="The last `ETag`: 412 if the transcription has changed since.")


class Changes(BaseModel):
    """The body of `PATCH /v1/transcriptions/{id}`; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, StringConstraints(min_length=1, max_length=255)] | None = Field(
        None, description="The new file name, which is shown and which downloads are named after."
    )
    metadata: Metadata | None = Field(None, description="Your own data, which replaces what was there.")


class ArtifactQuery(BaseModel):
    """The query of `GET /v1/transcriptions/{id}/artifacts/{name}`."""

    redirect: bool = Field(True, description="`false`: return the file itself, even if the storage can serve it.")


class DownloadView(BaseModel):
    """Progress of the download of the model's weights; in the phase `fetching_source`, of the recording."""

    bytes_done: int
    bytes_total: int = Field(description="0 if it is unknown.")
    bytes_per_second: float
    eta_seconds: float | None
    waiting: bool = Field(description="True if another worker is downloading; the figures are that worker's.")


class ProgressView(BaseModel):
    """Progress of a job in seconds of audio, and in bytes while the model's weights are downloaded."""

    audio_seconds_done: float
    audio_seconds_total: float | None = Field(description="Length of the recording; null until it is known.")
    fraction: float | None = Field(description="From 0 to 1; null until the length is known.")
    eta_seconds: float | None = Field(description="Estimated time left.")
    download: DownloadView | None
    shards_done: int | None = Field(description="Finished shards of a long recording, which workers share.")
    shards_total: int | None = Field(description="Number of shards; null unless the recording is split.")


class QueueView(BaseModel):
    """The place of a queued job."""

    position: int = Field(description="1 is next. All jobs after the first thousand have position 1001.")
    eta_seconds: float | None = Field(
        description="Estimated seconds until the job starts, by the measured speed of what is before it; null "
        "while no worker is present or no speed is measured, and after the first thousand jobs."
    )


class ErrorView(BaseModel):
    """Why a job failed."""

    code: str = Field(description="Stable code for programs.")
    detail: str = Field(description="Message for users.")


class WarningView(BaseModel):
    """A defect of the recording that was repaired or skipped."""

    code: str
    detail: str


class ArtifactView(BaseModel):
    """A result file of a job."""

    name: str
    content_type: str
    size: int
    sha256: str
    href: str


class ArtifactList(BaseModel):
    """All result files of a job."""

    items: list[ArtifactView]


class NewExport(BaseModel):
    """The body of `POST /v1/transcriptions/{id}/exports`."""

    model_config = ConfigDict(extra="forbid")

    format: Annotated[str, StringConstraints(max_length=32)] = Field(
        description=f"One of: {', '.join(FORMATS)}.", json_schema_extra={"enum": list(FORMATS)}
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the format; see below.")
    source: Literal["original", "corrected"] = Field(
        "original", description="The notes to export: those that were transcribed, or their corrected version."
    )


class ExportView(BaseModel):
    """A file made from the notes of a transcription."""

    id: str
    format: str
    options: dict[str, Any] = Field(description="All options, with defaults for those that were not given.")
    source: Literal["original", "corrected"]
    status: Literal["queued", "processing", "succeeded", "failed"]
    fraction: float = Field(description="Progress, from 0 to 1.")
    created_at: datetime
    finished_at: datetime | None
    error: ErrorView | None
    artifact: ArtifactView | None = Field(description="The file; null until the export has succeeded.")


class ExportList(BaseModel):
    """All exports of a transcription, oldest first."""

    items: list[ExportView]


class ClientFields(BaseModel):
    """The fields of a request that the response repeats."""

    options: dict[str, Any]
    filename: str | None
    metadata: Metadata


class TranscriptionView(BaseModel):
    """A job."""

    id: str
    links: LinksView
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
    expires_at: datetime | None = Field(description="When the job and its files are removed.")
    attempts: int
    note_count: int | None
    error: ErrorView | None = Field(description="Why the job failed.")
    last_error: ErrorView | None = Field(
        description="Why the last attempt failed, while the job waits for the next one or is in it."
    )
    hint: str | None = Field(description="Why the job cannot go on at the moment, for users.")
    warnings: list[WarningView] = Field(
        description="Defects of the recording that were repaired or skipped, such as damage; also in notes.json."
    )
    artifacts: list[ArtifactView]


class TranscriptionList(BaseModel):
    """A page of jobs, newest first."""

    items: list[TranscriptionView]
    next_cursor: str | None


class ModelView(BaseModel):
    """A model that jobs can use."""

    name: str
    title: str
    description: str
    purpose: Purpose = Field(description="What the model is made for.")
    aliases: list[str]
    license: str = Field(description="License of the weights (SPDX).")
    license_url: str
    commercial_use: bool = Field(description="True if that license allows commercial use.")
    training_data: str = Field(description="What is known of the recordings that the weights were trained on.")
    attribution: str
    size: int = Field(description="Size of the weights in bytes.")
    files: list[dict[str, Any]]
    installed: bool = Field(description="True if a worker has the weights; else the first job downloads them.")
    download: dict[str, Any] | None = Field(description="Progress of fetching the weights in the background.")
    error: str | None = Field(description="Why the weights could not be fetched in the background.")
    default: bool = Field(description="True if a job that names no model gets this one now.")
    variant_of: str | None = Field(description="The model that this one is a variant of.")
    options: dict[str, Any] = Field(description="JSON Schema properties of the options.")
    realtime_factor: float | None = Field(description="Seconds of audio transcribed per second, as last measured.")


class ModelList(BaseModel):
    """All models."""

    items: list[ModelView]
    default: str = Field(description="The model of jobs that name none: a name, or `auto`.")
    preferred: str = Field(description="The model that `auto` is as soon as its weights are installed.")


class WorkersView(BaseModel):
    """Workers seen recently."""

    present: int
    last_seen_at: str | None


class Readiness(BaseModel):
    """State of the dependencies."""

    status: Literal["ready", "not ready"]
    checks: dict[str, Literal["ok", "unavailable"]]
    workers: WorkersView | None = Field(None, description="Informational; null if the database is unavailable.")


class Problem(BaseModel):
    """An error (RFC 9457) with a stable `code`."""

    type: str = Field(description="`/problems/` and the code: a page about it, at the same service.")
    title: str = Field(description="A short summary of the type.")
    status: int
    detail: str = Field(description="What is wrong and what to do, for users.")
    code: str = Field(description="Stable, for programs.")
    errors: dict[str, list[str]] | None = Field(None, description="What is wrong with which field.")
