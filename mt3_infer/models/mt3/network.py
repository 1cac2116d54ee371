"""MT3 on a device: segments in, token ids out."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from mt3_infer.audio import Waveform
from mt3_infer.audio.segments import Segment, split_segments
from mt3_infer.audio.spectrogram import LogMel
from mt3_infer.inference.decoding import EncoderDecoder, SlotDecoder, make_decoder
from mt3_infer.inference.devices import check_batch_size, find_device, find_dtype, use_all_cpus
from mt3_infer.inference.engine import Engine, Request, RequestId
from mt3_infer.inference.kv_cache import Limits
from mt3_infer.inference.threads import run_in_fresh_thread
from mt3_infer.models import ModelOptions, MT3Options
from mt3_infer.models.linear import optimize_for_inference
from mt3_infer.models.mt3 import config as known
from mt3_infer.models.mt3.config import (
    FRAMES,
    GRID,
    HOP_LENGTH,
    MAX_TOKENS,
    TrainingSetup,
    read_config,
    training_setup_of,
)
from mt3_infer.models.mt3.notes import MT3Collector
from mt3_infer.models.t5 import T5, T5Config
from mt3_infer.symbolic.vocabulary import MT3_CODEC, allowed_token_ids
from mt3_infer.weights.files import find_weights, read_weights
from mt3_infer.weights.mt3 import from_published_mt3
from mt3_infer.weights.names import Weights


def load(checkpoint: Path, **options: Any) -> MT3:
    """Build the network from a checkpoint; see `MT3.load`."""
    return run_in_fresh_thread(MT3.load, checkpoint, **options)


class MT3:
    """The network on a device; several threads may transcribe at once and share its slots."""

    grid = GRID
    in_order = False
    usual = known.MT3

    @classmethod
    def load(
        cls,
        checkpoint: Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int | None = None,
        **setup: Any,
    ) -> Self:
        """Build the network from a checkpoint.

        Args:
            checkpoint: a weight file, or a directory with one (and its `config.json`), or a T5X checkpoint, as a
                directory or an archive.
            device: "auto", "cpu", "cuda" or "cuda:1".
            dtype: "float32", "bfloat16" or "float16"; "auto" is float32 on a CPU and bfloat16 on a GPU.
            batch_size: segments decoded at once.
            setup: what the weights were trained with, by attribute of `TrainingSetup`, where its table is
                not right.
        Raises:
            WeightsError: the checkpoint is damaged or holds another network.
            InvalidOptionError: a device, a type or a setup that does not exist here.
        """
        where = find_device(device)
        compute_dtype = find_dtype(dtype, where)
        check_batch_size(batch_size)
        trained = training_setup_of(find_weights(checkpoint).stem, cls.usual, setup)
        config = replace(read_config(checkpoint), positions=trained.positions)
        network = cls.build(read_weights(checkpoint), config, trained)
        return cls(network, trained, device=where, compute_dtype=compute_dtype, batch_size=batch_size)

    @staticmethod
    def build(weights: Weights, config: T5Config, setup: TrainingSetup) -> T5:
        """Return the network with published weights, not yet optimized for a device."""
        network = T5(config).eval()
        ours = from_published_mt3(weights, network, config.num_decoder_layers)
        network.load_state_dict(ours, strict=True, assign=True)
        return network

    def __init__(
        self,
        network: T5,
        setup: TrainingSetup = known.MT3,
        *,
        device: torch.device,
        compute_dtype: torch.dtype,
        batch_size: int | None = None,
    ) -> None:
        self.setup = setup
        self.device = str(device)
        self._where = device
        self._front_end = LogMel(setup.spectrogram, device=device)
        use_all_cpus(device)
        # The logits decide between tokens: their matmul is a fiftieth of the work, and keeps all its digits.
        optimize_for_inference(network, device=device, compute_dtype=compute_dtype, keep=("decoder.logits",))
        self.network = network
        on_cpu = device.type == "cpu"
        limits = Limits(
            slots=batch_size or (32 if on_cpu else 64),
            frames=setup.spectrogram.frames(GRID.length) + setup.memory_rows,
            max_tokens=min(MAX_TOKENS, network.config.max_length),
        )
        # On a CPU attention is as fast in float32, and more exact.
        cache_dtype = torch.float32 if on_cpu else compute_dtype
        self.decoder: SlotDecoder[RequestId] = make_decoder(
            network.decoder, limits, device=device, dtype=cache_dtype
        )
        self.batch_size = limits.slots
        self._engine: Engine[Any, list[int]] = Engine(
            EncoderDecoder(self._encode_requests, self.decoder), add_at_once=1 if on_cpu else 16
        )

    def infer(
        self, segments: Iterable[Segment], options: ModelOptions, *, previous: list[int] | None = None
    ) -> Generator[list[int]]:
        """See `Network`; a result is the token ids of a segment."""
        bias = self._logit_bias(options)
        return self._engine.generate(Request(segment, bias) for segment in segments)

    def collect(self, options: ModelOptions) -> MT3Collector:
        """See `Network`."""
        assert isinstance(options, MT3Options)
        return MT3Collector(options)

    def tokens(self, blocks: Iterable[Waveform], options: MT3Options | None = None) -> Generator[list[int]]:
        """Yield the token ids of each segment of a whole recording, mono at 16 kHz."""
        return self.infer(split_segments(blocks, GRID), options or MT3Options())

    def _encode_requests(self, requests: Sequence[Request[Any, list[int]]]) -> Tensor:
        return self.encode([request.segment for request in requests])

    @torch.inference_mode()
    def encode(self, segments: Sequence[Segment]) -> Tensor:
        """Return what the decoder looks at, shape (B, T, D)."""
        encoded: Tensor = self.network.encoder(self.features(segments))
        return encoded

    def features(self, segments: Sequence[Segment]) -> Tensor:
        """Return log-mel spectrograms, shape (B, T, F)."""
        waveforms = torch.stack([torch.from_numpy(segment.waveform) for segment in segments])
        features = self._front_end(waveforms.to(self._where))
        for row, segment in zip(features, segments, strict=True):
            row[real_frames(segment) :] = 0.0  # as in training: neither silence nor masked
        return features

    def _logit_bias(self, options: ModelOptions) -> Tensor | None:
        assert isinstance(options, MT3Options)
        if options.selection is None:
            return None
        bias = torch.full((self.network.config.vocabulary_size,), -torch.inf)
        bias[allowed_token_ids(MT3_CODEC, options.selection)] = 0.0
        return bias


def real_frames(segment: Segment) -> int:
    """Return how many frames of a segment belong to the recording: floor(N / hop) + 1 for N samples, or all."""
    return min(segment.samples // HOP_LENGTH + 1, FRAMES)
