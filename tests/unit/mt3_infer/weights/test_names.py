"""Tables of parameter names: no row is dead or ambiguous, and they can be read in both directions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import pytest
import torch
from torch import nn

from mt3_infer.errors import WeightsError
from mt3_infer.models.t5 import T5Config
from mt3_infer.models.yourmt3 import network as yourmt3
from mt3_infer.models.yourmt3.config import MOE, MULTI, PLUS, SINGLE
from mt3_infer.weights.mt3 import mt3_table
from mt3_infer.weights.names import BatchNormed, Joined, Table, from_published, published_shapes
from mt3_infer.weights.t5x import NAMES
from tests.unit.mt3_infer.published import mt3_network, mt3_shapes


def unused(table: Table, networks: Iterable[nn.Module]) -> set[str]:
    """Rows that no parameter of any of the networks needs."""
    parameters = {re.sub(r"(?<=\.)\d+(?=\.)", "#", name) for net in networks for name in net.state_dict()}
    return set(table) - parameters - {name.rpartition(".")[0] for name in parameters}


def test_every_row_of_a_table_is_a_module_of_some_network() -> None:
    assert not unused(mt3_table(8), [mt3_network(T5Config(), memory=True)])
    with torch.device("meta"):
        many = [yourmt3.YourMT3Network(config) for config in (MOE, MULTI, SINGLE, PLUS)]
    assert not unused(yourmt3.table_of(MOE), many)


def test_every_t5x_name_is_a_parameter_of_mt3_and_the_other_way_round() -> None:
    pattern = {re.sub(r"(?<=block\.)\d+", "#", name) for name in mt3_shapes(T5Config())}
    assert sorted(NAMES.values()) == sorted(pattern)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 6, bias=True) for _ in range(2)])
        self.convolution = nn.Conv2d(1, 3, 1)
        self.table = nn.Parameter(torch.zeros(2, 2))
        self.logits = nn.Linear(2, 4, bias=False)


TABLE: Mapping[str, object] = {
    "layers.#": Joined(("their.#.a", "their.#.b")),
    "convolution": BatchNormed("conv", "norm"),
    "table": "a.table",
    "logits": Joined(("out",), factor=0.5),
}


def test_rows_join_fold_scale_and_rename() -> None:
    table: Table = TABLE  # type: ignore[assignment]
    shapes = published_shapes(Small(), table)
    assert shapes["their.1.a.weight"] == (3, 2)
    assert shapes["their.0.b.bias"] == (3,)
    assert shapes["norm.running_var"] == (3,)
    generator = torch.Generator().manual_seed(1)
    published = {name: torch.rand(shape, generator=generator) for name, shape in sorted(shapes.items())}
    network = Small()
    network.load_state_dict(from_published(published, network, table, title="Small"), strict=True)
    joined = torch.cat([published["their.1.a.weight"], published["their.1.b.weight"]])
    assert torch.equal(network.state_dict()["layers.1.weight"], joined)
    assert torch.equal(network.table, published["a.table"])
    assert torch.equal(network.logits.weight, published["out.weight"] / 2)
    norm = nn.BatchNorm2d(3).eval()
    norm.load_state_dict({name[5:]: value for name, value in published.items() if name.startswith("norm.")}, False)
    x = torch.rand(1, 1, 2, 2, generator=generator)
    expected = norm(nn.functional.conv2d(x, published["conv.weight"]))
    torch.testing.assert_close(network.convolution(x), expected)


def test_half_precision_is_scaled_and_folded_in_float() -> None:
    table: Table = TABLE  # type: ignore[assignment]
    published = {name: torch.rand(shape).half() for name, shape in published_shapes(Small(), table).items()}
    ours = from_published(published, Small(), table, title="Small")
    assert {weight.dtype for weight in ours.values()} == {torch.float32}
    assert torch.equal(ours["logits.weight"], published["out.weight"].float() / 2)


def test_a_convolution_with_a_bias_of_its_own_is_unknown() -> None:
    table: Table = TABLE  # type: ignore[assignment]
    published = {name: torch.rand(shape) for name, shape in published_shapes(Small(), table).items()}
    with pytest.raises(WeightsError) as caught:
        from_published(published | {"conv.bias": torch.zeros(3)}, Small(), table, title="Small")
    assert str(caught.value) == "The checkpoint does not match Small: unknown conv.bias."
