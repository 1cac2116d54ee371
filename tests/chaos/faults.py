"""Faults injected into the processes under test: a small network, named points of failure, and false reports.

`tests.chaos.faulty_worker` and the like load this before the program itself; nothing of it is in the product. A
point is armed by a file of its name in the folder MT3_TEST_FAULTS: the first process that reaches it removes the
file and carries out its content.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import random
import signal
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

ENVIRONMENT = os.environ
HELD = "held"  # a file: while it exists, a process that reaches a point that holds waits there, alive
UNFENCED = "unfenced"  # a file: while it exists, the attempt number is not checked
WORKER_POINTS = ("message_taken", "claimed", "transcribing", "mid_upload", "before_commit", "after_commit")
WEB_POINTS = ("before_row", "after_row")
SCHEDULER_POINTS = ("before_notify", "rescued")


def point(name: str) -> None:
    """Exit or stop here if the point is armed."""
    armed = Path(ENVIRONMENT["MT3_TEST_FAULTS"], name)
    taken = armed.with_suffix(f".taken-{os.getpid()}")
    try:
        armed.rename(taken)
    except FileNotFoundError:
        return
    what = taken.read_text()
    if what == "exit":
        os._exit(99)
    if what == "hold":
        while Path(ENVIRONMENT["MT3_TEST_FAULTS"], HELD).exists():
            time.sleep(0.05)
        return
    assert what == "stop", what
    os.kill(os.getpid(), signal.SIGSTOP)


def around(owner: Any, name: str, *, before: str | None = None, after: str | None = None) -> None:
    """Insert points before and after a function."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before:
            point(before)
        result = original(*args, **kwargs)
        if after:
            point(after)
        return result

    setattr(owner, name, wrapped)


def plant_in_all() -> None:
    """Inject the faults of database and queue that all processes share."""
    if share := float(ENVIRONMENT.get("MT3_TEST_LYING_COMMITS", "0")):
        _report_commits_as_failed(share)
    if shares := ENVIRONMENT.get("MT3_TEST_PUBLISH"):
        dropped, doubled = map(float, shares.split(","))
        _drop_and_duplicate_messages(dropped, doubled)
    if "MT3_TEST_IMPATIENT" in ENVIRONMENT:
        _disable_lock_timeout()


def plant_in_web() -> None:
    import web.uploads

    around(web.uploads, "create_job", before="before_row", after="after_row")


def plant_in_scheduler() -> None:
    from shared import work
    from shared.queue import CeleryQueue

    around(CeleryQueue, "notify", before="before_notify")
    around(work, "_requeue", after="rescued")  # not committed yet


def plant_in_worker() -> None:
    from shared import work, worker_registry
    from worker.context import Context
    from worker.runner import Runner

    worker_registry.REGISTER_SECONDS = 0.5
    if ENVIRONMENT.get("MT3_TEST_NETWORK", "tiny") == "tiny":
        _plant_network(load_tiny)
    elif model := ENVIRONMENT.get("MT3_TEST_MODEL"):
        _plant_network(load_from_folder, model)
    around(Runner, "drain", before="message_taken")
    around(Runner, "_attempt", before="claimed")
    around(Context, "store", after="mid_upload")
    around(work, "complete", before="before_finish", after="before_commit")
    around(Runner, "_complete", after="after_commit")
    _make_the_fence_removable()
    if "MT3_TEST_TRUSTING" in ENVIRONMENT:
        _skip_reading_back()
    if poison := ENVIRONMENT.get("MT3_TEST_POISON"):
        _do_when_decoding(poison.encode(), lambda: os._exit(99))  # like a recording that crashes the decoder
    if hang := ENVIRONMENT.get("MT3_TEST_HANG"):
        _do_when_decoding(hang.encode(), lambda: time.sleep(3600))  # and one that hangs it


def _plant_network(load: Callable[..., Any], only: str | None = None) -> None:
    """Replace the loading of one model's network, or of all."""
    import worker.engine

    parts: dict[str, Any] = vars(worker.engine)
    engine, loaded = parts["TranscriptionEngine"], parts["load_model"]
    fetched, installed = engine.fetch, engine.installed

    def is_replaced(name: str) -> bool:
        return only in (None, name)

    parts["load_model"] = lambda name, **how: (load if is_replaced(name) else loaded)(name, **how)
    engine.fetch = lambda self, name, progress: None if is_replaced(name) else fetched(self, name, progress)
    engine.installed = lambda self: installed(self) if only else {}


def _make_the_fence_removable() -> None:
    from shared import work
    from shared.kinds import Held
    from shared.tables import WorkItem

    fenced = work.held_under

    def held_under(held: Held) -> Any:
        return (
            (WorkItem.id == held.id,) if Path(ENVIRONMENT["MT3_TEST_FAULTS"], UNFENCED).exists() else fenced(held)
        )

    work.held_under = held_under


def _report_commits_as_failed(share: float) -> None:
    """Report some commits as failed after they took effect."""
    import psycopg
    from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

    commit = PGDialect_psycopg.do_commit
    chance = random.Random()

    def do_commit(self: Any, connection: Any) -> None:
        commit(self, connection)
        if chance.random() < share:
            raise psycopg.OperationalError("the connection is lost (planted)")

    PGDialect_psycopg.do_commit = do_commit  # type: ignore[method-assign]


def _disable_lock_timeout() -> None:
    """Make writers on SQLite give up at once when another one holds the lock."""
    from sqlalchemy import Engine, event

    def give_up_at_once(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA busy_timeout=0")

    event.listen(Engine, "connect", give_up_at_once)


def _drop_and_duplicate_messages(dropped: float, doubled: float) -> None:
    from shared.queue import CeleryQueue

    notify = CeleryQueue.notify
    chance = random.Random()

    def unreliable(self: CeleryQueue) -> None:
        luck = chance.random()
        if luck < dropped:
            return
        notify(self)
        if luck > 1 - doubled:
            notify(self)

    CeleryQueue.notify = unreliable  # type: ignore[method-assign]


def _skip_reading_back() -> None:
    """Skip reading back objects that storage reports as stored."""
    import worker.context
    from shared.errors import StorageUnavailable
    from shared.storage import ObjectStorage, StoredObject

    def put_unchecked(storage: ObjectStorage, key: str, content: BinaryIO, *, content_type: str) -> StoredObject:
        data = content.read()
        with suppress(StorageUnavailable):
            storage.put(key, io.BytesIO(data), content_type=content_type)
        return StoredObject(key, len(data), hashlib.sha256(data).hexdigest())

    vars(worker.context)["put_checked"] = put_unchecked


def _do_when_decoding(beginning: bytes, what: Callable[[], object]) -> None:
    """Run an action when a recording with this beginning is decoded."""
    import worker.engine
    from mt3_infer.audio import open_audio as decode

    def open_audio(recording: Any, **kwargs: Any) -> Any:
        start = recording.read(len(beginning))
        recording.seek(0)
        if start == beginning:
            what()
        return decode(recording, **kwargs)

    vars(worker.engine)["open_audio"] = open_audio


def load_from_folder(name: str, *, device: str, **_: Any) -> Any:
    """Load a published network whose weights are in a folder, not in the store."""
    from mt3_infer.loading import load_model

    return load_model(name, checkpoint_path=ENVIRONMENT["MT3_TEST_MODEL_PATH"], device=device)


# --- a network with a configurable duration -------------------------------------------------------------------


def load_tiny(name: str, **_: Any) -> Any:
    from mt3_infer.model import Model
    from mt3_infer.models import MODELS

    return Model(MODELS[name], cast(Any, TinyNetwork()), "0" * 64, "Apache-2.0")


class TinyNetwork:
    """Emits a note per half second, from loudness and zero crossings: different audio gives different notes."""

    device, in_order = "cpu", False

    def __init__(self) -> None:
        from mt3_infer.audio.segments import SegmentGrid

        self.grid = SegmentGrid(22050, hop=11025, length=11025)
        self._seconds = float(ENVIRONMENT.get("MT3_TEST_SEGMENT_SECONDS", "0.02"))

    def infer(self, segments: Iterable[Any], options: Any, *, previous: Any = None) -> Generator[list[int]]:
        for segment in segments:
            time.sleep(self._seconds)
            point("transcribing")
            crossings = int(np.count_nonzero(np.diff(np.signbit(segment.waveform))))
            yield [21 + crossings % 88, 1 + round(126 * float(np.abs(segment.waveform).max()))]

    def collect(self, options: Any) -> TinyCollector:
        return TinyCollector()


@dataclass
class TinyCollector:
    results: list[list[int]] = field(default_factory=list)

    def feed(self, result: list[int]) -> None:
        self.results.append(result)

    def finish(self, samples: int) -> Any:
        from mt3_infer.network import NetworkOutput
        from mt3_infer.symbolic.notes import Note

        notes = [Note(n / 2, n / 2 + 0.5, pitch, loud) for n, (pitch, loud) in enumerate(self.results)]
        return NetworkOutput(notes=notes, counters={})


PLANT: dict[str, Callable[[], None]] = {
    "web": plant_in_web,
    "scheduler": plant_in_scheduler,
    "worker": plant_in_worker,
}


def plant(process: str) -> None:
    """Inject the faults of a process before it starts."""
    plant_in_all()
    PLANT[process]()
