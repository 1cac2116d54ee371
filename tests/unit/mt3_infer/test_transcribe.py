"""The stages joined: options, progress, cancelling, provenance and the files that come out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import mt3_infer
from mt3_infer import AudioWarning, InvalidOptionError, Model, Note, Progress, transcribe
from mt3_infer.audio import AudioStream, Waveform
from mt3_infer.audio.segments import Segment, SegmentGrid
from mt3_infer.models import MODELS, ModelOptions
from mt3_infer.network import NetworkOutput
from mt3_infer.symbolic.grid import BeatGrid
from mt3_infer.symbolic.notes import Pedal
from mt3_infer.transcription import Transcription
from tests.recordings import tone

RATE = 22050


class CountingNetwork:
    """Counts the segments, and outputs one note, as long as the recording."""

    device = "cpu"
    grid = SegmentGrid(RATE, hop=RATE, length=RATE)
    in_order = False

    def infer(
        self, segments: Iterable[Segment], options: ModelOptions, *, previous: int | None = None
    ) -> Generator[int]:
        for segment in segments:
            yield segment.index

    def collect(self, options: ModelOptions) -> CountingCollector:
        return CountingCollector()


class CountingCollector:
    def __init__(self) -> None:
        self._results: list[int] = []

    def feed(self, result: int) -> None:
        self._results.append(result)

    def finish(self, samples: int) -> NetworkOutput:
        assert self._results == list(range(CountingNetwork.grid.count(samples)))
        return NetworkOutput([Note(0.0, samples / RATE, 69, 100)], {"odd": 1})


@pytest.fixture
def model() -> Model:
    return Model(MODELS["basic_pitch"], CountingNetwork(), "ab" * 32, "Apache-2.0")


def test_a_waveform_becomes_notes_with_provenance(model: Model) -> None:
    result = transcribe(tone(2.0, 44100), 44100, model=model, onset_threshold=0.4)

    (note,) = result.notes
    assert (note.onset, note.pitch, note.velocity) == (0.0, 69, 65)
    assert note.offset == pytest.approx(2.0, abs=1e-3)
    assert result.duration == 2.0
    assert result.provenance.model == "basic_pitch"
    assert result.provenance.weights_sha256 == "ab" * 32
    assert result.provenance.device == "cpu"
    assert result.provenance.options["onset_threshold"] == 0.4
    assert result.provenance.options["frame_threshold"] == 0.3
    assert result.provenance.counters == {"odd": 1}


def test_progress_counts_seconds_of_audio(model: Model) -> None:
    seen: list[Progress] = []
    model.transcribe(tone(5.0), RATE, progress=seen.append)
    done = [progress.seconds_done for progress in seen]
    assert len(seen) > 2
    assert done == sorted(done)
    assert seen[-1].seconds_done == pytest.approx(5.0)
    assert seen[-1].seconds_total == 5.0


def test_what_progress_raises_ends_the_transcription(model: Model) -> None:
    def cancel(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.transcribe(tone(5.0), RATE, progress=cancel)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"onset_treshold": 0.5}, "onset_threshold"),
        ({"onset_threshold": 2}, "less than or equal to 1"),
        ({"frame_threshold": "loud"}, "frame_threshold"),
    ],
)
def test_options_that_the_model_does_not_take_are_an_error(
    model: Model, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidOptionError, match=words):
        model.transcribe(tone(1.0), RATE, **options)


def test_a_waveform_without_a_sample_rate_has_16_khz(model: Model) -> None:
    assert model.transcribe(tone(2.0, 16_000)).duration == 2.0
    assert transcribe(tone(2.0, 16_000), model=model).duration == 2.0


def test_a_file_must_not_have_a_sample_rate(model: Model, bach: Path) -> None:
    with pytest.raises(InvalidOptionError, match="sample rate"):
        model.transcribe(bach, 44100)


def test_the_file_that_is_saved_is_of_the_kind_it_is_named(model: Model, tmp_path: Path) -> None:
    result = model.transcribe(tone(1.0), RATE)
    for name in ("a.mid", "a.MIDI", "a.json"):
        result.save(tmp_path / name)
    assert (tmp_path / "a.mid").read_bytes() == (tmp_path / "a.MIDI").read_bytes() == result.to_midi()
    saved = json.loads((tmp_path / "a.json").read_text())
    assert (saved["format"], saved["version"], saved["duration"]) == ("mt3-infer/notes", 2, 1.0)
    assert saved["provenance"]["model"] == "basic_pitch"
    (note,) = saved["notes"]
    assert note.items() >= {"onset": 0.0, "offset": 1.0, "pitch": 69, "program": 0, "is_drum": False}.items()
    with pytest.raises(InvalidOptionError, match=r"\.mid"):
        result.save(tmp_path / "a.xyz")


def test_notes_json_is_read_back(model: Model) -> None:
    made = replace(
        model.transcribe(tone(1.0), RATE),
        pedals=(Pedal(0.1, 0.5), Pedal(0.2, 0.3, 67)),
        grid=BeatGrid((0.0, 0.5), (0.0,), "2/4", 120.0, "A minor", {"beats": 0.5}),
        warnings=(AudioWarning("damaged_audio", "The recording is damaged."),),
    )
    assert Transcription.from_json(made.to_json()) == made
    older = json.loads(made.to_json()) | {"version": 1}
    for name in ("beats", "downbeats", "meter", "tempo_bpm", "key", "confidence", "pedals"):
        del older[name]
    assert Transcription.from_json(json.dumps(older)) == replace(made, pedals=(), grid=BeatGrid())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "mt3-infer/notes", "version": 2}', b"\xff"])
def test_text_that_is_no_notes_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(InvalidOptionError, match=r"not a notes\.json"):
        Transcription.from_json(text)


def test_notes_json_with_beats_that_make_no_sense_is_refused(model: Model) -> None:
    content = json.loads(model.transcribe(tone(1.0), RATE).to_json())
    for wrong in ({"beats": [2.0, 1.0]}, {"beats": ["a", "b"]}, {"meter": "x"}, {"key": "H"}):
        with pytest.raises(InvalidOptionError, match=r"not a notes\.json"):
            Transcription.from_json(json.dumps(content | wrong))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"onset": -1.0}, "Note 2 of notes.json lasts from -1.0 s to 1.0 s."),
        ({"onset": 2.0}, "Note 2 of notes.json lasts from 2.0 s to 1.0 s."),
        ({"onset": float("nan")}, "Note 2 of notes.json lasts from nan s to 1.0 s."),
        ({"offset": float("inf")}, "lasts from 0.0 s to inf s."),
        ({"onset": "0"}, "not a notes.json"),
        ({"pitch": 600}, "Note 2 of notes.json has the pitch 600: pass a whole number from 0 to 127."),
        ({"pitch": 60.5}, "has the pitch 60.5"),
        ({"velocity": 300}, "has the velocity 300"),
        ({"program": -1}, "has the program -1"),
        ({"color": "red"}, "not a notes.json"),
    ],
)
def test_notes_json_with_notes_that_cannot_be_is_refused(
    model: Model, wrong: dict[str, Any], message: str
) -> None:
    content = json.loads(model.transcribe(tone(1.0), RATE).to_json())
    content["notes"].append(content["notes"][0] | wrong)
    with pytest.raises(InvalidOptionError, match=re.escape(message)):
        Transcription.from_json(json.dumps(content))
    for name in ("duration", "pedals"):
        with pytest.raises(InvalidOptionError):
            Transcription.from_json(json.dumps(content | {"notes": [], name: float("nan")}))


def test_notes_json_of_a_later_version_is_refused(model: Model) -> None:
    later = model.transcribe(tone(1.0), RATE).to_json().replace('"version": 2', '"version": 3')
    with pytest.raises(InvalidOptionError, match="newer"):
        Transcription.from_json(later)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_gives_all_notes_to_a_single_instrument(name: str) -> None:
    model = Model(MODELS[name], CountingNetwork(), "ab" * 32, "Apache-2.0")
    result = model.transcribe(tone(1.0), RATE, single_instrument="Violins")
    assert [(note.pitch, note.program) for note in result.notes] == [(69, 40)]
    assert model.transcribe(tone(1.0), RATE).notes[0].program == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vioiln", "'vioiln' is not an instrument. Did you mean Violin?"),
        ("drums", "Drums are a kit"),
        (40, "string"),
    ],
)
def test_unusable_single_instrument_is_refused(model: Model, name: Any, message: str) -> None:
    with pytest.raises(InvalidOptionError, match=re.escape(message)):
        model.transcribe(tone(1.0), RATE, single_instrument=name)


def test_pretty_midi_has_the_notes(model: Model) -> None:
    (part,) = model.transcribe(tone(1.0), RATE).to_pretty_midi().instruments
    assert [note.pitch for note in part.notes] == [69]


def test_everything_promised_is_there() -> None:
    assert {"transcribe", "load_model", "download_model", "list_models", "get_model_info"} < set(mt3_infer.__all__)
    for name in mt3_infer.__all__:
        assert getattr(mt3_infer, name) is not None
    assert callable(mt3_infer.transcribe)
    with pytest.raises(AttributeError):
        _ = mt3_infer.nothing


def test_importing_is_light() -> None:
    code = (
        "import sys, mt3_infer; from mt3_infer.models import MODELS; import mt3_infer.cli;"
        "heavy = {'numpy', 'onnxruntime', 'av', 'soxr', 'mido', 'torch'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_warnings_of_the_stream_are_in_the_result_and_its_json(model: Model) -> None:
    class WarningStream(AudioStream):
        """Ends with a warning, as a recording with a damaged passage does."""

        def __iter__(self) -> Iterator[Waveform]:
            yield from super().__iter__()
            self.warnings = (AudioWarning("damaged_audio", "The recording is damaged at 0.5 s."),)

    stream = WarningStream([tone(1.0)], sample_rate=RATE, duration=1.0)
    result = model.transcribe(stream)
    assert [str(warning) for warning in result.warnings] == ["The recording is damaged at 0.5 s."]
    assert json.loads(result.to_json())["warnings"] == [
        {"code": "damaged_audio", "detail": "The recording is damaged at 0.5 s."}
    ]
    assert model.transcribe(tone(1.0), RATE).warnings == ()


@pytest.mark.parametrize("level", [0.0, 1e-5])
def test_silence_has_a_warning(model: Model, level: float) -> None:
    (warning,) = model.transcribe(level * tone(1.0), RATE).warnings
    assert (warning.code, str(warning).partition(":")[0]) == (
        "silent",
        "The recording is silent from beginning to end",
    )
