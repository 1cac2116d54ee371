"""`python -m web`: the web server. `WEB_CONCURRENCY` sets the number of worker processes."""

from __future__ import annotations

import os
from tempfile import TemporaryDirectory

import click
from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server import Server

from checkpoints.errors import CheckpointError
from shared.config import Settings, read_settings, refuse_start
from shared.errors import ServiceError
from shared.exposure import check_exposure
from shared.logs import configure_logs, show_warning
from web import create_app

GRACE_SECONDS = 10  # for requests in progress at shutdown
CONNECTIONS = 2048  # per worker; slow clients are disconnected before there are that many


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
@click.option(
    "--workers",
    envvar="WEB_CONCURRENCY",
    default=2,
    show_default=True,
    type=click.IntRange(1),
    help="Number of worker processes (WEB_CONCURRENCY).",
)
@click.option("--app", default="web.asgi:app", show_default=True, help="ASGI application to serve.")
@click.option("--insecure", is_flag=True, help="Listen on an address that others reach, without MT3_AUTH=keys.")
@click.option(
    "--published-at", metavar="ADDRESS:PORT", help="Where clients reach it, if a container's port is mapped."
)
def main(host: str, port: int, workers: int, app: str, insecure: bool, published_at: str | None) -> None:
    """Serve the web page and the API."""
    settings = read_settings()  # report a wrong setting once, not once per worker
    configure_logs(settings)
    try:
        reached_at = published_at.rpartition(":")[0].strip("[]") if published_at else host
        if warning := check_exposure(settings, reached_at, is_accepted=insecure):
            show_warning(warning)
        create_app(settings)  # fail here rather than in every worker, again and again
    except (CheckpointError, ServiceError) as error:
        refuse_start(str(error))
    with TemporaryDirectory(prefix="mt3-metrics-", ignore_cleanup_errors=True) as folder:
        os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", folder)  # before a process imports prometheus_client
        _serve(settings, host, port, workers, app)


def _serve(settings: Settings, host: str, port: int, workers: int, app: str) -> None:
    Server(
        app,
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        workers=workers,
        http=HTTPModes.http1,
        websockets=False,
        loop=Loops.asyncio,
        http1_settings=HTTP1Settings(header_read_timeout=round(settings.slow_client_seconds * 1000)),
        backlog=CONNECTIONS,
        backpressure=CONNECTIONS,
        respawn_failed_workers=True,
        respawn_interval=0.2,
        workers_kill_timeout=GRACE_SECONDS,
        log_level=LogLevels.warning,
        log_dictconfig={"handlers": {}, "loggers": {"_granian": {"propagate": True}}},  # to ours: `shared.logs`
    ).serve()


if __name__ == "__main__":
    main()
