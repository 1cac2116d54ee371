"""Weight files and published parameter names → ours.

Read here: PyTorch state dicts, Lightning checkpoints, safetensors, and T5X checkpoints (a msgpack index, one zarr
array a matrix), as a directory or as the tar archive that our downloads leave. Nothing in a file is ever executed.

Every parameter must be there, in its shape, and nothing else: a file of another network is an error, not a
bad transcription.
"""

from __future__ import annotations

import gzip
import json
import pickle
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
from mt3_infer.models.t5 import T5Config
from mt3_infer.weights import read_pickled

Weights = dict[str, Tensor]

T5X_INDEX = "checkpoint"
"""Name of the msgpack file in a T5X checkpoint."""

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".tar")

LFS_POINTER = b"version https://git-lfs"


def read_weights(path: Path) -> Weights:
    """Read a weight file, or the one that a directory holds, under MT3-PyTorch's parameter names.

    Raises:
        WeightsError: there is none, it is damaged, or it is no weight file.
    """
    path = find_weights(path)
    if path.is_dir() or path.suffix == ".tar":
        return from_t5x_names(read_t5x(path))
    if not path.is_file():
        raise WeightsError(f"There is no weight file {path}.")
    with path.open("rb") as file:
        head = file.read(len(LFS_POINTER))
    if head == LFS_POINTER:
        raise WeightsError(
            f"{path} is a Git LFS pointer, not the weights that it stands for: fetch the object itself."
        )
    readers = {".safetensors": read_safetensors, ".ckpt": read_pickled}
    return _without_prefix(readers.get(path.suffix, read_state_dict)(path))


def _without_prefix(weights: Weights) -> Weights:
    """Lightning puts the name of an attribute before all names."""
    if not all(name.startswith("model.") for name in weights):
        return weights
    return {name.removeprefix("model."): weight for name, weight in weights.items()}


def find_weights(path: Path) -> Path:
    """The path itself where it is a file or a T5X checkpoint, else the one weight file in the directory.

    Raises:
        WeightsError: there is none, or more than one.
    """
    if not path.is_dir() or (path / T5X_INDEX).is_file():
        return path
    found = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise WeightsError(
            f"{path} must hold one weight file (.safetensors, .pth, .pt or .ckpt) or a T5X checkpoint; "
            f"it holds {names}."
        )
    return found[0]


def read_state_dict(path: Path) -> Weights:
    """Read a PyTorch file that holds nothing but tensors by name.

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
    if not isinstance(weights, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        raise WeightsError(f"{path} is no state dict: it must hold tensors by name and nothing else.")
    return dict(weights)


def read_safetensors(path: Path) -> Weights:
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


def read_config(path: Path) -> T5Config:
    """The sizes in the `config.json` beside the weights; those of the published MT3 where there is none.

    Raises:
        WeightsError: the file does not describe a T5 of this kind.
    """
    file = (path if path.is_dir() else path.parent) / "config.json"
    if not file.is_file():
        return T5Config()
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values.get("feed_forward_proj", "gated-gelu") != "gated-gelu":
            raise WeightsError(f"{file}: only feed_forward_proj 'gated-gelu' is supported.")
        return T5Config(
            n_features=values["d_model"],
            d_model=values["d_model"],
            d_kv=values["d_kv"],
            d_ff=values["d_ff"],
            num_heads=values["num_heads"],
            num_encoder_layers=values["num_layers"],
            num_decoder_layers=values["num_decoder_layers"],
            vocabulary_size=values["vocab_size"],
            epsilon=values["layer_norm_epsilon"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{file} does not describe the network: {error!r}.") from error


# --- Parameter names
# ---------------------------------------------------------------------------------------------


def from_published_mt3(weights: Mapping[str, Tensor], config: T5Config, *, memory: bool = False) -> Weights:
    """MT3-PyTorch's names → those of `mt3_infer.models.t5.T5`, matrices that are multiplied together joined.

    Copies of other parameters and the buffers of positions, which the network computes itself, are left out.

    Args:
        memory: whether they are MR-MT3's, for `mt3_infer.models.mr_mt3.RememberingT5`.
    Raises:
        WeightsError: parameters are missing, unknown, or of another shape.
    """
    weights = _without_copies(weights)
    _check_kind(weights, memory=memory)
    check_names_and_shapes(weights, published_shapes(config, memory=memory))
    ours: Weights = {
        "encoder.projection.weight": weights["proj.weight"],
        "encoder.norm.weight": weights["encoder.final_layer_norm.weight"],
        "decoder.embedding.weight": weights["decoder_embed_tokens.weight"],
        "decoder.norm.weight": weights["decoder.final_layer_norm.weight"],
        "decoder.logits.weight": weights["lm_head.weight"],
        "decoder.cross_key_value.weight": torch.cat(
            [
                weights[f"decoder.block.{layer}.layer.1.EncDecAttention.{part}.weight"]
                for layer in range(config.num_decoder_layers)
                for part in "kv"
            ]
        ),
    }
    for layer in range(config.num_encoder_layers):
        theirs, our = f"encoder.block.{layer}.layer", f"encoder.layers.{layer}"
        ours |= self_attention_weights(weights, f"{theirs}.0", our)
        ours |= feed_forward_weights(weights, f"{theirs}.1", our)
    for layer in range(config.num_decoder_layers):
        theirs, our = f"decoder.block.{layer}.layer", f"decoder.layers.{layer}"
        ours |= self_attention_weights(weights, f"{theirs}.0", our)
        ours[f"{our}.cross_norm.weight"] = weights[f"{theirs}.1.layer_norm.weight"]
        ours[f"{our}.cross_query.weight"] = weights[f"{theirs}.1.EncDecAttention.q.weight"]
        ours[f"{our}.cross_out.weight"] = weights[f"{theirs}.1.EncDecAttention.o.weight"]
        ours |= feed_forward_weights(weights, f"{theirs}.2", our)
    if memory:
        theirs = "segmem_encoder.block.0.layer"
        ours |= self_attention_weights(weights, f"{theirs}.0", "memory.layer")
        ours |= feed_forward_weights(weights, f"{theirs}.1", "memory.layer")
        ours["memory.projection.weight"] = weights["segmem_proj.weight"]
        ours["memory.norm.weight"] = weights["segmem_encoder.final_layer_norm.weight"]
    return {name: weight.to(torch.float32) for name, weight in ours.items()}


def self_attention_weights(weights: Mapping[str, Tensor], theirs: str, ours: str) -> Weights:
    """A layer's self-attention, its three products joined."""
    attention = f"{theirs}.SelfAttention"
    return {
        f"{ours}.norm.weight": weights[f"{theirs}.layer_norm.weight"],
        f"{ours}.query_key_value.weight": torch.cat([weights[f"{attention}.{part}.weight"] for part in "qkv"]),
        f"{ours}.out.weight": weights[f"{attention}.o.weight"],
    }


def feed_forward_weights(weights: Mapping[str, Tensor], theirs: str, ours: str) -> Weights:
    """A layer's gated feed-forward block."""
    parts = {"gate": "wi_0", "up": "wi_1", "down": "wo"}
    return {f"{ours}.feed_forward.norm.weight": weights[f"{theirs}.layer_norm.weight"]} | {
        f"{ours}.feed_forward.{our}.weight": weights[f"{theirs}.DenseReluDense.{their}.weight"]
        for our, their in parts.items()
    }


def published_shapes(config: T5Config, *, memory: bool = False) -> dict[str, tuple[int, ...]]:
    """Every parameter of the network under MT3-PyTorch's names, and MR-MT3's for the memory, with its shape."""
    width, inner, hidden = config.d_model, config.d_inner, config.d_ff
    assert config.n_features is not None
    shapes: dict[str, tuple[int, ...]] = {
        "proj.weight": (width, config.n_features),
        "decoder_embed_tokens.weight": (config.vocabulary_size, width),
        "lm_head.weight": (config.vocabulary_size, width),
    }

    def attention(name: str, kind: str) -> None:
        shapes[f"{name}.layer_norm.weight"] = (width,)
        shapes.update({f"{name}.{kind}.{part}.weight": (inner, width) for part in "qkv"})
        shapes[f"{name}.{kind}.o.weight"] = (width, inner)

    def feed_forward(name: str) -> None:
        shapes[f"{name}.layer_norm.weight"] = (width,)
        shapes.update({f"{name}.DenseReluDense.{part}.weight": (hidden, width) for part in ("wi_0", "wi_1")})
        shapes[f"{name}.DenseReluDense.wo.weight"] = (width, hidden)

    for layer in range(config.num_encoder_layers):
        attention(f"encoder.block.{layer}.layer.0", "SelfAttention")
        feed_forward(f"encoder.block.{layer}.layer.1")
    for layer in range(config.num_decoder_layers):
        attention(f"decoder.block.{layer}.layer.0", "SelfAttention")
        attention(f"decoder.block.{layer}.layer.1", "EncDecAttention")
        feed_forward(f"decoder.block.{layer}.layer.2")
    shapes["encoder.final_layer_norm.weight"] = shapes["decoder.final_layer_norm.weight"] = (width,)
    if memory:
        attention("segmem_encoder.block.0.layer.0", "SelfAttention")
        feed_forward("segmem_encoder.block.0.layer.1")
        shapes["segmem_encoder.final_layer_norm.weight"] = (width,)
        shapes["segmem_proj.weight"] = (width, width)
    return shapes


COPIES = {
    "encoder.embed_tokens.weight": "proj.weight",
    "decoder.embed_tokens.weight": "decoder_embed_tokens.weight",
    "segmem_encoder.embed_tokens.weight": "segmem_proj.weight",
}
"""Parameters that the published file holds twice; either name will do."""

BUFFERS = tuple(f"{stack}.pos_emb.inv_freq" for stack in ("encoder", "decoder", "segmem_encoder"))


def _without_copies(weights: Mapping[str, Tensor]) -> Weights:
    kept = {name: weight for name, weight in weights.items() if name not in BUFFERS}
    for copy, original in COPIES.items():
        if copy not in kept:
            continue
        weight = kept.pop(copy)
        if not torch.equal(kept.setdefault(original, weight), weight):
            raise WeightsError(f"The weights hold {original} twice, and {copy} differs from it.")
    return kept


def _check_kind(weights: Mapping[str, Tensor], *, memory: bool) -> None:
    """Tell networks apart that are the same but for the memory: others give MT3's weights out as MR-MT3's."""
    has_memory = any(name.startswith("segmem_") for name in weights)
    if has_memory and not memory:
        raise WeightsError('These are weights of MR-MT3, which has a memory: load them with model="mr_mt3".')
    if memory and not has_memory and "proj.weight" in weights:
        raise WeightsError('These are weights of MT3, which has no memory: load them with model="mt3_pytorch".')


def check_names_and_shapes(weights: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises: WeightsError: parameters are missing, unknown, or of another shape."""
    for what, names in (
        ("lack", sorted(shapes.keys() - weights.keys())),
        ("hold unknown", sorted(weights.keys() - shapes.keys())),
    ):
        if names:
            raise WeightsError(f"These are not the weights of this network: they {what} {_some(names)}.")
    wrong = [
        f"{name} {tuple(weights[name].shape)} instead of {shape}"
        for name, shape in shapes.items()
        if tuple(weights[name].shape) != shape
    ]
    if wrong:
        raise WeightsError(f"These are not the weights of this network: they hold {_some(wrong)}.")


def _some(names: Iterable[str]) -> str:
    names = list(names)
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


# --- T5X
# ---------------------------------------------------------------------------------------------------------


def from_t5x_names(weights: Mapping[str, NDArray[Any]]) -> Weights:
    """T5X's names and [in, out] matrices → MT3-PyTorch's names and [out, in] matrices.

    Raises:
        WeightsError: a name that has no counterpart.
    """
    return {
        _from_t5x_name(name): torch.from_numpy(np.array(array.T if name.endswith("kernel") else array, np.float32))
        for name, array in weights.items()
    }


T5X_NAMES = {
    "encoder/continuous_inputs_projection/kernel": "proj.weight",
    "encoder/encoder_norm/scale": "encoder.final_layer_norm.weight",
    "decoder/decoder_norm/scale": "decoder.final_layer_norm.weight",
    "decoder/token_embedder/embedding": "decoder_embed_tokens.weight",
    "decoder/logits_dense/kernel": "lm_head.weight",
}

T5X_LAYER_NAMES = {
    "encoder": {
        "pre_attention_layer_norm": "0.layer_norm",
        "attention": "0.SelfAttention",
        "pre_mlp_layer_norm": "1.layer_norm",
        "mlp": "1.DenseReluDense",
    },
    "decoder": {
        "pre_self_attention_layer_norm": "0.layer_norm",
        "self_attention": "0.SelfAttention",
        "pre_cross_attention_layer_norm": "1.layer_norm",
        "encoder_decoder_attention": "1.EncDecAttention",
        "pre_mlp_layer_norm": "2.layer_norm",
        "mlp": "2.DenseReluDense",
    },
}

T5X_PARTS = {"query": "q", "key": "k", "value": "v", "out": "o"}


def _from_t5x_name(name: str) -> str:
    if name in T5X_NAMES:
        return T5X_NAMES[name]
    try:
        stack, layer, block, *parts = name.split("/")[:-1]
        theirs = T5X_LAYER_NAMES[stack][block]
        number = int(layer.removeprefix("layers_"))
    except (KeyError, ValueError) as error:
        raise WeightsError(f"The T5X checkpoint holds {name}, which is no parameter of MT3.") from error
    part = "".join(f".{T5X_PARTS.get(part, part)}" for part in parts)
    return f"{stack}.block.{number}.layer.{theirs}{part}.weight"


def read_t5x(checkpoint: Path) -> dict[str, NDArray[Any]]:
    """Read a T5X checkpoint: arrays by name, `encoder/layers_0/attention/key/kernel` and so on.

    Vectors lie in the index itself, matrices in a zarr array each, named with dots for slashes. What the optimiser
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
            tree = msgpack.unpackb(read(T5X_INDEX), ext_hook=_array_in_index, strict_map_key=False)
            target = tree["optimizer"]["target"]
        except (OSError, ValueError, KeyError, TypeError, msgpack.exceptions.UnpackException) as error:
            raise WeightsError(f"{checkpoint / T5X_INDEX} is damaged, or no index of a T5X checkpoint.") from error
        return {
            name: value if isinstance(value, np.ndarray) else read_zarr(checkpoint, _zarr_name(name), read)
            for name, value in _leaves(target, "")
        }


ReadFile = Callable[[str], bytes]


@contextmanager
def _files_of(checkpoint: Path) -> Iterator[ReadFile]:
    """A function that reads a file of a T5X checkpoint by its name; KeyError or OSError where there is none."""
    if checkpoint.is_dir():
        yield lambda name: (checkpoint / name).read_bytes()
        return
    try:
        with tarfile.open(checkpoint, "r:") as archive:
            # Files that hold their content themselves: no links, nothing sparse.
            plain = [member for member in archive if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)]
            members = {member.name.removeprefix("./"): member for member in plain if not member.issparse()}
            index = next((name for name in members if name.rpartition("/")[2] == T5X_INDEX), T5X_INDEX)
            folder = index.removesuffix(T5X_INDEX)

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
    """Arrays, and references to arrays, with the path that leads to them."""
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and "driver" not in value:
            yield from _leaves(value, f"{path}/")
        else:
            yield path, value


def _array_in_index(code: int, payload: bytes) -> Any:
    """Extension type 1 is an array: its shape, the name of its type, its bytes."""
    import msgpack

    if code != 1:
        return msgpack.ExtType(code, payload)
    shape, dtype, content = msgpack.unpackb(payload)
    return np.frombuffer(content, np.dtype(dtype)).reshape(shape)


def read_zarr(checkpoint: Path, name: str, read: ReadFile) -> NDArray[Any]:
    """Read a zarr (version 2) array in C order, its chunks as they are or compressed by gzip or zlib.

    Args:
        name: of the array in the checkpoint.
        read: gives the content of a file there.
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
