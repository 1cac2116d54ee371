"""Submissions and polls a second beside a bare Flask and Celery application, and the cost of a job's bookkeeping.

Both sides are served by Granian with two processes, on the same PostgreSQL and Redis, with files in a folder. They
take turns: a round of each, several times; medians count. No worker runs: it measures what clients wait for.
"""

from __future__ import annotations

import http.client
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import click
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


@contextmanager
def serving(command: list[str], port: int, log: Path, environment: dict[str, str]) -> Iterator[int]:
    """Run a web server and yield its port."""
    with servers.running([*command, "--port", str(port)], environment=environment, log=log):
        servers.wait_until(lambda: servers.accepts(port), seconds=60, what=f"the server of {log.stem}")
        time.sleep(3)  # its other process
        yield port


def requests_a_second(port: int, seconds: float, ask: Callable[[http.client.HTTPConnection], None]) -> float:
    """Return how many requests a second are answered to clients that ask all the time."""
    counts = [0] * CONNECTIONS
    end = time.monotonic() + seconds

    def run(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while time.monotonic() < end:
            ask(connection)
            counts[number] += 1
        connection.close()

    clients = [threading.Thread(target=run, args=(number,)) for number in range(CONNECTIONS)]
    began = time.monotonic()
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return sum(counts) / (time.monotonic() - began)


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


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Rounds of each side.")
@click.option("--seconds", default=6.0, show_default=True, help="Length of a round.")
def main(rounds: int, seconds: float) -> None:
    """Measure both sides in turns, and print medians and their ratio."""
    with ExitStack() as running, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        url = running.enter_context(servers.postgres_server(folder))
        redis = running.enter_context(servers.redis_server())
        (folder / "bare").mkdir()
        settings = {"MT3_DATABASE_URL": url, "MT3_REDIS_URL": redis, "MT3_STORAGE_URL": (folder / "ours").as_uri()}
        settings |= {"MT3_DEFAULT_MODEL": "basic_pitch", "WEB_CONCURRENCY": "2"}
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
        sides = {
            "MT3-Infer Service": ([sys.executable, "-m", "web"], settings),
            "bare Flask and Celery": ([*granian, "bare_app:app"], bare),
        }
        ports = {
            side: running.enter_context(
                serving(command, servers.free_port(), folder / f"{number}.log", environment)
            )
            for number, (side, (command, environment)) in enumerate(sides.items())
        }
        found: dict[tuple[str, str], list[float]] = {}
        for _ in range(rounds):
            for side, port in ports.items():
                job_id = submit(http.client.HTTPConnection("127.0.0.1", port))
                for kind, ask in {"submissions": submit, "polls": lambda c, one=job_id: poll(c, one)}.items():
                    found.setdefault((kind, side), []).append(requests_a_second(port, seconds, ask))
        for kind in ("submissions", "polls"):
            ours, theirs = (statistics.median(found[kind, side]) for side in sides)
            click.echo(f"{kind} a second: {ours:,.0f} here, {theirs:,.0f} bare: ratio {ours / theirs:.2f}")
        sessions = make_sessions(make_engine(Settings(database_url=url)))
        costs = [(bookkeeping(sessions, 200), bare_bookkeeping(url, 200)) for _ in range(rounds)]
        ours, theirs = (statistics.median(side) for side in zip(*costs, strict=True))
        click.echo(
            f"bookkeeping of one job: {ours:.1f} ms here, {theirs:.1f} ms bare (median of {rounds} times 200)"
        )


if __name__ == "__main__":
    main()
