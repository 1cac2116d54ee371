"""The table of MT3 and MR-MT3, under the names of MT3-PyTorch, and of the parts that other networks share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mt3_infer.errors import WeightsError
from mt3_infer.weights.names import Joined, Row, Table, Weights, from_published

COPIES = {
    "encoder.embed_tokens.weight": "proj.weight",
    "decoder.embed_tokens.weight": "decoder_embed_tokens.weight",
    "segmem_encoder.embed_tokens.weight": "segmem_proj.weight",
}
"""Parameters that the published file holds twice; either name will do."""

BUFFERS = {f"{stack}.pos_emb.inv_freq" for stack in ("encoder", "decoder", "segmem_encoder")}
"""Parameters of positions, which the network computes itself."""


def mt3_table(decoder_layers: int) -> Table:
    """Return the table of `mt3_infer.models.t5.T5`, with and without MR-MT3's memory."""
    return {
        "encoder.projection": "proj",
        **encoder_rows("encoder", "encoder"),
        "decoder.embedding": "decoder_embed_tokens",
        "decoder.logits": "lm_head",
        **decoder_rows("decoder", "decoder", decoder_layers),
        "memory.projection": "segmem_proj",
        "memory.norm": "segmem_encoder.final_layer_norm",
        **_sublayers("memory.layer", "segmem_encoder.block.0", feed_forward=1),
    }


def encoder_rows(ours: str, theirs: str) -> dict[str, str | Row]:
    """Return the rows of a T5 encoder's layers."""
    return {
        f"{ours}.norm": f"{theirs}.final_layer_norm",
        **_sublayers(f"{ours}.layers.#", f"{theirs}.block.#", feed_forward=1),
    }


def decoder_rows(ours: str, theirs: str, layers: int) -> dict[str, str | Row]:
    """Return the rows of a T5 decoder's layers."""
    layer, cross = f"{ours}.layers.#", f"{theirs}.block.#.layer.1"
    return {
        f"{ours}.norm": f"{theirs}.final_layer_norm",
        f"{ours}.cross_key_value": Joined(
            tuple(
                f"{theirs}.block.{number}.layer.1.EncDecAttention.{part}"
                for number in range(layers)
                for part in "kv"
            )
        ),
        **_sublayers(layer, f"{theirs}.block.#", feed_forward=2),
        f"{layer}.cross_norm": f"{cross}.layer_norm",
        f"{layer}.cross_query": f"{cross}.EncDecAttention.q",
        f"{layer}.cross_out": f"{cross}.EncDecAttention.o",
    }


def _sublayers(ours: str, theirs: str, *, feed_forward: int) -> dict[str, str | Row]:
    """Return the rows of a layer's self-attention, and of its feed-forward block, which stands at that place."""
    attention, fed = f"{theirs}.layer.0.SelfAttention", f"{theirs}.layer.{feed_forward}"
    return {
        f"{ours}.norm": f"{theirs}.layer.0.layer_norm",
        f"{ours}.query_key_value": Joined(tuple(f"{attention}.{part}" for part in "qkv")),
        f"{ours}.out": f"{attention}.o",
        f"{ours}.feed_forward.norm": f"{fed}.layer_norm",
        f"{ours}.feed_forward.gate": f"{fed}.DenseReluDense.wi_0",
        f"{ours}.feed_forward.up": f"{fed}.DenseReluDense.wi_1",
        f"{ours}.feed_forward.down": f"{fed}.DenseReluDense.wo",
    }


def from_published_mt3(
    published: Mapping[str, Tensor], network: nn.Module, decoder_layers: int, *, memory: bool = False
) -> Weights:
    """Return MT3's published weights, or MR-MT3's, under the names of the network that they are for.

    Raises:
        WeightsError: they are another network's, or parameters are missing, unknown, or of another shape.
    """
    published = _without_copies(published)
    _check_kind(published, memory=memory)
    title = "MR-MT3" if memory else "MT3"
    return from_published(published, network, mt3_table(decoder_layers), title=title)


def _without_copies(published: Mapping[str, Tensor]) -> Weights:
    kept = {name: weight for name, weight in published.items() if name not in BUFFERS}
    for copy, original in COPIES.items():
        if copy not in kept:
            continue
        weight = kept.pop(copy)
        if not torch.equal(kept.setdefault(original, weight), weight):
            raise WeightsError(f"The weights hold {original} twice, and {copy} differs from it.")
    return kept


def _check_kind(published: Mapping[str, Tensor], *, memory: bool) -> None:
    """Distinguish networks that are the same but for the memory: others publish MT3's weights as MR-MT3's."""
    has_memory = any(name.startswith("segmem_") for name in published)
    if has_memory and not memory:
        raise WeightsError('These are weights of MR-MT3, which has a memory: load them with model="mr_mt3".')
    if memory and not has_memory and "proj.weight" in published:
        raise WeightsError('These are weights of MT3, which has no memory: load them with model="mt3_pytorch".')
