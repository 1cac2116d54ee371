"""A made-up band to transcribe: drums, bass, piano, guitar, strings and a lead, all playing all the time.

    python bench/dense_mix.py mix.wav --seconds 180

Composed by rule and rendered by sums of partials, the same on every machine; no recording of anybody's. It is no
music, but a network's output for it is as long as for a full arrangement: about 190 tokens for each segment of two
seconds.
"""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from mt3_infer.audio import Waveform

SAMPLE_RATE = 16_000  # Hz
BEAT = 0.5  # seconds: 120 a minute
CHORDS = ((45, 52, 57, 60, 64), (41, 48, 57, 60, 65), (48, 55, 60, 64, 67), (43, 50, 55, 59, 62))  # Am F C G, MIDI
LEAD = (76, 74, 72, 69, 71, 72, 74, 79, 77, 76, 72, 74, 76, 71, 67, 69)  # MIDI, an eighth each


@dataclass(frozen=True)
class Voice:
    """How a part sounds.

    Attributes:
        rolloff: the k-th partial is this power of 1/k strong.
        attack: seconds until full strength.
        decay: seconds to 1/e, of the first partial; the k-th decays √k times as fast.
        loudness: of full scale.
    """

    rolloff: float
    attack: float
    decay: float
    loudness: float


BASS = Voice(rolloff=1.3, attack=0.005, decay=0.5, loudness=0.16)
PIANO = Voice(rolloff=1.6, attack=0.003, decay=0.7, loudness=0.10)
GUITAR = Voice(rolloff=1.0, attack=0.002, decay=0.35, loudness=0.07)
STRINGS = Voice(rolloff=1.1, attack=0.08, decay=30.0, loudness=0.035)
FLUTE = Voice(rolloff=2.2, attack=0.04, decay=30.0, loudness=0.14)


def note(voice: Voice, pitch: int, seconds: float) -> Waveform:
    """A note of a MIDI pitch, with 40 ms to die away in."""
    times = np.arange(round((seconds + 0.04) * SAMPLE_RATE)) / SAMPLE_RATE
    frequency = 440.0 * 2 ** ((pitch - 69) / 12)
    partials = np.arange(1, min(24, int(7600 / frequency)) + 1)[:, None]
    waves = np.sin(2 * np.pi * frequency * partials * times + partials**2)  # phases that do not pile up
    waves *= partials**-voice.rolloff * np.exp(-times * np.sqrt(partials) / voice.decay)
    envelope = np.minimum(1.0, times / voice.attack) * np.minimum(1.0, (times[-1] - times) / 0.04)
    return (voice.loudness * envelope * waves.sum(axis=0)).astype(np.float32)


def drum(kind: str, noise: NDArray[np.float64]) -> Waveform:
    """A stroke of a third of a second: "kick", "snare" or "hat"."""
    times = np.arange(SAMPLE_RATE // 3) / SAMPLE_RATE
    hiss = noise[: len(times)]
    if kind == "kick":
        wave = 0.6 * np.exp(-times / 0.08) * np.sin(2 * np.pi * (50 * times + 6 * (1 - np.exp(-times / 0.03))))
    elif kind == "snare":
        wave = np.exp(-times / 0.06) * (0.15 * hiss + 0.2 * np.sin(2 * np.pi * 190 * times))
    else:
        wave = 0.12 * np.exp(-times / 0.02) * np.diff(hiss, prepend=0.0)
    return wave.astype(np.float32)


def dense_mix(seconds: float) -> Waveform:
    """The band for that long, mono at 16 kHz."""
    mix = np.zeros(round((seconds + 4) * SAMPLE_RATE), np.float32)
    random = np.random.default_rng(1)

    def play(start: float, sound: Waveform) -> None:
        first = round(start * SAMPLE_RATE)
        mix[first : first + len(sound)] += sound

    bars = int(np.ceil(seconds / (4 * BEAT)))
    for bar in range(bars):
        root, *chord = CHORDS[bar % len(CHORDS)]
        start = 4 * bar * BEAT
        for pitch in chord[1:]:
            play(start, note(STRINGS, pitch + 12, 3.9 * BEAT))
        for eighth in range(8):
            at = start + eighth * BEAT / 2
            play(at, note(BASS, root - 12 if eighth % 4 else root, 0.4 * BEAT))
            play(at, note(GUITAR, chord[(eighth * 3 + bar) % len(chord)] + 12, 0.45 * BEAT))
            play(at, note(FLUTE, LEAD[(8 * bar + eighth) % len(LEAD)], 0.45 * BEAT))
            play(at, drum("hat", random.standard_normal(SAMPLE_RATE)))
            if eighth % 2:
                for pitch in chord[:3]:
                    play(at, note(PIANO, pitch, 0.4 * BEAT))
            else:
                play(at, drum("snare" if eighth % 4 else "kick", random.standard_normal(SAMPLE_RATE)))
    mix = mix[: round(seconds * SAMPLE_RATE)]
    return mix * np.float32(0.8 / np.abs(mix).max())


def write(target: Path, seconds: float) -> None:
    """The band for that long as a WAV file."""
    with wave.open(str(target), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((dense_mix(seconds) * 32767).astype("<i2").tobytes())


@click.command()
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--seconds", default=180.0, show_default=True)
def main(target: Path, seconds: float) -> None:
    """Write the mix to a WAV file."""
    write(target, seconds)


if __name__ == "__main__":
    main()
