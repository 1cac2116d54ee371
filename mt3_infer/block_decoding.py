"""Generation for devices that the host should not wait for: several steps at a time, captured as CUDA graphs.

What `SlotDecoder` keeps in Python lies on the device here: tokens, positions, and which sequences have ended. A
block of steps runs without the host looking at any token; after it the host fetches what ended, once. On CUDA a
block is one launch: a graph, captured for each pair of slots and cache length in use, both rounded up. Sequences
that end within a block are fed padding until it is over.

The tokens are those of `SlotDecoder`; blocks run without graphs on any other device, which is how they are tested.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from mt3_infer.decoding import SlotDecoder, SlotSequence
from mt3_infer.models.t5 import Decoder
from mt3_infer.vocabulary import END, PAD

Ticket = TypeVar("Ticket")

STEPS = 16
"""In a block. Segments say 40 to 100 tokens: the last block of each is wasted by half, a tenth of all steps."""

SPAN_STEP = 128
"""Cache lengths are multiples of this, so that there are few graphs."""


class BlockDecoder(SlotDecoder[Ticket]):
    """A `SlotDecoder` whose `step` is a block of steps."""

    def __init__(
        self,
        decoder: Decoder,
        *,
        slots: int,
        frames: int,
        max_tokens: int,
        device: torch.device,
        dtype: torch.dtype,
        first_end: int = 0,
    ) -> None:
        """See `SlotDecoder`. The cache has its full length from the start: graphs need it to stay in place."""
        super().__init__(
            decoder,
            slots=slots,
            frames=frames,
            max_tokens=max_tokens,
            device=device,
            dtype=dtype,
            first_end=first_end,
        )
        self._tokens = self._rooms_for(max_tokens)
        self._newest = torch.full((slots,), PAD, device=device)
        self._positions = torch.zeros(slots, dtype=torch.long, device=device)
        self._ended = torch.ones(slots, dtype=torch.bool, device=device)
        # One column more than tokens: what ended sequences write goes there.
        self._said = torch.zeros(slots, max_tokens + 1, dtype=torch.long, device=device)
        self._penalties = torch.zeros(slots, decoder.config.vocabulary_size, device=device)
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._graphs: dict[tuple[int, int], Callable[[], None]] = {}

    def _take_slot(self, sequence: SlotSequence[Ticket]) -> int:
        slot = super()._take_slot(sequence)
        self._newest[slot] = PAD
        self._positions[slot] = 0
        self._ended[slot] = False
        return slot

    def _penalise(self, slot: int, penalty: Tensor | None) -> None:
        self._penalties[slot] = 0 if penalty is None else penalty

    @torch.inference_mode()
    def step(self) -> list[tuple[Ticket, list[int]]]:
        """Add up to `STEPS` tokens to every sequence; see `SlotDecoder.step`."""
        self._compact()
        if not self._sequences:
            return []
        self._ended[len(self._sequences) :] = True  # those that were dropped, too
        longest = max(len(sequence.token_ids) for sequence in self._sequences if sequence is not None)
        span = min(-(-(longest + STEPS) // SPAN_STEP) * SPAN_STEP, self._max_tokens)
        self._block(self._rounded(len(self._sequences)), span)()
        return self._fetch()

    def _fetch(self) -> list[tuple[Ticket, list[int]]]:
        """The one place where the host waits: what was said since the last time, and what has ended."""
        count = len(self._sequences)
        lengths, ended = torch.stack([self._positions[:count], self._ended[:count].long()]).tolist()
        said = self._said[:count, : max(lengths)].tolist()
        results = []
        for slot, sequence in enumerate(self._sequences):
            assert sequence is not None
            sequence.token_ids[:] = said[slot][: lengths[slot]]
            if ended[slot]:
                results.append((sequence.ticket, sequence.token_ids))
                self._sequences[slot] = None
        return results

    def _advance(self, count: int, span: int) -> None:
        """One step of the first `count` slots, on the device alone."""
        newest, positions, ended = self._newest[:count], self._positions[:count], self._ended[:count]
        # Ended sequences may stand one past the last position: they are computed, and their result thrown away.
        logits = self._decoder(
            newest,
            positions.clamp(max=span - 1),
            [layer[:, :count] for layer in self._tokens],
            [layer[:, :count] for layer in self._segments],
            span,
        )  # (S, V)
        chosen = (logits + self._penalties[:count]).argmax(dim=1).masked_fill_(ended, PAD)
        places = positions.masked_fill(ended, self._max_tokens)
        self._said[:count].scatter_(1, places[:, None], chosen[:, None])
        newest.copy_(chosen)
        positions.add_((~ended).long())
        said_end = (chosen == END).logical_and_(positions > self._first_end)
        ended.logical_or_(said_end).logical_or_(positions >= self._max_tokens)

    def _block(self, count: int, span: int) -> Callable[[], None]:
        """A block of steps, ready to run."""

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
        state = (self._newest, self._positions, self._ended, self._said)
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

    def _rounded(self, count: int) -> int:
        """Slots to run: the next power of two, but no more than there are."""
        return min(1 << (count - 1).bit_length(), self.slots)

    def _rest(self) -> None:
        """Graphs need everything to stay in place."""

    def _moved(self, source: int, target: int, length: int) -> None:
        super()._moved(source, target, length)
        for tensor in (self._newest, self._positions, self._ended, self._said, self._penalties):
            tensor[target] = tensor[source]
        self._ended[source] = True
