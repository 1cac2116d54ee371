"""Which workers there are, for people to look at: `/readyz` says it, and nothing is decided by it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session

from shared.db import now_plus
from shared.tables import Worker

SAY_SECONDS = 10.0  # how often a worker says that it is there
PRESENT_SECONDS = 4 * SAY_SECONDS  # who said nothing for longer does not count
FORGET_SECONDS = 24 * 3600.0


def say_present(session: Session, name: str) -> None:
    """A worker is there and well."""
    seen = update(Worker).where(Worker.name == name).values(seen_at=now_plus())
    if session.execute(seen).rowcount == 0:  # type: ignore[attr-defined]
        session.execute(insert(Worker).values(name=name, seen_at=now_plus()))


def say_goodbye(session: Session, name: str) -> None:
    """A worker ended as it should."""
    session.execute(delete(Worker).where(Worker.name == name))


def count_present(session: Session) -> tuple[int, datetime | None]:
    """Workers seen lately, and when the last one was seen, if ever."""
    present = func.count().filter(Worker.seen_at >= now_plus(-PRESENT_SECONDS))
    count, last = session.execute(select(present, func.max(Worker.seen_at))).one()
    return count, last


def forget_absent(session: Session) -> None:
    """Drop workers that were not seen for a day."""
    session.execute(delete(Worker).where(Worker.seen_at < now_plus(-FORGET_SECONDS)))
