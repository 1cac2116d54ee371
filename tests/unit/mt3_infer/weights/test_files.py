"""Every container gives the same network; every wrong file gives one clear error; no pickle is ever run."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import pickle
import re
import tarfile
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from checkpoints.catalog import Catalog, Entry
from checkpoints.files import CheckpointFile, SourceSpec
from checkpoints.store import CheckpointStore
from mt3_infer import download_model, load_model
from mt3_infer.errors import WeightsError
from mt3_infer.models.mt3.config import read_config
from mt3_infer.models.mt3.network import MT3
from mt3_infer.models.t5 import T5, T5Config
from mt3_infer.weights.files import read_weights
from mt3_infer.weights.t5x import NAMES
from tests.unit.mt3_infer.published import mt3_shapes, mt3_weights
from tests.web_server import as_json, static, web_server

CONFIG_JSON = {
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_heads": 2,
    "num_layers": 2,
    "num_decoder_layers": 1,
    "vocab_size": 40,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "gated-gelu",
}
CONFIG = T5Config(
    n_features=16,
    d_model=16,
    d_kv=4,
    d_ff=24,
    num_heads=2,
    num_encoder_layers=2,
    num_decoder_layers=1,
    vocabulary_size=40,
)


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(shape, generator=generator) for name, shape in mt3_shapes(CONFIG).items()}


def assert_read(path: Path, weights: dict[str, torch.Tensor]) -> None:
    network = T5(read_config(path))
    network.load_state_dict(mt3_weights(read_weights(path), CONFIG), strict=True)
    state = network.state_dict()
    attention = "encoder.block.1.layer.0.SelfAttention"
    query_key_value = torch.cat([weights[f"{attention}.{part}.weight"] for part in "qkv"])
    assert torch.equal(state["encoder.layers.1.query_key_value.weight"], query_key_value)
    cross = "decoder.block.0.layer.1.EncDecAttention"
    key_value = torch.cat([weights[f"{cross}.{part}.weight"] for part in "kv"])
    assert torch.equal(state["decoder.cross_key_value.weight"], key_value)
    wi_0 = weights["decoder.block.0.layer.2.DenseReluDense.wi_0.weight"]
    assert torch.equal(state["decoder.layers.0.feed_forward.gate.weight"], wi_0)
    assert torch.equal(state["decoder.logits.weight"], weights["lm_head.weight"])


def with_config(directory: Path) -> Path:
    (directory / "config.json").write_text(json.dumps(CONFIG_JSON))
    return directory


def test_directory_with_a_published_file_and_its_config(tmp_path, weights):
    published = weights | {
        "encoder.embed_tokens.weight": weights["proj.weight"],
        "decoder.embed_tokens.weight": weights["decoder_embed_tokens.weight"],
        "encoder.pos_emb.inv_freq": torch.zeros(8),
        "decoder.pos_emb.inv_freq": torch.zeros(8),
    }
    torch.save(published, tmp_path / "mt3.pth")
    assert_read(with_config(tmp_path), weights)
    assert_read(tmp_path / "mt3.pth", weights)


def test_safetensors_under_either_name_of_the_embedding(tmp_path, weights):
    weights["decoder.embed_tokens.weight"] = weights.pop("decoder_embed_tokens.weight")
    save_file(weights, tmp_path / "mt3.safetensors")
    assert_read(with_config(tmp_path), weights)


def test_half_precision_weights_become_float32(weights):
    halves = {name: weight.half() for name, weight in weights.items()}
    ours = mt3_weights(halves, CONFIG)
    assert {weight.dtype for weight in ours.values()} == {torch.float32}


def t5x_name(published: str) -> str:
    """The inverse of the translation under test, by its table."""
    layer = re.search(r"(?<=block\.)\d+", published)
    names = {theirs: ours for ours, theirs in NAMES.items()}
    name = names[re.sub(r"(?<=block\.)\d+", "#", published)]
    return name.replace("#", layer[0]) if layer else name


def write_t5x(directory: Path, weights: dict[str, torch.Tensor], *, chunk_rows: int | None = None) -> None:
    """A checkpoint as T5X writes it: vectors in the index, matrices as zarr arrays."""
    target: dict[str, Any] = {}
    for name, weight in weights.items():
        path, array = t5x_name(name), weight.numpy()
        *parents, leaf = path.split("/")
        node = target
        for parent in parents:
            node = node.setdefault(parent, {})
        if array.ndim == 1:
            payload = msgpack.packb((list(array.shape), "float32", array.tobytes()))
            node[leaf] = msgpack.ExtType(1, payload)
            continue
        node[leaf] = {"driver": "zarr", "kvstore": {"driver": "gfile"}}
        array = np.ascontiguousarray(array.T if leaf == "kernel" else array)
        write_zarr(directory / ("target." + path.replace("/", ".")), array, chunk_rows or len(array))
    state = {"step": 1, "param_states": {}}
    tree = {"version": 3, "optimizer": {"target": target, "state": state}}
    (directory / "checkpoint").write_bytes(msgpack.packb(tree))


def write_zarr(directory: Path, array: np.ndarray, rows: int) -> None:
    directory.mkdir()
    about = {
        "zarr_format": 2,
        "shape": array.shape,
        "chunks": [rows, array.shape[1]],
        "dtype": "<f4",
        "compressor": {"id": "gzip", "level": 1},
        "fill_value": None,
        "order": "C",
        "filters": None,
    }
    (directory / ".zarray").write_text(json.dumps(about))
    for place, start in enumerate(range(0, len(array), rows)):
        chunk = np.zeros((rows, array.shape[1]), "<f4")
        piece = array[start : start + rows]
        chunk[: len(piece)] = piece
        (directory / f"{place}.0").write_bytes(gzip.compress(chunk.tobytes()))


@pytest.mark.parametrize("chunk_rows", [None, 5])
def test_t5x_checkpoint_directory(tmp_path, weights, chunk_rows):
    write_t5x(tmp_path, weights, chunk_rows=chunk_rows)
    read = read_weights(tmp_path)
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], weight) for name, weight in weights.items())
    assert_read(with_config(tmp_path), weights)


def test_t5x_checkpoint_with_a_chunk_missing(tmp_path, weights):
    write_t5x(tmp_path, weights)
    (tmp_path / "target.decoder.logits_dense.kernel" / "0.0").unlink()
    with pytest.raises(WeightsError, match=r"target\.decoder\.logits_dense\.kernel is damaged or incomplete"):
        read_weights(tmp_path)


def test_t5x_checkpoint_with_a_chunk_cut_off(tmp_path, weights):
    write_t5x(tmp_path, weights)
    chunk = tmp_path / "target.decoder.logits_dense.kernel" / "0.0"
    chunk.write_bytes(chunk.read_bytes()[:-20])
    with pytest.raises(WeightsError, match="is damaged or incomplete"):
        read_weights(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xc1garbage", msgpack.packb([1, 2])])
def test_t5x_index_that_is_none(tmp_path, content):
    (tmp_path / "checkpoint").write_bytes(content)
    with pytest.raises(WeightsError, match="is damaged, or no index of a T5X checkpoint"):
        read_weights(tmp_path)


def test_t5x_checkpoint_of_another_network(tmp_path, weights):
    write_t5x(tmp_path, weights)
    index = msgpack.unpackb((tmp_path / "checkpoint").read_bytes())
    index["optimizer"]["target"]["relpos"] = {
        "scale": index["optimizer"]["target"]["encoder"]["encoder_norm"]["scale"]
    }
    (tmp_path / "checkpoint").write_bytes(msgpack.packb(index))
    with pytest.raises(WeightsError, match="holds relpos/scale, which is no parameter of MT3"):
        read_weights(tmp_path)


def archived(directory: Path, target: Path, prefix: str = "") -> Path:
    """A T5X checkpoint as one file."""
    with tarfile.open(target, "w") as archive:
        for path in sorted(p for p in directory.rglob("*") if p.is_file()):
            archive.add(path, f"{prefix}{path.relative_to(directory)}")
    return target


@pytest.mark.parametrize("prefix", ["", "./", "checkpoints/mt3/"])
def test_t5x_checkpoint_in_an_archive_is_read_in_place(tmp_path, weights, prefix):
    (tmp_path / "mt3").mkdir()
    write_t5x(tmp_path / "mt3", weights, chunk_rows=5)
    (tmp_path / "download").mkdir()
    archive = archived(tmp_path / "mt3", tmp_path / "download" / "mt3.t5x.tar", prefix)
    for path in (archive, archive.parent):
        read = read_weights(path)
        assert read.keys() == weights.keys()
        assert all(torch.equal(read[name], weight) for name, weight in weights.items())
    assert [path.name for path in archive.parent.iterdir()] == ["mt3.t5x.tar"], "nothing was unpacked"
    assert_read(with_config(archive.parent), weights)


def test_t5x_archive_that_is_cut_off_or_none(tmp_path, weights):
    write_t5x(tmp_path, weights)
    archive = archived(tmp_path, tmp_path / "mt3.tar")
    whole = archive.read_bytes()
    for content, message in (
        (whole[: len(whole) // 2], "damaged"),
        (whole[:700], "damaged"),
        (b"<!DOCTYPE html>", "mt3.tar is cut off or damaged: fetch it again"),
        (bytes(10_240), "checkpoint is damaged, or no index of a T5X checkpoint"),
    ):
        archive.write_bytes(content)
        with pytest.raises(WeightsError, match=message):
            read_weights(archive)


def test_t5x_archive_leads_to_no_file_outside_of_it(tmp_path, weights):
    """Links to files on this machine, and members with paths that climb out, are as if they were not there."""
    (tmp_path / "mt3").mkdir()
    write_t5x(tmp_path / "mt3", weights)
    chunk = "target.decoder.logits_dense.kernel/0.0"
    secret = tmp_path / "secret"
    (tmp_path / "mt3" / chunk).rename(secret)
    archive = archived(tmp_path / "mt3", tmp_path / "mt3.tar")
    with tarfile.open(archive, "a") as out:
        for kind, target in ((tarfile.SYMTYPE, str(secret)), (tarfile.LNKTYPE, "../secret")):
            link = tarfile.TarInfo(chunk)
            link.type, link.linkname = kind, target
            out.addfile(link)
        climbing = tarfile.TarInfo(f"../{chunk}")
        climbing.size = 3
        out.addfile(climbing, io.BytesIO(b"abc"))
    with pytest.raises(WeightsError, match=r"target\.decoder\.logits_dense\.kernel is damaged or incomplete"):
        read_weights(archive)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mt3", "mt3.tar", "secret"]


def test_zarr_chunk_that_would_lie_elsewhere(tmp_path, weights):
    write_t5x(tmp_path, weights)
    about = tmp_path / "target.decoder.logits_dense.kernel" / ".zarray"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"dimension_separator": "/../../"}))
    with pytest.raises(WeightsError, match="is a zarr array of a kind that T5X does not write"):
        read_weights(tmp_path)


def test_originals_are_downloaded_and_loaded(tmp_path, weights):
    """From the bucket to the network, by the names in the catalog."""
    (tmp_path / "mt3").mkdir()
    write_t5x(tmp_path / "mt3", weights)
    files = {
        str(path.relative_to(tmp_path / "mt3")): path.read_bytes()
        for path in (tmp_path / "mt3").rglob("*")
        if path.is_file()
    }
    with web_server() as site:
        listing = [
            {
                "name": f"checkpoints/mt3/{name}",
                "size": len(content),
                "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(),
            }
            for name, content in files.items()
        ]
        site.routes["/storage/v1/b/mt3/o"] = lambda _: as_json({"items": listing})
        site.routes |= {f"/mt3/checkpoints/mt3/{name}": static(content) for name, content in files.items()}
        source = SourceSpec("t5x", {"bucket": "mt3", "prefix": "checkpoints/mt3", "endpoint": site.url})
        entries = [
            Entry("mt3_pytorch", (), "Apache-2.0", "", "", ()),
            Entry(
                *("mt3_t5x", (), "Apache-2.0", "", ""),
                files=(CheckpointFile("mt3.t5x.tar", 100_000, None, (source,)),),
                variant_of="mt3_pytorch",
            ),
        ]
        store = CheckpointStore(tmp_path / "store", catalog=Catalog({entry.name: entry for entry in entries}))
        folder = download_model("mt3_t5x", store=store)
    with_config(folder)
    expected = MT3.build(weights, CONFIG, MT3.usual).state_dict()
    for path in (folder, folder / "mt3.t5x.tar"):
        model = load_model("mt3_pytorch", checkpoint_path=path, store=store, device="cpu")
        assert model.weights_sha256 == hashlib.sha256((folder / "mt3.t5x.tar").read_bytes()).hexdigest()
        found = MT3.build(read_weights(path), CONFIG, MT3.usual).state_dict()
        assert all(torch.equal(found[name], weight) for name, weight in expected.items())


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return Path.touch, (self.witness,)


def test_pickle_with_code_is_refused_and_never_run(tmp_path):
    witness = tmp_path / "ran"
    for name, save in (("a.pth", torch.save), ("b.pth", lambda o, p: p.write_bytes(pickle.dumps(o, 2)))):
        save({"proj.weight": Malicious(witness)}, tmp_path / name)
        with pytest.raises(WeightsError, match="nothing in it was run"):
            read_weights(tmp_path / name)
    assert not witness.exists()


def test_git_lfs_pointer(tmp_path):
    pointer = tmp_path / "mt3.pth"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:b8a3\nsize 183672643\n")
    with pytest.raises(WeightsError, match="is a Git LFS pointer, not the weights"):
        read_weights(tmp_path)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_file_that_is_cut_off(tmp_path, weights, kept, suffix):
    path = tmp_path / f"mt3.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(weights, path)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(WeightsError, match="damaged"):
        read_weights(path)


def test_html_page_instead_of_weights(tmp_path):
    (tmp_path / "mt3.pth").write_text("<!DOCTYPE html><html>not found</html>")
    with pytest.raises(WeightsError, match="damaged"):
        read_weights(tmp_path)


def test_a_state_dict_may_lie_under_its_name(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(2)}}, tmp_path / "mt3.pth")
    assert read_weights(tmp_path)["a"].tolist() == [1, 1]


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"state_dict": [torch.zeros(2)]}, {"epoch": 3}])
def test_file_that_is_no_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "mt3.pth")
    with pytest.raises(WeightsError, match="is no state dict"):
        read_weights(tmp_path)


def test_missing_parameters_are_named(weights):
    del weights["lm_head.weight"]
    with pytest.raises(WeightsError, match=r"does not match MT3: missing lm_head\.weight\."):
        mt3_weights(weights, CONFIG)


def test_unknown_parameters_are_named(weights):
    weights["adapter.weight"] = torch.zeros(2, 2)
    with pytest.raises(WeightsError, match=r"does not match MT3: unknown adapter\.weight\."):
        mt3_weights(weights, CONFIG)


def test_wrong_shapes_are_named(weights):
    weights["proj.weight"] = torch.zeros(16, 17)
    with pytest.raises(
        WeightsError, match=r"MT3: of another shape proj\.weight \(16, 17\) instead of \(16, 16\)\."
    ):
        mt3_weights(weights, CONFIG)


def test_many_wrong_names_are_summed_up(weights):
    with pytest.raises(WeightsError, match=r"missing [\w., ]+ and \d+ more\.$"):
        mt3_weights({}, CONFIG)


def test_copy_that_differs_from_its_original(weights):
    weights["encoder.embed_tokens.weight"] = weights["proj.weight"] + 1
    with pytest.raises(WeightsError, match=r"hold proj\.weight twice"):
        mt3_weights(weights, CONFIG)


def test_directory_without_and_with_too_many_weight_files(tmp_path):
    with pytest.raises(WeightsError, match="it holds none"):
        read_weights(tmp_path)
    (tmp_path / "a.pth").touch()
    (tmp_path / "b.safetensors").touch()
    with pytest.raises(WeightsError, match=r"it holds a\.pth, b\.safetensors"):
        read_weights(tmp_path)


def test_path_that_is_not_there(tmp_path):
    with pytest.raises(WeightsError, match="There is no weight file"):
        read_weights(tmp_path / "mt3.pth")


def test_config_of_another_kind_of_network(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG_JSON | {"feed_forward_proj": "relu"}))
    with pytest.raises(WeightsError, match="gated-gelu"):
        read_config(tmp_path)


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_config_that_is_damaged(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsError, match="does not describe the network"):
        read_config(tmp_path)
