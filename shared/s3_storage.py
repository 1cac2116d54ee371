"""Storage in a bucket of any S3-compatible server."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, BinaryIO, cast

from shared.config import Settings
from shared.errors import ObjectMissing, StorageUnavailable
from shared.logs import get_logger
from shared.storage import PIECE_BYTES, HashingReader, ListedObject, StoredObject

log = get_logger(__name__)

# Statuses with which S3-compatible servers reject DeleteObjects: they require a Content-MD5, which botocore no
# longer sends, or do not implement the call.
REFUSALS = (400, 403, 404, 405, 411, 415, 501)


class S3Storage:
    """Storage in a bucket of any S3-compatible server."""

    def __init__(self, settings: Settings, *, bucket: str, prefix: str) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self.client = _s3_client(settings, settings.s3_endpoint_url)
        self._deletes_many = True  # until the server refuses it
        self._has_deleted = False
        # Clients open the links, and may reach the server under another address than the service does.
        public = settings.s3_public_endpoint_url
        self.link_client = _s3_client(settings, public) if public else self.client

    def put(self, key: str, source: BinaryIO, *, content_type: str) -> StoredObject:
        """See `ObjectStorage`. Large objects are uploaded in parts; the key appears when all have arrived."""
        hashing = HashingReader(source)
        with self.errors(key):
            self.client.upload_fileobj(
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
            with self.errors(key):
                self.client.download_fileobj(self._bucket, self._prefix + key, copy)
        except BaseException:
            copy.close()
            raise
        copy.seek(0)
        return copy

    def stream(self, key: str) -> Iterator[bytes]:
        """See `ObjectStorage`."""
        with self.errors(key):
            yield from self.client.get_object(**self.at(key))["Body"].iter_chunks(PIECE_BYTES)

    def at(self, key: str) -> dict[str, str]:
        """Return the arguments of the client's methods that name an object."""
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    def size(self, key: str) -> int:
        """See `ObjectStorage`."""
        with self.errors(key):
            head = self.client.head_object(Bucket=self._bucket, Key=self._prefix + key)
            return int(head["ContentLength"])

    def delete_prefix(self, prefix: str) -> None:
        """See `ObjectStorage`."""
        with self.errors(prefix):
            pages = self.client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                self._delete([item["Key"] for item in page.get("Contents", [])])

    def _delete(self, keys: list[str]) -> None:
        """Delete objects with one request, or one by one if the server rejects that."""
        from botocore.parsers import ResponseParserError

        if keys and self._deletes_many:
            try:
                keys = self._delete_many(keys)
            except (self.client.exceptions.ClientError, ResponseParserError) as error:
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
        answer = self.client.delete_objects(Bucket=self._bucket, Delete=objects)
        for error in answer.get("Errors", []):  # the status of the response is a success all the same
            if "Key" in error:
                raise StorageUnavailable(f"Storage did not delete {error['Key']}: {error.get('Code')}.")
        deleted = {item.get("Key") for item in answer.get("Deleted", [])}
        return [key for key in keys if key not in deleted]

    def _delete_one(self, key: str) -> None:
        """Delete an object that may be gone; some servers answer with an error then."""
        with suppress(ObjectMissing), self.errors(key):
            self.client.delete_object(Bucket=self._bucket, Key=key)

    def list_objects(self, prefix: str) -> Iterator[ListedObject]:
        """See `ObjectStorage`."""
        with self.errors(prefix):
            pages = self.client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                for item in page.get("Contents", []):
                    yield ListedObject(
                        item["Key"].removeprefix(self._prefix), int(item["Size"]), item["LastModified"]
                    )

    def delete_unfinished(self, *, older_than: datetime, keep: Collection[str] = ()) -> int:
        """See `ObjectStorage`: aborts unfinished multipart uploads, whose parts occupy storage."""
        removed = 0
        with (
            self.errors(""),
            suppress(self.client.exceptions.NoSuchUpload),
        ):  # some servers raise this for an empty list
            pages = self.client.get_paginator("list_multipart_uploads")
            kept = {self._prefix + key for key in keep}
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix):
                for upload in page.get("Uploads", []):
                    if upload["Initiated"] < older_than and upload["Key"] not in kept:
                        self.client.abort_multipart_upload(
                            Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                        )
                        removed += 1
        return removed

    def link(self, key: str, *, disposition: str, content_type: str, seconds: int) -> str | None:
        """Return a presigned URL (signature version 4)."""
        address: str = self.link_client.generate_presigned_url(
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
        with self.errors(""):
            self.client.head_bucket(Bucket=self._bucket)
            if not self._has_deleted:
                self._delete_one(f"{self._prefix}.deletion-check")
                self._has_deleted = True

    @contextmanager
    def errors(self, key: str) -> Iterator[None]:
        """Convert the client's errors to those of `ObjectStorage`."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError
        from s3transfer.exceptions import RetriesExceededError

        try:
            yield
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if key and code in ("404", "NoSuchKey", "NoSuchUpload"):
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
