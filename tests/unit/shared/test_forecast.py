"""The forecast by itself: random queues, and the figures that decide which work an item takes."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as some

from shared.forecast import Running, Waiting, forecast
from shared.speeds import Pace, Sample, measure

SECONDS = some.floats(0.1, 50)
OWNERS = some.sampled_from("abc")


@some.composite
def queues(draw: some.DrawFn) -> list[Waiting]:
    count = draw(some.integers(1, 12))
    jobs = []
    for number in range(count):
        is_long = draw(some.booleans())
        jobs.append(
            Waiting(
                UUID(int=number + 1),
                draw(OWNERS),
                served_at=float(number - count),
                seconds=draw(SECONDS),
                pieces=draw(some.integers(1, 6)) if is_long else 1,
                ready=draw(some.sampled_from([0.0, 0.0, 7.0])),
                is_long=is_long,
                is_split=is_long and draw(some.booleans()),
            )
        )
    return jobs


RUNNING = some.lists(some.builds(Running, some.just(UUID(int=0)), OWNERS, SECONDS, some.booleans()), max_size=5)


@given(queues(), RUNNING, some.integers(1, 4))
def test_every_job_starts_no_sooner_than_it_may(jobs: list[Waiting], running: list[Running], threads: int) -> None:
    starts = forecast(jobs, running, threads=threads)
    assert starts.keys() == {job.job_id for job in jobs}
    assert all(starts[job.job_id] >= job.ready for job in jobs)
    work = sum(job.seconds * job.pieces for job in jobs) + sum(item.left for item in running)
    assert max(starts.values()) <= 4 / 3 * work + 20, "no thread stays idle while work waits"


@given(some.lists(SECONDS, min_size=1, max_size=20), some.integers(1, 4))
def test_short_jobs_of_one_owner_start_in_order_as_threads_become_free(seconds: list[float], threads: int) -> None:
    jobs = [Waiting(UUID(int=n + 1), "a", float(n), length) for n, length in enumerate(seconds)]
    starts = list(forecast(jobs, [], threads=threads).values())
    ends: list[float] = [0.0] * threads
    for start, length in zip(starts, seconds, strict=True):
        assert start == pytest.approx(min(ends))
        ends[ends.index(min(ends))] = start + length


def samples(*taken: tuple[float, float], together: int = 1) -> list[Sample]:
    """Return attempts with their audio seconds and seconds taken, so many at a time."""
    ends = [-1000.0 * (number // together) for number in range(len(taken))]
    return [
        Sample("m", "w", end - seconds, end, audio, ".mp3", 1000)
        for end, (audio, seconds) in zip(ends, taken, strict=True)
    ]


def test_pace_has_a_part_for_each_item_and_a_part_for_each_second() -> None:
    pace = measure(samples((10, 3), (20, 4), (100, 12))).paces["m"]
    assert (pace.overhead, pace.factor) == pytest.approx((2, 0.1))


def test_attempts_beside_others_count_as_if_they_had_run_alone() -> None:
    alone = measure(samples((100, 10), (200, 20)))
    beside = measure(samples((100, 30.3), (100, 30.3), (100, 30.3), (100, 30.3), together=4))
    assert beside.paces["m"].seconds(100) == pytest.approx(alone.paces["m"].seconds(100), rel=0.01)
    assert beside.paces["m"].seconds(100, together=4) == pytest.approx(30.3)


def test_recent_attempts_count_more() -> None:
    pace = measure(samples(*[(100, 10)] * 10, *[(100, 90)] * 50)).paces["m"]
    assert pace.seconds(100) < 60


def test_preempted_parts_are_measured_only_if_there_is_nothing_else() -> None:
    part = Sample("m", "w", -500, -300, 100)
    assert measure([part]).paces["m"].seconds(100) == pytest.approx(200)
    assert measure([part, *samples((100, 10))]).paces["m"].seconds(100) == pytest.approx(10)


def test_model_without_measurements_takes_as_long_as_others() -> None:
    speeds = measure([], reported={"a": 10.0, "b": 2.5})
    assert speeds.pace("c") == Pace(0, 0.25)
