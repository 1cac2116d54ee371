"""The kinds of work, and what queue and workers pass each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from shared.tables import Phase

TRANSCRIBE, SHARD, ASSEMBLE = "transcribe", "shard", "assemble"


@dataclass(frozen=True)
class Kind:
    """What the queue needs to know of a kind of work; what is done for it is a handler of the worker.

    Attributes:
        reports: no other item of its job runs beside it, so that its progress is the job's.
        is_short: it may be run in the middle of a long one, unless it turned out to be long itself.
        is_part_of_long: while one is due, no other long recording of its owner is split.
    """

    reports: bool = False
    is_short: bool = False
    is_part_of_long: bool = False


KINDS = {
    TRANSCRIBE: Kind(reports=True, is_short=True),  # a recording, or splitting it where it is long
    SHARD: Kind(is_part_of_long=True),  # some segments of a long recording
    ASSEMBLE: Kind(reports=True, is_part_of_long=True),  # notes from the results of all shards
}


@dataclass(frozen=True)
class NewItem:
    """An item to enqueue.

    Attributes:
        blocked_by: the job's items up to this number must have succeeded first.
        payload: what else its handler needs to know.
    """

    kind: str
    number: int = 0
    blocked_by: int | None = None
    input_key: str | None = None
    seconds: float | None = None
    payload: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Held:
    """An attempt at an item, by its fencing token."""

    id: UUID
    job_id: UUID
    kind: str
    number: int
    attempt: int


@dataclass(frozen=True)
class Claim(Held):
    """One attempt that a worker holds, with what it needs to know of item and job."""

    owner: str
    input_key: str | None
    seconds: float | None
    payload: Mapping[str, Any]
    is_long: bool
    model: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What a job that succeeds gets."""

    artifacts: list[dict[str, Any]]
    note_count: int
    audio_seconds: float
    warnings: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Download:
    """How far the checkpoint's download is; `waiting`: another process does it, and these are its figures."""

    bytes_done: int
    bytes_total: int
    bytes_per_second: float
    waiting: bool


@dataclass(frozen=True)
class Progress:
    """How far an attempt is. `moved` counts every sign of progress, so that a hang differs from work."""

    phase: Phase
    audio_seconds_done: float = 0.0
    audio_seconds_total: float | None = None
    moved: int = 0
    download: Download | None = None
