"""Weight files: PyTorch state dicts, Lightning checkpoints, safetensors, T5X. No code in a pickle is ever run.

    ROOT/yourmt3/last.ckpt                      as published, verified
    ROOT/yourmt3/safetensors/last.safetensors   its tensors alone, made once, memory-mapped when they are loaded

A Lightning checkpoint names classes of the project that wrote it (tokenizers, optimizers). They are not imported:
an empty object takes the place of whatever is neither a tensor nor a plain container.
"""

from __future__ import annotations

import logging
import pickle
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, _utils

from checkpoints.files import replaced_atomically
from mt3_infer.errors import MissingDependencyError, WeightsError
from mt3_infer.weights import t5x

_log = logging.getLogger(__name__)

FOLDER = "safetensors"
SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".tar")
_PICKLED = {".pth", ".pt", ".ckpt"}
_LFS_POINTER = b"version https://git-lfs"


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a weight file, or the one that a directory holds, under MT3-PyTorch's parameter names.

    Raises:
        WeightsError: there is none, it is damaged, or it is no weight file.
    """
    path = find_weights(path)
    if path.is_dir() or path.suffix == ".tar":
        return t5x.from_t5x_names(t5x.read_t5x(path))
    if not path.is_file():
        raise WeightsError(f"There is no weight file {path}.")
    with path.open("rb") as file:
        head = file.read(len(_LFS_POINTER))
    if head == _LFS_POINTER:
        raise WeightsError(
            f"{path} is a Git LFS pointer, not the weights that it stands for: fetch the object itself."
        )
    readers = {".safetensors": read_safetensors, ".ckpt": read_pickled}
    return _without_prefix(readers.get(path.suffix, read_state_dict)(path))


def _without_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take off the name of an attribute, which Lightning puts before all names."""
    if not all(name.startswith("model.") for name in weights):
        return weights
    return {name.removeprefix("model."): weight for name, weight in weights.items()}


def find_weights(path: Path) -> Path:
    """Return the path itself where it is a file or a T5X checkpoint, else the one weight file in the directory.

    Raises:
        WeightsError: there is none, or more than one.
    """
    if not path.is_dir() or (path / t5x.INDEX).is_file():
        return path
    found = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise WeightsError(
            f"{path} must hold one weight file (.safetensors, .pth, .pt or .ckpt) or a T5X checkpoint; "
            f"it holds {names}."
        )
    return found[0]


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a PyTorch file that holds nothing but tensors by name, perhaps as its `state_dict`.

    Raises:
        WeightsError: the file is cut off or damaged, or it holds other objects, which could run code.
    """
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds more than weights, or is damaged; nothing in it was run. "
            "Use a plain state dict or safetensors."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{path} is cut off or damaged: fetch it again.") from error
    if isinstance(weights, Mapping):
        weights = weights.get("state_dict", weights)
    if not isinstance(weights, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        raise WeightsError(f"{path} is no state dict: it must hold tensors by name and nothing else.")
    return dict(weights)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        WeightsError: the file is cut off or damaged.
        MissingDependencyError: the package safetensors is not installed.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingDependencyError("Reading safetensors takes the package safetensors.") from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path} is cut off or damaged: fetch it again.") from error


def as_safetensors(folder: Path) -> Path:
    """Return a folder with the same files, pickled weights as safetensors; made on the first call.

    It is `folder` itself where nothing is pickled, where safetensors is not installed, or where it cannot be
    written to.

    Raises:
        WeightsError: a file holds no weights.
    """
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    pickled = [path for path in files if path.suffix in _PICKLED]
    if not pickled:
        return folder
    try:
        import safetensors.torch  # noqa: F401 - needed below
    except ImportError:
        return folder
    target = folder / FOLDER
    try:
        target.mkdir(exist_ok=True)
        for path in files:
            if path in pickled:
                _convert(path, target / f"{path.stem}.safetensors")
            else:
                _copy(path, target / path.name)
    except OSError as error:
        _log.warning("%s is read as it is: its safetensors cannot be written (%s)", folder, error)
        return folder
    return target


def read_pickled(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a PyTorch file: a state dict, or what a `state_dict` in it holds.

    Raises:
        WeightsError: it is damaged, or holds none.
    """
    try:
        if zipfile.is_zipfile(path):
            _refuse_programs(path)
            content = torch.load(
                path, map_location="cpu", mmap=True, weights_only=False, pickle_module=_TensorsOnly
            )
        else:  # written by torch < 1.6, when nobody pickled more than tensors
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
    ) as error:
        raise WeightsError(f"{path} is no file of PyTorch weights, or a damaged one.") from error
    held = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    tensors = {name: value for name, value in _items(held) if isinstance(value, torch.Tensor)}
    if not tensors:
        raise WeightsError(f"{path} holds no weights.")
    return tensors


def _refuse_programs(path: Path) -> None:
    """Refuse TorchScript, which torch would load as the program that it is."""
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise WeightsError(f"{path} is a TorchScript program, not weights.")


def _items(held: Any) -> Any:
    return held.items() if isinstance(held, Mapping) else ()


def _convert(path: Path, target: Path) -> None:
    """Write the tensors of one file, unless that was done for this very file."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    stat = path.stat()
    origin = {"file": path.name, "size": str(stat.st_size), "mtime_ns": str(stat.st_mtime_ns)}
    if target.exists():
        with safe_open(target, framework="pt") as made:
            if made.metadata() == origin:
                return
    # A copy each: tensors that share memory would be refused.
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in read_pickled(path).items()}
    with replaced_atomically(target) as part:
        save_file(tensors, part, metadata=origin)
    _log.info("converted %s to %s", path, target)


def _copy(path: Path, target: Path) -> None:
    """Copy a small file that lies beside weights, whole or not at all: others may be reading it."""
    if target.exists() and target.read_bytes() == path.read_bytes():
        return
    with replaced_atomically(target) as part:
        shutil.copyfile(path, part)


class _Inert:
    """Takes the place of an object of any class, and does nothing."""

    def __init__(self, *arguments: Any, **named: Any) -> None: ...

    def __call__(self, *arguments: Any, **named: Any) -> _Inert:
        return self

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, item: Any) -> None: ...

    def extend(self, items: Any) -> None: ...


# What a pickle may name: how tensors are put together, and nothing else.
_HARMLESS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): _utils._rebuild_parameter,
}


class _Unpickler(pickle.Unpickler):
    """Builds tensors and plain containers. Storages never come here: torch recognizes their names itself."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what is harmless, and nothing real for all other names."""
        return _HARMLESS.get((module, name), _Inert)


_TensorsOnly = SimpleNamespace(Unpickler=_Unpickler, __name__="mt3_infer.weights.files")
