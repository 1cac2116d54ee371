"""Published parameter names → a network's own, by one table a family.

A table has a row for each of a network's modules (or parameters that belong to none): what it is called in the
published file. `#` stands for a number, of a layer or an expert; the numbers of both names are the same, in the
same order. Which rows apply, how often, and in which shapes, follows from the network itself; so does what is
missing or unknown in a file, and what a file of that network looks like.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from mt3_infer.errors import WeightsError

Weights: TypeAlias = dict[str, Tensor]
Shape: TypeAlias = tuple[int, ...]

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


class Row(Protocol):
    """The published parameters of one module. A kind is "weight" or "bias", or "" if there is no module."""

    def names(self, kind: str) -> Sequence[str]:
        """Return the published parameters that one of ours is made of."""

    def shape(self, kind: str, name: str, shape: Shape) -> Shape:
        """Return the shape of one of them, given that of ours."""

    def combine(self, kind: str, parts: Sequence[Tensor]) -> Tensor:
        """Return ours, given all of them in the order of `names`."""


@dataclass(frozen=True)
class Joined:
    """Modules whose parameters are stacked, because what they are multiplied with is the same.

    Attributes:
        factor: that the published network has beside its weights.
    """

    modules: tuple[str, ...]
    factor: float | None = None

    def names(self, kind: str) -> Sequence[str]:
        """See `Row`."""
        return [f"{module}.{kind}" if kind else module for module in self.modules]

    def shape(self, kind: str, name: str, shape: Shape) -> Shape:
        """See `Row`."""
        return (shape[0] // len(self.modules), *shape[1:])

    def combine(self, kind: str, parts: Sequence[Tensor]) -> Tensor:
        """See `Row`."""
        joined = torch.cat(list(parts)) if len(parts) > 1 else parts[0]
        return joined if self.factor is None else joined.float() * self.factor


@dataclass(frozen=True)
class BatchNormed:
    """A convolution with the batch norm after it folded in, whose statistics stand still."""

    convolution: str
    norm: str

    def names(self, kind: str) -> Sequence[str]:
        """See `Row`."""
        statistics = [f"{self.norm}.{part}" for part in ("running_var", "weight", "running_mean", "bias")]
        return [f"{self.convolution}.weight", *statistics[:2]] if kind == "weight" else statistics

    def shape(self, kind: str, name: str, shape: Shape) -> Shape:
        """See `Row`."""
        return shape if name == f"{self.convolution}.weight" else shape[:1]

    def combine(self, kind: str, parts: Sequence[Tensor]) -> Tensor:
        """See `Row`."""
        parts = [part.double() for part in parts]
        if kind == "weight":
            weight, variance, gain = parts
            return weight * (gain / (variance + 1e-5).sqrt())[:, None, None, None]
        variance, gain, mean, bias = parts
        return bias - mean * (gain / (variance + 1e-5).sqrt())


Table: TypeAlias = Mapping[str, "str | Row"]
"""Our module (or parameter) → its published name, or a row with more to it."""


@dataclass(frozen=True)
class _Source:
    """The published source of one parameter."""

    row: Row
    kind: str
    names: tuple[str, ...]
    shapes: tuple[Shape, ...]


def from_published(published: Mapping[str, Tensor], network: nn.Module, table: Table, *, title: str) -> Weights:
    """Return published weights under the network's own names, as float32.

    Args:
        title: what messages call the network.
    Raises:
        WeightsError: parameters are missing, unknown, or of another shape.
    """
    sources = _sources(network, table)
    _check(published, _shapes_of(sources), title)
    return {
        ours: source.row.combine(source.kind, [published[name] for name in source.names]).to(torch.float32)
        for ours, source in sources.items()
    }


def published_shapes(network: nn.Module, table: Table) -> dict[str, Shape]:
    """Return every parameter that a published file of this network has, with its shape."""
    return _shapes_of(_sources(network, table))


def _sources(network: nn.Module, table: Table) -> dict[str, _Source]:
    """Expand the table: find the row of each parameter, and put the numbers in."""
    sources = {}
    for ours, weight in network.state_dict().items():
        pattern = _NUMBER.sub("#", ours)
        module, kind = (pattern, "") if pattern in table else tuple(pattern.rsplit(".", 1))
        row = table[module]
        row = Joined((row,)) if isinstance(row, str) else row
        names = [_numbered(name, _NUMBER.findall(ours)) for name in row.names(kind)]
        shapes = [row.shape(kind, name, tuple(weight.shape)) for name in row.names(kind)]
        sources[ours] = _Source(row, kind, tuple(names), tuple(shapes))
    return sources


def _numbered(name: str, numbers: Sequence[str]) -> str:
    left = iter(numbers)
    return re.sub("#", lambda _: next(left), name)


def _shapes_of(sources: Mapping[str, _Source]) -> dict[str, Shape]:
    return {
        name: shape for source in sources.values() for name, shape in zip(source.names, source.shapes, strict=True)
    }


def _check(published: Mapping[str, Tensor], shapes: Mapping[str, Shape], title: str) -> None:
    other = [
        f"{name} {tuple(published[name].shape)} instead of {shape}"
        for name, shape in shapes.items()
        if name in published and tuple(published[name].shape) != shape
    ]
    for what, names in (
        ("missing", sorted(shapes.keys() - published.keys())),
        ("unknown", sorted(published.keys() - shapes.keys())),
        ("of another shape", other),
    ):
        if names:
            raise WeightsError(f"The checkpoint does not match {title}: {what} {_some(names)}.")


def _some(names: Iterable[str]) -> str:
    names = list(names)
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
