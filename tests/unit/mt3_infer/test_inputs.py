"""Whatever is passed as a recording either works or is refused with a sentence that names what to pass."""

from __future__ import annotations

import array
import io
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mt3_infer import AudioError, InvalidOptionError, Model, MT3Error, transcribe
from mt3_infer.audio import open_audio
from mt3_infer.models import MODELS
from tests.recordings import tone
from tests.unit.mt3_infer.test_transcribe import RATE, CountingNetwork

TONE = tone(1.0)


@pytest.fixture
def model() -> Model:
    return Model(MODELS["basic_pitch"], CountingNetwork(), "ab" * 32, "Apache-2.0")


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        (b"RIFF", r"io\.BytesIO"),
        (bytearray(b"RIFF"), r"io\.BytesIO"),
        (memoryview(b"RIFF"), r"io\.BytesIO"),
        (None, "NoneType: pass a path, a binary file object, or a waveform"),
        (7, "int: pass a path"),
        ({"path": "a.wav"}, "dict: pass a path"),
        (object(), "object: pass a path"),
        (array.array("f", [0.0]), "array: pass a path"),
        ([0.0, 0.1], r"numpy\.asarray\(samples, dtype=numpy\.float32\)"),
        ((0.0, 0.1), r"numpy\.asarray\(samples, dtype=numpy\.float32\)"),
        ((TONE, RATE), r"transcribe\(waveform, sr=sample_rate\)"),
        ((RATE, TONE), r"transcribe\(waveform, sr=sample_rate\)"),
        (["a.wav", "b.wav"], "once for each path"),
        ("https://example.com/song.mp3", "is a URL: download"),
        ("s3://bucket/song.mp3", "is a URL: download"),
        ("", "path is empty"),
        ("a\0b.wav", "null character"),
        (".", "is a folder"),
        (Path(), "is a folder"),
        (b"song.mp3", r"io\.BytesIO"),
        ("/dev/zero", "is a device"),
        (io.StringIO("RIFF"), "binary mode"),
        (TONE.astype(object), "numbers"),
        (np.array(["a", "b"]), "numbers"),
        (TONE.astype(np.complex64), "numbers"),
        (np.ma.masked_array(TONE, TONE > 0), r"filled\(0\)"),
        (torch.tensor([1.0]).to_sparse(), "Tensor cannot be read"),
        (torch.empty(4, device="meta"), "Tensor cannot be read"),
        (torch.zeros(4, dtype=torch.complex64), "numbers"),
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", repr(value)),
)
def test_what_is_no_recording_is_refused_with_what_to_pass(model: Model, audio: Any, words: str) -> None:
    with pytest.raises(AudioError, match=words):
        model.transcribe(audio, RATE if hasattr(audio, "__array__") else None)


def test_a_text_file_and_a_closed_one_are_refused(model: Model, tmp_path: Path) -> None:
    text = tmp_path / "song.wav"
    text.write_text("la la la")
    with pytest.raises(AudioError, match="Convert it"):
        model.transcribe(text)
    opened: Any
    with text.open() as opened, pytest.raises(AudioError, match="binary mode"):
        model.transcribe(opened)
    with text.open("ab") as opened, pytest.raises(AudioError, match="open for reading"):
        model.transcribe(opened)
    with pytest.raises(AudioError, match="open for reading"):
        model.transcribe(opened)


@pytest.mark.parametrize(
    "sr", ["44100", 44100.5, -44100, 0, True, float("nan"), float("inf"), [44100], 1j, "x" * 999]
)
def test_what_is_no_sample_rate_is_refused(model: Model, sr: Any) -> None:
    with pytest.raises(InvalidOptionError, match="a whole number of Hz such as 44100") as raised:
        model.transcribe(TONE, sr)
    assert len(str(raised.value)) < 150


@pytest.mark.parametrize("sr", [RATE, float(RATE), np.int64(RATE), np.float32(RATE)])
def test_a_sample_rate_may_be_any_whole_number(model: Model, sr: Any) -> None:
    assert model.transcribe(TONE, sr).duration == 1.0


@pytest.mark.parametrize(
    "option",
    [{"max_seconds": "9"}, {"max_seconds": -1}, {"max_seconds": 0}, {"progress": "bar"}, {"onset_threshold": []}],
    ids=repr,
)
def test_options_of_the_wrong_kind_are_refused(model: Model, option: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError):
        model.transcribe(TONE, RATE, **option)


@pytest.mark.parametrize("wrong", [None, 7, MODELS["basic_pitch"], Model])
def test_a_model_is_a_name_or_what_was_loaded(wrong: Any) -> None:
    with pytest.raises(InvalidOptionError, match="load_model"):
        transcribe(TONE, RATE, model=wrong)


@pytest.mark.parametrize(
    "convert",
    [
        torch.from_numpy,
        lambda samples: torch.tensor(samples, requires_grad=True),
        lambda samples: torch.tensor(samples, dtype=torch.bfloat16),
        lambda samples: torch.tensor(samples, dtype=torch.float16, requires_grad=True),
        lambda samples: torch.tensor(samples, dtype=torch.float64),
        lambda samples: torch.tensor(samples * 20000).to(torch.int16),
        lambda samples: torch.nn.Parameter(torch.tensor(samples)),
        lambda samples: torch.stack([torch.tensor(samples)] * 2),
        lambda samples: np.ma.masked_array(samples),
        lambda samples: samples.astype(np.float16),
        lambda samples: samples[::-1],
    ],
)
def test_tensors_and_arrays_of_any_kind_are_waveforms(model: Model, convert: Callable[[Any], Any]) -> None:
    assert model.transcribe(convert(TONE), RATE).duration == 1.0


@pytest.mark.gpu
def test_a_tensor_on_a_gpu_is_a_waveform(model: Model) -> None:
    assert model.transcribe(torch.tensor(TONE, device="cuda"), RATE).duration == 1.0


def test_pipes_and_files_that_cannot_seek_are_recordings(model: Model, bach: Path, tmp_path: Path) -> None:
    class Download(io.RawIOBase):
        """As the body of an HTTP response is."""

        def __init__(self) -> None:
            self._file = io.BytesIO(bach.read_bytes())

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            return self._file.readinto(memoryview(buffer)[:1000])

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(bach.read_bytes()))
    writer.start()
    expected = model.transcribe(bach).duration
    recordings: list[Any] = [pipe, Download(), io.BytesIO(bach.read_bytes())]
    for recording in recordings:
        assert model.transcribe(recording).duration == expected
    writer.join()


def test_a_stream_must_have_the_rate_of_the_model(model: Model, bach: Path) -> None:
    assert model.transcribe(open_audio(bach, sample_rate=RATE)).duration == pytest.approx(24.5, abs=0.1)
    with open_audio(bach, sample_rate=16000) as stream, pytest.raises(AudioError, match=f"sample_rate={RATE}"):
        model.transcribe(stream)


def test_every_refusal_is_one_sentence_of_the_library(model: Model) -> None:
    refused: list[Any] = [None, b"", [], "", object(), io.StringIO()]
    for audio in refused:
        with pytest.raises(MT3Error) as raised:
            model.transcribe(audio)
        assert str(raised.value).endswith(".")
        assert "\n" not in str(raised.value)
