"""Make another file from the notes of a job that succeeded. No network runs, and no weights are needed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from mt3_infer.audio import AudioStream
from mt3_infer.exports import export, get_format
from mt3_infer.transcription import Transcription
from shared import exports
from shared.kinds import Claim
from shared.storage import export_prefix
from shared.tables import Phase
from worker.context import Context, Done


def stores(claim: Claim) -> Sequence[str]:
    """Return the prefix under which an attempt stores its file."""
    return (export_prefix(claim.job_id, claim.number, claim.attempt),)


def run(context: Context) -> Done:
    """Write the file to a temporary folder, and store it.

    Raises:
        MT3Error: the notes cannot be exported so; see its `code`.
        ObjectMissing: the notes or the recording are gone.
    """
    claim = context.claim
    assert claim.input_key is not None
    with context.services.storage.open(claim.input_key) as notes:
        transcription = Transcription.from_json(notes.read())

    def progress(fraction: float) -> None:
        context.heartbeat.report(Phase.WRITING_RESULTS, done=fraction * (claim.seconds or 0.0))

    progress(0.0)
    row = get_format(claim.payload["format"])
    options = row.check_options(claim.payload["options"])
    with ExitStack() as stack:
        path = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="mt3-export-")), claim.payload["artifact"]
        )
        export(
            transcription,
            row.name,
            path,
            claim.payload["options"],
            audio=_open_recording(context, stack, row.sample_rate) if row.needs_recording else None,
            sound_font=context.services.engine.sound_font,
            progress=progress,
        )
        (prefix,) = stores(claim)
        with path.open("rb") as file:
            artifact = context.store(prefix + path.name, file, row.content_type(options))
    artifact["file_name"] = row.file_name(options)
    return Done(
        result_key=artifact["key"],
        unneeded=[export_prefix(claim.job_id, claim.number, attempt) for attempt in range(1, claim.attempt)],
        also=partial(exports.add_artifact, job_id=claim.job_id, artifact=artifact),
    )


def _open_recording(context: Context, stack: ExitStack, sample_rate: int | None) -> AudioStream:
    """Open the job's recording until the stack is closed."""
    recording = stack.enter_context(context.services.storage.open(context.claim.payload["recording"]))
    return stack.enter_context(context.services.engine.open(context.claim.model, recording, sample_rate))
