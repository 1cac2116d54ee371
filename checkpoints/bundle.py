"""Bundles: archives of checkpoints for machines without a network, verified when they are unpacked.

A plain tar: first `bundle.json` with names, sizes and sums, then `basic_pitch/nmp.onnx` and so on.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints.errors import BundleError, SourceError
from checkpoints.files import CheckpointFile, replaced_atomically
from checkpoints.progress import ProgressCallback
from checkpoints.sources.git_lfs import require_announced
from checkpoints.store import CheckpointStore

_MANIFEST = "bundle.json"
_FORMAT = "mt3-infer/checkpoints"
_BLOCK_BYTES = 1 << 20
_MANIFEST_BYTES = 1 << 20  # no manifest is longer


def pack(store: CheckpointStore, names: Iterable[str], archive: Path) -> list[str]:
    """Write checkpoints, which must be installed, to an archive; return their names.

    Raises:
        CheckpointNotFoundError, ChecksumError: one is not there or damaged; no archive is written.
    """
    entries = {entry.name: entry for entry in map(store.entry, names)}
    for name in entries:
        store.require(name)
        store.verify(name)
    sums = {
        name: [{"name": file.name, "size": file.size, "sha256": file.sha256} for file in entry.files]
        for name, entry in entries.items()
    }
    manifest = json.dumps({"format": _FORMAT, "version": 1, "checkpoints": sums}, indent=2).encode()
    with replaced_atomically(archive) as part, tarfile.open(part, "w") as tar:
        header = tarfile.TarInfo(_MANIFEST)
        header.size = len(manifest)
        tar.addfile(header, io.BytesIO(manifest))
        for name, entry in entries.items():
            for file in entry.files:
                tar.add(store.require(name) / file.name, f"{name}/{file.name}", recursive=False)
    return list(entries)


def unpack(store: CheckpointStore, archive: Path, progress: ProgressCallback | None = None) -> list[str]:
    """Install every checkpoint of an archive, verified as a download is; return their names.

    Raises:
        BundleError: it is no bundle, or holds other files than the catalog names.
        ChecksumError: a file in it is damaged.
        UnknownCheckpointError: this version knows no such checkpoint.
    """
    manifest = _read_manifest(archive)
    for name, sums in manifest.items():
        entry = store.entry(name)
        for file in entry.files:
            held = sums.get(file.name)
            if held is None:
                raise BundleError(f"The bundle {archive} lacks {name}/{file.name}.")
            if file.sha256 not in (None, held.sha256):
                raise BundleError(
                    f"The bundle {archive} holds another {name}/{file.name} (sha256 {held.sha256}) than "
                    f"this version uses ({file.sha256})."
                )
    for name, sums in manifest.items():
        if not store.is_installed(name):
            store.install(name, _sources(archive, name, sums), progress)
    return list(manifest)


def _sources(
    archive: Path, name: str, sums: dict[str, CheckpointFile]
) -> Callable[[CheckpointFile], _BundleSource]:
    return lambda file: _BundleSource(archive, f"{name}/{file.name}", sums[file.name])


@dataclass(frozen=True)
class _BundleSource:
    """One file in a bundle."""

    archive: Path
    member: str
    held: CheckpointFile

    @property
    def label(self) -> str:
        return f"the bundle {self.archive}"

    def fetch(self, file: CheckpointFile, part: Path, progress: Callable[[int], None]) -> str:
        """Copy it out, and no more of it than its manifest promises."""
        sha256 = hashlib.sha256()
        try:
            with tarfile.open(self.archive, "r:") as tar, part.open("wb") as out:
                stream = tar.extractfile(self.member)
                if stream is None:
                    raise SourceError(f"{self.member} in it is no file")
                while out.tell() <= self.held.size and (block := stream.read(_BLOCK_BYTES)):
                    out.write(block)
                    sha256.update(block)
                    progress(out.tell())
        except KeyError:
            raise SourceError(f"it holds no {self.member}") from None
        except tarfile.TarError as error:
            raise SourceError(f"it is damaged ({error})") from error
        if file.sha256 is None:
            require_announced(part, self.held, sha256.hexdigest())
        return sha256.hexdigest()


def _read_manifest(archive: Path) -> dict[str, dict[str, CheckpointFile]]:
    try:
        with tarfile.open(archive, "r:") as tar:
            first = tar.next()
            stream = tar.extractfile(first) if first is not None and first.name == _MANIFEST else None
            content: Any = json.loads(stream.read(_MANIFEST_BYTES)) if stream else {}
        if content["format"] != _FORMAT or content["version"] != 1:
            raise ValueError
        return {
            name: {
                row["name"]: CheckpointFile(row["name"], int(row["size"]), str(row["sha256"]), ()) for row in rows
            }
            for name, rows in content["checkpoints"].items()
        }
    except FileNotFoundError:
        raise BundleError(f"There is no bundle {archive}.") from None
    except (tarfile.TarError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise BundleError(f"{archive} is no bundle of checkpoints.") from error
