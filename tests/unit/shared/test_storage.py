"""The same tests on both kinds of storage."""

from __future__ import annotations

import hashlib
import io
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.stub import Stubber

from shared.config import Settings
from shared.errors import ObjectMissing, StorageUnavailable
from shared.s3_storage import S3Storage
from shared.storage import (
    LocalStorage,
    ObjectStorage,
    StoredObject,
    content_disposition,
    make_storage,
    put_checked,
)
from tests import servers


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.integration)])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStorage:
    if request.param == "local":
        return make_storage(Settings(storage_url=(tmp_path / "a folder").as_uri()))
    return make_storage(s3_settings(request.getfixturevalue("s3_url"), prefix=tmp_path.name))


def s3_settings(endpoint_url: str, *, prefix: str) -> Settings:
    return Settings(
        storage_url=f"s3://{servers.S3_BUCKET}/{prefix}",
        s3_endpoint_url=endpoint_url,
        s3_access_key_id=servers.S3_KEY,
        s3_secret_access_key=servers.S3_SECRET,  # type: ignore[arg-type]
    )


def put(storage: ObjectStorage, key: str, content: bytes) -> None:
    storage.put(key, io.BytesIO(content), content_type="application/octet-stream")


def test_stored_object_is_read_back_with_its_size_and_hash(storage: ObjectStorage) -> None:
    content = bytes(range(256)) * 40_000  # 10 MB: more than one part of an S3 upload
    stored = storage.put("uploads/a/audio", io.BytesIO(content), content_type="audio/flac")
    assert (stored.size, stored.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert storage.size("uploads/a/audio") == len(content)
    with storage.open("uploads/a/audio") as stream:
        assert stream.read(4) == content[:4]
        stream.seek(-4, io.SEEK_END)
        assert stream.read() == content[-4:]


def test_checked_object_is_stored_intact(storage: ObjectStorage) -> None:
    stored = put_checked(storage, "results/a/1/x", io.BytesIO(b"notes"), content_type="application/json")
    assert (stored.size, stored.sha256) == (5, hashlib.sha256(b"notes").hexdigest())


@pytest.mark.parametrize("kept", [b"note", b"nodes", None])
def test_storage_that_altered_an_object_is_detected(storage: ObjectStorage, kept: bytes | None) -> None:
    class Careless:
        """Reports every object as stored."""

        def put(self, key: str, source: BinaryIO, *, content_type: str) -> StoredObject:
            reported = storage.put(key, source, content_type=content_type)
            storage.delete_prefix("results/a/1/")
            if kept is not None:
                put(storage, key, kept)
            return reported

        def open(self, key: str) -> BinaryIO:
            return storage.open(key)

    with pytest.raises(StorageUnavailable, match="did not keep"):
        put_checked(
            cast(ObjectStorage, Careless()), "results/a/1/x", io.BytesIO(b"notes"), content_type="application/json"
        )


def test_object_is_replaced_atomically(storage: ObjectStorage) -> None:
    put(storage, "results/a/1/x", b"long content")
    put(storage, "results/a/1/x", b"short")
    with storage.open("results/a/1/x") as stream:
        assert stream.read() == b"short"


def test_missing_object_differs_from_a_failure(storage: ObjectStorage) -> None:
    with pytest.raises(ObjectMissing):
        storage.open("uploads/none/audio")
    with pytest.raises(ObjectMissing):
        storage.size("uploads/none/audio")


def test_deleting_a_prefix_removes_only_objects_under_it(storage: ObjectStorage) -> None:
    for key in ("results/a/1/x", "results/a/2/x", "results/ab/1/x"):
        put(storage, key, b"1")
    storage.delete_prefix("results/a/")
    storage.delete_prefix("results/a/")
    assert storage.size("results/ab/1/x") == 1
    for key in ("results/a/1/x", "results/a/2/x"):
        with pytest.raises(ObjectMissing):
            storage.size(key)


def test_objects_are_listed_with_size_and_age(storage: ObjectStorage) -> None:
    assert list(storage.list_objects("uploads/")) == []
    before = datetime.now(UTC) - timedelta(seconds=2)
    for key in ("uploads/b/audio", "uploads/a/audio", "results/a/1/x"):
        put(storage, key, key.encode())
    listed = list(storage.list_objects("uploads/"))
    assert [(entry.key, entry.size) for entry in listed] == [("uploads/a/audio", 15), ("uploads/b/audio", 15)]
    assert all(before <= entry.modified <= datetime.now(UTC) + timedelta(seconds=2) for entry in listed)


def begin_upload(storage: ObjectStorage) -> None:
    """Leave the remains of a process that was killed during an upload."""
    if isinstance(storage, LocalStorage):
        folder = storage.root / "uploads" / "half"
        folder.mkdir(parents=True)
        (folder / ".part-x").write_bytes(b"half")
    else:
        assert isinstance(storage, S3Storage)
        key = f"{storage._prefix}uploads/half/audio"
        upload = storage.client.create_multipart_upload(Bucket=storage._bucket, Key=key)
        storage.client.upload_part(
            Bucket=storage._bucket, Key=key, UploadId=upload["UploadId"], PartNumber=1, Body=b"half"
        )


def test_unfinished_object_is_not_listed_and_is_removed_when_old(storage: ObjectStorage) -> None:
    put(storage, "uploads/a/audio", b"1")
    begin_upload(storage)
    assert [entry.key for entry in storage.list_objects("uploads/")] == ["uploads/a/audio"]
    now = datetime.now(UTC)
    assert storage.delete_unfinished(older_than=now - timedelta(hours=1)) == 0
    assert storage.delete_unfinished(older_than=now + timedelta(minutes=1)) == 1
    assert storage.delete_unfinished(older_than=now + timedelta(minutes=1)) == 0
    assert storage.size("uploads/a/audio") == 1


def test_a_stream_that_breaks_leaves_no_object(storage: ObjectStorage) -> None:
    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 5_000_000:
                raise OSError("the client went away")
            return super().read(size)

    with pytest.raises(StorageUnavailable):
        storage.put("uploads/b/audio", Breaking(bytes(20_000_000)), content_type="audio/wav")
    with pytest.raises(ObjectMissing):
        storage.size("uploads/b/audio")


def test_check_detects_unusable_storage(storage: ObjectStorage) -> None:
    storage.check()


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError("gone")

    with pytest.raises(StorageUnavailable):
        LocalStorage(tmp_path).put("uploads/b/audio", Breaking(), content_type="audio/wav")
    assert list(tmp_path.rglob("*")) == [tmp_path / "uploads"]


def test_undeleted_object_is_an_error_despite_a_success_status() -> None:
    storage = make_storage(s3_settings("http://127.0.0.1:1", prefix="p"))
    assert isinstance(storage, S3Storage)
    with Stubber(storage.client) as stubbed:
        stubbed.add_response("list_objects_v2", {"Contents": [{"Key": "p/results/a/1/x"}], "IsTruncated": False})
        stubbed.add_response("delete_objects", {"Errors": [{"Key": "p/results/a/1/x", "Code": "AccessDenied"}]})
        with pytest.raises(StorageUnavailable, match="AccessDenied"):
            storage.delete_prefix("results/a/")


def test_a_key_cannot_leave_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="invalid storage key"):
        LocalStorage(tmp_path).open("../secret")


@pytest.mark.integration
def test_link_returns_the_bytes_under_the_requested_name_only_when_signed(s3_url: str, tmp_path: Path) -> None:
    storage = make_storage(s3_settings(s3_url, prefix=tmp_path.name))
    put(storage, "results/a/1/transcription.mid", b"MThd")
    disposition = content_disposition("Müller.mid", as_attachment=True)
    link = storage.link(
        "results/a/1/transcription.mid", disposition=disposition, content_type="audio/midi", seconds=60
    )
    assert link is not None
    assert parse_qs(urlsplit(link).query)["response-content-disposition"] == [disposition]
    assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in link
    with urllib.request.urlopen(link) as response:
        assert response.read() == b"MThd"
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(link.split("?")[0]).close()


@pytest.mark.parametrize(
    ("filename", "plain", "encoded"),
    [
        ("song.mid", "song.mid", "song.mid"),
        ("Für Elise.mid", "Fur Elise.mid", "F%C3%BCr%20Elise.mid"),
        ("音.mid", ".mid", "%E9%9F%B3.mid"),
        ("音", "download", "%E9%9F%B3"),
        ('a"b\\c%d\n.mid', "a_b_c_d_.mid", "a%22b%5Cc%25d%0A.mid"),
    ],
)
def test_downloads_are_named_for_old_and_new_clients(filename: str, plain: str, encoded: str) -> None:
    expected = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}"
    assert content_disposition(filename, as_attachment=True) == expected


@pytest.mark.integration
def test_unreachable_server_is_unavailable(tmp_path: Path) -> None:
    storage = make_storage(s3_settings(f"http://127.0.0.1:{servers.free_port()}", prefix="x"))
    with pytest.raises(StorageUnavailable):
        storage.check()
    with pytest.raises(StorageUnavailable):
        put(storage, "uploads/a/audio", b"1")


@pytest.mark.integration
def test_missing_bucket_is_not_a_missing_object(s3_url: str) -> None:
    settings = s3_settings(s3_url, prefix="x").model_copy(update={"storage_url": "s3://no-such-bucket/x"})
    with pytest.raises(StorageUnavailable):
        make_storage(settings).check()


def test_folder_that_cannot_be_made_is_named() -> None:
    with pytest.raises(StorageUnavailable, match=r"The storage folder /proc/nonesuch cannot be made"):
        LocalStorage(Path("/proc/nonesuch")).check()
