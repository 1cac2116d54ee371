"""Examples of requests and answers for the OpenAPI document and docs/api.md, by the name of the schema."""

from __future__ import annotations

from typing import Any

from web.problem_types import ProblemType

JOB_ID = "01a22668-7452-77d5-9c64-9971eca136ee"
EXPORT_ID = "01a22669-0c1e-7d2a-8f5e-2b9b6c1d7e10"
UPLOAD_ID = "01a22667-93aa-7b41-b3f4-5d1f0c2e9a77"
CREATED, STARTED, FINISHED = "2026-05-04T09:00:00Z", "2026-05-04T09:00:02Z", "2026-05-04T09:00:31Z"
SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
ADDRESS = f"/v1/transcriptions/{JOB_ID}"
LINKS = {"self": ADDRESS, "artifacts": f"{ADDRESS}/artifacts", "events": f"{ADDRESS}/events"}

ARTIFACT = {
    "name": "transcription.mid",
    "content_type": "audio/midi",
    "size": 4211,
    "sha256": SHA256,
    "href": f"{ADDRESS}/artifacts/transcription.mid",
}
TRANSCRIPTION: dict[str, Any] = {
    "id": JOB_ID,
    "links": {**LINKS, "cancel": f"{ADDRESS}/cancel", "retry": None},
    "status": "queued",
    "phase": None,
    "progress": {
        "audio_seconds_done": 0.0,
        "audio_seconds_total": None,
        "fraction": None,
        "eta_seconds": None,
        "download": None,
        "shards_done": None,
        "shards_total": None,
    },
    "queue": {"position": 3, "eta_seconds": 42.0},
    "model": "mt3_pytorch",
    "options": {},
    "filename": "song.mp3",
    "metadata": {"album": "Demo"},
    "created_at": CREATED,
    "started_at": None,
    "finished_at": None,
    "expires_at": None,
    "attempts": 0,
    "note_count": None,
    "error": None,
    "last_error": None,
    "hint": None,
    "warnings": [],
    "artifacts": [],
}
DONE = {
    **TRANSCRIPTION,
    "links": {**LINKS, "cancel": None, "retry": None},
    "status": "succeeded",
    "progress": {
        **TRANSCRIPTION["progress"],
        "audio_seconds_done": 212.4,
        "audio_seconds_total": 212.4,
        "fraction": 1.0,
    },
    "queue": None,
    "started_at": STARTED,
    "finished_at": FINISHED,
    "expires_at": "2026-06-03T09:00:31Z",
    "attempts": 1,
    "note_count": 1386,
    "artifacts": [ARTIFACT],
}
EXPORT = {
    "id": EXPORT_ID,
    "format": "csv",
    "options": {},
    "source": "original",
    "status": "queued",
    "fraction": 0.0,
    "created_at": FINISHED,
    "finished_at": None,
    "error": None,
    "artifact": None,
}

EXAMPLES: dict[str, Any] = {
    "Artifact": ARTIFACT,
    "Transcription": TRANSCRIPTION,
    "TranscriptionList": {"items": [DONE], "next_cursor": None},
    "Export": EXPORT,
    "ExportList": {"items": [EXPORT]},
    "Upload": {
        "id": UPLOAD_ID,
        "status": "uploading",
        "name": "concert.wav",
        "content_type": "audio/wav",
        "size": 20_000_000,
        "sha256": None,
        "part_size": 16_777_216,
        "part_count": 2,
        "received": [1],
        "missing_count": 1,
        "missing": [
            {
                "number": 2,
                "offset": 16_777_216,
                "size": 3_222_784,
                "url": f"/v1/uploads/{UPLOAD_ID}/parts/2",
            }
        ],
        "created_at": CREATED,
        "completed_at": None,
        "expires_at": "2026-05-05T09:00:00Z",
    },
}
BODIES: dict[str, Any] = {
    "NewExport": {"format": "csv", "options": {}},
    "NewUpload": {"name": "concert.wav", "size": 20_000_000, "content_type": "audio/wav"},
    "Completion": {"sha256": SHA256},
    "Changes": {"name": "Demo.mp3", "metadata": {"album": "Demo"}},
    "NewShare": {"expires_in": 86_400},
    "NewSession": {"key": "mt3_…"},
}


def problem_example(problem: ProblemType, status: int) -> dict[str, Any]:
    """Return a problem document of this type."""
    return {
        "type": problem.uri,
        "title": problem.title,
        "status": status,
        "detail": problem.remedy,
        "code": problem.code,
    }
