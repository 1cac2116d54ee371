"""YourMT3's published parameter names → ours, and which of its networks a file holds.

Its files are Lightning checkpoints: two thirds of them are the optimizer's, and they name classes of the project
that wrote them. Only the tensors are read; see `mt3_infer.weights`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mt3_infer.errors import WeightsError
from mt3_infer.models.perceiver import PerceiverConfig, spatial_frequencies, temporal_frequencies
from mt3_infer.models.state_dicts import (
    Weights,
    check_names_and_shapes,
    feed_forward_weights,
    self_attention_weights,
)
from mt3_infer.models.t5 import Positions, T5Config, sinusoids
from mt3_infer.spectrogram import NormalisedSpectrogramConfig

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
    front_end: NormalisedSpectrogramConfig = field(default_factory=NormalisedSpectrogramConfig)

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
    front_end=NormalisedSpectrogramConfig(hop_length=128, n_mels=512),
)

ROWS = {"YPTF.MoE+Multi": "yourmt3", "YPTF+Multi": "yourmt3_multi_ps"}
ROWS |= {"YPTF+Single": "yourmt3_single", "YMT3+": "yourmt3_plus", "MT3": "mt3_pytorch", "MR-MT3": "mr_mt3"}
"""Which row of the table of models a network belongs to."""

# --- Files
# ------------------------------------------------------------------------------------------------------------


def title_of(names: Iterable[str]) -> str | None:
    """What a network with these parameters is called; None where nobody knows."""
    names = {name.removeprefix("model.") for name in names}

    def has(part: str) -> bool:
        return any(part in name for name in names)

    marks = [
        ("encoder.encoder.block.", PLUS.title),
        (".mlp.experts.", MOE.title),
        ("pre_decoder.0.projection_layer.", SINGLE.title),
        ("pre_decoder.0.linear.", MULTI.title),
        ("segmem", "MR-MT3"),
        ("decoder_embed_tokens.weight", "MT3"),
    ]
    return next((title for mark, title in marks if has(mark)), None)


# --- Parameter names
# ------------------------------------------------------------------------------------------------------------


def from_published_yourmt3(weights: Mapping[str, Tensor], config: YourMT3Config) -> Weights:
    """The authors' names → those of `mt3_infer.models.yourmt3.Network`.

    Matrices that are multiplied together are joined, the batch norms go into the convolutions before them, and the
    factor before the logits into their weights. Left out are tables that we compute (if they are those), and the
    pitch shift of training.

    Raises:
        WeightsError: they are another network's, or parameters are missing, unknown, or of another shape.
    """
    title = title_of(weights)
    if title is not None and title != config.title:
        raise WeightsError(
            f'These are weights of {title}, not of {config.title}: load them with model="{ROWS[title]}".'
        )
    weights = {name: weight for name, weight in weights.items() if "pitchshift" not in name}
    weights = _without_tables(weights, config)
    check_names_and_shapes(weights, published_yourmt3_shapes(config, layer_norm=has_layer_norm(weights)))
    ours = _decoder(weights, config.t5)
    if config.perceiver is None:
        ours |= _t5_encoder(weights, config.t5)
    else:
        ours |= _perceiver(weights, config.perceiver)
        ours["projection.weight"] = weights[f"{_projection(config)}.weight"]
    return {name: weight.to(torch.float32) for name, weight in ours.items()}


def has_layer_norm(weights: Mapping[str, Tensor]) -> bool:
    """Whether the norms of a Perceiver-TF have biases. The published files say otherwise of themselves."""
    return "encoder.blocks.0.local_transformer.0.layernorm.bias" in weights


def _projection(config: YourMT3Config) -> str:
    return "pre_decoder.0.linear" if config.channels > 1 else "pre_decoder.0.projection_layer"


def _decoder(weights: Mapping[str, Tensor], t5: T5Config) -> Weights:
    ours: Weights = {
        "decoder.embedding.weight": weights["embed_tokens.weight"],
        "decoder.norm.weight": weights["decoder.decoder.final_layer_norm.weight"],
        "decoder.logits.weight": weights["lm_head.lm_head.weight"].float() * t5.d_model**-0.5,
        "decoder.cross_key_value.weight": torch.cat(
            [
                weights[f"decoder.decoder.block.{layer}.layer.1.EncDecAttention.{part}.weight"]
                for layer in range(t5.num_decoder_layers)
                for part in "kv"
            ]
        ),
    }
    for layer in range(t5.num_decoder_layers):
        theirs, our = f"decoder.decoder.block.{layer}.layer", f"decoder.layers.{layer}"
        ours |= self_attention_weights(weights, f"{theirs}.0", our)
        ours[f"{our}.cross_norm.weight"] = weights[f"{theirs}.1.layer_norm.weight"]
        ours[f"{our}.cross_query.weight"] = weights[f"{theirs}.1.EncDecAttention.q.weight"]
        ours[f"{our}.cross_out.weight"] = weights[f"{theirs}.1.EncDecAttention.o.weight"]
        ours |= feed_forward_weights(weights, f"{theirs}.2", our)
    return ours


def _t5_encoder(weights: Mapping[str, Tensor], t5: T5Config) -> Weights:
    ours: Weights = {"encoder.norm.weight": weights["encoder.encoder.final_layer_norm.weight"]}
    for layer in range(t5.num_encoder_layers):
        theirs, our = f"encoder.encoder.block.{layer}.layer", f"encoder.layers.{layer}"
        ours |= self_attention_weights(weights, f"{theirs}.0", our)
        ours |= feed_forward_weights(weights, f"{theirs}.1", our)
    return ours


def _perceiver(weights: Mapping[str, Tensor], config: PerceiverConfig) -> Weights:
    ours: Weights = {"encoder.latents": weights["encoder.latent_array.latents"]}
    if not config.rotary:
        ours["encoder.positions"] = weights["encoder.pos_emb._pos_emb"]
    for number in range(config.num_convolutions):
        theirs, our = f"pre_encoder.0.blocks.{number}", f"encoder.pre_encoder.blocks.{number}"
        ours |= _convolution(weights, f"{theirs}.conv1", f"{theirs}.bn1", f"{our}.first")
        ours |= _convolution(weights, f"{theirs}.conv2", f"{theirs}.bn2", f"{our}.second")
        if number == 0:
            ours |= _renamed(weights, f"{theirs}.shortcut", f"{our}.shortcut")
    for number in range(config.num_blocks):
        theirs, our = f"encoder.blocks.{number}", f"encoder.blocks.{number}"
        ours |= _attention(weights, f"{theirs}.spectral_cross_attention", f"{our}.spectral", across=True)
        for kind in ("local", "temporal"):
            for layer in range(config.num_layers):
                ours |= _layer(
                    weights, f"{theirs}.{kind}_transformer.{layer}", f"{our}.{kind}_layers.{layer}", config
                )
    return ours


def _convolution(weights: Mapping[str, Tensor], convolution: str, norm: str, ours: str) -> Weights:
    """A convolution with the batch norm after it, whose statistics stand still."""
    mean, variance, gain, bias = (
        weights[f"{norm}.{part}"].double() for part in ("running_mean", "running_var", "weight", "bias")
    )
    scale = gain / (variance + 1e-5).sqrt()
    return {
        f"{ours}.weight": weights[f"{convolution}.weight"] * scale[:, None, None, None],
        f"{ours}.bias": bias - mean * scale,
    }


def _attention(weights: Mapping[str, Tensor], theirs: str, ours: str, *, across: bool = False) -> Weights:
    joined = {"key_value": ["key", "value"]} if across else {"query_key_value": ["query", "key", "value"]}
    renamed = _renamed(weights, f"{theirs}.self.layernorm1", f"{ours}.norm")
    renamed |= _renamed(weights, f"{theirs}.output.dense", f"{ours}.out")
    if across:
        renamed |= _renamed(weights, f"{theirs}.self.layernorm2", f"{ours}.input_norm")
        renamed |= _renamed(weights, f"{theirs}.self.query", f"{ours}.query")
    return renamed | {
        f"{ours}.{name}.{kind}": torch.cat([weights[f"{theirs}.self.{part}.{kind}"] for part in parts])
        for name, parts in joined.items()
        for kind in ("weight", "bias")
    }


def _layer(weights: Mapping[str, Tensor], theirs: str, ours: str, config: PerceiverConfig) -> Weights:
    renamed = _attention(weights, f"{theirs}.attention", f"{ours}.attention")
    renamed |= _renamed(weights, f"{theirs}.layernorm", f"{ours}.norm")
    if not config.experts:
        renamed |= _renamed(weights, f"{theirs}.mlp.dense1", f"{ours}.feed_forward.up")
        return renamed | _renamed(weights, f"{theirs}.mlp.dense2", f"{ours}.feed_forward.down")
    renamed[f"{ours}.feed_forward.router"] = weights[f"{theirs}.mlp.gate.weight"]
    for expert in range(config.experts):
        for their, our in (("w1", "gate"), ("gate", "up"), ("w2", "down")):
            renamed |= _renamed(
                weights, f"{theirs}.mlp.experts.{expert}.{their}", f"{ours}.feed_forward.experts.{expert}.{our}"
            )
    return renamed


def _renamed(weights: Mapping[str, Tensor], theirs: str, ours: str) -> Weights:
    """The parameters of one module."""
    names = ((f"{theirs}.{kind}", f"{ours}.{kind}") for kind in ("weight", "bias"))
    return {our: weights[their] for their, our in names if their in weights}


# --- Tables and shapes
# ------------------------------------------------------------------------------------------------------------


def _without_tables(weights: Mapping[str, Tensor], config: YourMT3Config) -> Weights:
    """Leave out what we compute ourselves; what is not as we compute it was trained otherwise."""
    kept = {}
    for name, weight in weights.items():
        if name.startswith("spectrogram.") or name.endswith("num_batches_tracked"):
            continue
        if name.endswith("additive_pe.weight"):
            ours = sinusoids(config.t5)
        elif name.endswith(".freqs"):
            along = "rotary_emb_temporal" in name or "temporal_transformer" in name
            ours = temporal_frequencies() if along else spatial_frequencies()
        else:
            kept[name] = weight
            continue
        if weight.shape != ours.shape or not torch.allclose(weight.float(), ours, rtol=1e-2, atol=1e-2):
            raise WeightsError(f"These weights were trained with other positions than {config.title}: {name}.")
    return kept


def published_yourmt3_shapes(config: YourMT3Config, *, layer_norm: bool = True) -> dict[str, tuple[int, ...]]:
    """Every parameter that has to be there, under its published name, with its shape."""
    t5 = config.t5
    shapes: dict[str, tuple[int, ...]] = {
        "lm_head.lm_head.weight": (t5.vocabulary_size, t5.d_model),
        "embed_tokens.weight": (t5.vocabulary_size, t5.d_model),
        "decoder.decoder.final_layer_norm.weight": (t5.d_model,),
    }
    for layer in range(t5.num_decoder_layers):
        shapes.update(_t5_shapes(f"decoder.decoder.block.{layer}", t5, ["SelfAttention", "EncDecAttention"]))
    if config.perceiver is None:
        shapes["encoder.encoder.final_layer_norm.weight"] = (t5.d_model,)
        for layer in range(t5.num_encoder_layers):
            shapes.update(_t5_shapes(f"encoder.encoder.block.{layer}", t5, ["SelfAttention"]))
    else:
        shapes[f"{_projection(config)}.weight"] = (t5.d_model, config.d_channel)
        shapes.update(_convolution_shapes(config.perceiver))
        shapes.update(_perceiver_shapes(config.perceiver, layer_norm))
    return shapes


def _t5_shapes(name: str, t5: T5Config, attentions: list[str]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for place, kind in enumerate(attentions):
        yield f"{name}.layer.{place}.layer_norm.weight", (t5.d_model,)
        for part in "qkv":
            yield f"{name}.layer.{place}.{kind}.{part}.weight", (t5.d_inner, t5.d_model)
        yield f"{name}.layer.{place}.{kind}.o.weight", (t5.d_model, t5.d_inner)
    name = f"{name}.layer.{len(attentions)}"
    yield f"{name}.layer_norm.weight", (t5.d_model,)
    for part in ("wi_0", "wi_1"):
        yield f"{name}.DenseReluDense.{part}.weight", (t5.d_ff, t5.d_model)
    yield f"{name}.DenseReluDense.wo.weight", (t5.d_model, t5.d_ff)


def _convolution_shapes(config: PerceiverConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    channels = config.channels
    for number in range(config.num_convolutions):
        name = f"pre_encoder.0.blocks.{number}"
        n_in = channels if number else 1
        yield f"{name}.conv1.weight", (channels, n_in, 3, 3)
        yield f"{name}.conv2.weight", (channels, channels, 3, 3)
        for norm in ("bn1", "bn2"):
            for part in ("weight", "bias", "running_mean", "running_var"):
                yield f"{name}.{norm}.{part}", (channels,)
        if not number:
            yield f"{name}.shortcut.weight", (channels, n_in, 1, 1)
            yield f"{name}.shortcut.bias", (channels,)


def _perceiver_shapes(config: PerceiverConfig, layer_norm: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, norm_parts = config.width, ("weight", "bias") if layer_norm else ("weight",)

    def product(name: str, n_in: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", (width, n_in)
        yield f"{name}.bias", (width,)

    def attention(name: str, norms: dict[str, int], n_in: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        for norm, size in norms.items():
            yield from ((f"{name}.self.{norm}.{part}", (size,)) for part in norm_parts)
        yield from product(f"{name}.self.query", width)
        yield from product(f"{name}.self.key", n_in)
        yield from product(f"{name}.self.value", n_in)
        yield from product(f"{name}.output.dense", width)

    yield "encoder.latent_array.latents", (config.latents, width)
    if not config.rotary:
        yield "encoder.pos_emb._pos_emb", (config.max_frames, config.latents, width)
    for block in range(config.num_blocks):
        name = f"encoder.blocks.{block}"
        norms = {"layernorm1": width, "layernorm2": config.bins}
        yield from attention(f"{name}.spectral_cross_attention", norms, config.bins)
        for layer in (
            f"{kind}_transformer.{i}" for kind in ("local", "temporal") for i in range(config.num_layers)
        ):
            yield from attention(f"{name}.{layer}.attention", {"layernorm1": width}, width)
            yield from ((f"{name}.{layer}.layernorm.{part}", (width,)) for part in norm_parts)
            if not config.experts:
                yield from product(f"{name}.{layer}.mlp.dense1", width)
                yield from product(f"{name}.{layer}.mlp.dense2", width)
                continue
            yield f"{name}.{layer}.mlp.gate.weight", (config.experts, width)
            for expert in range(config.experts):
                experts = f"{name}.{layer}.mlp.experts.{expert}"
                yield f"{experts}.w1.weight", (config.d_expert, width)
                yield f"{experts}.gate.weight", (config.d_expert, width)
                yield f"{experts}.w2.weight", (width, config.d_expert)
