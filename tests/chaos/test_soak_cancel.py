"""For `make soak`: jobs that are canceled at any time of their lives, in one piece and in shards."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.chaos.cancels import (
    artifacts_of_canceled,
    cancel_before_the_finish,
    leftovers,
    race,
    wait_for_idle_workers,
)
from tests.chaos.faults import UNFENCED
from tests.chaos.runs import conclude, running, times

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("shard_seconds", ["600", "2"], ids=["in one piece", "in shards"])
def test_jobs_are_canceled_at_random_times(tmp_path: Path, clips: list[bytes], shard_seconds: str) -> None:
    with running(tmp_path, clips, MT3_SHARD_SECONDS=shard_seconds) as ledger:
        stack, began = ledger.stack, time.monotonic()
        answers = race(ledger, times(200))
        cancel_before_the_finish(ledger)
        wait_for_idle_workers(stack)
        stack.wait(lambda: not leftovers(ledger), "the garbage's end")
        mismatches = ledger.mismatches()
        title = f"{answers[202]} cancels in time, {answers[409]} too late, mismatches {len(mismatches)}"
        report = conclude(ledger, title, began)
        assert mismatches == []
        assert artifacts_of_canceled(ledger) == 0
        assert report.refused > 0, "no cancel met a finish: the run proved nothing"
        assert answers.keys() == {202, 409}, "the run proved nothing"


def test_without_fencing_a_canceled_job_is_completed(tmp_path: Path, clips: list[bytes]) -> None:
    """Negative control."""
    with running(tmp_path, clips) as ledger:
        ledger.stack.arm(UNFENCED)
        cancel_before_the_finish(ledger)
        report = ledger.account()
        print(f"\ncanceled before the finish, without the fence: {report}")
        assert (report.lost, report.doubled, report.changed) == (1, 1, 1)
        with pytest.raises(AssertionError, match="ends changed 1"):
            report.check()
