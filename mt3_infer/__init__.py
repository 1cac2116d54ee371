"""Recordings in, notes and MIDI out.

    from mt3_infer import transcribe

    transcription = transcribe("song.mp3")
    transcription.save("song.mid")

Importing this package is quick: numpy, the audio decoder and the networks are imported by the first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mt3_infer.errors import (
    AudioError,
    AudioTooLongError,
    AudioWarning,
    EmptyAudioError,
    InvalidOptionError,
    MissingDependencyError,
    MT3Error,
    NoAudioStreamError,
    TruncatedAudioError,
    UnknownModelError,
)
from mt3_infer.model import Model, Progress
from mt3_infer.symbolic.notes import Note
from mt3_infer.transcription import Provenance, Transcription

if TYPE_CHECKING:
    from mt3_infer.api import (
        CheckpointError,
        CheckpointNotFoundError,
        ModelInfo,
        clear_cache,
        download_model,
        get_model_info,
        list_models,
        load_model,
        transcribe,
    )

__all__ = [
    "AudioError",
    "AudioTooLongError",
    "AudioWarning",
    "CheckpointError",
    "CheckpointNotFoundError",
    "EmptyAudioError",
    "InvalidOptionError",
    "MT3Error",
    "MissingDependencyError",
    "Model",
    "ModelInfo",
    "NoAudioStreamError",
    "Note",
    "Progress",
    "Provenance",
    "Transcription",
    "TruncatedAudioError",
    "UnknownModelError",
    "clear_cache",
    "download_model",
    "get_model_info",
    "list_models",
    "load_model",
    "transcribe",
]


def __getattr__(name: str) -> Any:
    """Import what needs `checkpoints` when it is first asked for (PEP 562)."""
    if name in __all__:
        value = getattr(import_module("mt3_infer.api"), name)
        globals()[name] = value
        return value
    if name == "__version__":
        from mt3_infer.model import library_version

        return library_version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
