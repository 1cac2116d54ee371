"""No file gets its final name unless it was verified, and everything that goes wrong is one clear sentence."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from checkpoints.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    ChecksumError,
    DiskSpaceError,
    DownloadError,
    LockTimeoutError,
    OfflineError,
    StoreNotWritableError,
    UnknownCheckpointError,
)
from checkpoints.files import resume_note
from checkpoints.locks import HostLock
from checkpoints.store import CheckpointStore, FetchProgress, default_root
from tests.unit.checkpoints import fakes
from tests.unit.checkpoints.fakes import SHA256, WEIGHTS, FakeSource, delivers, fails, make_store

REPOSITORY = Path(__file__).parents[3]
USAGE = namedtuple("USAGE", "total used free")


@pytest.fixture
def good() -> FakeSource:
    return FakeSource("the good source", delivers(WEIGHTS))


@pytest.fixture
def store(tmp_path: Path, good: FakeSource) -> CheckpointStore:
    return make_store(tmp_path, {"good": good})


def files_of(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "tiny").glob("*") if not path.name.endswith(".json"))


def start(root: Path, calls: Path, *flags: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, fakes.__file__, str(root), str(calls), *flags]
    return subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})


# Installing


def test_fetch_returns_a_directory_of_verified_files(store: CheckpointStore) -> None:
    assert store.directory("tiny") is None
    directory = store.fetch("small")
    assert (directory / "weights.bin").read_bytes() == WEIGHTS
    assert store.directory("tiny") == directory == store.require("tiny")
    assert files_of(store.root) == ["weights.bin"]


def test_what_is_installed_is_not_fetched_again(store: CheckpointStore, good: FakeSource) -> None:
    store.fetch("tiny")
    store.fetch("tiny")
    make_store(store.root, {"good": good}, offline=True).fetch("tiny")
    assert good.calls == 1


def test_progress_reports_bytes_of_the_whole_checkpoint(store: CheckpointStore) -> None:
    seen: list[FetchProgress] = []
    store.fetch("tiny", seen.append)
    assert seen[-1].bytes_done == seen[-1].bytes_total == len(WEIGHTS)
    assert (seen[-1].model, seen[-1].file, seen[-1].waiting) == ("tiny", "weights.bin", False)


def test_a_source_that_fails_hands_over_to_the_next(tmp_path: Path, good: FakeSource) -> None:
    broken = FakeSource("the broken source", fails("it is broken"))
    liar = FakeSource("the liar", delivers(b"something else"))
    store = make_store(tmp_path, {"broken": broken, "liar": liar, "good": good})
    assert (store.fetch("tiny") / "weights.bin").read_bytes() == WEIGHTS
    assert (broken.calls, liar.calls, good.calls) == (1, 1, 1)


def test_the_error_names_every_source_and_why(tmp_path: Path) -> None:
    sources = {
        "a": FakeSource("the first place", fails("404 not found")),
        "b": FakeSource("the second place", delivers(WEIGHTS[:-1])),
    }
    with pytest.raises(DownloadError) as caught:
        make_store(tmp_path, sources).fetch("tiny")
    assert str(caught.value) == (
        "The checkpoint tiny could not be downloaded: weights.bin from the first place: 404 not found; "
        "from the second place: what came is not weights.bin: it has 10,239 bytes, not 10,240."
    )
    assert [source for source, _ in caught.value.attempts] == ["the first place", "the second place"]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (WEIGHTS[:-1], "it has 10,239 bytes, not 10,240"),
        (WEIGHTS[:-1] + b"?", f"its sha256 is {{found}}, not {SHA256}"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
            "it is a Git LFS pointer, not the weights",
        ),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "it is a web page, not the weights"),
        (b"", "it is empty"),
    ],
    ids=["truncated", "flipped", "pointer", "html", "empty"],
)
def test_wrong_bytes_never_get_the_final_name(tmp_path: Path, body: bytes, why: str) -> None:
    store = make_store(tmp_path, {"wrong": FakeSource("the wrong place", delivers(body))})
    with pytest.raises(ChecksumError) as caught:
        store.fetch("tiny")
    found = hashlib.sha256(body).hexdigest()
    assert str(caught.value) == (
        "The checkpoint tiny could not be downloaded: weights.bin from the wrong place: "
        f"what came is not weights.bin: {why.format(found=found)}."
    )
    assert list((tmp_path / "tiny").iterdir()) == []
    assert not store.is_installed("tiny")


def test_a_source_that_delivers_nothing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DownloadError):
        make_store(tmp_path, {"a": FakeSource("a", fails("404"))}).fetch("tiny")
    assert list((tmp_path / "tiny").iterdir()) == []


# Going on after an interruption


def test_the_next_download_continues_what_a_failed_one_left_with_its_note(
    tmp_path: Path, good: FakeSource
) -> None:
    def half(part: Path, progress: Callable[[int], None]) -> None:
        part.write_bytes(WEIGHTS[:100])
        resume_note(part).write_text("etag")
        fails("it broke off")(part, progress)

    def rest(part: Path, progress: Callable[[int], None]) -> None:
        assert resume_note(part).read_text() == "etag"
        with part.open("ab") as out:
            assert out.tell() == 100
            out.write(WEIGHTS[100:])

    with pytest.raises(DownloadError):
        make_store(tmp_path, {"half": FakeSource("half", half)}).fetch("tiny")
    (left,) = (tmp_path / "tiny").glob("*.part")
    assert left.stat().st_size == 100
    make_store(tmp_path, {"rest": FakeSource("rest", rest)}).fetch("tiny")
    assert files_of(tmp_path) == ["weights.bin"]
    assert not list((tmp_path / "tiny").glob(".*.part*"))


def test_a_killed_download_leaves_only_a_part_that_the_next_continues(tmp_path: Path) -> None:
    root, calls = tmp_path / "root", tmp_path / "calls"
    assert start(root, calls, "crash").wait() == 9
    (left,) = (root / "tiny").iterdir()
    assert left.suffix == ".part"
    half = left.stat().st_size
    assert 0 < half < len(WEIGHTS)
    assert start(root, calls).wait() == 0
    assert calls.read_text().split() == ["0", str(half)]
    assert sorted(path.name for path in (root / "tiny").iterdir()) == [".verified.json", "weights.bin"]


def test_a_part_that_somebody_may_write_is_left_to_them_until_the_file_is_there(
    tmp_path: Path, good: FakeSource
) -> None:
    young, old = (tmp_path / "tiny" / f".weights.bin.{digit * 32}.part" for digit in "01")
    young.parent.mkdir()
    young.write_bytes(WEIGHTS[:10])
    old.write_bytes(WEIGHTS[:9])
    os.utime(old, (0, 0))

    def look(part: Path, progress: Callable[[int], None]) -> None:
        assert part.read_bytes() == WEIGHTS[:10]
        assert (young.exists(), old.exists()) == (True, False)
        part.write_bytes(WEIGHTS)

    make_store(tmp_path, {"s": FakeSource("s", look)}).fetch("tiny")
    assert not young.exists()


def test_a_cancel_ends_the_fetch_and_frees_the_lock(store: CheckpointStore) -> None:
    def cancel(_: FetchProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.fetch("tiny", cancel)
    assert store.fetch("tiny")


# Many at once


def test_eight_processes_ask_the_source_once(tmp_path: Path) -> None:
    root, calls = tmp_path / "root", tmp_path / "calls"
    processes = [start(root, calls) for _ in range(8)]
    assert [process.wait() for process in processes] == [0] * 8
    assert calls.read_text().split() == ["0"]


def test_without_a_working_lock_everyone_still_ends_with_the_right_file(tmp_path: Path) -> None:
    root, calls = tmp_path / "root", tmp_path / "calls"
    processes = [start(root, calls, "no-flock") for _ in range(5)]
    final = root / "tiny" / "weights.bin"
    while any(process.poll() is None for process in processes):
        if final.exists():
            assert final.read_bytes() == WEIGHTS
    assert [process.wait() for process in processes] == [0] * 5
    assert len(calls.read_text().split()) > 1, "the lock was not out of order: this test shows nothing"


def test_a_part_that_another_process_swept_away_is_downloaded_again(tmp_path: Path) -> None:
    def swept_once(part: Path, progress: Callable[[int], None]) -> None:
        part.write_bytes(WEIGHTS)
        if source.calls == 1:
            part.unlink()

    source = FakeSource("swept", swept_once)
    assert (make_store(tmp_path, {"s": source}).fetch("tiny") / "weights.bin").read_bytes() == WEIGHTS
    assert source.calls == 2


def test_what_another_process_installed_meanwhile_is_taken(tmp_path: Path) -> None:
    def overtaken(part: Path, progress: Callable[[int], None]) -> None:
        part.unlink()
        (part.parent / "weights.bin").write_bytes(WEIGHTS)

    source = FakeSource("overtaken", overtaken)
    make_store(tmp_path, {"s": source}).fetch("tiny")
    assert source.calls == 1


def test_waiting_shows_how_far_the_holder_is(tmp_path: Path, good: FakeSource) -> None:
    root, calls = tmp_path / "root", tmp_path / "calls"
    holder = start(root, calls, "slow")
    while not calls.exists():
        assert holder.poll() is None
    seen: list[FetchProgress] = []
    make_store(root, {"good": good}).fetch("tiny", seen.append)
    assert holder.wait() == 0
    assert good.calls == 0
    assert all(progress.waiting for progress in seen)
    assert any(0 < progress.bytes_done < len(WEIGHTS) and progress.bytes_per_second > 0 for progress in seen)


def test_a_holder_that_shows_no_progress_is_not_waited_for_without_end(tmp_path: Path, good: FakeSource) -> None:
    (tmp_path / ".locks").mkdir()
    note = tmp_path / ".locks" / "tiny.json"
    note.write_text('{"bytes_done": 7, "beat": 1}')

    def go_on_once(_: FetchProgress) -> None:
        note.write_text('{"bytes_done": 7, "beat": 2}')

    lock = HostLock("tiny", tmp_path / ".locks" / "tiny.lock")
    assert lock.acquire(1)
    with pytest.raises(LockTimeoutError) as caught:
        in_thread(lambda: make_store(tmp_path, {"good": good}, lock_timeout=0.3).fetch("tiny", go_on_once))
    lock.release()
    assert str(caught.value) == (
        "Another process has been downloading the checkpoint tiny and has shown no progress for 0.3 s."
    )


def in_thread(action: Callable[[], object]) -> object:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(action).result()


# Where it cannot be installed


def test_lack_of_disk_space_is_reported_before_the_fetch(
    store: CheckpointStore, good: FakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: USAGE(10**6, 10**6 - 12_287, 12_287))
    with pytest.raises(DiskSpaceError) as caught:
        store.fetch("tiny")
    assert str(caught.value) == (f"The checkpoint tiny needs 12,288 bytes in {store.root}, where 12,287 are free.")
    assert good.calls == 0
    monkeypatch.setattr(shutil, "disk_usage", lambda _: USAGE(10**6, 10**6 - 12_288, 12_288))
    store.fetch("tiny")


def test_a_disk_that_fills_up_on_the_way_keeps_what_came(tmp_path: Path) -> None:
    def full(part: Path, progress: Callable[[int], None]) -> None:
        part.write_bytes(WEIGHTS[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DiskSpaceError) as caught:
        make_store(tmp_path, {"full": FakeSource("full", full)}).fetch("tiny")
    assert str(caught.value) == (
        f"The disk of the checkpoint directory {tmp_path} is full; what was downloaded is kept."
    )
    assert [path.stat().st_size for path in (tmp_path / "tiny").iterdir()] == [100]


@contextmanager
def unprivileged() -> Iterator[None]:
    """Permissions mean nothing to root: be nobody."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that nobody may enter too, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="mt3-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_directory_that_cannot_be_written_to_is_named(public_folder: Path, good: FakeSource) -> None:
    root = public_folder / "root"
    root.mkdir()
    root.chmod(0o555)
    with unprivileged(), pytest.raises(StoreNotWritableError) as caught:
        make_store(root, {"good": good}).fetch("tiny")
    assert str(caught.value) == (
        f"The checkpoint directory {root} cannot be written to (Permission denied); "
        "set MT3_CHECKPOINT_DIR to one that can."
    )


def test_a_read_only_directory_with_the_files_in_it_serves(public_folder: Path, good: FakeSource) -> None:
    root = public_folder / "root"
    (root / "tiny").mkdir(parents=True)
    (root / "tiny" / "weights.bin").write_bytes(WEIGHTS)
    for path in (root / "tiny" / "weights.bin", root / "tiny", root):
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    with unprivileged():
        assert make_store(root, {"good": good}).fetch("tiny") == root / "tiny"
    assert good.calls == 0
    root.chmod(0o755)
    (root / "tiny").chmod(0o755)


def test_an_unknown_name_is_refused(store: CheckpointStore) -> None:
    with pytest.raises(UnknownCheckpointError) as caught:
        store.fetch("huge")
    assert str(caught.value) == "There is no checkpoint called 'huge'; the names are: small, tiny."


# Offline


def test_offline_error_names_the_files_to_copy_and_contacts_no_source(tmp_path: Path, good: FakeSource) -> None:
    store = make_store(tmp_path, {"good": good}, offline=True)
    with pytest.raises(OfflineError) as caught:
        store.fetch("tiny")
    assert str(caught.value) == (
        "The checkpoint tiny is not installed and offline mode (MT3_OFFLINE) forbids downloads: "
        f"copy weights.bin (10,240 bytes, sha256 {SHA256}; now it is not there) to {tmp_path / 'tiny'}, "
        "for example from a machine where `mt3-infer download tiny` was run."
    )
    assert good.calls == 0
    assert list(tmp_path.iterdir()) == []


def test_files_that_were_copied_in_are_verified_and_taken(tmp_path: Path, good: FakeSource) -> None:
    store = make_store(tmp_path, {"good": good}, offline=True)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "weights.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(OfflineError, match="now it is a Git LFS pointer, not the weights"):
        store.fetch("tiny")
    (tmp_path / "tiny" / "weights.bin").write_bytes(WEIGHTS)
    assert store.fetch("tiny") == tmp_path / "tiny"


@pytest.mark.parametrize(("word", "offline"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_the_environment_chooses_root_and_offline(tmp_path: Path, word: str, offline: bool) -> None:
    store = CheckpointStore.from_environment({"MT3_CHECKPOINT_DIR": str(tmp_path), "MT3_OFFLINE": word})
    assert (store.root, store.offline) == (tmp_path, offline)


def test_a_word_that_means_neither_is_refused() -> None:
    with pytest.raises(CheckpointError) as caught:
        CheckpointStore.from_environment({"MT3_OFFLINE": "maybe"})
    assert str(caught.value) == "MT3_OFFLINE is 'maybe'; it can be 1 or 0."


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS keeps caches in ~/Library")
def test_without_a_choice_checkpoints_are_kept_in_the_cache_folder(tmp_path: Path) -> None:
    assert default_root({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "mt3-infer" / "checkpoints"


# What is installed


def test_require_error_names_the_command_to_fetch(store: CheckpointStore) -> None:
    with pytest.raises(CheckpointNotFoundError) as caught:
        store.require("small")
    assert str(caught.value) == (
        f"The checkpoint tiny is not installed in {store.root / 'tiny'}; fetch it with: mt3-infer download tiny"
    )


def test_a_file_that_changed_is_not_installed_and_is_fetched_again(
    store: CheckpointStore, good: FakeSource
) -> None:
    path = store.fetch("tiny") / "weights.bin"
    path.write_bytes(WEIGHTS[::-1])
    assert not store.is_installed("tiny")
    store.fetch("tiny")
    assert path.read_bytes() == WEIGHTS
    assert good.calls == 2


def test_an_untouched_file_is_not_hashed_on_open(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.fetch("tiny")
    monkeypatch.setattr("checkpoints.store.mismatch_reason", lambda *_: pytest.fail("hashed"))
    assert make_store(store.root, {}).is_installed("tiny")


def test_verify_finds_damage_that_size_and_time_hide(store: CheckpointStore) -> None:
    path = store.fetch("tiny") / "weights.bin"
    store.verify("tiny")
    before = path.stat()
    path.write_bytes(WEIGHTS[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.is_installed("tiny")
    with pytest.raises(ChecksumError, match=f"The checkpoint tiny is damaged: {path}: its sha256 is "):
        store.verify("tiny")
    assert not store.is_installed("tiny")
    store.fetch("tiny")
    assert path.read_bytes() == WEIGHTS


def test_verify_and_remove_of_what_is_not_there(store: CheckpointStore) -> None:
    with pytest.raises(CheckpointNotFoundError):
        store.verify("tiny")
    assert store.remove("tiny") is False


def test_a_removed_checkpoint_is_gone(store: CheckpointStore) -> None:
    directory = store.fetch("tiny")
    assert store.remove("tiny") is True
    assert not directory.exists()
    assert not store.is_installed("tiny")
