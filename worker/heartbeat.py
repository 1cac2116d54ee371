"""The heartbeat: renews an attempt's lease, writes its progress, and stops the attempt when necessary."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType

from shared import work
from shared.db import Sessions
from shared.kinds import Claim, Download, Progress
from shared.logs import get_logger
from shared.tables import Phase
from worker.phases import PhaseSpans

log = get_logger(__name__)

PROGRESS_SECONDS = 0.4  # how often progress is written, and thus how soon a cancel is noticed


class AttemptStopped(Exception):  # noqa: N818 - not an error
    """The attempt must stop."""


class LeaseLost(AttemptStopped):
    """The job was canceled, deleted, or claimed by another worker: discard everything, write nothing."""


class ShuttingDown(AttemptStopped):
    """This worker is shutting down: release the item."""


class Heartbeat:
    """A thread beside an attempt. The attempt calls `report` regularly, which raises when it must stop.

    Args:
        stopping: set when the worker process is shutting down.
        on_move: called at each sign of progress.
    """

    def __init__(
        self,
        sessions: Sessions,
        claim: Claim,
        *,
        lease_seconds: float,
        stopping: threading.Event,
        on_move: Callable[[], None] = lambda: None,
    ) -> None:
        self._sessions = sessions
        self._claim = claim
        self._lease_seconds = lease_seconds
        self._stopping = stopping
        self._on_move = on_move
        self._progress: Progress | None = None
        self._lost = False
        self._phases = PhaseSpans()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat-{claim.job_id}", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._phases.end(None if isinstance(error, AttemptStopped) else error)
        self._ended.set()
        self._thread.join()

    def report(
        self, phase: Phase, *, done: float = 0.0, total: float | None = None, download: Download | None = None
    ) -> None:
        """Report progress in seconds of audio, or in bytes of the checkpoint while that is downloaded.

        Raises:
            LeaseLost, ShuttingDown: stop now.
        """
        self._phases.enter(phase)
        before = self._progress or Progress(phase)
        self._progress = replace(
            before,
            phase=phase,
            audio_seconds_done=done,
            audio_seconds_total=total if total is not None else before.audio_seconds_total,
            download=download,
        )
        self.touch()
        if self._lost:
            raise LeaseLost
        if self._stopping.is_set():
            raise ShuttingDown

    def touch(self) -> None:
        """Record a sign of progress, of the attempt itself or of an item that preempts it."""
        self._on_move()
        if self._progress is not None:
            self._progress = replace(self._progress, moved=self._progress.moved + 1)

    def _beat(self) -> None:
        written: Progress | None = None
        renewed = time.monotonic()
        pause = min(PROGRESS_SECONDS, self._lease_seconds / 3)
        while not self._ended.wait(pause):
            progress = self._progress
            moved = progress != written
            if not moved and time.monotonic() - renewed < self._lease_seconds / 3:
                continue
            try:
                with self._sessions.begin() as session:
                    is_held = work.renew(
                        session, self._claim, lease_seconds=self._lease_seconds, progress=progress, moved=moved
                    )
            except Exception as error:
                # The database may be back before the lease ends; if not, completing the item is refused.
                log.warning("heartbeat_failed", error=str(error))
                continue
            if not is_held:
                self._lost = True
                return
            written, renewed = progress, time.monotonic()
