"""The published networks of YourMT3: their sizes, as data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from mt3_infer.audio.segments import SegmentGrid
from mt3_infer.audio.spectrogram import NormalizedSpectrogramConfig
from mt3_infer.models.t5 import Positions, T5Config
from mt3_infer.models.yourmt3.perceiver import PerceiverConfig

GRID = SegmentGrid(16_000, hop=32_767, length=32_767)  # 2.048 s

FIRST_END = 1
"""The published generation does not look at the first token: an end there ends nothing."""

VOCABULARY_SIZE = 596

T5_SIZES = T5Config(
    n_features=None, vocabulary_size=VOCABULARY_SIZE, max_length=1034, positions=Positions.MT3_PYTORCH
)


@dataclass(frozen=True)
class YourMT3Config:
    """One of the published networks.

    Attributes:
        title: what its authors call it.
        perceiver: the encoder; None for that of T5.
        channels: token sequences for each segment, each of some instruments.
        max_tokens: in each of them.
    """

    title: str
    perceiver: PerceiverConfig | None
    channels: int
    max_tokens: int
    t5: T5Config = T5_SIZES
    front_end: NormalizedSpectrogramConfig = field(default_factory=NormalizedSpectrogramConfig)

    @property
    def d_channel(self) -> int:
        """Width of the latents that a channel is made of, side by side."""
        assert self.perceiver is not None
        return self.perceiver.latents * self.perceiver.width // self.channels


_PLAIN = PerceiverConfig(experts=0, rotary=False, query_residual=False)

MOE = YourMT3Config("YPTF.MoE+Multi", PerceiverConfig(), channels=13, max_tokens=256)
MULTI = YourMT3Config("YPTF+Multi", _PLAIN, channels=13, max_tokens=256)
SINGLE = YourMT3Config("YPTF+Single", replace(_PLAIN, latents=24), channels=1, max_tokens=1024)
PLUS = YourMT3Config(
    "YMT3+",
    None,
    channels=1,
    max_tokens=1024,
    front_end=NormalizedSpectrogramConfig(hop_length=128, n_mels=512),
)
