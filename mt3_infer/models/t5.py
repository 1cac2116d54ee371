"""T5 with continuous inputs: spectrogram frames in, logits over token ids out.

T5 version 1.1 (RMS norm before each block, gated GELU, no biases, untied embeddings) with fixed sinusoids in
place of relative attention biases. Attention scores are not scaled. The residual stream, norms, softmax and
logits are float32 whatever the weights' type.

Shape letters: B segments · S slots · T frames · F bins · D width · H heads · K width of a head · V
vocabulary.

Source: Raffel et al., T5 (JMLR 2020); Shazeer, GLU Variants Improve Transformer (2020); Gardner et al., MT3
(ICLR 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor, nn
from torch.nn import functional

from mt3_infer.models.linear import Linear


class Positions(StrEnum):
    """Which frequencies the sinusoids have: the exponent of 10000 runs over i / (h - 1) or i / h.

    Networks work with the one that they were trained with. `MAGENTA` belongs to the published MT3 weights,
    whatever a buffer in the file holds; `MT3_PYTORCH` to networks trained with that port.
    """

    MAGENTA = "magenta"
    MT3_PYTORCH = "mt3_pytorch"


@dataclass(frozen=True)
class T5Config:
    """The network's sizes; the defaults are those of MT3, 45,896,704 parameters."""

    n_features: int | None = 512  # None: as wide as the network, and taken as they are
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 1024
    num_heads: int = 6
    num_encoder_layers: int = 8
    num_decoder_layers: int = 8
    vocabulary_size: int = 1536
    epsilon: float = 1e-6
    max_length: int = 1024  # frames or tokens, whichever are more
    positions: Positions = Positions.MAGENTA

    @property
    def d_inner(self) -> int:
        """Width of all heads together: 6 × 64 = 384, which is not the width of the network."""
        return self.num_heads * self.d_kv


def sinusoids(config: T5Config) -> Tensor:
    """Return position vectors, float32, shape (max_length, D): sines in the first half, cosines in the second."""
    half = config.d_model // 2
    steps = half - 1 if config.positions is Positions.MAGENTA else half
    frequencies = 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / steps)
    angles = torch.arange(config.max_length, dtype=torch.float64)[:, None] * frequencies  # (max_length, D / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=1).to(torch.float32)


class RMSNorm(nn.Module):
    """Scale to a root mean square of 1, then by a learned gain. Returns the type that the next matmul takes."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.d_model))
        self.epsilon = config.epsilon

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Args: x of shape (…, D), float32."""
        return functional.rms_norm(x, self.weight.shape, self.weight, self.epsilon).to(dtype)


class FeedForward(nn.Module):
    """Two products side by side, one through a GELU and multiplied onto the other, and one back."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.norm = RMSNorm(config)
        self.gate = Linear(config.d_model, config.d_ff)
        self.up = Linear(config.d_model, config.d_ff)
        self.down = Linear(config.d_ff, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Args: x of shape (…, D)."""
        normed = self.norm(x, self.gate.dtype)
        return self.down.plus(self.up.times(normed, self.gate.gelu(normed)), x)


class EncoderLayer(nn.Module):
    """Every frame looks at every frame of its segment; nothing is masked, not even padding."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.norm = RMSNorm(config)
        self.query_key_value = Linear(config.d_model, 3 * config.d_inner)
        self.out = Linear(config.d_inner, config.d_model)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor) -> Tensor:
        """Args: x of shape (B, T, D)."""
        config, (batch, length, _) = self.config, x.shape
        projected = self.query_key_value(self.norm(x, self.query_key_value.dtype))
        heads = projected.view(batch, length, 3, config.num_heads, config.d_kv)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (B, H, T, K)
        seen = functional.scaled_dot_product_attention(query, key, value, scale=1.0)
        seen = seen.transpose(1, 2).reshape(batch, length, config.d_inner)
        attended: Tensor = self.out.plus(seen, x)
        fed: Tensor = self.feed_forward(attended)
        return fed


class Encoder(nn.Module):
    """Spectrogram frames → what the decoder looks at."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.projection = None if config.n_features is None else Linear(config.n_features, config.d_model)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_encoder_layers))
        self.norm = RMSNorm(config)
        self.positions: Tensor
        self.register_buffer("positions", sinusoids(config), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Args: features of shape (B, T, F). Returns: shape (B, T, D), float32."""
        if self.projection is not None:
            features = self.projection(features.to(self.projection.dtype))
        x = self.positions[: features.shape[1]] + features
        for layer in self.layers:
            x = layer(x)
        normed: Tensor = self.norm(x, torch.float32)
        return normed


class DecoderLayer(nn.Module):
    """A token looks at the tokens before it, then at the segment. Keys and values are kept in the caches."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.norm = RMSNorm(config)
        self.query_key_value = Linear(config.d_model, 3 * config.d_inner)
        self.out = Linear(config.d_inner, config.d_model)
        self.cross_norm = RMSNorm(config)
        self.cross_query = Linear(config.d_model, config.d_inner)
        self.cross_out = Linear(config.d_inner, config.d_model)
        self.feed_forward = FeedForward(config)

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor, tokens: Tensor, segment: Tensor, rows: Tensor
    ) -> Tensor:
        """Take one step of every slot.

        Args:
            x: shape (S, D).
            positions: where each slot's token stands in its sequence, shape (S,).
            mask: 0 for tokens to look at and -inf for others, shape (S, 1, L).
            tokens: keys and values of the tokens, shape (2, S, H, at least L, K); this token's are added.
            segment: keys and values of the segment, shape (2, S, H, T, K).
            rows: 0, 1, …, S - 1.
        """
        config, span = self.config, mask.shape[-1]
        projected = self.query_key_value(self.norm(x, self.query_key_value.dtype))
        heads = projected.view(-1, 3, config.num_heads, config.d_kv)  # (S, 3, H, K)
        tokens[:, rows, :, positions] = heads[:, 1:].to(tokens.dtype)
        key, value = tokens[:, :, :, :span].unbind()
        x = self.out.plus(attend(heads[:, 0], key, value, mask), x)
        query = self.cross_query(self.cross_norm(x, self.cross_query.dtype))
        key, value = segment.unbind()
        x = self.cross_out.plus(attend(query.view(-1, config.num_heads, config.d_kv), key, value), x)
        fed: Tensor = self.feed_forward(x)
        return fed


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend with one query per head.

    Two plain products, not the fused attention: for a single query that is 1.2 to 1.5 times as fast on a CPU.
    There, in float32, keys times query reads a cache at up to twice the speed of query times keys; in bfloat16
    it is the other way round.

    Args:
        query: shape (S, H, K).
        key, value: shape (S, H, L, K).
        mask: shape (S, 1, L), added to the scores.
    Returns:
        Shape (S, H × K).
    """
    slots, heads, width = query.shape
    rows = query.reshape(slots * heads, 1, width).to(key.dtype)
    keys = key.flatten(0, 1)
    if key.device.type == "cpu" and key.dtype == torch.float32:
        scores = torch.bmm(keys, rows.transpose(1, 2)).transpose(1, 2)  # (S × H, 1, L)
    else:
        scores = torch.bmm(rows, keys.transpose(1, 2)).float()
    if mask is not None:
        scores.view(slots, heads, -1).add_(mask)
    seen = torch.bmm(scores.softmax(dim=-1).to(value.dtype), value.flatten(0, 1))  # (S × H, 1, K)
    return seen.view(slots, heads * width).to(query.dtype)


class Decoder(nn.Module):
    """Token by token, given the tokens so far → logits of the next one."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary_size, config.d_model)
        self.cross_key_value = Linear(config.d_model, config.num_decoder_layers * 2 * config.d_inner)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_decoder_layers))
        self.norm = RMSNorm(config)
        self.logits = Linear(config.d_model, config.vocabulary_size)
        self.positions: Tensor
        self.register_buffer("positions", sinusoids(config), persistent=False)

    def segment_keys_values(self, encoded: Tensor) -> Tensor:
        """Return keys and values of encoded segments, for every layer at once.

        Args:
            encoded: shape (B, T, D).
        Returns:
            Shape (layers, 2, B, H, T, K), not contiguous.
        """
        config, (batch, length, _) = self.config, encoded.shape
        projected = self.cross_key_value(encoded.to(self.cross_key_value.dtype))
        shape = (batch, length, config.num_decoder_layers, 2, config.num_heads, config.d_kv)
        keys_values: Tensor = projected.view(shape).permute(2, 3, 0, 4, 1, 5)
        return keys_values

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor,
        tokens: Sequence[Tensor],
        segment: Sequence[Tensor],
        span: int,
    ) -> Tensor:
        """Take one step of every slot.

        Args:
            token_ids: the newest token of each slot, shape (S,).
            positions: and where it stands in its sequence, shape (S,).
            tokens: of each layer keys and values of the tokens so far, shape (2, S, H, ≥ span, K); added to.
            segment: of each layer keys and values of the segments, shape (2, S, H, T, K).
            span: how many tokens the longest sequence has, this one included, or more.
        Returns:
            Logits of the next token, float32, shape (S, V).
        """
        x = self.embedding(token_ids) + self.positions[positions]  # (S, D)
        rows = torch.arange(len(token_ids), device=x.device)
        later = torch.arange(span, device=x.device) > positions[:, None]
        mask = torch.zeros(later.shape, device=x.device).masked_fill_(later, -torch.inf)[:, None]
        for layer, own, cross in zip(self.layers, tokens, segment, strict=True):
            x = layer(x, positions, mask, own, cross, rows)
        logits: Tensor = self.logits(self.norm(x, self.logits.dtype))
        return logits.float()


class T5(nn.Module):
    """Encoder and decoder."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
