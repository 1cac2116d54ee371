"""The types of problems: what each `code` means to a client and what to do about it.

From this one table come the titles of problem documents, the pages under `/problems/`, `docs/error-codes.md`, and
the examples in OpenAPI. What operators do about them is in docs/runbook.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

BASE = "/problems/"


@dataclass(frozen=True)
class ProblemType:
    """A kind of problem.

    Attributes:
        statuses: of HTTP, with which the API answers; none if it only occurs in a job or an export.
        title: a short summary, the same each time.
        remedy: what a client does about it.
    """

    code: str
    statuses: tuple[int, ...]
    title: str
    remedy: str

    @property
    def uri(self) -> str:
        """Return the type as problem documents state it, relative to the service."""
        return BASE + self.code


_CONVERT = "Convert the file to WAV, FLAC, MP3, OGG or M4A and submit it again."
_OPERATOR = "Tell the operator of the service, then retry the transcription."
_AGAIN = "Retry the transcription."
_NOTHING = "Nothing: the service tries again by itself."

_ROWS: list[tuple[str, tuple[int, ...], str, str]] = [
    # requests
    ("bad_request", (400,), "Malformed request", "Correct the request: it is not valid HTTP or not valid JSON."),
    ("unauthorized", (401,), "A valid key is needed", "Send a valid key as `Authorization: Bearer mt3_…`."),
    ("insufficient_scope", (403,), "The key does not allow this", "Use a key with the scope that `detail` names."),
    (
        "cross_site",
        (403,),
        "Request from another site",
        "Send the request from the service's own pages or a program.",
    ),
    ("quota_exceeded", (403, 429), "Quota used up", "Wait for `Retry-After`, or delete transcriptions."),
    ("not_found", (404,), "Not found", "Check the id and the address: it may have been deleted."),
    ("share_not_found", (404,), "The link does not exist", "Ask the owner of the transcription for a new link."),
    ("method_not_allowed", (405,), "Method not allowed", "Use one of the methods in `Allow`."),
    ("not_acceptable", (406,), "No acceptable type", "Accept the type that the documentation names."),
    ("request_timeout", (408,), "The request came too slowly", "Send it again over a faster connection."),
    (
        "state_conflict",
        (409,),
        "The state does not allow this",
        "Get the transcription; its `links` show what can be done.",
    ),
    ("upload_incomplete", (409,), "Upload incomplete", "Send the parts that the upload lists as `missing`."),
    ("object_missing", (410,), "The file is gone", "Submit the recording again."),
    ("recording_removed", (410,), "The recording was removed", "Submit the recording again."),
    ("notes_gone", (410,), "The notes are not kept one by one", "Download `notes.json`."),
    ("precondition_failed", (412,), "It has changed meanwhile", "Get it again, then repeat the change."),
    ("upload_too_large", (413,), "Upload too large", "Send a shorter or more compressed recording."),
    ("form_too_large", (413,), "Form field too long", "Send the recording as a file: `curl -F file=@song.mp3`."),
    ("body_too_large", (413,), "JSON too long", "Send less."),
    (
        "unsupported_media_type",
        (415,),
        "Unsupported media type",
        "Send the content type that the documentation names.",
    ),
    ("range_not_satisfiable", (416,), "Range not satisfiable", "Ask for a range within the size of the file."),
    (
        "host_not_allowed",
        (421,),
        "Unknown host name",
        "Use a name of the service; operators add it to MT3_ALLOWED_HOSTS.",
    ),
    ("invalid_request", (422,), "Invalid request", "Correct the field or parameter that `detail` names."),
    ("invalid_cursor", (422,), "Invalid cursor", "Begin with the first page, without a cursor."),
    ("idempotency_conflict", (422,), "Key used for another request", "Use a new `Idempotency-Key`."),
    ("unknown_model", (404, 422), "Unknown model", "Choose one of `GET /v1/models`."),
    ("unknown_format", (422,), "Unknown export format", "Choose one of the formats that `detail` names."),
    (
        "license_not_admitted",
        (404, 422),
        "License not admitted",
        "Choose a model whose license allows commercial use.",
    ),
    ("invalid_option", (422,), "Invalid option", "Correct the option that `detail` names."),
    ("empty_upload", (422,), "Empty file", "Choose another file."),
    ("address_refused", (422,), "Address refused", "Use an `https` address of a public host."),
    ("checksum_mismatch", (422,), "Damaged on its way", "Send the part, or the whole upload, again."),
    ("rate_limited", (429,), "Too many requests", "Wait for `Retry-After`."),
    ("internal_error", (500,), "Internal error", "Try again; if it persists, report it with the `X-Request-ID`."),
    ("unavailable", (503,), "Temporarily unavailable", "Try again after `Retry-After`."),
    ("too_many_streams", (503,), "Too many streams", "Poll the address in `polling` instead."),
    ("storage_full", (507,), "The service is full", "Delete transcriptions, or try again when others are gone."),
    ("http_error", (), "HTTP error", "See `detail`."),
    ("service_error", (400,), "Error of the service", "See `detail`; report it."),
    # recordings
    ("undecodable_audio", (), "Unsupported or corrupt file", _CONVERT),
    ("no_audio_stream", (), "No sound in the file", "Choose a file with sound."),
    ("empty_audio", (), "The recording lasts 0 s", "Choose another file."),
    ("truncated_audio", (), "The file is cut off", "Submit the complete file."),
    ("protected_audio", (), "Copy protection", "Choose a copy without protection (DRM)."),
    ("silent_audio", (), "Silence", "Choose a recording with sound."),
    ("audio_too_costly", (), "Too costly to decode", _CONVERT),
    ("audio_too_long", (), "Recording too long", "Cut it into shorter recordings."),
    ("request_failed", (), "The address did not answer", "Check the address, then retry the transcription."),
    ("source_unavailable", (), "The address sends no recording", "Check the address, or upload the recording."),
    ("source_too_large", (), "Recording too large", "Send a shorter or more compressed recording."),
    ("source_too_slow", (), "The address is too slow", "Upload the recording."),
    ("source_not_audio", (), "No recording at the address", "Send the address of the recording itself."),
    # work
    ("webhook_not_delivered", (), "The webhook was not delivered", "Mend the receiver, then redeliver the event."),
    ("out_of_memory", (), "Out of memory", _AGAIN),
    ("worker_lost", (), "The worker stopped", _AGAIN),
    ("missing_dependency", (), "A package is not installed", _OPERATOR),
    ("export_failed", (), "The export failed", "See `detail`; choose other options or another format."),
    ("export_too_large", (), "Too long for this format", "Choose what `detail` names."),
    ("missing_sound_font", (), "No sound font", _OPERATOR),
    ("unusable_weights", (), "Unusable weights", _OPERATOR),
    ("transcription_error", (400,), "The transcription failed", "See `detail`."),
    ("checkpoint_error", (), "Checkpoint error", _OPERATOR),
    ("invalid_catalog", (), "Invalid catalog of checkpoints", _OPERATOR),
    ("unknown_checkpoint", (), "Unknown checkpoint", _OPERATOR),
    ("checkpoint_not_found", (), "Weights not installed", _OPERATOR),
    ("checkpoint_offline", (), "Weights not installed, and no downloads", _OPERATOR),
    ("checkpoint_download_failed", (), "Weights cannot be fetched", _NOTHING),
    ("checkpoint_corrupt", (), "Weights arrive damaged", _OPERATOR),
    ("checkpoint_source_failed", (), "A source of weights failed", _NOTHING),
    ("checkpoint_dir_not_writable", (), "Weights cannot be stored", _OPERATOR),
    ("checkpoint_lock_timeout", (), "Weights are locked", _NOTHING),
    ("disk_full", (), "The disk is full", _OPERATOR),
    # commands
    ("invalid_bundle", (), "Invalid bundle", "Make it again with `mt3-infer bundle`."),
    ("exposed", (), "Open to a network without keys", "Set MT3_AUTH=keys, or pass --insecure."),
    ("key_not_found", (404,), "No such key", "`mt3-infer keys list` shows the keys."),
    # the client
    ("client_error", (), "Error of the client", "See the message."),
    ("unreachable", (), "The service cannot be reached", "Check the address and the connection."),
    ("wait_timeout", (), "Not ended in time", "Wait again: the transcription goes on."),
]

PROBLEMS = {code: ProblemType(code, statuses, title, remedy) for code, statuses, title, remedy in _ROWS}


def problem_type(code: str, status: int) -> ProblemType:
    """Return the type of a problem; one that says no more than its status for a code that the table lacks."""
    return PROBLEMS.get(code) or ProblemType(code, (status,), HTTPStatus(status).phrase, "See `detail`.")


def with_status(status: int) -> list[ProblemType]:
    """Return the problems that the API answers with this status."""
    return [problem for problem in PROBLEMS.values() if status in problem.statuses]
