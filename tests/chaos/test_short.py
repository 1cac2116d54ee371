"""A short version of `make soak`: each fault once, and nothing is lost or done twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from launcher.admin import admin
from tests.chaos.cancels import artifacts_of_canceled, leftovers, race
from tests.chaos.faults import HELD, UNFENCED
from tests.chaos.ledger import CLIPS, Ledger
from tests.chaos.s3_proxy import FAULTS, LIES, S3Proxy, behind_proxy
from tests.chaos.stack import Stack, waited_for, worker_name

pytestmark = [pytest.mark.e2e, pytest.mark.integration]


@pytest.fixture(scope="module")
def stack_and_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, S3Proxy]]:
    """Three workers and two schedulers, started before any of their dependencies."""
    with behind_proxy(tmp_path_factory.mktemp("chaos"), stall_seconds=1) as both:
        yield both


@pytest.fixture(scope="module")
def proxy(stack_and_proxy: tuple[Stack, S3Proxy]) -> S3Proxy:
    return stack_and_proxy[1]


@pytest.fixture(scope="module")
def ledger(stack_and_proxy: tuple[Stack, S3Proxy], clips: list[bytes]) -> Ledger:
    ledger = Ledger(stack_and_proxy[0], clips)
    ledger.learn()
    return ledger


def test_late_dependency_is_logged_once(ledger: Ledger) -> None:
    stack = ledger.stack
    for worker in stack.workers:
        assert waited_for(worker) == ["database", "storage", "redis"]
        assert worker.log.read_text().count("dependency_available") == 3
    for part in (*stack.schedulers, stack.migrations):
        assert waited_for(part) == ["database"]
    assert waited_for(stack.web) == ["database", "storage"]


def test_each_fault_once(ledger: Ledger) -> None:
    stack = ledger.stack
    submitting = ledger.submit_many(20)
    stack.wait(lambda: len(ledger.accepted) > CLIPS + 3, "some jobs")
    stack.arm("after_row")  # web, before it announces
    stack.arm("claimed")
    stack.kill_worker(stack.workers[0])
    stack.redis.kill()
    stack.redis.start()
    stack.watch()
    stack.wait(lambda: not stack.is_armed("after_row") and not stack.is_armed("claimed"), "two deaths")
    stack.postgres.kill()  # restarted by the watch, as is the next
    stack.s3.kill()
    stack.schedulers[0].kill()
    submitting.join()
    ledger.wait_for_all()
    stack.unwatch()
    report = ledger.account()
    print(f"\n{report}")
    report.check()
    assert report.attempts > report.jobs, "no fault hit a job: this run proved nothing"


def test_fifty_concurrent_equal_requests_create_one_job(ledger: Ledger) -> None:
    stack, ids = ledger.stack, []

    def post() -> None:
        ids.append(stack.submit(ledger.clips[0], "one-key"))

    posting = [threading.Thread(target=post) for _ in range(50)]
    for thread in posting:
        thread.start()
    for thread in posting:
        thread.join()
    assert (len(ids), len(set(ids))) == (50, 1)
    ledger.accepted[ids[0]] = 0
    ledger.wait_for_all()
    ledger.account().check()


def test_artifacts_match_their_description_on_an_unreliable_s3_server(ledger: Ledger, proxy: S3Proxy) -> None:
    proxy.spoil(FAULTS | LIES)
    ledger.submit_many(6).join()
    ledger.wait_for_all()
    assert proxy.heal().total() > 0
    assert ledger.mismatches() == []
    ledger.account().check()


def test_jobs_canceled_at_random_times_are_canceled_or_succeed(ledger: Ledger) -> None:
    answers = race(ledger, 10)
    ledger.stack.wait(lambda: not leftovers(ledger), "the end of what was canceled")
    print(f"\n{answers[202]} cancels in time, {answers[409]} too late")
    assert artifacts_of_canceled(ledger) == 0
    assert ledger.mismatches() == []
    ledger.account().check()


def test_drained_worker_finishes_what_it_has_and_takes_no_more(ledger: Ledger) -> None:
    stack, names = ledger.stack, {worker_name(worker): worker for worker in ledger.stack.workers}
    stack.wait(lambda: all(name in operate(stack, "workers") for name in names), "three workers")
    stack.arm(HELD)
    stack.arm("transcribing", "hold")
    held = ledger.submit(0)
    stack.wait(lambda: not stack.is_armed("transcribing"), "a job in progress")
    (busy,) = workers_of(stack, held)
    idle, other = sorted(names.keys() - {busy})
    operate(stack, "drain", busy, idle)
    assert f"{busy}: 1 in hand" in operate(stack, "workers")
    assert operate(stack, "workers").count("draining") == 2
    stack.disarm()
    operate(stack, "drain", busy, "--wait")
    assert stack.sql("SELECT status FROM jobs WHERE id = %s", held) == [("succeeded",)]
    assert workers_of(stack, held) == {busy}
    jobs = [ledger.submit(number) for number in range(CLIPS)]
    ledger.wait_for_all()
    assert workers_of(stack, *jobs) == {other}

    restarted = names[busy]
    restarted.terminate()
    restarted.start()
    operate(stack, "drain", idle, "--undo")
    operate(stack, "drain", other)
    more: list[str] = []

    def both_take_items() -> bool:
        more.append(ledger.submit(0))
        ledger.wait_for_all()
        return workers_of(stack, *more) == {worker_name(restarted), idle}

    stack.wait(both_take_items, "items for the restarted worker and the one that drains no more")
    operate(stack, "drain", other, "--undo")
    ledger.account().check()


def operate(stack: Stack, *arguments: str) -> str:
    """Run `mt3-infer admin`."""
    result = CliRunner().invoke(admin, arguments, env={"MT3_DATABASE_URL": stack.database.url})
    assert result.exit_code == 0, result.output
    return result.output


def workers_of(stack: Stack, *job_ids: str) -> set[str]:
    """Return the workers that attempted jobs."""
    rows = stack.sql(
        "SELECT attempts.worker FROM attempts JOIN work_items ON work_items.id = attempts.item_id"
        " WHERE work_items.job_id::text = ANY(%s)",
        list(job_ids),
    )
    return {str(worker) for (worker,) in rows}


def finish_after_a_pause(ledger: Ledger) -> str:
    """Pause a worker just before it completes a job until another one has completed it; return the job's id."""
    stack = ledger.stack
    stack.arm("before_finish", "stop")
    job_id = ledger.submit(0)
    zombie = stack.stopped_worker()
    ledger.wait_for_all()
    stack.let_go_on(zombie)
    return job_id


def test_late_completion_by_a_paused_worker_is_refused(ledger: Ledger) -> None:
    refused = ledger.stack.logged("stale_finish_refused")
    finish_after_a_pause(ledger)
    report = ledger.account()
    report.check()
    assert report.refused == refused + 1


def test_without_fencing_the_same_pause_completes_a_job_twice(ledger: Ledger) -> None:
    """Negative control: the accounting detects an injected bug."""
    stack = ledger.stack
    stack.arm(UNFENCED)
    job_id = finish_after_a_pause(ledger)
    report = ledger.account()
    assert (report.doubled, report.stale) == (1, 1), report
    with pytest.raises(AssertionError, match="doubled 1"):
        report.check()
    stack.disarm()
    stack.sql("DELETE FROM finishes WHERE job = %s", job_id)
