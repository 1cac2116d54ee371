"""Three hours of music are exported in bounded memory; a preview sounds like its notes. Only in `make soak`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import mir_eval
import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoints.store import CheckpointStore
from mt3_infer import Note, load_model
from mt3_infer.exports.soundfont import find_sound_font
from tests.parity.test_mt3_network import WEIGHTS, with_weights

pytestmark = pytest.mark.soak
HOURS = 3
MOST_BYTES = 1.5e9

SCRIPT = """
import json, random, resource, sys
from mt3_infer import Note
from mt3_infer.exports import export
from tests.fakes import transcription

name, path, options, hours = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), float(sys.argv[4])
rule = random.Random(1)
notes = []
for beat in range(int(hours * 3600 * 2)):  # a band: a chord, a melody, a bass and drums on every beat
    at = beat / 2
    chord = [Note(at, at + 0.45, 48 + rule.randrange(24), 60 + rule.randrange(40), 0) for _ in range(3)]
    bass = Note(at, at + 0.4, 36 + rule.randrange(12), 90, 33)
    melody = [Note(at + half / 4, at + half / 4 + 0.2, 72 + rule.randrange(12), 90, 40) for half in range(2)]
    notes += [*chord, bass, *melody, Note(at, at + 0.01, 36 if beat % 2 else 38, 100, 0, True)]
export(transcription(notes, hours * 3600), name, path, options)
print(len(notes), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("midi", {}),
        ("notes.json", {}),
        ("musicxml", {}),
        ("csv", {}),
        ("audio", {"encoding": "wav"}),
        ("audio", {"encoding": "opus"}),
        ("audio", {"encoding": "mp3"}),
        ("stems.zip", {"sound": "opus"}),
    ],
)
def test_three_hours_are_exported_in_bounded_memory(
    name: str, options: dict[str, str], tmp_path: Path, sound_font: Path
) -> None:
    target, began = tmp_path / "file", time.monotonic()
    command = [sys.executable, "-c", SCRIPT, name, str(target), json.dumps(options), str(HOURS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    notes, peak = map(int, done.stdout.split())
    size = target.stat().st_size
    seconds = time.monotonic() - began
    print(f"\n{name} {options}: {notes:,} notes, {size / 1e6:.0f} MB, peak {peak / 1e6:.0f} MB, {seconds:.0f} s")
    assert peak < MOST_BYTES
    if options.get("encoding") == "wav":
        assert size == pytest.approx((HOURS * 3600) * 44100 * 4, rel=0.01)


def f1(reference: list[Note], estimated: list[Note]) -> float:
    """Onset F1, 50 ms."""

    def arrays(notes: list[Note]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        intervals = np.array([[note.onset, max(note.offset, note.onset + 0.01)] for note in notes])
        return intervals, np.array([440 * 2 ** ((note.pitch - 69) / 12) for note in notes])

    measures = mir_eval.transcription.precision_recall_f1_overlap(
        *arrays(reference), *arrays(estimated), offset_ratio=None
    )
    return float(measures[2])


@with_weights
def test_notes_of_a_preview_are_found_again(
    tmp_path: Path, checkpoint_dir: Path, bach: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the sound font that is fetched with npm, and MT3."""
    monkeypatch.delenv("MT3_SOUND_FONT")
    font = find_sound_font(store=CheckpointStore(checkpoint_dir))
    monkeypatch.setenv("MT3_SOUND_FONT", str(font))
    model = load_model("mt3_pytorch", checkpoint_path=WEIGHTS)
    transcription = model.transcribe(bach)
    for suffix in (".wav", ".opus", ".mp3"):
        preview = tmp_path / f"preview{suffix}"
        transcription.save(preview)
        found = f1(transcription.notes, model.transcribe(preview).notes)
        print(f"\n{suffix}: F1 {found:.3f}")
        assert found >= 0.95
