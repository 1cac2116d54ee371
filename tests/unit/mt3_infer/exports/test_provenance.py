"""Every file made from notes names the model, its weights and their license, where its format has a place."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree as ET

import av
import mido
import pytest

from mt3_infer import Note
from mt3_infer.exports import FORMATS, export
from mt3_infer.transcription import Transcription
from tests.fakes import transcription

SHA256 = "5eed" * 16
WITHOUT_A_PLACE = {"csv"}
OF_THE_RECORDING_OR_THE_SOUND_FONT = {"peaks", "recording", "sounds"}


def music() -> Transcription:
    music = transcription([Note(0, 1, 60, 90), Note(1, 2, 55, 90, program=40)], 2.0)
    return replace(
        music, provenance=replace(music.provenance, model="mr_mt3", weights_sha256=SHA256, license="A & B")
    )


def midi(content: bytes) -> str:
    first = mido.MidiFile(file=BytesIO(content), charset="utf-8").tracks[0]
    return "".join(message.text for message in first if message.type == "text")


def sound(content: bytes) -> str:
    with av.open(BytesIO(content)) as container:
        tags: dict[str, str] = {**container.metadata, **container.streams.audio[0].metadata}
    return tags.get("comment", "")


def pdf(content: bytes) -> str:
    (xmp,) = re.findall(rb"<\?xpacket begin.*?\?>(.*?)<\?xpacket end", content, re.S)
    name = "{http://purl.org/dc/elements/1.1/}description"
    return "".join("".join(found.itertext()) for found in ET.fromstring(xmp).iter(name))


def svg(content: bytes) -> str:
    return ET.fromstring(content).findtext("{http://www.w3.org/2000/svg}desc") or ""


def musicxml(content: bytes) -> str:
    return " ".join(field.text or "" for field in ET.fromstring(content).iter("miscellaneous-field"))


def notes_json(content: bytes) -> str:
    return str(json.loads(content)["provenance"])


READERS: dict[str, Callable[[bytes], str]] = {
    "mid": midi, "json": notes_json, "musicxml": musicxml, "pdf": pdf, "svg": svg,
    "wav": sound, "mp3": sound, "opus": sound,
}  # fmt: skip


@pytest.mark.parametrize("encoding", ["opus", "mp3", "wav"])
def test_previews_name_model_weights_and_license(encoding: str, tmp_path: Path) -> None:
    assert_complete(written("audio", {"encoding": encoding}, tmp_path))


@pytest.mark.parametrize("name", sorted(set(FORMATS) - WITHOUT_A_PLACE - OF_THE_RECORDING_OR_THE_SOUND_FONT))
def test_files_of_every_format_name_model_weights_and_license(name: str, tmp_path: Path) -> None:
    assert_complete(written(name, {}, tmp_path))


def test_each_instrument_of_split_midi_names_them(tmp_path: Path) -> None:
    files = written("midi", {"split": "instrument"}, tmp_path)
    assert len(files) == 2
    assert_complete(files)


def written(name: str, options: dict[str, str], directory: Path) -> dict[str, bytes]:
    """Return the files of an export, those in an archive one by one."""
    row = FORMATS[name]
    path = directory / row.file_name(row.check_options(options))
    export(music(), name, path, options)
    if not zipfile.is_zipfile(path):
        return {path.name: path.read_bytes()}
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name != "measures.json"}


def assert_complete(files: dict[str, bytes]) -> None:
    assert files
    for name, content in files.items():
        origin = READERS[name.rpartition(".")[2]](content)
        for fact in ("mr_mt3", "A & B", SHA256):
            assert fact in origin, (name, origin)
