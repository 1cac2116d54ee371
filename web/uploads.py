"""From a multipart form to an object in storage and a row: nothing is held in memory, no name is trusted."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any
from uuid import UUID

from uuid6 import uuid7
from werkzeug.datastructures import FileStorage

from mt3_infer.models import MODELS
from shared.errors import IdempotencyConflict, ServiceError
from shared.jobs import NewJob, create_job
from shared.logs import get_logger
from shared.storage import StoredObject, upload_prefix
from shared.tables import Job
from web.client_json import check_returnable, read_object
from web.errors import EmptyUpload, UnknownModel
from web.parts import OWNER, Parts
from web.schemas import ClientFields, NewTranscription

log = get_logger(__name__)


def receive(parts: Parts, form: NewTranscription, *, idempotency_key: str | None) -> Job:
    """Store the recording, then the row; give back the job, or the one that this key made before.

    Raises:
        UnknownModel, InvalidOptionError, InvalidRequest, EmptyUpload, IdempotencyConflict: the client's to mend.
        StorageUnavailable, OperationalError: nothing was accepted; trying again is safe.
    """
    model = resolve_model(parts, form.model)
    options: dict[str, Any] = form.options
    check_returnable("options", options)
    MODELS[model].check_options(options)
    metadata = read_object("metadata", form.metadata)
    upload: FileStorage = form.file
    if is_empty(upload):
        raise EmptyUpload("The file is empty: choose the recording again.")
    filename = display_name(upload.filename)
    # What the answers will say of it, before there is a row that they could fail for.
    ClientFields(options=options, filename=filename, metadata=metadata).model_dump_json()

    job_id = UUID(str(uuid7()))
    stored = parts.storage.put(
        upload_prefix(job_id) + "audio",
        upload.stream,  # type: ignore[arg-type]
        content_type="application/octet-stream",
    )
    new = NewJob(
        id=job_id,
        owner=OWNER,
        model=model,
        options=options,
        client_metadata=metadata,
        filename=filename,
        upload_key=stored.key,
        upload_bytes=stored.size,
        idempotency_key=idempotency_key,
        request_hash=request_hash(stored, model, options, metadata),
    )
    try:
        job, created = create_job(parts.sessions, new)
    except IdempotencyConflict:
        discard(parts, job_id)
        raise
    # After any other error the upload stays: a commit that seems to have failed may have been made.
    if not created:
        discard(parts, job_id)
        return job
    parts.queue.submit(job.id)
    return job


def discard(parts: Parts, job_id: UUID) -> None:
    """Remove an upload that no job needs. What storage does not remove now, the sweeper finds as an orphan."""
    try:
        parts.storage.delete_prefix(upload_prefix(job_id))
    except ServiceError as error:
        log.warning("upload_left_for_the_sweeper", job_id=str(job_id), error=str(error))


def resolve_model(parts: Parts, asked: str | None) -> str:
    """The model's own name, from a name or an alias; a checkpoint without a network is no model."""
    name = asked or parts.settings.default_model
    models = [entry for entry in parts.catalog.entries.values() if entry.name in MODELS]
    for entry in models:
        if name == entry.name or name in entry.aliases:
            return entry.name
    known = ", ".join(sorted(entry.name for entry in models))
    raise UnknownModel(f"There is no model {name!r}; there are: {known}.")


def is_empty(upload: FileStorage) -> bool:
    """Whether there is not one byte."""
    end = upload.stream.seek(0, os.SEEK_END)
    upload.stream.seek(0)
    return end == 0


def display_name(filename: str | None) -> str | None:
    """The last part of what the client calls the file, printable and short; it is only ever shown."""
    last = (filename or "").replace("\\", "/").rsplit("/", 1)[-1]
    shown = "".join(c for c in last if c.isprintable()).strip()
    return shown[:255] or None


def request_hash(stored: StoredObject, model: str, options: dict[str, Any], metadata: dict[str, Any]) -> str:
    """The same for the same request: recording, model, options, metadata."""
    request = [stored.sha256, model, options, metadata]
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
