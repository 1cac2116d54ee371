"""The input and output of handlers."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from sqlalchemy.orm import Session

from checkpoints.progress import FetchProgress
from mt3_infer.evidence.recorder import Evidence
from mt3_infer.model import Model
from mt3_infer.symbolic.results import unpack
from shared import work
from shared.config import Settings
from shared.db import Sessions
from shared.errors import ObjectMissing
from shared.kinds import FETCH_URL, Claim, Download, NewItem, Result
from shared.logs import get_logger
from shared.model_reports import report_model
from shared.queue import JobQueue
from shared.storage import ObjectStorage, put_checked
from shared.tables import Phase
from worker import metrics
from worker.engine import TranscriptionEngine
from worker.errors import OUT_OF_MEMORY
from worker.heartbeat import Heartbeat
from worker.liveness import Liveness
from worker.preemption import Preemption

log = get_logger(__name__)


def evidence_key(results: str) -> str:
    """Return the key of a shard's evidence, which lies beside its results."""
    return results.rpartition("/")[0] + "/evidence"


class Deferred(Exception):  # noqa: N818 - not an error
    """Raised by a handler to defer its item: it turned out to be long, and other work comes first."""


class Postponed(Exception):  # noqa: N818 - not an error
    """Raised by a handler to try again in some seconds: nothing was done, and it is no attempt."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"postponed for {seconds:.0f} s")
        self.seconds = seconds


@dataclass(frozen=True)
class Done:
    """The outcome of an item that succeeded; see `work.complete`.

    Attributes:
        also: makes further changes in the transaction that completes the item.
    """

    result_key: str | None = None
    then: Sequence[NewItem] = ()
    job: Mapping[str, Any] = field(default_factory=dict)
    result: Result | None = None
    unneeded: Sequence[str] = ()
    also: Callable[[Session], None] = lambda session: None


@dataclass
class Fetches:
    """The recordings that a process is fetching from URLs: slow servers must not take all of its threads."""

    count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def counted(self, kind: str) -> Iterator[None]:
        """Count an item while it runs, if it is a fetch."""
        step = 1 if kind == FETCH_URL else 0
        with self._lock:
            self.count += step
        try:
            yield
        finally:
            with self._lock:
                self.count -= step


@dataclass(frozen=True)
class Services:
    """The dependencies that all attempts of a worker process share."""

    settings: Settings
    sessions: Sessions
    storage: ObjectStorage
    engine: TranscriptionEngine
    queue: JobQueue
    worker: str
    stopping: threading.Event
    draining: threading.Event = field(default_factory=threading.Event)  # claim nothing more
    liveness: Liveness = field(default_factory=lambda: Liveness(stall_seconds=900, loop_seconds=60))
    fetches: Fetches = field(default_factory=Fetches)

    def kinds_in_excess(self) -> tuple[str, ...]:
        """Return the kinds of work that half of the threads, at least one, are busy with already."""
        most = max(1, self.settings.worker_concurrency // 2)
        return (FETCH_URL,) if self.fetches.count >= most else ()


@dataclass(frozen=True)
class Context:
    """The environment of one attempt.

    Attributes:
        preempt: handlers of long items call it between two segments.
        is_preempting: this attempt runs between two segments of another item.
    """

    services: Services
    claim: Claim
    heartbeat: Heartbeat
    preempt: Preemption
    is_preempting: bool

    def load_model(self) -> Model:
        """Return the job's model, ready to run; fetch its weights if they are not installed."""
        engine, name, report = self.services.engine, self.claim.model, self.heartbeat.report
        report(Phase.FETCHING_CHECKPOINT)

        def fetching(at: FetchProgress) -> None:
            download = Download(at.bytes_done, at.bytes_total, round(at.bytes_per_second), at.waiting)
            report(Phase.FETCHING_CHECKPOINT, download=download)

        engine.fetch(name, fetching)
        report(Phase.LOADING_MODEL)
        return engine.load(name, halvings=self._times_out_of_memory())

    def _times_out_of_memory(self) -> int:
        if self.claim.attempt == 1:
            return 0
        with self.services.sessions() as session:
            return work.count_failures(session, self.claim, OUT_OF_MEMORY)

    def store(
        self, key: str, content: bytes | BinaryIO, content_type: str = "application/octet-stream"
    ) -> dict[str, Any]:
        """Store a result and read it back; return its description, as jobs list their artifacts."""
        source = io.BytesIO(content) if isinstance(content, bytes) else content
        stored = put_checked(self.services.storage, key, source, content_type=content_type)
        return {
            "name": key.rpartition("/")[2],
            "content_type": content_type,
            "size": stored.size,
            "sha256": stored.sha256,
            "key": stored.key,
        }

    def load_results(self, key: str) -> list[Any]:
        """Return the network's results for the segments of a shard."""
        with self.services.storage.open(key) as packed:
            return unpack(packed.read())

    def load_evidence(self, results: str) -> Evidence | None:
        """Return the evidence beside the results of a shard; None if there is none, or that of another release."""
        try:
            with self.services.storage.open(evidence_key(results)) as packed:
                return Evidence.unpack(packed.read())
        except ObjectMissing:
            return None

    def report_speed(self, device: str, audio_seconds: float, elapsed: float) -> None:
        """Record how fast the model ran; a failure to do so is only logged."""
        metrics.measure_speed(self.claim.model, device, audio_seconds, elapsed)
        try:
            with self.services.sessions.begin() as session:
                speed = audio_seconds / max(elapsed, 1e-6)
                report_model(session, self.claim.model, installed=True, realtime_factor=speed)
        except Exception as error:
            log.warning("model_report_failed", error=str(error))


@dataclass(frozen=True)
class Handler:
    """The implementation of a kind of work.

    Attributes:
        run: does the work. It may raise `Deferred`; `worker.errors` classifies all other errors.
        stores: returns the prefixes under which an attempt stores objects, removed if it does not succeed.
    """

    run: Callable[[Context], Done]
    stores: Callable[[Claim], Sequence[str]] = lambda claim: ()
