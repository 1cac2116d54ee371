"""A client of the service like a user's script: plain HTTP and polling."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any
from uuid import uuid4


@dataclass
class Answer:
    status: int
    headers: Message  # names in any case
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass
class ServiceClient:
    url: str

    def call(self, method: str, path: str, *, data: bytes | None = None, **headers: str) -> Answer:
        url = path if path.startswith("http") else self.url + path
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(url, data=data, method=method, headers=named)
        opener = urllib.request.build_opener(_NoRedirects)
        try:
            with opener.open(request, timeout=30) as response:
                return Answer(response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read())

    def get(self, path: str, **headers: str) -> Answer:
        return self.call("GET", path, data=None, **headers)

    def submit(
        self,
        recording: Path | bytes,
        *,
        name: str = "recording",
        key: str | None = None,
        prefer: str | None = None,
        **fields: str,
    ) -> Answer:
        """Upload a recording like a browser's form; `key` is the Idempotency-Key, `prefer` the header Prefer."""
        if isinstance(recording, Path):
            name, content = recording.name, recording.read_bytes()
        else:
            content = recording
        boundary = uuid4().hex
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
            for key, value in fields.items()
        ]
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        body = b"".join([*parts, head.encode(), content, f"\r\n--{boundary}--\r\n".encode()])
        content_type = f"multipart/form-data; boundary={boundary}"
        headers = {"Content_Type": content_type} | ({"Idempotency_Key": key} if key else {})
        headers |= {"Prefer": prefer} if prefer else {}
        return self.call("POST", "/v1/transcriptions", data=body, **headers)

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.get(f"/v1/transcriptions/{job_id}")
        assert answer.status == 200, answer.body
        job: dict[str, Any] = answer.json
        return job

    def wait(self, job_id: str, *, until: tuple[str, ...] = (), seconds: float = 90) -> dict[str, Any]:
        """Poll until the job ends or reaches one of these states or phases; every response must be a job."""
        give_up = time.monotonic() + seconds
        while True:
            job = self.job(job_id)
            if job["finished_at"] or job["status"] in until or job["phase"] in until:
                return job
            assert time.monotonic() < give_up, f"after {seconds} s: {job}"
            time.sleep(0.1)

    def transcribe(self, recording: Path | bytes, **fields: str) -> dict[str, Any]:
        """Submit a recording, wait for the end, and return the job."""
        answer = self.submit(recording, **fields)
        assert answer.status == 202, answer.body
        return self.wait(answer.json["id"])

    def artifact(self, job: dict[str, Any], name: str) -> bytes:
        answer = self.get(f"/v1/transcriptions/{job['id']}/artifacts/{name}?redirect=false")
        assert answer.status == 200, answer.body
        return answer.body
