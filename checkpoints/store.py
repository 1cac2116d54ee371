"""The directory of checkpoints: look-up, verification and removal; `fetch.py` fills it.

ROOT/basic_pitch/nmp.onnx              verified
ROOT/basic_pitch/.verified.json        the marker: what was verified, and how the file looked then
ROOT/basic_pitch/.nmp.onnx.5f3a.part   a download under way, or the rest of one (see install.py)
ROOT/.locks/basic_pitch.lock, .json    the lock; its holder's progress, for processes that wait
ROOT/.pins/mr_mt3.json                 sums learned from the first download (see pins.py)
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from checkpoints import fetch
from checkpoints.catalog import Catalog, Entry, load_catalog
from checkpoints.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    ChecksumError,
    LicenseNotAdmittedError,
)
from checkpoints.files import CheckpointFile, mismatch_reason, read_json, write_json
from checkpoints.locks import HostLock, LockFactory
from checkpoints.mirror import Mirror, open_mirror
from checkpoints.own import own_weights, variable_of
from checkpoints.pins import with_pins
from checkpoints.progress import FetchProgress, ProgressCallback
from checkpoints.sources import Source, SourceFactory, open_source

__all__ = ["CheckpointStore", "FetchProgress", "ProgressCallback", "default_root", "is_offline"]

_MARKER = ".verified.json"
_YES, _NO = {"1", "true", "yes", "on"}, {"", "0", "false", "no", "off"}


def default_root(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where checkpoints are kept: `MT3_CHECKPOINT_DIR`, else in the user's cache folder."""
    if chosen := environ.get("MT3_CHECKPOINT_DIR"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        cache = Path.home() / "Library" / "Caches"
    else:
        cache = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "mt3-infer" / "checkpoints"


def is_offline(environ: Mapping[str, str] = os.environ) -> bool:
    """Return True if `MT3_OFFLINE` forbids connections.

    Raises:
        CheckpointError: its value is neither yes nor no.
    """
    word = environ.get("MT3_OFFLINE", "").strip().lower()
    if word not in _NO | _YES:
        raise CheckpointError(f"MT3_OFFLINE is {word!r}; it can be 1 or 0.")
    return word in _YES


def admitted_licenses(environ: Mapping[str, str] = os.environ) -> str:
    """Return the value of `MT3_LICENSES`.

    Raises:
        CheckpointError: it is neither any nor commercial.
    """
    word = environ.get("MT3_LICENSES", "").strip().lower() or "any"
    if word not in ("any", "commercial"):
        raise CheckpointError(f"MT3_LICENSES is {word!r}; it can be any or commercial.")
    return word


class CheckpointStore:
    """A directory of verified checkpoints; safe for many threads, processes and hosts at once.

    Args:
        root: created when something is first fetched; `default_root()` without it.
        offline: never connect to anything.
        licenses: "commercial" admits only weights whose license allows commercial use.
        locks: makes the lock that a download is done under.
        catalog: which checkpoints there are.
        mirror: tried before all other sources; receives what came from one of those.
        open_source: builds a source from its row in the catalog.
        lock_timeout: seconds to wait for another process that shows no progress.
        own: weights of the user's own by model; they go before the published ones, wherever a model is loaded.
    """

    def __init__(
        self,
        root: Path | None = None,
        *,
        offline: bool = False,
        licenses: str = "any",
        locks: LockFactory = HostLock,
        catalog: Catalog | None = None,
        mirror: Mirror | None = None,
        open_source: SourceFactory = open_source,
        lock_timeout: float = 600.0,
        own: Mapping[str, Path] | None = None,
    ) -> None:
        self.root = root if root is not None else default_root()
        self.offline = offline
        self.licenses = licenses
        self.catalog = catalog if catalog is not None else load_catalog()
        self.locks = locks
        self.mirror = mirror
        self.open_source = open_source
        self.lock_timeout = lock_timeout
        self.own = dict(own or {})
        # Verdicts on files that no marker speaks for, by how they looked: a store that cannot be written to
        # (a read-only image) hashes each file once per process, not once per call.
        self._verdicts: dict[tuple[Path, str | None, int, int], str | None] = {}

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str] = os.environ, *, locks: LockFactory = HostLock
    ) -> CheckpointStore:
        """Open the user's store: at `default_root()`, with the mirror that `MT3_CHECKPOINT_MIRROR` names.

        `MT3_OFFLINE=1` forbids connections; `MT3_LICENSES=commercial` admits only weights whose license allows
        commercial use; `MT3_CHECKPOINT_CATALOG` names a catalog to use instead of ours, and
        `MT3_CHECKPOINTS_<MODEL>` weights of the user's own.
        """
        mirror, path = environ.get("MT3_CHECKPOINT_MIRROR"), environ.get("MT3_CHECKPOINT_CATALOG")
        catalog = load_catalog(Path(path)) if path else load_catalog()
        return cls(
            default_root(environ),
            offline=is_offline(environ),
            licenses=admitted_licenses(environ),
            locks=locks,
            catalog=catalog,
            mirror=open_mirror(mirror, environ) if mirror else None,
            own=own_weights(catalog, environ),
        )

    # Looking

    def entry(self, name: str) -> Entry:
        """Return the catalog's entry of that name or alias, with the sums that were learned here.

        Raises:
            UnknownCheckpointError: there is none.
        """
        return with_pins(self.root, self.catalog.resolve(name))

    def folder(self, entry: Entry) -> Path:
        """Return where a checkpoint's files lie, whether they are there or not."""
        return self.root / entry.name

    def directory(self, name: str) -> Path | None:
        """Return the directory of an installed checkpoint; None if it is not (wholly) installed."""
        entry = self.entry(name)
        return None if self.missing(entry) else self.folder(entry)

    def own_path(self, name: str) -> Path | None:
        """Return the user's own weights for a model, a file or a folder; None if there are to be none.

        Raises:
            CheckpointNotFoundError: there is nothing at their path.
        """
        entry = self.entry(name)
        path = self.own.get(entry.name)
        if path is not None and not path.exists():
            raise CheckpointNotFoundError(
                f"There are no weights at {path}, which {variable_of(entry.name)} names."
            )
        return path

    def is_installed(self, name: str) -> bool:
        """Return True if every file is there and verified. Cheap: sizes and times against the marker."""
        return self.directory(name) is not None

    def require(self, name: str) -> Path:
        """Return the directory of a checkpoint that must be installed already.

        Raises:
            CheckpointNotFoundError: with the command that would fetch it.
            LicenseNotAdmittedError: see `require_admitted`.
        """
        self.require_admitted(name)
        directory = self.directory(name)
        if directory is None:
            entry = self.entry(name)
            raise CheckpointNotFoundError(
                f"The checkpoint {entry.name} is not installed in {self.folder(entry)}; "
                f"fetch it with: mt3-infer download {entry.name}"
            )
        return directory

    def admits(self, name: str) -> bool:
        """Return True if the license of a checkpoint's weights is among those that may be used."""
        return self.licenses == "any" or self.entry(name).allows_commercial_use

    def require_admitted(self, name: str) -> None:
        """Raise if the license of a checkpoint's weights may not be used.

        Raises:
            LicenseNotAdmittedError: it does not allow commercial use, and MT3_LICENSES asks for that.
        """
        if not self.admits(name):
            entry = self.entry(name)
            raise LicenseNotAdmittedError(
                f"The weights of {entry.name} have the license {entry.license}, which does not allow commercial "
                "use; choose another model, or set MT3_LICENSES=any."
            )

    def missing(self, entry: Entry) -> list[CheckpointFile]:
        """Return the files that are not there or not verified; files that were copied in are verified here."""
        folder = self.folder(entry)
        marked = read_json(folder / _MARKER)
        seen = {file.name: _appearance(folder / file.name, file) for file in entry.files}
        if all(look is not None and marked.get(name) == look for name, look in seen.items()):
            return []
        missing = [file for file in entry.files if self.unusable_reason(entry, file) is not None]
        if not missing:
            # Written as the files looked before they were hashed: a later change shows.
            with suppress(OSError):
                write_json(folder / _MARKER, seen)
                self._verdicts.clear()  # from here on the marker decides
        return missing

    def unusable_reason(self, entry: Entry, file: CheckpointFile) -> str | None:
        """Return in a few words why a file cannot be used as it is; None if it can."""
        path = self.folder(entry) / file.name
        try:
            stat = path.stat()
            if file.sha256 is None:
                return "it is there, but its sha256 is not known yet"
            key = (path, file.sha256, stat.st_size, stat.st_mtime_ns)
            with suppress(KeyError):  # asked once: another thread may clear them between two looks
                return self._verdicts[key]
            verdict = self._verdicts[key] = mismatch_reason(path, file)
        except FileNotFoundError:
            return "it is not there"
        except OSError as error:
            return f"it cannot be read ({error.strerror})"
        return verdict

    def verify(self, name: str) -> None:
        """Hash every file again.

        Raises:
            CheckpointNotFoundError: a file is missing.
            ChecksumError: a file is damaged; the checkpoint no longer counts as installed.
        """
        entry = self.entry(name)
        for file in entry.files:
            path = self.folder(entry) / file.name
            try:
                reason = mismatch_reason(path, file)
            except FileNotFoundError:
                raise CheckpointNotFoundError(
                    f"The checkpoint {entry.name} is not installed: {path} is missing."
                ) from None
            if file.sha256 is None:
                raise CheckpointNotFoundError(
                    f"The checkpoint {entry.name} is not installed: the sha256 of {path} is unknown."
                )
            if reason:
                self._verdicts.clear()
                (self.folder(entry) / _MARKER).unlink(missing_ok=True)
                raise ChecksumError(f"The checkpoint {entry.name} is damaged: {path}: {reason}.")

    # Changing

    def fetch(
        self,
        name: str,
        progress: ProgressCallback | None = None,
        *,
        force: bool = False,
        source: str | None = None,
    ) -> Path:
        """Return the directory that holds the checkpoint's verified files, downloading those that are missing.

        Args:
            name: name or alias.
            progress: called with the progress of the download; what it raises ends the fetch and is let through.
            force: download even what is there.
            source: only from this kind of source (and not from the mirror, unless it is "mirror").
        Raises:
            UnknownCheckpointError, LicenseNotAdmittedError, OfflineError, StoreNotWritableError,
            LockTimeoutError, DiskSpaceError,
            DownloadError (names each source and why), ChecksumError (every source gave wrong bytes),
            CheckpointError (no file of it can be had from such a source).
        """
        self.require_admitted(name)
        return fetch.fetch(self, self.entry(name), progress or _ignore, force=force, kind=source)

    def install(
        self, name: str, source_of: Callable[[CheckpointFile], Source], progress: ProgressCallback | None = None
    ) -> Path:
        """Do as `fetch` does, from sources of the caller's own; offline mode does not forbid it."""
        return fetch.fetch_missing(
            self, self.entry(name), lambda file: [source_of(file)], progress or _ignore, self.locks
        )

    def fill_mirror(self, name: str, progress: ProgressCallback | None = None) -> None:
        """Put every file of a checkpoint into the mirror, fetching what is not here.

        Raises:
            CheckpointError: there is no mirror, or it does not take the files; and what `fetch` raises.
        """
        fetch.fill_mirror(self, self.entry(name), progress or _ignore)

    def remove(self, name: str) -> bool:
        """Delete a checkpoint with all that interrupted downloads left; return False if there was nothing."""
        entry = self.entry(name)
        folder = self.folder(entry)
        if not folder.exists():
            return False
        with fetch.os_errors_translated(self), fetch.locked(self, entry, _ignore, self.locks):
            (folder / _MARKER).unlink(missing_ok=True)
            shutil.rmtree(folder)
        return True


def _ignore(_: FetchProgress) -> None:
    """Show nothing."""


def _appearance(path: Path, file: CheckpointFile) -> dict[str, Any] | None:
    """Return how a verified file looks; None if it is not there."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": file.sha256}
