"""The front ends of MT3 and of YourMT3: waveform segments → log spectrograms.

Each segment is transformed from its own samples alone: its last frames see zeros, never the segment after.

Source: Gardner et al., MT3 (ICLR 2022), model inputs; the mel matrix as TensorFlow's
`linear_to_mel_weight_matrix` defines it. A mel axis that is only nearly right ruins the transcription: an
upper edge of 8000 Hz instead of 7600 Hz takes the onset F1 from 0.72 to 0.08. So a network
works with the front end that it was trained with: see `mt3_infer.models.mt3.config`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class SpectrogramConfig:
    """The numbers that a log-mel spectrogram is made with; the defaults are those of MT3."""

    sample_rate: int = 16_000  # Hz
    hop_length: int = 128  # samples, 8 ms
    n_fft: int = 2048  # samples, 128 ms; also the length of the window
    n_mels: int = 512
    low_edge: float = 20.0  # Hz
    high_edge: float = 7600.0  # Hz; not Nyquist
    floor: float = 1e-5  # takes the place of a band without any energy, before the logarithm
    offset: float | None = None  # added to every band before the logarithm, in place of the floor
    triangles_in_hertz: bool = False  # the bands' slopes are straight in Hz, not in mel
    centered: bool = False  # frame t lies around sample t × hop, the segment mirrored at its ends: one frame more
    scale: tuple[float, float] | None = None  # what becomes 0 and 1 in the end; beyond it is cut off

    @property
    def frames_per_second(self) -> float:
        """125 with the defaults."""
        return self.sample_rate / self.hop_length

    @property
    def n_bins(self) -> int:
        """Bins of the one-sided spectrum, 1025 with the defaults."""
        return self.n_fft // 2 + 1

    def frames(self, samples: int) -> int:
        """Return the frames of a segment whose length is a multiple of the hop."""
        return samples // self.hop_length + self.centered


class LogMel:
    """The front end on a device: its window and its mel matrix, computed once."""

    def __init__(self, config: SpectrogramConfig | None = None, *, device: torch.device | str = "cpu") -> None:
        self.config = config or SpectrogramConfig()
        matrix = mel_matrix(self.config)
        # The bins above the upper edge weigh nothing: leaving them out saves a twentieth of the product.
        self._bins = int(matrix.any(dim=1).nonzero().max()) + 1
        self._matrix = matrix[: self._bins].to(device)
        self._window = torch.hann_window(self.config.n_fft, periodic=True, dtype=torch.float64).to(
            device, torch.float32
        )

    def __call__(self, segments: Tensor) -> Tensor:
        """Transform segments, each on its own.

        Args:
            segments: float32 in [-1, 1], shape (B, S), S a multiple of the hop.
        Returns:
            Shape (B, T, F), T = S / hop: frame t begins at sample t × hop. Centered ones: T = S / hop + 1, and
            frame t has that sample in its middle.
        """
        config = self.config
        magnitudes = self.magnitudes(segments)  # (B, T, F bins)
        mel = magnitudes @ self._matrix
        if config.offset is not None:
            logarithms = mel.add_(config.offset).log_()
        else:
            # Positive values below the floor stay as they are: this is no clamp.
            logarithms = torch.where(mel > 0, mel, config.floor).log_()
        if config.scale is not None:
            low, high = config.scale
            logarithms = logarithms.clamp_(low, high).sub_(low).div_(high - low)
        return logarithms

    def magnitudes(self, segments: Tensor) -> Tensor:
        """Return magnitudes (not powers) of the bins that the mel bands cover, shape (B, T, bins)."""
        config = self.config
        if config.centered:
            padded = torch.nn.functional.pad(segments, (config.n_fft // 2, config.n_fft // 2), mode="reflect")
        else:
            padded = torch.nn.functional.pad(segments, (0, config.n_fft - config.hop_length))
        frames = padded.unfold(1, config.n_fft, config.hop_length)  # (B, T, n_fft)
        magnitudes: Tensor = torch.fft.rfft(frames * self._window)[..., : self._bins].abs()
        return magnitudes


@lru_cache(maxsize=8)
def mel_matrix(config: SpectrogramConfig) -> Tensor:
    """Return weights from FFT bins to mel bands, float32, shape (n_bins, n_mels).

    Triangles of height 1 that are linear in mel, or where the numbers say so in Hz; the bin at 0 Hz belongs to no
    band. Computed in float64: against TensorFlow's float32 matrix no weight differs by more than 6.8e-5.
    """
    bins = torch.arange(1, config.n_bins, dtype=torch.float64) * (config.sample_rate / config.n_fft)
    low, high = _mel(torch.tensor([config.low_edge, config.high_edge], dtype=torch.float64)).tolist()
    edges = low + torch.arange(config.n_mels + 2, dtype=torch.float64) * ((high - low) / (config.n_mels + 1))
    places = _mel(bins)
    if config.triangles_in_hertz:
        places, edges = bins, 700.0 * torch.expm1(edges / 1127.0)
    rising = (places[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - places[:, None]) / (edges[2:] - edges[1:-1])
    weights = torch.minimum(rising, falling).clamp(min=0)  # (n_bins - 1, n_mels)
    return torch.nn.functional.pad(weights, (0, 0, 1, 0)).to(torch.float32)


def _mel(frequencies: Tensor) -> Tensor:
    """Return frequencies on the HTK mel scale, 1127 ln(1 + f / 700 Hz)."""
    return 1127.0 * torch.log1p(frequencies / 700.0)


@dataclass(frozen=True)
class NormalizedSpectrogramConfig:
    """The numbers of YourMT3's front end; the defaults are those of its networks with a Perceiver-TF."""

    sample_rate: int = 16_000  # Hz
    hop_length: int = 300  # samples
    n_fft: int = 2048  # samples; also the length of the window
    n_mels: int | None = None  # None: the magnitudes of all bins but the one at 0 Hz
    low_edge: float = 50.0  # Hz
    high_edge: float = 8000.0  # Hz
    floor: float = 1e-5  # added before the logarithm
    headroom: float = 0.008  # added to the span of a segment's values, which silence has none of

    @property
    def n_features(self) -> int:
        """Values in a frame."""
        return self.n_mels or self.n_fft // 2

    def frames(self, samples: int) -> int:
        """Return the frames of a segment: one in the middle of each hop's first sample."""
        return 1 + samples // self.hop_length


class NormalizedSpectrogram:
    """YourMT3's front end on a device: logarithms, stretched to [0, 1] in each segment by itself.

    Source: Chang et al., YourMT3+ (2024), and the configuration published with its weights.
    """

    def __init__(
        self, config: NormalizedSpectrogramConfig | None = None, *, device: torch.device | str = "cpu"
    ) -> None:
        self.config = config or NormalizedSpectrogramConfig()
        # In float32, as in training: the last digits of the window move the quietest bins by 4e-5.
        self._window = torch.hann_window(self.config.n_fft, periodic=True).to(device)
        self._matrix = None if self.config.n_mels is None else mel_matrix_in_hertz(self.config).to(device)

    def __call__(self, segments: Tensor) -> Tensor:
        """Transform segments, each on its own.

        Args:
            segments: float32 in [-1, 1], shape (B, S).
        Returns:
            Shape (B, T, F); zeros for a silent segment.
        """
        config = self.config
        padded = torch.nn.functional.pad(segments[:, None], 2 * (config.n_fft // 2,), mode="reflect")[:, 0]
        frames = padded.unfold(1, config.n_fft, config.hop_length)  # (B, T, n_fft)
        magnitudes = torch.fft.rfft(frames * self._window).abs()  # (B, T, n_fft / 2 + 1)
        features = magnitudes[..., 1:] if self._matrix is None else magnitudes.square() @ self._matrix
        logarithms = (features + config.floor).log_()
        low, high = logarithms.amin((1, 2), keepdim=True), logarithms.amax((1, 2), keepdim=True)
        normalized: Tensor = (logarithms - low) / (high - low + config.headroom)
        return normalized


@lru_cache(maxsize=4)
def mel_matrix_in_hertz(config: NormalizedSpectrogramConfig) -> Tensor:
    """Return weights from FFT bins to mel bands, float32, shape (n_bins, n_mels).

    Triangles between points at equal distances in mel, linear in Hz, of height 1; many of the lowest lie between
    two bins and weigh nothing. Computed in float32, as for training: in float64 a weight differs by 5e-5.
    """
    assert config.n_mels is not None
    low, high = (2595.0 * math.log10(1.0 + edge / 700.0) for edge in (config.low_edge, config.high_edge))
    points = 700.0 * (10.0 ** (torch.linspace(low, high, config.n_mels + 2) / 2595.0) - 1.0)  # Hz
    bins = torch.linspace(0.0, config.sample_rate / 2, config.n_fft // 2 + 1)[:, None]
    rising = (bins - points[:-2]) / (points[1:-1] - points[:-2])
    falling = (points[2:] - bins) / (points[2:] - points[1:-1])
    return torch.minimum(rising, falling).clamp(min=0.0)
