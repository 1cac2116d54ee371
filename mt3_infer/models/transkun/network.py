"""Transkun on a device: windows of a recording in, intervals with their attributes out.

Where the decoding of a window begins depends on the window before it: each track continues after the last event
that ended there. So a result has the intervals of the best sequences from every frame at which decoding may begin,
and the collector follows one of them: see `mt3_infer.models.transkun.notes`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mt3_infer.audio import Waveform
from mt3_infer.audio.segments import Segment
from mt3_infer.audio.spectrogram import mel_matrix_in_hertz
from mt3_infer.inference.devices import find_device, use_all_cpus
from mt3_infer.inference.engine import Engine, Request, SingleStep
from mt3_infer.inference.threads import run_in_fresh_thread
from mt3_infer.models import ModelOptions, TranskunOptions
from mt3_infer.models.linear import optimize_for_inference
from mt3_infer.models.transkun.config import FRAMES, GRID, LAST_FRAME, WINDOW_HOP_FRAMES, TranskunConfig
from mt3_infer.models.transkun.notes import TranskunCollector
from mt3_infer.models.transkun.semi_crf import best_successors, intervals_from_any_start
from mt3_infer.models.transkun.transformer import TranskunNetwork
from mt3_infer.weights.files import read_weights
from mt3_infer.weights.names import Table, Weights
from mt3_infer.weights.transkun import from_published_transkun, transkun_table

STARTS = FRAMES - WINDOW_HOP_FRAMES
"""Frames of a window at which decoding may begin: those that the window before it has too."""


def load(checkpoint: Path, *, device: str = "auto") -> Transkun:
    """Build the network from a weight file, or from the one in a directory.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:1".
    Raises:
        WeightsError: the checkpoint is damaged or holds another network.
        InvalidOptionError: a device that does not exist here.
    """
    return run_in_fresh_thread(_load, checkpoint, device)


def _load(checkpoint: Path, device: str) -> Transkun:
    where = find_device(device)
    return Transkun(build(read_weights(checkpoint)), device=where)


def build(weights: Weights, config: TranskunConfig | None = None) -> TranskunNetwork:
    """Return a network with published weights, not yet prepared for a device."""
    config = config or TranskunConfig()
    with torch.device("meta"):
        network = TranskunNetwork(config).eval()
    ours = from_published_transkun(weights, network, table_of(config), matrix=mel_matrix_in_hertz(config.mel))
    network.load_state_dict(ours, strict=True, assign=True)
    return network


def table_of(config: TranskunConfig) -> Table:
    """Return the names of the network's parameters in its published file."""
    return transkun_table(config.d_model, config.patch)


class Transkun:
    """The network on a device; several threads may transcribe at once."""

    grid = GRID
    in_order = False

    def __init__(self, network: TranskunNetwork, *, device: torch.device) -> None:
        self.device = str(device)
        self._where = device
        use_all_cpus(device)
        optimize_for_inference(network, device=device, compute_dtype=torch.float32)
        self.network = network
        self._positions = self._embed_positions()
        # One window at a time keeps all cores busy, and so its result never depends on what runs beside it.
        self._engine: Engine[Waveform, Waveform] = Engine(SingleStep(self._infer_windows, slots=2), add_at_once=1)

    def infer(
        self, segments: Iterable[Segment], options: ModelOptions, *, previous: Waveform | None = None
    ) -> Generator[Waveform]:
        """See `Network`; a result is the intervals of a window, see `intervals`."""
        return self._engine.generate(Request(segment.waveform) for segment in segments)

    def collect(self, options: ModelOptions) -> TranskunCollector:
        """See `Network`."""
        assert isinstance(options, TranskunOptions)
        return TranskunCollector(extend_to_pedal=options.extend_to_pedal)

    def _infer_windows(self, windows: Sequence[Waveform]) -> list[Waveform]:
        return [self.intervals(window) for window in windows]

    @torch.inference_mode()
    def _embed_positions(self) -> Tensor:
        return self.network.positions()

    @torch.inference_mode()
    def intervals(self, window: Waveform) -> Waveform:
        """Return the intervals of a window that are in a best sequence from one of its first frames on.

        Args:
            window: shape (S,).

        Returns:
            Float32 of shape (N, 8), sorted by the first three: track, begin and end in frames, velocity, the
            offsets of the exact begin and end from the middles of their frames, in frames, and 1 for each of
            the two that lies in the window.
        """
        tokens = self.network(torch.from_numpy(window).to(self._where), self._positions)
        scores = self.network.scores(tokens)
        track, begin, end = intervals_from_any_start(
            best_successors(scores).cpu().numpy(), (scores.singles > 0).cpu().numpy(), STARTS
        )
        del scores
        where = [torch.from_numpy(index).to(self._where) for index in (track, begin, end)]
        velocity, shifts, presence = (value.cpu().numpy() for value in self.network.attributes(tokens, *where))
        inside = np.stack([begin > 0, end < LAST_FRAME], axis=1) | presence
        return np.column_stack([track, begin, end, velocity, shifts, inside]).astype(np.float32)
