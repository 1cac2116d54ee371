"""Posteriorgrams → notes in frames: what follows the Basic Pitch network.

Two passes over the frame posteriorgram, as the published package does them:
1. from every onset, last first, a note goes on until the frame posterior has been low for `RELEASE_FRAMES`;
2. what is left over is looked at from its highest point down, and grown into notes in both directions
   (named "melodia trick" by the authors, after Salamon's way of following a melody).

A note claims its frames of its own pitch and of the two pitches beside it, so that nothing is found twice.

Three hours are 935,000 frames of 88 pitches. Of the frame posteriors every one is kept (330 MB); of the
onset posteriors only those that reach the threshold, since the others can neither be a peak nor hide one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

PITCHES = 88
"""Keys of a piano, from A0."""

RELEASE_FRAMES = 11
"""So many frames in a row below the threshold end a note (11 × 256 / 22050 = 128 ms)."""

SILENCE = bytes(RELEASE_FRAMES)

BLOCK_FRAMES = 4096
"""Frames handled at once where a whole recording would need large intermediate arrays."""

BANDS = (np.inf, 0.8, 0.65, 0.55, 0.45, 0.4, 0.35, 0.3, 0.2, -np.inf)
"""Edges of the bands in which frame posteriors are sorted; most lie not far above the usual threshold, 0.3."""

Posteriorgram = NDArray[np.float32]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class FrameNote:
    """One note in frames: sounding in [start, end), `key` 0-87 from A0, amplitude 0-1 (mean posterior)."""

    start: int
    end: int
    key: int
    amplitude: float


class NoteCreator:
    """Takes posteriorgrams piece by piece, then returns the notes of the whole recording.

    Args:
        onset_threshold: least posterior of an onset.
        frame_threshold: least posterior at which a note goes on, above 0.
        minimum_frames: only notes longer than this are kept.

    Source: Bittner et al., A Lightweight Instrument-Agnostic Model for Polyphonic Note Transcription and
    Multipitch Estimation (ICASSP 2022), section 2.3, and the behavior of the package basic-pitch 0.4.0.
    """

    def __init__(self, *, onset_threshold: float, frame_threshold: float, minimum_frames: int) -> None:
        self._onset_threshold = onset_threshold
        self._frame_threshold = frame_threshold
        self._minimum_frames = minimum_frames
        self._frames: Posteriorgram = np.zeros((0, PITCHES), np.float32)  # (T, 88)
        self._loudest_onset: list[Posteriorgram] = []  # pieces of (T,): greatest of each frame
        self._onset_index: list[Indices] = []  # pieces of (N,): time × 88 + key, ascending
        self._onset_value: list[Posteriorgram] = []  # pieces of (N,)

    def feed(self, frames: Posteriorgram, onsets: Posteriorgram) -> None:
        """Append the next piece of both posteriorgrams, each of shape (T, 88)."""
        start = len(self._frames)
        # Growing in place lets the allocator move pages rather than copy: no second copy of 330 MB.
        self._frames.resize((start + len(frames), PITCHES), refcheck=False)
        self._frames[start:] = frames
        self._loudest_onset.append(onsets.max(axis=1))
        index = np.flatnonzero(onsets >= self._onset_threshold)
        self._onset_index.append(index + start * PITCHES)
        self._onset_value.append(onsets.ravel()[index])

    def finish(self, n_frames: int) -> list[FrameNote]:
        """Create the notes of the first `n_frames` frames, in no particular order."""
        frames = self._frames[:n_frames]
        if len(frames) < 3:  # an onset is a peak between two frames
            return []
        rows = [bytearray((frames[:, key] >= self._frame_threshold).tobytes()) for key in range(PITCHES)]
        events = list(self._notes_from_onsets(frames, rows))
        events += self._notes_from_remains(frames, rows)
        return events

    def _onset_peaks(self, frames: Posteriorgram) -> Iterator[tuple[int, int]]:
        """Return (time, key) of every onset, in time order.

        An onset is a peak in time of the onset posterior, or of the rise of the frame posterior over one and
        over two frames, scaled to the same maximum, whichever is greater.
        """
        n_frames = len(frames)
        loudest = np.concatenate(self._loudest_onset)[:n_frames].max()
        steepest = max(_rises(frames, at, at + BLOCK_FRAMES).max() for at in range(0, n_frames, BLOCK_FRAMES))
        index = np.concatenate(self._onset_index)
        value = np.concatenate(self._onset_value)
        for at in range(1, n_frames - 1, BLOCK_FRAMES):
            first, last = at - 1, min(at + BLOCK_FRAMES, n_frames - 1) + 1  # one frame more on either side
            strength = np.zeros((last - first, PITCHES))
            part = slice(*np.searchsorted(index, (first * PITCHES, last * PITCHES)))
            strength.ravel()[index[part] - first * PITCHES] = value[part]
            if steepest > 0:
                strength = np.maximum(strength, loudest * _rises(frames, first, last) / steepest)
            here = strength[1:-1]
            peak = (here > strength[:-2]) & (here > strength[2:]) & (here >= self._onset_threshold)
            times, keys = np.nonzero(peak)
            yield from zip((times + at).tolist(), keys.tolist(), strict=True)

    def _notes_from_onsets(self, frames: Posteriorgram, rows: list[bytearray]) -> Iterator[FrameNote]:
        """Make the first pass. `rows[key][time]` is 1 where a frame sounds and is unclaimed; it is written to."""
        # Backwards in time: a note is cut short by the one that follows on the same key.
        for start, key in reversed(list(self._onset_peaks(frames))):
            end = _release(rows[key], start + 1, len(frames) - 1)
            if end - start > self._minimum_frames:
                _claim(rows, key, start, end)
                yield FrameNote(start, end, key, float(frames[start:end, key].mean()))

    def _notes_from_remains(self, frames: Posteriorgram, rows: list[bytearray]) -> Iterator[FrameNote]:
        """Make the second pass, from the highest unclaimed posterior down.

        Posteriorgram are only ever taken away, so that one sort does for a search after each note.
        """
        limit = len(frames) - 1
        for time, key in _descending(frames, rows):
            row = rows[key]
            if not row[time]:
                continue
            row[time] = 0
            start, stop = _attack(row, time), _release(row, time + 1, limit)
            # What was walked over is claimed with the silence at both ends, kept as a note or not.
            _claim(rows, key, max(1, start - RELEASE_FRAMES), time)
            _claim(rows, key, time + 1, min(stop + RELEASE_FRAMES, limit))
            end = stop - 1  # the published code leaves the last sounding frame out here
            if end - start > self._minimum_frames:
                yield FrameNote(start, end, key, float(frames[start:end, key].mean()))


def _rises(frames: Posteriorgram, first: int, last: int) -> NDArray[np.float64]:
    """Return how far each frame of [first, last) lies above both the one and the two before it, at least 0.

    Shape (min(last, T) - first, 88). The first two frames of the recording have no rise.
    """
    context = frames[max(first - 2, 0) : last].astype(np.float64)
    rises = np.zeros((len(context), frames.shape[1]))
    rises[2:] = np.maximum(np.minimum(context[2:] - context[1:-1], context[2:] - context[:-2]), 0)
    return rises[first - max(first - 2, 0) :]


def _release(row: bytearray, start: int, limit: int) -> int:
    """Return where sounding from `start` ends: at a long silence before `limit`, or after the last sound."""
    silence = row.find(SILENCE, start, limit)
    if silence >= 0:
        return silence
    return max(start, row.rfind(1, start, limit) + 1)


def _attack(row: bytearray, stop: int) -> int:
    """Return where sounding before `stop` began: `_release` backwards in time (frame 0 is never looked at)."""
    silence = row.rfind(SILENCE, 1, stop)
    if silence >= 0:
        return silence + RELEASE_FRAMES
    first = row.find(1, 1, stop)
    return stop if first < 0 else first


def _claim(rows: list[bytearray], key: int, start: int, stop: int) -> None:
    """Take frames [start, stop) of a key and of both its neighbors."""
    if stop > start:
        for row in rows[max(key - 1, 0) : key + 2]:
            row[start:stop] = bytes(stop - start)


def _descending(frames: Posteriorgram, rows: list[bytearray]) -> Iterator[tuple[int, int]]:
    """Yield (time, key) of all unclaimed frames by falling posterior; of equal ones the earlier first.

    Sorted band by band, so that the indices of no more than a part are held: for three hours 0.4 GB less.
    """
    for upper, lower in pairwise(BANDS):
        unclaimed = np.stack([np.frombuffer(row, bool) for row in rows], axis=1)
        unclaimed &= frames < upper
        unclaimed &= frames >= lower
        index = np.flatnonzero(unclaimed)
        del unclaimed
        order = np.argsort(-frames.ravel()[index], kind="stable")
        for at in range(0, len(order), BLOCK_FRAMES):
            times, keys = np.divmod(index[order[at : at + BLOCK_FRAMES]], PITCHES)
            yield from zip(times.tolist(), keys.tolist(), strict=True)
