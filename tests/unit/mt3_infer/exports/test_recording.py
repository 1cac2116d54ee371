"""The copy of a recording for browsers: as long as the recording, with every sound where it was."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from mt3_infer.audio import open_audio
from mt3_infer.exports import export
from mt3_infer.transcription import Provenance, Transcription

ORIGIN = Provenance("m", "0" * 64, "MIT", "1", "cpu", 1.0, {}, {})


def test_copy_sounds_where_the_recording_does(bach: Path, tmp_path: Path) -> None:
    path = tmp_path / "recording.opus"
    export(Transcription([], 24.5, ORIGIN), "recording", path, audio=bach)
    with av.open(str(path)) as container:
        assert (container.format.name, container.streams.audio[0].codec_context.name) == ("ogg", "opus")
    waves = []
    for each in (bach, path):
        with open_audio(each, sample_rate=8000) as audio:
            waves.append(np.concatenate(list(audio)))
    size = min(map(len, waves))
    assert size / 8000 == pytest.approx(24.5, abs=0.1)
    spectra = [np.fft.rfft(wave[:size], 2 * size) for wave in waves]
    agreement = np.fft.irfft(spectra[1] * spectra[0].conj())
    later = int(np.argmax(agreement))
    assert min(later, 2 * size - later) <= 8, "within a millisecond"
