"""YourMT3's networks with seeded weights at their full size, which the reference arrays were made with.

Each number depends on its parameter's name alone, so that the arrays can be stored without the weights.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch

from mt3_infer.models.t5 import sinusoids
from mt3_infer.models.yourmt3.config import T5_SIZES
from mt3_infer.models.yourmt3.perceiver import spatial_frequencies, temporal_frequencies

SHAPES: dict[str, dict[str, list[int]]] = json.loads(
    (Path(__file__).parent / "data" / "yourmt3_shapes.json").read_text(encoding="utf-8")
)
"""By network: every name in its published file, with its shape."""

ENDS = {  # of names → scale, as a function of the last dimension
    "embed_tokens.weight": lambda n: 4.0,
    "lm_head.lm_head.weight": lambda n: 3.0,
    ".latents": lambda n: 1.0,
    "._pos_emb": lambda n: 1.0,
    ".SelfAttention.q.weight": lambda n: 4.0 / (64 * n) ** 0.5,
    ".EncDecAttention.q.weight": lambda n: 2.0 / (64 * n) ** 0.5,
    ".self.query.weight": lambda n: 3.0 / n**0.5,
    ".EncDecAttention.o.weight": lambda n: 0.3 / n**0.5,
}


def published(network: str) -> dict[str, torch.Tensor]:
    """A state dict with all names that the published one has."""
    return {name: value_of(name, tuple(shape)) for name, shape in SHAPES[network].items()}


def value_of(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """One entry: a random one, or a table as it is."""
    if name.endswith("additive_pe.weight"):
        return sinusoids(T5_SIZES)
    if name.endswith(".freqs"):
        return temporal_frequencies() if "temporal" in name else spatial_frequencies()
    if name.endswith("num_batches_tracked"):
        return torch.tensor(100)
    if name.startswith("spectrogram."):
        return torch.hann_window(shape[0]) if len(shape) == 1 else torch.zeros(shape)
    return seeded(name, shape)


def seeded(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A random parameter."""
    seed = np.random.SeedSequence([2, zlib.crc32(name.encode())])
    offset, scale = offset_and_scale(name, shape)
    values = offset + scale * np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)
    return torch.from_numpy((np.exp(values) if name.endswith(".running_var") else values).astype(np.float32))


def offset_and_scale(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """How a parameter is distributed."""
    if name.endswith((".running_mean", ".running_var")):
        return 0.0, 0.1 if name.endswith("mean") else 0.2
    if len(shape) == 1:
        return (0.0, 0.05) if name.endswith(".bias") else (1.0, 0.1)
    if len(shape) == 4:
        return 0.0, float(np.sqrt(2.0 / np.prod(shape[1:])))
    for end, scale in ENDS.items():
        if name.endswith(end):
            return 0.0, scale(shape[-1])
    return 0.0, shape[-1] ** -0.5
