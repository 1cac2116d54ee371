"""Locks in the database: one process at a time, and no lock is held forever.

A lock is a lease on a row, by the database's clock. The holder renews it; a holder that dies or is paused loses it
when the lease ends. The lock avoids duplicate work but does not make duplicates safe: work done under it must
tolerate a holder that was paused and still believes that it holds the lock.
"""

from __future__ import annotations

from sqlalchemy import String, and_, insert, literal, or_, select, update
from sqlalchemy.exc import IntegrityError

from shared.db import Sessions, now_plus
from shared.tables import Lock

EXECUTION = {"synchronize_session": False, "preserve_rowcount": True}


class DatabaseLock:
    """A named lock, as seen by one process."""

    def __init__(self, sessions: Sessions, name: str, *, holder: str, lease_seconds: float) -> None:
        self._sessions = sessions
        self._name = name
        self._holder = holder
        self._lease_seconds = lease_seconds

    def hold(self) -> bool:
        """Acquire or renew the lock; return False while another process holds it."""
        free = or_(Lock.holder == self._holder, Lock.until < now_plus())
        taken = update(Lock).where(Lock.name == self._name, free)
        taken = taken.values(holder=self._holder, until=now_plus(self._lease_seconds))
        first = insert(Lock).from_select(
            ["name", "holder", "until"],
            select(
                literal(self._name, String),
                literal(self._holder, String),
                now_plus(self._lease_seconds),
            ).where(~select(Lock).where(Lock.name == self._name).exists()),
        )
        try:
            with self._sessions.begin() as session:
                for statement in (taken, first):
                    done = session.execute(statement, execution_options=EXECUTION)
                    if done.rowcount == 1:  # type: ignore[attr-defined]
                        return True
        except IntegrityError:
            pass  # another process inserted the row at the same moment
        return False

    def release(self) -> None:
        """Release the lock, so that another process can acquire it at once."""
        mine = and_(Lock.name == self._name, Lock.holder == self._holder)
        with self._sessions.begin() as session:
            session.execute(update(Lock).where(mine).values(until=now_plus(-1)))
