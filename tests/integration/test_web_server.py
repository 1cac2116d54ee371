"""The web process over real sockets: clients that are slow, wait, disconnect, or send invalid HTTP."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import servers
from tests.client import ServiceClient

pytestmark = pytest.mark.integration

HEAD = (
    b"POST /v1/transcriptions HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\nConnection: %s\r\n"
)
FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
END = b"\r\n--b--\r\n"
SMALL = FORM + b"RIFF" + END
SLOW_CLIENT_SECONDS = 2.0


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("web")
    with servers.web_process(folder, MT3_SLOW_CLIENT_SECONDS=str(SLOW_CLIENT_SECONDS)) as url:
        yield url


@pytest.fixture
def client(url: str) -> ServiceClient:
    return ServiceClient(url)


def connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def read_all(connection: socket.socket) -> bytes:
    """Return all bytes until the server closes the connection."""
    read = b""
    try:
        while piece := connection.recv(1 << 16):
            read += piece
    except ConnectionResetError:
        pass
    return read


def exchange(url: str, sent: bytes) -> tuple[int, bytes]:
    """Send bytes; return status and body of the response, after which the server closes."""
    with connect(url) as connection:
        connection.sendall(sent)
        answer = read_all(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def master_of(url: str) -> psutil.Process:
    """Return the parent of the workers that listen at an address."""
    port = url.rsplit(":", 1)[1]
    return next(process for process in psutil.Process().children() if port in process.cmdline())


def drip(connection: socket.socket, give_up: float) -> float | None:
    """Send a byte every fifth of a second until the server closes; return the seconds that it took."""
    began = time.monotonic()
    connection.settimeout(0.2)
    while time.monotonic() - began < give_up:
        try:
            connection.send(b"x")
            if not connection.recv(1 << 16):
                return time.monotonic() - began
        except TimeoutError:
            continue
        except OSError:
            return time.monotonic() - began
    return None


def slowest(ask: Callable[[], object], stop: threading.Event) -> float:
    """Return the slowest response time of many requests, one every tenth of a second."""
    worst = 0.0
    while not stop.is_set():
        began = time.monotonic()
        ask()
        worst = max(worst, time.monotonic() - began)
        stop.wait(0.1)
    return worst


def hold_off_slow_clients(url: str, *, each: int, patience: float, seconds: float) -> dict[str, float]:
    """Connect two kinds of slow clients; return how long they were served and how long others waited."""
    client = ServiceClient(url)
    job_id = client.submit(b"RIFF").json["id"]
    slow_headers = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
    slow_body = HEAD % b"close" + b"Content-Length: 1000000\r\n\r\n" + FORM
    stop = threading.Event()
    with ExitStack() as stack, ThreadPoolExecutor(2 * each + 2) as pool:
        connections = [stack.enter_context(closing(connect(url))) for _ in range(2 * each)]
        for number, connection in enumerate(connections):
            connection.sendall(slow_headers if number % 2 else slow_body)
        slow = [pool.submit(drip, connection, seconds) for connection in connections]
        livez = pool.submit(slowest, lambda: client.get("/livez"), stop)
        polls = pool.submit(slowest, lambda: client.job(job_id), stop)
        borne = [future.result() for future in slow]
        stop.set()
        assert None not in borne, f"{borne.count(None)} slow clients are still connected after {seconds} s"
        longest = max(time for time in borne if time is not None)
        assert longest < patience, f"a slow client was borne for {longest:.1f} s"
        return {"longest": longest, "livez": livez.result(), "polls": polls.result()}


def test_slow_clients_are_disconnected_and_delay_no_others(url: str) -> None:
    """Each kind outnumbers the threads."""
    seen = hold_off_slow_clients(url, each=40, patience=SLOW_CLIENT_SECONDS + 4, seconds=20)
    assert seen["livez"] < 1, seen
    assert seen["polls"] < 1, seen


def test_slow_body_gets_an_error_response(url: str) -> None:
    status, body = exchange(url, HEAD % b"close" + b"Content-Length: 1000\r\n\r\n" + FORM)
    assert (status, json.loads(body)["code"]) == (408, "request_timeout")


def test_an_upload_that_pauses_and_goes_on_is_accepted(url: str) -> None:
    """Each pause is shorter than the bound, all together are longer."""
    with connect(url) as connection:
        content = bytes(30_000)
        body_length = len(FORM) + 3 * len(content) + len(END)
        connection.sendall(HEAD % b"close" + b"Content-Length: %d\r\n\r\n" % body_length + FORM)
        for _ in range(3):
            connection.sendall(content)
            time.sleep(SLOW_CLIENT_SECONDS * 0.6)
        connection.sendall(END)
        assert read_all(connection).startswith(b"HTTP/1.1 202 ")


@pytest.mark.parametrize(
    "body",
    [
        b"5\r\nhello\r\nZZZ\r\nfoo\r\n0\r\n\r\n",  # not a number
        b"3\r\nhello\r\n0\r\n\r\n",  # more than the chunk's length
        b"-3\r\nhello\r\n0\r\n\r\n",
        b"fffffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"5;" + b"x" * 50_000 + b"\r\nhello\r\n0\r\n\r\n",
    ],
)
def test_malformed_chunked_body_is_a_client_error(url: str, body: bytes) -> None:
    status, answer = exchange(url, HEAD % b"close" + b"Transfer-Encoding: chunked\r\n\r\n" + body)
    assert (status, json.loads(answer)["code"]) == (400, "bad_request")


def test_body_that_ends_early_is_not_a_server_error(url: str, client: ServiceClient) -> None:
    with connect(url) as connection:
        connection.sendall(HEAD % b"close" + b"Content-Length: 1000\r\n\r\n" + FORM)
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection)[:12] in (b"", b"HTTP/1.1 400")
    assert client.get("/livez").status == 200


def test_a_chunked_upload_is_accepted_and_its_connection_closed(url: str) -> None:
    """If a proxy trusted a Content-Length beside it, the following bytes could be a smuggled request."""
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMALL), SMALL)
    smuggled = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for lengths in (b"", b"Content-Length: %d\r\n" % (len(chunks) + len(smuggled))):
        with connect(url) as connection:
            connection.sendall(
                HEAD % b"keep-alive" + lengths + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + smuggled
            )
            answers = read_all(connection)
        assert answers.startswith(b"HTTP/1.1 202 ")
        assert b"alive" not in answers


def test_other_codings_and_two_lengths_are_refused(url: str) -> None:
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMALL), SMALL)
    for headers in (b"Transfer-Encoding: gzip, chunked", b"Content-Length: 3\r\nContent-Length: 4"):
        assert exchange(url, HEAD % b"close" + headers + b"\r\n\r\n" + chunks)[0] == 400


def test_an_upload_over_the_limit_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    with servers.web_process(tmp_path, MT3_MAX_UPLOAD_BYTES="1000000") as url:
        too_long = HEAD % b"close" + b"Content-Length: 1000001\r\nExpect: 100-continue\r\n\r\n"
        chunked = HEAD % b"close" + b"Transfer-Encoding: chunked\r\n\r\n"
        by_little = chunked + b"".join(b"%x\r\n%s\r\n" % (length, bytes(length)) for length in (999_999, 2))
        for sent in (too_long, chunked + b"100000\r\n" + bytes(1 << 20) + b"\r\n", by_little):
            status, body = exchange(url, sent)
            assert (status, json.loads(body)["code"]) == (413, "upload_too_large")
            assert json.loads(body)["detail"] == (
                "The upload exceeds the limit of 1 MB. Send a shorter or more compressed recording."
            )


def test_a_large_recording_arrives_whole(
    client: ServiceClient, url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The body is larger than the memory limit, with a length or chunked."""
    content = os.urandom(3_000_000)
    job = client.submit(content).json
    stored = next(tmp_path_factory.getbasetemp().rglob(f"uploads/{job['id']}/audio"))
    assert stored.read_bytes() == content
    body = FORM + content + END
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (body[:1_000_000], body[1_000_000:]))
    status, answer = exchange(url, HEAD % b"close" + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
    assert status == 202
    stored = next(tmp_path_factory.getbasetemp().rglob(f"uploads/{json.loads(answer)['id']}/audio"))
    assert stored.read_bytes() == content


def test_many_waiting_clients_do_not_block_other_requests(url: str, client: ServiceClient) -> None:
    job_id = client.submit(b"RIFF").json["id"]
    ask = f"GET /v1/transcriptions/{job_id} HTTP/1.1\r\nHost: localhost\r\nPrefer: wait=60\r\n\r\n".encode()
    with ExitStack() as stack:
        waiting = [stack.enter_context(closing(connect(url))) for _ in range(100)]
        for connection in waiting:
            connection.sendall(ask)
        began = time.monotonic()
        assert client.job(job_id)["status"] == "queued"
        assert client.get("/livez").status == 200
        assert time.monotonic() - began < 1
        assert client.call("POST", f"/v1/transcriptions/{job_id}/cancel").status == 202
        for connection in waiting:
            body = connection.recv(1 << 16).partition(b"\r\n\r\n")[2]
            assert json.loads(body)["status"] == "canceled"


def test_a_wait_ends_when_its_time_is_over(client: ServiceClient) -> None:
    job_id = client.submit(b"RIFF").json["id"]
    began = time.monotonic()
    answer = client.get(f"/v1/transcriptions/{job_id}", Prefer="respond-async, wait=1")
    assert (answer.status, answer.json["status"]) == (200, "queued")
    assert answer.headers["Preference-Applied"] == "wait=1"
    assert 1 <= time.monotonic() - began < 10
    etag = {"If_None_Match": answer.headers["ETag"]}
    assert client.get(f"/v1/transcriptions/{job_id}", Prefer="wait=1", **etag).status == 304


def test_an_upload_waits_for_the_end_of_its_job(client: ServiceClient) -> None:
    answer = client.submit(b"RIFF", prefer="wait=1")
    assert (answer.status, answer.json["status"]) == (202, "queued"), "not ended in time"
    assert answer.headers["Location"] == f"/v1/transcriptions/{answer.json['id']}"
    assert (answer.headers["Preference-Applied"], answer.headers["Retry-After"]) == ("wait=1", "1")

    def cancel_the_newest() -> None:
        jobs = client.get("/v1/transcriptions?limit=1&status=queued").json["items"]
        client.call("POST", f"/v1/transcriptions/{jobs[0]['id']}/cancel")

    timer = threading.Timer(1.5, cancel_the_newest)
    timer.start()
    answer = client.submit(b"RIFF", prefer="wait=30")
    timer.join()
    assert (answer.status, answer.json["status"]) == (200, "canceled")
    assert answer.headers["Location"] == f"/v1/transcriptions/{answer.json['id']}"
    assert "Retry-After" not in answer.headers


def test_uploads_to_a_hanging_storage_do_not_block_other_requests(tmp_path: Path) -> None:
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=200))
        environment: dict[str, Any] = {
            "MT3_STORAGE_URL": "s3://bucket/",
            "MT3_S3_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "MT3_S3_ACCESS_KEY_ID": "key",
            "MT3_S3_SECRET_ACCESS_KEY": "secret",
        }
        url = stack.enter_context(servers.web_process(tmp_path, **environment))
        client = ServiceClient(url)
        for _ in range(40):
            uploading = stack.enter_context(closing(connect(url)))
            uploading.sendall(HEAD % b"close" + b"Content-Length: %d\r\n\r\n" % len(SMALL) + SMALL)
        for _ in range(10):
            began = time.monotonic()
            assert client.get("/livez").status == 200
            assert client.get("/v1/transcriptions").json["items"] == []
            assert time.monotonic() - began < 2
            time.sleep(0.1)


def test_clients_that_do_not_read_hold_no_thread(tmp_path: Path) -> None:
    """There are more readers than threads, and the result exceeds all buffers in between."""
    with servers.web_process(tmp_path, MT3_SLOW_CLIENT_SECONDS="3") as url:
        client = ServiceClient(url)
        job_id = client.submit(b"RIFF").json["id"]
        key = f"results/{job_id}/1/notes.json"
        result = tmp_path / "storage" / key
        result.parent.mkdir(parents=True)
        with result.open("wb") as file:
            file.truncate(20_000_000)
        artifact = {"name": "notes.json", "content_type": "application/json", "size": 1, "sha256": "x", "key": key}
        with sqlite3.connect(tmp_path / "mt3.sqlite3") as database:
            finished = "UPDATE jobs SET status = 'succeeded', finished_at = created_at, artifacts = ?"
            database.execute(finished, (json.dumps([artifact]),))
        ask = f"GET /v1/transcriptions/{job_id}/artifacts/notes.json HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        with ExitStack() as stack:
            readers = [stack.enter_context(closing(connect(url))) for _ in range(40)]
            for reader in readers:
                reader.sendall(ask)
            for _ in range(20):
                began = time.monotonic()
                assert client.job(job_id)["status"] == "succeeded"
                assert client.submit(b"RIFF").status == 202
                assert time.monotonic() - began < 2
            time.sleep(5)
            for reader in readers:
                assert len(read_all(reader)) < 20_000_000, "given up in mid-answer"
        with urllib.request.urlopen(
            f"{url}/v1/transcriptions/{job_id}/artifacts/notes.json", timeout=30
        ) as answer:
            assert len(answer.read()) == 20_000_000, "a client that reads gets the whole file"


def test_connections_may_be_more_than_a_shell_allows_open_files(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (150, hard))  # inherited by the process
        try:
            url = stack.enter_context(servers.web_process(tmp_path))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(300):
            stack.enter_context(closing(connect(url))).sendall(b"GET /livez HTTP/1.1\r\n")
        began = time.monotonic()
        assert ServiceClient(url).submit(b"RIFF").status == 202
        assert time.monotonic() - began < 2


def test_on_sigterm_requests_in_progress_are_answered(tmp_path: Path) -> None:
    with servers.web_process(tmp_path, workers=2) as url:
        client = ServiceClient(url)
        job_id = client.submit(b"RIFF").json["id"]
        master = master_of(url)
        with connect(url) as uploading, connect(url) as waiting:
            uploading.sendall(HEAD % b"close" + b"Content-Length: %d\r\n\r\n" % len(SMALL) + SMALL[:30])
            waiting.sendall(
                f"GET /v1/transcriptions/{job_id} HTTP/1.1\r\nHost: localhost\r\nPrefer: wait=60\r\n\r\n".encode()
            )
            time.sleep(0.5)
            began = time.monotonic()
            master.send_signal(signal.SIGTERM)
            assert waiting.recv(1 << 16).startswith(b"HTTP/1.1 200 "), "it need not wait to the end"
            time.sleep(0.5)
            uploading.sendall(SMALL[30:])
            assert read_all(uploading).startswith(b"HTTP/1.1 202 ")
        assert master.wait(15) == 0
        assert time.monotonic() - began < 15


def test_a_worker_that_dies_is_replaced_and_none_outlives_its_master(tmp_path: Path) -> None:
    with servers.web_process(tmp_path, workers=2) as url:
        master = master_of(url)
        before = master.children()
        assert len(before) == 2
        before[0].kill()
        servers.wait_until(
            lambda: len(now := master.children()) == 2 and before[0] not in now, what="another worker"
        )
        servers.wait_until(lambda: servers.answers(f"{url}/livez"))
        workers = master.children()
        master.kill()
        _, alive = psutil.wait_procs(workers, timeout=20)
        assert alive == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MT3_DEFAULT_MODEL", "nonesuch", "Unknown model 'nonesuch'"),
        ("MT3_SLOW_CLIENT_SECONDS", "0", "MT3_SLOW_CLIENT_SECONDS is wrong"),
    ],
)
def test_invalid_setting_stops_the_start_with_one_line(
    tmp_path: Path, name: str, value: str, message: str
) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "web", "--port", str(servers.free_port())],
        env={**os.environ, "MT3_DATABASE_URL": f"sqlite:///{tmp_path}/x", name: value},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.returncode != 0
    (line,) = run.stderr.splitlines()
    assert message in line


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_hundreds_of_slow_clients_for_a_minute_beside_a_normal_upload(tmp_path: Path) -> None:
    """By default, slow clients are closed within 30 s; 300 MB at 1 MB/s with a pause of 20 s succeed."""
    with servers.web_process(tmp_path, workers=2) as url, ThreadPoolExecutor(1) as pool:
        upload = pool.submit(_upload_slowly, url, megabytes=300, pause_seconds=20)
        began, seen = time.monotonic(), []
        while time.monotonic() - began < 60:
            seen.append(hold_off_slow_clients(url, each=200, patience=30, seconds=40))
            assert seen[-1]["livez"] < 1, seen
            assert seen[-1]["polls"] < 1, seen
        print(f"slow clients: {seen}")
        assert upload.result().startswith(b"HTTP/1.1 202 ")


def _upload_slowly(url: str, *, megabytes: int, pause_seconds: float) -> bytes:
    content = bytes(1_000_000)
    length = len(FORM) + megabytes * len(content) + len(END)
    with connect(url) as connection:
        connection.sendall(HEAD % b"close" + b"Content-Length: %d\r\n\r\n" % length + FORM)
        began = time.monotonic()
        for number in range(megabytes):
            connection.sendall(content)
            if number == megabytes // 2:
                time.sleep(pause_seconds)
                began += pause_seconds
            time.sleep(max(0.0, began + number + 1 - time.monotonic()))
        connection.sendall(END)
        return read_all(connection)
