"""A copy of the checkpoints of one's own: read before all other sources, filled after a fetch from one.

    s3://bucket/prefix or https://host/path, then /mt3_pytorch/mt3.pth

A thousand workers then cost the publisher one download. What a mirror delivers is verified like anything else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from checkpoints.errors import CheckpointError, SourceError
from checkpoints.files import CheckpointFile
from checkpoints.http import PATIENT, Address, Patience, open_address
from checkpoints.resume import download
from checkpoints.sources import Source
from checkpoints.sources.url import UrlSource

_LINK_SECONDS = 3600  # each connection asks for a fresh link


class Mirror(Protocol):
    """A store of copies."""

    def source(self, checkpoint: str, file: str) -> Source:
        """Return the source to read a copy from."""

    def put(self, checkpoint: str, file: str, path: Path) -> None:
        """Keep a copy.

        Raises:
            SourceError: it cannot.
        """


def open_mirror(url: str, environ: Mapping[str, str] = os.environ) -> Mirror:
    """Open the mirror at an s3:// or http(s):// address.

    Raises:
        CheckpointError: it is another kind of address.
    """
    parts = urlsplit(url)
    if parts.scheme in ("http", "https") and parts.hostname:
        return HttpMirror(url.rstrip("/"))
    if parts.scheme == "s3" and parts.netloc:
        return S3Mirror(parts.netloc, parts.path.strip("/"), dict(environ))
    raise CheckpointError(f"MT3_CHECKPOINT_MIRROR is {url!r}; it must be s3://bucket/prefix or an http address.")


@dataclass(frozen=True)
class HttpMirror:
    """A folder of any web server; filled where it takes PUT."""

    base: str
    patience: Patience = PATIENT

    def source(self, checkpoint: str, file: str) -> Source:
        """See `Mirror`."""
        return UrlSource(self._url(checkpoint, file), patience=self.patience)

    def put(self, checkpoint: str, file: str, path: Path) -> None:
        """See `Mirror`."""
        headers = {"Content-Length": str(path.stat().st_size), "Content-Type": "application/octet-stream"}
        with path.open("rb") as body:
            address = Address(self._url(checkpoint, file), headers)
            open_address(address, self.patience, data=body, method="PUT").close()

    def _url(self, checkpoint: str, file: str) -> str:
        return f"{self.base}/{quote(checkpoint)}/{quote(file)}"


@dataclass(frozen=True)
class S3Mirror:
    """A bucket; the credentials are those of the service (`MT3_S3_…`), else where boto3 always looks."""

    bucket: str
    prefix: str
    environ: Mapping[str, str] = field(repr=False)  # holds secrets
    patience: Patience = PATIENT

    def source(self, checkpoint: str, file: str) -> Source:
        """See `Mirror`."""
        return _S3Source(self, self._key(checkpoint, file))

    def put(self, checkpoint: str, file: str, path: Path) -> None:
        """Upload it; an object appears whole or not at all."""
        client = self.client()
        try:
            client.upload_file(str(path), self.bucket, self._key(checkpoint, file))
        except Exception as error:  # botocore's and boto3's errors share no base
            raise SourceError(str(error)) from error

    def client(self) -> Any:
        """Make a boto3 client for the bucket's server.

        Raises:
            SourceError: boto3 is not installed.
        """
        try:
            import boto3
            from botocore.config import Config
        except ImportError:
            raise SourceError("boto3 is not installed (pip install boto3)") from None
        setting = self.environ.get
        return boto3.client(
            "s3",
            endpoint_url=setting("MT3_S3_ENDPOINT_URL") or None,
            aws_access_key_id=setting("MT3_S3_ACCESS_KEY_ID") or None,
            aws_secret_access_key=setting("MT3_S3_SECRET_ACCESS_KEY") or None,
            region_name=setting("MT3_S3_REGION") or "us-east-1",
            config=Config(
                signature_version="s3v4",
                connect_timeout=5,
                read_timeout=self.patience.timeout,
                # Its own retries: the same number of tries, with growing pauses and jitter.
                retries={"mode": "standard", "total_max_attempts": self.patience.tries},
            ),
        )

    def _key(self, checkpoint: str, file: str) -> str:
        return "/".join(filter(None, (self.prefix, checkpoint, file)))


@dataclass(frozen=True)
class _S3Source:
    mirror: S3Mirror
    key: str

    @property
    def label(self) -> str:
        return f"s3://{self.mirror.bucket}/{self.key}"

    def fetch(self, file: CheckpointFile, part: Path, progress: Callable[[int], None]) -> str:
        """Download through signed links, so that it is continued like any other."""
        client = self.mirror.client()
        try:

            def locate() -> Address:
                wanted = {"Bucket": self.mirror.bucket, "Key": self.key}
                return Address(client.generate_presigned_url("get_object", Params=wanted, ExpiresIn=_LINK_SECONDS))

            return download(locate, self.label, file, part, progress, self.mirror.patience)
        finally:
            client.close()
