"""Measure what sizing takes: processor time of a worker per audio, and of web and database per request.

    python bench/sizing.py
    python bench/sizing.py --model mt3_pytorch=PATH --clients 5000

Processor time is counted, not the clock, so that other programs on the machine matter little. A worker's figure
is that of a whole transcription of a dense mix, from file to notes; web and database are real servers
with clients that keep them busy. The last line is what these figures make of a load.
"""

from __future__ import annotations

import http.client
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import dense_mix
import psutil
from api import bookkeeping, measure, poll, serving, submit

sys.path.insert(0, str(Path(__file__).parents[1]))
from migrations import upgrade
from shared.config import Settings
from shared.db import make_engine, make_sessions
from tests import servers

BUSY = 0.6
"""The share of the time that a processor is meant to be busy, so that a burst does not wait long."""


@dataclass(frozen=True)
class Cost:
    """Processor time of one request, in seconds."""

    web: float
    database: float


def hours_a_day(cost: float) -> float:
    """Return how many hours of audio a core transcribes in a day, at a cost per second of audio."""
    return 24 * BUSY / cost


def cores(polls: float, jobs: float, polled: Cost, submitted: Cost, rest: float) -> Cost:
    """Return the cores for so many polls and jobs a second."""
    return Cost(
        web=(polls * polled.web + jobs * submitted.web) / BUSY,
        database=(polls * polled.database + jobs * (submitted.database + rest)) / BUSY,
    )


def machine() -> str:
    """Return the processor's name and the number of its cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return f"{os.cpu_count()} cores, {name}"


def measure_model(model: str, seconds: float, recording: Path) -> tuple[float, float]:
    """Return processor seconds per second of audio, and the peak of memory in MB, in a process of its own."""
    command = [sys.executable, __file__, "--only", model, "--seconds", str(seconds), "--recording", str(recording)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    cost, peak = json.loads(done.stdout.splitlines()[-1])
    return cost, peak


def transcribe(model: str, seconds: float, recording: Path) -> None:
    """Transcribe once to load the model and once to measure, and print the figures."""
    import mt3_infer

    name, _, path = model.partition("=")
    loaded = mt3_infer.load_model(name, checkpoint_path=path or None)
    mt3_infer.transcribe(recording, model=loaded)
    before = sum(os.times()[:2])
    mt3_infer.transcribe(recording, model=loaded)
    spent = sum(os.times()[:2]) - before
    click.echo(json.dumps([spent / seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000]))


def processor_seconds(process: psutil.Process) -> float:
    """Return the processor time of a process and its children, ended ones included."""
    family = [process, *process.children(recursive=True)]
    return sum(sum(one.cpu_times()[:4]) if one is process else sum(one.cpu_times()[:2]) for one in family)


@contextmanager
def postgres(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Run PostgreSQL; yield its URL and its process."""
    server = servers.make_postgres(folder)
    with servers.running(server.command, user=server.user, cwd=server.data) as process:
        servers.wait_until(server.answers, what="PostgreSQL")
        server.make_database()
        yield server.url, psutil.Process(process.pid)


def measure_requests(folder: Path, seconds: float) -> tuple[Cost, Cost, float]:
    """Return the cost of a poll and of a submission, and the database's of the rest of a job, in seconds."""
    with postgres(folder) as (url, database), servers.redis_server() as redis:
        settings = {"MT3_DATABASE_URL": url, "MT3_REDIS_URL": redis, "MT3_STORAGE_URL": (folder / "own").as_uri()}
        settings |= {"MT3_DEFAULT_MODEL": "basic_pitch", "WEB_CONCURRENCY": "2"}
        upgrade(Settings(database_url=url))
        command = [sys.executable, "-m", "web"]
        with serving("web", command, folder / "web.log", settings) as side:
            job_id = submit(http.client.HTTPConnection("127.0.0.1", side.port))
            costs = []
            for ask in (partial(poll, job_id=job_id), submit):
                before = processor_seconds(database)
                found = measure(side, seconds, ask)
                spent = processor_seconds(database) - before
                costs.append(Cost(found.cpu_ms / 1000, spent / (found.rate * seconds)))
        engine = make_engine(Settings(database_url=url))
        with_own, count = make_sessions(engine), 200
        before_jobs = processor_seconds(database)
        bookkeeping(with_own, count)
        spent = processor_seconds(database) - before_jobs
        engine.dispose()
        return costs[0], costs[1], spent / count


@click.command()
@click.option("--model", "models", multiple=True, default=("basic_pitch",), help="NAME or NAME=CHECKPOINT.")
@click.option("--seconds", default=60.0, show_default=True, help="Length of the mix.")
@click.option("--clients", default=1000, show_default=True, help="Clients that wait for a result at a time.")
@click.option("--job-seconds", default=60.0, show_default=True, help="How long each waits, before its next job.")
@click.option("--poll-seconds", default=1.0, show_default=True, help="Between two polls; `Retry-After` says 1.")
@click.option("--only", hidden=True)
@click.option("--recording", type=click.Path(path_type=Path), hidden=True)
def main(
    models: tuple[str, ...],
    seconds: float,
    clients: int,
    job_seconds: float,
    poll_seconds: float,
    only: str | None,
    recording: Path | None,
) -> None:
    """Print the cost of audio, of requests, and of a number of clients."""
    if only and recording:
        transcribe(only, seconds, recording)
        return
    click.echo(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        dense_mix.write(folder / "mix.wav", seconds)
        for model in models:
            cost, peak = measure_model(model, seconds, folder / "mix.wav")
            click.echo(
                f"{model.partition('=')[0]}: {cost * 60:.1f} processor seconds a minute of audio, {peak:,.0f} MB; "
                f"a core transcribes {hours_a_day(cost):,.0f} hours a day at {BUSY:.0%}"
            )
        polled, submitted, rest = measure_requests(folder, 10.0)
        for kind, one in (("poll", polled), ("submission", submitted)):
            click.echo(f"a {kind}: {one.web * 1000:.2f} ms of web, {one.database * 1000:.2f} ms of the database")
        click.echo(f"a job: {rest * 1000:.2f} ms of the database beside that")
        needed = cores(clients / poll_seconds, clients / job_seconds, polled, submitted, rest)
        click.echo(
            f"{clients:,} clients that poll every {poll_seconds:g} s, a job each in {job_seconds:g} s: "
            f"{needed.web:.1f} cores of web, {needed.database:.1f} of the database at {BUSY:.0%}"
        )


if __name__ == "__main__":
    main()
