"""Keeps what a slow step made, under names that change with whatever it was made from, for `accuracy.py`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import mt3_infer
from mt3_infer.files import write_whole
from mt3_infer.transcription import Transcription

LIBRARY = Path(mt3_infer.__file__).parent
SHORT = 16  # digits of a digest in a name


@dataclass(frozen=True)
class Notes:
    """A transcription, and the CPU seconds that it took."""

    transcription: Transcription
    cpu: float


def digest(*parts: Any, files: Iterable[Path] = ()) -> str:
    """Return a digest of values and of the contents of files."""
    whole = sha256(json.dumps(parts, sort_keys=True, default=str).encode())
    for file in sorted(files):
        whole.update(sha256(file.read_bytes()).digest())
    return whole.hexdigest()[:SHORT]


def library_digest() -> str:
    """Return a digest of the code that notes come from: all of the library but the commands and the exports."""
    apart = ("cli", "exports", "evaluation", "score")
    files = (file for file in LIBRARY.rglob("*.py") if file.relative_to(LIBRARY).parts[0] not in apart)
    return digest(files=files)


def kept_notes(file: Path, make: Callable[[], Transcription]) -> Notes:
    """Return the notes in a file; make and write them if there is none."""
    if file.exists():
        content = json.loads(file.read_text())
        return Notes(Transcription.from_json(json.dumps(content["notes"])), content["cpu"])
    started = time.process_time()
    transcription = make()
    cpu = time.process_time() - started
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps({"cpu": cpu, "notes": json.loads(transcription.to_json())}).encode())
    return Notes(transcription, cpu)
