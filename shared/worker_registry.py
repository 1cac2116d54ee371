"""The registry of running workers, as shown by `/readyz`. Informational only; nothing depends on it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, insert, select, update
from sqlalchemy.orm import Session

from shared.db import now_plus
from shared.tables import Worker

REGISTER_SECONDS = 5.0  # how often a worker registers
# Workers not seen for longer do not count as present: so long that the alert for no worker fires within a minute.
PRESENT_SECONDS = 5 * REGISTER_SECONDS
FORGET_SECONDS = 24 * 3600.0


def register(session: Session, name: str, *, threads: int = 1) -> bool:
    """Record that a worker is alive, and how many items it runs at a time; return True if it drains."""
    seen = update(Worker).where(Worker.name == name).values(seen_at=now_plus(), threads=threads)
    if session.execute(seen).rowcount == 0:  # type: ignore[attr-defined]
        session.execute(
            insert(Worker).values(name=name, seen_at=now_plus(), started_at=now_plus(), threads=threads)
        )
    return session.scalar(select(Worker.draining_since).where(Worker.name == name)) is not None


def unregister(session: Session, name: str) -> None:
    """Remove a worker that shuts down normally."""
    session.execute(delete(Worker).where(Worker.name == name))


def count_workers(session: Session) -> tuple[int, datetime | None]:
    """Return how many workers that take items were seen recently, and when the latest one was seen, if ever."""
    present, _ = capacity()
    count, last = session.execute(select(present, func.max(Worker.seen_at))).one()
    return count, last


def capacity() -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """Return columns to select: how many workers take items, and how many these run at a time."""
    is_present = and_(Worker.seen_at >= now_plus(-PRESENT_SECONDS), Worker.draining_since.is_(None))
    threads = func.coalesce(Worker.threads, 1)  # of a worker of an earlier release
    return func.count().filter(is_present), func.sum(threads).filter(is_present)


def forget_workers(session: Session) -> None:
    """Remove workers that have not been seen for a day."""
    session.execute(delete(Worker).where(Worker.seen_at < now_plus(-FORGET_SECONDS)))
