"""Runs the Flask application for an ASGI server, so that a slow client costs no thread.

An event loop reads the whole request body before a thread runs the view, and sends the response after that
thread is free again. A client that waits (`Prefer: wait`) costs a timer. Each kind of view has a thread pool of
its own, so that uploads to a storage that hangs leave threads for polls and health checks.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from io import BytesIO
from types import FrameType
from typing import IO, Any
from urllib.parse import quote, unquote_to_bytes, urlsplit
from uuid import UUID

from flask import Flask, Response, request
from structlog.contextvars import bound_contextvars
from werkzeug.exceptions import HTTPException

from shared import tracing
from shared.errors import is_disk_full
from shared.logs import get_logger
from shared.processes import die_with_parent
from web.access import refuse_without_key
from web.errors import no_room, problem, upload_too_large
from web.events import read_news, too_many_streams
from web.limits import REPEATED
from web.request_log import REQUEST_ID, ROUTE, SPAN, Exchange
from web.services import EXTENSION, Services
from web.streams import ENVIRON, News, Streams, Watch
from web.threads import Threads
from web.waits import AWAITED, Waits, read_ended, wait_seconds
from web.workload import Workload, workload_of

Message = dict[str, Any]
Environ = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

log = get_logger(__name__)

BODY_BYTES = 25_000  # the least that a client has to send in MT3_SLOW_CLIENT_SECONDS
IN_MEMORY_BYTES = 256 * 1024  # a longer request body goes to a temporary file
PIECE_BYTES = 256 * 1024  # of a response, and of a request body on its way to the file
PENDING = (HTTPStatus.OK, HTTPStatus.ACCEPTED, HTTPStatus.NOT_MODIFIED)  # with a Retry-After, of a job
REPEATS = 4  # views that are run again at a time, for clients that waited: others must not wait for all of them
# Together they stay below the size of the database's connection pool (`shared.db`).
THREADS = {Workload.LIVENESS: 1, Workload.READINESS: 2, Workload.DATABASE: 16, Workload.STORAGE: 10}
EAGER = {Workload.DATABASE: 2}


class Refused(Exception):  # noqa: N818
    """A request that is rejected before any view runs."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


@dataclass
class Answer:
    """A view's response: `start` has been read from its body, `rest` has not. `watch` asks for a stream.

    Attributes:
        awaited: the job or export whose end would change the response.
    """

    status: int
    headers: list[tuple[str, str]]
    start: bytes
    rest: Iterator[bytes] | None = None
    close: Callable[[], None] | None = None
    watch: Watch | None = None
    awaited: UUID | None = None

    @property
    def is_final(self) -> bool:
        """Return False for a job that has not ended: the response may change."""
        return self.header("Retry-After") is None or self.status not in PENDING

    def header(self, name: str) -> str | None:
        """Return the value of a header; None if the response has none of that name."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class AsgiApp:
    """An ASGI application around a Flask application.

    Args:
        patience: seconds for a client to send the next `BODY_BYTES` of a body, or to receive a piece of an answer.
    """

    def __init__(self, flask_app: Flask, *, patience: float) -> None:
        self._flask = flask_app
        urls = flask_app.url_map.bind("")
        self._match = lru_cache(1024)(lambda path, method: urls.match(path, method, return_rule=True)[0])
        self._patience = patience
        self._pools = {load: Threads(n, load.value, eager=EAGER.get(load)) for load, n in THREADS.items()}
        self._files = Threads(4, "files")
        self._poller = Threads(1, "events")
        self._ending = asyncio.Event()
        self._repeats = asyncio.Semaphore(REPEATS)
        self._waits = Waits(self._read_ended)
        services: Services = flask_app.extensions[EXTENSION]
        self._services = services
        limit, seconds = services.settings.max_streams, services.settings.stream_seconds
        self._streams = Streams(self._read_news, limit=limit, patience=patience, seconds=seconds)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one request or the server's lifespan."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    def close(self) -> None:
        """Shut down the thread pools."""
        for pool in (*self._pools.values(), self._files, self._poller):
            pool.close()

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._notice_the_end()
                _end_with_parent()
            else:
                await self._files.run(tracing.flush)
            await send({"type": f"{message['type']}.complete"})

    def _notice_the_end(self) -> None:
        """Notice SIGTERM as it arrives: the server reports its shutdown only after the last request."""
        loop = asyncio.get_running_loop()

        def end(_number: int, _frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._ending.set)
            loop.call_soon_threadsafe(self._streams.close)

        # The server's own handler still runs: the event loop calls it through a file descriptor.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        environ = make_environ(scope)
        exchange = Exchange(environ)
        is_chunked = "HTTP_TRANSFER_ENCODING" in environ
        body = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115 - closing it may fail, see below
        try:
            answer = await self._make_answer(environ, receive, body)
            if is_chunked:
                # The server drops a Content-Length beside it. A proxy that relied on the length may have sent
                # bytes that would now be read as a request of their own (RFC 9112, 6.3).
                answer.headers.append(("Connection", "close"))
            if answer.watch is not None and self._streams.is_full:
                answer = self._refusal(environ, too_many_streams(environ["PATH_INFO"]))
            answer.headers.append((REQUEST_ID, exchange.request_id))
            exchange.status = answer.status
            if answer.watch is not None:
                exchange.is_stream = True
                headers = _encoded(answer.headers)
                await self._streams.serve(answer.watch, headers, receive, exchange.counting(send))
            elif answer.rest is not None:
                await self._send(answer, exchange.counting(send))
            else:
                await send(_begin(answer))
                await send({"type": "http.response.body", "body": answer.start})  # the server takes it all at once
                exchange.bytes_out = len(answer.start)
        finally:
            exchange.end()
            with suppress(OSError):  # closing writes again what a full disk refused
                body.close()

    async def _make_answer(self, environ: Environ, receive: Receive, body: IO[bytes]) -> Answer:
        try:
            await self._check_access(environ)
            await self._read_body(environ, receive, body)
        except Refused as refused:
            refused.response.headers["Connection"] = "close"  # the rest of the body is not read
            self._workload(environ)  # names the route
            return self._refusal(environ, refused.response)
        answer = await self._run(environ)
        if seconds := wait_seconds(environ.get("HTTP_PREFER")):
            if not answer.is_final and answer.status == HTTPStatus.ACCEPTED:
                answer = await self._wait_for_new_job(environ, answer, receive, seconds)
            elif not answer.is_final:
                answer = await self._wait(environ, answer, receive, seconds)
            if answer.status in PENDING:
                answer.headers.append(("Preference-Applied", f"wait={seconds:g}"))
        return answer

    def _refusal(self, environ: Environ, response: Response) -> Answer:
        """Return an answer that no view made, with the headers that Flask gives every response."""
        with self._flask.request_context(environ | {"wsgi.input": BytesIO()}):
            response = self._flask.process_response(response)
        return Answer(response.status_code, list(response.headers), response.data)

    # --- the request ---------------------------------------------------------------------------------------

    async def _check_access(self, environ: Environ) -> None:
        """Refuse a client without a key before it sends a long body.

        Raises:
            Refused
        """
        if "HTTP_TRANSFER_ENCODING" in environ or int(environ.get("CONTENT_LENGTH") or 0) > IN_MEMORY_BYTES:
            pool = self._pools[Workload.DATABASE]
            response = await pool.run(self._preprocess, environ | {"wsgi.input": BytesIO()})
            if response is not None:
                raise Refused(response)

    def _preprocess(self, environ: Environ) -> Response | None:
        """Return a response that refuses a request for its headers; None if there is no reason to."""
        with self._flask.request_context(environ):
            try:
                return refuse_without_key(self._flask, request)
            except Exception:
                return None  # the view will meet it again

    async def _read_body(self, environ: Environ, receive: Receive, body: IO[bytes]) -> None:
        """Copy the body into a file, and add the file and its length to the WSGI environment.

        Raises:
            Refused: the body is too long, too slow or malformed, or the disk is full.
        """
        environ["wsgi.input"] = body
        coding = environ.pop("HTTP_TRANSFER_ENCODING", None)
        if coding is None and environ.get("CONTENT_LENGTH", "0") == "0":
            return
        if coding is not None and coding.lower() != "chunked":
            raise Refused(problem(400, "bad_request", "Unsupported Transfer-Encoding. Use chunked."))
        limit: int = self._flask.config["MAX_CONTENT_LENGTH"]
        if int(environ.get("CONTENT_LENGTH", 0)) > limit:
            raise Refused(upload_too_large(limit))
        length = 0
        try:
            async for piece in self._pieces(receive, limit):
                length += len(piece)
                if length <= IN_MEMORY_BYTES:
                    body.write(piece)
                else:
                    await self._files.run(body.write, piece)
        except OSError as error:
            if not is_disk_full(error):
                raise
            log.warning("disk_full", path=environ["PATH_INFO"], error=str(error))
            raise Refused(no_room()) from None
        body.seek(0)
        environ["CONTENT_LENGTH"] = str(length)

    async def _pieces(self, receive: Receive, limit: int) -> Any:
        """Yield the body in pieces of about PIECE_BYTES; refuse it as soon as more than `limit` bytes came."""
        held, length, credit, deadline = bytearray(), 0, 0, time.monotonic() + self._patience
        more = True
        while more:
            try:
                async with asyncio.timeout(deadline - time.monotonic()):  # no task of its own, unlike `wait_for`
                    message = await receive()
            except TimeoutError:
                text = "The request body arrived too slowly. Check the connection and send it again."
                raise Refused(problem(408, "request_timeout", text)) from None
            if message["type"] != "http.request":
                text = "The request body is malformed or incomplete. Send it again."
                raise Refused(problem(400, "bad_request", text))
            data, more = message.get("body", b""), message.get("more_body", False)
            length += len(data)
            if length > limit:
                raise Refused(upload_too_large(limit))
            held += data
            credit += len(data)
            if credit >= BODY_BYTES:
                credit, deadline = 0, time.monotonic() + self._patience
            if len(held) >= PIECE_BYTES or not more:
                yield bytes(held)
                held.clear()

    # --- the view ------------------------------------------------------------------------------------------

    async def _run(self, environ: Environ) -> Answer:
        pool = self._pools[self._workload(environ)]
        return await pool.run(self._call_flask, dict(environ))

    def _workload(self, environ: Environ) -> Workload:
        path = environ["PATH_INFO"].encode("latin-1").decode(errors="replace")
        try:
            rule = self._match(path, environ["REQUEST_METHOD"])
        except HTTPException:
            return Workload.DATABASE
        environ.setdefault(ROUTE, rule.rule)
        return workload_of(self._flask.view_functions.get(rule.endpoint))

    def _call_flask(self, environ: Environ) -> Answer:
        started: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            started[:] = [int(status.split(" ", 1)[0]), headers]

        with tracing.use(environ.get(SPAN)), bound_contextvars(request_id=environ["HTTP_X_REQUEST_ID"]):
            body: Iterable[bytes] = self._flask.wsgi_app(environ, start_response)
        rest = iter(body)
        start, is_done = _read(rest)
        close = getattr(body, "close", None)
        if is_done and close is not None:
            close()
        status, headers = started
        watch = environ.get(ENVIRON) if environ["REQUEST_METHOD"] == "GET" else None
        if watch is not None:
            headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
        answer = Answer(status, headers, start, watch=watch, awaited=environ.get(AWAITED))
        if not is_done:
            answer.rest, answer.close = rest, close
        return answer

    async def _read_news(self, after: Mapping[UUID, int]) -> Mapping[UUID, News]:
        return await self._poller.run(read_news, self._services, after)

    async def _read_ended(self, ids: Collection[UUID]) -> Collection[UUID]:
        return await self._poller.run(read_ended, self._services, ids)

    async def _wait(self, environ: Environ, answer: Answer, receive: Receive, seconds: float) -> Answer:
        """Run the view again until its response is final, `seconds` have passed or the client is gone."""
        give_up = time.monotonic() + seconds
        gone = asyncio.ensure_future(_disconnect(receive))
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            while not answer.is_final and (left := give_up - time.monotonic()) > 0:
                with self._waits.watch(answer.awaited) as ended:
                    await asyncio.wait((gone, ending, ended), timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if gone.done() or ending.done():
                    break
                async with self._repeats:
                    answer = await self._run(environ | {REPEATED: True})
        finally:
            gone.cancel()
            ending.cancel()
        return answer

    async def _wait_for_new_job(
        self, environ: Environ, accepted: Answer, receive: Receive, seconds: float
    ) -> Answer:
        """Poll a job that was just accepted; respond with 202 as before if it has not ended in time."""
        location = accepted.header("Location") or ""
        answer = await self._wait(_poll_of(environ, location), accepted, receive, seconds)
        if answer is not accepted and answer.status == HTTPStatus.OK:
            answer.headers.append(("Location", location))
            answer.status = HTTPStatus.OK if answer.is_final else HTTPStatus.ACCEPTED
        return answer

    # --- the answer ----------------------------------------------------------------------------------------

    async def _send(self, answer: Answer, send: Send) -> None:
        """Send a response in pieces, each of which the client must take in time."""
        storage = self._pools[Workload.STORAGE]
        try:
            await send(_begin(answer))
            piece, is_done = answer.start, False
            while not is_done:
                async with asyncio.timeout(self._patience):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                piece, is_done = await storage.run(_read, answer.rest)
            async with asyncio.timeout(self._patience):
                await send({"type": "http.response.body", "body": piece})
        except TimeoutError:
            log.info("client_too_slow")
        finally:
            if answer.close is not None:
                await storage.run(answer.close)


def make_environ(scope: Message) -> Environ:
    """Return a request's WSGI environment (PEP 3333), without its body."""
    host, port = scope.get("server") or ("", None)
    path = unquote_to_bytes(scope.get("raw_path") or quote(scope["path"]))
    environ: Environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": path.decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": host,
        "SERVER_PORT": str(port or ""),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": (scope.get("client") or ("",))[0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for name, value in scope["headers"]:
        if b"_" in name:
            continue  # would be taken for the name with a hyphen, which a proxy may have checked
        key = name.decode("latin-1").upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        text = value.decode("latin-1")
        separator = "; " if key == "HTTP_COOKIE" else ","
        environ[key] = f"{environ[key]}{separator}{text}" if key in environ else text
    return environ


def _begin(answer: Answer) -> Message:
    return {"type": "http.response.start", "status": answer.status, "headers": _encoded(answer.headers)}


def _encoded(headers: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def _end_with_parent() -> None:
    """Make a worker end when its parent process is killed: it would keep the port."""
    parent = multiprocessing.parent_process()
    if sys.platform == "linux" and parent is not None:
        die_with_parent()
        if os.getppid() != parent.pid:  # killed already
            os.kill(os.getpid(), signal.SIGTERM)


def _poll_of(environ: Environ, location: str) -> Environ:
    """Return the request that polls the job at a URL, made from the request that created it."""
    dropped = ("CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_IDEMPOTENCY_KEY", "HTTP_IF_NONE_MATCH")
    poll = {name: value for name, value in environ.items() if name not in dropped}
    path = urlsplit(location).path
    return poll | {"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": "", "wsgi.input": BytesIO()}


async def _disconnect(receive: Receive) -> None:
    """Return when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _read(pieces: Iterator[bytes]) -> tuple[bytes, bool]:
    """Return the next bytes of a response, and whether they are the last."""
    read = bytearray()
    for piece in pieces:
        read += piece
        if len(read) >= PIECE_BYTES:
            return bytes(read), False
    return bytes(read), True
