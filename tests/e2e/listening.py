"""Measures what the page plays: onsets on the clock of the audio graph, of the recording and of the notes."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np

RATE = 44_100
APART = 0.5  # seconds between two clicks of the recording

ONSETS_WORKLET = """
registerProcessor("onsets", class extends AudioWorkletProcessor {
  quiet = Infinity; // samples
  process([[samples]]) {
    for (let n = 0; n < (samples?.length ?? 0); n += 1) {
      if (Math.abs(samples[n]) < 0.05) { this.quiet += 1; continue; }
      if (this.quiet > 0.12 * sampleRate) this.port.postMessage(currentTime + n / sampleRate);
      this.quiet = 0;
    }
    return true;
  }
});
"""
# The longest time without any sound: even the noise between two clicks is louder.
SILENCE_WORKLET = """
registerProcessor("silence", class extends AudioWorkletProcessor {
  quiet = 0; // samples
  longest = 0;
  process([[samples]]) {
    for (let n = 0; n < 128; n += 1) {
      this.quiet = Math.abs(samples?.[n] ?? 0) < 1e-4 ? this.quiet + 1 : 0;
      if (this.quiet > this.longest) this.port.postMessage((this.longest = this.quiet) / sampleRate);
    }
    return true;
  }
});
"""
# Keeps the nodes that the recording and the notes pass through. The tab must bypass the content policy.
TAP_SCRIPT = (
    f"""
const WORKLET = {json.dumps(ONSETS_WORKLET + SILENCE_WORKLET)};
"""
    + """
window.taps = {};
for (const [name, kind] of [["recording", "MediaElementAudioSourceNode"], ["notes", "DynamicsCompressorNode"]]) {
  const Original = window[kind];
  window[kind] = function (...values) {
    const node = new Original(...values);
    window.taps[name] = node;
    return node;
  };
}
const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (target, ...values) {
  if (target === this.context.destination) window.output ??= this;
  return connect.call(this, target, ...values);
};
window.listenForOnsets = async (nodes = window.taps) => {
  window.onsets = { recording: [], notes: [] };
  const { context } = window.taps.notes;
  await context.audioWorklet.addModule("data:text/javascript," + encodeURIComponent(WORKLET));
  for (const [name, node] of Object.entries(nodes)) {
    const meter = new AudioWorkletNode(context, "onsets");
    meter.port.onmessage = ({ data }) => window.onsets[name].push(data);
    node.connect(meter).connect(context.destination);
  }
};
// The recording is measured where its sound leaves the page: the notes must be faded out.
window.listenToOutput = async () => {
  await listenForOnsets({ recording: window.output, notes: window.taps.notes });
  window.silence = 0;
  const meter = new AudioWorkletNode(window.output.context, "silence");
  meter.port.onmessage = ({ data }) => (window.silence = data);
  window.output.connect(meter).connect(window.output.context.destination);
};
"""
)


def write_clicks(path: Path, seconds: int) -> Path:
    """Write a recording with a click every half second, the first after half a second."""
    samples = np.random.default_rng(1).normal(0, 0.001, seconds * RATE)
    times = np.arange(round(0.03 * RATE)) / RATE
    click = 0.8 * np.sin(2 * np.pi * 1500 * times) * np.exp(-120 * times)
    for onset in click_times(seconds):
        start = round(onset * RATE)
        samples[start : start + len(click)] += click
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def click_times(seconds: int) -> list[float]:
    return [APART * n for n in range(1, round(seconds / APART) - 1)]


def notes_at_clicks(seconds: int) -> dict[str, Any]:
    """Return a notes.json with a short note at each click, and beats at whole seconds, three in a bar."""
    notes = [
        {"onset": at, "offset": at + 0.1, "pitch": 84, "velocity": 127, "program": 0, "is_drum": False}
        for at in click_times(seconds)
    ]
    beats = [float(at) for at in range(seconds)]
    grid = {"beats": beats, "downbeats": beats[::3], "meter": "3/4", "tempo_bpm": 60.0, "key": "G major"}
    return {"format": "mt3-infer/notes", "version": 2, "duration": float(seconds), "notes": notes} | grid


def steps_between(onsets: dict[str, list[float]]) -> np.ndarray:
    """Return by how many seconds each note comes after the click that it belongs to."""
    recording, notes = (np.array(onsets[name]) for name in ("recording", "notes"))
    nearest = np.abs(notes[:, np.newaxis] - recording).argmin(axis=1)
    steps: np.ndarray = notes - recording[nearest]
    return steps
