"""Measure the speed of MT3 beside `mt3-infer==0.2.0` on the same weights, audio and features.

    python bench/mt3.py                                 ours and, if its environment is there, the peer
    python bench/mt3.py --device cuda --minutes 1 --minutes 10 --minutes 60

Each measurement runs in a process of its own, so that its memory peak is its own; runs are repeated and the median
counts. See bench/README.md.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import dense_mix
import numpy as np
import torch

from mt3_infer.audio import open_audio
from mt3_infer.audio.segments import Segment, split_segments
from mt3_infer.inference.cuda_graphs import STEPS, BlockStepper
from mt3_infer.inference.devices import DTYPES
from mt3_infer.inference.engine import RequestId
from mt3_infer.models.mt3.config import FRAMES, GRID
from mt3_infer.models.mt3.network import MT3, load
from mt3_infer.models.t5 import T5Config
from mt3_infer.symbolic.vocabulary import END
from mt3_infer.weights.files import read_weights

ROOT = Path(__file__).parents[1]
CHORALE = ROOT / "tests" / "data" / "bach_piano.flac"
SAMPLE_RATE = 16_000  # Hz
PEER = ROOT / ".venv-peer" / "bin" / "python"
MIX = 180.0  # seconds of the dense mix
PEER_HEARS = 12.0  # and what the peer gets of it: it takes several times as long as the mix lasts


@dataclass(frozen=True)
class Measurement:
    """One line of the result; times in seconds, rates in products and sums a second, memory in bytes."""

    name: str
    audio_seconds: float
    seconds: float
    tokens: int
    memory: int
    encoder_rate: float = 0.0
    encoder_limit: float = 0.0
    decoder_reads: float = 0.0  # bytes a second, while all slots are taken
    memory_limit: float = 0.0


def recording(audio: Path, minutes: float | None) -> np.ndarray:
    """The recording, repeated to a length if one is given; mono at 16 kHz."""
    with open_audio(audio, sample_rate=SAMPLE_RATE) as stream:
        waveform = np.concatenate(list(stream))
    if minutes is not None:
        length = round(minutes * 60 * SAMPLE_RATE)
        waveform = np.tile(waveform, -(-length // len(waveform)))[:length]
    return waveform


def encoder_work(config: T5Config, frames: int) -> float:
    """Products and sums that encoding one segment takes, keys and values for the decoder included."""
    layer = 4 * config.d_model * config.d_inner + 3 * config.d_model * config.d_ff
    weights = config.n_features * config.d_model + config.num_encoder_layers * layer
    weights += config.num_decoder_layers * 2 * config.d_model * config.d_inner
    attention = config.num_encoder_layers * 2 * frames * config.d_inner
    return 2.0 * frames * (weights + attention)


def matrix_limit(device: torch.device, dtype: torch.dtype) -> float:
    """Products and sums a second in a large matrix product: what the machine can do."""
    size = 2048 if device.type == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2.0 * size**3 / best_of(lambda: torch.mm(a, b), device, times=7)


def best_of(work: Callable[[], object], device: torch.device, times: int) -> float:
    """Seconds that the fastest of several runs took: what others on the machine took away does not count."""
    taken = []
    for _ in range(times):
        wait_for(device)
        started = time.perf_counter()
        work()
        wait_for(device)
        taken.append(time.perf_counter() - started)
    return min(taken)


def wait_for(device: torch.device) -> None:
    """Wait until the GPU has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: by the process, or on the GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def encoder_rate(model: MT3, segments: list[Segment], device: torch.device) -> float:
    """Products and sums a second while encoding, front end included."""
    batch = segments[:1] if device.type == "cpu" else segments[:16]

    @torch.inference_mode()
    def encode() -> None:
        model.network.decoder.segment_keys_values(model.encode(batch))

    work = encoder_work(model.network.config, FRAMES) * len(batch)
    return work / best_of(encode, device, times=10)


def decoder_reads(model: MT3, segments: list[Segment], device: torch.device, dtype: torch.dtype) -> float:
    """Bytes a second that decoding reads while all slots are taken: weights, and the segments' keys and values.

    Those of the tokens, a tenth of the segments' at the end of this, are left out.
    """
    decoder, config = model.decoder, model.network.config
    with torch.inference_mode():
        encoded = model.encode(segments[:1]).repeat(decoder.slots, 1, 1)
    endless = torch.zeros(config.vocabulary_size, device=device)
    endless[END] = -torch.inf
    ids = [RequestId(None, slot) for slot in range(decoder.slots)]
    decoder.add_requests(encoded, ids, [endless] * decoder.slots)
    tokens_each = STEPS if isinstance(decoder.stepper, BlockStepper) else 1
    seconds = best_of(decoder.step, device, times=10) / tokens_each
    decoder.abort(lambda _: True)
    layer = 6 * config.d_model * config.d_inner + 3 * config.d_model * config.d_ff
    weights = (config.num_decoder_layers * layer + config.vocabulary_size * config.d_model) * dtype.itemsize
    frames = FRAMES
    seen = (
        2
        * config.num_decoder_layers
        * config.d_inner
        * frames
        * decoder.slots
        * decoder.stepper.cache.dtype.itemsize
    )
    return (weights + seen) / seconds


def memory_limit(device: torch.device) -> float:
    """Bytes a second that a large copy reads and writes: what the machine can do."""
    source = torch.ones(2**26 if device.type == "cpu" else 2**30, device=device)
    target = torch.empty_like(source)
    return 2.0 * source.nbytes / best_of(lambda: target.copy_(source), device, times=7)


def measure_ours(weights: Path, waveform: np.ndarray, device: torch.device, dtype: str, runs: int) -> Measurement:
    """Waveform to tokens; decoding of the audio file is not in it."""
    model = load(weights, device=str(device), dtype=dtype)
    list(model.tokens([waveform[: 4 * SAMPLE_RATE]]))
    taken, tokens = [], 0
    for _ in range(runs):
        started = time.perf_counter()
        tokens = sum(map(len, model.tokens([waveform])))
        taken.append(time.perf_counter() - started)
    return Measurement(
        name=f"ours, {dtype}",
        audio_seconds=len(waveform) / SAMPLE_RATE,
        seconds=statistics.median(taken),
        tokens=tokens,
        memory=peak_memory(device),
        encoder_rate=encoder_rate(model, list(split_segments([waveform], GRID)), device),
        encoder_limit=matrix_limit(device, DTYPES[dtype]),
        decoder_reads=decoder_reads(model, list(split_segments([waveform], GRID)), device, DTYPES[dtype]),
        memory_limit=memory_limit(device),
    )


def measure_peer(python: Path, weights: Path, waveform: np.ndarray) -> Measurement:
    """The peer's network, fed with our features: its own front end would have it transcribe noise."""
    model = load(weights, device="cpu", dtype="float32")
    features = np.stack([model.features([segment])[0].numpy() for segment in split_segments([waveform], GRID)])
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "features.npy", features)
        torch.save({name: w.float() for name, w in read_weights(weights).items()}, Path(folder) / "weights.pt")
        command = [str(python), str(ROOT / "bench" / "peer.py"), folder, str(weights / "config.json")]
        # The peer's package has our library's name: nothing of ours may lie on its path.
        command.insert(1, "-I")
        result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return Measurement(name="mt3-infer 0.2.0", audio_seconds=len(waveform) / SAMPLE_RATE, **result)


def shown(measured: Measurement, peer: Measurement | None) -> str:
    """A line for a person."""
    times = measured.audio_seconds / measured.seconds
    line = (
        f"{measured.name:18} {measured.audio_seconds:8.1f} s of audio in {measured.seconds:8.2f} s = {times:6.1f}×"
    )
    line += (
        f"  {measured.tokens} tokens ({measured.tokens / measured.seconds:.0f}/s)  {measured.memory / 1e6:.0f} MB"
    )
    if measured.encoder_limit:
        line += f"  encoder {measured.encoder_rate / 1e9:.0f} GFLOP/s"
        line += f" = {measured.encoder_rate / measured.encoder_limit:.0%} of a matrix product's"
        line += f"  decoder {measured.decoder_reads / 1e9:.0f} GB/s"
        line += f" = {measured.decoder_reads / measured.memory_limit:.0%} of a copy's"
    if peer is not None and measured is not peer:
        their_times = peer.audio_seconds / peer.seconds
        line += f"  {times / their_times:.1f} times the peer"
        if peer.audio_seconds < measured.audio_seconds:
            line += f" for each second of audio (it got the first {peer.audio_seconds:.0f} s)"
    return line


@click.command()
@click.option("--audio", type=click.Path(path_type=Path), help="Default: a chorale, and on a CPU a dense mix.")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    default=Path(os.environ.get("MT3_TEST_WEIGHTS", ROOT.parent / "shared" / "weights")) / "mt3",
    help="Directory with the published weights and their config.json.",
)
@click.option("--device", default="cpu", show_default=True)
@click.option("--dtype", "dtypes", multiple=True, help="Default: float32 and bfloat16.")
@click.option("--minutes", multiple=True, type=float, help="Repeat the recording to this length.")
@click.option("--runs", default=3, show_default=True)
@click.option("--peer", type=click.Path(path_type=Path), default=PEER, help="Python with the peer installed.")
@click.option("--only", hidden=True, help="What a process of its own measures.")
def main(
    audio: Path | None,
    weights: Path,
    device: str,
    dtypes: tuple[str, ...],
    minutes: tuple[float, ...],
    runs: int,
    peer: Path,
    only: str | None,
) -> None:
    """Measure MT3 on this machine."""
    if not weights.is_dir():
        raise click.ClickException(f"No weights in {weights}: name their folder with --weights.")
    if only is not None:
        waveform = recording(audio or CHORALE, minutes[0] if minutes else None)
        if only == "peer":
            measured = measure_peer(peer, weights, waveform)
        else:
            measured = measure_ours(weights, waveform, torch.device(device), only, runs)
        click.echo(json.dumps(asdict(measured)))
        return
    common = ["--weights", str(weights), "--device", device, "--runs", str(runs), "--peer", str(peer)]
    dtypes = dtypes or ("float32", "bfloat16")
    with_peer = device == "cpu" and peer.exists() and not minutes
    for length in minutes or (None,):
        compare(audio or CHORALE, common, dtypes, ours=length, theirs=None, with_peer=with_peer)
    if audio is None and device == "cpu" and not minutes:
        with tempfile.TemporaryDirectory() as folder:
            mix = Path(folder) / "dense_mix.wav"
            dense_mix.write(mix, MIX)
            click.echo("A dense mix:")
            compare(mix, common, dtypes, ours=None, theirs=PEER_HEARS / 60, with_peer=with_peer)


def compare(
    audio: Path,
    common: list[str],
    dtypes: tuple[str, ...],
    *,
    ours: float | None,
    theirs: float | None,
    with_peer: bool,
) -> None:
    """Print a line for the peer and one for each type; `ours` and `theirs`: minutes that each of us gets."""

    def arguments(minutes: float | None) -> list[str]:
        return [*common, "--audio", str(audio)] + (["--minutes", str(minutes)] if minutes else [])

    measured_peer = in_own_process(arguments(theirs), "peer") if with_peer else None
    if measured_peer is not None:
        click.echo(shown(measured_peer, measured_peer))
    for dtype in dtypes:
        click.echo(shown(in_own_process(arguments(ours), dtype), measured_peer))


def in_own_process(arguments: list[str], only: str) -> Measurement:
    """Measure one thing in a fresh process."""
    command = [sys.executable, __file__, *arguments, "--only", only]
    return Measurement(**json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


if __name__ == "__main__":
    main()
