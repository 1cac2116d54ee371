"""Every block of docs/checkpoints.md is run as it stands, in order; one web server plays the publishers."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoints.catalog import load_catalog
from tests import servers
from tests.web_server import Reply, Request, Site, as_json, static, web_server

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).parents[2]
GUIDE = REPOSITORY / "docs" / "checkpoints.md"
BLOCKS = re.findall(r"^```(python|bash)\n(.*?)^```$", GUIDE.read_text(), re.M | re.S)
NAMES = ("mt3_pytorch", "mr_mt3", "yourmt3", "transkun")
CUSTOM = b"weights of one's own"


def weights(name: str) -> bytes:
    return name.encode() * 1_000


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def publishers() -> Iterator[Site]:
    """A Git host with LFS and a Hub, which have a small file for each model; and a mirror that takes PUT."""
    with web_server() as site:
        links = {}
        for name in NAMES:
            content = weights(name)
            oid = sha256(content)
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n"
            site.routes[f"/owner/{name}/raw/main/weights"] = static(pointer.encode())
            site.routes[f"/owner/{name}/resolve/main/weights"] = static(content, etag=f'"{oid}"')
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
    """A folder with a recording, the script, and a catalogue that leads to the publishers."""
    folder = tmp_path_factory.mktemp("guide")
    shutil.copy(REPOSITORY / "tests" / "data" / "bach_piano.flac", folder / "song.flac")
    (folder / "tools").symlink_to(REPOSITORY / "tools")
    shipped = (REPOSITORY / "checkpoints" / "catalog.toml").read_text()
    rows = [shipped[shipped.index("[basic_pitch]") : shipped.index("\n# MT3 as its authors")]]
    for name in NAMES:
        entry, content = load_catalog().entries[name], weights(name)
        known = "" if name == "mr_mt3" else f'sha256 = "{sha256(content)}"\n'
        repository = f"{publishers.url}/owner/{name}"
        lfs = f'{{kind = "git_lfs", repository = "{repository}", revision = "main", path = "weights"}}'
        hub = f'{{kind = "huggingface", repository = "owner/{name}", path = "weights"}}'
        rows.append(
            f'[{name}]\naliases = {json.dumps(entry.aliases)}\nlicence = "MIT"\nlicence_url = ""\n'
            f'attribution = ""\n[[{name}.files]]\nname = "weights"\nsize = {len(content)}\n{known}'
            f"sources = [{hub if name == 'mr_mt3' else f'{lfs}, {hub}'}]\n"
        )
    (folder / "catalog.toml").write_text("\n".join(rows))
    return folder


def run(kind: str, block: str, desk: Path, publishers: Site) -> subprocess.CompletedProcess[str]:
    replaced = {
        "https://example.com": publishers.url,
        "abc123...": sha256(CUSTOM),
        "s3://models/mt3": f"{publishers.url}/mirror",
    }
    for old, new in replaced.items():
        block = block.replace(old, new)
    command = [sys.executable, "-c", block] if kind == "python" else ["bash", "-euc", block]
    environment = {
        **os.environ,
        "PATH": f"{servers.BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "MT3_CHECKPOINT_DIR": str(desk / "store"),
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
        "download --all": lambda: (
            [(desk / "store" / n / "weights").read_bytes() for n in NAMES] == [weights(n) for n in NAMES]
        ),
        "output_path=": lambda: all(p.read_bytes() == CUSTOM for p in (desk / "checkpoints").iterdir()),
        "mt3-infer mirror": lambda: "/mirror/mt3_pytorch/weights" in publishers.routes,
        "unbundle": lambda: (desk / "elsewhere" / "mt3_pytorch" / "weights").exists(),
        "as it should be": lambda: "copy weights (11,000 bytes, sha256 " in ended.stderr,
        "remove mr_mt3": lambda: not (desk / "store" / "mr_mt3").exists(),
        "--list": lambda: "mt3_pytorch (accurate, official, baseline, default): 11.0 kB" in ended.stdout,
    }
    for word, check in checks.items():
        assert word not in block or check(), (word, ended.stdout, ended.stderr)


def test_the_guide_has_the_sizes_and_aliases_of_the_catalogue() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|", GUIDE.read_text(), re.M)
    catalog = load_catalog()
    assert tuple(name for name, _, _ in rows) == catalog.main_names
    for name, aliases, size in rows:
        entry = catalog.entries[name]
        assert aliases == ", ".join(f"`{alias}`" for alias in entry.aliases)
        assert size.removeprefix("about ") == f"{entry.size / 1e6:.1f} MB"
    for name in set(catalog.entries) - set(catalog.main_names):
        assert f"`{name}`" in GUIDE.read_text()
