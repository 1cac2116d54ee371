"""Compute evidence from samples on their way to a network, in windows on a fixed grid.

A window is 2 s long and evidence for its middle 1.64 s; the margins are context. The grid begins with the
recording, so that a window's evidence is the same, to the byte, whichever shard it is computed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from typing import Self

import msgpack
import numpy as np
import soxr

from mt3_infer.audio import Waveform
from mt3_infer.audio.segments import SegmentGrid
from mt3_infer.evidence.energy import MARGIN, SAMPLE_RATE, window_energies
from mt3_infer.evidence.posteriors import quantize
from mt3_infer.evidence.tracks import compress
from mt3_infer.inference.engine import Engine, Request, Session, SingleStep
from mt3_infer.inference.threads import available_cpus
from mt3_infer.models.basic_pitch.config import EDGE_FRAMES, HOP, WINDOW_SAMPLES, Posteriors

VERSION = 1
"""Of the evidence. Evidence of another version, from a worker of another release, is not used."""

MOST_THREADS = 4

PosteriorNetwork = Callable[[Waveform], Posteriors]
"""Takes windows of shape (N, 43844); see `BasicPitch.posteriors`."""


@dataclass
class Evidence:
    """Evidence of consecutive windows of a recording, compressed.

    Attributes:
        energies: for each window, see `mt3_infer.evidence.energy`.
        posteriors: for each window, frames and onsets; None if Basic Pitch did not run.
    """

    energies: list[bytes] = field(default_factory=list)
    posteriors: list[bytes] | None = None

    def pack(self) -> bytes:
        """Return the evidence as bytes."""
        packed: bytes = msgpack.packb([VERSION, self.energies, self.posteriors])
        return packed

    @classmethod
    def unpack(cls, packed: bytes) -> Self | None:
        """Return the evidence that `pack` was called on, or None if it has another version."""
        version, *content = msgpack.unpackb(packed)
        return cls(*content) if version == VERSION else None


def window_grid(sample_rate: int) -> SegmentGrid:
    """Return the grid of the windows at a model's sample rate, which is a multiple of 50 Hz."""
    assert is_supported(sample_rate)
    return SegmentGrid(sample_rate, hop=sample_rate * 41 // 25, length=sample_rate * 2, lead=sample_rate * 9 // 50)


def with_context(grid: SegmentGrid) -> SegmentGrid:
    """Return a network's grid with so many samples more that the windows that begin in a segment end in it."""
    return SegmentGrid(
        grid.sample_rate,
        grid.hop,
        grid.length + window_grid(grid.sample_rate).length,
        grid.lead,
        grid.tail,
    )


def is_supported(sample_rate: int) -> bool:
    """Return True if windows begin at whole samples at this rate."""
    return sample_rate % 50 == 0


def windows_of(grid: SegmentGrid, first: int, stop: int, samples: int) -> tuple[int, int]:
    """Return the windows that begin in some segments: the first, and the one after the last.

    Args:
        grid: of the network.
        first, stop: the segments first, …, stop - 1.
        samples: of the whole recording.
    """
    windows = window_grid(grid.sample_rate)
    count = windows.count(samples)

    def begin(segment: int) -> int:
        position, _ = grid.span(segment, segment + 1, samples)
        return min(count, -(-(position + windows.lead) // windows.hop)) if position else 0

    return begin(first), count if stop >= grid.count(samples) else begin(stop)


@dataclass(frozen=True)
class Window:
    """A window to compute evidence from.

    Attributes:
        samples: two seconds at `sample_rate`.
        sample_rate: in Hz.
        posteriors: Basic Pitch, or None to do without it.
    """

    samples: Waveform
    sample_rate: int
    posteriors: PosteriorNetwork | None

    def compute(self) -> WindowEvidence:
        """Return the window's energies and posteriors, compressed."""
        resampled = soxr.resample(self.samples, self.sample_rate, SAMPLE_RATE, quality="HQ")
        energies = compress(window_energies(resampled))
        if self.posteriors is None:
            return energies, None
        begin = MARGIN - EDGE_FRAMES * HOP
        frames, onsets = self.posteriors(resampled[np.newaxis, begin : begin + WINDOW_SAMPLES])
        return energies, compress(quantize(frames, onsets))


WindowEvidence = tuple[bytes, bytes | None]


@cache
def _engines() -> list[Engine[Window, WindowEvidence]]:
    """Return engines that take the windows of all recordings in turn.

    There are several, because a GPU transcribes faster than one CPU computes evidence; they leave half of the CPUs
    to the decoding of audio and the network. A caller may be a daemon thread, on which no native code must run.
    """
    count = max(1, min(MOST_THREADS, available_cpus() // 2))
    return [Engine(SingleStep(_compute, slots=1), add_at_once=1) for _ in range(count)]


def _compute(windows: Sequence[Window]) -> list[WindowEvidence]:
    return [window.compute() for window in windows]


class EvidenceRecorder:
    """Passes samples on, while engines compute the evidence of the windows that are complete.

    Args:
        sample_rate: of the samples, in Hz.
        posteriors: Basic Pitch, or None to do without it.
        position: of the first sample in the recording.
        windows: the first window and the one after the last; None for all windows of the recording.
    """

    def __init__(
        self,
        sample_rate: int,
        posteriors: PosteriorNetwork | None = None,
        *,
        position: int = 0,
        windows: Sequence[int] | None = None,
    ) -> None:
        self.evidence = Evidence(posteriors=None if posteriors is None else [])
        self._grid = window_grid(sample_rate)
        self._network = posteriors
        self._position = position
        self._next = 0 if windows is None else windows[0]
        self._stop = None if windows is None else windows[1]
        begin = self._next * self._grid.hop - self._grid.lead
        self._skip = max(0, begin - position)
        self._pending = np.zeros(max(0, position - begin), np.float32)

    def passing(self, blocks: Iterable[Waveform]) -> Iterator[Waveform]:
        """Yield the blocks. The evidence is complete after the last one."""
        with ExitStack() as stack:
            turns = _Turns([stack.enter_context(engine.session()) for engine in _engines()])
            for block in blocks:
                for window in self._complete(block):
                    self._keep(turns.submit(window))
                yield block
            for window in self._last():
                self._keep(turns.submit(window))
            self._keep(turns.take_all())

    def _complete(self, block: Waveform) -> Iterator[Window]:
        """Yield the windows that end with a block."""
        self._position += len(block)
        skipped = min(self._skip, len(block))
        self._skip -= skipped
        self._pending = np.concatenate([self._pending, block[skipped:]])
        while len(self._pending) >= self._grid.length and (self._stop is None or self._next < self._stop):
            yield self._window()

    def _last(self) -> Iterator[Window]:
        """Yield the windows that the recording ends in, padded with silence."""
        stop = self._grid.count(self._position) if self._stop is None else self._stop
        while self._next < stop:
            self._pending = np.pad(self._pending, (0, max(0, self._grid.length - len(self._pending))))
            yield self._window()

    def _window(self) -> Window:
        samples = self._pending[: self._grid.length]
        self._next += 1
        self._pending = self._pending[self._grid.hop :]
        return Window(samples, self._grid.sample_rate, self._network)

    def _keep(self, computed: Iterable[WindowEvidence]) -> None:
        for energies, posteriors in computed:
            self.evidence.energies.append(energies)
            if self.evidence.posteriors is not None and posteriors is not None:
                self.evidence.posteriors.append(posteriors)


class _Turns:
    """Several sessions that take windows in turn; at most two windows each are under way."""

    def __init__(self, sessions: Sequence[Session[Window, WindowEvidence]]) -> None:
        self._idle = deque([*sessions, *sessions])
        self._busy: deque[Session[Window, WindowEvidence]] = deque()

    def submit(self, window: Window) -> list[WindowEvidence]:
        """Submit a window; return the evidence of an earlier one if all sessions were busy."""
        done = [] if self._idle else [self._take()]
        session = self._idle.popleft()
        session.submit(Request(window))
        self._busy.append(session)
        return done

    def take_all(self) -> list[WindowEvidence]:
        """Return the evidence of the windows that are under way, in order."""
        return [self._take() for _ in range(len(self._busy))]

    def _take(self) -> WindowEvidence:
        session = self._busy.popleft()
        self._idle.append(session)
        return session.take()
