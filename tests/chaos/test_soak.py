"""The long runs of `make soak`: every fault many times, with figures of the outcome."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.chaos.faults import SCHEDULER_POINTS, WEB_POINTS, WORKER_POINTS
from tests.chaos.ledger import CLIPS, Ledger, make_clips
from tests.chaos.runs import (
    ACCEPT_SECONDS,
    SCALE,
    calls_during,
    conclude,
    outages,
    polls,
    running,
    statuses,
    submissions,
    submit_at_once,
    times,
)
from tests.chaos.stack import Stack
from tests.servers import end

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(3600)]

ANNOUNCED_SECONDS = 15  # after Redis is available again


@pytest.mark.parametrize("concurrency", ["1", "4"])
def test_workers_are_killed(tmp_path: Path, clips: list[bytes], concurrency: str) -> None:
    jobs, kills, chance = times(300), times(60), random.Random(1)
    with running(tmp_path, clips, MT3_TEST_SEGMENT_SECONDS="0.1", MT3_WORKER_CONCURRENCY=concurrency) as ledger:
        began = time.monotonic()
        submitting = ledger.submit_many(jobs)
        for _ in range(kills):
            time.sleep(chance.uniform(0.2, 2))
            ledger.stack.kill_worker(chance.choice(ledger.stack.workers))
        submitting.join()
        ledger.wait_for_all()
        report = conclude(ledger, f"{kills} kills of workers", began)
        assert report.killed_attempts > 0, "no kill hit a job: the run proved nothing"


def test_redis_is_killed_emptied_and_frozen(tmp_path: Path, clips: list[bytes]) -> None:
    with running(tmp_path, clips) as ledger:
        stack = ledger.stack
        frozen_seconds = max(10.0, 60 * min(1.0, SCALE))

        waits = []

        def kill() -> None:
            stack.redis.kill()
            job_id = submit_at_once(ledger)
            stack.redis.start()
            back = time.monotonic()
            stack.client.wait(job_id)
            waits.append(time.monotonic() - back)

        def flush() -> None:
            with stack.redis_client() as redis:
                redis.flushall()

        def freeze() -> None:
            stack.redis.signal(signal.SIGSTOP)
            thaw = time.monotonic() + frozen_seconds
            while time.monotonic() < thaw:
                submit_at_once(ledger)
                time.sleep(0.5)
            stack.redis.signal(signal.SIGCONT)

        with calls_during(ledger) as calls:
            outages(ledger, f"{times(10)} kills of Redis", times(10), kill)
            outages(ledger, f"{times(5)} times Redis emptied", times(5), flush)
            outages(ledger, f"Redis frozen for {frozen_seconds:.0f} s", 1, freeze)
        slowest = max(call.seconds for call in calls if call.method == "POST")
        print(f"\njobs handed in without Redis had ended {max(waits):.1f} s after its return, or earlier")
        print(f"slowest submission of all {slowest:.2f} s, answers {statuses(calls)}")
        assert max(waits) <= ANNOUNCED_SECONDS
        assert slowest <= ACCEPT_SECONDS
        assert {call.status for call in calls} <= {200, 202}


def test_postgresql_is_killed(tmp_path: Path, clips: list[bytes]) -> None:
    with running(tmp_path, clips) as ledger:
        stack, turn = ledger.stack, iter(range(1000))

        def kill() -> None:
            if next(turn) % 2:
                stack.postgres.kill()
                time.sleep(1)
            else:
                backends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                stack.sql(backends + " AND usename = 'mt3'")
                assert stack.postgres.process is not None
                end(stack.postgres.process)
            stack.postgres.start()

        outages(ledger, f"{times(5)} restarts of PostgreSQL", times(5), kill)


def test_backends_of_postgresql_are_killed(tmp_path: Path, clips: list[bytes]) -> None:
    """After one backend is killed by a signal, PostgreSQL ends all others and recovers."""
    with running(tmp_path, clips) as ledger:
        stack = ledger.stack

        def kill_one() -> None:
            backends = "SELECT pid FROM pg_stat_activity WHERE usename = 'mt3' AND pid <> pg_backend_pid()"
            (pid,) = random.choice(stack.sql(backends + " AND backend_type = 'client backend'"))
            assert isinstance(pid, int)
            os.kill(pid, signal.SIGKILL)

        with calls_during(ledger) as calls, polls(ledger):
            outages(ledger, f"{times(5)} kills of one backend", times(5), kill_one)
        print(f"\nanswers {statuses(calls)}")
        assert {call.status for call in calls} <= {200, 202, 503}
        assert "terminated by signal 9" in stack.postgres.log.read_text()


def test_postgresql_is_frozen(tmp_path: Path, clips: list[bytes]) -> None:
    with running(tmp_path, clips) as ledger:
        stack = ledger.stack

        def freeze() -> None:
            stack.postgres.signal(signal.SIGSTOP)
            time.sleep(20)
            stack.postgres.signal(signal.SIGCONT)

        with calls_during(ledger) as calls, polls(ledger, clients=4):
            outages(ledger, f"{times(3)} times 20 s without an answer of PostgreSQL", times(3), freeze)
        slowest = max(call.seconds for call in calls)
        print(f"\nslowest answer {slowest:.1f} s, answers {statuses(calls)}")
        assert slowest <= 20
        assert {call.status for call in calls} == {200, 202, 503}


def test_s3_server_is_down(tmp_path: Path, clips: list[bytes]) -> None:
    with running(tmp_path, clips) as ledger:

        def be_away() -> None:
            ledger.stack.s3.kill()
            time.sleep(20)
            ledger.stack.s3.start()

        outages(ledger, f"{times(5)} times 20 s without the S3 server", times(5), be_away)


def test_processes_die_at_every_point(tmp_path: Path, clips: list[bytes]) -> None:
    rounds = times(20)
    with running(tmp_path, clips) as ledger:
        stack, began = ledger.stack, time.monotonic()
        points = (*WORKER_POINTS, *WEB_POINTS, *SCHEDULER_POINTS)
        with submissions(ledger, pause=0.1):
            stack.watch()
            for _ in range(rounds):
                for point in points:
                    stack.arm(point)
                stack.wait(lambda: not any(map(stack.is_armed, points)), "a death at every point")
            stack.unwatch()
            stack.restart_dead()
        ledger.wait_for_all()
        report = conclude(ledger, f"{rounds} deaths at each of {len(points)} points", began)
        assert report.attempts > report.jobs


def test_late_completions_by_paused_workers_are_refused(tmp_path: Path, clips: list[bytes]) -> None:
    rounds = times(12)
    with running(tmp_path, clips) as ledger:
        stack, began = ledger.stack, time.monotonic()
        for _ in range(rounds):
            stack.arm("before_finish", "stop")
            for number in range(CLIPS):
                ledger.submit(number)
            zombie = stack.stopped_worker()
            ledger.wait_for_all()
            stack.let_go_on(zombie)
        report = conclude(ledger, f"{rounds} workers paused before their finish", began)
        assert report.refused == rounds


@pytest.mark.parametrize("concurrency", ["1", "4"])
def test_workers_are_redeployed(tmp_path: Path, clips: list[bytes], concurrency: str) -> None:
    """SIGTERM: items are released, and no attempt is counted."""
    with running(
        tmp_path,
        clips,
        MT3_MAX_ATTEMPTS="1",
        MT3_TEST_SEGMENT_SECONDS="0.3",
        MT3_WORKER_CONCURRENCY=concurrency,
    ) as ledger:
        stack, began = ledger.stack, time.monotonic()
        submitting = ledger.submit_many(times(60))
        for number in range(times(20)):
            time.sleep(2)
            worker = stack.workers[number % len(stack.workers)]
            worker.terminate()
            worker.start()
        submitting.join()
        ledger.wait_for_all()
        report = conclude(ledger, f"{times(20)} rolling restarts with one attempt allowed", began)
        ((counted,),) = stack.sql("SELECT max(attempts_counted) FROM work_items")
        assert counted == 1
        assert report.attempts > report.jobs, "no restart met a job: the run proved nothing"


ATTEMPTS = 3


def submit_bad_among_good(ledger: Ledger, beginning: str) -> None:
    """Recordings with this beginning kill their workers and must fail; all others must succeed."""
    for number in range(times(5)):
        job_id = ledger.stack.submit(beginning.encode() + bytes(100), f"bad-{number}")
        ledger.accepted[job_id] = -1
        ledger.failed.add(job_id)
        for clip in range(CLIPS):
            ledger.submit(clip)
    ledger.wait_for_all()
    for job_id in ledger.failed:
        job = ledger.stack.client.job(job_id)
        assert (job["attempts"], job["error"]["code"]) == (ATTEMPTS, "worker_lost")


def test_poison_kills_its_workers_and_no_other_job(tmp_path: Path, clips: list[bytes]) -> None:
    poison = "poison!"
    with running(tmp_path, clips, MT3_MAX_ATTEMPTS=str(ATTEMPTS), MT3_TEST_POISON=poison) as ledger:
        began = time.monotonic()
        ledger.stack.watch()
        submit_bad_among_good(ledger, poison)
        ledger.stack.unwatch()
        conclude(ledger, f"{times(5)} poisoned recordings", began)


def test_recordings_hang_their_workers_and_no_other_job(tmp_path: Path, clips: list[bytes]) -> None:
    hang, hangs = "hang!", ATTEMPTS * times(5)
    with running(
        tmp_path, clips, MT3_TEST_HANG=hang, MT3_MAX_ATTEMPTS=str(ATTEMPTS), MT3_STALL_SECONDS="3"
    ) as ledger:
        stack, began = ledger.stack, time.monotonic()
        stack.watch()
        submit_bad_among_good(ledger, hang)
        stack.wait(lambda: stack.logged("worker_hangs") == hangs, "the end of all workers that hang")
        stack.unwatch()
        conclude(ledger, f"{times(5)} recordings that hang, {hangs} workers that ended themselves", began)


def test_messages_are_dropped_and_duplicated(tmp_path: Path, clips: list[bytes]) -> None:
    with running(tmp_path, clips, MT3_TEST_PUBLISH="0.3,0.3") as ledger:
        began = time.monotonic()
        ledger.submit_many(times(100)).join()
        ledger.wait_for_all()
        report = conclude(ledger, "3 of 10 messages dropped, 3 doubled", began)
        assert report.attempts == report.jobs, "a second message starts no second attempt"


def test_commits_that_seem_to_fail(tmp_path: Path, clips: list[bytes]) -> None:
    with running(tmp_path, clips, MT3_TEST_LYING_COMMITS="0.05") as ledger:
        began = time.monotonic()
        ledger.submit_many(times(500)).join()
        ledger.wait_for_all()
        conclude(ledger, "1 of 20 commits denied", began)


def test_a_job_outlasts_the_visibility_timeout_and_runs_once(tmp_path: Path) -> None:
    """Redis is searched for messages to redeliver every 100 s, so the job is much longer than that."""
    seconds = 130 * min(1.0, max(SCALE, 0.2))
    clips = make_clips(tmp_path, seconds=10)
    folder = tmp_path / "stack"
    folder.mkdir()
    slow = {"MT3_VISIBILITY_TIMEOUT_SECONDS": "5", "MT3_TEST_SEGMENT_SECONDS": str(seconds / 20)}
    with Stack(folder, environment=slow) as stack:
        ledger, began = Ledger(stack, clips), time.monotonic()
        ids = [ledger.submit(number) for number in range(3)]
        ledger.wait_for_all_within(10 * seconds)
        jobs = [stack.client.job(job_id) for job_id in ids]
        took = time.monotonic() - began
        print(f"\n3 jobs of {seconds:.0f} s, visibility timeout 5 s: attempts {[job['attempts'] for job in jobs]}")
        assert [(job["status"], job["attempts"]) for job in jobs] == [("succeeded", 1)] * 3
        assert took > seconds
        assert stack.sql("SELECT count(*) FROM finishes") == [(3,)]
