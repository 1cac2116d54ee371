"""MR-MT3: MT3 that remembers the tokens of the segment before.

    tokens of segment k - 1 → embedding → one encoder layer → its first rows ─┐
    spectrogram of segment k → encoder → frames ──────────────────────────────┴→ decoder → tokens of segment k

So inference goes through the segments of a recording in order, one at a time; several recordings fill the slots.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mt3_infer.audio.segments import Segment
from mt3_infer.inference.engine import Request
from mt3_infer.inference.threads import run_in_fresh_thread
from mt3_infer.models import ModelOptions
from mt3_infer.models.linear import Linear
from mt3_infer.models.mt3 import config as known
from mt3_infer.models.mt3.config import TrainingSetup
from mt3_infer.models.mt3.network import MT3
from mt3_infer.models.t5 import T5, EncoderLayer, RMSNorm, T5Config, sinusoids
from mt3_infer.symbolic.vocabulary import PAD
from mt3_infer.weights.mt3 import from_published_mt3
from mt3_infer.weights.names import Weights

AHEAD = 16
"""Segments of a recording that a GPU encodes at once, ahead of those that are being decoded."""


def load(checkpoint: Path, **options: Any) -> MRMT3:
    """Build the network from a checkpoint; see `MT3.load`."""
    return run_in_fresh_thread(MRMT3.load, checkpoint, **options)


class Memory(nn.Module):
    """Token ids of the segment before → rows for the decoder to look at.

    In the published network all `max_length` ids go through the layer, most of them padding. Only the first rows
    are used, so that only those are computed in full; and the keys and values of padding, which depend on nothing
    but its position, are computed once.
    """

    def __init__(self, config: T5Config, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.config = config
        self.projection = Linear(config.d_model, config.d_model)
        self.layer = EncoderLayer(config)
        self.norm = RMSNorm(config)
        self.positions: Tensor
        self.register_buffer("positions", sinusoids(config), persistent=False)

    def padding(self, embedding: Tensor) -> Tensor:
        """Return keys and values of padding alone, shape (2, 1, H, max_length, K); its embedding has shape (D)."""
        everywhere = embedding.expand(1, self.config.max_length, -1)
        return self._heads(self._placed(everywhere))[1:]

    def forward(self, embedded: Tensor, padding: Tensor) -> Tensor:
        """Args:
            embedded: the first of the ids, padding from somewhere on, at least `rows` of them; shape (B, n, D).
            padding: keys and values of padding, which stands for all others.
        Returns:
            Shape (B, rows, D), float32.
        """
        batch, length, _ = embedded.shape
        x = self._placed(embedded)
        query, key, value = self._heads(x)  # each (B, H, n, K)
        rest = padding[:, :, :, length:].expand(-1, batch, -1, -1, -1)
        key, value = torch.cat([key, rest[0]], 2), torch.cat([value, rest[1]], 2)  # (B, H, max_length, K)
        seen = functional.scaled_dot_product_attention(query[:, :, : self.rows], key, value, scale=1.0)
        seen = seen.transpose(1, 2).reshape(batch, self.rows, self.config.d_inner)
        x = self.layer.feed_forward(self.layer.out.plus(seen, x[:, : self.rows].contiguous()))
        normed: Tensor = self.norm(x, torch.float32)
        return normed

    def _placed(self, embedded: Tensor) -> Tensor:
        placed: Tensor = self.positions[: embedded.shape[1]] + self.projection(embedded.to(self.projection.dtype))
        return placed

    def _heads(self, x: Tensor) -> Tensor:
        """Return queries, keys and values, shape (3, B, H, n, K)."""
        config, layer = self.config, self.layer
        projected: Tensor = layer.query_key_value(layer.norm(x, layer.query_key_value.dtype))
        return projected.view(*x.shape[:2], 3, config.num_heads, config.d_kv).permute(2, 0, 3, 1, 4)


class RememberingT5(T5):
    """A T5 with a memory."""

    def __init__(self, config: T5Config, rows: int) -> None:
        super().__init__(config)
        self.memory = Memory(config, rows)


@dataclass(eq=False)
class Passage:
    """Segments of one recording that are encoded together, when the first of them is needed."""

    segments: Sequence[Segment]
    encoded: Tensor | None = None  # (B, T, D)


@dataclass(frozen=True, eq=False)
class Placed:
    """A segment by its place in a passage."""

    passage: Passage
    place: int

    @property
    def segment(self) -> Segment:
        """The segment itself."""
        return self.passage.segments[self.place]


class MRMT3(MT3):
    """The network on a device. Without rows of memory, as one published checkpoint has it, it is MT3."""

    usual = known.MR_MT3
    network: RememberingT5

    @staticmethod
    def build(weights: Weights, config: T5Config, setup: TrainingSetup) -> RememberingT5:
        """See `MT3.build`."""
        network = RememberingT5(config, setup.memory_rows).eval()
        ours = from_published_mt3(weights, network, config.num_decoder_layers, memory=True)
        network.load_state_dict(ours, strict=True, assign=True)
        return network

    @torch.inference_mode()
    def __init__(self, network: RememberingT5, setup: TrainingSetup, **placement: Any) -> None:
        super().__init__(network, setup, **placement)
        self.in_order = setup.memory_rows > 0
        self._ahead = 1 if self._where.type == "cpu" else AHEAD
        self._padding = network.memory.padding(network.decoder.embedding.weight[PAD])

    def infer(
        self, segments: Iterable[Segment], options: ModelOptions, *, previous: list[int] | None = None
    ) -> Generator[list[int]]:
        """See `Network`; a result is the token ids of a segment."""
        if not self.in_order:
            return super().infer(segments, options)
        bias = self._logit_bias(options)
        requests = (Request(placed, bias, previous) for placed in self._placed(segments))
        return self._engine.generate(requests, in_order=True)

    def _placed(self, segments: Iterable[Segment]) -> Iterator[Placed]:
        source = iter(segments)
        while some := list(islice(source, self._ahead)):
            passage = Passage(some)
            yield from (Placed(passage, place) for place in range(len(some)))

    @torch.inference_mode()
    def _encode_requests(self, requests: Sequence[Request[Any, list[int]]]) -> Tensor:
        """Return what the decoder looks at: frames, then rows of the memory, shape (B, T + rows, D)."""
        if not self.in_order:
            return super()._encode_requests(requests)
        frames = []
        for request in requests:
            placed: Placed = request.segment
            assert request.previous is not None or placed.segment.index == 0, (
                "Later segments need the tokens before."
            )
            if placed.passage.encoded is None:
                placed.passage.encoded = self.encode(placed.passage.segments)
            frames.append(placed.passage.encoded[placed.place])
        memory = self.remember([request.previous for request in requests])
        return torch.cat([torch.stack(frames), memory], dim=1)

    @torch.inference_mode()
    def remember(self, previous: Sequence[list[int] | None]) -> Tensor:
        """Return rows of the memory, shape (B, rows, D).

        Args:
            previous: token ids of the segments before, None where there is none. As published, the start token
                stands before them, and the last one is lost where there are as many as can be.
        """
        start, longest = self.setup.memory_start.token_ids, self.network.config.max_length
        rows = [start if ids is None else [PAD, *ids][:longest] for ids in previous]
        length = max(self.network.memory.rows, *map(len, rows))
        length = min(-(-length // 16) * 16, longest)  # in steps: every length costs a CPU some preparation
        token_ids = torch.tensor([ids + [PAD] * (length - len(ids)) for ids in rows], device=self._where)
        memory: Tensor = self.network.memory(self.network.decoder.embedding(token_ids), self._padding)
        return memory
