"""Submissions and polls a second beside a bare Flask and Celery application, and the cost of a job's bookkeeping.

Both sides are served by Granian with two processes, on the same PostgreSQL (which syncs its commits) and Redis,
with files in a folder. Rounds of both alternate, after a warm-up; medians count. A ratio is the median of the
ratios of two rounds in succession, so that other load on the machine meets both. The CPU time of the web
processes for each request is the steadier figure. No worker runs: it measures what clients wait for.
"""

from __future__ import annotations

import http.client
import json
import selectors
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import uuid4

import click
import psutil
from bare_app import BareJob
from bare_app import make_sessions as make_bare_sessions

sys.path.insert(0, str(Path(__file__).parents[1]))
from migrations import upgrade
from shared.config import Settings
from shared.db import Sessions, make_engine, make_sessions
from tests import servers
from tests.work import add_job, complete, must_claim, renew

CONNECTIONS = 8
BODY = (
    b'--edge\r\nContent-Disposition: form-data; name="file"; filename="clip.wav"\r\n\r\n'
    + b"RIFF" + bytes(20_000) + b"\r\n--edge--\r\n"
)  # fmt: skip
HEADERS = {"Content-Type": "multipart/form-data; boundary=edge"}


@dataclass(frozen=True)
class Side:
    """One of the two services that are compared, as it runs."""

    name: str
    port: int
    process: psutil.Process

    def cpu_seconds(self) -> float:
        """Return the CPU time of its web processes so far."""
        times = [process.cpu_times() for process in (self.process, *self.process.children(recursive=True))]
        return sum(each.user + each.system for each in times)


@dataclass(frozen=True)
class Round:
    """Requests of one kind to one side for some seconds: how many a second, and milliseconds of each."""

    rate: float
    cpu_ms: float
    p99_ms: float  # from the request to the answer


@contextmanager
def serving(name: str, command: list[str], log: Path, environment: dict[str, str]) -> Iterator[Side]:
    """Run a web server and yield it once it answers."""
    port = servers.free_port()
    with servers.running([*command, "--port", str(port)], environment=environment, log=log) as process:
        servers.wait_until(lambda: servers.accepts(port), seconds=60, what=f"the server of {name}")
        time.sleep(3)  # its other process
        yield Side(name, port, psutil.Process(process.pid))


def measure(side: Side, seconds: float, ask: Callable[[http.client.HTTPConnection], object]) -> Round:
    """Let clients ask all the time, each on a connection that it keeps."""
    took: list[float] = []
    used = side.cpu_seconds()
    end = time.monotonic() + seconds

    def run() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", side.port, timeout=60)
        while (asked := time.monotonic()) < end:
            ask(connection)
            took.append(time.monotonic() - asked)
        connection.close()

    clients = [threading.Thread(target=run) for _ in range(CONNECTIONS)]
    began = time.monotonic()
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    rate = len(took) / (time.monotonic() - began)
    p99 = sorted(took)[len(took) * 99 // 100]
    return Round(rate, (side.cpu_seconds() - used) / len(took) * 1000, p99 * 1000)


@contextmanager
def open_streams(side: Side, count: int) -> Iterator[None]:
    """Keep event streams of jobs open, and read what they send."""
    is_over = threading.Event()
    with ExitStack() as opened, selectors.DefaultSelector() as selector:
        for _ in range(count):
            job_id = submit(http.client.HTTPConnection("127.0.0.1", side.port))
            stream = opened.enter_context(socket.create_connection(("127.0.0.1", side.port)))
            path = f"/v1/transcriptions/{job_id}/events"
            stream.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n".encode())
            assert b" 200 " in stream.recv(4096)
            selector.register(stream, selectors.EVENT_READ)

        def read() -> None:
            while not is_over.is_set():
                for key, _ in selector.select(0.2):
                    assert key.fileobj.recv(65536), "the stream ended"  # type: ignore[union-attr]

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield
        finally:
            is_over.set()
            reader.join()


def submit(connection: http.client.HTTPConnection) -> str:
    """Submit a recording and return the job's id."""
    connection.request("POST", "/v1/transcriptions", BODY, HEADERS)
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 202, body
    job_id: str = json.loads(body)["id"]
    return job_id


def poll(connection: http.client.HTTPConnection, job_id: str) -> None:
    """Ask for a job."""
    connection.request("GET", f"/v1/transcriptions/{job_id}")
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    answer.read()


def bookkeeping(sessions: Sessions, count: int) -> float:
    """Return the milliseconds of one job: create, claim, renew once, complete."""
    began = time.perf_counter()
    for _ in range(count):
        held = must_claim(sessions, add_job(sessions))
        assert renew(sessions, held)
        assert complete(sessions, held)
    return (time.perf_counter() - began) / count * 1000


def bare_bookkeeping(url: str, count: int) -> float:
    """Return the same of the bare application: a row, and two changes of its status."""
    sessions = make_bare_sessions(url)
    began = time.perf_counter()
    for _ in range(count):
        job_id = str(uuid4())
        with sessions.begin() as session:
            session.add(BareJob(id=job_id, filename="clip.wav", created_at=datetime.now(UTC)))
        for status in ("processing", "succeeded"):
            with sessions.begin() as session:
                job = session.get(BareJob, job_id)
                assert job is not None
                job.status = status
    return (time.perf_counter() - began) / count * 1000


@contextmanager
def both_sides(folder: Path) -> Iterator[tuple[list[Side], str]]:
    """Run the service and the bare application on the same servers; yield them and the database's URL."""
    with ExitStack() as running:
        url = running.enter_context(servers.postgres_server(folder, is_durable=True))
        redis = running.enter_context(servers.redis_server())
        (folder / "bare").mkdir()
        settings = {"MT3_DATABASE_URL": url, "MT3_REDIS_URL": redis, "MT3_STORAGE_URL": (folder / "ours").as_uri()}
        settings |= {"MT3_DEFAULT_MODEL": "basic_pitch", "WEB_CONCURRENCY": "2"}
        settings["MT3_LOG_FORMAT"] = "json"  # as in every deployment but that of one machine
        bare = {"BARE_DATABASE_URL": url, "BARE_REDIS_URL": redis, "BARE_FOLDER": str(folder / "bare")}
        bare |= {"PYTHONPATH": str(Path(__file__).parent)}
        upgrade(Settings(database_url=url))
        make_bare_sessions(url)
        granian = [
            str(servers.BIN / "granian"),
            "--interface",
            "wsgi",
            "--workers",
            "2",
            "--blocking-threads",
            "8",
        ]
        ours = serving("MT3-Infer Service", [sys.executable, "-m", "web"], folder / "ours.log", settings)
        theirs = serving(
            "bare application", [*granian, "--blocking-threads", "8", "bare_app:app"], folder / "bare.log", bare
        )
        yield [running.enter_context(ours), running.enter_context(theirs)], url


def compare(sides: list[Side], kind: str, rounds: int, seconds: float) -> str:
    """Run rounds of one kind of request on both sides in turns, and return a line about them."""
    found: dict[str, list[Round]] = {side.name: [] for side in sides}
    for number in range(rounds + 1):  # the first warms up
        for side in sides if number % 2 else reversed(sides):
            job_id = submit(http.client.HTTPConnection("127.0.0.1", side.port))
            ask = submit if kind == "submissions" else partial(poll, job_id=job_id)
            found[side.name].append(measure(side, seconds, ask))
    ours, theirs = (found[side.name][1:] for side in sides)
    ratio = statistics.median(here.rate / there.rate for here, there in zip(ours, theirs, strict=True))
    rates = [statistics.median(each.rate for each in side) for side in (ours, theirs)]
    cpu = [statistics.median(each.cpu_ms for each in side) for side in (ours, theirs)]
    return (
        f"{kind} a second: {rates[0]:,.0f} here, {rates[1]:,.0f} bare: ratio {ratio:.2f}; "
        f"CPU of the web processes: {cpu[0]:.2f} ms here, {cpu[1]:.2f} ms bare"
    )


def beside_streams(side: Side, count: int, rounds: int, seconds: float) -> str:
    """Poll beside open streams and without them, in turns, and return a line about it."""
    ask = partial(poll, job_id=submit(http.client.HTTPConnection("127.0.0.1", side.port)))
    alone, beside = [], []
    for _ in range(rounds):
        alone.append(measure(side, seconds, ask).p99_ms)
        with open_streams(side, count):
            time.sleep(2)  # until the first events are sent
            beside.append(measure(side, seconds, ask).p99_ms)
    medians = statistics.median(alone), statistics.median(beside)
    return f"99 % of polls take less than {medians[0]:.0f} ms, beside {count} streams {medians[1]:.0f} ms"


@click.command()
@click.option("--rounds", default=10, show_default=True, help="Rounds of each side.")
@click.option("--seconds", default=3.0, show_default=True, help="Length of a round.")
@click.option("--streams", default=200, show_default=True, help="Event streams beside polls.")
def main(rounds: int, seconds: float, streams: int) -> None:
    """Measure both sides in turns, and print medians and their ratio."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with both_sides(folder) as (sides, url):
            for kind in ("submissions", "polls"):
                click.echo(compare(sides, kind, rounds, seconds))
            click.echo(beside_streams(sides[0], streams, max(1, rounds // 3), seconds))
            sessions = make_sessions(make_engine(Settings(database_url=url)))
            costs = [(bookkeeping(sessions, 50), bare_bookkeeping(url, 50)) for _ in range(rounds)]
        ours, theirs = (statistics.median(side) for side in zip(*costs, strict=True))
        click.echo(
            f"bookkeeping of one job: {ours:.1f} ms here, {theirs:.1f} ms bare (median of {rounds} times 50)"
        )


if __name__ == "__main__":
    main()
