"""Intervals of overlapping windows → notes and pedals of the recording.

Each track of a window is decoded from the frame at which its last event in the window before ended. An event that
continues beyond the end of a window is found again in the next one, which then decides about it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from mt3_infer.audio import Waveform
from mt3_infer.models.transkun.config import (
    FIRST_START,
    FRAME_SECONDS,
    GRID,
    LOWEST_PITCH,
    PEDALS,
    TRACKS,
    WINDOW_HOP_FRAMES,
)
from mt3_infer.network import NetworkOutput
from mt3_infer.symbolic.notes import Note, Pedal, sort_notes

SHORTEST = 1e-8  # seconds that an event of a window lasts at least

SUSTAIN = 64


@dataclass(slots=True)
class _Event:
    """A note or a pedal, in seconds; an end that lies beyond a window is not known yet."""

    onset: float
    offset: float
    velocity: int
    has_onset: bool
    has_offset: bool


class TranskunCollector:
    """Stitches the windows of a recording together; see `Collector`."""

    def __init__(self, *, extend_to_pedal: bool) -> None:
        self._extend_to_pedal = extend_to_pedal
        self._window = 0
        self._starts = [FIRST_START] * TRACKS
        self._events: list[list[_Event]] = [[] for _ in range(TRACKS)]

    def feed(self, result: Waveform) -> None:
        """Take the next window's intervals, shape (N, 8)."""
        begin = (self._window * GRID.hop - GRID.lead) / GRID.sample_rate
        bounds = np.searchsorted(result[:, 0], np.arange(TRACKS + 1))
        for track, events in enumerate(self._events):
            intervals = result[bounds[track] : bounds[track + 1]]
            found, last = _follow(intervals, self._starts[track])
            for event in found:
                event.onset = max(event.onset + begin, 0.0)
                event.offset = max(event.offset + begin, event.onset)
                _add(events, event)
            self._starts[track] = max(last - WINDOW_HOP_FRAMES, 0)
        self._window += 1

    def finish(self, samples: int) -> NetworkOutput:
        """Return the notes and pedals of the recording; see `Collector`."""
        tracks = [_finished(events) for events in self._events]
        pedals = [
            Pedal(event.onset, event.offset, controller)
            for controller, events in zip(PEDALS, tracks, strict=False)
            for event in events
        ]
        notes = [
            Note(event.onset, event.offset, LOWEST_PITCH + key, max(1, event.velocity))
            for key, events in enumerate(tracks[len(PEDALS) :])
            for event in events
        ]
        if self._extend_to_pedal:
            notes = extend_to_pedal(notes, pedals)
        return NetworkOutput(
            sort_notes(notes), counters={}, pedals=sorted(pedals, key=lambda p: (p.onset, p.controller))
        )


def _follow(intervals: Waveform, start: int) -> tuple[list[_Event], int]:
    """Return the events of one track from a frame on, in the window's time, and the frame where the last ends.

    That frame is 0 if none of them ends in the window.
    """
    events: list[_Event] = []
    position, last, offset = start, 0, 0.0
    for _, begin, end, velocity, begin_shift, end_shift, has_onset, has_offset in intervals.tolist():
        if begin < position:
            continue  # of a sequence that begins elsewhere
        position = int(end)
        onset = max((begin + begin_shift) * FRAME_SECONDS, offset)
        offset = max((end + end_shift) * FRAME_SECONDS, onset + SHORTEST)
        events.append(_Event(onset, offset, int(velocity), bool(has_onset), bool(has_offset)))
        if has_offset:
            last = position
    return events, last


def _add(events: list[_Event], event: _Event) -> None:
    """Add an event of a track to those of earlier windows.

    Where it overlaps the last of them it takes its place if it has an onset, and else prolongs it.
    """
    if events and event.onset < events[-1].offset:
        if event.has_onset:
            events[-1] = event
        else:
            events[-1].has_offset = event.has_offset
            events[-1].offset = max(event.offset, events[-1].offset)
    elif event.has_onset:
        events.append(event)


def _finished(events: list[_Event]) -> list[_Event]:
    """Return the events of a track that have an end, as the last one always has; none overlaps the next."""
    if events:
        events[-1].has_offset = True
    ended = sorted((event for event in events if event.has_offset), key=lambda e: (e.onset, e.offset))
    for event, following in pairwise(ended):
        event.offset = min(event.offset, following.onset)
    return [event for event in ended if event.onset < event.offset]


def extend_to_pedal(notes: Iterable[Note], pedals: Iterable[Pedal]) -> list[Note]:
    """Prolong notes that end under the sustain pedal until it is released, or until their pitch begins again."""
    held = sorted((pedal.onset, pedal.offset) for pedal in pedals if pedal.controller == SUSTAIN)
    onsets = np.array([onset for onset, _ in held])
    extended: list[Note] = []
    following: dict[int, float] = {}  # pitch → onset of the note after this one
    for note in sorted(notes, key=lambda n: n.onset, reverse=True):
        offset = note.offset
        at = int(np.searchsorted(onsets, offset)) - 1  # the last pedal that is pressed before the note ends
        if at >= 0:
            offset = max(offset, held[at][1])
        offset = min(offset, following.get(note.pitch, offset))
        following[note.pitch] = note.onset
        extended.append(replace(note, offset=offset))
    return extended
