"""Every block of docs/checkpoints.md is run as it stands, in order; one web server plays the publishers.

So is every line of Python, every `mt3-infer` and every script in the guide that mt3-infer 0.2.0 had, for users who
come from there.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from checkpoints.catalog import load_catalog
from mt3_infer.models.t5 import T5Config
from mt3_infer.symbolic.vocabulary import END
from tests import servers
from tests.unit.mt3_infer.published import mt3_shapes
from tests.web_server import Reply, Request, Site, as_json, static, web_server

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).parents[2]
GUIDE = REPOSITORY / "docs" / "checkpoints.md"
BLOCKS = re.findall(r"^```(python|bash)\n(.*?)^```$", GUIDE.read_text(), re.M | re.S)
NAMES = ("mt3_pytorch", "mr_mt3", "yourmt3", "transkun")
CUSTOM = b"weights of one's own"
CUSTOM_PATH = "/path/to/custom/checkpoint.pth"
SIZES = {
    "d_model": 512,
    "d_kv": 4,
    "d_ff": 16,
    "num_heads": 1,
    "num_layers": 1,
    "num_decoder_layers": 1,
    "vocab_size": 1500,
    "layer_norm_epsilon": 1e-6,
}


@cache
def state_dict(*, memory: bool = True) -> dict[str, torch.Tensor]:
    """Return MR-MT3, or MT3, as small as its front end allows; segments end at once."""
    config = T5Config(
        d_kv=4, d_ff=16, num_heads=1, num_encoder_layers=1, num_decoder_layers=1, vocabulary_size=1500
    )
    weights = {name: torch.zeros(shape) for name, shape in mt3_shapes(config, memory=memory).items()}
    weights["decoder.final_layer_norm.weight"] += 1
    weights["decoder_embed_tokens.weight"] += 1
    weights["lm_head.weight"][END] += 1
    return weights


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@cache
def files(name: str) -> dict[str, bytes]:
    """Return what a model's publisher has: those of MR-MT3 and MT3 can be loaded."""
    if name == "mt3_pytorch":
        return {"mt3.pth": saved(state_dict(memory=False)), "config.json": json.dumps(SIZES).encode()}
    if name != "mr_mt3":
        return {"weights": name.encode() * 1_000}
    lightning = {"epoch": 1, "state_dict": {f"model.{key}": value for key, value in state_dict().items()}}
    return {"mr_mt3.ckpt": saved(lightning), "config.json": json.dumps(SIZES).encode()}


SIZE = len(files("mt3_pytorch")["mt3.pth"])


def published() -> Iterator[tuple[str, str, bytes]]:
    """All files: model, name, content."""
    for name in NAMES:
        for file, content in files(name).items():
            yield name, file, content


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def publishers() -> Iterator[Site]:
    """A Git host with LFS and a Hub, which have a small file for each model; and a mirror that takes PUT."""
    with web_server() as site:
        links = {}
        for name, file, content in published():
            oid = sha256(content)
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n"
            site.routes[f"/owner/{name}/raw/main/{file}"] = static(pointer.encode())
            site.routes[f"/owner/{name}/resolve/main/{file}"] = static(content, etag=f'"{oid}"')
            site.routes[f"/objects/{oid}"] = static(content)
            links[oid] = {"download": {"href": f"{site.url}/objects/{oid}"}}

        def batch(request: Request) -> Reply:
            (item,) = json.loads(request.body)["objects"]
            return as_json({"objects": [{**item, "actions": links[item["oid"]]}]})

        def keep(request: Request) -> Reply:
            if request.method == "PUT":
                site.routes[request.path] = static(request.body)
                return Reply(201)
            return Reply(404)

        for name in NAMES:
            site.routes[f"/owner/{name}.git/info/lfs/objects/batch"] = batch
        site.routes["/checkpoint.pth"] = static(CUSTOM)
        site.routes["/username/repo-name/resolve/main/model.pth"] = static(CUSTOM, etag=f'"{sha256(CUSTOM)}"')
        site.missing = keep
        yield site


@pytest.fixture(scope="module")
def desk(publishers: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recording, the script, and a catalog that points to the publishers."""
    folder = tmp_path_factory.mktemp("guide")
    shutil.copy(REPOSITORY / "tests" / "data" / "bach_piano.flac", folder / "song.flac")
    shutil.copy(REPOSITORY / "tests" / "data" / "bach_piano.mid", folder / "song.mid")
    (folder / "tools").symlink_to(REPOSITORY / "tools")
    (folder / "bin").mkdir()
    (folder / "bin" / "uv").write_text('#!/bin/sh\nshift\nexec "$@"\n')  # `uv run` in an environment that is there
    (folder / "bin" / "uv").chmod(0o755)
    (folder / "custom").mkdir()
    (folder / "custom" / "checkpoint.pth").write_bytes(saved(state_dict()))
    (folder / "custom" / "config.json").write_text(json.dumps(SIZES))
    shipped = (REPOSITORY / "checkpoints" / "catalog.toml").read_text()
    rows = [shipped[shipped.index("[basic_pitch]") : shipped.index("\n# MT3 as its authors")]]
    for name in NAMES:
        entry = load_catalog().entries[name]
        rows.append(
            f'[{name}]\naliases = {json.dumps(entry.aliases)}\nlicense = "MIT"\n'
            'license_url = ""\nattribution = ""\n'
        )
    for name, file, content in published():
        known = "" if name == "mr_mt3" else f'sha256 = "{sha256(content)}"\n'
        repository = f"{publishers.url}/owner/{name}"
        lfs = f'{{kind = "git_lfs", repository = "{repository}", revision = "main", path = "{file}"}}'
        hub = f'{{kind = "huggingface", repository = "owner/{name}", path = "{file}"}}'
        rows.append(
            f'[[{name}.files]]\nname = "{file}"\nsize = {len(content)}\n{known}'
            f"sources = [{hub if name == 'mr_mt3' else f'{lfs}, {hub}'}]\n"
        )
    (folder / "catalog.toml").write_text("\n".join(rows))
    return folder


def run(
    kind: str, block: str, desk: Path, publishers: Site, *, store: str = "store"
) -> subprocess.CompletedProcess[str]:
    replaced = {
        "https://example.com": publishers.url,
        "abc123...": sha256(CUSTOM),
        "s3://models/mt3": f"{publishers.url}/mirror",
        CUSTOM_PATH: str(desk / "custom" / "checkpoint.pth"),
    }
    for old, new in replaced.items():
        block = block.replace(old, new)
    command = [sys.executable, "-c", block] if kind == "python" else ["bash", "-euc", block]
    environment = {
        **os.environ,
        "PATH": f"{desk / 'bin'}:{servers.BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "MT3_CHECKPOINT_DIR": str(desk / store),
        "MT3_CHECKPOINT_CATALOG": str(desk / "catalog.toml"),
        "HF_ENDPOINT": publishers.url,
        "HF_HOME": str(desk / "hf"),
    }
    return subprocess.run(command, cwd=desk, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(("number", "kind", "block"), [(n, *block) for n, block in enumerate(BLOCKS)])
def test_a_block_of_the_guide_runs(number: int, kind: str, block: str, desk: Path, publishers: Site) -> None:
    ended = run(kind, block, desk, publishers)
    assert ended.returncode == 0, ended.stderr
    checks = {
        "download --all": lambda: all(
            (desk / "store" / name / file).read_bytes() == content for name, file, content in published()
        ),
        "output_path=": lambda: all(p.read_bytes() == CUSTOM for p in (desk / "checkpoints").iterdir()),
        "mt3-infer mirror": lambda: "/mirror/mt3_pytorch/mt3.pth" in publishers.routes,
        "unbundle": lambda: (desk / "elsewhere" / "mt3_pytorch" / "mt3.pth").exists(),
        "fails as expected": lambda: f"copy mt3.pth ({SIZE:,} bytes, sha256 " in ended.stderr,
        "remove mr_mt3": lambda: not (desk / "store" / "mr_mt3").exists(),
        "song.mid": lambda: ended.stdout.count("0.000") == 6,
        "--list": lambda: "mt3_pytorch (accurate, official, baseline, default): " in ended.stdout,
    }
    for word, check in checks.items():
        assert word not in block or check(), (word, ended.stdout, ended.stderr)


def content_of(name: str) -> bytes:
    """Return the weights of a model as published."""
    return next(iter(files(name).values()))


FIRST_USE = """
from mt3_infer import transcribe

# First time: downloads mt3_pytorch checkpoint automatically
midi = transcribe(audio)

# Subsequent uses: uses cached checkpoint
midi = transcribe(audio)
"""

DOWNLOADS = """
from mt3_infer import download_model

# Download specific model
download_model("mr_mt3")

# Download all models
for model in ["mr_mt3", "mt3_pytorch", "yourmt3"]:
    download_model(model)
"""

WITH_A_PATH = """
from mt3_infer import download_model

# Download a model
checkpoint_path = download_model("mr_mt3")
"""

COMMANDS = """
# Download all models
mt3-infer download --all

# Download specific models
mt3-infer download mr_mt3 mt3_pytorch

# Download using aliases
mt3-infer download fast accurate

# List available models
mt3-infer list

# Show help
mt3-infer download --help
"""

SCRIPT = """
# Download all models
uv run python tools/download_all_checkpoints.py

# Download specific models
uv run python tools/download_all_checkpoints.py --models mr_mt3 mt3_pytorch

# List available models
uv run python tools/download_all_checkpoints.py --list

# Show help
python tools/download_all_checkpoints.py --help

# Download all models
python tools/download_all_checkpoints.py

# List available models
python tools/download_all_checkpoints.py --list
"""

DIRECT_URL = """
from mt3_infer.utils.download import download_file

download_file(
    url="https://example.com/checkpoint.pth",
    output_path="checkpoints/custom.pth",
    expected_sha256="abc123..."  # Optional verification
)
"""

HUB = """
from mt3_infer.utils.download import download_from_huggingface

download_from_huggingface(
    repo_id="username/repo-name",
    filename="model.pth",
    output_path="checkpoints/model.pth"
)
"""

LOADING = """
from mt3_infer import load_model

# Raises error if checkpoint not found
model = load_model("mr_mt3", auto_download=False)
"""

CUSTOM_LOADING = """
from mt3_infer import load_model

model = load_model(
    "mr_mt3",
    checkpoint_path="/path/to/custom/checkpoint.pth"
)
"""

AGAIN = """
# Delete existing checkpoint
rm -rf refs/MR-MT3

# Re-download
mt3-infer download mr_mt3
"""


@pytest.mark.parametrize(
    "audio",
    ['"song.flac"', "numpy.zeros(40_000, numpy.float32)", "numpy.zeros((2, 40_000), numpy.float32)"],
    ids=["path", "waveform", "stereo"],
)
def test_first_use_in_the_earlier_guide(desk: Path, publishers: Site, tmp_path: Path, audio: str) -> None:
    show = "\nfrom mt3_infer.loading import models\nprint(midi.provenance.model, len(models._entries))"
    block = f"import numpy\naudio = {audio}\n{FIRST_USE}{show}"
    ended = run("python", block, desk, publishers, store=str(tmp_path / "store"))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["mt3_pytorch", "1"]
    assert (tmp_path / "store" / "mt3_pytorch" / "mt3.pth").read_bytes() == content_of("mt3_pytorch")


def test_downloads_in_the_earlier_guide(desk: Path, publishers: Site, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    ended = run("python", DOWNLOADS, desk, publishers, store=store)
    assert ended.returncode == 0, ended.stderr
    assert sorted(path.name for path in Path(store).iterdir() if path.name[0] != ".") == sorted(NAMES[:3])
    ended = run("python", f"{WITH_A_PATH}\nprint(checkpoint_path)", desk, publishers, store=store)
    assert ended.stdout.strip() == str(tmp_path / "store" / "mr_mt3")


@pytest.mark.parametrize("block", [COMMANDS, SCRIPT, AGAIN], ids=["command", "script", "again"])
def test_commands_in_the_earlier_guide(desk: Path, publishers: Site, tmp_path: Path, block: str) -> None:
    ended = run("bash", block, desk, publishers, store=str(tmp_path / "store"))
    assert ended.returncode == 0, ended.stderr
    for name in ("mr_mt3",) if block is AGAIN else NAMES:
        assert (tmp_path / "store" / name / next(iter(files(name)))).read_bytes() == content_of(name)


@pytest.mark.parametrize(("block", "target"), [(DIRECT_URL, "custom.pth"), (HUB, "model.pth")], ids=["url", "hub"])
def test_custom_files_in_the_earlier_guide(desk: Path, publishers: Site, block: str, target: str) -> None:
    (desk / "checkpoints" / target).unlink(missing_ok=True)
    ended = run("python", block, desk, publishers)
    assert ended.returncode == 0, ended.stderr
    assert (desk / "checkpoints" / target).read_bytes() == CUSTOM


def test_loading_in_the_earlier_guide(desk: Path, publishers: Site, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    assert run("python", CUSTOM_LOADING, desk, publishers, store=store).returncode == 0
    missing = run("python", LOADING, desk, publishers, store=store)
    assert missing.returncode == 1
    assert "CheckpointNotFoundError: " in missing.stderr
    assert "mt3-infer download mr_mt3" in missing.stderr
    for block in (WITH_A_PATH, LOADING):
        ended = run("python", block, desk, publishers, store=store)
        assert ended.returncode == 0, ended.stderr


def test_the_guide_has_the_sizes_and_aliases_of_the_catalog() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|", GUIDE.read_text(), re.M)
    catalog = load_catalog()
    assert tuple(name for name, _, _ in rows) == catalog.main_names
    for name, aliases, size in rows:
        entry = catalog.entries[name]
        assert aliases == ", ".join(f"`{alias}`" for alias in entry.aliases)
        assert size.removeprefix("about ") == f"{entry.size / 1e6:.1f} MB"
    for name in set(catalog.entries) - set(catalog.main_names):
        assert f"`{name}`" in GUIDE.read_text()
