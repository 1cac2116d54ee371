"""Quotas: how much an owner may have queued and stored.

They are checked in the transaction that queues a job, with the owner's keys locked, so that requests at the same
time do not exceed them together. The length of a recording is known once a worker has opened it; until then it is
estimated from the size of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Float,
    Select,
    and_,
    case,
    cast,
    func,
    literal_column,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.orm import Session

from shared.config import Settings
from shared.errors import QuotaExceeded
from shared.tables import ApiKey, Job, Status, Upload

UNCOMPRESSED, LOSSLESS = (".wav", ".wave", ".aif", ".aiff", ".au", ".caf"), (".flac", ".ape", ".wv")
# Bytes per second of 16-bit stereo at 44.1 kHz, of the same compressed without loss, and at 320 kbit/s.
TYPICAL_RATES = (176_400.0, 100_000.0, 40_000.0)
HIGHEST_RATE = 600_000.0  # 24-bit stereo at 96 kHz: a recording is at least as long as this makes it


@dataclass(frozen=True)
class Quotas:
    """The limits of an owner; None: no limit.

    Attributes:
        jobs: that are queued or running.
        audio_seconds: length of the recordings of those jobs, as far as it is not transcribed yet.
        stored_bytes: recordings and results of all jobs.
    """

    jobs: int | None = None
    audio_seconds: float | None = None
    stored_bytes: int | None = None

    def override(self, own: Quotas) -> Quotas:
        """Return these quotas with those in place of them that `own` sets."""
        return Quotas(
            **{name: value if (mine := getattr(own, name)) is None else mine for name, value in vars(self).items()}
        )

    @property
    def is_set(self) -> bool:
        """Return True if there is any limit."""
        return any(limit is not None for limit in (self.jobs, self.audio_seconds, self.stored_bytes))


NO_QUOTAS = Quotas()


def quotas_of(limits: Settings | ApiKey) -> Quotas:
    """Return the quotas that the settings or a key state."""
    return Quotas(limits.quota_jobs, limits.quota_audio_seconds, limits.quota_stored_bytes)


def lock_owner(session: Session, owner: str, quotas: Quotas) -> None:
    """Let other transactions that check the quotas of this owner wait for this one."""
    if quotas.is_set:
        lock = update(ApiKey).where(ApiKey.owner == owner).values(owner=ApiKey.owner)
        session.execute(lock, execution_options={"synchronize_session": False})


def check_queued(session: Session, owner: str, quotas: Quotas, job_id: UUID) -> None:
    """Raise if a job that was just queued exceeds a quota of what its owner may have queued.

    Raises:
        QuotaExceeded
    """
    if quotas.jobs is not None:
        count = session.scalar(select(func.count()).select_from(Job).where(_is_active(owner))) or 0
        if count > quotas.jobs:
            raise QuotaExceeded(
                "jobs",
                quotas.jobs,
                f"This key has {count - 1} transcriptions waiting or running, and may have {quotas.jobs}. "
                "Try again when one has ended.",
                may_wait=quotas.jobs > 0,
            )
    if quotas.audio_seconds is not None:
        _check_audio(session, owner, quotas.audio_seconds, job_id)


def check_stored(session: Session, owner: str, quotas: Quotas, *, added: int) -> None:
    """Raise if an owner would have more bytes stored than its quota.

    Args:
        added: bytes that are not in the database yet.

    Raises:
        QuotaExceeded
    """
    if quotas.stored_bytes is None:
        return
    stored = count_stored_bytes(session, owner)
    if stored + added > quotas.stored_bytes:
        raise QuotaExceeded(
            "stored",
            quotas.stored_bytes,
            f"This key has {stored / 1e6:,.1f} MB stored, and may have {quotas.stored_bytes / 1e6:,.1f} MB. "
            "Delete transcriptions that are no longer needed.",
            may_wait=False,
        )


def count_stored_bytes(session: Session, owner: str | None = None) -> int:
    """Return the bytes of all recordings and results of an owner; None: of all owners."""
    # Several jobs may share a recording, and use one that was uploaded in parts.
    mine = true() if owner is None else Job.owner == owner
    sizes = select(func.max(Job.upload_bytes).label("size")).where(mine, Job.upload_removed_at.is_(None))
    recordings = sizes.group_by(func.coalesce(Job.recording_id, Job.id)).subquery()
    used = select(Job.recording_id).where(mine, Job.recording_id.is_not(None))
    unused = select(func.sum(Upload.size)).where(Upload.id.not_in(used))
    if owner is not None:
        unused = unused.where(Upload.owner == owner)
    uploads = (session.scalar(select(func.sum(recordings.c.size))) or 0) + (session.scalar(unused) or 0)
    return int(uploads) + int(session.scalar(_result_bytes(session.get_bind().dialect.name).where(mine)) or 0)


def _result_bytes(dialect: str) -> Select[int | None]:
    """Return a query for the sizes in the lists of artifacts, which are JSON."""
    value: ColumnElement[str] = literal_column("artifact.value")
    if dialect == "sqlite":
        rows = func.json_each(Job.artifacts).table_valued("value", name="artifact")
        size = func.json_extract(value, "$.size")
    else:
        is_list = func.json_typeof(Job.artifacts) == "array"
        artifacts = case((is_list, Job.artifacts), else_=literal_column("'[]'::json"))
        rows = func.json_array_elements(artifacts).table_valued("value", name="artifact")
        size = func.json_extract_path_text(value, "size")
    return select(func.sum(cast(size, Float))).select_from(Job).join(rows, literal_column("true"))


def _check_audio(session: Session, owner: str, quota: float, job_id: UUID) -> None:
    left = func.coalesce(Job.audio_seconds_total, _estimated_seconds()) - Job.audio_seconds_done
    waiting = select(func.sum(left)).where(_is_active(owner))
    others = session.scalar(waiting.where(Job.id != job_id)) or 0.0
    own = session.scalar(waiting.where(Job.id == job_id)) or 0.0
    at_least = func.coalesce(Job.audio_seconds_total, cast(Job.upload_bytes, Float) / HIGHEST_RATE)
    if (session.scalar(select(at_least).where(Job.id == job_id)) or 0.0) > quota:
        text = f"The recording is longer than the {quota:,.0f} s that this key may have waiting. Shorten it."
        raise QuotaExceeded("audio", quota, text, may_wait=False)
    if others > 0 and others + own > quota:
        raise QuotaExceeded(
            "audio",
            quota,
            f"This key has about {others:,.0f} s of audio waiting, and may have {quota:,.0f} s. "
            "Try again when some of it is transcribed.",
            may_wait=True,
        )


def _is_active(owner: str) -> ColumnElement[bool]:
    return and_(Job.owner == owner, Job.status.in_((Status.QUEUED, Status.PROCESSING)))


def _estimated_seconds() -> ColumnElement[Any]:
    name = func.lower(Job.filename)
    rates = zip((UNCOMPRESSED, LOSSLESS), TYPICAL_RATES, strict=False)
    kinds = [(or_(*(name.endswith(suffix) for suffix in suffixes)), rate) for suffixes, rate in rates]
    return cast(Job.upload_bytes, Float) / case(*kinds, else_=TYPICAL_RATES[-1])
