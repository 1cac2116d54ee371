"""Name → row of the table → verified weights → network on a device.

With `utils/download.py` and the command, all of the library that knows `checkpoints`.
"""

from __future__ import annotations

import errno
import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.catalog import Catalog, Entry
from checkpoints.errors import CheckpointError, CheckpointNotFoundError, UnknownCheckpointError
from checkpoints.store import CheckpointStore, FetchProgress
from mt3_infer.cache import clear_cache, fingerprint, models
from mt3_infer.errors import InvalidOptionError, UnknownModelError, WeightsError
from mt3_infer.inference.threads import run_in_fresh_thread
from mt3_infer.model import DEFAULT_MODEL, Model
from mt3_infer.models import MODELS, ModelOptions, ModelSpec

if TYPE_CHECKING:
    from mt3_infer.evidence.recorder import PosteriorNetwork

__all__ = [
    "CheckpointError",
    "CheckpointNotFoundError",
    "FetchProgress",
    "ModelInfo",
    "clear_cache",
    "download_model",
    "get_model_info",
    "get_model_spec",
    "keep_model",
    "list_models",
    "load_model",
]


_log = logging.getLogger(__name__)

EVIDENCE_MODEL = "basic_pitch"

WITHOUT_BASIC_PITCH = "Confidence is estimated without Basic Pitch, which is less exact: %s"

_fetch_failed: set[Path] = set()
"""Stores into which Basic Pitch could not be fetched."""

_DAMAGE = (ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, TypeError, ValueError)
"""Exceptions that readers of weight files raise on damaged bytes. RuntimeError may be a lack of memory instead."""


@dataclass(frozen=True)
class ModelInfo:
    """A model as listed before it is loaded; `size` is that of all its files, in bytes."""

    name: str
    title: str
    description: str
    aliases: tuple[str, ...]
    license: str
    size: int
    installed: bool
    options: type[ModelOptions]


def load_model(
    name: str = DEFAULT_MODEL,
    *,
    auto_download: bool = True,
    checkpoint_path: str | Path | None = None,
    device: str = "auto",
    dtype: str | None = None,
    batch_size: int | None = None,
    store: CheckpointStore | None = None,
    progress: Callable[[FetchProgress], None] | None = None,
    **training: Any,
) -> Model:
    """Put a network on a device, fetching its weights if they are not there.

    Args:
        name: a model or an alias; see `list_models`.
        auto_download: False to fail rather than fetch.
        checkpoint_path: weights of your own, a file or a directory, instead of the published ones; without it,
            those that MT3_CHECKPOINTS_<MODEL> names, if it is set.
        device: "auto", "cpu", "cuda" or "cuda:1".
        dtype: "float32" or "bfloat16", of a model that can choose.
        batch_size: segments worked on at once, of a model that can choose.
        store: where checkpoints are kept; the user's own without it.
        progress: called while fetching.
        training: what the weights were trained with, of models whose files do not say it: `front_end` ("tf",
            "torch_legacy", "torch_current"), `min_max`, `positions` ("magenta", "mt3_pytorch"), and of mr_mt3
            `memory_rows` and `memory_start` ("with_prev", "v2"). Published files are known by their names.
    Raises:
        UnknownModelError: no such name, or no network for it in this version.
        CheckpointNotFoundError: the weights are not there and may not be fetched.
        CheckpointError: they cannot be fetched; its branches say why.
        InvalidOptionError: the model does not run on that device, or has no such choice.
        WeightsError: the weights are damaged, or another network's.
        MissingDependencyError: a package that it runs on is not installed.
    """
    if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int)):
        raise InvalidOptionError(f"batch_size={batch_size!r} is no whole number of segments.")
    device, dtype = str(device), None if dtype is None else str(dtype).removeprefix("torch.")
    store = store or CheckpointStore.from_environment()
    spec, entry = _find(name, store.catalog)
    choices = {"device": device, "dtype": dtype, "batch_size": batch_size, **training}
    spec.check_device_options(choices)  # before anything is fetched
    checkpoint_path = store.own_path(entry.name) if checkpoint_path is None else checkpoint_path
    if checkpoint_path is not None:
        path = _checked_path(checkpoint_path)
        file = _weights_file(path, spec)
        weights_sha256 = _sha256(file)
    else:
        folder = store.fetch(entry.name, progress) if auto_download else store.require(entry.name)
        path = _without_pickles(folder)
        weights_sha256 = store.entry(entry.name).files[0].sha256 or ""
    with _naming_damage(file, spec) if checkpoint_path is not None else nullcontext():
        network = spec.load(path, **choices)
    posteriors = partial(open_posteriors, store, fetch=auto_download)
    return Model(spec, network, weights_sha256, entry.license, posteriors)


def open_posteriors(store: CheckpointStore, *, fetch: bool) -> PosteriorNetwork | None:
    """Return Basic Pitch as evidence for the notes of another network; None if it is not available.

    Args:
        store: where its weights are kept.
        fetch: True to fetch them if they are not installed.
    """
    if fetch:
        fetch_evidence_model(store)
    try:
        folder = store.directory(EVIDENCE_MODEL)
        return None if folder is None else _open_basic_pitch(folder)
    except (CheckpointError, WeightsError, ModuleNotFoundError) as error:
        _log.warning(WITHOUT_BASIC_PITCH, error)
        return None


def fetch_evidence_model(store: CheckpointStore, progress: Callable[[FetchProgress], None] | None = None) -> None:
    """Fetch Basic Pitch's weights (0.2 MB), if a store has none.

    A failure is logged, and not tried again by this process: confidence is then estimated without them.
    """
    if store.root in _fetch_failed:
        return
    try:
        store.fetch(EVIDENCE_MODEL, progress)
    except CheckpointError as error:
        _fetch_failed.add(store.root)
        _log.warning(WITHOUT_BASIC_PITCH, error)


@cache
def _open_basic_pitch(folder: Path) -> PosteriorNetwork:
    from mt3_infer.models.basic_pitch.network import BasicPitch

    return BasicPitch(folder / "nmp.onnx", threads=1).posteriors


def keep_model(
    name: str,
    *,
    device: str = "auto",
    dtype: str | None = None,
    batch_size: int | None = None,
    checkpoint_path: str | Path | None = None,
) -> Model:
    """Return a model as `load_model` does, and keep it for the next call with the same arguments."""
    store = CheckpointStore.from_environment()
    spec, entry = _find(name, store.catalog)
    checkpoint_path = store.own_path(entry.name) if checkpoint_path is None else checkpoint_path
    weights = None if checkpoint_path is None else fingerprint(_checked_path(checkpoint_path))
    return models.get(
        (spec.name, store.root, str(device), str(dtype), repr(batch_size), weights),
        lambda: load_model(
            name, device=device, dtype=dtype, batch_size=batch_size, checkpoint_path=checkpoint_path, store=store
        ),
    )


def download_model(
    name: str,
    *,
    force: bool = False,
    source: str | None = None,
    store: CheckpointStore | None = None,
    progress: Callable[[FetchProgress], None] | None = None,
) -> Path:
    """Fetch and verify weights if they are not there; return the directory that holds them.

    Args:
        name: a checkpoint or an alias, whether or not this version has a network for it.
        force: download even what is there.
        source: only from this kind of source; "git_lfs", "git", "huggingface", "url", "wheel", "t5x" or "mirror".
    Raises:
        UnknownModelError: no such name.
        CheckpointError: they cannot be fetched; its branches say why.
    """
    store = store or CheckpointStore.from_environment()
    try:
        entry = store.entry(name)
    except UnknownCheckpointError as error:
        known = ", ".join(store.catalog.entries)
        raise UnknownModelError(f"There is no model {name!r} to download; there are: {known}.") from error
    return store.fetch(entry.name, progress, force=force, source=source)


def list_models(store: CheckpointStore | None = None) -> list[ModelInfo]:
    """Return all models that the catalog has weights for, in the order of the table."""
    store = store or CheckpointStore.from_environment()
    entries = store.catalog.entries
    return [_info(spec, entries[spec.name], store) for spec in MODELS.values() if spec.name in entries]


def get_model_info(name: str, store: CheckpointStore | None = None) -> ModelInfo:
    """Return one model, by name or alias.

    Raises:
        UnknownModelError: no such name.
    """
    store = store or CheckpointStore.from_environment()
    return _info(*_find(name, store.catalog), store)


def get_model_spec(name: str) -> ModelSpec:
    """Return the row of the table for a name or an alias.

    Raises:
        UnknownModelError: no such name.
    """
    return _find(name, CheckpointStore.from_environment().catalog)[0]


def _find(name: str, catalog: Catalog) -> tuple[ModelSpec, Entry]:
    try:
        entry = catalog.resolve(name)
    except UnknownCheckpointError as error:
        raise UnknownModelError(f"There is no model {name!r}; the models are: {_known(catalog)}.") from error
    if entry.name in MODELS:
        return MODELS[entry.name], entry
    if entry.variant_of in MODELS:
        raise UnknownModelError(
            f"{entry.name} is another checkpoint of {entry.variant_of}: "
            f"load_model({entry.variant_of!r}, checkpoint_path=download_model({entry.name!r}))."
        )
    raise UnknownModelError(
        f"{entry.name} can be downloaded, but this version has no network for it; "
        f"the models are: {_known(catalog)}."
    )


def _known(catalog: Catalog) -> str:
    """Return names and aliases, for a person."""
    names = []
    for name in (name for name in MODELS if name in catalog.entries):
        aliases = catalog.entries[name].aliases
        names.append(f"{name} ({', '.join(aliases)})" if aliases else name)
    return ", ".join(names)


def _info(spec: ModelSpec, entry: Entry, store: CheckpointStore) -> ModelInfo:
    return ModelInfo(
        name=spec.name,
        title=spec.title,
        description=spec.description,
        aliases=entry.aliases,
        license=entry.license,
        size=entry.size,
        installed=store.is_installed(spec.name),
        options=spec.options,
    )


def _without_pickles(folder: Path) -> Path:
    """Return a folder with the same files, pickled weights as safetensors."""
    if not any(path.suffix in (".pth", ".pt", ".ckpt") for path in folder.iterdir()):
        return folder  # and torch, which not every network runs on, stays out
    try:
        from mt3_infer.weights.files import as_safetensors
    except ModuleNotFoundError:
        return folder  # `ModelSpec.load` names the package
    return run_in_fresh_thread(as_safetensors, folder)


def _weights_file(path: Path, spec: ModelSpec) -> Path:
    """Return the file that holds the weights of a custom checkpoint, or the index of those that do."""
    if path.is_file():
        return path
    for pattern in spec.weight_files:
        for file in sorted(path.glob(pattern)):
            if file.is_file():
                return file
    if path.is_dir():
        names = ", ".join(spec.weight_files)
        raise CheckpointNotFoundError(f"There is no checkpoint of {spec.name} in {path}, which would be {names}.")
    raise CheckpointNotFoundError(f"There is no checkpoint of {spec.name} at {path}: check the path.")


def _checked_path(checkpoint_path: str | Path) -> Path:
    if not isinstance(checkpoint_path, str | PathLike) or not str(checkpoint_path):
        raise InvalidOptionError(
            f"checkpoint_path={checkpoint_path!r} is no path: pass that of a weight file or of its folder."
        )
    return Path(checkpoint_path)


def _refuse_placeholder(file: Path) -> None:
    """Refuse what downloads leave in the place of weights.

    Raises:
        WeightsError: the file is empty, a Git LFS pointer or a web page.
    """
    with file.open("rb") as weights:
        head = weights.read(512)
    if not head:
        raise WeightsError(f"{file} is empty (0 bytes): download it again.")
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{file} is a Git LFS pointer, not the weights: run `git lfs pull` in its repository.")
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise WeightsError(f"{file} is a web page, not weights: download the file itself.")


@contextmanager
def _naming_damage(file: Path, spec: ModelSpec) -> Iterator[None]:
    """Turn what readers of file formats raise on damaged bytes into a WeightsError."""
    try:
        yield
    except WeightsError:
        _refuse_placeholder(file)
        raise
    except _DAMAGE as error:
        raise WeightsError(f"{file} is damaged, or no checkpoint of {spec.name}: download it again.") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # a size or an offset in the file that leads outside of it
            raise
        raise WeightsError(f"{file} is damaged: download it again.") from error


def _sha256(file: Path) -> str:
    with file.open("rb") as weights:
        return hashlib.file_digest(weights, "sha256").hexdigest()
