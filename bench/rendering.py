"""Render performances as sound for `performances.py`: a General MIDI sound font, a room, hiss, MP3."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from performing import Performance

Stereo = NDArray[np.float32]  # (2, samples), full scale 1
FONT_RATE = 44_100  # Hz
TAIL = 1.2  # seconds after the last note
DRUM_CHANNEL, DRUM_BANK = 9, 128
SUSTAIN = 64  # the MIDI controller
SUSTAINED_PROGRAMS = range(8)  # those with a pedal: pianos


@dataclass(frozen=True)
class Treatment:
    """Describe what is done to the sound afterwards.

    Attributes:
        room: seconds until the reverberation has fallen by 60 dB; 0 for none.
        wet: how loud the reverberation is, beside the direct sound.
        mono: whether both channels become one.
        sample_rate: Hz.
        hiss: white noise in dB of full scale, or None.
        mp3: kbit/s of a passage through MP3, or None.
    """

    room: float = 0.0
    wet: float = 0.0
    mono: bool = False
    sample_rate: int = 44_100
    hiss: float | None = None
    mp3: int | None = None


def render(performance: Performance, font: Path, treatment: Treatment, random: np.random.Generator) -> Stereo:
    """Return the sound of a performance, at the treatment's rate."""
    sound = _with_room(_synthesized(performance, font), treatment, random)
    if treatment.mono:
        sound = sound.mean(axis=0, keepdims=True)
    sound = sound * np.float32(0.7 / max(float(np.abs(sound).max()), 1e-9))
    if treatment.hiss is not None:
        sound = sound + (random.standard_normal(sound.shape) * 10 ** (treatment.hiss / 20)).astype(np.float32)
    if treatment.mp3 is not None:
        sound = _through_mp3(sound, treatment.mp3)
    if treatment.sample_rate != FONT_RATE:
        import soxr

        sound = soxr.resample(sound.T, FONT_RATE, treatment.sample_rate).T
    return np.ascontiguousarray(sound, dtype=np.float32)


def channels(performance: Performance) -> list[int]:
    """Return the MIDI channel of each part."""
    melodic = iter(channel for channel in range(16) if channel != DRUM_CHANNEL)
    return [DRUM_CHANNEL if part.is_drums else next(melodic) for part in performance.score.parts]


def events(performance: Performance) -> list[tuple[float, int, str, int, int]]:
    """Return (seconds, channel, "on" | "off" | "pedal", pitch or controller, value), in order."""
    channel = channels(performance)
    found = []
    for note in performance.notes:
        part, pitch = note.written.part, note.written.pitch
        found.append((note.onset, channel[part], "on", pitch, note.velocity))
        found.append((note.offset, channel[part], "off", pitch, 0))
    for part, played in enumerate(performance.score.parts):
        if not played.is_drums and played.program in SUSTAINED_PROGRAMS:
            for down, up in performance.pedal:
                found.append((down, channel[part], "pedal", SUSTAIN, 127))
                found.append((up, channel[part], "pedal", SUSTAIN, 0))
    return sorted(found, key=lambda event: (event[0], event[2]))  # "off" before "on"


def _synthesized(performance: Performance, font: Path) -> Stereo:
    """Return the sound font's own sound."""
    import tinysoundfont

    synth = tinysoundfont.Synth(samplerate=FONT_RATE)
    loaded = synth.sfload(str(font))
    for channel, part in zip(channels(performance), performance.score.parts, strict=True):
        synth.program_select(channel, loaded, DRUM_BANK if part.is_drums else 0, part.program, part.is_drums)
    blocks: list[Stereo] = []
    done = 0
    for seconds, channel, kind, number, value in events(performance):
        done = _advance(synth, blocks, done, round(seconds * FONT_RATE))
        if kind == "on":
            synth.noteon(channel, number, value)
        elif kind == "off":
            synth.noteoff(channel, number)
        else:
            synth.control_change(channel, number, value)
    last = max(note.offset for note in performance.notes)
    _advance(synth, blocks, done, round((last + TAIL) * FONT_RATE))
    return np.concatenate(blocks, axis=1)


def _advance(synth: Any, blocks: list[Stereo], done: int, until: int) -> int:
    """Append the sound up to a sample; return where it ends."""
    if until > done:
        block = np.frombuffer(bytes(synth.generate(until - done)), np.float32)
        blocks.append(block.reshape(-1, 2).T)
    return max(done, until)


def _with_room(sound: Stereo, treatment: Treatment, random: np.random.Generator) -> Stereo:
    """Return the sound with reverberation: noise that dies away, after 12 ms."""
    if not treatment.room:
        return sound
    length = round(treatment.room * FONT_RATE)
    times = np.arange(length) / FONT_RATE
    tail = random.standard_normal((2, length)) * np.exp(-6.9 * times / treatment.room)
    tail = np.apply_along_axis(np.convolve, 1, tail, np.ones(4) / 4, "same")  # rooms swallow high frequencies
    tail *= treatment.wet / np.sqrt((tail**2).sum(axis=1, keepdims=True))
    response = np.concatenate([np.zeros((2, round(0.012 * FONT_RATE))), tail], axis=1)
    response[:, 0] = 1.0
    size = 1 << int(np.ceil(np.log2(sound.shape[1] + response.shape[1])))
    product = np.fft.rfft(sound, size) * np.fft.rfft(response, size)
    return np.fft.irfft(product, size)[:, : sound.shape[1]].astype(np.float32)


def _through_mp3(sound: Stereo, kilobits: int) -> Stereo:
    """Return the sound as MP3 leaves it, at the same place."""
    buffer = io.BytesIO()
    _encode(buffer, "mp3", "libmp3lame", sound, FONT_RATE, bit_rate=kilobits * 1000)
    buffer.seek(0)
    with av.open(buffer) as container:
        decoded = [frame.to_ndarray() for frame in container.decode(audio=0)]
    return np.concatenate(decoded, axis=1)[:, : sound.shape[1]].astype(np.float32)


def write_flac(path: Path, sound: Stereo, sample_rate: int) -> None:
    """Write 16-bit FLAC."""
    with path.open("wb") as file:
        _encode(file, "flac", "flac", sound, sample_rate)


def _encode(
    file: Any, container_format: str, codec: str, sound: Stereo, sample_rate: int, bit_rate: int | None = None
) -> None:
    """Encode sound into an open file."""
    layout = "mono" if len(sound) == 1 else "stereo"
    sample_format = "s16" if codec == "flac" else "fltp"
    samples = (np.clip(sound, -1, 1) * 32767).round().astype(np.int16)
    with av.open(file, "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=sample_rate, layout=layout)
        stream.format = sample_format
        if bit_rate:
            stream.bit_rate = bit_rate
        resampler = av.AudioResampler(format=sample_format, layout=layout, rate=sample_rate)
        block = 4096 * 8
        for start in range(0, samples.shape[1], block):
            packed = np.ascontiguousarray(samples[:, start : start + block].T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(packed, format="s16", layout=layout)
            frame.sample_rate, frame.pts = sample_rate, start
            for converted in resampler.resample(frame):
                container.mux(stream.encode(converted))
        for converted in resampler.resample(None):
            container.mux(stream.encode(converted))
        container.mux(stream.encode(None))
