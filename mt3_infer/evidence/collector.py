"""Collect a network's results and the evidence of a recording, and join them at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from mt3_infer.evidence import energy
from mt3_infer.evidence.estimates import estimate
from mt3_infer.evidence.features import Tracks
from mt3_infer.evidence.posteriors import PITCHES, quantize
from mt3_infer.evidence.recorder import VERSION, Evidence, window_grid
from mt3_infer.evidence.tracks import Track, compress
from mt3_infer.models import ModelOptions, ModelSpec
from mt3_infer.models.basic_pitch import config as basic_pitch
from mt3_infer.network import Network, NetworkOutput

WINDOW_SECONDS = window_grid(energy.SAMPLE_RATE).seconds


@runtime_checkable
class HasPosteriors(Protocol):
    """A network whose results hold posteriors of Basic Pitch's kind, which then need not run beside it."""

    def result_posteriors(self, result: Any) -> basic_pitch.Posteriors:
        """Return the posteriors of frames and of onsets in a result, on the grid of `basic_pitch.config`."""


class EvidenceCollector:
    """A `Collector` that also takes evidence. Unless all windows have it, the notes remain those of the network.

    Args:
        spec: of the model.
        network: that of the model; its own collector makes the notes.
        options: those that inference was run with.
    """

    def __init__(self, spec: ModelSpec, network: Network[Any], options: ModelOptions) -> None:
        self._spec = spec
        self._collector = network.collect(options)
        self._sample_rate = network.grid.sample_rate
        self._source = network if isinstance(network, HasPosteriors) else None
        self._own_posteriors: list[bytes] = []
        self._evidence = Evidence(posteriors=[])

    def feed(self, result: Any) -> None:
        """Take the next segment's result."""
        self._collector.feed(result)
        if self._source is not None:
            self._own_posteriors.append(compress(quantize(*self._source.result_posteriors(result))))

    def add(self, evidence: Evidence | None) -> None:
        """Take the evidence of the next windows; None if there is none.

        Posteriors are used only if all windows have them, so that all notes of a recording are estimated alike.
        """
        if evidence is None:
            return
        self._evidence.energies += evidence.energies
        if evidence.posteriors is None:
            self._evidence.posteriors = None
        elif self._evidence.posteriors is not None:
            self._evidence.posteriors += evidence.posteriors

    def finish(self, samples: int) -> NetworkOutput:
        """Return the notes of the whole recording, with velocities and confidence if there is evidence."""
        output = self._collector.finish(samples)
        if not self._evidence.energies:
            return output
        expected = window_grid(self._sample_rate).count(samples)
        if len(self._evidence.energies) != expected:
            return output
        tracks = Tracks(energy_track(self._evidence.energies), self._posteriors())
        notes = estimate(
            output.notes, tracks, family=self._spec.confidence, keep_velocities=self._spec.has_velocities
        )
        kind = "energies" if tracks.posteriors is None else "posteriors"
        return replace(output, notes=notes, estimator=f"{VERSION}/{kind}")

    def _posteriors(self) -> Track | None:
        if self._source is not None:
            return posterior_track(self._own_posteriors, seconds=basic_pitch.GRID.seconds)
        windows = self._evidence.posteriors
        return None if windows is None else posterior_track(windows)


def energy_track(windows: Sequence[bytes]) -> Track:
    """Return the energies of a recording's windows as one track."""
    rate = energy.SAMPLE_RATE / energy.HOP
    return Track(windows, columns=energy.COLUMNS, seconds=WINDOW_SECONDS, rate=rate)


def posterior_track(windows: Sequence[bytes], *, seconds: float = WINDOW_SECONDS) -> Track:
    """Return posteriors as one track; `seconds` is the time from window to window."""
    rate = basic_pitch.SAMPLE_RATE / basic_pitch.HOP
    return Track(windows, columns=2 * PITCHES, seconds=seconds, rate=rate)
