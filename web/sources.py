"""JSON requests for transcriptions: of an upload in parts, of a URL, or of another transcription's recording."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from typing import Annotated, Any, TypeVar, cast
from urllib.parse import unquote, urlsplit
from uuid import UUID

from apiflask.schema_adapters.pydantic import PydanticAdapter
from flask import request
from pydantic import ConfigDict, Field, StringConstraints
from uuid6 import uuid7

from mt3_infer.models import MODELS
from shared import jobs, uploads
from shared.default_model import AUTO
from shared.errors import StateConflict
from shared.jobs import NewJob
from shared.public_address import MAX_URL_CHARACTERS
from shared.storage import upload_prefix
from shared.tables import Job
from shared.uploads import UploadIncomplete
from web.access import current_owner, current_quotas
from web.client_json import check_returnable
from web.errors import InvalidRequest
from web.schemas import ClientFields, Metadata
from web.services import Services
from web.uploads import admit, check_metadata, check_showable, display_name, read_name, resolve_model
from web.webhook_fields import WebhookFields, parse_address
from web.webhooks import check_webhook

View = TypeVar("View", bound=Callable[..., Any])


class JsonTranscription(WebhookFields):
    """The body of `POST /v1/transcriptions` as JSON, with exactly one of the first three fields."""

    model_config = ConfigDict(extra="forbid")

    upload_id: UUID | None = Field(None, description="A complete upload; see /v1/uploads.")
    source_url: Annotated[str, StringConstraints(max_length=MAX_URL_CHARACTERS)] | None = Field(
        None, description="An http(s) URL that a worker fetches the recording from. Only public addresses."
    )
    transcription_id: UUID | None = Field(
        None, description="Another transcription, whose recording is transcribed again."
    )
    name: Annotated[str, StringConstraints(min_length=1, max_length=1024)] | None = Field(
        None, description="The recording's name, if not that of the upload, the URL or the other transcription."
    )
    model: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None, description="A model's name or alias, or `auto`; see /v1/models."
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the model.")
    metadata: Metadata = Field(default_factory=dict, description="Your own data. It is returned with the job.")


@dataclass(frozen=True)
class Source:
    """Where a job's recording is, or will be fetched from."""

    name: str | None
    key: str
    size: int = 0
    recording_id: UUID | None = None
    url: str | None = None


def or_json(view: View) -> View:
    """Make a view whose `form` is a form take a `JsonTranscription` as well; goes above the form's decorator."""
    adapter = PydanticAdapter(JsonTranscription)
    without_form = view.__wrapped__  # type: ignore[attr-defined]

    @wraps(view)
    def either(*args: Any, **kwargs: Any) -> Any:
        if not request.is_json:
            return view(*args, **kwargs)
        return without_form(*args, form=adapter.validate_input(request, "json"), **kwargs)

    either._spec["json_body"] = JsonTranscription  # type: ignore[attr-defined]  # see `web.strict`
    return cast(View, either)


def declare_json(spec: dict[str, Any]) -> None:
    """Declare in OpenAPI that transcriptions are created with JSON as well."""
    schema = JsonTranscription.model_json_schema()
    content = spec["paths"]["/v1/transcriptions"]["post"]["requestBody"]["content"]
    content["application/json"] = {"schema": {"$ref": f"#/components/schemas/{schema['title']}"}}
    spec["components"]["schemas"][schema["title"]] = schema


def create_from_json(services: Services, body: JsonTranscription, *, idempotency_key: str | None) -> Job:
    """Create a job, or return the one created earlier with the same key.

    Raises:
        UnknownModel, LicenseNotAdmitted, InvalidOptionError, InvalidRequest, AddressRefused, IdempotencyConflict:
            the request is wrong.
        UploadNotFound, JobNotFound: there is no such recording.
        UploadIncomplete, StateConflict: it is not there yet.
        QuotaExceeded, StorageFull: the owner, or the service, may not have that much queued or stored.
    """
    if sum(part is not None for part in (body.upload_id, body.source_url, body.transcription_id)) != 1:
        raise InvalidRequest(
            "Send exactly one of upload_id, source_url and transcription_id; a file is sent as a form."
        )
    model = resolve_model(services, body.model)
    check_returnable("options", body.options)
    MODELS[model].check_options(body.options)
    check_metadata(body.metadata)
    webhook_events = check_webhook(services, body.webhook_url, body.webhook_events)
    is_auto = (body.model or services.settings.default_model) == AUTO
    request_hash = _hash_request(body, AUTO if is_auto else model)
    with services.sessions() as session:
        earlier = jobs.find_idempotent(session, current_owner(), idempotency_key, request_hash)
    if earlier is not None:
        return earlier
    job_id = UUID(str(uuid7()))
    source = _find_source(services, body, job_id)
    if body.name is not None:
        source = replace(source, name=read_name(body.name))
    check_showable(ClientFields(options=body.options, filename=source.name, metadata=body.metadata))
    new = NewJob(
        id=job_id,
        owner=current_owner(),
        model=model,
        options=body.options,
        client_metadata=body.metadata,
        filename=source.name,
        upload_key=source.key,
        upload_bytes=source.size,
        recording_id=source.recording_id,
        source_url=source.url,
        idempotency_key=idempotency_key,
        request_hash=request_hash,
        webhook_url=body.webhook_url,
        webhook_events=webhook_events,
    )
    job, created = jobs.create_job(services.sessions, new, current_quotas())
    if created:
        services.queue.notify()
    return job


def _hash_request(body: JsonTranscription, model: str) -> str:
    source = [str(part) for part in (body.upload_id, body.source_url, body.transcription_id)]
    asked = [source, body.name, model, body.options, body.metadata]
    if body.webhook_url is not None:
        asked.append([body.webhook_url, *(body.webhook_events or ())])
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _find_source(services: Services, body: JsonTranscription, job_id: UUID) -> Source:
    if body.source_url is not None:
        target = parse_address(services.settings, "source_url", body.source_url)
        admit(services, 0)  # its size is not known yet
        name = display_name(unquote(urlsplit(body.source_url).path)) or target.host
        return Source(name, upload_prefix(job_id) + "audio", url=body.source_url)
    with services.sessions() as session:
        if body.upload_id is not None:
            upload = uploads.get_upload(session, current_owner(), body.upload_id)
            if upload.completed_at is None:
                raise UploadIncomplete(f"Upload {upload.id} is not complete. Send its parts, then complete it.")
            return Source(upload.name, uploads.parts_of(upload).key, upload.size, upload.id)
        assert body.transcription_id is not None
        job = jobs.get_job(session, current_owner(), body.transcription_id)
    if not job.upload_bytes:
        raise StateConflict(f"The recording of transcription {job.id} has not been fetched yet. Try again later.")
    return Source(job.filename, job.upload_key, job.upload_bytes, job.recording_id or job.id)
