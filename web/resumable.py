"""`/v1/uploads`: send a recording in parts, from any process and on any day, and use it for transcriptions."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, BinaryIO, Literal
from uuid import UUID

from apiflask import APIBlueprint
from flask import Response, request, url_for
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy.exc import IntegrityError
from uuid6 import uuid7
from werkzeug.datastructures import Headers

from shared import uploads
from shared.errors import ObjectMissing, ServiceError
from shared.logs import get_logger
from shared.parts import Parts, hash_object, make_parts
from shared.quotas import check_stored, lock_owner
from shared.tables import Upload
from shared.uploads import ChecksumMismatch, UploadIncomplete, UploadNotFound
from web.access import current_owner, current_quotas
from web.client_json import Integer
from web.errors import EmptyUpload, InvalidRequest, upload_too_large
from web.services import Services, services
from web.uploads import admit, read_name
from web.workload import Workload, works_with

log = get_logger(__name__)
blueprint = APIBlueprint("uploads", __name__, url_prefix="/v1/uploads", tag="Uploads")

URLS = 100  # in one response, of the parts that are missing
RENEW_SECONDS = uploads.LEASE_SECONDS / 4
_DIGEST = re.compile(r"(?:^|,)\s*sha-256\s*=\s*:([A-Za-z0-9+/=]+):")  # of Content-Digest (RFC 9530)

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$", to_lower=True)]


class NewUpload(BaseModel):
    """The body of `POST /v1/uploads`."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, StringConstraints(min_length=1, max_length=1024)] = Field(description="The file's name.")
    size: Integer = Field(ge=0, description="Its size in bytes.", json_schema_extra={"minimum": 1})
    sha256: Sha256 | None = Field(None, description="Its hash in hex; it may also be sent with `complete`.")
    content_type: Annotated[str, StringConstraints(max_length=128, pattern=r"^[\w.+-]+/[\w.+-]+$")] = Field(
        "application/octet-stream", description="Its media type."
    )


class NewUploadHeaders(BaseModel):
    """Headers of `POST /v1/uploads`."""

    idempotency_key: str | None = Field(
        None,
        min_length=1,
        max_length=255,
        description="A unique string for this upload. Repeating the request with it returns the same upload.",
    )


class Completion(BaseModel):
    """The body of `POST /v1/uploads/{id}/complete`; it may be left out."""

    model_config = ConfigDict(extra="forbid")

    sha256: Sha256 | None = Field(None, description="The hash of the whole file in hex; what arrived is compared.")


class PartView(BaseModel):
    """A part that is missing. Send these bytes of the file to the URL with PUT."""

    number: int = Field(description="From 1.")
    offset: int = Field(description="Where it begins in the file.")
    size: int = Field(description="Its size in bytes.")
    url: str = Field(
        description="Of the bucket, valid for a few minutes and sent without a key; or a path of this service."
    )


class UploadView(BaseModel):
    """A recording that arrives in parts."""

    id: str
    status: Literal["uploading", "verifying", "completed"]
    name: str | None
    content_type: str
    size: int
    sha256: str | None
    part_size: int = Field(description="Size of all parts but the last.")
    part_count: int
    received: list[int] = Field(description="Numbers of the parts that are there.")
    missing_count: int
    missing: list[PartView] = Field(description=f"The first {URLS} of them; get the upload again for more.")
    created_at: datetime
    completed_at: datetime | None
    expires_at: datetime = Field(description="When it is removed unless a request comes before.")


@blueprint.post("")
@blueprint.input(NewUploadHeaders, location="headers", arg_name="headers")
@blueprint.input(NewUpload, arg_name="body")
@blueprint.output(UploadView, status_code=201)
@blueprint.doc(
    summary="Begin an upload in parts",
    description="Send each part to its URL with PUT, in any order and several at once, then call `complete`. "
    "After an interruption, get the upload and send what is missing, from any process. Then create a "
    "transcription with its `id` as `upload_id`.",
    responses=[413, 503, 507],
)
@works_with(Workload.STORAGE)
def create(headers: NewUploadHeaders, body: NewUpload) -> tuple[dict[str, Any], int, dict[str, str]] | Response:
    """Create an upload."""
    settings = services().settings
    if body.size == 0:
        raise EmptyUpload("The file is empty. Choose another file.")
    if body.size > settings.max_recording_bytes:
        return upload_too_large(settings.max_recording_bytes)
    key, request_hash = headers.idempotency_key, hashlib.sha256(body.model_dump_json().encode()).hexdigest()
    with services().sessions() as session:
        upload = uploads.find_idempotent(session, current_owner(), key, request_hash)
    is_new = upload is None
    if upload is None:
        upload, is_new = _begin(body, key, request_hash)
    view = _view(upload, {}) if is_new else _show(upload)
    return view, 201, {"Location": url_for(".show", upload_id=upload.id)}


def _begin(body: NewUpload, key: str | None, request_hash: str) -> tuple[Upload, bool]:
    """Create an upload and return it with True, or with False if a request with the same key has just done so."""
    settings, quotas = services().settings, current_quotas()
    with services().sessions() as session:
        check_stored(session, current_owner(), quotas, added=body.size)
    admit(services(), body.size)
    upload_id = UUID(str(uuid7()))
    new = uploads.NewUpload(
        id=upload_id,
        owner=current_owner(),
        name=read_name(body.name.encode(errors="replace").decode()),
        content_type=body.content_type,
        size=body.size,
        sha256=body.sha256,
        part_size=uploads.part_size_of(body.size, settings.upload_part_bytes),
        token=make_parts(services().storage).begin(upload_id, body.content_type),
        idempotency_key=key,
        request_hash=request_hash,
    )
    try:
        with services().sessions.begin() as session:
            lock_owner(session, current_owner(), quotas)
            upload = uploads.create_upload(session, new, hours=settings.upload_hours)
            check_stored(session, current_owner(), quotas, added=0)
        return upload, True
    except IntegrityError:
        _drop(services(), Parts(new.id, new.size, new.part_size, new.token))
        with services().sessions() as session:
            earlier = uploads.find_idempotent(session, current_owner(), key, request_hash)
        if earlier is None:
            raise
        return earlier, False


@blueprint.get("/<uuid:upload_id>")
@blueprint.output(UploadView)
@blueprint.doc(
    summary="Get an upload",
    description="Shows which parts are there, and new URLs for those that are missing.",
    responses=[404, 503],
)
@works_with(Workload.STORAGE)
def show(upload_id: UUID) -> dict[str, Any]:
    """Return an upload."""
    return _show(_load(upload_id))


@blueprint.put("/<uuid:upload_id>/parts/<int:number>")
@blueprint.output({}, status_code=204)
@blueprint.doc(
    summary="Send a part",
    description="The body is the part's bytes. `Content-MD5` or `Content-Digest: sha-256=:…:` are compared with "
    "it. A part may be sent again. Where the storage is a bucket, parts are better sent to their URLs there.",
    responses=[404, 409, 422, 503],
)
@works_with(Workload.STORAGE)
def put_part(upload_id: UUID, number: int) -> tuple[str, int, dict[str, str]]:
    """Store a part."""
    upload = _load(upload_id)
    if upload.completed_at is not None:
        raise UploadIncomplete("The upload is complete: it takes no more parts.")
    parts = uploads.parts_of(upload)
    if not 1 <= number <= parts.count:
        raise InvalidRequest(f"There is no part {number}. The parts have numbers from 1 to {parts.count}.")
    body: BinaryIO = request.environ["wsgi.input"]  # `web.bridge` has read it into a file
    md5 = _check_part(body, parts.length(number), request.headers)
    make_parts(services().storage).put(parts, number, body)
    return "", 204, {"ETag": f'"{md5}"'}


@blueprint.post("/<uuid:upload_id>/complete")
@blueprint.input(Completion, arg_name="body")
@blueprint.output(UploadView)
@blueprint.doc(
    summary="Complete an upload",
    description="Verifies that all parts are there and, if the hash of the file is known, that it is right. "
    "Another request that comes meanwhile is answered with 202 and `Retry-After`; one that comes later with the "
    "same result.",
    responses={
        202: "Another request is verifying the upload. Get it at the interval of `Retry-After`.",
        404: "There is no such upload.",
        409: "Parts are missing.",
        503: "The storage is unavailable.",
    },
)
@works_with(Workload.STORAGE)
def complete(upload_id: UUID, body: Completion) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Verify an upload and make one object of its parts."""
    upload = _load(upload_id)
    if upload.completed_at is None and body.sha256 and upload.sha256 and body.sha256 != upload.sha256:
        raise ChecksumMismatch(
            f"The upload was begun with another sha256, {upload.sha256}. Complete it with that one."
        )
    if upload.completed_at is None:
        with services().sessions.begin() as session:
            is_held = uploads.hold(session, upload_id)
        if is_held:
            _complete_held(upload, body.sha256 or upload.sha256)
        upload = _load(upload_id)
    if upload.completed_at is None:
        return _view(upload, {}), 202, {"Retry-After": "2"}
    if body.sha256 and upload.sha256 is None:
        upload.sha256 = hash_object(services().storage, uploads.parts_of(upload).key, lambda: None)
    if body.sha256 and body.sha256 != upload.sha256:
        raise ChecksumMismatch("The upload is complete, and its sha256 is another one. Begin a new upload.")
    return _show(upload), 200, {}


@blueprint.delete("/<uuid:upload_id>")
@blueprint.output({}, status_code=204)
@blueprint.doc(
    summary="Delete an upload", description="Transcriptions of it keep the recording.", responses=[404, 503]
)
@works_with(Workload.STORAGE)
def remove(upload_id: UUID) -> tuple[str, int]:
    """Delete an upload. If storage fails now, the sweeper removes the parts later."""
    with services().sessions.begin() as session:
        parts = uploads.delete_upload(session, current_owner(), upload_id)
    _drop(services(), parts)
    return "", 204


def _load(upload_id: UUID) -> Upload:
    hours = services().settings.upload_hours
    with services().sessions.begin() as session:
        return uploads.get_upload(session, current_owner(), upload_id, hours=hours)


def _show(upload: Upload) -> dict[str, Any]:
    parts = uploads.parts_of(upload)
    if upload.completed_at is not None:
        return _view(upload, {number: parts.length(number) for number in range(1, parts.count + 1)})
    try:
        return _view(upload, make_parts(services().storage).received(parts))
    except ObjectMissing:  # joined, or removed by an operator's rule for unfinished multipart uploads
        received = range(1, parts.count + 1) if _is_joined(services(), parts) else ()
        return _view(upload, {number: parts.length(number) for number in received})


def _view(upload: Upload, received: Mapping[int, int]) -> dict[str, Any]:
    parts = uploads.parts_of(upload)
    missing = parts.missing(received)
    shown = missing[:URLS]
    links = make_parts(services().storage).links(parts, shown, services().settings.link_seconds)
    urls = links or {n: url_for(".put_part", upload_id=upload.id, number=n) for n in shown}
    status: Literal["uploading", "verifying", "completed"] = "uploading"
    if upload.completed_at is not None:
        status = "completed"
    elif uploads.is_verifying(upload, datetime.now(UTC)):
        status = "verifying"
    absent = set(missing)
    view = UploadView(
        id=str(upload.id),
        status=status,
        name=upload.name,
        content_type=upload.content_type,
        size=upload.size,
        sha256=upload.sha256,
        part_size=upload.part_size,
        part_count=parts.count,
        received=[n for n in range(1, parts.count + 1) if n not in absent],
        missing_count=len(missing),
        missing=[PartView(number=n, offset=parts.offset(n), size=parts.length(n), url=urls[n]) for n in shown],
        created_at=upload.created_at,
        completed_at=upload.completed_at,
        expires_at=upload.expires_at,
    )
    return view.model_dump(mode="json")


def _check_part(body: BinaryIO, size: int, headers: Headers) -> str:
    """Return the md5 of a part in hex.

    Raises:
        InvalidRequest, ChecksumMismatch: it has the wrong size, or another hash than its header states.
    """
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    length = 0
    while piece := body.read(1024 * 1024):
        md5.update(piece)
        sha256.update(piece)
        length += len(piece)
    body.seek(0)
    if length != size:
        raise InvalidRequest(f"The part has {length:,} bytes instead of {size:,}. Send it again.")
    stated = headers.get("Content-MD5"), _DIGEST.search(headers.get("Content-Digest", ""))
    for text, digest in ((stated[0], md5), (stated[1] and stated[1][1], sha256)):
        if text and _decode(text) != digest.digest():
            raise ChecksumMismatch("The part was damaged on its way: its hash is wrong. Send it again.")
    return md5.hexdigest()


def _decode(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None


def _complete_held(upload: Upload, stated: str | None) -> None:
    """Join the parts of an upload that this request holds, and compare the hash.

    Raises:
        UploadIncomplete, ChecksumMismatch
    """
    parts = uploads.parts_of(upload)
    try:
        found = _join(services(), parts, stated)
    except BaseException:
        with services().sessions.begin() as session:
            uploads.release(session, upload.id)
        raise
    if stated is not None and found != stated:
        with services().sessions.begin() as session:
            uploads.delete_upload(session, current_owner(), upload.id)
        _drop(services(), parts)
        raise ChecksumMismatch("What arrived has another sha256 than the file: begin the upload again.")
    with services().sessions.begin() as session:
        hours = services().settings.upload_hours
        if not uploads.complete(session, upload.id, found, hours=hours):
            raise UploadNotFound(f"Upload {upload.id} was deleted meanwhile.")
    _drop(services(), parts, is_joined=True)


def _join(found: Services, parts: Parts, stated: str | None) -> str | None:
    """Make one object of all parts, unless that has been done; return its sha256, if it had to be computed."""
    alive = _renewing(found, parts.upload_id)
    sha256 = None
    if not _is_joined(found, parts):
        storage = make_parts(found.storage)
        try:
            missing = parts.missing(storage.received(parts))
        except ObjectMissing:
            missing = list(range(1, parts.count + 1))
        if missing:
            numbers = ", ".join(map(str, missing[:10])) + (" …" if missing[10:] else "")
            raise UploadIncomplete(
                f"{len(missing)} of {parts.count} parts are missing ({numbers}). Send them, then try again."
            )
        sha256 = storage.join(parts, alive)
        if not _is_joined(found, parts):
            raise ChecksumMismatch("What arrived has another size than the file: begin the upload again.")
    if sha256 is None and stated is not None:
        sha256 = hash_object(found.storage, parts.key, alive)
    return sha256


def _is_joined(found: Services, parts: Parts) -> bool:
    try:
        return found.storage.size(parts.key) == parts.size
    except ObjectMissing:
        return False


def _renewing(found: Services, upload_id: UUID) -> Callable[[], None]:
    """Return a function that renews the lease now and then, and raises if the upload was deleted."""
    renewed = time.monotonic()

    def alive() -> None:
        nonlocal renewed
        if time.monotonic() - renewed < RENEW_SECONDS:
            return
        with found.sessions.begin() as session:
            if not uploads.renew(session, upload_id):
                raise UploadNotFound(f"Upload {upload_id} was deleted meanwhile.")
        renewed = time.monotonic()

    return alive


def _drop(found: Services, parts: Parts, *, is_joined: bool = False) -> None:
    """Remove parts that are needed no more; if storage fails now, the sweeper does it later."""
    try:
        if not (is_joined and parts.token):  # joined parts of a bucket are gone
            make_parts(found.storage).drop(parts)
    except ServiceError as error:
        log.warning("upload_left_for_the_sweeper", upload_id=str(parts.upload_id), error=str(error))
