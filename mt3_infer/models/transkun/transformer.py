"""The network of Transkun: spectrograms of a window → scores of intervals and their attributes.

A non-hierarchical Transformer: tokens of 8 frames, for patches of the spectrograms and for each of the tracks (88
keys and two pedals), attend to those of the same time and then to those of the same place.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import ContinuousBernoulli
from torch.nn import functional

from mt3_infer.models.linear import Linear
from mt3_infer.models.transkun.config import FRAMES, TRACK_POSITIONS, TRACKS, TranskunConfig
from mt3_infer.models.transkun.front_end import FrontEnd
from mt3_infer.models.transkun.semi_crf import IntervalScores

EPSILON = 1e-6  # of the norms

LINES = 8
"""Lines of tokens that a layer computes at once: what lies between two matmuls, 5 MB, then stays in the cache.

Measured on 2 Zen 5 cores, a layer: 190 ms with all lines at once, 142 ms with 8, 164 ms with 2.
"""


class TranskunNetwork(nn.Module):
    """Front end, encoder, and the heads that score and describe intervals."""

    def __init__(self, config: TranskunConfig) -> None:
        super().__init__()
        width = config.d_model
        self.config = config
        self.front_end = FrontEnd(config)
        self.patches = Patches(config)
        self.patch_positions = Positions(2, width)
        self.track_positions = Positions(2, width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        # A token becomes 8 frames, and a frame what intervals that end or begin there are scored by. Both are
        # linear, so the weights of the second lines are products of the published ones.
        self.upsample = nn.Linear(width, config.patch * width)
        self.ends = Linear(width, config.patch * width, bias=True)
        self.begins = Linear(width, config.patch * width, bias=True)
        self.singles = Linear(width, config.patch, bias=True)
        self.velocity = Head(3 * width, config.hidden, config.velocities)
        self.refinement = Head(3 * width, config.hidden, 4)

    def positions(self) -> Tensor:
        """Return the embeddings of all tokens' positions, shape (times, places, D); equal for all windows."""
        device = self.front_end.centers.device
        time, place = (torch.arange(size, dtype=torch.float32, device=device) for size in self.patches.grid)
        track = torch.tensor(TRACK_POSITIONS, dtype=torch.float32, device=device)
        return torch.cat([self.patch_positions(time, place), self.track_positions(time, track)], dim=1)

    def forward(self, waveform: Tensor, positions: Tensor) -> Tensor:
        """Return the tokens of the tracks of a window.

        Args:
            waveform: shape (S,).
            positions: of `positions`.
        Returns:
            Shape (tracks, T / 8, D).
        """
        patches = self.patches(self.front_end(waveform))
        tokens = functional.pad(patches, (0, 0, 0, TRACKS)).add_(positions)
        for layer in self.layers[:-1]:
            tokens = layer(tokens)
        last: Tensor = self.layers[-1](tokens, only_last=TRACKS)
        return last[1:].transpose(0, 1).contiguous()  # the first time gathers the whole window

    def scores(self, tokens: Tensor) -> IntervalScores:
        """Return what the intervals of all tracks are scored by."""
        ends, begins, singles = (
            head(tokens).reshape(TRACKS, -1, size)[:, :FRAMES]
            for head, size in (
                (self.ends, self.config.d_model),
                (self.begins, self.config.d_model),
                (self.singles, 1),
            )
        )
        return IntervalScores(ends, begins, singles[..., 0])

    def attributes(
        self, tokens: Tensor, track: Tensor, begin: Tensor, end: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the velocity, the refined times and the presence of the ends of intervals.

        Args:
            track, begin, end: each of shape (N,), whole numbers.
        Returns:
            Velocities of shape (N,); how many frames the begin and the end lie beside the middles of their frames,
            (N, 2), from -0.5 to 0.5; and whether they lie inside of the window, (N, 2).
        """
        first, last = self._frames(tokens, track, begin), self._frames(tokens, track, end)
        features = torch.cat([first, last, first * last], dim=1)
        values, presence = self.refinement(features).chunk(2, dim=1)
        shifts = ((ContinuousBernoulli(logits=values, validate_args=False).mean - 0.5) / 0.99).clamp_(-0.5, 0.5)
        return self.velocity(features).argmax(dim=1), shifts, presence > 0

    def _frames(self, tokens: Tensor, track: Tensor, frame: Tensor) -> Tensor:
        """Return the features of some frames, shape (N, D)."""
        patch, width = self.config.patch, self.config.d_model
        chosen = tokens[track, frame // patch]
        every = torch.empty_like(chosen)
        weight, bias = (
            torch.unflatten(self.upsample.weight, 0, (patch, width)),
            torch.unflatten(self.upsample.bias, 0, (patch, width)),
        )
        for place in range(patch):
            at = frame % patch == place
            every[at] = functional.linear(chosen[at], weight[place], bias[place])
        return every


class Head(nn.Module):
    """Two layers that describe an interval, given the features of its ends and their products."""

    def __init__(self, n_in: int, hidden: int, n_out: int) -> None:
        super().__init__()
        self.up = Linear(n_in, hidden, bias=True)
        self.down = Linear(hidden, n_out, bias=True)

    def forward(self, features: Tensor) -> Tensor:
        """Return shape (N, n_out)."""
        result: Tensor = self.down(self.up.gelu(features, approximate="none"))
        return result


class Positions(nn.Module):
    """Learned embeddings of points: random Fourier features and a small network."""

    def __init__(self, axes: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.frequencies = Linear(axes, width, bias=True)
        self.up = Linear(width, 4 * width, bias=True)
        self.down = Linear(4 * width, width, bias=True)

    def forward(self, *coordinates: Tensor) -> Tensor:
        """Return the embeddings of a grid of points, shape (N, …, D), given its coordinates on each axis."""
        points = torch.stack(torch.meshgrid(*coordinates, indexing="ij"), dim=-1)
        waves = self.frequencies(points).cos_().div_(math.sqrt(self.width / 2))
        result: Tensor = self.down(self.up.gelu(waves, approximate="none"))
        return result


class Patches(nn.Module):
    """Convolutions from spectrograms to tokens of 8 frames by 4 bands."""

    def __init__(self, config: TranskunConfig) -> None:
        super().__init__()
        width = config.width
        # The empty tokens, and what the padding of `forward` leaves of the spectrograms.
        self.grid = (1 - (-(FRAMES + 7) // 8), 1 - (-(config.mel.n_features + 3) // 4))
        self.positions = Positions(1, width)
        self.spread = nn.Conv2d(1 + config.learned_windows, width, 3, padding=1)
        self.first = nn.Conv2d(width, 2 * width, 3, padding=1, stride=(2, 1))
        self.second = nn.Conv2d(2 * width, 4 * width, 3, padding=1, stride=2)
        self.third = nn.Conv2d(4 * width, 4 * width, 3, padding=1, stride=2)
        self.fourth = nn.Conv2d(4 * width, 4 * width, 3, padding=1)
        self.first_norm = nn.GroupNorm(config.groups, 2 * width)
        self.second_norm = nn.GroupNorm(config.groups, 4 * width)
        self.third_norm = nn.GroupNorm(config.groups, 4 * width)
        self.fourth_norm = nn.GroupNorm(config.groups, 4 * width)

    def forward(self, spectrograms: Tensor) -> Tensor:
        """Return the tokens of a window, with an empty one before each axis, which gathers what lies along it.

        Args:
            spectrograms: shape (6, T, F).
        Returns:
            Shape (1 + T / 8, 1 + F / 4, D).
        """
        bands = torch.arange(spectrograms.shape[-1], dtype=torch.float32, device=spectrograms.device)
        spread = self.spread(spectrograms[None])  # (1, width, T, F)
        _, width, times, places = spread.shape
        padded = spread.new_zeros(1, times + 7, places + 3, width).permute(0, 3, 1, 2)  # channels last
        torch.add(spread, self.positions(bands).T[:, None], out=padded[:, :, 4:-3, 2:-1])
        features = _gelu(self.first_norm(self.first(padded)))
        features = _gelu(self.second_norm(self.second(features)))
        features = _gelu(self.third_norm(self.third(features)))
        features = self.fourth_norm(self.fourth(features))
        return functional.pad(features[0].permute(1, 2, 0), (0, 0, 1, 0, 1, 0))


class Layer(nn.Module):
    """Attention among the tokens of each time, then among those of each place. Both read the layer's input."""

    def __init__(self, config: TranskunConfig) -> None:
        super().__init__()
        self.places = Block(config)
        self.times = Block(config)

    def forward(self, tokens: Tensor, *, only_last: int = 0) -> Tensor:
        """Return tokens of the same shape, (times, places, D); or only those of the last so many places."""
        chosen = tokens[:, -only_last:]
        across_places, across_times = torch.empty_like(chosen), torch.empty_like(chosen)
        for at in range(0, len(tokens), LINES):
            times = slice(at, at + LINES)
            across_places[times] = self.places(chosen[times], tokens[times])
        for at in range(0, chosen.shape[1], LINES):
            places = slice(at, at + LINES)
            lines = self.times(across_places[:, places].transpose(0, 1), chosen[:, places].transpose(0, 1))
            across_times[:, places] = lines.transpose(0, 1)
        return across_times


class Block(nn.Module):
    """Attention and a feed-forward network, each normalized before and added to its input.

    The published scale of each sum lies in the weights of the matmul before it.
    """

    def __init__(self, config: TranskunConfig) -> None:
        super().__init__()
        width = config.d_model
        self.heads = config.heads
        self.query = Linear(width, width)
        self.key_value = Linear(width, 2 * width)
        self.out = Linear(width, width, bias=True)
        self.up = Linear(width, 4 * width, bias=True)
        self.down = Linear(4 * width, width, bias=True)

    def forward(self, tokens: Tensor, attended: Tensor) -> Tensor:
        """Return tokens of the same shape, (lines, N, D).

        Args:
            attended: to which the tokens of a line attend, as they are, shape (lines, M, D).
        """
        query = self.query(_norm(tokens)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key_value = self.key_value(attended).unflatten(-1, (2, self.heads, -1))
        key, value = key_value.permute(2, 0, 3, 1, 4)  # each (lines, heads, M, width of a head)
        fetched = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = self.out.plus(fetched, tokens)
        summed: Tensor = self.down.plus(self.up.gelu(_norm(tokens), approximate="none"), tokens)
        return summed


def _gelu(features: Tensor) -> Tensor:
    """Apply a GELU in place: the first features are 41 MB."""
    result: Tensor = torch.ops.aten.gelu_(features)
    return result


def _norm(tokens: Tensor) -> Tensor:
    """Divide by the root mean square."""
    return functional.rms_norm(tokens, tokens.shape[-1:], eps=EPSILON)
