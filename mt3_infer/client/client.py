"""The client itself: one method for each thing that the service does."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from os import SEEK_END, PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self
from uuid import uuid4

from mt3_infer.client.errors import ClientError, JobFailedError, NotFoundError, UnreachableError, WaitTimeoutError
from mt3_infer.client.transport import OnPause, Transport
from mt3_infer.client.uploading import Journal, Report, default_journal, forget, upload_in_parts
from mt3_infer.client.views import Artifact, Export, Job
from mt3_infer.files import replacing

IN_PARTS = 16 * 1024 * 1024  # bytes from which a recording is sent in parts
WAIT_SECONDS = 30  # for each request that waits
PROGRESS_SECONDS = 1  # the same, while progress is shown
JOBS = "/v1/transcriptions"


class Client:
    """A client of one service. It may be used by several threads.

    Args:
        url: of the service, such as "http://127.0.0.1:8000".
        api_key: a key that `mt3-infer keys create` made, if the service needs one.
        timeout: seconds without any sign of life after which a request has failed.
        patience: seconds for which a request is repeated while the service is unavailable.
        journal: remembers unfinished uploads; by default in the user's cache.
        on_pause: called with the error and the seconds of the pause before a request is sent again.
        options: of the HTTP client, such as `verify` or `proxy`.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        patience: float = 120.0,
        journal: Journal | None = None,
        on_pause: OnPause | None = None,
        **options: Any,
    ) -> None:
        more = {"timeout": timeout, "patience": patience, "on_pause": on_pause, **options}
        self._transport = Transport(url, api_key, **more)
        self._journal = journal or default_journal()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.http.close()

    def submit(
        self,
        recording: str | PathLike[str] | bytes,
        *,
        model: str | None = None,
        options: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        name: str | None = None,
        idempotency_key: str | None = None,
        progress: Report | None = None,
    ) -> Job:
        """Submit a recording and return its job, without waiting for it.

        Args:
            recording: a path, or the bytes of a file.
            model: a name, an alias, or "auto"; by default the one of the service.
            name: shown, and given to downloads; by default that of the file.
            idempotency_key: a repeated call with the same key creates no second job.
            progress: called with the bytes sent and all bytes.
        Raises:
            ApiError, UnreachableError, OSError
        """
        report = progress or (lambda done, total: None)
        key = idempotency_key or str(uuid4())
        fields: dict[str, Any] = {"model": model, "options": options, "metadata": metadata}
        if not isinstance(recording, bytes):
            path = Path(recording)
            if path.stat().st_size >= IN_PARTS:
                return self._submit_in_parts(path, name, fields, key, report)
        return self._submit_form(recording, name, fields, key, report)

    def get(self, job_id: str) -> Job:
        """Return a job."""
        return Job.model_validate(self._transport.send("GET", f"{JOBS}/{job_id}").json())

    def wait(
        self, job_id: str, *, timeout: float | None = None, progress: Callable[[Job], None] | None = None
    ) -> Job:
        """Return a job that succeeded, as soon as it has.

        Args:
            timeout: seconds.
            progress: called with the job about once a second.
        Raises:
            JobFailedError: it failed or was canceled.
            WaitTimeoutError, ApiError, UnreachableError
        """
        give_up = None if timeout is None else time.monotonic() + timeout
        while True:
            seconds: float = PROGRESS_SECONDS if progress else WAIT_SECONDS
            if give_up is not None:
                seconds = max(0.0, min(seconds, give_up - time.monotonic()))
            headers = {"Prefer": f"wait={seconds:.0f}"}
            job = Job.model_validate(self._transport.send("GET", f"{JOBS}/{job_id}", headers=headers).json())
            if progress:
                progress(job)
            if job.status == "succeeded":
                return job
            if job.error is not None or job.has_ended:
                error = job.error
                raise JobFailedError(
                    error.detail if error else "It was canceled.", error.code if error else "canceled"
                )
            if give_up is not None and time.monotonic() >= give_up:
                raise WaitTimeoutError(f"The transcription has not ended after {timeout:g} s. It goes on.")

    def list(self, filters: Mapping[str, str] | None = None, *, limit: int | None = None) -> Iterator[Job]:
        """Yield jobs, newest first.

        Args:
            filters: as of the API: `status`, `model`, `q`, `created_after`, `metadata.KEY`, …
            limit: how many; by default all.
        """
        query: dict[str, Any] = {**(filters or {}), "limit": min(limit or 100, 100)}
        count = 0
        while True:
            page = self._transport.send("GET", JOBS, params=query).json()
            for item in page["items"]:
                if limit is not None and count >= limit:
                    return
                yield Job.model_validate(item)
                count += 1
            if page["next_cursor"] is None:
                return
            query["cursor"] = page["next_cursor"]

    def cancel(self, job_id: str) -> Job:
        """Cancel a job that has not ended, and return it.

        Raises:
            ConflictError: it has succeeded or failed.
        """
        return Job.model_validate(self._transport.send("POST", f"{JOBS}/{job_id}/cancel").json())

    def retry(self, job_id: str) -> Job:
        """Queue a job again that failed or was canceled, and return it.

        Raises:
            ConflictError: it is waiting, running or has succeeded.
        """
        response = self._transport.send("POST", f"{JOBS}/{job_id}/retry", is_repeatable=False)
        return Job.model_validate(response.json())

    def delete(self, job_id: str) -> None:
        """Delete a job and its files.

        Raises:
            NotFoundError
        """
        self._transport.send("DELETE", f"{JOBS}/{job_id}", is_repeatable=False)

    def export(
        self, job_id: str, format: str, options: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> Export:
        """Make another file from the notes of a job; return it when it is there.

        Raises:
            JobFailedError: it cannot be made.
            WaitTimeoutError, ApiError, UnreachableError
        """
        give_up = None if timeout is None else time.monotonic() + timeout
        body = {"format": format, "options": dict(options or {})}
        address = f"{JOBS}/{job_id}/exports"
        response = self._transport.send("POST", address, json=body)
        while True:
            export = Export.model_validate(response.json())
            if export.status == "succeeded":
                return export
            if export.error is not None:
                raise JobFailedError(export.error.detail, export.error.code)
            if give_up is not None and time.monotonic() >= give_up:
                raise WaitTimeoutError(f"The export has not ended after {timeout:g} s. It goes on.")
            headers = {"Prefer": f"wait={WAIT_SECONDS if give_up is None else 1}"}
            response = self._transport.send("GET", f"{address}/{export.id}", headers=headers)

    def exports(self, job_id: str) -> tuple[Export, ...]:
        """Return the exports of a job, oldest first."""
        items = self._transport.send("GET", f"{JOBS}/{job_id}/exports").json()["items"]
        return tuple(Export.model_validate(item) for item in items)

    def download(
        self,
        job: Job | Export | str,
        artifact: str | None = None,
        target: str | PathLike[str] | None = None,
        *,
        progress: Report | None = None,
    ) -> Path:
        """Download a file of a job, whole or not at all, and return its path.

        Args:
            job: a job that succeeded, its id, or an export.
            artifact: the file's name; by default `transcription.mid`, or the file of the export.
            target: where to; by default a file of that name in the current folder.
            progress: called with the bytes that are there and all bytes.
        Raises:
            NotFoundError: there is no such file.
            ApiError, UnreachableError, OSError
        """
        found = self._find_artifact(job, artifact)
        path = Path(target if target is not None else found.name)
        with replacing(path) as part, part.open("wb") as file:
            self._fetch(found, file, progress or (lambda done, total: None))
        return path

    def _find_artifact(self, job: Job | Export | str, name: str | None) -> Artifact:
        if isinstance(job, str):
            job = self.get(job)
        if isinstance(job, Export):
            found = job.artifact
        else:
            name = name or "transcription.mid"
            found = job.artifact(name)
        if found is None:
            text = f"There is no file {name!r}." if name else "The export has no file yet."
            raise NotFoundError(text, status=404, code="not_found")
        return found

    def _fetch(self, artifact: Artifact, file: BinaryIO, report: Report) -> None:
        """Write the bytes of an artifact, going on after interruptions.

        Raises:
            ClientError: what arrived has another hash.
        """
        pauses = self._transport.pauses()
        digest = hashlib.sha256()
        while (done := file.tell()) < artifact.size:
            headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
            try:
                with self._transport.stream(artifact.href, headers) as response:
                    if done and response.status_code != 206:
                        file.seek(0)
                        file.truncate()
                        digest = hashlib.sha256()
                    for piece in response.iter_bytes():
                        file.write(piece)
                        digest.update(piece)
                        report(file.tell(), artifact.size)
                if file.tell() <= done:
                    raise UnreachableError(f"{artifact.name} was cut off.")
                pauses.reset()
            except ClientError as error:
                pauses.before_next(error)
        if digest.hexdigest() != artifact.sha256:
            raise ClientError(f"{artifact.name} was damaged on its way. Download it again.")

    def _submit_in_parts(
        self, path: Path, name: str | None, fields: dict[str, Any], key: str, report: Report
    ) -> Job:
        upload_id = upload_in_parts(self._transport, path, self._journal, report)
        body = {field: value for field, value in fields.items() if value is not None} | {"upload_id": upload_id}
        response = self._transport.send("POST", JOBS, json=body, headers={"Idempotency-Key": key})
        forget(self._transport, path, self._journal)
        job = Job.model_validate(response.json())
        if name is None or name == job.filename:
            return job
        return Job.model_validate(self._transport.send("PATCH", f"{JOBS}/{job.id}", json={"name": name}).json())

    def _submit_form(
        self,
        recording: str | PathLike[str] | bytes,
        name: str | None,
        fields: dict[str, Any],
        key: str,
        report: Report,
    ) -> Job:
        data = {
            field: value if isinstance(value, str) else json.dumps(dict(value))
            for field, value in fields.items()
            if value is not None
        }
        with ExitStack() as stack:
            if isinstance(recording, bytes):
                content: bytes | _Reported = recording
                shown = name or "recording"
            else:
                content = _Reported(stack.enter_context(Path(recording).open("rb")), report)
                shown = name or Path(recording).name

            def rewound() -> dict[str, Any]:
                if isinstance(content, _Reported):
                    content.seek(0)
                return {"files": {"file": (shown, content)}}

            response = self._transport.send(
                "POST", JOBS, data=data, headers={"Idempotency-Key": key}, content=rewound
            )
        return Job.model_validate(response.json())


class _Reported:
    """A file that reports how far it was read."""

    def __init__(self, file: BinaryIO, report: Report) -> None:
        self._file = file
        self._report = report
        self._size = file.seek(0, SEEK_END)
        file.seek(0)

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(size)
        self._report(self._file.tell(), self._size)
        return piece

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def fileno(self) -> int:
        return self._file.fileno()
