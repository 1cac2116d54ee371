"""Whose turn it is, on both databases: the order, what every worker gets, and that looking stays cheap."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from uuid6 import uuid7

from shared import jobs, shards
from shared.db import Sessions, now_plus
from shared.jobs import Claim
from shared.shards import ShardClaim
from shared.tables import Job, Status
from shared.turns import WaitingLine, claim_next, must_wait, next_units
from tests.unit.shared.test_jobs import MAX_ATTEMPTS, add_job, complete, get, must_claim
from tests.unit.shared.test_shards import complete as complete_shard
from tests.unit.shared.test_shards import planned


def take_next(sessions: Sessions, *, worker: str = "a") -> Claim | ShardClaim | None:
    return claim_next(sessions, worker=worker, lease_seconds=60, max_attempts=MAX_ATTEMPTS)


def age(sessions: Sessions, *job_ids: UUID) -> None:
    """Make the jobs wait since long ago, the first one the longest."""
    for seconds, job_id in enumerate(reversed(job_ids), start=1):
        with sessions.begin() as session:
            since = {"created_at": now_plus(-1000 * seconds), "served_at": None}
            session.execute(update(Job).where(Job.id == job_id).values(since))


def test_who_waits_for_the_longest_time_is_first(any_sessions: Sessions) -> None:
    first, second = add_job(any_sessions), add_job(any_sessions)
    age(any_sessions, second, first)
    claims = [take_next(any_sessions) for _ in range(3)]
    assert [claim and claim.job_id for claim in claims] == [second, first, None]


def test_a_long_recording_goes_behind_whoever_came_while_it_was_served(any_sessions: Sessions) -> None:
    """Two workers; a short job that comes while both are at shards waits for one of them to end, and no more."""
    long = planned(any_sessions, count=6)
    age(any_sessions, long)
    running = [take_next(any_sessions), take_next(any_sessions)]
    short = [add_job(any_sessions) for _ in range(3)]
    age(any_sessions, long, *short)
    order = []
    for _ in range(5):
        ended = running.pop(0)
        if isinstance(ended, ShardClaim):
            complete_shard(any_sessions, ended)
        else:
            assert ended is not None
            complete(any_sessions, ended)
        taken = take_next(any_sessions)
        assert taken is not None
        order.append(taken.job_id)
        running.append(taken)
    assert order == [*short, long, long]


def test_an_owner_of_whom_little_runs_comes_before_one_of_whom_much_runs(any_sessions: Sessions) -> None:
    many = [add_job(any_sessions, owner="many") for _ in range(4)]
    planned_one = planned(any_sessions, count=3)  # of "public"
    few = [add_job(any_sessions, owner="few") for _ in range(2)]
    age(any_sessions, *many, planned_one, *few)
    owners = []
    for _ in range(6):
        taken = take_next(any_sessions)
        assert taken is not None
        owners.append({**dict.fromkeys(many, "many"), **dict.fromkeys(few, "few")}.get(taken.job_id, "public"))
    assert owners == ["many", "public", "few", "many", "public", "few"]


def test_nothing_waits_for_ever_behind_those_who_keep_coming(any_sessions: Sessions) -> None:
    long, taken = planned(any_sessions, count=2), []
    for _ in range(3):
        add_job(any_sessions)
    for _ in range(8):
        add_job(any_sessions)
        claimed = take_next(any_sessions)
        assert claimed is not None
        taken.append(claimed.job_id)
        if isinstance(claimed, Claim):
            complete(any_sessions, claimed)
        else:
            complete_shard(any_sessions, claimed)
    assert taken.count(long) == 2


def test_what_is_not_due_is_passed_over(any_sessions: Sessions) -> None:
    later, now = add_job(any_sessions, owner="a"), add_job(any_sessions, owner="b")
    must_claim(any_sessions, add_job(any_sessions, owner="b"))
    with any_sessions.begin() as session:
        session.execute(update(Job).where(Job.id == later).values(run_after=now_plus(60)))
    claimed = take_next(any_sessions)
    assert claimed is not None
    assert claimed.job_id == now, "although its owner has a job running"
    assert take_next(any_sessions) is None


def test_a_job_handed_back_keeps_its_place(any_sessions: Sessions) -> None:
    ids = [add_job(any_sessions) for _ in range(2)]
    age(any_sessions, *ids)
    claimed = take_next(any_sessions)
    assert isinstance(claimed, Claim)
    with any_sessions.begin() as session:
        jobs.release_job(session, claimed)
    again = take_next(any_sessions)
    assert again is not None
    assert again.job_id == ids[0]


def test_as_many_workers_as_there_is_work_get_something_each_at_once(any_sessions: Sessions) -> None:
    planned(any_sessions, count=4)
    for _ in range(4):
        add_job(any_sessions)
    got: list[Claim | ShardClaim | None] = []
    threads = [threading.Thread(target=lambda: got.append(take_next(any_sessions))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    units = {(c.job_id, c.number if isinstance(c, ShardClaim) else None) for c in got if c is not None}
    assert len(units) == 8
    assert take_next(any_sessions) is None


def hold_back(sessions: Sessions, claim: Claim | ShardClaim | None) -> None:
    assert isinstance(claim, Claim)
    with sessions.begin() as session:
        assert must_wait(session, claim.job_id)
        assert jobs.hold_back(session, claim)


def test_a_job_known_to_be_long_waits_for_the_shards_of_its_owner(any_sessions: Sessions) -> None:
    cut = planned(any_sessions, count=2)
    uncut, short = add_job(any_sessions), add_job(any_sessions)
    age(any_sessions, uncut, short, cut)
    hold_back(any_sessions, take_next(any_sessions))
    assert get(any_sessions, uncut).attempts_charged == 0
    order = [take_next(any_sessions) for _ in range(5)]
    assert [claim and claim.job_id for claim in order] == [short, cut, cut, uncut, None]


def test_a_long_job_does_not_wait_for_shards_of_another_owner(any_sessions: Sessions) -> None:
    planned(any_sessions, count=2)  # of "public"
    other = add_job(any_sessions, owner="other")
    with any_sessions.begin() as session:
        assert not must_wait(session, other)
        session.execute(update(Job).where(Job.id == other).values(is_long=True))
    age(any_sessions, other)
    claimed = take_next(any_sessions)
    assert claimed is not None
    assert claimed.job_id == other


@pytest.mark.integration
def test_a_worker_that_is_stopped_while_it_claims_holds_up_nobody(postgres_sessions: Sessions) -> None:
    long = planned(postgres_sessions, count=2)
    with postgres_sessions() as stopped:
        assert shards.claim_shard(stopped, long, 0, worker="a", lease_seconds=60, max_attempts=MAX_ATTEMPTS)
        claimed = take_next(postgres_sessions, worker="b")  # the other transaction is still open
        stopped.rollback()
    assert isinstance(claimed, ShardClaim)
    assert claimed.number == 1


def test_the_position_counts_those_ahead(any_sessions: Sessions) -> None:
    ids = [add_job(any_sessions) for _ in range(3)]
    must_claim(any_sessions, ids[0])
    line = WaitingLine()
    with any_sessions() as session:
        assert [line.position(session, get(any_sessions, job_id)) for job_id in ids] == [None, 1, 2]


def test_the_position_counts_turns(any_sessions: Sessions) -> None:
    long = planned(any_sessions, count=3)
    early, late = add_job(any_sessions), add_job(any_sessions)
    age(any_sessions, early, long, late)
    with any_sessions() as session:
        positions = [WaitingLine().position(session, get(any_sessions, job_id)) for job_id in (early, late, long)]
    assert positions == [1, 3, None]


def test_a_long_job_that_was_put_back_stands_behind_what_it_waits_for(any_sessions: Sessions) -> None:
    cut = planned(any_sessions, count=3)
    uncut, short = add_job(any_sessions), add_job(any_sessions)
    age(any_sessions, uncut, cut, short)
    hold_back(any_sessions, take_next(any_sessions))
    with any_sessions() as session:
        positions = [WaitingLine().position(session, get(any_sessions, job_id)) for job_id in (short, uncut)]
    assert positions == [2, 3]


def test_places_are_read_once_a_second(any_sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = add_job(any_sessions), add_job(any_sessions)
    line = WaitingLine()
    with any_sessions() as session:
        assert line.position(session, get(any_sessions, second)) == 2
        must_claim(any_sessions, first)
        assert line.position(session, get(any_sessions, second)) == 2
        monkeypatch.setattr("shared.turns.LINE_SECONDS", 0)
        assert line.position(session, get(any_sessions, second)) == 1
    late = add_job(any_sessions)
    with any_sessions() as session:
        assert line.position(session, get(any_sessions, late)) == 2, (
            "who came since is behind those that were there"
        )


def test_who_asks_while_the_database_is_away_does_not_each_wait_for_it(any_sessions: Sessions) -> None:
    job_id, line = add_job(any_sessions), WaitingLine()
    asked = []

    class Away(Session):
        def execute(self, *_: Any, **__: Any) -> Any:
            asked.append(1)
            raise OperationalError("SELECT", None, Exception("timeout"))

    job = get(any_sessions, job_id)
    with pytest.raises(OperationalError):
        line.position(Away(), job)
    assert line.position(Away(), job) == 1
    assert len(asked) == 1


def fill(sessions: Sessions, count: int) -> None:
    """Queue jobs of one owner, whose turn comes in the order in which they are made."""
    began = datetime.now(UTC) - timedelta(days=1)
    rows = [
        {
            "id": UUID(str(uuid7())),
            "owner": "public",
            "status": Status.QUEUED,
            "model": "m",
            "options": {},
            "client_metadata": {},
            "upload_key": "k",
            "upload_bytes": 1,
            "attempt": 0,
            "attempts_charged": 0,
            "run_after": began,
            "audio_seconds_done": 0.0,
            "created_at": began + timedelta(seconds=number),
            "artifacts": [],
        }
        for number in range(count)
    ]
    with sessions.begin() as session:
        session.execute(insert(Job), rows)


def seconds_to_look(sessions: Sessions) -> float:
    """The fastest of some looks, so that what else the machine does counts little."""
    took = []
    for _ in range(20):
        with sessions() as session:
            began = time.perf_counter()
            assert next_units(session, max_attempts=MAX_ATTEMPTS)
            took.append(time.perf_counter() - began)
    return min(took)


def test_looking_takes_no_longer_among_ten_thousand_than_among_ten(any_sessions: Sessions) -> None:
    fill(any_sessions, 10)
    few = seconds_to_look(any_sessions)
    fill(any_sessions, 10_000)
    with any_sessions.begin() as session:
        if session.get_bind().dialect.name == "postgresql":
            session.execute(text("ANALYZE"))  # which it does by itself; SQLite does not
    many = seconds_to_look(any_sessions)
    assert many < 4 * few + 0.002, f"{1000 * few:.1f} ms among 10, {1000 * many:.1f} ms among 10,000"
