"""Workers that run on the real scheduling code and compute nothing: how far are promised times from the true ones?

Items of one worker share its processor, so each is slower beside others; recordings of several models, lengths,
formats and owners arrive in bursts; long ones are split, and preempted by short ones.
Only the network is left out.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from uuid6 import uuid7

from shared import work, worker_registry
from shared.db import Sessions
from shared.fairness import claim_next, must_defer
from shared.kinds import SHARD, TRANSCRIBE, Claim, NewItem, Progress, Result
from shared.line import WaitingLine
from shared.tables import Job, Phase, Status
from tests.work import MAX_ATTEMPTS, add_job, get
from worker.preemption import WAIT_SECONDS, Preemption

TICK = 0.01
SHARD_SECONDS = 60.0
FACTORS = {"basic_pitch": 0.008, "mt3_pytorch": 0.02, "mr_mt3": 0.04}  # seconds of work per second of audio
OVERHEAD = 0.05
RATES = {".mp3": (16_000, 40_000), ".wav": (88_200, 176_400), ".flac": (60_000, 110_000)}  # bytes per second


@dataclass
class Fleet:
    """Worker processes with some threads each; `lengths` holds the seconds of audio of each job."""

    sessions: Sessions
    workers: int = 1
    threads: int = 4
    gain: float = 0.8  # k items together take k ** gain times as long as one alone
    lengths: dict[UUID, float] = field(default_factory=dict)
    stopping: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Fleet:
        self._running = [0] * self.workers
        self._lock = threading.Lock()
        self._register()
        self._all = [
            threading.Thread(target=self._keep_registered, daemon=True),
            *(
                threading.Thread(target=self._drain, args=(number,), daemon=True)
                for number in range(self.workers)
                for _ in range(self.threads)
            ),
        ]
        for thread in self._all:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        for thread in self._all:
            thread.join()

    def _keep_registered(self) -> None:
        while not self.stopping.wait(worker_registry.REGISTER_SECONDS):
            self._register()

    def _register(self) -> None:
        for number in range(self.workers):
            with self.sessions.begin() as session:
                worker_registry.register(session, f"host:{number}", threads=self.threads)

    def _drain(self, worker: int) -> None:
        while not self.stopping.is_set():
            claimed = self._claim(worker)
            if claimed is None:
                time.sleep(TICK)
            else:
                self._run(claimed, worker)

    def _claim(self, worker: int, **how: Any) -> Claim | None:
        return claim_next(
            self.sessions, worker=f"host:{worker}", lease_seconds=60, max_attempts=MAX_ATTEMPTS, **how
        )

    def _run(self, claimed: Claim, worker: int, *, is_preempting: bool = False) -> None:
        audio = self.lengths[claimed.job_id] if claimed.kind == TRANSCRIBE else claimed.seconds or 0.0
        if claimed.kind == TRANSCRIBE and audio > SHARD_SECONDS:
            self._open_long(claimed, audio, is_preempting)
            return

        def run_short() -> bool:
            short = self._claim(worker, short_for=WAIT_SECONDS)
            if short is not None:
                with self._lock:
                    self._running[worker] -= 1
                self._run(short, worker, is_preempting=True)
                with self._lock:
                    self._running[worker] += 1
            return short is not None

        preempt = Preemption(run_short) if claimed.kind == SHARD else None
        self._work(claimed, audio, worker, preempt)
        with self.sessions.begin() as session:
            if claimed.kind == TRANSCRIBE:
                work.complete(session, claimed, result=Result([], note_count=0, audio_seconds=audio))
            elif claimed.kind == SHARD:
                work.complete(session, claimed, result_key="key")
            else:
                length = self.lengths[claimed.job_id]
                work.complete(session, claimed, result=Result([], note_count=0, audio_seconds=length))

    def _work(self, claimed: Claim, audio: float, worker: int, preempt: Preemption | None) -> None:
        left = total = (OVERHEAD + FACTORS[claimed.model] * audio) * random.uniform(0.8, 1.25)
        renewed = began = time.monotonic()
        with self._lock:
            self._running[worker] += 1
        while left > 0 and not self.stopping.is_set():
            time.sleep(TICK)
            now = time.monotonic()
            left -= (now - began) / self._running[worker] ** self.gain
            began = now
            if now - renewed > 0.4:
                renewed = now
                at = Progress(Phase.TRANSCRIBING, audio * (1 - max(0.0, left) / total), audio)
                with self.sessions.begin() as session:
                    work.renew(session, claimed, lease_seconds=60, progress=at, moved=True)
            if preempt is not None:
                preempt()
                began = time.monotonic()
        with self._lock:
            self._running[worker] -= 1

    def _open_long(self, claimed: Claim, audio: float, is_preempting: bool) -> None:
        """Split a long recording or defer it, as `worker.handlers.transcribe` does."""
        with self.sessions() as session:
            must_wait = not claimed.is_long and (is_preempting or must_defer(session, claimed.owner))
        if must_wait:
            with self.sessions.begin() as session:
                work.defer(session, claimed)
            return
        count = -int(-audio // SHARD_SECONDS)
        shards = [NewItem(SHARD, n, input_key=str(n), seconds=audio / count) for n in range(count)]
        last = NewItem("assemble", count, blocked_by=count - 1)
        job = {"shards_total": count, "audio_seconds_total": audio}
        with self.sessions.begin() as session:
            work.complete(session, claimed, then=[*shards, last], job=job)


@dataclass
class Promise:
    """Hold what a client was promised when it submitted, and how long it waited."""

    promised: float | None
    waited: float

    def is_kept(self, factor: float, least: float) -> bool:
        """Return True if both are within a factor; what is below `least` seconds counts as that."""
        if self.promised is None:
            return False
        promised, waited = max(self.promised, least), max(self.waited, least)
        return 1 / factor <= promised / waited <= factor


def submit(fleet: Fleet, seconds: float, **changes: object) -> UUID:
    suffix = random.choice(list(RATES))
    size = round(seconds * random.uniform(*RATES[suffix]))
    fields = {"model": random.choice(list(FACTORS)), "filename": f"song{suffix}", "upload_bytes": size}
    job_id = UUID(str(uuid7()))
    fleet.lengths[job_id] = seconds
    return add_job(fleet.sessions, id=job_id, **(fields | changes))


def wait_for(fleet: Fleet, job_ids: Iterable[UUID]) -> None:
    for job_id in job_ids:
        while not get(fleet.sessions, job_id).status.is_final:
            time.sleep(0.05)


def measure_promises(fleet: Fleet, arrivals: list[tuple[float, float, str]]) -> list[Promise]:
    """Submit recordings and return what was promised for each.

    Args:
        arrivals: the pause before each, its seconds of audio, and its owner.
    """
    line, promised = WaitingLine(shard_seconds=SHARD_SECONDS), {}
    for pause, seconds, owner in arrivals:
        time.sleep(pause)
        job_id = submit(fleet, seconds, owner=owner)
        with fleet.sessions() as session:
            place = line.place(session, session.get_one(Job, job_id))
        promised[job_id] = place.eta_seconds if place else 0.0
    done: list[Promise] = []
    wait_for(fleet, promised)
    for job_id, eta in promised.items():
        job = get(fleet.sessions, job_id)
        assert job.status is Status.SUCCEEDED
        assert job.started_at is not None
        done.append(Promise(eta, (job.started_at - job.created_at).total_seconds()))
    return done
