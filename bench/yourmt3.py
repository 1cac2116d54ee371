"""Measure the speed of YourMT3 (YPTF.MoE+Multi) beside `mt3-infer==0.2.0` on the same weights and audio.

    python bench/yourmt3.py [--weights FILE]

Without published weights both get seeded ones of the same sizes, whose sequences end like those of a real network:
few tokens in most channels, many in some. Both then say the same tokens, which is checked.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for the recipe of the seeded weights

from bench.mt3 import SAMPLE_RATE, Measurement, peak_memory, recording, shown  # noqa: E402
from mt3_infer.audio.segments import split_segments  # noqa: E402
from mt3_infer.models.yourmt3.config import GRID  # noqa: E402
from mt3_infer.models.yourmt3.network import load_moe  # noqa: E402
from mt3_infer.symbolic.vocabulary import END  # noqa: E402
from mt3_infer.weights.files import read_weights  # noqa: E402
from tests.parity.seeded_yourmt3 import published  # noqa: E402

PEER = ROOT / ".venv-peer-yourmt3" / "bin" / "python"
LIKELIER_END = 6.0
"""Factor on the weights of the end token: a segment's 13 sequences then have 9 tokens on average, some 256."""


SEGMENTS = 4
"""Of the recording, about 8 s: the peer takes minutes for a chorale."""


def seeded_weights() -> dict[str, torch.Tensor]:
    """Weights whose sequences end."""
    weights = published("yptf_moe_multi")
    weights["lm_head.lm_head.weight"][END] *= LIKELIER_END
    return weights


def checksum(sequences: list[list[int]]) -> int:
    """Equal for equal tokens, and hardly ever for others."""
    return sum(place * token for tokens in sequences for place, token in enumerate(tokens, start=1))


def measure_ours(weights: Path, waveform: np.ndarray, dtype: str, runs: int) -> tuple[Measurement, int]:
    """Waveform to tokens; decoding of the audio file is not in it."""
    model = load_moe(weights, device="cpu", dtype=dtype)
    list(model.tokens([waveform[: GRID.length]]))
    taken, output = [], []
    for _ in range(runs):
        started = time.perf_counter()
        output = [tokens for channels in model.tokens([waveform]) for tokens in channels]
        taken.append(time.perf_counter() - started)
    seconds = statistics.median(taken)
    tokens = sum(map(len, output))
    memory = peak_memory(torch.device("cpu"))
    return Measurement(f"ours, {dtype}", len(waveform) / SAMPLE_RATE, seconds, tokens, memory), checksum(output)


def measure_peer(python: Path, weights: Path, waveform: np.ndarray) -> tuple[Measurement, int]:
    """The peer's network, from segments to tokens."""
    with tempfile.TemporaryDirectory() as folder:
        segments = [segment.waveform for segment in split_segments([waveform], GRID)]
        np.save(Path(folder) / "segments.npy", np.stack(segments))
        torch.save(dict(read_weights(weights)), Path(folder) / "weights.pt")
        # The peer's package has our library's name: nothing of ours may lie on its path.
        command = [str(python), "-I", "-W", "ignore", str(ROOT / "bench" / "peer_yourmt3.py"), folder]
        result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    total = result.pop("sum")
    return Measurement(name="mt3-infer 0.2.0", audio_seconds=len(waveform) / SAMPLE_RATE, **result), total


@click.command()
@click.option("--audio", type=click.Path(path_type=Path), default=ROOT / "tests" / "data" / "bach_piano.flac")
@click.option("--weights", type=click.Path(path_type=Path, exists=True), help="Published ones; else seeded ones.")
@click.option("--dtype", "dtypes", multiple=True, default=("float32", "bfloat16"), show_default=True)
@click.option("--runs", default=3, show_default=True)
@click.option("--peer", type=click.Path(path_type=Path), default=PEER, help="Python with the peer installed.")
@click.option("--only", hidden=True, help="What a process of its own measures.")
def main(
    audio: Path, weights: Path | None, dtypes: tuple[str, ...], runs: int, peer: Path, only: str | None
) -> None:
    """Measure YourMT3 on this machine."""
    if only is not None:
        assert weights is not None
        waveform = recording(audio, None)[: SEGMENTS * GRID.length]
        if only == "peer":
            measured, total = measure_peer(peer, weights, waveform)
        else:
            measured, total = measure_ours(weights, waveform, only, runs)
        click.echo(json.dumps({"measured": asdict(measured), "sum": total}))
        return
    with tempfile.TemporaryDirectory() as folder:
        if weights is None:
            weights = Path(folder) / "seeded.pt"
            torch.save(seeded_weights(), weights)
        arguments = ["--audio", str(audio), "--weights", str(weights), "--runs", str(runs), "--peer", str(peer)]
        theirs, their_sum = in_own_process(arguments, "peer") if peer.exists() else (None, None)
        if theirs is not None:
            click.echo(shown(theirs, theirs))
        for dtype in dtypes:
            ours, our_sum = in_own_process(arguments, dtype)
            same = "" if their_sum is None else "  same tokens" if our_sum == their_sum else "  other tokens"
            click.echo(shown(ours, theirs) + same)


def in_own_process(arguments: list[str], only: str) -> tuple[Measurement, int]:
    """Measure one thing in a fresh process."""
    command = [sys.executable, __file__, *arguments, "--only", only]
    result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return Measurement(**result["measured"]), result["sum"]


if __name__ == "__main__":
    main()
