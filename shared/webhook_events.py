"""The events that webhooks report: a job has succeeded, failed or was canceled."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from shared.kinds import WEBHOOK, NewItem
from shared.tables import Job, WorkItem

EVENTS = ("transcription.succeeded", "transcription.failed", "transcription.canceled")


def announce(session: Session, job_id: UUID, enqueue: Callable[..., Sequence[UUID]]) -> None:
    """Enqueue the event of a job that ends in this transaction, if its client asked for it."""
    subscribed = select(Job).where(Job.id == job_id, Job.webhook_url.is_not(None))
    # The statements that ended the job went past the session.
    job = session.scalar(subscribed.execution_options(populate_existing=True))
    if job is None or _event_of(job) not in job.webhook_events:
        return
    number = select(func.count()).where(WorkItem.job_id == job_id, WorkItem.kind == WEBHOOK)
    of_job = (WorkItem.job_id == job_id, WorkItem.parent_id.is_(None))
    first = session.execute(select(WorkItem.id, WorkItem.traceparent).where(*of_job)).first()
    item = _make_item(job, session.scalar(number) or 0)
    item = replace(item, traceparent=first.traceparent if first else None)
    enqueue(session, job_id, job.owner, [item], parent_id=first.id if first else None)


def receiver_of(url: str) -> str:
    """Return the host and port of a URL: deliveries to the same receiver rest together."""
    return urlsplit(url).netloc[:255].lower()


def _make_item(job: Job, number: int) -> NewItem:
    assert job.webhook_url is not None
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    body = json.dumps({"type": _event_of(job), "timestamp": at, "data": _data(job)}, separators=(",", ":"))
    payload = {"event": _event_of(job), "url": job.webhook_url, "body": body, "since": at}
    return NewItem(WEBHOOK, number, input_key=receiver_of(job.webhook_url), payload=payload)


def _event_of(job: Job) -> str:
    return f"transcription.{job.status.value}"


def _data(job: Job) -> dict[str, Any]:
    has_failed = job.error_code is not None
    return {
        "id": str(job.id),
        "status": job.status.value,
        "model": job.model,
        "filename": job.filename,
        "metadata": job.client_metadata,
        "note_count": job.note_count,
        "error": {"code": job.error_code, "detail": job.error_detail or ""} if has_failed else None,
        "href": f"/v1/transcriptions/{job.id}",
    }
