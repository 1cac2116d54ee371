"""Generation for devices that the host should not wait for: several steps at a time, captured as CUDA graphs.

What `HostStepper` keeps in Python lies on the device here: tokens, positions, and which sequences have ended. A
block of steps runs without the host looking at any token; after it the host fetches what ended, once. On CUDA a
block is one launch: a graph, captured for each pair of slots and cache length in use, both rounded up. Sequences
that end within a block are fed padding until it is over.

The tokens are those of `HostStepper`; blocks run without graphs on any other device, which is how they are tested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mt3_infer.inference.kv_cache import KVCache, Limits
from mt3_infer.symbolic.vocabulary import END, PAD

if TYPE_CHECKING:
    from mt3_infer.models.t5 import Decoder

STEPS = 16
"""In a block. Segments have 40 to 100 tokens: the last block of each is wasted by half, a tenth of all steps."""

SPAN_STEP = 128
"""Cache lengths are multiples of this, so that there are few graphs."""


class BlockStepper:
    """A block of steps at a time, for any sequence up to `STEPS` tokens; see `Stepper` for its methods."""

    def __init__(self, decoder: Decoder, limits: Limits, *, device: torch.device, dtype: torch.dtype) -> None:
        slots = limits.slots
        # Whole from the start: graphs need it to stay in place.
        self.cache = KVCache(decoder.config, limits, device=device, dtype=dtype, whole=True)
        self._decoder = decoder
        self._limits = limits
        self._device = device
        self._newest = torch.full((slots,), PAD, device=device)
        self._positions = torch.zeros(slots, dtype=torch.long, device=device)
        self._ended = torch.ones(slots, dtype=torch.bool, device=device)
        # One column more than tokens: what ended sequences write goes there.
        self._token_ids = torch.zeros(slots, limits.max_tokens + 1, dtype=torch.long, device=device)
        self._logit_bias = torch.zeros(slots, decoder.config.vocabulary_size, device=device)
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._graphs: dict[tuple[int, int], Callable[[], None]] = {}

    def start(self, slot: int, logit_bias: Tensor | None) -> None:
        """See `Stepper`."""
        self._newest[slot] = PAD
        self._positions[slot] = 0
        self._ended[slot] = False
        self._logit_bias[slot] = 0 if logit_bias is None else logit_bias

    def move(self, source: int, target: int, length: int) -> None:
        """See `Stepper`."""
        self.cache.move(source, target, length)
        for tensor in (self._newest, self._positions, self._ended, self._token_ids, self._logit_bias):
            tensor[target] = tensor[source]
        self._ended[source] = True

    def step(self, sequences: Sequence[list[int]]) -> list[bool]:
        """See `Stepper`."""
        count = len(sequences)
        self._ended[count:] = True  # those that were given up, too
        longest = max(map(len, sequences))
        span = min(-(-(longest + STEPS) // SPAN_STEP) * SPAN_STEP, self._limits.max_tokens)
        rounded = min(1 << (count - 1).bit_length(), self._limits.slots)  # the next power of two
        self._block(rounded, span)()

        # The one place where the host waits: for the tokens, and for what has ended.
        lengths, ended = torch.stack([self._positions[:count], self._ended[:count].long()]).tolist()
        fetched = self._token_ids[:count, : max(lengths)].tolist()
        for token_ids, row, length in zip(sequences, fetched, lengths, strict=True):
            token_ids[:] = row[:length]
        return [bool(flag) for flag in ended]

    def clear(self) -> None:
        """Keep everything: graphs need it to stay in place."""

    def _advance(self, count: int, span: int) -> None:
        """Take one step of the first `count` slots, on the device alone."""
        newest, positions, ended = self._newest[:count], self._positions[:count], self._ended[:count]
        # Ended sequences may stand one past the last position: they are computed, and their result thrown away.
        logits = self._decoder(newest, positions.clamp(max=span - 1), *self.cache.rows(count), span)  # (S, V)
        chosen = (logits + self._logit_bias[:count]).argmax(dim=1).masked_fill_(ended, PAD)
        places = positions.masked_fill(ended, self._limits.max_tokens)
        self._token_ids[:count].scatter_(1, places[:, None], chosen[:, None])
        newest.copy_(chosen)
        positions.add_((~ended).long())
        has_end = (chosen == END).logical_and_(positions > self._limits.first_end)
        ended.logical_or_(has_end).logical_or_(positions >= self._limits.max_tokens)

    def _block(self, count: int, span: int) -> Callable[[], None]:
        """Return a block of steps, ready to run."""

        def run() -> None:
            for _ in range(STEPS):
                self._advance(count, span)

        if self._device.type != "cuda":
            return run
        if (count, span) not in self._graphs:
            self._graphs[count, span] = self._capture(run)
        return self._graphs[count, span]

    def _capture(self, run: Callable[[], None]) -> Callable[[], None]:
        """Record a block as a CUDA graph; the state it works on is as before."""
        state = (self._newest, self._positions, self._ended, self._token_ids)
        saved = [tensor.clone() for tensor in state]
        # What warming up writes to the cache lies at and behind each sequence's position: it is written anew.
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            run()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            run()
        for tensor, before in zip(state, saved, strict=True):
            tensor.copy_(before)
        return graph.replay
