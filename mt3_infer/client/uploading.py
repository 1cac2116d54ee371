"""Uploads in parts, which go on after an interruption: of the connection, of this process, or of the machine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from mt3_infer.client.errors import ApiError, NotFoundError, UnreachableError
from mt3_infer.client.transport import Pauses, Transport
from mt3_infer.client.views import Part, Upload

PIECE = 1024 * 1024

Report = Callable[[int, int], None]
"""Called with the bytes that were sent, and all of them."""


class Journal:
    """Remembers which upload a file belongs to, in a folder that outlives the process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, server: str, file: Path) -> Path:
        """Return where the id of a file's upload is kept; another one after each change of the file."""
        stat = file.stat()
        known = f"{server}\n{file.resolve()}\n{stat.st_size}\n{stat.st_mtime_ns}"
        return self._folder / hashlib.sha256(known.encode()).hexdigest()[:32]


def default_journal() -> Journal:
    """Return the journal in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Journal(Path(cache) / "mt3-infer" / "uploads")


def upload_in_parts(transport: Transport, file: Path, journal: Journal, report: Report) -> str:
    """Send a file in parts, those that are missing; return the id of the completed upload.

    Raises:
        ApiError, UnreachableError: it can be called again and goes on.
    """
    size = file.stat().st_size
    kept = journal.path(transport.url, file)
    upload = _find(transport, kept)
    digest = _sha256(file)
    if upload is None:
        body = {"name": file.name, "size": size, "sha256": digest}
        once = {"Idempotency-Key": str(uuid4())}  # a request whose answer was lost begins no second upload
        upload = Upload.model_validate(transport.send("POST", "/v1/uploads", json=body, headers=once).json())
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(upload.id)
    with file.open("rb") as source:
        _send_missing(transport, source, upload, report)
    try:
        _complete(transport, upload.id, digest)
    except ApiError as error:
        if error.code == "checksum_mismatch":
            kept.unlink(missing_ok=True)
        raise
    return upload.id


def forget(transport: Transport, file: Path, journal: Journal) -> None:
    """Forget the upload of a file, once a transcription of it was created."""
    journal.path(transport.url, file).unlink(missing_ok=True)


def _find(transport: Transport, kept: Path) -> Upload | None:
    try:
        return _get(transport, kept.read_text())
    except (OSError, NotFoundError):
        return None


def _get(transport: Transport, upload_id: str) -> Upload:
    return Upload.model_validate(transport.send("GET", f"/v1/uploads/{upload_id}").json())


def _send_missing(transport: Transport, source: BinaryIO, upload: Upload, report: Report) -> None:
    pauses = transport.pauses()
    while upload.missing:
        left = sum(part.size for part in upload.missing) if upload.missing_count == len(upload.missing) else None
        for part in upload.missing:
            try:
                _send_part(transport, source, part)
            except (UnreachableError, ApiError) as error:
                _wait(pauses, error)
                break  # links of the bucket may have expired: get new ones
            pauses.reset()
            if left is not None:
                left -= part.size
            report(upload.size - left if left is not None else part.offset + part.size, upload.size)
        upload = _get(transport, upload.id)


def _wait(pauses: Pauses, error: ApiError | UnreachableError) -> None:
    is_expired = isinstance(error, ApiError) and error.status == HTTPStatus.FORBIDDEN
    pauses.before_next(UnreachableError(str(error)) if is_expired else error)


def _send_part(transport: Transport, source: BinaryIO, part: Part) -> None:
    source.seek(part.offset)
    transport.put(part.url, source.read(part.size))


def _complete(transport: Transport, upload_id: str, digest: str) -> None:
    pauses = transport.pauses()
    while True:
        response = transport.send("POST", f"/v1/uploads/{upload_id}/complete", json={"sha256": digest})
        if response.status_code == HTTPStatus.OK:
            return
        pauses.reset()  # another request verifies it
        pauses.before_next(UnreachableError("The upload is being verified."))


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as source:
        while piece := source.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()
