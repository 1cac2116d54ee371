"""Deliveries of webhooks: work items that threads of their own send, and that clients can list and repeat.

An event is sent until its receiver accepts it, with growing pauses, for three days. A receiver that cannot be
reached is left alone for a while with all its events, so that it delays no other. The events of a job are sent in
order: a later one waits until those before it were sent or given up.
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from shared import work
from shared.config import Settings
from shared.db import Sessions, now_plus
from shared.errors import JobNotFound
from shared.fairness import claim_first
from shared.jobs import get_job
from shared.keys import PUBLIC
from shared.kinds import WEBHOOK, Claim
from shared.tables import Attempt, WebhookSecret, WorkItem, WorkStatus

PAUSES = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)
"""Seconds after each failure until the next attempt; three days in all, as Standard Webhooks recommends."""
MOST_PAUSE = 86400.0  # that a receiver may ask for by Retry-After
REST_SECONDS = 60.0  # for which a receiver that cannot be reached is left alone, at most
PREVIOUS_SECONDS = 86400.0  # for which a replaced secret signs as well
CANDIDATES = 50
OPEN = (WorkStatus.QUEUED, WorkStatus.PROCESSING)


@dataclass(frozen=True)
class Delivery:
    """An event with its attempts, oldest first."""

    item: WorkItem
    attempts: Sequence[Attempt]


def claim_next(
    sessions: Sessions, *, worker: str, lease_seconds: float, max_attempts: int, except_for: Collection[str]
) -> Claim | None:
    """Claim the delivery that has been due for longest; None if there is none.

    Args:
        except_for: receivers that get no more at the moment.
    """
    due = select(WorkItem.id).where(
        WorkItem.status == WorkStatus.QUEUED,
        WorkItem.kind == WEBHOOK,
        WorkItem.run_after <= now_plus(),
        WorkItem.input_key.not_in(except_for),
    )
    with sessions() as session:
        found = session.scalars(due.order_by(WorkItem.run_after).limit(CANDIDATES)).all()
    return claim_first(sessions, found, worker=worker, lease_seconds=lease_seconds, max_attempts=max_attempts)


def seconds_to_wait(session: Session, claim: Claim) -> float | None:
    """Return how long to wait for an earlier event of the same job; None if there is none to wait for."""
    before = select(func.max(WorkItem.run_after)).where(
        WorkItem.job_id == claim.job_id,
        WorkItem.kind == WEBHOOK,
        WorkItem.number < claim.number,
        WorkItem.status.in_(OPEN),
    )
    due = session.scalar(before)
    if due is None:
        return None
    now = session.scalar(select(now_plus())) or datetime.now(UTC)
    return max(1.0, (due - now).total_seconds() + 1.0)


def pause_after(session: Session, claim: Claim, asked: float | None) -> float | None:
    """Return the seconds until the next attempt after this one fails; None if it was the last one.

    Args:
        asked: seconds that the receiver asked to wait.
    """
    since = datetime.fromisoformat(claim.payload["since"])
    failed = select(func.count()).where(
        Attempt.item_id == claim.id,
        Attempt.outcome == "failed",
        Attempt.started_at >= since - timedelta(seconds=1),
    )
    failures = session.scalar(failed) or 0
    if failures >= len(PAUSES):
        return None
    return max(PAUSES[failures], min(asked or 0.0, MOST_PAUSE))


def rest(session: Session, receiver: str, seconds: float) -> None:
    """Leave a receiver alone for a while."""
    waiting = update(WorkItem).where(
        WorkItem.status == WorkStatus.QUEUED,
        WorkItem.kind == WEBHOOK,
        WorkItem.input_key == receiver,
        WorkItem.run_after < now_plus(min(seconds, REST_SECONDS)),
    )
    later = waiting.values(run_after=now_plus(min(seconds, REST_SECONDS)))
    session.execute(later, execution_options=work.UNSYNCHRONIZED)


def list_deliveries(session: Session, owner: str, job_id: UUID) -> list[Delivery]:
    """List the deliveries of a job, oldest first.

    Raises:
        JobNotFound: there is no such job of this owner.
    """
    get_job(session, owner, job_id)
    items = work.list_items(session, job_id, WEBHOOK)
    query = select(Attempt).where(
        Attempt.item_id.in_([item.id for item in items]),
        Attempt.outcome.is_distinct_from("released"),  # nothing was sent
    )
    attempts = session.scalars(query.order_by(Attempt.number)).all()
    return [Delivery(item, [one for one in attempts if one.item_id == item.id]) for item in items]


def redeliver(session: Session, owner: str, job_id: UUID, item_id: UUID) -> Delivery:
    """Send an event again, or at once if it waits; three days begin anew.

    Raises:
        JobNotFound: there is no such delivery of a job of this owner.
    """
    found = [one for one in list_deliveries(session, owner, job_id) if one.item.id == item_id]
    if not found:
        raise JobNotFound(f"Transcription {job_id} has no delivery {item_id}.")
    since = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    again = update(WorkItem).where(WorkItem.id == item_id, WorkItem.status != WorkStatus.PROCESSING)
    again = again.values(
        status=WorkStatus.QUEUED,
        attempts_counted=0,
        run_after=now_plus(),
        finished_at=None,
        error_code=None,
        error_detail=None,
        payload={**found[0].item.payload, "since": since},
    )
    session.execute(again, execution_options=work.UNSYNCHRONIZED)
    session.expire_all()
    return replace(found[0], item=session.scalars(select(WorkItem).where(WorkItem.id == item_id)).one())


# --- secrets -----------------------------------------------------------------------------------------------


def get_secret(session: Session, settings: Settings, owner: str) -> str | None:
    """Return what the webhooks of an owner are signed with; None if there is nothing, see `make_secret`."""
    found: list[Any] = signing_secrets(session, settings, owner)
    return found[0] if found else None


def signing_secrets(session: Session, settings: Settings, owner: str) -> list[str]:
    """Return the secrets to sign with: the present one and, for a day after a change, the one before."""
    if settings.auth == "none" and owner == PUBLIC:
        return [settings.webhook_secret.get_secret_value()] if settings.webhook_secret else []
    row = session.get(WebhookSecret, owner)
    if row is None:
        return []
    is_recent = datetime.now(UTC) - row.rotated_at < timedelta(seconds=PREVIOUS_SECONDS)
    return [row.secret, row.previous] if row.previous and is_recent else [row.secret]


def make_secret(sessions: Sessions, owner: str) -> str:
    """Return the secret of an owner, made if there is none."""
    try:
        with sessions.begin() as session:
            row = WebhookSecret(owner=owner, secret=_random(), rotated_at=now_plus())
            session.add(row)
            session.flush()
            return row.secret
    except IntegrityError:
        with sessions() as session:
            return session.scalars(select(WebhookSecret.secret).where(WebhookSecret.owner == owner)).one()


def rotate_secret(sessions: Sessions, owner: str) -> str:
    """Replace the secret of an owner; return the new one."""
    make_secret(sessions, owner)
    with sessions.begin() as session:
        changed = update(WebhookSecret).where(WebhookSecret.owner == owner)
        changed = changed.values(previous=WebhookSecret.secret, secret=_random(), rotated_at=now_plus())
        return session.scalars(
            changed.returning(WebhookSecret.secret), execution_options=work.UNSYNCHRONIZED
        ).one()


def _random() -> str:
    return "whsec_" + b64encode(secrets.token_bytes(32)).decode()
