"""A proxy between the service and its S3 server that makes a share of the requests fail.

Faults are dealt like cards: a fixed number of each kind per hundred requests of a method, in random order.
"""

from __future__ import annotations

import hashlib
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests import servers
from tests.chaos.stack import Stack

HOUR = 3600.0
HOP_BY_HOP = ("connection", "expect", "content-length")  # hop-by-hop headers; none of them is signed
SERVER_ERROR = b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>planted</Message></Error>"
RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time


class Fault(StrEnum):
    """The faults of a request."""

    ERROR = "500"
    RESET = "reset"
    UNANSWERED = "unanswered"  # reset after it took effect
    TRUNCATED = "truncated"  # half of the answer's body
    STALL = "stall"
    LOST = "lost"  # an upload reported as stored that is not
    CUT = "cut"  # an upload of which only half is stored


# The S3 library's retries make up for the first set, not for the second.
FAULTS = {Fault.ERROR: 4, Fault.RESET: 3, Fault.UNANSWERED: 3, Fault.TRUNCATED: 4, Fault.STALL: 1}
STORM = {Fault.ERROR: 25, Fault.RESET: 15, Fault.UNANSWERED: 10, Fault.TRUNCATED: 10, Fault.STALL: 1}
LIES = {Fault.LOST: 12, Fault.CUT: 12}


class S3Proxy:
    """A server on its own port that forwards requests until faults are configured."""

    def __init__(self, port: int, behind: int, *, stall_seconds: float) -> None:
        self.behind = behind
        self.stall_seconds = stall_seconds
        self.refusals: dict[str, tuple[int, bytes]] = {}  # by "METHOD part-of-the-address": status and body
        self.ending = threading.Event()
        self._planted: Counter[Fault] = Counter()
        self._faults: Mapping[Fault, int] = {}
        self._cards: dict[str, list[Fault | None]] = {}
        self._dealing = threading.Lock()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.proxy = self

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._server.server_address[:2]
        return str(host), port

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ending.set()
        self._server.shutdown()
        self._server.server_close()

    def spoil(self, faults: Mapping[Fault, int]) -> None:
        """Inject this many of each fault per hundred requests of a method."""
        with self._dealing:
            self._faults, self._cards, self._planted = faults, {}, Counter()

    def heal(self) -> Counter[Fault]:
        """Stop injecting faults; return how many of each there were."""
        planted = self._planted
        self.spoil({})
        return planted

    def deal(self, method: str) -> Fault | None:
        """Return the fault of the next request, if any."""
        with self._dealing:
            if not self._cards.get(method):
                fitting = {fault: count for fault, count in self._faults.items() if fits(fault, method)}
                cards = [*Counter(fitting).elements(), *[None] * (100 - sum(fitting.values()))]
                random.shuffle(cards)
                self._cards[method] = cards
            fault = self._cards[method].pop()
            if fault is not None:
                self._planted[fault] += 1
            return fault


def fits(fault: Fault, method: str) -> bool:
    """Return True if the fault applies to this method."""
    match fault:
        case Fault.TRUNCATED:
            return method == "GET"
        case Fault.LOST | Fault.CUT:
            return method == "PUT"
        case _:
            return True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    proxy: S3Proxy

    def handle_error(self, *_: Any) -> None:
        """Ignore clients that disconnect."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def relay(self) -> None:
        proxy = self.server.proxy
        for refused, (status, body) in proxy.refusals.items():
            method, _, part = refused.partition(" ")
            if self.command == method and part in self.path:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                return self.answer(status, {"Content-Type": "application/xml"}, body)
        assert "Transfer-Encoding" not in self.headers
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = proxy.deal(self.command)
        if fault is Fault.STALL:
            proxy.ending.wait(proxy.stall_seconds)
        elif fault is Fault.ERROR:
            return self.answer(500, {"Content-Type": "application/xml"}, SERVER_ERROR)
        elif fault is Fault.RESET:
            return self.reset()
        elif fault is Fault.LOST:
            return self.answer(200, {"ETag": f'"{hashlib.md5(sent).hexdigest()}"'}, b"")
        status, headers, body = self.ask(sent[: len(sent) // 2] if fault is Fault.CUT else sent)
        if fault is Fault.UNANSWERED:
            return self.reset()
        if fault is Fault.TRUNCATED:
            self.close_connection = True
            return self.answer(status, headers, body, kept=len(body) // 2)
        return self.answer(status, headers, body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = relay  # noqa: N815 - named by the base class

    def ask(self, sent: bytes) -> tuple[int, dict[str, str], bytes]:
        """Return the response of the server behind. The Host header is kept, as it is signed."""
        connection = HTTPConnection("127.0.0.1", self.server.proxy.behind, timeout=HOUR)
        headers = {n: v for n, v in self.headers.items() if n.lower() not in HOP_BY_HOP}
        try:
            connection.request(self.command, self.path, sent or None, headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.headers), answer.read()
        finally:
            connection.close()

    def answer(self, status: int, headers: dict[str, str], body: bytes, *, kept: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        if status not in (204, 304):
            length = headers.get("Content-Length", "0") if self.command == "HEAD" else len(body)
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if kept is None else body[:kept])

    def reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
        self.rfile.close()
        self.connection.close()  # the last reference: closes with a reset

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@contextmanager
def behind_proxy(folder: Path, *, stall_seconds: float, **environment: str) -> Iterator[tuple[Stack, S3Proxy]]:
    """Run a stack whose programs reach their S3 server only through the proxy."""
    port = servers.lasting_port()
    stack = Stack(folder, environment={"MT3_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}", **environment})
    with S3Proxy(port, stack.s3_port, stall_seconds=stall_seconds) as proxy, stack:
        yield stack, proxy
