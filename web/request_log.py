"""The access log and the HTTP metrics: one line and one measurement for each request, with an id to find it by.

The metrics of all processes of a web server are summed up by way of files in PROMETHEUS_MULTIPROC_DIR, which
`python -m web` sets. prometheus_client reads that variable when it is imported, so only modules that
a serving process imports may import it: this one is imported by `web.bridge`, and by no module of `create_app`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from prometheus_client import Counter, Histogram

from shared import tracing
from shared.logs import get_logger
from shared.metrics import SECONDS
from web.log_context import FIELDS

if TYPE_CHECKING:
    from opentelemetry.trace import Span

log = get_logger(__name__)

REQUEST_ID = "X-Request-ID"
VALID_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")  # of clients and proxies; others are replaced
ROUTE = "mt3.route"
SPAN = "mt3.span"
SECRET = re.compile(r"<[^>]*(token|secret)[^>]*>")  # in a route: its paths are not logged
QUIET = ("/livez", "/readyz", "/metrics")  # logged only if they fail
METHODS = (
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
)  # others share a label: clients make them up

REQUESTS = Counter("mt3_http_requests", "Requests that were answered.", ["method", "route", "status"])
REQUEST_SECONDS = Histogram(
    "mt3_http_request_seconds",
    "From the request's headers to the last byte of the answer; waiting for a job included.",
    ["method", "route"],
    buckets=SECONDS,
)


@cache
def _requests(method: str, route: str, status: int) -> Counter:
    return REQUESTS.labels(method, route, str(status))


@cache
def _request_seconds(method: str, route: str) -> Histogram:
    return REQUEST_SECONDS.labels(method, route)


class Exchange:
    """A request and its answer, as the access log has it.

    A client's X-Request-ID is kept in the environment if it is valid, and replaced by a new id otherwise.
    """

    def __init__(self, environ: dict[str, Any]) -> None:
        self._environ = environ
        self._started = time.monotonic()
        self.bytes_out = 0
        self.status: int | None = None  # None: the client left before there was an answer
        self.is_stream = False  # it lasts as long as the client wants, so its duration says nothing
        environ[FIELDS] = {}
        if not VALID_ID.fullmatch(environ.get("HTTP_X_REQUEST_ID", "")):
            environ["HTTP_X_REQUEST_ID"] = uuid4().hex
        self._span = environ[SPAN] = self._begin_span()

    @property
    def request_id(self) -> str:
        """Return the id of the request."""
        return str(self._environ["HTTP_X_REQUEST_ID"])

    def counting(self, send: Callable[[dict[str, Any]], Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        """Return a `send` that counts the bytes of the answer's body."""

        async def counted(message: dict[str, Any]) -> None:
            await send(message)
            self.bytes_out += len(message.get("body", b""))

        return counted

    def end(self) -> None:
        """Log and count the request."""
        seconds = time.monotonic() - self._started
        environ, status = self._environ, self.status or 499  # as nginx logs a client that left
        route = environ.get(ROUTE, "unmatched")
        method = environ["REQUEST_METHOD"]
        known = method if method in METHODS else "other"
        _requests(known, route, status).inc()
        self._end_span(known, route, status)
        if not self.is_stream:
            _request_seconds(known, route).observe(seconds)
        if environ["PATH_INFO"] in QUIET and status < HTTPStatus.BAD_REQUEST:
            return
        log.info(
            "request",
            request_id=self.request_id,
            method=method,
            route=route,
            path=route if SECRET.search(route) else environ["PATH_INFO"],
            status=status,
            seconds=round(seconds, 4),
            bytes_in=int(environ.get("CONTENT_LENGTH") or 0),
            bytes_out=self.bytes_out,
            client=environ["REMOTE_ADDR"],
            **environ[FIELDS],
            **tracing.ids(self._span),
        )

    def _begin_span(self) -> Span | None:
        """Begin the span of the request, in the trace of the client if it has one; none for probes."""
        environ = self._environ
        if environ["PATH_INFO"] in QUIET:
            return None
        parent = environ.get("HTTP_TRACEPARENT")
        return tracing.begin(environ["REQUEST_METHOD"], parent=parent, kind=tracing.SERVER)

    def _end_span(self, method: str, route: str, status: int) -> None:
        if self._span is not None:
            self._span.update_name(f"{method} {route}")
        tracing.end(
            self._span,
            error=HTTPStatus(status).name.lower() if status >= HTTPStatus.INTERNAL_SERVER_ERROR else None,
            http__request__method=method,
            http__route=route,
            http__response__status_code=status,
            mt3__request_id=self.request_id,
            mt3__owner=self._environ[FIELDS].get("owner"),
        )
