"""MT3: multi-instrument transcription, waveform → segments → log-mel → T5 → tokens → notes.

Source: Gardner et al., MT3: Multi-Task Multitrack Music Transcription (ICLR 2022). Weights: Magenta,
Apache-2.0.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mt3_infer.audio import Waveform
from mt3_infer.block_decoding import BlockDecoder
from mt3_infer.cpus import available_cpus
from mt3_infer.decoding import EncoderDecoder, SlotDecoder
from mt3_infer.engine import Engine, Ticket
from mt3_infer.errors import InvalidOptionError
from mt3_infer.models import ModelOptions, MT3Options
from mt3_infer.models.linear import prepare
from mt3_infer.models.state_dicts import from_published_mt3, read_config, read_weights
from mt3_infer.models.t5 import T5, Positions
from mt3_infer.notes import NoteDecoder, sort_notes
from mt3_infer.segments import Segment, SegmentConfig, split_segments
from mt3_infer.spectrogram import LogMel
from mt3_infer.transcribe import NetworkOutput
from mt3_infer.vocabulary import END, MT3_CODEC, Instrument, allowed_token_ids, first_program

MAX_TOKENS = 1024
"""That a segment can have, as published; usual are 40 to 100."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    checkpoint: Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int | None = None,
    positions: Positions = Positions.MAGENTA,
) -> MT3:
    """Build the network from a checkpoint.

    Args:
        checkpoint: a weight file, or a directory with one (and its `config.json`), or a T5X checkpoint
        directory. device: "auto", "cpu", "cuda" or "cuda:1". dtype: "float32", "bfloat16" or "float16";
        "auto" is float32 on a CPU and bfloat16 on a GPU. batch_size: segments decoded at once. positions:
        other than Magenta's for weights that were trained with them.
    Raises:
        WeightsError: the checkpoint is damaged or holds another network.
        InvalidOptionError: a device or type that does not exist here.
    """
    where = _device(device)
    products = _dtype(dtype, where)
    if batch_size is not None and batch_size < 1:
        raise InvalidOptionError(f"batch_size is {batch_size}, but must be at least 1.")
    config = replace(read_config(checkpoint), positions=positions)
    weights = from_published_mt3(read_weights(checkpoint), config)
    network = T5(config).eval()
    network.load_state_dict(weights, strict=True, assign=True)
    return MT3(network, device=where, dtype=products, batch_size=batch_size)


class MT3:
    """The network on a device; several threads may transcribe at once and share its slots."""

    def __init__(
        self,
        network: T5,
        *,
        device: torch.device,
        dtype: torch.dtype,
        batch_size: int | None = None,
    ) -> None:
        self.device = str(device)
        self.segments = SegmentConfig()
        self._where = device
        self._front_end = LogMel(device=device)
        if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(available_cpus())
        # The logits decide between tokens: their product is a fiftieth of the work, and keeps all its digits.
        prepare(network, device=device, dtype=dtype, keep=("decoder.logits",))
        self.network = network
        on_cpu = device.type == "cpu"
        decoder: SlotDecoder[Ticket] = (SlotDecoder if on_cpu else BlockDecoder)(
            network.decoder,
            slots=batch_size or (24 if on_cpu else 64),
            frames=self.segments.frames,
            max_tokens=MAX_TOKENS,
            device=device,
            # On a CPU attention is as fast in float32, and more exact.
            dtype=torch.float32 if on_cpu else dtype,
        )
        self.decoder = decoder
        self.decoder = decoder
        self._engine: Engine[tuple[Segment, Tensor | None], list[int]] = Engine(
            EncoderDecoder(self.encode, decoder), admit_at_once=1 if on_cpu else 16
        )

    def transcribe(
        self, blocks: Iterable[Waveform], options: ModelOptions, progress: Callable[[float], None]
    ) -> NetworkOutput:
        """Turn mono audio at 16 kHz into notes."""
        assert isinstance(options, MT3Options)
        instruments = options.instruments
        decoder = NoteDecoder(program=first_program(instruments))
        unfinished = 0
        before: list[int] | None = None
        index = -1
        with closing(self.tokens(blocks, instruments)) as segments:
            for index, token_ids in enumerate(segments):
                unfinished += END not in token_ids
                # A segment is decoded when it is known where the next one starts.
                if before is not None:
                    decoder.feed(before, start=self._start(index - 1), limit=self._start(index))
                before = token_ids
                progress((index + 1) * self.segments.seconds)
        decoder.feed(before or (), start=self._start(index), limit=None)
        return NetworkOutput(
            notes=sort_notes(decoder.finish()),
            counters={
                "invalid_tokens": decoder.invalid_tokens,
                "dropped_tokens": decoder.dropped_tokens,
                "unfinished_segments": unfinished,
            },
        )

    def tokens(self, blocks: Iterable[Waveform], instruments: Sequence[Instrument] = ()) -> Generator[list[int]]:
        """Token ids of each segment of a recording, see `Engine.generate`."""
        penalty = self._penalty(instruments) if instruments else None
        return self._engine.generate((segment, penalty) for segment in split_segments(blocks, self.segments))

    @torch.inference_mode()
    def encode(self, segments: Sequence[Segment]) -> Tensor:
        """What the decoder looks at, shape (B, T, D)."""
        encoded: Tensor = self.network.encoder(self.features(segments))
        return encoded

    def features(self, segments: Sequence[Segment]) -> Tensor:
        """Log-mel spectrograms, shape (B, T, F)."""
        waveforms = torch.stack([torch.from_numpy(segment.waveform) for segment in segments])
        features = self._front_end(waveforms.to(self._where))
        for row, segment in zip(features, segments, strict=True):
            row[segment.frames :] = 0.0  # as in training: neither silence nor masked
        return features

    def _penalty(self, instruments: Sequence[Instrument]) -> Tensor:
        penalty = torch.full((self.network.config.vocabulary_size,), -torch.inf)
        penalty[allowed_token_ids(MT3_CODEC, instruments)] = 0.0
        return penalty

    def _start(self, index: int) -> int:
        return self.segments.start_step(index)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidOptionError(f"There is no device {name!r}: say 'auto', 'cpu', 'cuda' or 'cuda:1'.") from error
    if device.type not in ("cpu", "cuda"):
        raise InvalidOptionError(f"mt3_pytorch runs on 'cpu' or 'cuda', not on {name!r}.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InvalidOptionError(f"This machine has no device {name!r}.")
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if name not in DTYPES or (name == "float16" and device.type == "cpu"):
        known = ", ".join(DTYPES if device.type == "cuda" else ["float32", "bfloat16"])
        raise InvalidOptionError(f"There is no dtype {name!r} on {device.type}; there is: auto, {known}.")
    return DTYPES[name]
