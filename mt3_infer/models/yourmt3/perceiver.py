"""The encoder of YourMT3: log spectrogram → convolutions → Perceiver-TF.

A few latent vectors per frame look at the frame's channels (spectral cross-attention), then at each other (local
layers), then each at itself in all frames (temporal layers); three times over.

Shape letters: B segments · T frames · F bins · C convolution channels · K latents · D width of a latent · H heads
· N sequences · L tokens.

Source: Lu et al., Multitrack Music Transcription with a Time-Frequency Perceiver (ICASSP 2023); Chang et al.,
YourMT3+ (2024); Jiang et al., Mixtral of Experts (2024); Su et al., RoFormer (2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import pi

import torch
from torch import Tensor, nn
from torch.nn import functional

from mt3_infer.models.linear import Linear


@dataclass(frozen=True)
class PerceiverConfig:
    """The network's sizes, and the choices in which the published networks differ.

    Attributes:
        latents: K.
        experts: of each feed-forward block, of which every token takes two; 0 is a plain block.
        rotary: queries are turned by their place; otherwise a learned table is added to the latents.
        query_residual: what the spectral cross-attention sees is added to the latents, not put in their place.
        layer_norm: norms have a mean and a bias; otherwise they are RMS norms.
    """

    latents: int = 26
    experts: int = 8
    rotary: bool = True
    query_residual: bool = True
    layer_norm: bool = True
    channels: int = 128
    n_features: int = 1024
    width: int = 128
    num_heads: int = 8
    d_expert: int = 512
    num_convolutions: int = 3
    num_blocks: int = 3
    num_layers: int = 2  # local ones and temporal ones, in each block
    max_frames: int = 120  # that the learned table has places for
    epsilon: float = 1e-5

    @property
    def d_head(self) -> int:
        """Width of a head."""
        return self.width // self.num_heads

    @property
    def bins(self) -> int:
        """Frequencies that are left after the convolutions, each of which halves them."""
        return self.n_features >> self.num_convolutions


# --- Convolutions -----------------------------------------------------------------------------------------------


class ResidualBlock(nn.Module):
    """Two convolutions with a way around them, then half as many frequencies. Their norms are in the weights."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.second = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.shortcut = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Args: x of shape (B, C, T, F). Returns: shape (B, C, T, F / 2)."""
        inner = self.second(functional.relu_(self.first(x)))
        return functional.avg_pool2d(functional.relu_(inner.add_(self.shortcut(x))), (1, 2))


class PreEncoder(nn.Module):
    """Log spectrogram → channels."""

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        sizes = [1] + [config.channels] * config.num_convolutions
        self.blocks = nn.ModuleList(ResidualBlock(a, b) for a, b in pairwise(sizes))

    def forward(self, features: Tensor) -> Tensor:
        """Args: features of shape (B, T, F). Returns: float32, shape (B, T, C, F / 8)."""
        x = features[:, None].to(next(self.parameters()).dtype)
        for block in self.blocks:
            x = block(x)
        return x.transpose(1, 2).float().contiguous()


# --- Norms and attention ----------------------------------------------------------------------------------------


class Norm(nn.Module):
    """A layer norm, or an RMS norm. Returns the type that the next matmul takes."""

    def __init__(self, config: PerceiverConfig, width: int | None = None) -> None:
        super().__init__()
        width = width or config.width
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width)) if config.layer_norm else None
        self.epsilon = config.epsilon

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Args: x of shape (…, D), float32."""
        if self.bias is None:
            return functional.rms_norm(x, self.weight.shape, self.weight, self.epsilon).to(dtype)
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon).to(dtype)


def spatial_frequencies() -> Tensor:
    """Return parameters of latents, whose places run from -1 to 1; shape (2,)."""
    return torch.tensor([pi, 5.0 * pi])


def temporal_frequencies() -> Tensor:
    """Return parameters of frames, whose places are 0, 1, 2, …; shape (2,)."""
    return torch.tensor([1.0, 10_000.0**-0.5])


def rotate(query: Tensor, angles: Tensor) -> Tensor:
    """Turn the first two pairs of numbers of each head; the others stay as they are.

    Four numbers of sixteen, and of queries alone: so the published networks were trained.

    Args:
        query: shape (N, H, L, K).
        angles: shape (L, 2).
    """
    shape = (*query.shape[:-1], 2, 2)
    a, b = query[..., :4].float().reshape(shape).unbind(-1)  # each (N, H, L, 2)
    cos, sin = angles.cos(), angles.sin()
    turned = torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)
    return torch.cat([turned.to(query.dtype), query[..., 4:]], -1)


class SelfAttention(nn.Module):
    """Every token looks at every token of its sequence."""

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = Norm(config)
        self.query_key_value = Linear(config.width, 3 * config.width, bias=True)
        self.out = Linear(config.width, config.width, bias=True)

    def forward(self, x: Tensor, angles: Tensor | None) -> Tensor:
        """Args: x of shape (N, L, D), angles of its places, shape (L, 2). Returns: shape (N, L, D), x added."""
        config = self.config
        projected = self.query_key_value(self.norm(x, self.query_key_value.dtype))
        heads = projected.view(*x.shape[:2], 3, config.num_heads, config.d_head)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (N, H, L, K)
        if angles is not None:
            query = rotate(query, angles)
        seen = functional.scaled_dot_product_attention(query, key, value)
        total: Tensor = self.out.plus(seen.transpose(1, 2).reshape(x.shape), x)
        return total


class SpectralCrossAttention(nn.Module):
    """The latents of a frame look at its channels; what a channel holds is its frequencies."""

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = Norm(config)
        self.input_norm = Norm(config, config.bins)
        self.query = Linear(config.width, config.width, bias=True)
        self.key_value = Linear(config.bins, 2 * config.width, bias=True)
        self.out = Linear(config.width, config.width, bias=True)

    def forward(self, x: Tensor, inputs: Tensor, angles: Tensor | None) -> Tensor:
        """Args: x of shape (N, K, D), inputs of shape (N, C, F). Returns: shape (N, K, D)."""
        config = self.config
        query = self.query(self.norm(x, self.query.dtype))
        projected = self.key_value(self.input_norm(inputs, self.key_value.dtype))
        heads = projected.view(*inputs.shape[:2], 2, config.num_heads, config.d_head)
        query = query.view(*x.shape[:2], config.num_heads, config.d_head).transpose(1, 2)  # (N, H, K, d_head)
        key, value = heads.permute(2, 0, 3, 1, 4)  # each (N, H, C, d_head)
        if angles is not None:
            query = rotate(query, angles)
        seen = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(x.shape)
        total: Tensor = self.out.plus(seen, x) if config.query_residual else self.out(seen).float()
        return total


# --- Feed-forward -----------------------------------------------------------------------------------------------


class Mlp(nn.Module):
    """One hidden layer, as wide as the latents."""

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        self.up = Linear(config.width, config.width, bias=True)
        self.down = Linear(config.width, config.width, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Args: x of shape (…, D), float32."""
        fed: Tensor = self.down(self.up.gelu(x.to(self.up.dtype), approximate="none")).float()
        return fed


class Expert(nn.Module):
    """A gated feed-forward block."""

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        self.gate = Linear(config.width, config.d_expert)
        self.up = Linear(config.width, config.d_expert)
        self.down = Linear(config.d_expert, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Args: x of shape (N, D)."""
        fed: Tensor = self.down(self.up.times(x, self.gate.silu(x)))
        return fed


class Mixture(nn.Module):
    """Each token goes through the two experts that the router likes best, and through no other.

    None is ever full: the output of a token does not depend on the others.
    """

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        self.router = nn.Parameter(torch.empty(config.experts, config.width))  # float32 always: it decides
        self.experts = nn.ModuleList(Expert(config) for _ in range(config.experts))

    @property
    def dtype(self) -> torch.dtype:
        """The type of the experts' inputs."""
        dtype: torch.dtype = self.experts[0].gate.dtype  # type: ignore[assignment]
        return dtype

    def forward(self, x: Tensor) -> Tensor:
        """Args: x of shape (…, D), float32."""
        tokens = x.reshape(-1, x.shape[-1])  # (N, D)
        shares, chosen = functional.linear(tokens, self.router).softmax(dim=1).topk(2)  # each (N, 2)
        shares = shares / shares.sum(dim=1, keepdim=True)
        chosen = chosen.flatten()
        order = chosen.argsort(stable=True)  # of the 2 N ways, those to one expert lie side by side
        counts = chosen.bincount(minlength=len(self.experts)).tolist()
        sent = tokens[order // 2].to(self.dtype)
        pairs = zip(self.experts, torch.split(sent, counts), strict=True)
        given = torch.cat([expert(part) for expert, part in pairs if len(part)]).float()
        returned = torch.empty_like(given).index_copy_(0, order, given).view(*shares.shape, -1)  # (N, 2, D)
        return (returned * shares[..., None]).sum(dim=1).view(x.shape)


class TransformerLayer(nn.Module):
    """Attention and feed-forward, each added to what goes in."""

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.norm = Norm(config)
        self.feed_forward: nn.Module = Mixture(config) if config.experts else Mlp(config)

    def forward(self, x: Tensor, angles: Tensor | None) -> Tensor:
        """Args: x of shape (N, L, D), angles of its places, shape (L, 2)."""
        x = self.attention(x, angles)
        fed: Tensor = x + self.feed_forward(self.norm(x, torch.float32))
        return fed


class PerceiverBlock(nn.Module):
    """Across frequencies, across latents, across time."""

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        self.spectral = SpectralCrossAttention(config)
        self.local_layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_layers))
        self.temporal_layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_layers))

    def forward(self, x: Tensor, inputs: Tensor, across: Tensor | None, along: Tensor | None) -> Tensor:
        """Args: x of shape (B, T, K, D), inputs (B, T, C, F), angles of latents (K, 2) and of frames (T, 2)."""
        batch = x.shape[0]
        x = self.spectral(x.flatten(0, 1), inputs.flatten(0, 1), across)  # (B × T, K, D)
        for layer in self.local_layers:
            x = layer(x, across)
        x = x.view(batch, -1, *x.shape[1:]).transpose(1, 2).flatten(0, 1)  # (B × K, T, D)
        for layer in self.temporal_layers:
            x = layer(x, along)
        blocked: Tensor = x.view(batch, -1, *x.shape[1:]).transpose(1, 2)  # (B, T, K, D)
        return blocked


class PerceiverEncoder(nn.Module):
    """Spectrogram frames → latents. There is no norm at the end."""

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        self.config = config
        self.pre_encoder = PreEncoder(config)
        self.latents = nn.Parameter(torch.empty(config.latents, config.width))
        shape = (config.max_frames, config.latents, config.width)
        self.positions = None if config.rotary else nn.Parameter(torch.empty(shape))
        self.blocks = nn.ModuleList(PerceiverBlock(config) for _ in range(config.num_blocks))

    def forward(self, features: Tensor) -> Tensor:
        """Args: features of shape (B, T, F). Returns: shape (B, T, K, D), float32."""
        inputs = self.pre_encoder(features)
        batch, frames = inputs.shape[:2]
        x = self.latents if self.positions is None else self.latents + self.positions[:frames]
        x = x.expand(batch, frames, -1, -1)
        across = along = None
        if self.config.rotary:
            places = torch.linspace(-1.0, 1.0, self.config.latents)[:, None]
            across = (places * spatial_frequencies()).to(x.device)
            along = (torch.arange(frames)[:, None] * temporal_frequencies()).to(x.device)
        for block in self.blocks:
            x = block(x, inputs, across, along)
        return x
