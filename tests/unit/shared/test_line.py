"""Positions of waiting jobs and the forecast of their starts, on both databases."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from shared import line, model_reports, worker_registry
from shared.backlog import measure
from shared.db import Sessions, now_plus
from shared.estimates import read_arrivals, read_capacity, read_estimates
from shared.forecast import forecast
from shared.kinds import WEBHOOK, Progress
from shared.line import LINE_LENGTH, Place, WaitingLine, read_line
from shared.tables import Attempt, Job, ModelReport, Phase, Status, WorkItem
from shared.webhook_events import EVENTS
from tests.unit.shared.test_fairness import age, fill, put_back, take_next
from tests.work import add_job, add_split_job, change_items, complete, get, item, must_claim, renew


def place(sessions: Sessions, job_id: UUID, line: WaitingLine | None = None) -> Place | None:
    with sessions() as session:
        return (line or WaitingLine(shard_seconds=600)).place(session, get(sessions, job_id))


def position(sessions: Sessions, job_id: UUID, line: WaitingLine | None = None) -> int | None:
    found = place(sessions, job_id, line)
    return found.position if found else None


def eta(sessions: Sessions, job_id: UUID, line: WaitingLine | None = None) -> float | None:
    found = place(sessions, job_id, line)
    assert found is not None
    return found.eta_seconds


def add_worker(sessions: Sessions, name: str = "a", *, threads: int = 1) -> None:
    with sessions.begin() as session:
        worker_registry.register(session, name, threads=threads)


def set_speed(sessions: Sessions, factor: float, model: str = "basic_pitch") -> None:
    """Report a speed as a worker does: seconds of audio per second."""
    with sessions.begin() as session:
        model_reports.report_model(session, model, installed=True, realtime_factor=factor)


def add_known(sessions: Sessions, seconds: float, **changes: object) -> UUID:
    """Add a job whose length is known from an earlier attempt."""
    job_id = add_job(sessions, **changes)
    with sessions.begin() as session:
        session.execute(update(Job).where(Job.id == job_id).values(audio_seconds_total=seconds))
    return job_id


def test_position_counts_the_jobs_ahead(any_sessions: Sessions) -> None:
    ids = [add_job(any_sessions) for _ in range(3)]
    must_claim(any_sessions, ids[0])
    line = WaitingLine()
    assert [position(any_sessions, job_id, line) for job_id in ids] == [None, 1, 2]


def test_position_follows_the_order_of_claims(any_sessions: Sessions) -> None:
    long = add_split_job(any_sessions, count=3)
    early, late = add_job(any_sessions), add_job(any_sessions)
    age(any_sessions, early, long, late)
    assert [position(any_sessions, job_id) for job_id in (early, late, long)] == [1, 3, None]


def test_deferred_job_is_positioned_behind_the_work_it_waits_for(any_sessions: Sessions) -> None:
    cut = add_split_job(any_sessions, count=3)
    uncut, short = add_job(any_sessions), add_job(any_sessions)
    age(any_sessions, uncut, cut, short)
    put_back(any_sessions, take_next(any_sessions))
    assert [position(any_sessions, job_id) for job_id in (short, uncut)] == [2, 3]


def test_webhooks_of_jobs_that_have_ended_are_not_in_line(any_sessions: Sessions) -> None:
    add_worker(any_sessions)
    set_speed(any_sessions, 10)
    for _ in range(2):
        ended = add_job(any_sessions, webhook_url="https://a.example", webhook_events=EVENTS)
        assert complete(any_sessions, must_claim(any_sessions, ended))
    must_claim(any_sessions, ended, WEBHOOK)
    waiting = add_job(any_sessions)
    assert position(any_sessions, waiting) == 1
    assert eta(any_sessions, waiting) == pytest.approx(0, abs=0.1)
    with any_sessions() as session:
        oldest = measure(session).oldest_due
        assert oldest < 60
        session.execute(update(WorkItem).where(WorkItem.kind == WEBHOOK).values(run_after=now_plus(-900)))
        assert measure(session).oldest_due < 60


def test_positions_are_read_once_a_second(any_sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = add_job(any_sessions), add_job(any_sessions)
    line = WaitingLine()
    assert position(any_sessions, second, line) == 2
    must_claim(any_sessions, first)
    assert position(any_sessions, second, line) == 2
    line._read_at = float("-inf")
    assert position(any_sessions, second, line) == 1
    later = [add_job(any_sessions) for _ in range(2)]
    assert [position(any_sessions, job_id, line) for job_id in later] == [2, 3], "behind those that were there"
    assert [position(any_sessions, job_id, line) for job_id in later] == [2, 3]


def test_others_get_the_old_line_while_one_client_reads_it(
    any_sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = add_job(any_sessions), add_job(any_sessions)
    waiting_line = WaitingLine()
    assert position(any_sessions, second, waiting_line) == 2
    must_claim(any_sessions, first)
    waiting_line._read_at = float("-inf")
    reads, answered = threading.Event(), threading.Event()

    def read_late(session: Session, shard_seconds: float) -> line.Line:
        reads.set()
        assert answered.wait(20)
        return read_line(session, shard_seconds)

    monkeypatch.setattr(line, "read_line", read_late)
    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(position, any_sessions, second, waiting_line)
        assert reads.wait(20)
        assert position(any_sessions, second, waiting_line) == 2
        answered.set()
        assert reader.result() == 1


def test_jobs_after_the_first_thousand_share_a_position(any_sessions: Sessions) -> None:
    fill(any_sessions, LINE_LENGTH + 5)
    add_worker(any_sessions)
    set_speed(any_sessions, 10, "m")
    last = add_job(any_sessions)
    assert place(any_sessions, last) == Place(LINE_LENGTH + 1, None, 1)


def test_during_an_outage_only_one_client_waits_for_the_database(any_sessions: Sessions) -> None:
    job_id, line = add_job(any_sessions), WaitingLine()
    asked = []

    class Away(Session):
        def execute(self, *_: Any, **__: Any) -> Any:
            asked.append(1)
            raise OperationalError("SELECT", None, Exception("timeout"))

    job = get(any_sessions, job_id)
    with pytest.raises(OperationalError):
        line.place(Away(), job)
    assert line.place(Away(), job) == Place(1, None, 0)
    assert len(asked) == 1


def test_a_job_waits_for_the_work_before_it_at_the_measured_speed(any_sessions: Sessions) -> None:
    add_worker(any_sessions)
    set_speed(any_sessions, 10)
    running, *waiting = [add_known(any_sessions, seconds) for seconds in (100, 200, 50, 50)]
    claimed = must_claim(any_sessions, running)
    began = time.monotonic()
    renew(any_sessions, claimed, Progress(Phase.TRANSCRIBING, 60.0, 100.0))
    etas = [eta(any_sessions, job_id) or 0.0 for job_id in waiting]
    passed = time.monotonic() - began
    for found, expected in zip(etas, [4, 24, 29], strict=True):
        assert expected - passed - 0.05 <= found <= expected + 0.05


def test_a_job_starts_at_once_if_a_worker_has_a_free_thread(any_sessions: Sessions) -> None:
    add_worker(any_sessions, threads=2)
    set_speed(any_sessions, 10)
    must_claim(any_sessions, add_known(any_sessions, 100))
    first, second = add_known(any_sessions, 100), add_known(any_sessions, 100)
    assert eta(any_sessions, first) == 0
    assert (eta(any_sessions, second) or 0) > 5


def test_items_of_one_worker_slow_each_other_down_and_workers_do_not(any_sessions: Sessions) -> None:
    set_speed(any_sessions, 10)
    add_worker(any_sessions, threads=4)
    jobs = [add_known(any_sessions, 100) for _ in range(5)]
    shared = eta(any_sessions, jobs[-1])
    add_worker(any_sessions, threads=1)
    for name in "bcd":
        add_worker(any_sessions, name, threads=1)
    assert shared == pytest.approx(10 * 4**0.8, rel=0.02)
    assert eta(any_sessions, jobs[-1]) == pytest.approx(10, rel=0.02)


def test_nothing_is_promised_without_a_worker_or_a_measured_speed(any_sessions: Sessions) -> None:
    job_id = add_known(any_sessions, 100)
    set_speed(any_sessions, 10)
    assert place(any_sessions, job_id) == Place(1, None, 0)
    with any_sessions.begin() as session:
        session.execute(update(ModelReport).values(realtime_factor=None))
    add_worker(any_sessions)
    assert place(any_sessions, job_id) == Place(1, None, 1)
    set_speed(any_sessions, 10, "another_model")
    assert eta(any_sessions, job_id) == 0


def test_attempts_count_more_than_reports_and_give_the_bytes_of_a_second(any_sessions: Sessions) -> None:
    add_worker(any_sessions)
    set_speed(any_sessions, 1000)
    for number in range(30):  # one after the other, so that none slows down another
        done = add_job(any_sessions, filename="song.xyz", upload_bytes=6_000_000)
        complete(any_sessions, must_claim(any_sessions, done))
        times = {"started_at": now_plus(-20 - 10 * number), "finished_at": now_plus(-10 - 10 * number)}
        with any_sessions.begin() as session:
            session.execute(update(Job).where(Job.id == done).values(audio_seconds_total=60.0))
            attempts = update(Attempt).where(Attempt.item_id == item(any_sessions, done).id)
            session.execute(attempts.values(times))
    first, second = [
        add_job(any_sessions, filename="a.XYZ", upload_bytes=size) for size in (12_000_000, 1_000_000)
    ]
    must_claim(any_sessions, first)
    assert eta(any_sessions, second) == pytest.approx(20, rel=0.05)


def test_a_long_recording_does_not_hold_up_short_ones_and_the_next_one_waits(any_sessions: Sessions) -> None:
    add_worker(any_sessions)
    set_speed(any_sessions, 10)
    long = add_split_job(any_sessions, count=3, seconds=600.0)
    age(any_sessions, long)
    must_claim(any_sessions, long, "shard", 0)
    next_long, short = add_known(any_sessions, 3000), add_known(any_sessions, 60)
    change_items(any_sessions, next_long, is_long=True)
    assert (eta(any_sessions, short) or 99) < 2
    assert (eta(any_sessions, next_long) or 0) > 110, "until no part of the first one waits"


def test_owners_take_turns(any_sessions: Sessions) -> None:
    add_worker(any_sessions, threads=2)
    set_speed(any_sessions, 10)
    mine = [add_known(any_sessions, 100, owner="a") for _ in range(6)]
    for job_id in mine[:2]:
        must_claim(any_sessions, job_id)
    line = WaitingLine()
    assert (eta(any_sessions, mine[-1], line) or 0) > 30
    of_other = add_known(any_sessions, 100, owner="b")
    for known in (line, WaitingLine()):  # as it arrives, and as it is read
        assert eta(any_sessions, of_other, known) == pytest.approx(eta(any_sessions, mine[2], known), abs=0.2)


def test_an_item_that_waits_after_a_failure_starts_no_sooner(any_sessions: Sessions) -> None:
    add_worker(any_sessions)
    set_speed(any_sessions, 10)
    job_id = add_known(any_sessions, 100)
    with any_sessions.begin() as session:
        session.execute(update(WorkItem).where(WorkItem.job_id == job_id).values(run_after=now_plus(30)))
    assert eta(any_sessions, job_id) == pytest.approx(30, abs=1)


def arrive(sessions: Sessions, now: datetime, ages: list[float], *, owner: str) -> None:
    """Add jobs of 100 seconds of audio that came these seconds ago, and have been transcribed since."""
    for seconds in ages:
        job_id = add_job(sessions, owner=owner)
        ended = {
            "status": Status.SUCCEEDED,
            "audio_seconds_total": 100.0,
            "created_at": now - timedelta(seconds=seconds),
        }
        with sessions.begin() as session:
            session.execute(update(Job).where(Job.id == job_id).values(ended))
            session.execute(delete(WorkItem).where(WorkItem.job_id == job_id))


def fill_two_threads(sessions: Sessions, *, done: float = 1e-3) -> UUID:
    """Let one owner run two of its six recordings of ten seconds of work; return its last one."""
    add_worker(sessions, threads=2)
    set_speed(sessions, 10 * 2**0.8)
    mine = [add_known(sessions, 100, owner="a") for _ in range(6)]
    for number, job_id in enumerate(mine[:2], start=1):
        held = must_claim(
            sessions, job_id
        )  # with progress: what is left does not depend on the time it took so far
        renew(sessions, held, Progress(Phase.TRANSCRIBING, done / number, 100.0))
    return mine[-1]


def test_jobs_that_another_owner_will_probably_submit_come_first(any_sessions: Sessions) -> None:
    last = fill_two_threads(any_sessions)
    with any_sessions() as session:
        alone = read_line(session, 600)
        now, *_ = read_capacity(session)
    arrive(any_sessions, now, [19, 18, 13, 12, 7, 6, 1], owner="b")
    with any_sessions() as session:
        line = read_line(session, 600)
    assert alone.starts[last] == pytest.approx(20, abs=0.01)
    assert 29 < line.starts[last] < 41, "most of the time one thread is left for the four before it"


def test_less_is_expected_the_longer_nobody_submits_anything(any_sessions: Sessions) -> None:
    last = fill_two_threads(any_sessions)
    with any_sessions() as session:
        now, *_ = read_capacity(session)
    arrive(any_sessions, now, [19, 18, 13, 12, 7, 6, 0], owner="b")
    with any_sessions() as session:
        line, arrivals = read_line(session, 600), read_arrivals(session, limit=7)
    assert line.estimates is not None
    starts, numbers = [], []
    for quiet in (0, 5, 10, 20, 40):
        estimates = replace(line.estimates, now=now + timedelta(seconds=quiet))
        expected = estimates.expected(arrivals)
        numbers.append(len(expected))
        starts.append(forecast(line.waiting, line.running, expected, threads=2)[last])
    assert numbers == [3, 2, 1, 1, 0]
    assert starts == sorted(starts, reverse=True)
    assert starts[0] > 35
    assert starts[-1] == pytest.approx(20, abs=0.01)


def test_a_job_that_came_since_the_line_was_read_takes_no_thread_that_was_free_before(
    any_sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "LINE_SECONDS", 1e9)
    fill_two_threads(any_sessions, done=60.0)  # four seconds are left of one, seven of the other
    waiting_line, seen = WaitingLine(), add_job(any_sessions, owner="a")
    assert eta(any_sessions, seen, waiting_line)
    waiting_line._as_of -= 6  # as if it had been read before the first one ended
    late = add_known(any_sessions, 100, owner="b")
    eta(any_sessions, late, waiting_line)
    assert waiting_line._places[late][1] == pytest.approx(7, abs=0.01), "one that waited took the first thread"


def test_items_that_transcribe_nothing_take_as_long_as_they_did(any_sessions: Sessions) -> None:
    set_speed(any_sessions, 10)
    for seconds in (5, 7, 60):
        opened = item(any_sessions, add_split_job(any_sessions))
        times = {"started_at": now_plus(-100), "finished_at": now_plus(-100 + seconds)}
        with any_sessions.begin() as session:
            session.execute(update(Attempt).where(Attempt.item_id == opened.id).values(times))
    with any_sessions() as session:
        now, *_ = read_capacity(session)
        estimates = read_estimates(session, now, [], together=1, shard_seconds=600)
    assert estimates is not None
    assert estimates.other == pytest.approx(7, abs=0.01)
