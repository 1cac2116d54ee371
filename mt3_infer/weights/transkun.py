"""The table of Transkun's network. Linear maps that follow each other in the published network are one here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mt3_infer.errors import WeightsError
from mt3_infer.weights.names import Row, Shape, Table, Weights, from_published

TITLE = "Transkun 2.0"
UPSAMPLE = "backbone.upConv1dSkip"
SCORER = "scorer.map.0"


@dataclass(frozen=True)
class Transposed:
    """Matrices that are published with a row for each input, stacked."""

    matrices: tuple[str, ...]

    def names(self, kind: str) -> Sequence[str]:
        """See `Row`."""
        return self.matrices

    def shape(self, kind: str, name: str, shape: Shape) -> Shape:
        """See `Row`."""
        return (shape[1], shape[0] // len(self.matrices))

    def combine(self, kind: str, parts: Sequence[Tensor]) -> Tensor:
        """See `Row`."""
        return torch.cat([part.T for part in parts])


@dataclass(frozen=True)
class Scaled:
    """A matmul whose result is scaled, each channel by its own factor."""

    module: str
    scale: str

    def names(self, kind: str) -> Sequence[str]:
        """See `Row`."""
        return [f"{self.module}.{kind}", self.scale]

    def shape(self, kind: str, name: str, shape: Shape) -> Shape:
        """See `Row`."""
        return shape[:1] if name == self.scale else shape

    def combine(self, kind: str, parts: Sequence[Tensor]) -> Tensor:
        """See `Row`."""
        weight, scale = parts
        return weight * (scale[:, None] if kind == "weight" else scale)


@dataclass(frozen=True)
class Upsampled:
    """Some rows of the matmul that scores frames, after the one that makes frames of a token.

    The latter is published as a transposed convolution whose stride is its length. Ours has the rows of the
    first frame, then those of the second, and so on.

    Attributes:
        width: of a token and of a frame.
        patch: frames of a token.
        rows: of the second matmul; None to leave it away.
        factor: of the result.
    """

    width: int
    patch: int
    rows: slice | None = None
    factor: float = 1.0

    def names(self, kind: str) -> Sequence[str]:
        """See `Row`."""
        upsample = [f"{UPSAMPLE}.{kind}"]
        if self.rows is None:
            return upsample
        return [*upsample, f"{SCORER}.weight", *([f"{SCORER}.bias"] if kind == "bias" else [])]

    def shape(self, kind: str, name: str, shape: Shape) -> Shape:
        """See `Row`."""
        scored = 2 * self.width + 1
        return {
            f"{UPSAMPLE}.weight": (self.width, self.width, self.patch),
            f"{UPSAMPLE}.bias": (self.width,),
            f"{SCORER}.weight": (scored, self.width),
            f"{SCORER}.bias": (scored,),
        }[name]

    def combine(self, kind: str, parts: Sequence[Tensor]) -> Tensor:
        """See `Row`."""
        upsample, *scorer = (part.double() for part in parts)
        if kind == "weight":
            upsample = upsample.permute(2, 1, 0)  # (patch, out, in)
        if self.rows is None:
            result = upsample if kind == "weight" else upsample.expand(self.patch, -1)
        elif kind == "weight":
            result = scorer[0][self.rows] @ upsample
        else:
            result = (scorer[0][self.rows] @ upsample + scorer[1][self.rows]).expand(self.patch, -1)
        return result.flatten(0, 1) * self.factor


def transkun_table(width: int, patch: int) -> Table:
    """Return the table of `mt3_infer.models.transkun.transformer.TranskunNetwork`.

    Args:
        width: of a token.
        patch: frames of a token.
    """
    windows = "framewiseFeatureExtractor.spectrogramExtractor.winGen"
    return {
        "front_end.centers": f"{windows}.center",
        "front_end.widths": f"{windows}.sigma",
        **_positions("patches.positions", "backbone.posEmbedBuilder"),
        "patches.spread": "backbone.inputConv",
        **{
            f"patches.{name}{suffix}": f"backbone.downConv.{number + place}"
            for name, number in (("first", 1), ("second", 5), ("third", 9), ("fourth", 13))
            for place, suffix in enumerate(("", "_norm"))
        },
        **_positions("patch_positions", "backbone.posEmbedBuilderAttnTF"),
        **_positions("track_positions", "backbone.posEmbedBuilderAttnTE"),
        **_block("layers.#.places", "backbone.encoderLayers.#", "F"),
        **_block("layers.#.times", "backbone.encoderLayers.#", "T"),
        "upsample": Upsampled(width, patch),
        "ends": Upsampled(width, patch, slice(width), width**-0.5),
        "begins": Upsampled(width, patch, slice(width, 2 * width)),
        "singles": Upsampled(width, patch, slice(2 * width, 2 * width + 1)),
        **_layers("velocity", "velocityPredictor"),
        **_layers("refinement", "refinedOFPredictor"),
    }


def from_published_transkun(
    published: Mapping[str, Tensor], network: nn.Module, table: Table, *, matrix: Tensor
) -> Weights:
    """Return the authors' weights under our names.

    Args:
        matrix: from bins to mel bands, which the file has too.
    Raises:
        WeightsError: it has another one, or parameters are missing, unknown, or of another shape.
    """
    kept = dict(published)
    theirs = kept.pop("framewiseFeatureExtractor.freq2mels", matrix)
    if theirs.shape != matrix.shape or not torch.allclose(theirs.float(), matrix, atol=1e-3):
        raise WeightsError(f"These weights were trained with other mel bands than {TITLE}.")
    kept.pop("framewiseFeatureExtractor.spectrogramExtractor.win", None)
    return from_published(kept, network, table, title=TITLE)


def _positions(ours: str, theirs: str) -> dict[str, str | Row]:
    return {f"{ours}.frequencies": f"{theirs}.proj", **_layers(ours, f"{theirs}.mlp")}


def _layers(ours: str, theirs: str) -> dict[str, str | Row]:
    return {f"{ours}.up": f"{theirs}.0", f"{ours}.down": f"{theirs}.3"}


def _block(ours: str, theirs: str, axis: str) -> dict[str, str | Row]:
    attention, network = f"{theirs}.mhaBlock{axis}", f"{theirs}.fnnBlock{axis}"
    return {
        f"{ours}.query": Transposed((f"{attention}.module.q_proj_weight",)),
        f"{ours}.key_value": Transposed(tuple(f"{attention}.module.{part}_proj_weight" for part in "kv")),
        f"{ours}.out": Scaled(f"{attention}.module.out_proj", f"{attention}.scale"),
        f"{ours}.up": f"{network}.module.0",
        f"{ours}.down": Scaled(f"{network}.module.3", f"{network}.scale"),
    }
