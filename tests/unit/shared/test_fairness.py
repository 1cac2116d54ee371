"""Fair scheduling, on both databases: the order, concurrent claims, and the cost of selecting candidates."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import insert, text, update
from uuid6 import uuid7

from shared import work
from shared.db import Sessions, now_plus
from shared.fairness import candidates, claim_next, must_defer
from shared.kinds import ASSEMBLE, SHARD, Claim
from shared.tables import Job, Status, WorkItem, WorkStatus
from tests.work import (
    MAX_ATTEMPTS,
    add_job,
    add_split_job,
    change_items,
    complete,
    defer,
    fail,
    item,
    must_claim,
    release,
)


def take_next(sessions: Sessions, *, worker: str = "a") -> Claim | None:
    return claim_next(sessions, worker=worker, lease_seconds=60, max_attempts=MAX_ATTEMPTS)


def age(sessions: Sessions, *job_ids: UUID) -> None:
    """Backdate the jobs, the first one the most."""
    for seconds, job_id in enumerate(reversed(job_ids), start=1):
        with sessions.begin() as session:
            since = {"served_at": now_plus(-1000 * seconds)}
            session.execute(update(WorkItem).where(WorkItem.job_id == job_id).values(since))


def test_least_recently_served_job_is_first(any_sessions: Sessions) -> None:
    first, second = add_job(any_sessions), add_job(any_sessions)
    age(any_sessions, second, first)
    claims = [take_next(any_sessions) for _ in range(3)]
    assert [claim and claim.job_id for claim in claims] == [second, first, None]


def test_long_recording_goes_behind_jobs_that_arrived_while_it_was_served(any_sessions: Sessions) -> None:
    """A short job that arrives while two workers run shards waits for only one of them."""
    long = add_split_job(any_sessions, count=6)
    age(any_sessions, long)
    running = [take_next(any_sessions), take_next(any_sessions)]
    short = [add_job(any_sessions) for _ in range(3)]
    age(any_sessions, long, *short)
    order = []
    for _ in range(5):
        ended = running.pop(0)
        assert ended is not None
        complete(any_sessions, ended)
        taken = take_next(any_sessions)
        assert taken is not None
        order.append(taken.job_id)
        running.append(taken)
    assert order == [*short, long, long]


def test_owner_with_fewer_running_jobs_goes_first(any_sessions: Sessions) -> None:
    many = [add_job(any_sessions, owner="many") for _ in range(4)]
    split_one = add_split_job(any_sessions, count=3)  # of "public"
    few = [add_job(any_sessions, owner="few") for _ in range(2)]
    age(any_sessions, *many, split_one, *few)
    owners = []
    for _ in range(6):
        taken = take_next(any_sessions)
        assert taken is not None
        owners.append({**dict.fromkeys(many, "many"), **dict.fromkeys(few, "few")}.get(taken.job_id, "public"))
    assert owners == ["many", "public", "few", "many", "public", "few"]


def test_no_job_starves_behind_a_stream_of_new_ones(any_sessions: Sessions) -> None:
    long, taken = add_split_job(any_sessions, count=2), []
    for _ in range(3):
        add_job(any_sessions)
    for _ in range(8):
        add_job(any_sessions)
        claimed = take_next(any_sessions)
        assert claimed is not None
        taken.append(claimed.job_id)
        complete(any_sessions, claimed)
    assert taken.count(long) == 3, "two shards, and the assembly"


def test_items_that_are_not_due_are_skipped(any_sessions: Sessions) -> None:
    later, now = add_job(any_sessions, owner="a"), add_job(any_sessions, owner="b")
    must_claim(any_sessions, add_job(any_sessions, owner="b"))
    change_items(any_sessions, later, run_after=now_plus(60))
    claimed = take_next(any_sessions)
    assert claimed is not None
    assert claimed.job_id == now, "although its owner has a job running"
    assert take_next(any_sessions) is None


def test_released_job_keeps_its_position(any_sessions: Sessions) -> None:
    ids = [add_job(any_sessions) for _ in range(2)]
    age(any_sessions, *ids)
    claimed = take_next(any_sessions)
    assert claimed is not None
    release(any_sessions, claimed)
    again = take_next(any_sessions)
    assert again is not None
    assert again.job_id == ids[0]


def test_concurrent_workers_each_claim_an_item(any_sessions: Sessions) -> None:
    add_split_job(any_sessions, count=4)
    for _ in range(4):
        add_job(any_sessions)
    got: list[Claim | None] = []
    threads = [threading.Thread(target=lambda: got.append(take_next(any_sessions))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({claimed.id for claimed in got if claimed is not None}) == 8
    assert take_next(any_sessions) is None


def put_back(sessions: Sessions, claim: Claim | None) -> None:
    assert claim is not None
    with sessions() as session:
        assert must_defer(session, claim.owner)
    assert defer(sessions, claim)


def test_a_job_known_to_be_long_waits_for_the_shards_of_its_owner(any_sessions: Sessions) -> None:
    cut = add_split_job(any_sessions, count=2)
    uncut, short = add_job(any_sessions), add_job(any_sessions)
    age(any_sessions, uncut, short, cut)
    put_back(any_sessions, take_next(any_sessions))
    assert item(any_sessions, uncut).attempts_counted == 0
    order = [take_next(any_sessions) for _ in range(5)]
    assert [claim and claim.job_id for claim in order] == [short, cut, cut, uncut, None]


def test_a_long_job_does_not_wait_for_shards_of_another_owner(any_sessions: Sessions) -> None:
    add_split_job(any_sessions, count=2)  # of "public"
    other = add_job(any_sessions, owner="other")
    with any_sessions() as session:
        assert not must_defer(session, "other")
    change_items(any_sessions, other, is_long=True)
    age(any_sessions, other)
    claimed = take_next(any_sessions)
    assert claimed is not None
    assert claimed.job_id == other


@pytest.mark.integration
def test_worker_paused_during_a_claim_blocks_no_other(postgres_sessions: Sessions) -> None:
    long = add_split_job(postgres_sessions, count=2)
    first = item(postgres_sessions, long, SHARD, 0).id
    with postgres_sessions() as stopped:
        assert work.claim(stopped, first, worker="a", lease_seconds=60, max_attempts=MAX_ATTEMPTS)
        claimed = take_next(postgres_sessions, worker="b")  # the other transaction is still open
        stopped.rollback()
    assert claimed is not None
    assert (claimed.kind, claimed.number) == (SHARD, 1)


def fill(sessions: Sessions, count: int) -> None:
    """Queue jobs of one owner, in the order of their creation."""
    began = datetime.now(UTC) - timedelta(days=1)
    ids = [UUID(str(uuid7())) for _ in range(count)]
    rows = [
        {
            "id": job_id,
            "owner": "public",
            "status": Status.QUEUED,
            "model": "m",
            "options": {},
            "client_metadata": {},
            "upload_key": "k",
            "upload_bytes": 1,
            "audio_seconds_done": 0.0,
            "created_at": began,
            "artifacts": [],
        }
        for job_id in ids
    ]
    items = [
        {
            "id": UUID(str(uuid7())),
            "job_id": job_id,
            "owner": "public",
            "kind": "transcribe",
            "number": 0,
            "status": WorkStatus.QUEUED,
            "payload": {},
            "seconds_done": 0.0,
            "served_at": began + timedelta(seconds=number),
            "is_long": False,
            "run_after": began,
            "attempt": 0,
            "attempts_counted": 0,
        }
        for number, job_id in enumerate(ids)
    ]
    with sessions.begin() as session:
        session.execute(insert(Job), rows)
        session.execute(insert(WorkItem), items)


def seconds_to_look(sessions: Sessions) -> float:
    """Return the fastest of several runs, to reduce the noise of a busy machine."""
    took = []
    for _ in range(20):
        with sessions() as session:
            began = time.perf_counter()
            assert candidates(session, max_attempts=MAX_ATTEMPTS)
            took.append(time.perf_counter() - began)
    return min(took)


def test_selecting_candidates_takes_no_longer_with_ten_thousand_jobs_than_with_ten(any_sessions: Sessions) -> None:
    fill(any_sessions, 10)
    few = seconds_to_look(any_sessions)
    fill(any_sessions, 10_000)
    with any_sessions.begin() as session:
        if session.get_bind().dialect.name == "postgresql":
            session.execute(text("ANALYZE"))  # PostgreSQL does so by itself, SQLite does not
    many = seconds_to_look(any_sessions)
    assert many < 4 * few + 0.002, f"{1000 * few:.1f} ms among 10, {1000 * many:.1f} ms among 10,000"


def test_assembly_goes_before_jobs_that_arrived_after_the_split(any_sessions: Sessions) -> None:
    """The remaining work takes a second, and the client has waited for hours."""
    long = add_split_job(any_sessions, count=1)
    for _ in range(3):
        add_job(any_sessions)
    complete(any_sessions, must_claim(any_sessions, long, SHARD))
    claimed = take_next(any_sessions)
    assert claimed is not None
    assert (claimed.job_id, claimed.kind) == (long, ASSEMBLE)


def test_retried_job_goes_behind_jobs_that_arrived_meanwhile(any_sessions: Sessions) -> None:
    failed, other = add_job(any_sessions), add_job(any_sessions)
    claimed = take_next(any_sessions)
    assert claimed is not None
    assert claimed.job_id == failed
    fail(any_sessions, claimed, retry_after=-1)
    again = take_next(any_sessions)
    assert again is not None
    assert again.job_id == other


def test_only_short_items_are_claimed_for_preemption(any_sessions: Sessions) -> None:
    def take_short(max_attempts: int = 1) -> Claim | None:
        return claim_next(any_sessions, worker="a", lease_seconds=60, max_attempts=max_attempts, short_for=30.0)

    add_split_job(any_sessions)
    known, tried, young, short = (add_job(any_sessions) for _ in range(4))
    for job_id in (known, tried, short):
        change_items(any_sessions, job_id, run_after=now_plus(-60))
    change_items(any_sessions, known, is_long=True)
    change_items(any_sessions, tried, attempts_counted=1)
    claimed = take_short()
    assert claimed is not None
    assert claimed.job_id == short
    assert take_short() is None
    change_items(any_sessions, young, run_after=now_plus(-60))
    assert take_short() is not None
