"""A worker that processes a long recording runs short items in between, within its share of the time."""

from __future__ import annotations

import pytest

from worker.preemption import MOST_SECONDS, SHARE, WAIT_SECONDS, Preemption


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class ShortJobs:
    """Short items, each of which takes some seconds."""

    def __init__(self, clock: Clock, count: int, seconds: float) -> None:
        self.clock, self.left, self.seconds = clock, count, seconds

    def run_short(self) -> bool:
        if not self.left:
            return False
        self.left -= 1
        self.clock.now += self.seconds
        return True


def work(clock: Clock, preempt: Preemption, segments: int, *, seconds: float = 0.1) -> None:
    for _ in range(segments):
        clock.now += seconds
        preempt()


def test_short_items_are_looked_for_once_a_second() -> None:
    clock = Clock()
    looks: list[float] = []

    def look() -> bool:
        looks.append(clock.now)
        return False

    work(clock, Preemption(look, clock=clock), 36, seconds=0.125)
    assert looks == [1, 2, 3, 4]


def test_short_jobs_run_one_after_the_other_at_the_next_check() -> None:
    clock = Clock()
    jobs = ShortJobs(clock, count=5, seconds=0.2)
    preempt = Preemption(jobs.run_short, clock=clock)
    work(clock, preempt, 1, seconds=WAIT_SECONDS)
    assert jobs.left == 0
    assert preempt.seconds == pytest.approx(1.0)


def test_stream_of_short_jobs_leaves_a_quarter_of_the_time() -> None:
    clock = Clock()
    jobs = ShortJobs(clock, count=10_000, seconds=0.7)
    preempt = Preemption(jobs.run_short, clock=clock)
    work(clock, preempt, 2000)
    own = clock.now - preempt.seconds
    assert own == pytest.approx(200)
    assert preempt.seconds / own == pytest.approx(SHARE, rel=0.02)


def test_time_for_short_jobs_does_not_accumulate_without_limit() -> None:
    clock = Clock()
    jobs = ShortJobs(clock, count=0, seconds=1)
    preempt = Preemption(jobs.run_short, clock=clock)
    work(clock, preempt, 10_000)
    jobs.left = 10_000
    began = clock.now
    work(clock, preempt, 1, seconds=WAIT_SECONDS)
    assert clock.now - began <= MOST_SECONDS + 2
