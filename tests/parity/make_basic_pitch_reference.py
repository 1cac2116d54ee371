"""Make `basic_pitch_bach_piano.npz`: the notes that the published package gives on the test recording.

By hand, in an environment of its own (the package asks for TensorFlow, which its ONNX file does not need):

    python -m venv reference && . reference/bin/activate
    pip install onnxruntime librosa pretty_midi resampy scipy mir_eval scikit-learn "setuptools<80"
    pip install --no-deps basic-pitch==0.4.0
    python tests/parity/make_basic_pitch_reference.py

Made with basic-pitch 0.4.0, onnxruntime 1.32.0, librosa 0.11.0 (which resamples with soxr), numpy 2.4.6.
"""

from pathlib import Path

import numpy as np
from basic_pitch import inference  # type: ignore[import-not-found]

HERE = Path(__file__).parent


def main() -> None:
    """Write the notes in order of onset, then pitch: seconds, seconds, MIDI number, 0-1."""
    weights = Path(inference.__file__).parent / "saved_models/icassp_2022/nmp.onnx"
    recording = HERE.parent / "data" / "bach_piano.flac"
    _, _, events = inference.predict(recording, inference.Model(weights))
    onset, offset, pitch, amplitude = zip(
        *sorted((e[0], e[1], int(e[2]), float(e[3])) for e in events), strict=True
    )
    np.savez_compressed(
        HERE / "basic_pitch_bach_piano.npz",
        onset=np.array(onset),
        offset=np.array(offset),
        pitch=np.array(pitch, np.int16),
        amplitude=np.array(amplitude, np.float32),
    )


if __name__ == "__main__":
    main()
