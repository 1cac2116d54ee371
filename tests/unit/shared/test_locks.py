"""Locks in the database, on both databases."""

from __future__ import annotations

import threading

from sqlalchemy import select, update

from shared.db import Sessions, now_plus
from shared.locks import DatabaseLock
from shared.tables import Lock


def make(sessions: Sessions, holder: str, *, name: str = "scheduler", lease_seconds: float = 60) -> DatabaseLock:
    return DatabaseLock(sessions, name, holder=holder, lease_seconds=lease_seconds)


def expire(sessions: Sessions) -> None:
    with sessions.begin() as session:
        session.execute(update(Lock).values(until=now_plus(-1)))


def test_one_process_holds_the_lock_and_can_renew_it(any_sessions: Sessions) -> None:
    one, other = make(any_sessions, "a"), make(any_sessions, "b")
    assert one.hold()
    assert not other.hold()
    assert one.hold()
    assert make(any_sessions, "b", name="another").hold()


def test_dead_holder_is_replaced_when_its_lease_ends(any_sessions: Sessions) -> None:
    one, other = make(any_sessions, "a"), make(any_sessions, "b")
    assert one.hold()
    expire(any_sessions)
    assert other.hold()
    assert not one.hold(), "it was paused and has lost the lock"


def test_released_lock_is_free_at_once(any_sessions: Sessions) -> None:
    one, other = make(any_sessions, "a"), make(any_sessions, "b")
    assert one.hold()
    other.release()
    assert not other.hold(), "only its holder can release it"
    one.release()
    assert other.hold()


def test_one_of_many_concurrent_processes_gets_the_lock(any_sessions: Sessions) -> None:
    for _ in range(5):  # the first time the row is inserted, then it is updated
        start = threading.Barrier(8)
        got: list[str] = []

        def take(holder: str, start: threading.Barrier, got: list[str]) -> None:
            lock = make(any_sessions, holder)
            start.wait()
            if lock.hold():
                got.append(holder)

        threads = [threading.Thread(target=take, args=(f"w{n}", start, got)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 1
        with any_sessions() as session:
            assert session.scalars(select(Lock.holder)).all() == got
        expire(any_sessions)
