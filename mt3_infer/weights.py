"""Pickled weights → safetensors, once, beside the originals; no code in a pickle is ever run.

    ROOT/yourmt3/last.ckpt                      as published, verified
    ROOT/yourmt3/safetensors/last.safetensors   its tensors alone, memory-mapped when they are loaded

A Lightning checkpoint names classes of the project that wrote it (tokenizers, optimizers). They are not imported:
an empty object takes the place of whatever is neither a tensor nor a plain container.
"""

from __future__ import annotations

import logging
import pickle
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from mt3_infer.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)

FOLDER = "safetensors"
_PICKLED = {".pth", ".pt", ".ckpt"}


def as_safetensors(folder: Path) -> Path:
    """Give a folder with the same files, pickled weights as safetensors; made on the first call.

    It is `folder` itself where nothing is pickled, where torch and safetensors are not installed, or where it
    cannot be written to.

    Raises:
        WeightsError: a file holds no weights.
    """
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    pickled = [path for path in files if path.suffix in _PICKLED]
    if not pickled:
        return folder
    try:
        import safetensors.torch  # noqa: F401 - both are needed below
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
    import torch

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
    with _whole(target) as part:
        save_file(tensors, part, metadata=origin)
    _log.info("converted %s to %s", path, target)


def _copy(path: Path, target: Path) -> None:
    """Copy a small file that lies beside weights, whole or not at all: others may be reading it."""
    if target.exists() and target.read_bytes() == path.read_bytes():
        return
    with _whole(target) as part:
        shutil.copyfile(path, part)


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A file to write; it gets its name when that has gone well."""
    part = target.with_name(f".{target.name}.{uuid4().hex}.part")
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


class _Inert:
    """Takes the place of an object of any class, and does nothing."""

    def __init__(self, *arguments: Any, **named: Any) -> None: ...

    def __call__(self, *arguments: Any, **named: Any) -> _Inert:
        return self

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, item: Any) -> None: ...

    def extend(self, items: Any) -> None: ...


def _harmless() -> dict[tuple[str, str], Any]:
    """What a pickle may name: how tensors are put together, and nothing else."""
    from torch import _utils

    return {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _utils._rebuild_tensor_v2,
        ("torch._utils", "_rebuild_parameter"): _utils._rebuild_parameter,
    }


class _Unpickler(pickle.Unpickler):
    """Builds tensors and plain containers. Storages never come here: torch recognises their names itself."""

    def find_class(self, module: str, name: str) -> Any:
        """Give what is harmless, and nothing real for all other names."""
        return _harmless().get((module, name), _Inert)


_TensorsOnly = SimpleNamespace(Unpickler=_Unpickler, __name__="mt3_infer.weights")
