"""The front end of Transkun: a window of a recording → six log-mel spectrograms of it.

All six have the same frames; one has a Hann window and the others learned Gaussian ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from mt3_infer.audio.spectrogram import mel_matrix_in_hertz
from mt3_infer.models.transkun.config import FRAMES, TranskunConfig

FLOOR = 1e-5  # added before the logarithm; what it gives becomes 0, and a power of 1 becomes 1
QUIETEST = 1e-8  # added to the standard deviation, which silence has none of
FRAMES_AT_ONCE = 64


class FrontEnd(nn.Module):
    """Gain normalization, windows, power spectra and mel bands."""

    def __init__(self, config: TranskunConfig) -> None:
        super().__init__()
        self.config = config
        self.centers = nn.Parameter(torch.empty(config.learned_windows))
        self.widths = nn.Parameter(torch.empty(config.learned_windows))

    def forward(self, waveform: Tensor) -> Tensor:
        """Transform a window.

        Args:
            waveform: float32, shape (S,), of any gain.
        Returns:
            Shape (6, T, F), around 0 to 1; zeros for silence.
        """
        mel = self.config.mel
        n_fft, hop = mel.n_fft, mel.hop_length
        right = (FRAMES - 1) * hop + n_fft // 2 - len(waveform)
        frames = functional.pad(waveform, (n_fft // 2, right)).unfold(0, n_fft, hop)  # (T, n_fft)
        # The mean and the deviation are those of all frames: a sample counts in each frame that has it.
        deviation, mean = torch.std_mean(frames)
        windows = self.windows()
        matrix = mel_matrix_in_hertz(mel).to(waveform.device)
        bins = int(matrix.any(dim=1).nonzero().max()) + 1
        bands = []
        for some in torch.split(frames, FRAMES_AT_ONCE):
            normalized = (some - mean) / (deviation + QUIETEST)
            spectra = torch.fft.rfft(normalized[:, None] * windows, norm="ortho")[..., :bins]
            bands.append(spectra.abs().square_() @ matrix[:bins])  # (t, 6, F)
        logarithms = torch.cat(bands).add_(FLOOR).log_()
        return logarithms.sub_(math.log(FLOOR)).div_(-math.log(FLOOR)).transpose(0, 1)

    def windows(self) -> Tensor:
        """Return the window functions, shape (6, n_fft)."""
        n_fft = self.config.mel.n_fft
        time = torch.arange(n_fft, device=self.centers.device)
        centers, widths = self.centers.sigmoid()[:, None] * n_fft, self.widths.sigmoid()[:, None] * (n_fft / 2)
        gaussians = (-0.5 * ((time - centers) / widths) ** 2).exp()
        return torch.cat([torch.hann_window(n_fft, device=time.device)[None], gaussians])
