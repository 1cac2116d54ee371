"""YourMT3+ on a device: segments in, token ids of each channel out.

The four published kinds of network: their parts are those of `perceiver` and `t5`, their sizes rows of data. Each
channel has some of the instruments; all share one decoder, and differ in what it attends to.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from mt3_infer.audio import Waveform
from mt3_infer.audio.segments import Segment, split_segments
from mt3_infer.audio.spectrogram import NormalizedSpectrogram
from mt3_infer.inference.decoding import MultiChannelDecoder, SlotDecoder, make_decoder
from mt3_infer.inference.devices import check_batch_size, find_device, find_dtype, use_all_cpus
from mt3_infer.inference.engine import Engine, Request, RequestId
from mt3_infer.inference.kv_cache import Limits
from mt3_infer.inference.threads import run_in_fresh_thread
from mt3_infer.models import ModelOptions, YourMT3Options
from mt3_infer.models.linear import Linear, optimize_for_inference
from mt3_infer.models.t5 import Decoder, Encoder, sinusoids
from mt3_infer.models.yourmt3.config import FIRST_END, GRID, MOE, MULTI, PLUS, SINGLE, YourMT3Config
from mt3_infer.models.yourmt3.notes import YourMT3Collector
from mt3_infer.models.yourmt3.perceiver import PerceiverEncoder, spatial_frequencies, temporal_frequencies
from mt3_infer.weights.files import read_weights
from mt3_infer.weights.names import Table, Weights
from mt3_infer.weights.yourmt3 import from_published_yourmt3, has_layer_norm, yourmt3_table


class YourMT3Network(nn.Module):
    """Encoder, what leads from it to the channels, and decoder."""

    def __init__(self, config: YourMT3Config) -> None:
        super().__init__()
        self.config = config
        if config.perceiver is None:
            self.encoder: nn.Module = Encoder(config.t5)
            self.projection = None
        else:
            self.encoder = PerceiverEncoder(config.perceiver)
            self.projection = Linear(config.d_channel, config.t5.d_model)
        self.decoder = Decoder(config.t5)

    def forward(self, features: Tensor) -> Tensor:
        """Return what the channels attend to.

        Args:
            features: shape (B, T, F).
        Returns:
            Shape (B × channels, T, D), the channels of a segment together.
        """
        encoded: Tensor = self.encoder(features)
        if self.projection is None:
            return encoded
        # A channel has latents of its own, side by side: (B, T, K, width) → (B, T, channels, d_channel).
        groups = encoded.reshape(*encoded.shape[:2], self.config.channels, self.config.d_channel)
        projected: Tensor = self.projection(groups.transpose(1, 2).flatten(0, 1).to(self.projection.dtype))
        return projected


def build(weights: Weights, config: YourMT3Config) -> YourMT3Network:
    """Return a network with published weights, not yet prepared for a device."""

    def computed(name: str) -> Tensor | None:
        if name.endswith("additive_pe.weight"):
            return sinusoids(config.t5)
        if name.endswith(".freqs"):
            along = "rotary_emb_temporal" in name or "temporal_transformer" in name
            return temporal_frequencies() if along else spatial_frequencies()
        return None

    network = YourMT3Network(config).eval()
    ours = from_published_yourmt3(weights, network, table_of(config), title=config.title, computed=computed)
    network.load_state_dict(ours, strict=True, assign=True)
    return network


def table_of(config: YourMT3Config) -> Table:
    """Return the names of the network's parameters in its published file."""
    return yourmt3_table(config.t5.d_model, config.t5.num_decoder_layers, config.channels)


def _load(
    checkpoint: Path,
    config: YourMT3Config,
    *,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int | None = None,
) -> YourMT3:
    """Build a network from a checkpoint.

    Args:
        checkpoint: a weight file as published or as safetensors, or a directory with one.
        config: which of the networks.
        device: "auto", "cpu", "cuda" or "cuda:1".
        dtype: "float32", "bfloat16" or "float16"; "auto" is float32 on a CPU and bfloat16 on a GPU.
        batch_size: segments decoded at once.
    Raises:
        WeightsError: the checkpoint is damaged or holds another network.
        InvalidOptionError: a device or type that does not exist here.
    """
    where = find_device(device)
    compute_dtype = find_dtype(dtype, where)
    check_batch_size(batch_size)
    weights = read_weights(checkpoint)
    if config.perceiver is not None:
        config = replace(config, perceiver=replace(config.perceiver, layer_norm=has_layer_norm(weights)))
    return YourMT3(build(weights, config), device=where, compute_dtype=compute_dtype, batch_size=batch_size)


load_moe = partial(run_in_fresh_thread, _load, config=MOE)
load_multi = partial(run_in_fresh_thread, _load, config=MULTI)
load_single = partial(run_in_fresh_thread, _load, config=SINGLE)
load_plus = partial(run_in_fresh_thread, _load, config=PLUS)


class YourMT3:
    """A network on a device; several threads may transcribe at once and share its slots."""

    grid = GRID
    in_order = False

    def __init__(
        self,
        network: YourMT3Network,
        *,
        device: torch.device,
        compute_dtype: torch.dtype,
        batch_size: int | None = None,
    ) -> None:
        self.device = str(device)
        self.config = network.config
        self._where = device
        self._front_end = NormalizedSpectrogram(self.config.front_end, device=device)
        use_all_cpus(device)
        optimize_for_inference(network, device=device, compute_dtype=compute_dtype, keep=("decoder.logits",))
        self.network = network
        on_cpu = device.type == "cpu"
        at_once = batch_size or (52 if on_cpu else 208) // self.config.channels
        limits = Limits(
            slots=at_once * self.config.channels,
            frames=self.config.front_end.frames(GRID.length),
            max_tokens=self.config.max_tokens,
            first_end=FIRST_END,
        )
        cache_dtype = torch.float32 if on_cpu else compute_dtype
        self.decoder: SlotDecoder[tuple[RequestId, int]] = make_decoder(
            network.decoder, limits, device=device, dtype=cache_dtype
        )
        self.slots: MultiChannelDecoder[Segment, RequestId] = MultiChannelDecoder(
            self.encode, self.decoder, channels=self.config.channels
        )
        self.batch_size = at_once
        self._engine: Engine[Segment, list[list[int]]] = Engine(
            self.slots,
            # One at a time on a CPU, which is as fast, so that routing never depends on what is encoded beside.
            add_at_once=1 if on_cpu else 8,
        )

    def infer(
        self, segments: Iterable[Segment], options: ModelOptions, *, previous: list[list[int]] | None = None
    ) -> Generator[list[list[int]]]:
        """See `Network`; a result is the token ids of a segment, by channel."""
        assert isinstance(options, YourMT3Options)
        return self._engine.generate(Request(segment) for segment in segments)

    def collect(self, options: ModelOptions) -> YourMT3Collector:
        """See `Network`."""
        return YourMT3Collector(self.config.channels)

    def tokens(self, blocks: Iterable[Waveform]) -> Generator[list[list[int]]]:
        """Yield the token ids of each segment of a whole recording, mono at 16 kHz."""
        return self.infer(split_segments(blocks, GRID), YourMT3Options())

    @torch.inference_mode()
    def encode(self, segments: Sequence[Segment]) -> Tensor:
        """Return what the channels attend to, shape (B × channels, T, D)."""
        waveforms = torch.stack([torch.from_numpy(segment.waveform) for segment in segments])
        encoded: Tensor = self.network(self._front_end(waveforms.to(self._where)))
        return encoded
