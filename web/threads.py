"""Runs blocking functions for an event loop, on as few threads as keep up with them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")

OVERDUE_SECONDS = 0.01  # a call that has waited for so long gets a thread of its own: the others are blocked


class Threads:
    """A pool of threads, and calls that wait for one of them in order.

    `concurrent.futures` spreads calls over all threads, of which each is cold, and which compete for the
    interpreter. Here more than the eager ones are at work only when calls have to wait, because what the threads
    call hangs.

    Args:
        count: the most threads; each is started when it is first needed.
        name: of the threads.
        eager: how many take calls at once; all of them by default, for calls that mostly wait themselves.
    """

    def __init__(self, count: int, name: str, *, eager: int | None = None) -> None:
        self._count, self._name, self._eager = count, name, eager or count
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._resting: list[SimpleQueue[_Call | None]] = []
        self._waiting: deque[_Call] = deque()
        self._watching: asyncio.AbstractEventLoop | None = None
        self._is_closed = False

    async def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Return what a function returns, or raise what it raises.

        A call that is canceled before it begins is dropped; one that has begun runs to its end.

        Raises:
            RuntimeError: the pool is closed.
        """
        call = _Call(function, arguments)
        with self._lock:
            if self._is_closed:
                raise RuntimeError(f"The threads {self._name!r} are closed.")
            if self._busy >= self._eager or not self._give(call):
                self._waiting.append(call)
                self._watch(call.loop)
        result: Result = await call.future
        return result

    def close(self) -> None:
        """Run the calls that are there to their end, and end the threads."""
        with self._lock:
            self._is_closed = True
            while self._resting:
                self._resting.pop().put(None)
        for thread in self._threads:
            thread.join()

    @property
    def _busy(self) -> int:
        return len(self._threads) - len(self._resting)

    def _give(self, call: _Call) -> bool:
        """Let the thread that was busy last run a call, or a new one; return False if there are enough."""
        if self._resting:
            self._resting.pop().put(call)
        elif len(self._threads) < self._count:
            thread = threading.Thread(target=self._work, args=(call,), name=self._name, daemon=True)
            self._threads.append(thread)
            thread.start()
        else:
            return False
        return True

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look after the calls that wait, until none does."""
        if self._waiting and self._watching is not loop:
            self._watching = loop
            loop.call_later(OVERDUE_SECONDS, self._relieve, loop)

    def _relieve(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            self._watching = None
            while self._waiting and self._waiting[0].is_overdue and self._give(self._waiting[0]):
                self._waiting.popleft()
            self._watch(loop)

    def _work(self, call: _Call) -> None:
        given: SimpleQueue[_Call | None] = SimpleQueue()
        following: _Call | None = call
        while following is not None:
            following.run()
            with self._lock:
                following = self._next()
                if following is None and not self._is_closed:
                    self._resting.append(given)
                elif following is None:
                    return
            following = following or given.get()

    def _next(self) -> _Call | None:
        """Return the call that a thread goes on with; None if fewer threads will do, or none waits."""
        is_needed = self._busy <= self._eager or self._is_closed
        if self._waiting and (is_needed or self._waiting[0].is_overdue):
            return self._waiting.popleft()
        return None


class _Call:
    """A function with its arguments, and the future of the loop that asked for it."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self._function, self._arguments = function, arguments
        self._made_at = time.monotonic()

    @property
    def is_overdue(self) -> bool:
        return time.monotonic() - self._made_at >= OVERDUE_SECONDS

    def run(self) -> None:
        if self.future.cancelled():
            return
        result, error = None, None
        try:
            result = self._function(*self._arguments)
        except BaseException as raised:
            error = raised
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self.loop.call_soon_threadsafe(self._end, result, error)

    def _end(self, result: Any, error: BaseException | None) -> None:
        if self.future.cancelled():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)
