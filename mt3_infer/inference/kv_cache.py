"""The keys and values that a decoder attends to: of the segments, and of the tokens so far, for every slot.

Shape letters: S slots · T frames · H heads · L tokens · K width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mt3_infer.models.t5 import T5Config

FIRST_LENGTH = 32
"""Tokens that there is room for at first; the cache grows by as many when a sequence needs more.

All of it is read at each step, and what is too much is masked: on a CPU the products over a part of a cache take
twice as long for each token as over the whole.
"""


@dataclass(frozen=True)
class Limits:
    """Where sequences end.

    Attributes:
        slots: sequences at once.
        frames: that every encoded segment has.
        max_tokens: after which a sequence ends by itself.
        first_end: first position at which an end token ends a sequence; earlier ones are tokens like others.
    """

    slots: int
    frames: int
    max_tokens: int
    first_end: int = 0


class KVCache:
    """One tensor a layer for segments and one for tokens."""

    def __init__(
        self,
        config: T5Config,
        limits: Limits,
        *,
        device: torch.device,
        dtype: torch.dtype,
        whole: bool = False,
    ) -> None:
        """Allocate.

        Args:
            dtype: of the keys and values.
            whole: make room for the longest sequence at once, for those that need everything to stay in place.
        """
        assert limits.max_tokens <= config.max_length, "There are no positions for that many tokens."
        self.dtype = dtype
        self._config = config
        self._limits = limits
        self._device = device
        self._segments = self._allocate(limits.frames)
        self._tokens = self._allocate(limits.max_tokens if whole else min(FIRST_LENGTH, limits.max_tokens))

    @property
    def length(self) -> int:
        """Tokens that there is room for now."""
        return self._tokens[0].shape[3]

    def rows(self, count: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return each layer's tokens and segments of the first slots: shapes (2, S, H, L or T, K)."""
        return [layer[:, :count] for layer in self._tokens], [layer[:, :count] for layer in self._segments]

    def put(self, slot: int, keys_values: Tensor) -> None:
        """Store the segment of a slot, keys and values of shape (layers, 2, H, T, K)."""
        for kept, fresh in zip(self._segments, keys_values, strict=True):
            kept[:, slot] = fresh

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a slot's segment and its first `length` tokens to another one."""
        for segment, tokens in zip(self._segments, self._tokens, strict=True):
            segment[:, target] = segment[:, source]
            tokens[:, target, :, :length] = tokens[:, source, :, :length]

    def fit(self, span: int) -> None:
        """Make room for sequences of `span` tokens, or give back room when most of it is unused.

        Layer by layer, or it would be held twice.
        """
        wanted = min(-(-span // FIRST_LENGTH) * FIRST_LENGTH, self._limits.max_tokens)
        if self.length < wanted or 2 * wanted < self.length:
            common = min(wanted, self.length)
            for number, layer in enumerate(self._tokens):
                fitted = self._layer(wanted)
                fitted[:, :, :, :common] = layer[:, :, :, :common]
                self._tokens[number] = fitted

    def clear(self) -> None:
        """Free the memory that only long sequences needed; the contents become invalid."""
        if self.length > FIRST_LENGTH:
            self._tokens = self._allocate(FIRST_LENGTH)

    def _allocate(self, length: int) -> list[Tensor]:
        return [self._layer(length) for _ in range(self._config.num_decoder_layers)]

    def _layer(self, length: int) -> Tensor:
        shape = (2, self._limits.slots, self._config.num_heads, length, self._config.d_kv)
        return torch.zeros(shape, dtype=self.dtype, device=self._device)
