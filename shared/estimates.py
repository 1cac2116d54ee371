"""Estimates of the work that is waiting and running, from the tables and measured speeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any
from uuid import UUID

from sqlalchemy import Row, case, func, select
from sqlalchemy.orm import Session

from shared import worker_registry
from shared.db import now_plus
from shared.forecast import Running, Waiting
from shared.kinds import CLAIMED_KINDS, SHARD, TRANSCRIBE
from shared.speeds import Pace, Sample, Speeds, measure, suffix_of
from shared.tables import Attempt, Job, ModelReport, WorkItem, WorkStatus

SAMPLES = 60  # attempts from which speeds are measured
OTHER_SECONDS = 1.0  # for items that transcribe nothing, such as exports, as long as none is measured
SURELY_LONG = 1.5  # times MT3_SHARD_SECONDS: from where a recording is taken for long by its size in bytes
LEAST_LEFT = 0.1  # of its time: how much an item has left that takes longer than expected


@dataclass(frozen=True)
class Estimates:
    """Estimates while every thread of the workers is in use.

    Attributes:
        now: the time of the database at which everything was read.
        together: how many items a worker process runs at a time.
        shard_seconds: longer recordings are split; 0 if none are.
        other: seconds that an item takes that transcribes nothing.
    """

    speeds: Speeds
    now: datetime
    together: float
    shard_seconds: float
    other: float = OTHER_SECONDS

    def waiting(self, row: Row[Any]) -> Waiting:
        """Return the work that a row of `read_waiting` stands for."""
        served_at = (row.served_at - self.now).total_seconds()
        ready = max(0.0, (row.run_after - self.now).total_seconds())
        if row.shards:
            return Waiting(
                row.job_id,
                row.owner,
                served_at,
                seconds=self._seconds(row.model, row.shard_seconds / row.shards),
                pieces=row.shards,
                ready=ready,
                is_long=True,
                is_split=True,
            )
        if not row.transcribes:
            return Waiting(row.job_id, row.owner, served_at, seconds=self.other, ready=ready)
        return self._whole(row, row.job_id, served_at, ready=ready, is_deferred=bool(row.is_long))

    def new_job(self, job: Job, *, arrives: float) -> Waiting:
        """Return the work of a job that was created these seconds after the rest was read."""
        return self._whole(job, job.id, arrives, ready=arrives)

    def expected(self, rows: Sequence[Row[Any]]) -> list[Waiting]:
        """Return the work that will probably arrive, by the rows of `read_arrivals`.

        Arrivals that have lasted for some time last as long again with a probability of one half, and the less
        probably the longer there was none: so many of these jobs are expected once more, each as far in the future
        as it is in the past.
        """
        ages = [max(0.0, (self.now - row.created_at).total_seconds()) for row in rows]
        expected, share = [], 0.0
        for number, (row, age) in enumerate(zip(rows, ages, strict=True), start=1):
            share += (1 - ages[0] / age if age else 1.0) / 2
            if share >= 1:
                share -= 1
                expected.append(self._whole(row, UUID(int=number), age, ready=age))
        return expected

    def running(self, row: Row[Any]) -> tuple[Running, list[Waiting]]:
        """Return what is left of a row of `read_running`, and the work that follows from it."""
        elapsed = (self.now - row.started_at).total_seconds()
        if row.kind == SHARD:
            audio, done = row.seconds or 0.0, row.seconds_done
        elif row.kind == TRANSCRIBE:
            audio, done = self._audio_seconds(row), row.audio_seconds_done
            if self._is_split(row, audio):  # it is being decoded; then its shards wait
                left = self._left(self.other, elapsed)
                rest = self._whole(row, row.job_id, served_at=0.0, ready=left, is_split=True)
                return Running(row.job_id, row.owner, left), [rest]
        else:
            return Running(row.job_id, row.owner, self._left(self.other, elapsed)), []
        total = self._seconds(row.model, audio)
        left = total * (1 - min(1.0, done / audio)) if done and audio else self._left(total, elapsed)
        return Running(row.job_id, row.owner, left, is_long=row.kind == SHARD), []

    def _whole(self, job: Any, job_id: Any, served_at: float, **more: Any) -> Waiting:
        """Return the work of a recording that is not split yet, but may be."""
        audio = self._audio_seconds(job)
        pieces = 1
        if more.get("is_deferred") or self._is_split(job, audio):
            pieces = max(1, math.ceil(audio / self.shard_seconds)) if self.shard_seconds else 1
            more |= {"is_long": True, "opening": self.other}
        return Waiting(
            job_id, job.owner, served_at, seconds=self._seconds(job.model, audio / pieces), pieces=pieces, **more
        )

    def _is_split(self, job: Any, audio_seconds: float) -> bool:
        least = self.shard_seconds if job.audio_seconds_total else SURELY_LONG * self.shard_seconds
        return 0 < least < audio_seconds

    def _audio_seconds(self, job: Any) -> float:
        if job.audio_seconds_total:
            return float(job.audio_seconds_total)
        return self.speeds.audio_seconds(job.filename, job.upload_bytes or 0)

    def _seconds(self, model: str, audio_seconds: float) -> float:
        pace = self.speeds.pace(model) or Pace(self.other, 0.0)
        return pace.seconds(audio_seconds, together=self.together)

    @staticmethod
    def _left(total: float, elapsed: float) -> float:
        return max(LEAST_LEFT * total, total - elapsed)


_OF_JOB = (Job.model, Job.filename, Job.upload_bytes, Job.audio_seconds_total, Job.audio_seconds_done)


def read_waiting(session: Session, *, limit: int) -> Sequence[Row[Any]]:
    """Return the jobs with waiting items: first those to claim, in order, then those that wait to be split."""
    is_shard = WorkItem.kind == SHARD
    is_long = func.min(case((WorkItem.is_long, 1), else_=0))
    served_at = func.min(WorkItem.served_at)
    line = (
        select(
            WorkItem.job_id,
            is_long.label("is_long"),
            served_at.label("served_at"),
            func.min(WorkItem.run_after).label("run_after"),
            func.count().filter(is_shard).label("shards"),
            func.sum(WorkItem.seconds).filter(is_shard).label("shard_seconds"),
            func.count().filter(WorkItem.kind == TRANSCRIBE).label("transcribes"),
        )
        .where(WorkItem.status == WorkStatus.QUEUED, WorkItem.kind.in_(CLAIMED_KINDS))
        .group_by(WorkItem.job_id)
        .order_by(is_long, served_at, WorkItem.job_id)
        .limit(limit)
        .subquery()
    )
    query = select(line, Job.owner, *_OF_JOB).join(Job, Job.id == line.c.job_id)
    return session.execute(query.order_by(line.c.is_long, line.c.served_at, line.c.job_id)).all()


def read_arrivals(session: Session, *, limit: int) -> Sequence[Row[Any]]:
    """Return the jobs that were created most recently, the latest first."""
    query = select(Job.owner, Job.created_at, *_OF_JOB).order_by(Job.id.desc()).limit(limit)
    rows: Sequence[Any] = session.execute(query).all()
    return rows


def read_running(session: Session) -> Sequence[Row[Any]]:
    """Return the items that workers hold."""
    columns = (WorkItem.job_id, WorkItem.kind, WorkItem.seconds, WorkItem.seconds_done, WorkItem.started_at)
    query = select(*columns, WorkItem.worker, Job.owner, *_OF_JOB).join(Job, Job.id == WorkItem.job_id)
    held = query.where(WorkItem.status == WorkStatus.PROCESSING, WorkItem.kind.in_(CLAIMED_KINDS))
    rows: Sequence[Any] = session.execute(held).all()
    return rows


def read_capacity(session: Session) -> tuple[datetime, int, int]:
    """Return the database's time, the number of workers present, and how many items they run at a time."""
    row = session.execute(select(now_plus(), *worker_registry.capacity())).one()
    return row[0], row[1], row[2] or 0


def read_estimates(
    session: Session, now: datetime, running: Sequence[Row[Any]], *, together: float, shard_seconds: float
) -> Estimates | None:
    """Return estimates by the attempts that succeeded most recently; None if no speed was ever measured."""
    latest = (
        select(Attempt.item_id, Attempt.worker, Attempt.started_at, Attempt.finished_at)
        .where(Attempt.finished_at.is_not(None), Attempt.outcome == "succeeded")
        .order_by(Attempt.finished_at.desc())
        .limit(SAMPLES)
        .subquery()
    )
    query = select(latest, WorkItem.kind, WorkItem.seconds, Job.shards_total, *_OF_JOB)
    query = query.join(WorkItem, WorkItem.id == latest.c.item_id).join(Job, Job.id == WorkItem.job_id)
    rows = session.execute(query.order_by(latest.c.finished_at.desc())).all()
    found = [(row, _as_sample(row, now)) for row in rows]
    samples = [sample for _, sample in found if sample is not None]
    others = [(row.finished_at - row.started_at).total_seconds() for row, sample in found if sample is None]
    beginnings = [(row.worker, (row.started_at - now).total_seconds()) for row in running]
    reports = select(ModelReport.name, ModelReport.realtime_factor).where(ModelReport.realtime_factor > 0)
    reported = {name: factor for name, factor in session.execute(reports) if factor}
    speeds = measure(samples, running=beginnings, together=together, reported=reported)
    other = median(others) if others else OTHER_SECONDS
    return Estimates(speeds, now, together, shard_seconds, other) if speeds.paces else None


def _as_sample(row: Row[Any], now: datetime) -> Sample | None:
    """Return the sample of an attempt; None if it transcribed nothing."""
    audio: float | None = None
    if row.kind == SHARD:
        audio = row.seconds
    elif row.kind == TRANSCRIBE and row.shards_total is None:
        audio = row.audio_seconds_total
    if audio is None:
        return None
    return Sample(
        model=row.model,
        worker=row.worker,
        began=(row.started_at - now).total_seconds(),
        ended=(row.finished_at - now).total_seconds(),
        audio_seconds=audio,
        suffix=suffix_of(row.filename),
        upload_bytes=row.upload_bytes if row.kind == TRANSCRIBE else None,
    )
