"""Answers of the service, typed. Fields that a later version adds are ignored."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Status = Literal["queued", "processing", "succeeded", "failed", "canceled"]


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ErrorDetail(_View):
    """A stable code for programs, and a sentence for users."""

    code: str
    detail: str


class Artifact(_View):
    """A file of a job; `size` in bytes."""

    name: str
    content_type: str
    size: int
    sha256: str
    href: str


class Progress(_View):
    """Progress in seconds of audio; `fraction` from 0 to 1, None until the length is known."""

    audio_seconds_done: float
    audio_seconds_total: float | None
    fraction: float | None
    eta_seconds: float | None


class Queue(_View):
    """The place of a queued job: its position from 1, and the estimated seconds until it starts."""

    position: int
    eta_seconds: float | None = None


class Job(_View):
    """A transcription as the service shows it."""

    id: str
    status: Status
    phase: str | None
    progress: Progress
    queue: Queue | None
    model: str
    options: dict[str, Any]
    filename: str | None
    metadata: dict[str, Any]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempts: int
    note_count: int | None
    error: ErrorDetail | None
    last_error: ErrorDetail | None = None
    hint: str | None = None
    warnings: list[ErrorDetail] = []
    artifacts: list[Artifact] = []

    @property
    def has_ended(self) -> bool:
        """True if the job succeeded, failed or was canceled."""
        return self.status in ("succeeded", "failed", "canceled")

    def artifact(self, name: str) -> Artifact | None:
        """Return a file by its name; None if the job has none of that name."""
        return next((artifact for artifact in self.artifacts if artifact.name == name), None)


class Export(_View):
    """A file that is made from the notes of a job."""

    id: str
    format: str
    options: dict[str, Any]
    status: Literal["queued", "processing", "succeeded", "failed"]
    fraction: float
    created_at: datetime
    finished_at: datetime | None
    error: ErrorDetail | None
    artifact: Artifact | None


class Part(_View):
    """A part of an upload that is missing."""

    number: int
    offset: int
    size: int
    url: str


class Upload(_View):
    """A recording that is sent in parts."""

    id: str
    status: Literal["uploading", "verifying", "completed"]
    size: int
    missing_count: int
    missing: list[Part]
