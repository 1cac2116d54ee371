"""The bridge from ASGI to Flask, without a server: cases that are hard to provoke over a socket."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from shared.config import Settings
from shared.db import Sessions
from shared.queue import InMemoryQueue
from shared.tables import Scope
from tests.access import key_service
from tests.integration.test_disk_full import no_room_beyond
from web import create_app
from web.bridge import AsgiApp, make_environ
from web.waits import wait_seconds

HEADERS = [(b"host", b"localhost"), (b"content-type", b"multipart/form-data; boundary=b")]
FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'


@pytest.fixture
def app(settings: Settings, sessions: Sessions) -> Iterator[AsgiApp]:
    app = AsgiApp(create_app(settings, sessions=sessions, queue=InMemoryQueue()), patience=5)
    yield app
    app.close()


def scope(method: str, path: str, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "http_version": "1.1",
        "scheme": "http",
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
        "headers": headers,
    }


def ask(
    app: AsgiApp, request: dict[str, Any], *pieces: bytes, is_slow: bool = False
) -> tuple[int, dict[bytes, bytes], bytes]:
    """Send a request whose body arrives in pieces, and return status, headers and body of the response.

    Args:
        is_slow: the client keeps the connection open when no piece is left, and sends nothing.
    """
    left = [*pieces]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not left and is_slow:
            await asyncio.Event().wait()
        if not left:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": left.pop(0), "more_body": is_slow or bool(left)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(request, receive, send))
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), body


def upload(*pieces: bytes) -> tuple[dict[str, Any], tuple[bytes, ...]]:
    length = str(sum(map(len, pieces))).encode()
    return scope("POST", "/v1/transcriptions", [*HEADERS, (b"content-length", length)]), pieces


def test_upload_to_a_full_disk_is_a_503_and_succeeds_later(
    app: AsgiApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    request, pieces = upload(FORM, *[bytes(500_000)] * 8, b"\r\n--b--\r\n")
    with no_room_beyond(1_000_000):
        status, headers, body = ask(app, request, *pieces)
    assert (status, json.loads(body)["code"], headers[b"retry-after"]) == (503, "unavailable", b"5")
    assert headers[b"connection"] == b"close"
    assert ask(app, request, *pieces)[0] == 202


def test_client_that_disconnects_during_an_upload_leaves_no_job(app: AsgiApp, settings: Settings) -> None:
    request, _ = upload(FORM, bytes(1000))
    assert ask(app, request)[0] == 400
    assert ask(app, scope("GET", "/v1/transcriptions", HEADERS))[2].startswith(b'{"items":[]')


def test_long_upload_without_a_key_is_refused_before_it_is_read(settings: Settings, sessions: Sessions) -> None:
    with key_service(settings, sessions) as service:
        app = AsgiApp(service.app, patience=5)
        request, _ = upload(FORM, *[bytes(500_000)] * 8, b"\r\n--b--\r\n")
        status, headers, body = ask(app, request)  # none of the body is there
        assert (status, json.loads(body)["code"], headers[b"connection"]) == (401, "unauthorized", b"close")
        assert headers[b"www-authenticate"].startswith(b"Bearer")
        assert b"content-security-policy" in headers
        request["headers"] = [*HEADERS, (b"transfer-encoding", b"chunked")]
        assert ask(app, request)[0] == 401
        for key, expected in ((service.key(scope=Scope.READ), 403), (service.key(), 400)):
            request, _ = upload(FORM, *[bytes(500_000)] * 8, b"\r\n--b--\r\n")
            request["headers"].append((b"authorization", f"Bearer {key}".encode()))
            assert ask(app, request)[0] == expected  # 400: the client is gone before its body has come
        app.close()


@pytest.mark.parametrize(
    ("case", "status", "code"),
    [
        ("too long", 413, "upload_too_large"),
        ("too long, chunked", 413, "upload_too_large"),
        ("too slow", 408, "request_timeout"),
        ("cut off", 400, "bad_request"),
        ("unknown coding", 400, "bad_request"),
        ("full disk", 503, "unavailable"),
        ("one stream too many", 503, "too_many_streams"),
        ("no key", 401, "unauthorized"),
    ],
)
def test_pages_of_allowed_origins_read_answers_that_no_view_made(
    settings: Settings,
    sessions: Sessions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    status: int,
    code: str,
) -> None:
    origin = b"https://app.example.org"
    origins, most = frozenset({origin.decode()}), 600_000 if "too long" in case else 10_000_000
    with key_service(settings, sessions, cors_origins=origins, max_upload_bytes=most, max_streams=0) as service:
        app, key = AsgiApp(service.app, patience=0.2), service.key()
        request, pieces = upload(FORM, *[bytes(500_000)] * 8, b"\r\n--b--\r\n")
        if case == "one stream too many":
            request, pieces = scope("GET", f"/v1/transcriptions/{service.job(key)}/events", [*HEADERS]), ()
        request["headers"] += [(b"origin", origin), (b"sec-fetch-site", b"cross-site")]
        if case != "no key":
            request["headers"].append((b"authorization", f"Bearer {key}".encode()))
        if "chunked" in case or "coding" in case:
            request["headers"] = [pair for pair in request["headers"] if pair[0] != b"content-length"]
            request["headers"].append((b"transfer-encoding", b"chunked" if "chunked" in case else b"gzip"))
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with no_room_beyond(1_000_000) if case == "full disk" else nullcontext():
            sent = {"too slow": pieces[:1], "cut off": ()}.get(case, pieces)
            answer = ask(app, request, *sent, is_slow=case == "too slow")
        app.close()
    assert (answer[0], json.loads(answer[2])["code"]) == (status, code)
    assert answer[1][b"access-control-allow-origin"] == origin
    assert b"Retry-After" in answer[1][b"access-control-expose-headers"]
    assert b"Origin" in answer[1][b"vary"]
    assert b"content-security-policy" in answer[1]


def test_headers_become_a_wsgi_environment() -> None:
    headers = [
        (b"x-a", b"1"),
        (b"x-a", b"2"),
        (b"x_b", b"a name that a proxy may not have checked"),
        (b"cookie", b"c=1"),
        (b"cookie", b"d=2"),
        (b"content-length", b"3"),
    ]
    environ = make_environ(scope("GET", "/a%ff%2fb", headers))
    assert (environ["HTTP_X_A"], environ["HTTP_COOKIE"], environ["CONTENT_LENGTH"]) == ("1,2", "c=1; d=2", "3")
    assert environ["PATH_INFO"] == "/a\xff/b"
    assert "HTTP_X_B" not in environ


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("wait=5", 5),
        ("respond-async, wait=20", 20),
        ("wait=1000", 60),
        ("wait=inf", 60),
        ("wait=0", 0),
        ("wait=nan", 0),
        ("wait=soon", 0),
        ("wait", 0),
        ("handling=lenient", 0),
        ("wait=-5", 0),
        ("", 0),
        (None, 0),
    ],
)
def test_seconds_to_wait_are_within_bounds(header: str | None, seconds: float) -> None:
    assert wait_seconds(header) == seconds
