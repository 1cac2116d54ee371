"""Locks in the database: one process at a time, and none for ever.

A lock is a lease on a row, with the database's clock. Its holder takes it again and again; who dies or is stopped
is replaced when the lease ends. It keeps work from being done twice, it does not make that safe: what is done
under it must bear a holder that was paused and still believes itself alone.
"""

from __future__ import annotations

from sqlalchemy import String, and_, insert, literal, or_, select, update
from sqlalchemy.exc import IntegrityError

from shared.db import Sessions, now_plus
from shared.tables import Lock

EXECUTION = {"synchronize_session": False, "preserve_rowcount": True}


class DatabaseLock:
    """One name, seen by one process."""

    def __init__(self, sessions: Sessions, name: str, *, holder: str, lease_seconds: float) -> None:
        self._sessions = sessions
        self._name = name
        self._holder = holder
        self._lease_seconds = lease_seconds

    def hold(self) -> bool:
        """Take the lock, or keep it for another lease; False while another process has it."""
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
            pass  # another made the row at the same moment
        return False

    def release(self) -> None:
        """Let the next one have it at once."""
        mine = and_(Lock.name == self._name, Lock.holder == self._holder)
        with self._sessions.begin() as session:
            session.execute(update(Lock).where(mine).values(until=now_plus(-1)))
