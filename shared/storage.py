"""Object storage for recordings and results: a folder or an S3 bucket, behind one protocol.

The service alone makes the keys: `uploads/{job}/audio`, `results/{job}/{attempt}/{name}`, of a long recording
also `shards/{job}/{attempt}/{shard}/…`, and `exports/{job}/{number}/{attempt}/{name}`. No name that a client has
chosen is used as a path or key. An object is either complete under its key or absent.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast
from urllib.parse import quote, unquote, urlsplit
from uuid import UUID

from shared.config import Settings
from shared.errors import ObjectMissing, StorageUnavailable
from shared.logs import get_logger

log = get_logger(__name__)


def upload_prefix(job_id: UUID) -> str:
    """Return the prefix of a job's recording."""
    return f"uploads/{job_id}/"


def result_prefix(job_id: UUID, *attempts: int) -> str:
    """Return the prefix of a job's results: a folder for each attempt, so that a late one overwrites nothing.

    Args:
        attempts: the attempt at the job's first item and, for a long recording, the attempt at its assembly.
    """
    return "/".join(["results", str(job_id), *map(str, attempts), ""])


def shard_prefix(job_id: UUID, *parts: int) -> str:
    """Return the prefix of a job's shards; `parts`: attempt at the split, shard number, attempt at the shard."""
    return "/".join(["shards", str(job_id), *map(str, parts), ""])


def export_prefix(job_id: UUID, *parts: int) -> str:
    """Return the prefix of a job's exports; `parts`: number of the work item, attempt at it."""
    return "/".join(["exports", str(job_id), *map(str, parts), ""])


@dataclass(frozen=True)
class StoredObject:
    """A written object, with its size in bytes and its sha256 in hex."""

    key: str
    size: int
    sha256: str


@dataclass(frozen=True)
class ListedObject:
    """An existing object; `modified` is by the clock of the storage."""

    key: str
    size: int
    modified: datetime


class ObjectStorage(Protocol):
    """Methods raise `StorageUnavailable` if storage does not answer, `ObjectMissing` if the key does not exist."""

    def put(self, key: str, source: BinaryIO, *, content_type: str) -> StoredObject:
        """Store the rest of a stream, completely or not at all, and verify the stored size."""

    def open(self, key: str) -> BinaryIO:
        """Open an object as a seekable stream; the caller closes it."""

    def size(self, key: str) -> int:
        """Return the size of an object in bytes."""

    def delete_prefix(self, prefix: str) -> None:
        """Remove all objects under a prefix; it is no error if there are none."""

    def list_objects(self, prefix: str) -> Iterator[ListedObject]:
        """Yield all objects under a prefix, in the order of their keys."""

    def delete_unfinished(self, *, older_than: datetime) -> int:
        """Remove the remains of writes that began before a time and never finished; return how many."""

    def link(self, key: str, *, disposition: str, content_type: str, seconds: int) -> str | None:
        """Return a short-lived URL of the object; None if the service itself must send the bytes.

        Args:
            disposition: the Content-Disposition of the response, see `content_disposition`.
        """

    def check(self) -> None:
        """Raise if storage is not usable."""


def make_storage(settings: Settings) -> ObjectStorage:
    """Return the storage that `MT3_STORAGE_URL` names."""
    parts = urlsplit(settings.storage_url)
    if parts.scheme == "file":
        return LocalStorage(Path(unquote(parts.path)))
    return S3Storage(settings, bucket=parts.netloc, prefix=parts.path.strip("/"))


def put_checked(storage: ObjectStorage, key: str, content: BinaryIO, *, content_type: str) -> StoredObject:
    """Store an object that other steps rely on, and verify its hash by reading it back.

    Raises:
        StorageUnavailable: the object is missing or differs from what was sent.
    """
    stored = storage.put(key, content, content_type=content_type)
    try:
        with storage.open(key) as kept:
            hashing = _Hashing(kept)
            while hashing.read(1024 * 1024):
                pass
            is_intact = hashing.sha256 == stored.sha256
    except ObjectMissing:
        is_intact = False
    if not is_intact:
        raise StorageUnavailable(f"Storage did not keep {key} as it was sent.")
    return stored


def content_disposition(filename: str, *, as_attachment: bool) -> str:
    """Return the header value that names a download, also for clients that only know the plain form (RFC 6266)."""
    kind = "attachment" if as_attachment else "inline"
    plain = unicodedata.normalize("NFKD", filename).encode("ascii", "ignore").decode()
    plain = "".join(c if c.isprintable() and c not in '"\\%' else "_" for c in plain).strip() or "download"
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"


class _Hashing:
    """A read-only stream that counts and hashes the bytes read through it."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._sha256 = hashlib.sha256()
        self.size = 0

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self._sha256.update(data)
        self.size += len(data)
        return data

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()


PART = ".part-"


class LocalStorage:
    """Storage in a folder. Writes go to a temporary file beside the target, which is synced and renamed."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, key: str, source: BinaryIO, *, content_type: str) -> StoredObject:
        """See `ObjectStorage`."""
        path = self._path(key)
        hashing = _Hashing(source)
        with _local_errors(key):
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=PART, delete=False) as part:
                try:
                    shutil.copyfileobj(hashing, part, 1024 * 1024)
                    part.flush()
                    os.fsync(part.fileno())
                    Path(part.name).replace(path)
                except BaseException:
                    Path(part.name).unlink(missing_ok=True)
                    with suppress(OSError):
                        path.parent.rmdir()  # unless it holds other files
                    raise
        return StoredObject(key, hashing.size, hashing.sha256)

    def open(self, key: str) -> BinaryIO:
        """See `ObjectStorage`."""
        with _local_errors(key):
            return self._path(key).open("rb")

    def size(self, key: str) -> int:
        """See `ObjectStorage`."""
        with _local_errors(key):
            return self._path(key).stat().st_size

    def delete_prefix(self, prefix: str) -> None:
        """See `ObjectStorage`. Prefixes end in a slash, so each one is a folder."""
        with _local_errors(prefix):
            if self._path(prefix).exists():
                shutil.rmtree(self._path(prefix))

    def list_objects(self, prefix: str) -> Iterator[ListedObject]:
        """See `ObjectStorage`."""
        for path, key in self._files(prefix):
            if not path.name.startswith(PART):
                with suppress(ObjectMissing), _local_errors(key):
                    stat = path.stat()
                    yield ListedObject(key, stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC))

    def delete_unfinished(self, *, older_than: datetime) -> int:
        """See `ObjectStorage`: removes temporary files that have not been written to since."""
        removed = 0
        for path, key in self._files(""):
            if path.name.startswith(PART):
                with suppress(ObjectMissing), _local_errors(key):
                    if path.stat().st_mtime < older_than.timestamp():
                        path.unlink()
                        removed += 1
        return removed

    def _files(self, prefix: str) -> Iterator[tuple[Path, str]]:
        """Yield every file under a prefix that ends in a slash, with its key."""
        with _local_errors(prefix):
            for folder, folders, names in os.walk(self._path(prefix)):
                folders.sort()
                for name in sorted(names):
                    path = Path(folder, name)
                    yield path, path.relative_to(self.root).as_posix()

    def link(self, key: str, *, disposition: str, content_type: str, seconds: int) -> str | None:
        """Return None: the web process sends the bytes itself."""
        return None

    def check(self) -> None:
        """See `ObjectStorage`."""
        with _local_errors(""):
            self.root.mkdir(parents=True, exist_ok=True)
        if not os.access(self.root, os.W_OK):
            raise StorageUnavailable(f"The storage folder {self.root} is not writable.")

    def _path(self, key: str) -> Path:
        path = self.root / key
        if ".." in path.parts or "\0" in key:
            raise ValueError(f"invalid storage key: {key!r}")
        return path


@contextmanager
def _local_errors(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ObjectMissing(f"There is no object {key}.") from None
    except OSError as error:
        raise StorageUnavailable(f"Storage failed: {error.strerror or error}.") from error


# Statuses with which S3-compatible servers reject DeleteObjects: they require a Content-MD5, which botocore no
# longer sends, or do not implement the call.
REFUSALS = (400, 403, 404, 405, 411, 415, 501)


class S3Storage:
    """Storage in a bucket of any S3-compatible server."""

    def __init__(self, settings: Settings, *, bucket: str, prefix: str) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = _s3_client(settings, settings.s3_endpoint_url)
        self._deletes_many = True  # until the server refuses it
        self._has_deleted = False
        # Clients open the links, and may reach the server under another address than the service does.
        public = settings.s3_public_endpoint_url
        self._link_client = _s3_client(settings, public) if public else self._client

    def put(self, key: str, source: BinaryIO, *, content_type: str) -> StoredObject:
        """See `ObjectStorage`. Large objects are uploaded in parts; the key appears when all have arrived."""
        hashing = _Hashing(source)
        with self._errors(key):
            self._client.upload_fileobj(
                hashing, self._bucket, self._prefix + key, ExtraArgs={"ContentType": content_type}
            )
        try:
            kept = self.size(key)
        except ObjectMissing:
            kept = 0
        if kept != hashing.size:
            raise StorageUnavailable(f"Storage kept {kept} of {hashing.size} bytes of {key}.")
        return StoredObject(key, hashing.size, hashing.sha256)

    def open(self, key: str) -> BinaryIO:
        """See `ObjectStorage`. Copies to an unnamed file, whose space is freed even if this process is killed."""
        copy = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - the caller closes it
        try:
            with self._errors(key):
                self._client.download_fileobj(self._bucket, self._prefix + key, copy)
        except BaseException:
            copy.close()
            raise
        copy.seek(0)
        return copy

    def size(self, key: str) -> int:
        """See `ObjectStorage`."""
        with self._errors(key):
            head = self._client.head_object(Bucket=self._bucket, Key=self._prefix + key)
            return int(head["ContentLength"])

    def delete_prefix(self, prefix: str) -> None:
        """See `ObjectStorage`."""
        with self._errors(prefix):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                self._delete([item["Key"] for item in page.get("Contents", [])])

    def _delete(self, keys: list[str]) -> None:
        """Delete objects with one request, or one by one if the server rejects that."""
        from botocore.parsers import ResponseParserError

        if keys and self._deletes_many:
            try:
                keys = self._delete_many(keys)
            except (self._client.exceptions.ClientError, ResponseParserError) as error:
                answer = getattr(error, "response", {})
                if answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 400) not in REFUSALS:
                    raise
                log.warning("storage_refuses_batches", error=str(error)[:200])
                self._deletes_many = False
        for key in keys:
            self._delete_one(key)

    def _delete_many(self, keys: list[str]) -> list[str]:
        """Delete objects with one request; return those that the response does not mention."""
        objects = {"Objects": [{"Key": key} for key in keys]}
        answer = self._client.delete_objects(Bucket=self._bucket, Delete=objects)
        for error in answer.get("Errors", []):  # the status of the response is a success all the same
            if "Key" in error:
                raise StorageUnavailable(f"Storage did not delete {error['Key']}: {error.get('Code')}.")
        deleted = {item.get("Key") for item in answer.get("Deleted", [])}
        return [key for key in keys if key not in deleted]

    def _delete_one(self, key: str) -> None:
        """Delete an object that may be gone; some servers answer with an error then."""
        with suppress(ObjectMissing), self._errors(key):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def list_objects(self, prefix: str) -> Iterator[ListedObject]:
        """See `ObjectStorage`."""
        with self._errors(prefix):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                for item in page.get("Contents", []):
                    yield ListedObject(
                        item["Key"].removeprefix(self._prefix), int(item["Size"]), item["LastModified"]
                    )

    def delete_unfinished(self, *, older_than: datetime) -> int:
        """See `ObjectStorage`: aborts unfinished multipart uploads, whose parts occupy storage."""
        removed = 0
        with (
            self._errors(""),
            suppress(self._client.exceptions.NoSuchUpload),
        ):  # some servers raise this for an empty list
            pages = self._client.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix):
                for upload in page.get("Uploads", []):
                    if upload["Initiated"] < older_than:
                        self._client.abort_multipart_upload(
                            Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                        )
                        removed += 1
        return removed

    def link(self, key: str, *, disposition: str, content_type: str, seconds: int) -> str | None:
        """Return a presigned URL (signature version 4)."""
        address: str = self._link_client.generate_presigned_url(
            "get_object",
            Params={
                "Bucket": self._bucket,
                "Key": self._prefix + key,
                "ResponseContentType": content_type,
                "ResponseContentDisposition": disposition,
            },
            ExpiresIn=seconds,
        )
        return address

    def check(self) -> None:
        """See `ObjectStorage`. Tries a deletion until one succeeds: without it, files would stay forever."""
        with self._errors(""):
            self._client.head_bucket(Bucket=self._bucket)
            if not self._has_deleted:
                self._delete_one(f"{self._prefix}.deletion-check")
                self._has_deleted = True

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError
        from s3transfer.exceptions import RetriesExceededError

        try:
            yield
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if key and code in ("404", "NoSuchKey"):
                raise ObjectMissing(f"There is no object {key} in bucket {self._bucket}.") from error
            raise StorageUnavailable(f"Storage answered {code or error}.") from error
        except (BotoCoreError, Boto3Error, RetriesExceededError, OSError) as error:
            raise StorageUnavailable(f"Storage does not answer: {error}") from error


def _s3_client(settings: Settings, endpoint_url: str | None) -> Any:
    import boto3
    from botocore.config import Config

    secret = settings.s3_secret_access_key
    return boto3.client(
        "s3",
        endpoint_url=endpoint_url,
        region_name=settings.s3_region,
        # Without configured keys, boto3 uses its default chain: environment, profile, instance role.
        aws_access_key_id=settings.s3_access_key_id,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        config=Config(
            signature_version="s3v4",
            max_pool_connections=32,  # the web process has 24 threads
            connect_timeout=5,
            read_timeout=30,
            retries={"max_attempts": 4, "mode": "standard"},
            s3={"addressing_style": "path" if endpoint_url else "auto"},
            # Not every compatible server supports these checksums; sizes and hashes are checked above.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
