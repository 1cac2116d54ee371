"""The tables. A job is a client's request, a work item a step of it, an attempt one try at an item."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    Enum,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shared.db import UtcDateTime


class Status(StrEnum):
    """A job's states: queued → processing → succeeded | failed | canceled."""

    QUEUED = "queued"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def is_final(self) -> bool:
        """Return True if the job does not change any more unless a client retries it."""
        return self in (Status.SUCCEEDED, Status.FAILED, Status.CANCELED)


class WorkStatus(StrEnum):
    """The states of a work item: (blocked →) queued → processing → succeeded | failed | canceled."""

    BLOCKED = "blocked"  # until items before it have succeeded
    QUEUED = "queued"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


class Scope(StrEnum):
    """Hold what a key allows. Each scope includes those before it."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"

    def includes(self, other: Scope) -> bool:
        """Return True if a key of this scope may do what needs the other one."""
        order = list(Scope)
        return order.index(self) >= order.index(other)


class Phase(StrEnum):
    """The step of a job that is processing."""

    FETCHING_SOURCE = "fetching_source"
    FETCHING_CHECKPOINT = "fetching_checkpoint"
    DECODING_AUDIO = "decoding_audio"
    LOADING_MODEL = "loading_model"
    TRANSCRIBING = "transcribing"
    WRITING_RESULTS = "writing_results"


def _as_text(kind: type[StrEnum], length: int) -> Enum:
    """Return a column type that stores the values as text, so that a new value needs no migration."""
    return Enum(kind, native_enum=False, length=length, values_callable=lambda k: [member.value for member in k])


class Base(DeclarativeBase):
    """Base of the tables; constraints are named, so that migrations can find them on every database."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Job(Base):
    """One recording to transcribe, as clients see it. The work to do for it is in its work items."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("owner", "idempotency_key"),
        Index("ix_jobs_owner_id", "owner", "id"),
        Index("ix_jobs_owner_status_id", "owner", "status", "id"),
        Index("ix_jobs_owner_model_id", "owner", "model", "id"),
        Index("ix_jobs_owner_model_status_id", "owner", "model", "status", "id"),
        Index("ix_jobs_finished_at", "finished_at"),
        Index("ix_jobs_recording_id", "recording_id"),
    )

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)  # version 7: sorts by creation
    owner: Mapped[str] = mapped_column(String(64))
    status: Mapped[Status] = mapped_column(_as_text(Status, 16))
    phase: Mapped[Phase | None] = mapped_column(_as_text(Phase, 32))

    model: Mapped[str] = mapped_column(String(64))
    options: Mapped[dict[str, Any]] = mapped_column(JSON)
    client_metadata: Mapped[dict[str, Any]] = mapped_column(JSON)
    filename: Mapped[str | None] = mapped_column(String(255))  # for display, never used as a path
    upload_key: Mapped[str] = mapped_column(String(255))
    upload_bytes: Mapped[int] = mapped_column(BigInteger)  # 0 until a recording is fetched from its URL
    # the upload or job under whose id the recording is stored; None: under this job's own
    recording_id: Mapped[UUID | None] = mapped_column(Uuid)
    upload_removed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)  # after MT3_UPLOAD_TTL_DAYS
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    request_hash: Mapped[str | None] = mapped_column(String(64))

    attempts: Mapped[int] = mapped_column(server_default="0")  # how often it was started; shards count their own
    shards_total: Mapped[int | None]  # set when a long recording is split

    audio_seconds_done: Mapped[float]
    audio_seconds_total: Mapped[float | None]
    transcribing_since: Mapped[datetime | None] = mapped_column(UtcDateTime)
    # progress of the checkpoint's download: the fields of `shared.kinds.Download`
    download: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))

    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_detail: Mapped[str | None] = mapped_column(String(1000))
    note_count: Mapped[int | None]
    # about the recording: code and detail, as in notes.json
    warnings: Mapped[list[dict[str, str]]] = mapped_column(JSON, server_default="[]")
    artifacts: Mapped[list[dict[str, Any]]] = mapped_column(JSON)  # name, content_type, size, sha256, key
    webhook_url: Mapped[str | None] = mapped_column(String(2000))  # of the client, to be sent its events
    webhook_events: Mapped[list[str]] = mapped_column(JSON, server_default="[]")
    notes_cursor: Mapped[int] = mapped_column(server_default="0")  # the number of its latest note event


class WorkItem(Base):
    """A step that a worker does for a job; see `shared.work`. The row is authoritative, and the outbox."""

    __tablename__ = "work_items"
    __table_args__ = (
        UniqueConstraint("job_id", "kind", "number"),
        Index("ix_work_items_line", "status", "owner", "is_long", "served_at", "number"),
        Index("ix_work_items_status_kind_owner", "status", "kind", "owner"),
        Index("ix_work_items_status_run_after", "status", "run_after"),
        Index("ix_work_items_status_lease_until", "status", "lease_until"),
    )

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    parent_id: Mapped[UUID | None] = mapped_column(Uuid)  # the item that enqueued it; None for a job's first one
    traceparent: Mapped[str | None] = mapped_column(String(64))  # the span that enqueued it: see `shared.tracing`
    owner: Mapped[str] = mapped_column(String(64))  # the job's
    kind: Mapped[str] = mapped_column(String(16))  # of `shared.work.KINDS`
    number: Mapped[int]  # its place among the items that were enqueued together
    status: Mapped[WorkStatus] = mapped_column(_as_text(WorkStatus, 16))
    blocked_by: Mapped[int | None]  # the job's items up to this number must have succeeded first

    payload: Mapped[dict[str, Any]] = mapped_column(JSON)  # further input of the handler
    input_key: Mapped[str | None] = mapped_column(String(255))
    result_key: Mapped[str | None] = mapped_column(String(255))
    seconds: Mapped[float | None]  # of audio
    seconds_done: Mapped[float]

    served_at: Mapped[datetime] = mapped_column(UtcDateTime)  # when its job was last served: see `shared.fairness`
    is_long: Mapped[bool]  # deferred because its recording is long, and not split yet
    run_after: Mapped[datetime] = mapped_column(UtcDateTime)
    attempt: Mapped[int]  # the fencing token: how often it was claimed
    attempts_counted: Mapped[int]  # those that count towards MT3_MAX_ATTEMPTS; a release does not
    worker: Mapped[str | None] = mapped_column(String(255))
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    progress_at: Mapped[datetime | None] = mapped_column(UtcDateTime)  # when the attempt last made progress
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)  # the latest attempt
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_detail: Mapped[str | None] = mapped_column(String(1000))


class Attempt(Base):
    """One try at a work item: which worker, when, and how it ended."""

    __tablename__ = "attempts"
    __table_args__ = (Index("ix_attempts_finished_at", "finished_at"),)

    item_id: Mapped[UUID] = mapped_column(ForeignKey("work_items.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    worker: Mapped[str] = mapped_column(String(255))
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    # succeeded, failed, canceled, released, deferred, lost
    outcome: Mapped[str | None] = mapped_column(String(16))
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_detail: Mapped[str | None] = mapped_column(String(1000))


class Upload(Base):
    """A file that a client sends in parts, or has sent; see `shared.uploads`."""

    __tablename__ = "uploads"
    __table_args__ = (
        Index("ix_uploads_expires_at", "expires_at"),
        Index("ix_uploads_owner_idempotency_key", "owner", "idempotency_key", unique=True),
    )

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)  # version 7
    owner: Mapped[str] = mapped_column(String(64))
    name: Mapped[str | None] = mapped_column(String(255))  # for display, never used as a path
    content_type: Mapped[str] = mapped_column(String(128))
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str | None] = mapped_column(String(64))  # as the client stated it, or as it was computed
    part_size: Mapped[int]
    token: Mapped[str | None] = mapped_column(String(2048))  # of the bucket's multipart upload, while there is one
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)  # moved on by each request
    verifying_until: Mapped[datetime | None] = mapped_column(UtcDateTime)  # the verifying process's lease
    completed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    request_hash: Mapped[str | None] = mapped_column(String(64))


class Export(Base):
    """A file made from the notes of a job that succeeded. Its status is that of its work item."""

    __tablename__ = "exports"
    __table_args__ = (UniqueConstraint("job_id", "options_hash"),)

    id: Mapped[UUID] = mapped_column(ForeignKey("work_items.id", ondelete="CASCADE"), primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    format: Mapped[str] = mapped_column(String(32))
    options: Mapped[dict[str, Any]] = mapped_column(JSON)
    options_hash: Mapped[str] = mapped_column(String(64))  # of format and options
    artifact: Mapped[str] = mapped_column(String(128))  # its name among the job's artifacts, once it is made
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class NoteEvent(Base):
    """Notes that were found, or taken back, while a job runs; see `shared.note_stream`. Removed with the job."""

    __tablename__ = "note_events"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)  # 1, 2, 3, …
    kind: Mapped[str] = mapped_column(String(16))  # notes, notes_withdrawn
    content: Mapped[bytes] = mapped_column(LargeBinary)  # JSON, compressed


class ApiKey(Base):
    """A key of a client. Only the hash is stored: the key itself is shown once, when it is made."""

    __tablename__ = "api_keys"

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(String(100))
    owner: Mapped[str] = mapped_column(String(64), index=True)  # of its jobs: the key itself, or shared by keys
    scope: Mapped[Scope] = mapped_column(_as_text(Scope, 16))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)  # to the minute
    # in place of those of the settings; see `shared.quotas`
    quota_jobs: Mapped[int | None]
    quota_audio_seconds: Mapped[float | None]
    quota_stored_bytes: Mapped[int | None] = mapped_column(BigInteger)


class Login(Base):
    """A browser that is logged in with a key, until it logs out, the log-in expires or the key ends."""

    __tablename__ = "logins"

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)  # of the cookie's value
    key_id: Mapped[UUID] = mapped_column(ForeignKey("api_keys.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


class Share(Base):
    """A link by which a job can be read without a key. It is deleted with its job."""

    __tablename__ = "shares"

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class WebhookSecret(Base):
    """Hold what the webhooks of an owner are signed with; for a day after a change, with the previous one, too."""

    __tablename__ = "webhook_secrets"

    owner: Mapped[str] = mapped_column(String(64), primary_key=True)
    secret: Mapped[str] = mapped_column(String(100))
    previous: Mapped[str | None] = mapped_column(String(100))
    rotated_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ModelReport(Base):
    """The latest report of a model by a worker: are its weights installed, how fast does it run."""

    __tablename__ = "model_reports"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    installed: Mapped[bool]
    realtime_factor: Mapped[float | None]  # seconds of audio per second of transcribing
    # progress of a fetch in the background: the fields of `shared.kinds.Download`; and why the last one failed
    download: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    error: Mapped[str | None] = mapped_column(String(500))
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Garbage(Base):
    """Storage prefixes to delete: recorded with the row's deletion, retried by the scheduler until it succeeds."""

    __tablename__ = "garbage"

    prefix: Mapped[str] = mapped_column(String(255), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Lock(Base):
    """A lock on work that one process at a time should do; see `shared.locks`."""

    __tablename__ = "locks"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    holder: Mapped[str] = mapped_column(String(255))
    until: Mapped[datetime] = mapped_column(UtcDateTime)


class Watch(Base):
    """A period in which one scheduler process watched storage; see `shared.watches`."""

    __tablename__ = "watches"

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    since: Mapped[datetime] = mapped_column(UtcDateTime)
    until: Mapped[datetime] = mapped_column(UtcDateTime)


class Worker(Base):
    """The last heartbeat of a worker process; no scheduling decision depends on it. An operator may drain it."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime)
    threads: Mapped[int | None]  # how many items it runs at a time
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    draining_since: Mapped[datetime | None] = mapped_column(UtcDateTime)  # it claims nothing more
