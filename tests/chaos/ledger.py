"""Accounting as in Jepsen's total-queue: every acknowledged submission must be completed exactly once.

Each one is recorded with its expected notes; at the end it is compared with database and storage.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from shared.errors import ObjectMissing
from tests.chaos.stack import Stack
from tests.recordings import write

CLIPS = 6
ATTEMPTS = "SELECT job_id FROM attempts JOIN work_items ON work_items.id = attempts.item_id"


def make_clips(folder: Path, seconds: float = 3.0) -> list[bytes]:
    """Return recordings whose notes differ."""
    clips = []
    rate = 22050
    for number in range(CLIPS):
        chance = np.random.default_rng(number)
        pitches = np.repeat(chance.uniform(100, 2000, round(2 * seconds)), rate // 2)
        loudness = np.repeat(chance.uniform(0.2, 0.9, round(2 * seconds)), rate // 2)
        wave = (loudness * np.sin(2 * np.pi * np.cumsum(pitches) / rate)).astype(np.float32)
        clips.append(write(folder / f"clip{number}.flac", wave, rate, "flac").read_bytes())
    return clips


@dataclass
class Report:
    """The figures of a run."""

    jobs: int
    lost: int
    doubled: int
    unexpected: int
    wrong: int
    stale: int
    changed: int
    refused: int
    attempts: int
    most_attempts: int
    killed_attempts: int
    slowest_recovery: float

    def __str__(self) -> str:
        return (
            f"jobs {self.jobs}  lost {self.lost}  doubled {self.doubled}  unexpected {self.unexpected}  "
            f"wrong notes {self.wrong}  stale finishes accepted {self.stale} refused {self.refused}  "
            f"ends changed {self.changed}  "
            f"attempts {self.attempts} (most {self.most_attempts}, killed {self.killed_attempts})  "
            f"slowest recovery {self.slowest_recovery:.1f} s"
        )

    def check(self) -> None:
        """Fail if a job was lost, completed twice or wrong."""
        bad = (self.lost, self.doubled, self.unexpected, self.wrong, self.stale, self.changed)
        assert bad == (0, 0, 0, 0, 0, 0), str(self)


@dataclass
class Ledger:
    """Submissions and their expected outcomes."""

    stack: Stack
    clips: list[bytes]
    truth: list[Any] = field(default_factory=list)
    accepted: dict[str, int] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)  # jobs expected to fail
    canceled: set[str] = field(default_factory=set)  # jobs expected to be canceled
    _writing: threading.Lock = field(default_factory=threading.Lock)

    def learn(self) -> None:
        """Run each clip undisturbed, for its expected notes."""
        ids = [self.submit(number) for number in range(len(self.clips))]
        self.wait_for_all()
        self.truth = [self.notes(job_id) for job_id in ids]
        assert len({json.dumps(notes) for notes in self.truth}) == len(self.clips), (
            "the clips have different notes"
        )

    def submit(self, clip: int) -> str:
        """Submit one job; it counts once it is acknowledged."""
        key = f"{clip}-{random.getrandbits(64):x}"
        job_id = self.stack.submit(self.clips[clip], key)
        with self._writing:
            self.accepted[job_id] = clip
        return job_id

    def submit_many(self, count: int) -> threading.Thread:
        """Submit jobs one after the other from a thread."""

        def run() -> None:
            for number in range(count):
                self.submit(number % len(self.clips))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def open_jobs(self) -> int:
        """Count the accepted jobs that have not ended."""
        ended = {str(row[0]) for row in self.stack.sql("SELECT id FROM jobs WHERE finished_at IS NOT NULL")}
        return len(self.accepted.keys() - ended)

    def wait_for_all(self) -> None:
        """Wait for all jobs; time out only if none ends any more."""
        while (left := self.open_jobs()) > 0:
            self.stack.wait(partial(self._fewer_are_open, left), f"the end of one of {left} jobs")

    def _fewer_are_open(self, left: int) -> bool:
        return self.open_jobs() < left

    def wait_for_all_within(self, seconds: float) -> None:
        self.stack.wait(lambda: self.open_jobs() == 0, "the end of all jobs", seconds=seconds)

    def account(self) -> Report:
        """Compare the outcomes with the expected ones, once all jobs have ended."""
        sql = self.stack.sql
        status = {str(job_id): word for job_id, word in sql("SELECT id, status FROM jobs")}
        finishes = Counter(str(job_id) for (job_id,) in sql("SELECT job FROM finishes"))
        stale = sum(held != wrote for held, wrote in sql("SELECT held, wrote FROM finishes"))
        tries = Counter(str(job_id) for (job_id,) in sql(ATTEMPTS))
        recoveries = self._recoveries()
        meant_to_succeed = self.accepted.keys() - self.failed - self.canceled
        lost = [job_id for job_id in meant_to_succeed if status.get(job_id) != "succeeded"]
        lost += [job_id for job_id in self.failed if status.get(job_id) != "failed"]
        lost += [job_id for job_id in self.canceled if status.get(job_id) != "canceled"]
        done = [job_id for job_id in meant_to_succeed if status.get(job_id) == "succeeded"]
        return Report(
            jobs=len(self.accepted),
            lost=len(lost),
            doubled=sum(count > (job_id in meant_to_succeed) for job_id, count in finishes.items()),
            unexpected=len(status.keys() - self.accepted.keys()),
            wrong=sum(self.notes(job_id) != self.truth[self.accepted[job_id]] for job_id in done),
            stale=stale,
            changed=len(sql("SELECT job FROM changes")),
            refused=self.stack.logged("stale_finish_refused"),
            attempts=sum(tries.values()),
            most_attempts=max(tries.values()),
            killed_attempts=len(recoveries),
            slowest_recovery=max(recoveries, default=0.0),
        )

    def mismatches(self) -> list[str]:
        """Return succeeded jobs whose objects differ from the API's description or the expected notes."""
        rows = self.stack.sql("SELECT id, artifacts FROM jobs WHERE status = 'succeeded'")
        listed = {
            str(job_id): json.loads(artifacts) if isinstance(artifacts, str) else artifacts  # SQLite has text
            for job_id, artifacts in rows
        }
        return [job_id for job_id, artifacts in listed.items() if not self._is_readable(job_id, artifacts)]

    def _is_readable(self, job_id: str, artifacts: Any) -> bool:
        storage, promised = self.stack.storage, {}
        for artifact in self.stack.client.job(job_id)["artifacts"]:
            promised[artifact["name"]] = (artifact["size"], artifact["sha256"])
        kept: dict[str, bytes] = {}
        for artifact in artifacts:
            with suppress(ObjectMissing), storage.open(artifact["key"]) as stream:
                kept[artifact["name"]] = stream.read()
        found = {name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in kept.items()}
        if found != promised or kept.keys() != {"notes.json", "transcription.mid"}:
            return False
        notes: Any = json.loads(kept["notes.json"])["notes"]
        return bool(notes == self.truth[self.accepted[job_id]])

    def _recoveries(self) -> list[float]:
        """Return the seconds from the death of each attempt's worker until its job could be claimed again."""
        rows = self.stack.sql("SELECT worker, finished_at FROM attempts WHERE outcome = 'lost'")
        killed = self.stack.killed
        return [
            max(0.0, (cast(datetime, freed) - killed[str(worker)]).total_seconds())
            for worker, freed in rows
            if str(worker) in killed
        ]

    def notes(self, job_id: str) -> Any:
        """Return the notes that the service has for a job."""
        job = self.stack.client.job(job_id)
        return json.loads(self.stack.client.artifact(job, "notes.json"))["notes"]


def longest_silence(stack: Stack, since: datetime) -> float:
    """Return the seconds from a time to the first job completed after it."""
    ((first,),) = stack.sql("SELECT at FROM finishes WHERE at > %s ORDER BY at LIMIT 1", since)
    return (cast(datetime, first) - since).total_seconds()
