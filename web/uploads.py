"""Stores an upload and creates its job. Nothing is held in memory, and file names are never used as paths."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import select
from uuid6 import uuid7
from werkzeug.datastructures import FileStorage

from mt3_infer.models import MODELS
from shared import tracing
from shared.default_model import AUTO, PREFERENCE, choose
from shared.errors import IdempotencyConflict, QuotaExceeded, ServiceError
from shared.jobs import NewJob, create_job
from shared.logs import get_logger
from shared.storage import StoredObject, upload_prefix
from shared.tables import Job
from web.access import current_owner, current_quotas
from web.client_json import check_returnable, read_object
from web.errors import EmptyUpload, InvalidRequest, LicenseNotAdmitted, UnknownModel
from web.schemas import MAX_METADATA_CHARACTERS, ClientFields, NewTranscription
from web.services import Services
from web.webhooks import check_webhook

log = get_logger(__name__)


def receive(services: Services, form: NewTranscription, *, idempotency_key: str | None) -> Job:
    """Store the recording, then create the job; return it, or the job created earlier with the same key.

    Raises:
        UnknownModel, LicenseNotAdmitted, InvalidOptionError, InvalidRequest, EmptyUpload, IdempotencyConflict:
            the request is wrong.
        QuotaExceeded, StorageFull: the owner, or the service, may not have that much queued or stored.
        StorageUnavailable, OperationalError: nothing was accepted; a retry is safe.
    """
    model = resolve_model(services, form.model)
    options: dict[str, Any] = form.options
    check_returnable("options", options)
    MODELS[model].check_options(options)
    metadata = read_object("metadata", form.metadata)
    webhook_events = check_webhook(services, form.webhook_url, form.webhook_events)
    upload: FileStorage = form.file
    if size_of(upload) == 0:
        raise EmptyUpload("The file is empty. Choose another file.")
    filename = display_name(upload.filename)
    check_showable(ClientFields(options=options, filename=filename, metadata=metadata))

    webhook = [form.webhook_url, *webhook_events] if form.webhook_url else []
    admit(services, size_of(upload), idempotency_key)
    job_id = UUID(str(uuid7()))
    with tracing.span("store recording"):
        stored = services.storage.put(
            upload_prefix(job_id) + "audio",
            upload.stream,  # type: ignore[arg-type]
            content_type="application/octet-stream",
        )
    new = NewJob(
        id=job_id,
        owner=current_owner(),
        model=model,
        options=options,
        client_metadata=metadata,
        filename=filename,
        upload_key=stored.key,
        upload_bytes=stored.size,
        idempotency_key=idempotency_key,
        request_hash=request_hash(stored, AUTO if is_auto(services, form) else model, options, metadata, webhook),
        webhook_url=form.webhook_url,
        webhook_events=webhook_events,
    )
    try:
        job, created = create_job(services.sessions, new, current_quotas())
    except (IdempotencyConflict, QuotaExceeded):
        discard(services, job_id)
        raise
    # After any other error the upload stays: a commit that appears to have failed may have succeeded.
    if not created:
        discard(services, job_id)
        return job
    services.queue.notify()
    return job


def check_metadata(metadata: dict[str, Any]) -> None:
    """Raise if metadata that came as JSON cannot be stored and returned.

    Raises:
        InvalidRequest: it is too long, or a value in it cannot be returned.
    """
    check_returnable("metadata", metadata)
    if len(json.dumps(metadata, ensure_ascii=False)) > MAX_METADATA_CHARACTERS:
        raise InvalidRequest(f"metadata must not be longer than {MAX_METADATA_CHARACTERS} characters of JSON.")


def is_auto(services: Services, form: NewTranscription) -> bool:
    """Return True if the service chooses the model, so that a repeated request may get another one."""
    return (form.model or services.settings.default_model) == AUTO


def check_showable(fields: ClientFields) -> None:
    """Raise if the response could not repeat these fields, before a row is created.

    Raises:
        InvalidRequest: the fields cannot be encoded as JSON.
    """
    try:
        fields.model_dump_json()
    except ValueError:
        raise InvalidRequest(
            "The options, the metadata or the file name cannot be encoded as JSON. Use plain text."
        ) from None


def discard(services: Services, job_id: UUID) -> None:
    """Delete an upload that no job needs. If storage fails now, the sweeper deletes it later as an orphan."""
    try:
        services.storage.delete_prefix(upload_prefix(job_id))
    except ServiceError as error:
        log.warning("upload_left_for_the_sweeper", job_id=str(job_id), error=str(error))


def resolve_model(services: Services, asked: str | None) -> str:
    """Return a model's name for a name or an alias; for `auto`, the one that a job gets now.

    Raises:
        UnknownModel: there is none; a checkpoint without a network is not a model.
        LicenseNotAdmitted: MT3_LICENSES does not admit its weights.
    """
    name = asked or services.settings.default_model
    if name == AUTO:
        with services.sessions() as session:
            return choose(session, admitted_models(services))
    return find_model(services, name)


def find_model(services: Services, name: str) -> str:
    """Return the name of a model other than `auto`; see `resolve_model`."""
    models = [entry for entry in services.catalog.entries.values() if entry.name in MODELS]
    found = next((entry for entry in models if name == entry.name or name in entry.aliases), None)
    admitted = admitted_models(services)
    known = ", ".join(sorted([AUTO, *admitted]))
    if found is None:
        raise UnknownModel(f"Unknown model {name!r}. Available models: {known}.")
    if found.name not in admitted:
        raise LicenseNotAdmitted(
            f"The license of {found.name} ({found.license}) does not allow commercial use, which this service "
            f"requires. Available models: {known}."
        )
    return found.name


def admitted_models(services: Services) -> list[str]:
    """Return the models whose license the service admits, in the order of the catalog."""
    is_any = services.settings.licenses == "any"
    entries = services.catalog.entries.values()
    return [entry.name for entry in entries if entry.name in MODELS and (is_any or entry.allows_commercial_use)]


def check_default_model(services: Services) -> None:
    """Raise if MT3_DEFAULT_MODEL cannot be used.

    Raises:
        UnknownModel, LicenseNotAdmitted: see `resolve_model`.
    """
    default = services.settings.default_model
    for name in PREFERENCE[-1:] if default == AUTO else (default,):
        find_model(services, name)


def admit(services: Services, size: int, idempotency_key: str | None = None) -> None:
    """Raise if the service may not store a recording of this size, unless an earlier request stored it.

    Raises:
        StorageFull: see MT3_MAX_STORED_BYTES.
    """
    if services.stored.limit is None:
        return
    earlier = select(Job.id).where(Job.owner == current_owner(), Job.idempotency_key == idempotency_key)
    if idempotency_key is not None:
        with services.sessions() as session:
            if session.scalar(earlier) is not None:
                return
    services.stored.admit(size)


def size_of(upload: FileStorage) -> int:
    """Return the size of an upload in bytes."""
    end = upload.stream.seek(0, os.SEEK_END)
    upload.stream.seek(0)
    return int(end)


def display_name(filename: str | None) -> str | None:
    """Return the last component of a client's file name, printable and short. For display only."""
    last = (filename or "").replace("\\", "/").rsplit("/", 1)[-1]
    shown = "".join(c for c in last if c.isprintable()).strip()
    return shown[:255] or None


def read_name(text: str) -> str:
    """Return a name that a client gives to a recording, as `display_name`.

    Raises:
        InvalidRequest: nothing of it can be shown.
    """
    name = display_name(text)
    if name is None:
        raise InvalidRequest("name must contain a printable character.")
    return name


def request_hash(
    stored: StoredObject, model: str, options: dict[str, Any], metadata: dict[str, Any], webhook: Sequence[str]
) -> str:
    """Return a hash of the recording, model, options, metadata and webhook of a request."""
    request = [stored.sha256, model, options, metadata, *webhook]
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
