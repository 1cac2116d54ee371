"""Small networks with random weights, whose sequences are of many lengths."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mt3_infer.models.t5 import T5, T5Config
from mt3_infer.symbolic.vocabulary import END


@pytest.fixture(scope="session")
def random_t5() -> Callable[..., T5]:
    """A function that makes one; not yet prepared for a device. The larger `end`, the sooner sequences end."""
    config = T5Config(
        n_features=12,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_heads=3,
        num_encoder_layers=2,
        num_decoder_layers=2,
        vocabulary_size=96,
        max_length=256,
    )

    def make(end: float = 2.5) -> T5:
        network = T5(config).eval()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.normal_(0.0, 1.0 if parameter.ndim == 1 else 0.3, generator=generator)
            network.decoder.embedding.weight.normal_(0.0, 3.0, generator=generator)
            network.decoder.logits.weight[END] *= end
        return network

    return make
