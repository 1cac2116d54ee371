"""Published files of networks, by the tables that weights are read with: names, shapes, and what they become."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mt3_infer.models.mr_mt3.network import RememberingT5
from mt3_infer.models.t5 import T5, T5Config
from mt3_infer.models.yourmt3 import network as yourmt3
from mt3_infer.models.yourmt3.config import YourMT3Config
from mt3_infer.models.yourmt3.perceiver import PerceiverConfig
from mt3_infer.weights.mt3 import from_published_mt3, mt3_table
from mt3_infer.weights.names import Shape, Weights, published_shapes


def mt3_network(config: T5Config, *, memory: bool = False) -> T5:
    with torch.device("meta"):
        return RememberingT5(config, 64) if memory else T5(config)


def mt3_shapes(config: T5Config, *, memory: bool = False) -> dict[str, Shape]:
    return published_shapes(mt3_network(config, memory=memory), mt3_table(config.num_decoder_layers))


def mt3_weights(published: Mapping[str, Tensor], config: T5Config, *, memory: bool = False) -> Weights:
    network = mt3_network(config, memory=memory)
    return from_published_mt3(published, network, config.num_decoder_layers, memory=memory)


def yourmt3_shapes(config: YourMT3Config, *, layer_norm: bool = True) -> dict[str, Shape]:
    if config.perceiver is not None:
        values = {**vars(config.perceiver), "layer_norm": layer_norm}
        config = YourMT3Config(**{**vars(config), "perceiver": PerceiverConfig(**values)})
    with torch.device("meta"):
        return published_shapes(yourmt3.YourMT3Network(config), yourmt3.table_of(config))
