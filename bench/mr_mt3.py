"""Measure the speed of MR-MT3 beside the loop that its authors published.

    python bench/mr_mt3.py                  1 recording and 8 together, on the CPU
    python bench/mr_mt3.py --device cuda --recordings 1 --recordings 8 --recordings 32

The published loop takes one recording and one segment at a time, and computes the whole sequence anew for each
token: no cache, the segment's keys and values and the logits of all tokens included. It is written here on our
network's modules, with PyTorch's own products and fused attention, and does the same arithmetic.

Weights are random, of the published size: every segment yields the same number of tokens, and both sides yield the
same ones. Front end and encoder are in both times; audio decoding and notes are in neither.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mt3_infer.audio import open_audio
from mt3_infer.audio.segments import Segment, split_segments
from mt3_infer.inference.devices import DTYPES
from mt3_infer.inference.threads import run_in_fresh_thread
from mt3_infer.models import MT3Options
from mt3_infer.models.mr_mt3.network import MRMT3, RememberingT5
from mt3_infer.models.mt3 import config as training
from mt3_infer.models.mt3 import network as mt3
from mt3_infer.models.mt3.config import GRID
from mt3_infer.models.t5 import T5Config
from mt3_infer.symbolic.vocabulary import END, PAD
from mt3_infer.weights.mt3 import mt3_table
from mt3_infer.weights.names import Weights, published_shapes

ROOT = Path(__file__).parents[1]


def random_weights() -> Weights:
    """Of the published size; the end is never output."""
    generator = torch.Generator().manual_seed(1)
    with torch.device("meta"):
        shapes = published_shapes(RememberingT5(T5Config(), 64), mt3_table(T5Config().num_decoder_layers))
    weights = {
        name: torch.ones(shape)
        if len(shape) == 1
        else torch.empty(shape).normal_(0.0, 1 / math.sqrt(shape[1]), generator=generator)
        for name, shape in sorted(shapes.items())
    }
    weights["decoder_embed_tokens.weight"] *= 20
    weights["lm_head.weight"][END] = 0.0
    return weights


class PublishedLoop:
    """One segment at a time, everything anew for each token. Its network is not prepared for the device."""

    def __init__(self, network: RememberingT5, front_end: MRMT3) -> None:
        self._network = network
        self._front_end = front_end

    @torch.inference_mode()
    def read(self, segments: list[Segment], tokens: int) -> Iterator[list[int]]:
        """Token ids of each segment."""
        network = self._network
        device = network.decoder.embedding.weight.device
        start = self._front_end.setup.memory_start.token_ids
        before = torch.tensor([start + [PAD] * (1024 - len(start))], device=device)
        for segment in segments:
            encoded = network.encoder(self._front_end.features([segment]))
            memory = self._memory(before)
            seen = torch.cat([encoded, memory[:, : network.memory.rows]], dim=1)
            output = torch.tensor([[PAD]], device=device)
            while output.shape[1] <= tokens and output[0, -1] != END:
                chosen = self._logits(output, seen)[:, -1].argmax(dim=1, keepdim=True)
                output = torch.cat([output, chosen], dim=1)
            yield output[0, 1:].tolist()
            before = functional.pad(output, (0, 1024 - output.shape[1]), value=PAD)[:, :1024]

    def _memory(self, token_ids: Tensor) -> Tensor:
        memory = self._network.memory
        x = memory.projection(self._network.decoder.embedding(token_ids)) + memory.positions
        normed: Tensor = memory.norm(memory.layer(x), torch.float32)
        return normed

    def _logits(self, token_ids: Tensor, seen: Tensor) -> Tensor:
        decoder = self._network.decoder
        config = decoder.config
        x = decoder.embedding(token_ids) + decoder.positions[: token_ids.shape[1]]
        cross = decoder.cross_key_value.weight.chunk(config.num_decoder_layers)
        for layer, weight in zip(decoder.layers, cross, strict=True):
            query, key, value = heads(layer.query_key_value(layer.norm(x, x.dtype)), 3, config)
            x = layer.out.plus(attend(query, key, value, causal=True), x)
            (query,) = heads(layer.cross_query(layer.cross_norm(x, x.dtype)), 1, config)
            key, value = heads(functional.linear(seen, weight), 2, config)
            x = layer.cross_out.plus(attend(query, key, value, causal=False), x)
            x = layer.feed_forward(x)
        logits: Tensor = decoder.logits(decoder.norm(x, x.dtype))
        return logits


def heads(projected: Tensor, parts: int, config: T5Config) -> Tensor:
    """Shape (parts, B, H, L, K)."""
    shape = (*projected.shape[:2], parts, config.num_heads, config.d_kv)
    return projected.view(shape).permute(2, 0, 3, 1, 4)


def attend(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
    """Shape (B, L, H × K)."""
    seen = functional.scaled_dot_product_attention(query, key, value, is_causal=causal, scale=1.0)
    return seen.transpose(1, 2).flatten(2)


def recordings(audio: Path, count: int, segments: int) -> list[list[Segment]]:
    """Different stretches of one recording, of so many segments each."""
    with open_audio(audio, sample_rate=GRID.sample_rate) as stream:
        waveform = np.concatenate(list(stream))
    long = np.tile(waveform, -(-(count + segments) * GRID.hop // len(waveform)))
    return [list(split_segments([long[first * GRID.hop :]], GRID, stop=segments)) for first in range(count)]


def build(device: torch.device, dtype: torch.dtype) -> tuple[MRMT3, PublishedLoop]:
    """Ours and theirs, with the same weights."""
    weights = random_weights()
    config = T5Config(positions=training.MR_MT3.positions)
    ours = MRMT3(
        MRMT3.build(weights, config, training.MR_MT3), training.MR_MT3, device=device, compute_dtype=dtype
    )
    return ours, PublishedLoop(MRMT3.build(weights, config, training.MR_MT3).to(device), ours)


@click.command()
@click.option("--audio", type=click.Path(path_type=Path), default=ROOT / "tests" / "data" / "bach_piano.flac")
@click.option("--recordings", "counts", multiple=True, type=int, help="Transcribed together. Default: 1 and 8.")
@click.option("--segments", default=4, show_default=True, help="In each recording.")
@click.option("--tokens", default=60, show_default=True, help="In each segment; 40 to 100 are usual.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--dtype", default="float32", show_default=True, help="Of ours; bfloat16 may yield other tokens.")
@click.option("--runs", default=3, show_default=True, help="Of ours, of which the median counts.")
def main(
    audio: Path, counts: tuple[int, ...], segments: int, tokens: int, device: str, dtype: str, runs: int
) -> None:
    """Measure MR-MT3 on this machine."""
    mt3.MAX_TOKENS = tokens
    counts = counts or (1, 8)
    ours, loop = run_in_fresh_thread(build, torch.device(device), DTYPES[dtype])
    clips = recordings(audio, max(counts), segments)
    run_in_fresh_thread(lambda: list(loop.read(clips[0][:1], 8)))
    list(ours.infer(clips[0][:2], MT3Options()))
    for count in counts:
        started = time.perf_counter()
        expected = run_in_fresh_thread(lambda count=count: [list(loop.read(one, tokens)) for one in clips[:count]])
        theirs = time.perf_counter() - started
        taken = []
        for _ in range(runs):
            started = time.perf_counter()
            with ThreadPoolExecutor(count) as threads:
                output = list(threads.map(lambda one: list(ours.infer(one, MT3Options())), clips[:count]))
            taken.append(time.perf_counter() - started)
        seconds = sorted(taken)[runs // 2]
        same = sum(a == b for x, y in zip(output, expected, strict=True) for a, b in zip(x, y, strict=True))
        number = sum(len(ids) for one in output for ids in one)
        length = count * segments * GRID.seconds
        click.echo(
            f"{count:3} recordings, {length:.0f} s of audio, {number} tokens (ours and theirs alike in {same} of "
            f"{count * segments} segments): published loop {theirs:.2f} s, ours {seconds:.2f} s = "
            f"{length / seconds:.1f}×, {theirs / seconds:.1f} times the published loop"
        )


if __name__ == "__main__":
    main()
