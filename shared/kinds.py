"""The kinds of work, and the values that queue and workers exchange."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from shared.tables import Phase

TRANSCRIBE, SHARD, ASSEMBLE, EXPORT = "transcribe", "shard", "assemble", "export"
FETCH_URL, WEBHOOK = "fetch_url", "webhook"


@dataclass(frozen=True)
class Kind:
    """The properties of a kind of work that the queue needs; the work itself is done by a handler of the worker.

    Attributes:
        reports: no other item of the job runs at the same time, so its progress is the job's.
        is_short: it may preempt a long item, unless it turned out to be long itself.
        is_part_of_long: while one is due, no other long recording of the same owner is split.
        is_step: the job's status follows it; without, it begins when the job has ended.
        is_sent: threads of its own do it, beside those that transcribe: see `worker.deliveries`.
    """

    reports: bool = False
    is_short: bool = False
    is_part_of_long: bool = False
    is_step: bool = True
    is_sent: bool = False


KINDS = {
    FETCH_URL: Kind(reports=True),  # fetch a recording from a URL, before it is transcribed
    TRANSCRIBE: Kind(reports=True, is_short=True),  # transcribe a recording, or split it if it is long
    SHARD: Kind(is_part_of_long=True),  # run the network on some segments of a long recording
    ASSEMBLE: Kind(reports=True, is_part_of_long=True),  # make notes from the results of all shards
    EXPORT: Kind(is_short=True, is_step=False),  # make another file from the notes of a job that succeeded
    WEBHOOK: Kind(is_step=False, is_sent=True),  # report to a client's URL that a job has ended
}
STEPS = [name for name, kind in KINDS.items() if kind.is_step]
CLAIMED_KINDS = [name for name, kind in KINDS.items() if not kind.is_sent]
SHORT_KINDS = [name for name, kind in KINDS.items() if kind.is_short]
PARTS_OF_LONG = [name for name, kind in KINDS.items() if kind.is_part_of_long]


@dataclass(frozen=True)
class NewItem:
    """An item to enqueue.

    Attributes:
        blocked_by: the job's items up to this number must have succeeded first.
        payload: further input of the handler.
        traceparent: the span that it belongs to, if none is the current one as it is enqueued.
    """

    kind: str
    number: int = 0
    blocked_by: int | None = None
    input_key: str | None = None
    seconds: float | None = None
    payload: Mapping[str, Any] = field(default_factory=dict)
    traceparent: str | None = None


@dataclass(frozen=True)
class Held:
    """An attempt at an item, identified by its fencing token."""

    id: UUID
    job_id: UUID
    kind: str
    number: int
    attempt: int


@dataclass(frozen=True)
class Claim(Held):
    """An attempt that a worker holds, with the fields of item and job that it needs."""

    owner: str
    input_key: str | None
    seconds: float | None
    payload: Mapping[str, Any]
    is_long: bool
    model: str
    options: dict[str, Any]
    traceparent: str | None = None


@dataclass(frozen=True)
class Result:
    """The result of a job that succeeded."""

    artifacts: list[dict[str, Any]]
    note_count: int
    audio_seconds: float
    warnings: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Download:
    """Progress of the download of a checkpoint or a recording.

    Attributes:
        bytes_total: 0 while it is unknown.
        waiting: another process downloads, and these are its figures.
    """

    bytes_done: int
    bytes_total: int
    bytes_per_second: float
    waiting: bool


@dataclass(frozen=True)
class Progress:
    """Progress of an attempt. `moved` counts every sign of progress, to distinguish work from a hang."""

    phase: Phase
    audio_seconds_done: float = 0.0
    audio_seconds_total: float | None = None
    moved: int = 0
    download: Download | None = None
