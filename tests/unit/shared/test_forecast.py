"""The forecast of starts by itself: the order of claims, preemption, and jobs that will probably arrive."""

from __future__ import annotations

import random
from typing import Any
from uuid import UUID

import pytest

from shared.forecast import CHECK_AFTER, PREEMPT_AFTER, SHARE, Running, Waiting, forecast


def waiting(number: int, *, owner: str = "a", seconds: float = 10.0, **more: Any) -> Waiting:
    """Return a job that has waited, the less the higher its number."""
    return Waiting(UUID(int=number), owner, **{"served_at": number - 100.0, "seconds": seconds} | more)


def running(*, owner: str = "a", left: float = 10.0, is_long: bool = False, number: int = 99) -> Running:
    return Running(UUID(int=number), owner, left, is_long)


def starts(*args: Any, **more: Any) -> list[float]:
    found = forecast(*args, **more)
    return [found[job_id] for job_id in sorted(found)]


def long_recording(number: int, **more: Any) -> Waiting:
    return waiting(number, **{"seconds": 60.0, "pieces": 3, "is_long": True} | more)


def test_jobs_of_another_owner_that_will_probably_arrive_come_first() -> None:
    mine = [waiting(number) for number in (1, 2, 3)]
    busy = [running(), running(owner="b")]
    arriving = [waiting(50 + n, owner="b", served_at=5.0 + 10 * n, ready=5.0 + 10 * n) for n in range(3)]
    assert starts(mine, busy, threads=2) == [10, 10, 20]
    assert starts(mine, busy, arriving, threads=2) == [10, 20, 30]


def test_jobs_of_the_same_owner_that_arrive_later_come_later() -> None:
    mine = [waiting(number) for number in (1, 2, 3)]
    arriving = [waiting(50, served_at=5.0, ready=5.0)]
    assert starts(mine, [running()], arriving, threads=1) == starts(mine, [running()], threads=1) == [10, 20, 30]


def test_the_parts_of_a_recording_wait_behind_what_came_before_it_was_opened() -> None:
    first, second = long_recording(1, opening=2.0), waiting(2)
    assert starts([first, second], [], threads=1) == [0, 2]
    third = waiting(3)
    assert starts([first, second, third], [], threads=1) == [0, 2, 12], "not between two parts of the first one"


def test_a_recording_that_turns_out_to_be_long_waits_for_parts_of_its_owner() -> None:
    split = long_recording(1, is_split=True, pieces=2)
    assert starts([split, long_recording(2)], [], threads=1) == [0, 120]
    assert starts([split, long_recording(2)], [], threads=3) == [0, 0], "no part waits any more"
    earlier = long_recording(0)
    assert starts([split, earlier], [], threads=1) == [120, 0], "deferred, though it is first"
    of_other = long_recording(2, owner="b", served_at=0.0)
    assert starts([long_recording(1, is_split=True), of_other], [running(left=1.0)], threads=1) == [1, 61]


def test_a_long_recording_preempts_no_other() -> None:
    part = running(left=30.0, is_long=True)
    assert starts([long_recording(1, owner="b")], [part], threads=1) == [30]
    assert starts([waiting(1, owner="b")], [part], threads=1) == [CHECK_AFTER]


def test_short_work_preempts_when_it_has_waited() -> None:
    part = running(left=30.0, is_long=True)
    arriving = waiting(1, served_at=5.0, ready=5.0)
    assert starts([arriving], [part], threads=1) == [5 + PREEMPT_AFTER]


def test_a_preempted_recording_takes_longer_and_goes_on_before_it_is_preempted_again() -> None:
    held = [running(left=30.0, is_long=True), running(left=6.0, number=98)]
    assert starts([waiting(1)], held, threads=1) == [6 * (1 + 1 / SHARE)]
    behind = long_recording(1, owner="b", is_split=True)
    assert starts([behind], held, threads=1) == [36]
    assert starts([behind], held, threads=2) == [6], "the short one has a thread of its own"


@pytest.mark.parametrize("seed", range(20))
def test_each_job_starts_and_none_before_it_may(seed: int) -> None:
    draw = random.Random(seed)

    def some(number: int) -> Waiting:
        kind = draw.choice(["short", "short", "unopened", "deferred", "split"])
        ready = draw.choice([0.0, 0.0, draw.uniform(0, 50)])
        more = {"pieces": draw.randint(1, 5), "is_long": True, "opening": draw.choice([0.0, 1.0])}
        return waiting(
            number,
            owner=draw.choice("abc"),
            seconds=draw.choice([0.0, draw.uniform(0.1, 20)]),
            ready=ready,
            served_at=ready or -draw.uniform(0, 50),
            is_split=kind == "split",
            is_deferred=kind == "deferred",
            **(more if kind != "short" else {}),
        )

    held = [
        running(owner=draw.choice("abc"), left=draw.uniform(0, 9), is_long=draw.random() < 0.4, number=1000 + n)
        for n in range(draw.randint(0, 6))
    ]
    jobs, arriving = [some(n) for n in range(30)], [some(2000 + n) for n in range(draw.randint(0, 20))]
    found = forecast(jobs, held, arriving, threads=draw.randint(1, 4))
    assert found.keys() == {job.job_id for job in jobs}
    assert all(found[job.job_id] >= job.ready for job in jobs)
