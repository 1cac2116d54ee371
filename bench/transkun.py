"""Measure Transkun beside the published package transkun 2.0.1 on the same waveform: speed, memory, and the notes.

    python bench/transkun.py                        a minute, ours and, if its environment is there, the peer
    python bench/transkun.py --minutes 60 --alone   how memory grows with the length

Waveform to notes; decoding of the audio file is not in it. Each measurement has a process of its own. Memory is
the peak over what the process held after its imports, the weights included.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

ROOT = Path(__file__).parents[1]
CHORALE = ROOT / "tests" / "data" / "bach_piano.flac"
PEER = ROOT / ".venv-peer-transkun" / "bin" / "python"
SAMPLE_RATE = 44_100  # Hz


@dataclass(frozen=True)
class Measurement:
    """One run; memory in bytes, events of shape (N, 4): onset, offset, pitch, velocity."""

    seconds: float
    memory: int
    events: np.ndarray


def write_waveform(audio: Path, minutes: float, path: Path) -> None:
    """Decode a recording and repeat it to a length."""
    from mt3_infer.audio import open_audio

    with open_audio(audio, sample_rate=SAMPLE_RATE) as stream:
        waveform = np.concatenate(list(stream))
    np.save(path, np.resize(waveform, round(minutes * 60 * SAMPLE_RATE)))


def measure_ours(folder: Path) -> dict[str, Any]:
    """Transcribe in this process; the report is what `peer_transkun.py` prints, too."""
    from checkpoints.store import CheckpointStore
    from mt3_infer.audio.segments import split_segments
    from mt3_infer.models import TranskunOptions
    from mt3_infer.models.transkun.config import GRID
    from mt3_infer.models.transkun.network import load

    imported = peak_memory()
    network = load(CheckpointStore.from_environment().fetch("transkun"), device="cpu")
    waveform = np.load(folder / "waveform.npy", mmap_mode="r")
    options = TranskunOptions(extend_to_pedal=False)
    started = time.perf_counter()
    collector = network.collect(options)
    blocks = (np.array(waveform[at : at + SAMPLE_RATE]) for at in range(0, len(waveform), SAMPLE_RATE))
    for result in network.infer(split_segments(blocks, GRID), options):
        collector.feed(result)
    output = collector.finish(len(waveform))
    seconds = time.perf_counter() - started
    events = [(n.onset, n.offset, n.pitch, n.velocity) for n in output.notes]
    events += [(p.onset, p.offset, -p.controller, 0) for p in output.pedals]
    np.save(folder / "events.npy", np.array(events))
    return {"seconds": seconds, "events": len(events), "memory": peak_memory(), "imported": imported}


def peak_memory() -> int:
    """Return the largest resident size so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(command: list[str], folder: Path) -> Measurement:
    """Run one side in a process of its own."""
    report = json.loads(subprocess.run([*command, str(folder)], check=True, stdout=subprocess.PIPE).stdout)
    memory = report["memory"] - report["imported"]
    return Measurement(report["seconds"], memory, np.load(folder / "events.npy"))


def difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    """Compare notes and pedals, sorted by pitch and onset."""
    ours, theirs = (events[np.lexsort((events[:, 0], events[:, 2]))] for events in (ours, theirs))
    if not np.array_equal(ours[:, 2], theirs[:, 2]):
        return "other notes"
    keys = ours[:, 2] > 0
    velocities = "the same" if np.array_equal(ours[keys, 3], theirs[keys, 3]) else "other"
    times = 1000 * np.abs(ours[:, :2] - theirs[:, :2]).max()
    return f"the same notes and pedals, {velocities} velocities, times to {times:.2f} ms"


@click.command()
@click.option("--audio", type=click.Path(path_type=Path), default=CHORALE)
@click.option("--minutes", default=1.0, show_default=True, help="The recording is repeated to this length.")
@click.option("--runs", default=3, show_default=True, help="Of both sides in turn; the medians count.")
@click.option("--peer", type=click.Path(path_type=Path), default=PEER, help="Python with the peer installed.")
@click.option("--alone", is_flag=True, help="Leave the peer out.")
@click.option("--only", type=click.Path(path_type=Path), hidden=True, help="What a process of its own measures.")
def main(audio: Path, minutes: float, runs: int, peer: Path, alone: bool, only: Path | None) -> None:
    """Measure Transkun on this machine."""
    if only is not None:
        click.echo(json.dumps(measure_ours(only)))
        return
    commands = {"ours": [sys.executable, __file__, "--only"]}
    if peer.exists() and not alone:
        script = str(ROOT / "bench" / "peer_transkun.py")
        commands["transkun 2.0.1"] = [str(peer), "-I", "-W", "ignore", script]
    with tempfile.TemporaryDirectory() as name:
        write_waveform(audio, minutes, Path(name) / "waveform.npy")
        measured: dict[str, list[Measurement]] = {side: [] for side in commands}
        for _ in range(runs):
            for side, command in commands.items():
                measured[side].append(measure(command, Path(name)))
    for side, runs_of in measured.items():
        seconds, memory = (
            statistics.median(getattr(run, key) for run in runs_of) for key in ("seconds", "memory")
        )
        speed = f"{60 * minutes:.1f} s of audio in {seconds:.2f} s on {len(os.sched_getaffinity(0))} cores"
        click.echo(f"{side:15s} {speed} = {60 * minutes / seconds:.1f}×  {memory / 1e6:.0f} MB")
    if len(measured) == 2:
        ours, theirs = measured.values()
        ratio = statistics.median(b.seconds / a.seconds for a, b in zip(ours, theirs, strict=True))
        click.echo(f"{ratio:.2f} times the peer; {difference(ours[0].events, theirs[0].events)}")


if __name__ == "__main__":
    main()
