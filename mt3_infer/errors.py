"""Errors of the library, as a tree.

MT3Error
├── AudioError                  undecodable_audio
│   ├── NoAudioStreamError      no_audio_stream
│   ├── EmptyAudioError         empty_audio
│   ├── TruncatedAudioError     truncated_audio
│   ├── ProtectedAudioError     protected_audio
│   ├── CostlyAudioError        audio_too_costly
│   └── AudioTooLongError       audio_too_long
├── UnknownModelError           unknown_model
├── InvalidOptionError          invalid_option
├── MissingDependencyError      missing_dependency
├── UnknownFormatError          unknown_format
├── ExportError                 export_failed
│   ├── ExportTooLargeError     export_too_large
│   └── MissingSoundFontError   missing_sound_font
└── WeightsError                unusable_weights
CheckpointError                 see `checkpoints.errors`; exported by `mt3_infer` too

A `code` is stable: the service passes it to clients unchanged. An `AudioWarning` does not stop a
transcription.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


class MT3Error(Exception):
    """Base class of all errors of this library. The message is one sentence for the user."""

    code: ClassVar[str] = "transcription_error"


class AudioError(MT3Error):
    """The recording cannot be decoded."""

    code = "undecodable_audio"


class NoAudioStreamError(AudioError):
    """The file is readable but has no audio track, such as a silent video."""

    code = "no_audio_stream"


class EmptyAudioError(AudioError):
    """The recording lasts 0 seconds."""

    code = "empty_audio"


class TruncatedAudioError(AudioError):
    """The recording ends before the length that its own header promises."""

    code = "truncated_audio"


class ProtectedAudioError(AudioError):
    """The audio is encrypted."""

    code = "protected_audio"


class CostlyAudioError(AudioError):
    """Opening or decoding the file takes too much time or memory for its length."""

    code = "audio_too_costly"


class AudioTooLongError(AudioError):
    """The recording is longer, or decodes to more data, than is allowed."""

    code = "audio_too_long"


class UnknownModelError(MT3Error):
    """No model has that name or alias."""

    code = "unknown_model"


class InvalidOptionError(MT3Error):
    """The model or export takes no such option, or not that value."""

    code = "invalid_option"


class MissingDependencyError(MT3Error):
    """A Python package that the model or export requires is not installed."""

    code = "missing_dependency"


class UnknownFormatError(MT3Error):
    """No export format has that name."""

    code = "unknown_format"


class ExportError(MT3Error):
    """The file cannot be made from these notes."""

    code = "export_failed"


class ExportTooLargeError(ExportError):
    """The music is too long for this format."""

    code = "export_too_large"


class MissingSoundFontError(ExportError):
    """The file that sound is rendered with is missing, or is no sound font."""

    code = "missing_sound_font"


class WeightsError(MT3Error):
    """The weight file is damaged, or belongs to another network."""

    code = "unusable_weights"


@dataclass(frozen=True)
class AudioWarning:
    """Something about a recording that did not stop its transcription, such as a damaged passage.

    Attributes:
        code: stable, like those of the errors.
        detail: one sentence for the user.
    """

    code: str
    detail: str

    def __str__(self) -> str:
        return self.detail
