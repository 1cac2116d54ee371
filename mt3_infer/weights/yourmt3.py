"""The table of YourMT3's networks, and which of them a file holds.

Its files are Lightning checkpoints: two thirds of them are the optimizer's, and they name classes of the project
that wrote them. Only the tensors are read; see `mt3_infer.weights.files`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from mt3_infer.errors import WeightsError
from mt3_infer.weights.mt3 import decoder_rows, encoder_rows
from mt3_infer.weights.names import BatchNormed, Joined, Row, Table, Weights, from_published

MODELS = {
    "YPTF.MoE+Multi": "yourmt3",
    "YPTF+Multi": "yourmt3_multi_ps",
    "YPTF+Single": "yourmt3_single",
    "YMT3+": "yourmt3_plus",
    "MT3": "mt3_pytorch",
    "MR-MT3": "mr_mt3",
}
"""Title of a network → the model that it is loaded as."""

# What a name has in it → the title of the network; the first that fits counts.
_MARKS = {
    "encoder.encoder.block.": "YMT3+",
    ".mlp.experts.": "YPTF.MoE+Multi",
    "pre_decoder.0.projection_layer.": "YPTF+Single",
    "pre_decoder.0.linear.": "YPTF+Multi",
    "segmem": "MR-MT3",
    "decoder_embed_tokens.weight": "MT3",
}


def yourmt3_table(d_model: int, decoder_layers: int, channels: int) -> Table:
    """Return the table of `mt3_infer.models.yourmt3.network.YourMT3Network`, with either encoder."""
    spectral, layers = "encoder.blocks.#.spectral_cross_attention", "encoder.blocks.#.{}_transformer.#"
    return {
        "decoder.embedding": "embed_tokens",
        "decoder.logits": Joined(("lm_head.lm_head",), factor=d_model**-0.5),
        **decoder_rows("decoder", "decoder.decoder", decoder_layers),
        **encoder_rows("encoder", "encoder.encoder"),
        "projection": "pre_decoder.0.linear" if channels > 1 else "pre_decoder.0.projection_layer",
        "encoder.latents": "encoder.latent_array.latents",
        "encoder.positions": "encoder.pos_emb._pos_emb",
        **_convolutions("encoder.pre_encoder.blocks.#", "pre_encoder.0.blocks.#"),
        "encoder.blocks.#.spectral.norm": f"{spectral}.self.layernorm1",
        "encoder.blocks.#.spectral.input_norm": f"{spectral}.self.layernorm2",
        "encoder.blocks.#.spectral.query": f"{spectral}.self.query",
        "encoder.blocks.#.spectral.key_value": Joined((f"{spectral}.self.key", f"{spectral}.self.value")),
        "encoder.blocks.#.spectral.out": f"{spectral}.output.dense",
        **_transformer("encoder.blocks.#.local_layers.#", layers.format("local")),
        **_transformer("encoder.blocks.#.temporal_layers.#", layers.format("temporal")),
    }


def _convolutions(ours: str, theirs: str) -> dict[str, str | Row]:
    return {
        f"{ours}.first": BatchNormed(f"{theirs}.conv1", f"{theirs}.bn1"),
        f"{ours}.second": BatchNormed(f"{theirs}.conv2", f"{theirs}.bn2"),
        f"{ours}.shortcut": f"{theirs}.shortcut",
    }


def _transformer(ours: str, theirs: str) -> dict[str, str | Row]:
    attention, experts = f"{theirs}.attention", f"{theirs}.mlp.experts.#"
    return {
        f"{ours}.attention.norm": f"{attention}.self.layernorm1",
        f"{ours}.attention.query_key_value": Joined(
            tuple(f"{attention}.self.{part}" for part in ("query", "key", "value"))
        ),
        f"{ours}.attention.out": f"{attention}.output.dense",
        f"{ours}.norm": f"{theirs}.layernorm",
        f"{ours}.feed_forward.up": f"{theirs}.mlp.dense1",
        f"{ours}.feed_forward.down": f"{theirs}.mlp.dense2",
        f"{ours}.feed_forward.router": f"{theirs}.mlp.gate.weight",
        f"{ours}.feed_forward.experts.#.gate": f"{experts}.w1",
        f"{ours}.feed_forward.experts.#.up": f"{experts}.gate",
        f"{ours}.feed_forward.experts.#.down": f"{experts}.w2",
    }


def title_of(names: Iterable[str]) -> str | None:
    """Return the title of the network that has these parameters; None where it is not known."""
    names = list(names)
    return next((title for mark, title in _MARKS.items() if any(mark in name for name in names)), None)


def has_layer_norm(published: Iterable[str]) -> bool:
    """Return True if the norms of a Perceiver-TF have biases, whatever the configuration in its file states."""
    return "encoder.blocks.0.local_transformer.0.layernorm.bias" in set(published)


def from_published_yourmt3(
    published: Mapping[str, Tensor],
    network: nn.Module,
    table: Table,
    *,
    title: str,
    computed: Callable[[str], Tensor | None],
) -> Weights:
    """Return the authors' weights under our names.

    Left out are tables that the network computes itself (if they are the same), and the pitch shift of training.

    Args:
        title: of the network that they should be of.
        computed: returns such a table by its name, None for a parameter.
    Raises:
        WeightsError: they are another network's, or parameters are missing, unknown, or of another shape.
    """
    found = title_of(published)
    if found not in (None, title):
        raise WeightsError(
            f'These are weights of {found}, not of {title}: load them with model="{MODELS[found]}".'
        )
    kept = {}
    for name, weight in published.items():
        if name.startswith("spectrogram.") or name.endswith("num_batches_tracked") or "pitchshift" in name:
            continue
        ours = computed(name)
        if ours is None:
            kept[name] = weight
        elif weight.shape != ours.shape or not torch.allclose(weight.float(), ours, rtol=1e-2, atol=1e-2):
            raise WeightsError(f"These weights were trained with other positions than {title}: {name}.")
    return from_published(kept, network, table, title=title)
