"""The waveform of a recording for a page that draws it: minima and maxima at several zoom levels.

A level has bins of equal length, each with the smallest and the largest sample in it, from -127 to 127. The finest
level has at most `MAX_BINS` bins, however long the recording is: when there are more, pairs of them are merged.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from mt3_infer.audio import AudioStream, Waveform, open_audio
from mt3_infer.exports import Export
from mt3_infer.exports.options import ExportOptions

SAMPLE_RATE = 16_000
FINEST_SECONDS = 0.01
MAX_BINS = 1 << 17
FACTOR = 4  # from a level's bins to those of the next
FEWEST_BINS = 500  # a level with fewer is the last
FULL_SCALE = 127


def write_peaks(export: Export[ExportOptions]) -> None:
    """Write the levels as JSON, the finest first.

    Raises:
        AudioError: the recording cannot be decoded.
    """
    assert export.audio is not None
    if isinstance(export.audio, AudioStream):
        content = _measure(export.audio, export)
    else:
        with open_audio(export.audio, sample_rate=SAMPLE_RATE) as audio:
            content = _measure(audio, export)
    export.path.write_text(content, encoding="utf-8")


def _measure(audio: AudioStream, export: Export[ExportOptions]) -> str:
    bins = Bins(max(1, round(FINEST_SECONDS * audio.sample_rate)))
    duration = audio.duration or export.transcription.duration or 1.0
    for block in audio:
        bins.add(block)
        export.progress(min(1.0, audio.seconds / duration))
    levels = []
    size, extremes = bins.size, bins.finish()
    while True:
        low, high = np.rint(np.clip(extremes, -1, 1) * FULL_SCALE).astype(int).T.tolist()
        levels.append({"seconds_per_bin": size / audio.sample_rate, "min": low, "max": high})
        if len(extremes) < FEWEST_BINS:
            break
        size, extremes = size * FACTOR, _merge(extremes, FACTOR)
    head = {"format": "mt3-infer/peaks", "version": 1, "duration": round(audio.seconds, 6), "levels": levels}
    return json.dumps(head, separators=(",", ":"))


class Bins:
    """Minima and maxima of a waveform that arrives in blocks.

    Attributes:
        size: samples in a bin. It doubles when there are too many bins.
    """

    def __init__(self, size: int, *, most: int = MAX_BINS) -> None:
        self.size = size
        self._most = most
        self._done: list[NDArray[np.float32]] = []  # shape (B, 2) each
        self._count = 0
        self._rest: Waveform = np.zeros(0, np.float32)

    def add(self, block: Waveform) -> None:
        """Take in the next samples."""
        samples = np.concatenate([self._rest, block])
        whole = len(samples) // self.size * self.size
        self._rest = samples[whole:]
        self._keep(_extremes(samples[:whole].reshape(-1, self.size)))
        while self._count > self._most:
            self._halve()

    def finish(self) -> NDArray[np.float32]:
        """Return minimum and maximum of each bin, shape (B, 2); the last one may be shorter."""
        if len(self._rest):
            self._keep(_extremes(self._rest[np.newaxis]))
            self._rest = self._rest[:0]
        return _joined(self._done)

    def _keep(self, extremes: NDArray[np.float32]) -> None:
        self._done.append(extremes)
        self._count += len(extremes)

    def _halve(self) -> None:
        """Merge pairs of bins. A bin without a partner goes back to the samples: two of it have its extremes."""
        every = _joined(self._done)
        if len(every) % 2:
            alone = np.resize(every[-1], self.size).astype(np.float32)
            self._rest = np.concatenate([alone, self._rest])
            every = every[:-1]
        self.size *= 2
        self._done = [_merge(every, 2)]
        self._count = len(self._done[0])


def _joined(parts: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate([np.zeros((0, 2), np.float32), *parts])


def _extremes(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    if not len(rows):
        return np.zeros((0, 2), np.float32)
    return np.stack([rows.min(axis=1), rows.max(axis=1)], axis=1)


def _merge(extremes: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Merge so many bins into one; the last one may be of fewer."""
    starts = np.arange(0, len(extremes), factor)
    if not len(starts):
        return extremes
    low, high = np.minimum.reduceat(extremes[:, 0], starts), np.maximum.reduceat(extremes[:, 1], starts)
    return np.stack([low, high], axis=1)
