"""Server-sent events of jobs: all streams of a process share one poller of the database.

A view checks the request and leaves a `Watch` in its environment; `web.bridge` then hands the connection over to
`Streams`. Notes have numbers that are the `id` of their events, so that a client that was cut off reads on exactly
where it was. Status and progress are not numbered: a client that comes back gets the present ones.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import Any
from uuid import UUID

from shared.logs import get_logger

log = get_logger(__name__)

ENVIRON = "mt3.watch"  # where a view leaves its `Watch`
POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 15.0  # proxies cut connections that are silent for longer
CHECKED_EVERY = 10  # polls: how often it is checked that the key of a stream is still valid
STREAMS_AT_ONCE = 16  # that are served before other requests
EVENTS_AT_ONCE = 4  # of notes, to one stream, before it has taken them
RETRY_MILLISECONDS = 2000  # until a client connects again

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass(frozen=True)
class Watch:
    """Hold what a client wants to be sent: the notes of a job after a number.

    Attributes:
        is_allowed: returns False once the client's key or link is no longer valid; may read the database.
    """

    job_id: UUID
    after: int
    is_allowed: Callable[[], bool] = lambda: True


@dataclass(frozen=True)
class News:
    """The state of a job: its events after the lowest number that was asked for, and the number of the last one.

    Attributes:
        end: the data of the last event, once the job has ended.
    """

    status: Mapping[str, Any]
    progress: Mapping[str, Any]
    events: Sequence[tuple[int, str, str]]  # number, kind, data
    cursor: int
    end: Mapping[str, Any] | None

    @cached_property
    def state(self) -> Sequence[tuple[str, str, str]]:
        """Return kind, data, and the data without estimates of the status and the progress, for all streams."""
        shown = (("status", self.status), ("progress", self.progress))
        return [(kind, json.dumps(data), json.dumps(_without_estimates(data))) for kind, data in shown]


Read = Callable[[Mapping[UUID, int]], Awaitable[Mapping[UUID, News]]]


@dataclass(eq=False)
class Stream:
    """One client's connection: what is to be sent to it."""

    watch: Watch
    cursor: int
    pending: deque[str] = field(default_factory=deque)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    is_complete: bool = False
    is_closing: bool = False
    _shown: dict[str, str] = field(default_factory=dict)

    def take(self, news: News | None) -> None:
        """Queue what is new, None if the job is gone; a client that has not taken the last events gets no more."""
        if self.pending or self.is_complete:
            return
        if news is None:
            self._add("end", json.dumps({"status": "deleted"}))
            self.is_complete = True
        else:
            for kind, text, compared in news.state:
                if self._shown.get(kind) != compared:
                    self._shown[kind] = compared
                    self._add(kind, text)
            for number, kind, text in news.events:
                if number > self.cursor:
                    self._add(kind, text, str(number))
                    self.cursor = number
            if news.end is not None and self.cursor >= news.cursor:
                self._add("end", json.dumps(news.end), end_id(self.cursor))
                self.is_complete = True
        if self.pending:
            self.ready.set()

    def close(self) -> None:
        """End the connection after what is queued."""
        self.is_closing = True
        self.ready.set()

    def _add(self, kind: str, text: str, event_id: str | None = None) -> None:
        head = "" if event_id is None else f"id: {event_id}\n"
        self.pending.append(f"{head}event: {kind}\ndata: {text}\n\n")


def end_id(cursor: int) -> str:
    """Return the id of the last event of a stream: a client that has it need not come back."""
    return f"{cursor}.end"


class Streams:
    """The open streams of a process.

    Args:
        read: returns the news of jobs after a number each; those that are gone are left out.
        limit: streams at a time.
        patience: seconds for a client to take an event.
        seconds: until a client has to connect again, perhaps to another process.
    """

    def __init__(self, read: Read, *, limit: int, patience: float, seconds: float = 300.0) -> None:
        self._read = read
        self._limit = limit
        self._patience = patience
        self._seconds = seconds
        self._streams: set[Stream] = set()
        self._poller: asyncio.Task[None] | None = None
        self._joined = asyncio.Event()
        self._is_closed = False

    @property
    def is_full(self) -> bool:
        """Return True if there are as many streams as are allowed."""
        return len(self._streams) >= self._limit

    def close(self) -> None:
        """End all streams: this process shuts down, and clients connect to another one."""
        self._is_closed = True
        for stream in self._streams:
            stream.close()

    async def serve(self, watch: Watch, headers: list[tuple[bytes, bytes]], receive: Receive, send: Send) -> None:
        """Send the events of a job until it ends or the client leaves."""
        stream = Stream(watch, watch.after, is_closing=self._is_closed)
        gone = asyncio.ensure_future(_disconnect(receive))
        gone.add_done_callback(lambda _: stream.close())
        self._join(stream)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._write(send, f"retry: {RETRY_MILLISECONDS}\n\n")
            await self._send_all(stream, send, time.monotonic() + self._seconds)
            if not gone.done():
                async with asyncio.timeout(self._patience):
                    await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            log.info("client_too_slow")
        finally:
            gone.cancel()
            self._streams.discard(stream)

    async def _send_all(self, stream: Stream, send: Send, until: float) -> None:
        while time.monotonic() < until:
            text = "".join(stream.pending)
            if text:
                await self._write(send, text)
                stream.pending.clear()
            if stream.is_complete or stream.is_closing:
                return
            stream.ready.clear()
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await stream.ready.wait()
            except TimeoutError:
                await self._write(send, ":\n\n")

    async def _write(self, send: Send, text: str) -> None:
        async with asyncio.timeout(self._patience):
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})

    def _join(self, stream: Stream) -> None:
        self._streams.add(stream)
        self._joined.set()
        if self._poller is None or self._poller.done():
            self._poller = asyncio.ensure_future(self._poll())

    async def _poll(self) -> None:
        """Read the news of all jobs that are watched, while there are streams."""
        is_failing = False
        for round_number in count():
            if not self._streams:
                return
            self._joined.clear()
            waiting = [stream for stream in self._streams if not stream.pending]
            after: dict[UUID, int] = {}
            for stream in waiting:
                job_id = stream.watch.job_id
                after[job_id] = min(stream.cursor, after.get(job_id, stream.cursor))
            try:
                await self._end_revoked(round_number)
                news = await self._read(after) if after else {}
            except Exception as error:
                if not is_failing:
                    log.warning("streams_wait", error=str(error).splitlines()[:1])
                is_failing = True
                await asyncio.sleep(POLL_SECONDS)
                continue
            is_failing = False
            for number, stream in enumerate(waiting, start=1):
                stream.take(news.get(stream.watch.job_id))
                if number % STREAMS_AT_ONCE == 0:
                    await asyncio.sleep(0)  # other requests must not wait for all streams
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._joined.wait()

    async def _end_revoked(self, round_number: int) -> None:
        """End streams whose key or link is no longer valid. A few are checked at a time, each in a few seconds."""
        checked = list(self._streams)[round_number % CHECKED_EVERY :: CHECKED_EVERY]
        if not checked:
            return
        allowed = await asyncio.to_thread(lambda: [stream.watch.is_allowed() for stream in checked])
        for stream, is_allowed in zip(checked, allowed, strict=True):
            if not is_allowed:
                stream.close()


def _without_estimates(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data without what changes with the clock alone."""
    nested = {name: _without_estimates(value) for name, value in data.items() if isinstance(value, Mapping)}
    return {name: value for name, value in data.items() if name != "eta_seconds"} | nested


async def _disconnect(receive: Receive) -> None:
    """Return when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
