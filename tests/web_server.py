"""A web server on loopback with configurable faults, which counts the bytes it serves."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]  # names in lower case
    body: bytes = b""


@dataclass(frozen=True)
class Reply:
    """A response, and the faults while it is sent."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    drop_after: int | None = None  # bytes of the body after which the connection is cut
    stall_after: int | None = None  # bytes of the body after which nothing more comes
    rate: float | None = None  # bytes per second


Route = Callable[[Request], Reply]


def static(content: bytes, *, etag: str | None = '"v1"', ranges: bool = True, **faults: Any) -> Route:
    """Serve a file, with Range and If-Range as in RFC 9110."""

    def route(request: Request) -> Reply:
        headers = {"ETag": etag} if etag else {}
        match = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
        if not (match and ranges) or request.headers.get("if-range", etag) != etag:
            return Reply(200, content, headers, **faults)
        start = int(match[1])
        if start >= len(content):
            return Reply(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return Reply(206, content[start:], headers, **faults)

    return route


def in_turn(*routes: Route) -> Route:
    """Use each route once, in order, and the last one from then on."""
    left = list(routes)
    return lambda request: (left.pop(0) if len(left) > 1 else left[0])(request)


def status(code: int, **headers: str) -> Route:
    return lambda _: Reply(code, b"refused", {name.replace("_", "-"): value for name, value in headers.items()})


def redirect(to: str) -> Route:
    return lambda _: Reply(302, b"", {"Location": to})


def as_json(content: Any, code: int = 200) -> Reply:
    return Reply(code, json.dumps(content).encode(), {"Content-Type": "application/json"})


_MISSING = status(404)


@dataclass
class Site:
    """The routes by path; `missing` serves all others."""

    url: str
    routes: dict[str, Route] = field(default_factory=dict)
    missing: Route = _MISSING
    requests: list[Request] = field(default_factory=list)
    served: int = 0  # bytes of response bodies
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, request: Request) -> Reply:
        with self.lock:
            self.requests.append(request)
            return self.routes.get(request.path, self.missing)(request)

    def asked(self, method: str = "GET") -> list[str]:
        """Return the requested paths, in order."""
        return [request.path for request in self.requests if request.method == method]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def setup(self) -> None:
        # Bytes in the kernel's buffers count as served: keep the buffer small.
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        super().setup()

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        request = Request(self.command, unquote(parts.path), query, headers, body)
        reply = self.site.answer(request)
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(OSError):
            if request.method != "HEAD":
                self._send(reply)

    def _send(self, reply: Reply) -> None:
        end = min(
            len(reply.body), *(n for n in (reply.drop_after, reply.stall_after, len(reply.body)) if n is not None)
        )
        block = 1 << 16
        view = memoryview(reply.body)
        for start in range(0, end, block):
            piece = view[start : min(end, start + block)]
            self.connection.sendall(piece)
            with self.site.lock:
                self.site.served += len(piece)
            if reply.rate:
                time.sleep(len(piece) / reply.rate)
        if reply.stall_after is not None:
            self.connection.recv(1)  # until the other side gives up
        if end < len(reply.body):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_HEAD = do_POST = do_PUT = _handle  # noqa: N815 - names of the base class

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore it: many tests disconnect on purpose."""


@contextmanager
def web_server() -> Iterator[Site]:
    site = Site("")
    handler = type("Handler", (_Handler,), {"site": site})
    with _Server(("127.0.0.1", 0), handler) as server:
        site.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()
