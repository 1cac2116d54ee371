"""Clients that wait for a job or an export to end (`Prefer: wait`): one query for all those of a process.

A view leaves in its environment what its answer depends on; `web.bridge` calls it again once that has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

from werkzeug.http import parse_options_header

from shared.endings import find_ended
from web.services import Services

AWAITED = "mt3.awaited"  # where a view leaves the id of the job or export whose end would change its answer
MAX_WAIT_SECONDS = 60.0
STEP_SECONDS = 0.25  # between two queries
UNKNOWN_SECONDS = 1.0  # until a view is called again that does not say what its answer depends on

Read = Callable[[Collection[UUID]], Awaitable[Collection[UUID]]]


class Waits:
    """Watches the jobs that the clients of a process wait for.

    Args:
        read: returns which jobs and exports of these ids have ended, or are gone.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._watched: dict[UUID, set[asyncio.Future[None]]] = {}
        self._poller: asyncio.Task[None] | None = None

    @contextmanager
    def watch(self, awaited: UUID | None) -> Iterator[asyncio.Future[None]]:
        """Yield a future that is done once a job or an export has ended; for None, after a while."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        if awaited is None:
            timer = loop.call_later(UNKNOWN_SECONDS, _finish, ended)
            try:
                yield ended
            finally:
                timer.cancel()
            return
        watched = self._watched.setdefault(awaited, set())
        watched.add(ended)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.ensure_future(self._poll())
        try:
            yield ended
        finally:
            watched.discard(ended)
            if not watched and self._watched.get(awaited) is watched:
                del self._watched[awaited]

    async def _poll(self) -> None:
        while self._watched:
            await asyncio.sleep(STEP_SECONDS)
            with suppress(Exception):  # without the database the clients wait on, and are told in the end
                for awaited in await self._read(list(self._watched)):
                    for ended in self._watched.get(awaited, ()):
                        _finish(ended)


def read_ended(services: Services, ids: Collection[UUID]) -> Collection[UUID]:
    """Return which jobs and exports have ended, or are gone."""
    return find_ended(services.sessions, ids)


def wait_seconds(prefer: str | None) -> float:
    """Return N of `Prefer: wait=N` (RFC 7240), within bounds."""
    for preference in (prefer or "").split(","):
        _, options = parse_options_header(f"prefer;{preference}")
        with suppress(KeyError, ValueError):
            return min(MAX_WAIT_SECONDS, max(0.0, float(options["wait"])))
    return 0.0


def _finish(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
