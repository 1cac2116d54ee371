"""The threads of the web server: order, calls that hang, the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from web.threads import Threads

COUNT = 4


@pytest.fixture(params=[None, 2], ids=["all eager", "two eager"])
def threads(request: pytest.FixtureRequest) -> Iterator[Threads]:
    pool = Threads(COUNT, "test", eager=request.param)
    yield pool
    pool.close()


def fail() -> None:
    raise ValueError("no")


def test_results_and_errors_reach_the_caller(threads: Threads) -> None:
    async def run() -> None:
        assert await asyncio.gather(*(threads.run(pow, 2, n) for n in range(50))) == [2**n for n in range(50)]
        with pytest.raises(ValueError, match="no"):
            await threads.run(fail)

    asyncio.run(run())
    asyncio.run(run())  # in another loop as well


def test_calls_that_hang_leave_threads_for_others(threads: Threads) -> None:
    release = threading.Event()

    async def run() -> None:
        hanging = [asyncio.ensure_future(threads.run(release.wait, 60)) for _ in range(COUNT - 1)]
        assert await threads.run(pow, 2, 3) == 8
        hanging.append(asyncio.ensure_future(threads.run(release.wait, 60)))
        late = asyncio.ensure_future(threads.run(pow, 2, 4))
        done, _ = await asyncio.wait([late], timeout=0.1)
        assert not done, "there are no more threads than allowed"
        release.set()
        assert await late == 16
        assert all(await asyncio.gather(*hanging))

    asyncio.run(run())


def test_call_canceled_before_it_begins_is_dropped(threads: Threads) -> None:
    release, begun = threading.Event(), threading.Event()

    async def run() -> None:
        hanging = [asyncio.ensure_future(threads.run(release.wait, 60)) for _ in range(COUNT)]
        late = asyncio.ensure_future(threads.run(begun.set))
        await asyncio.sleep(0)
        late.cancel()
        release.set()
        await asyncio.gather(*hanging)
        await threads.run(int)

    asyncio.run(run())
    assert not begun.is_set()


def test_close_runs_what_is_there_and_refuses_more() -> None:
    threads, results = Threads(1, "test"), list[int]()
    release = threading.Event()

    async def run() -> None:
        calls = [asyncio.ensure_future(threads.run(release.wait, 60))]
        calls += [asyncio.ensure_future(threads.run(results.append, n)) for n in range(3)]  # type: ignore[arg-type]
        await asyncio.sleep(0)
        closing = threading.Thread(target=threads.close)
        closing.start()
        release.set()
        await asyncio.gather(*calls)
        closing.join()
        with pytest.raises(RuntimeError, match="closed"):
            await threads.run(int)

    asyncio.run(run())
    assert results == [0, 1, 2]
