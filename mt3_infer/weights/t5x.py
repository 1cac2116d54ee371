"""T5X checkpoints: a msgpack index and a zarr array for each matrix, in a directory or in an archive of it.

Nothing in a file is ever executed, and nothing of an archive is unpacked.
"""

from __future__ import annotations

import gzip
import json
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mt3_infer.errors import MissingDependencyError, WeightsError

INDEX = "checkpoint"
"""Name of the msgpack file in a T5X checkpoint."""

_SUBLAYERS = {
    "encoder": [
        ("pre_attention_layer_norm", "attention", "SelfAttention"),
        ("pre_mlp_layer_norm", "mlp", "DenseReluDense"),
    ],
    "decoder": [
        ("pre_self_attention_layer_norm", "self_attention", "SelfAttention"),
        ("pre_cross_attention_layer_norm", "encoder_decoder_attention", "EncDecAttention"),
        ("pre_mlp_layer_norm", "mlp", "DenseReluDense"),
    ],
}
_ATTENTION = {"query": "q", "key": "k", "value": "v", "out": "o"}
_MLP = {part: part for part in ("wi_0", "wi_1", "wo")}

# T5X's name → MT3-PyTorch's; `#` stands for the number of a layer.
NAMES = {
    "encoder/continuous_inputs_projection/kernel": "proj.weight",
    "encoder/encoder_norm/scale": "encoder.final_layer_norm.weight",
    "decoder/decoder_norm/scale": "decoder.final_layer_norm.weight",
    "decoder/token_embedder/embedding": "decoder_embed_tokens.weight",
    "decoder/logits_dense/kernel": "lm_head.weight",
}
for _stack, _sublayers in _SUBLAYERS.items():
    for _place, (_norm, _block, _theirs) in enumerate(_sublayers):
        _layer, _their_layer = f"{_stack}/layers_#", f"{_stack}.block.#.layer.{_place}"
        NAMES[f"{_layer}/{_norm}/scale"] = f"{_their_layer}.layer_norm.weight"
        NAMES |= {
            f"{_layer}/{_block}/{part}/kernel": f"{_their_layer}.{_theirs}.{short}.weight"
            for part, short in (_MLP if _block == "mlp" else _ATTENTION).items()
        }

_LAYER = re.compile(r"(?<=/layers_)\d+(?=/)")


def from_t5x_names(weights: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """Return weights with T5X's names and [in, out] matrices under MT3-PyTorch's names, as [out, in] matrices.

    Raises:
        WeightsError: a name that has no counterpart.
    """
    return {
        _from_t5x_name(name): torch.from_numpy(np.array(array.T if name.endswith("kernel") else array, np.float32))
        for name, array in weights.items()
    }


def _from_t5x_name(name: str) -> str:
    published = NAMES.get(_LAYER.sub("#", name))
    if published is None:
        raise WeightsError(f"The T5X checkpoint holds {name}, which is no parameter of MT3.")
    layer = _LAYER.search(name)
    return published.replace("#", layer[0]) if layer else published


def read_t5x(checkpoint: Path) -> dict[str, NDArray[Any]]:
    """Read a T5X checkpoint: arrays by name, `encoder/layers_0/attention/key/kernel` and so on.

    Vectors lie in the index itself, matrices in a zarr array each, named with dots for slashes. What the optimizer
    kept is left out.

    Args:
        checkpoint: its directory, or a tar archive of it. Archives are read in place, nothing is unpacked.
    Raises:
        WeightsError: the index or an array is missing, damaged, or of a kind that T5X does not write.
        MissingDependencyError: the package msgpack is not installed.
    """
    try:
        import msgpack
    except ImportError as error:
        raise MissingDependencyError("Reading a T5X checkpoint takes the package msgpack.") from error
    with _files_of(checkpoint) as read:
        try:
            tree = msgpack.unpackb(read(INDEX), ext_hook=_array_in_index, strict_map_key=False)
            target = tree["optimizer"]["target"]
        except (OSError, ValueError, KeyError, TypeError, msgpack.exceptions.UnpackException) as error:
            raise WeightsError(f"{checkpoint / INDEX} is damaged, or no index of a T5X checkpoint.") from error
        return {
            name: value if isinstance(value, np.ndarray) else read_zarr(checkpoint, _zarr_name(name), read)
            for name, value in _leaves(target, "")
        }


ReadFile = Callable[[str], bytes]


@contextmanager
def _files_of(checkpoint: Path) -> Iterator[ReadFile]:
    """Return a function that reads a file of a checkpoint by its name; KeyError or OSError where there is none."""
    if checkpoint.is_dir():
        yield lambda name: (checkpoint / name).read_bytes()
        return
    try:
        with tarfile.open(checkpoint, "r:") as archive:
            # Files that hold their content themselves: no links, nothing sparse.
            plain = [member for member in archive if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)]
            members = {member.name.removeprefix("./"): member for member in plain if not member.issparse()}
            index = next((name for name in members if name.rpartition("/")[2] == INDEX), INDEX)
            folder = index.removesuffix(INDEX)

            def read(name: str) -> bytes:
                stream = archive.extractfile(members[f"{folder}{name}"])
                assert stream is not None, "A regular file has content."
                return stream.read()

            yield read
    except tarfile.TarError as error:
        raise WeightsError(f"{checkpoint} is cut off or damaged: fetch it again.") from error


def _zarr_name(name: str) -> str:
    return "target." + name.replace("/", ".")


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
    """Yield arrays, and references to arrays, with the path that leads to them."""
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and "driver" not in value:
            yield from _leaves(value, f"{path}/")
        else:
            yield path, value


def _array_in_index(code: int, payload: bytes) -> Any:
    """Return the array in extension type 1: its shape, the name of its type, its bytes."""
    import msgpack

    if code != 1:
        return msgpack.ExtType(code, payload)
    shape, dtype, content = msgpack.unpackb(payload)
    return np.frombuffer(content, np.dtype(dtype)).reshape(shape)


def read_zarr(checkpoint: Path, name: str, read: ReadFile) -> NDArray[Any]:
    """Read a zarr (version 2) array in C order, its chunks as they are or compressed by gzip or zlib.

    Args:
        name: of the array in the checkpoint.
        read: returns the content of a file there.
    Raises:
        WeightsError: something is missing, damaged or of another kind.
    """
    try:
        about = json.loads(read(f"{name}/.zarray"))
        shape, chunks = tuple(about["shape"]), tuple(about["chunks"])
        dtype = np.dtype(about["dtype"])
        compressor = (about["compressor"] or {"id": None})["id"]
        separator = about.get("dimension_separator", ".")
        usual = about["zarr_format"] == 2 and about["order"] == "C" and separator in (".", "/")
        if not usual or about.get("filters") or dtype.hasobject:
            raise WeightsError(f"{checkpoint / name} is a zarr array of a kind that T5X does not write.")
        whole = np.empty(shape, dtype)
        for place in product(*(range(-(-n // c)) for n, c in zip(shape, chunks, strict=True))):
            stored = read(f"{name}/{separator.join(map(str, place))}")
            chunk = np.frombuffer(_unpacked(stored, compressor), dtype).reshape(chunks)
            spot = tuple(slice(p * c, min((p + 1) * c, n)) for p, c, n in zip(place, chunks, shape, strict=True))
            whole[spot] = chunk[tuple(slice(0, s.stop - s.start) for s in spot)]
    except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error) as error:
        raise WeightsError(f"{checkpoint / name} is damaged or incomplete: fetch the checkpoint again.") from error
    return whole


def _unpacked(stored: bytes, compressor: str | None) -> bytes:
    match compressor:
        case None:
            return stored
        case "gzip":
            return gzip.decompress(stored)
        case "zlib":
            return zlib.decompress(stored)
    raise WeightsError(f"Chunks compressed by {compressor} are not supported; T5X writes gzip.")
