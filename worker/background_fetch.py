"""Fetches the weights of the model `auto` while jobs already run."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from checkpoints.errors import CheckpointError
from checkpoints.progress import FetchProgress
from shared.db import Sessions
from shared.kinds import Download
from shared.logs import get_logger
from shared.model_reports import report_model
from worker.engine import TranscriptionEngine

log = get_logger(__name__)

RETRY_SECONDS = 600.0
REPORT_SECONDS = 1.0


class _Stopped(Exception):  # noqa: N818
    """The process is stopping; the partial download is continued by the next one."""


@dataclass
class BackgroundFetch:
    """Fetches models one after the other, and tries again later what cannot be fetched.

    Attributes:
        models: in the order in which they are fetched.
        in_use: the model that jobs get as long as the others are not installed; for the log.
    """

    engine: TranscriptionEngine
    sessions: Sessions
    models: Sequence[str]
    in_use: str
    stopping: threading.Event
    retry_seconds: float = RETRY_SECONDS
    _reported_at: float = field(default=float("-inf"), init=False)

    def start(self) -> None:
        """Fetch in a thread of its own."""
        threading.Thread(target=self.run, name="background-fetch", daemon=True).start()

    def run(self) -> None:
        """Fetch until every model is installed or the process stops."""
        missing = list(self.models)
        while missing and not self.stopping.is_set():
            missing = [name for name in missing if not self._fetch(name)]
            if missing:
                self.stopping.wait(self.retry_seconds)

    def _fetch(self, name: str) -> bool:
        """Fetch a model and report it; return False if it must be tried again."""
        was_installed = self.engine.installed().get(name, False)
        if not was_installed:
            log.info("background_fetch_started", model=name)

        def progress(at: FetchProgress) -> None:
            if self.stopping.is_set():
                raise _Stopped
            if time.monotonic() - self._reported_at >= REPORT_SECONDS:
                self._reported_at = time.monotonic()
                download = Download(at.bytes_done, at.bytes_total, round(at.bytes_per_second), at.waiting)
                self._report(name, installed=False, download=download)

        try:
            self.engine.fetch(name, progress)
        except _Stopped:
            return False
        except Exception as error:
            reason = error.user_message if isinstance(error, CheckpointError) else "The weights cannot be stored."
            log.warning("background_fetch_failed", model=name, in_use=self.in_use, error=str(error))
            self._report(name, installed=False, error=reason)
            return False
        if not was_installed:
            log.info("background_fetch_finished", model=name)
        self._report(name, installed=True)
        return True

    def _report(
        self, name: str, *, installed: bool, download: Download | None = None, error: str | None = None
    ) -> None:
        try:
            with self.sessions.begin() as session:
                report_model(
                    session,
                    name,
                    installed=installed,
                    download=asdict(download) if download else None,
                    error=error,
                )
        except Exception as problem:
            log.warning("model_report_failed", error=str(problem))
