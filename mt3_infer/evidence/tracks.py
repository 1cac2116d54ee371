"""Tracks: quantized frames of a whole recording, compressed window by window, read at the times of notes."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]

CACHED_WINDOWS = 8


def compress(frames: Frames) -> bytes:
    """Return the frames of a window, shape (frames, columns), as bytes."""
    by_column = np.ascontiguousarray(frames.T)  # a column changes little from frame to frame
    return zlib.compress(by_column.tobytes(), 1)


class Track:
    """The frames of a recording.

    Args:
        windows: what `compress` returned, for each window.
        columns: of a frame.
        seconds: from the start of a window to that of the next. The last frame of one may reach into the next.
        rate: frames per second.
    """

    def __init__(self, windows: Sequence[bytes], *, columns: int, seconds: float, rate: float) -> None:
        self._windows = windows
        self._columns = columns
        self._seconds = seconds
        self._rate = rate
        self._cache: OrderedDict[int, Frames] = OrderedDict()

    def read(self, start: float, stop: float) -> Frames:
        """Return the frames nearest to `start`, …, `stop`, in seconds; shape (N, columns), N at least 1.

        Times outside of the recording stand for its first and last frame.
        """
        times = start + np.arange(max(0, round((stop - start) * self._rate)) + 1) / self._rate
        times = np.clip(times, 0.0, len(self._windows) * self._seconds - 1e-6)
        index = (times / self._seconds).astype(int)
        first, last = int(index[0]), int(index[-1])
        windows = [self._window(at) for at in range(first, last + 1)]
        length = len(windows[0])
        frame = np.minimum(np.rint((times - index * self._seconds) * self._rate).astype(int), length - 1)
        joined = windows[0] if first == last else np.concatenate(windows)
        rows: Frames = joined[(index - first) * length + frame]
        return rows

    def _window(self, index: int) -> Frames:
        if index not in self._cache:
            columns = np.frombuffer(zlib.decompress(self._windows[index]), np.uint8)
            self._cache[index] = columns.reshape(self._columns, -1).T
            if len(self._cache) > CACHED_WINDOWS:
                self._cache.popitem(last=False)
        return self._cache[index]
