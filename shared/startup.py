"""Start of a process: waits for dependencies, with a log line at start and end of a wait, and checks files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import select

from shared.config import Settings
from shared.db import Sessions
from shared.logs import get_logger
from shared.storage import ObjectStorage
from shared.tables import Base

log = get_logger(__name__)

PAUSE_SECONDS = 0.5


def wait_for(
    dependency: str,
    check: Callable[[], None],
    stopping: threading.Event | None = None,
    *,
    only: tuple[type[Exception], ...] = (Exception,),
) -> bool:
    """Wait until a check passes; return False if `stopping` is set before that.

    Raises:
        Any error of the check that is not one of `only`.
    """
    stopping = stopping or threading.Event()
    began = time.monotonic()
    is_waiting = False
    while not stopping.is_set():
        try:
            check()
        except only as error:
            if not is_waiting:
                log.warning("waiting_for_dependency", dependency=dependency, error=_first_line(error))
            is_waiting = True
            stopping.wait(PAUSE_SECONDS)
        else:
            if is_waiting:
                log.info("dependency_available", dependency=dependency, waited=round(time.monotonic() - began, 1))
            return True
    return False


def check_database(sessions: Sessions) -> None:
    """Raise unless the database answers and its schema is current; `python -m migrations` brings it up to date."""
    with sessions() as session:
        for table in Base.metadata.sorted_tables:
            session.execute(select(table).limit(0))


def check_redis(settings: Settings) -> None:
    """Raise unless Redis answers."""
    with make_redis(settings) as redis:
        redis.ping()


def check_storage(storage: ObjectStorage) -> None:
    """Raise unless storage can be used."""
    storage.check()


def make_redis(settings: Settings) -> Redis:
    """Return a client that raises within seconds if Redis is unavailable, instead of retrying."""
    return Redis.from_url(
        settings.redis_url, socket_timeout=5, socket_connect_timeout=2, retry=Retry(NoBackoff(), 0)
    )


def _first_line(error: Exception) -> str:
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def missing_file(own: Mapping[str, Path], sound_font: Path | None) -> str | None:
    """Return why a worker cannot use its settings if one names a file that it does not have.

    Args:
        own: weights of the operator, by the name of the setting.
    """
    named = {**own, "MT3_SOUND_FONT": sound_font}
    for setting, path in named.items():
        if path is not None and not path.exists():
            return f"{setting} is wrong: this machine has no {path}."
    return None
