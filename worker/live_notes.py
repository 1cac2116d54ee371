"""Publishes the notes of finished segments while an attempt runs, for clients that watch.

It must not disturb the attempt: it takes a small share of its time, and its failures are only logged. What was not
published is added when the job succeeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sqlalchemy.orm import Session

from mt3_infer.model import Model
from mt3_infer.settled import DIGITS, SettledNotes
from mt3_infer.symbolic.notes import Note
from mt3_infer.transcription import rounded
from shared import note_stream
from shared.db import Sessions
from shared.kinds import Claim
from shared.logs import get_logger
from shared.note_stream import Change, Fields

log = get_logger(__name__)

SECONDS = 1.0  # between two publications, at least
SHARE = 0.05  # of an attempt's time that they may take, at most
FAILURE_SECONDS = 15.0  # pause after a failure


class LiveNotes:
    """Takes the network's results of an attempt, segment by segment, and publishes their notes now and then.

    Args:
        first, stop: the segments of the attempt; it ends with the recording if `stop` is None.
    """

    def __init__(
        self,
        sessions: Sessions,
        claim: Claim,
        model: Model,
        *,
        first: int = 0,
        stop: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sessions = sessions
        self._claim = claim
        self._model = model
        self._first = first
        self._stop = stop
        self._clock = clock
        self._settled: SettledNotes | None = None
        self._sent: dict[int, Fields] | None = None  # in this stretch, by id; not known before the first time
        self._next = clock() + SECONDS
        self._has_ended = False

    def feed(self, result: Any) -> None:
        """Take the next segment's result; publish if it is time."""
        self._guard(partial(self._feed, result))

    def publish(self) -> None:
        """Publish what is settled, whatever the time: the attempt has inferred all its segments."""
        self._guard(self._publish)

    def _guard(self, action: Callable[[], None]) -> None:
        if self._has_ended:
            return
        try:
            action()
        except Exception as error:
            log.warning("live_notes_failed", error=repr(error)[:500])
            self._sent = None  # the commit may have succeeded
            self._next = self._clock() + FAILURE_SECONDS

    def _feed(self, result: Any) -> None:
        if self._settled is None:
            options = self._model.spec.check_options(self._claim.options)
            self._settled = SettledNotes(self._model.network, options, first=self._first)
        self._settled.feed(result)
        began = self._clock()
        if began >= self._next:
            self._publish()
            ended = self._clock()
            self._next = ended + max(SECONDS, (ended - began) / SHARE)

    def _publish(self) -> None:
        if self._settled is None:
            return
        if self._sent is None:
            self._sent = self._load()
        found = self._settled.find()
        # What an earlier attempt found later in the recording is not judged yet.
        judged = {
            note_id: note
            for note_id, note in self._sent.items()
            if note["onset"] >= found.begin and note["offset"] <= found.end
        }
        change = note_stream.compare(judged, to_fields(found.notes))
        if change:
            added = self._write(change)
            if added is None:
                self._has_ended = True  # the item is lost, which the heartbeat notices, or the stream is full
                return
            for note_id in change.withdrawn:
                del self._sent[note_id]
            self._sent |= added
        self._settled.confirm(found)

    def _load(self) -> dict[int, Fields]:
        """Return what earlier attempts have sent of the stretch that this one infers."""
        with self._sessions() as session:
            _, notes = note_stream.read_notes(session, self._claim.job_id)
        seconds = self._model.network.grid.seconds
        begin = round(self._first * seconds, DIGITS)
        stop = float("inf") if self._stop is None else round(self._stop * seconds, DIGITS)
        return {note_id: note for note_id, note in notes.items() if begin <= note["onset"] < stop}

    def _write(self, change: Change) -> dict[int, Fields] | None:
        with self._sessions.begin() as session:
            return note_stream.publish(session, self._claim, change)


def to_fields(notes: Sequence[Note]) -> list[Fields]:
    """Return notes as in notes.json."""
    return [rounded(note) for note in notes]


def plan_ending(sessions: Sessions, claim: Claim, notes: Sequence[Note]) -> Callable[[Session], None]:
    """Return what makes the stream end with the final notes, in the transaction that completes the job."""
    final = to_fields(notes)
    try:
        with sessions() as session:
            ending = note_stream.plan_ending(session, claim.job_id, final)
    except Exception as error:  # an outage must not cost the attempt: it is planned again in the transaction
        log.warning("live_notes_failed", error=repr(error)[:500])
        ending = note_stream.UNPLANNED
    return partial(note_stream.end, job_id=claim.job_id, ending=ending, notes=final)
