"""Make `data/transkun_*.npz`: the notes and pedals that the published package gives on the test recordings.

By hand: `make .venv-peer-transkun/made`, then

    .venv/bin/python -m tests.parity.make_transkun_reference

Made with transkun 2.0.1 and torch 2.13.0, from waveforms that our decoder gave. `data/piano_joplin.mp3` and
`data/piano_mozart545.mp3` are the first 14 s of performances rendered by rule, the latter at 32 kHz.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import numpy as np

from mt3_infer.audio import open_audio

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PEER = ROOT / ".venv-peer-transkun" / "bin" / "python"
RECORDINGS = (
    HERE.parent / "data" / "bach_piano.flac",
    HERE / "data" / "piano_joplin.mp3",
    HERE / "data" / "piano_mozart545.mp3",
)


def main() -> None:
    """Write the events in order of onset: seconds, seconds, MIDI number or minus the controller, MIDI number."""
    for recording in RECORDINGS:
        with tempfile.TemporaryDirectory() as folder:
            with open_audio(recording, sample_rate=44_100) as blocks:
                np.save(Path(folder) / "waveform.npy", np.concatenate(list(blocks)))
            script = str(ROOT / "bench" / "peer_transkun.py")
            subprocess.run([PEER, "-I", "-W", "ignore", script, folder], check=True)
            onset, offset, pitch, velocity = np.load(Path(folder) / "events.npy").T
        np.savez_compressed(
            HERE / "data" / f"transkun_{recording.stem}.npz",
            onset=onset,
            offset=offset,
            pitch=pitch.astype(np.int16),
            velocity=velocity.astype(np.int16),
        )


if __name__ == "__main__":
    main()
