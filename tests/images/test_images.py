"""Images as they run: their size, their user, a root that cannot be written, and signals while they start."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import pytest

from tests.images.conftest import ROOT
from tests.images.engine import Engine
from tests.images.stand_ins import PYTHON

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

MB = 1_000_000
OFFICIAL_BASE = 130 * MB
"""The size of `python:3.11-slim` as published for amd64, uncompressed, rounded up. Stand-ins for it are larger."""
LARGEST = {"web": 300 * MB, "worker": 1500 * MB}
GRACE = 12


def size(engine: Engine, image: str) -> int:
    return int(engine.run("image", "inspect", "--format", "{{.Size}}", image))


@pytest.mark.parametrize("part", LARGEST)
def test_size_over_the_base_image(engine: Engine, images: dict[str, str], part: str) -> None:
    layers = engine.run("history", "--human=false", "--format", "{{.Size}} {{.CreatedBy}}", images[part])
    added = size(engine, images[part]) - size(engine, PYTHON)
    print(f"\n{part}: {added / MB:.0f} MB over the base; layers:")
    for line in layers.splitlines():
        amount, _, command = line.partition(" ")
        if int(amount) > MB:
            print(f"  {int(amount) / MB:7.1f} MB  {command[:100]}")
    assert OFFICIAL_BASE + added <= LARGEST[part]


@pytest.mark.parametrize("part", LARGEST)
def test_a_change_of_the_sources_leaves_the_layer_of_dependencies(
    engine: Engine, images: dict[str, str], part: str, tmp_path: Path
) -> None:
    context = tmp_path / "context"
    names = [line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")]
    for name in names:
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, context / name)
    (context / "shared/__init__.py").write_text('"""Changed."""\n')
    arguments = ("VARIANT=cpu",) if part == "worker" else ()
    engine.build(f"mt3-infer-{part}:changed", f"{part}/Dockerfile", context, *arguments)

    def layers(image: str) -> list[str]:
        found: list[str] = json.loads(engine.run("image", "inspect", "--format", "{{json .RootFS.Layers}}", image))
        return found

    old, new = layers(images[part]), layers(f"mt3-infer-{part}:changed")
    shared = {layer for layer in old if layer in new}
    print(f"\n{part}: {len(shared)} of {len(old)} layers are kept")
    sizes = engine.run("history", "--human=false", "--format", "{{.Size}} {{.CreatedBy}}", images[part])
    (project,) = [int(line.split()[0]) for line in sizes.splitlines() if "/project" in line]
    assert project < 15 * MB
    assert old[:-3] == new[:-3], "only the project's layer changes, and the two small ones after it"
    engine.run("rmi", f"mt3-infer-{part}:changed")


@pytest.mark.parametrize("user", ["1000", "12345:0"])
@pytest.mark.parametrize("part", LARGEST)
def test_runs_read_only_as_any_user(engine: Engine, images: dict[str, str], part: str, user: str) -> None:
    words = ["run", "--rm", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--user", user]
    imports = {
        "web": "web",
        "worker": "torch, onnxruntime, av, verovio, typst, worker",
    }
    script = f"import {imports[part]}, os, tempfile; print(tempfile.gettempdir(), os.getuid())"
    assert engine.run(*words, images[part], "python", "-W", "error", "-c", script) == f"/tmp {user.split(':')[0]}"
    assert "basic_pitch" in engine.run(*words, images[part], "mt3-infer", "list") or part == "web"
    if part == "worker":
        volume = ["--volume", f"mt3-test-{user.split(':')[0]}:/checkpoints"]
        written = engine.run(*words, *volume, images[part], "sh", "-c", "touch /checkpoints/x && ls /checkpoints")
        assert "x" in written
        engine.run("volume", "rm", f"mt3-test-{user.split(':')[0]}")


@pytest.mark.parametrize("part", LARGEST)
def test_what_an_image_holds_and_declares(engine: Engine, images: dict[str, str], part: str) -> None:
    config = json.loads(engine.run("image", "inspect", "--format", "{{json .Config}}", images[part]))
    assert re.fullmatch(r"\d+", config["User"])
    assert config["Entrypoint"] == ["tini", "-s", "--"]
    assert config["Cmd"]
    copies = engine.run(
        *(
            "run",
            "--rm",
            images[part],
            "sh",
            "-c",
            "find / -xdev -name work.py -path '*shared/work.py' 2>/dev/null; true",
        )
    )
    assert len(copies.splitlines()) == 1, copies
    unwanted = engine.run(
        *("run", "--rm", images[part], "sh", "-c"),
        "find / -xdev '(' -name TimGM6mb.sf2 -o -path '*/torch/include' -o -path '*/torch/test' ')' 2>/dev/null;"
        " true",
    )
    assert not unwanted


COMMANDS = {
    "web": ("web", "python -m web --host 0.0.0.0 --port 8000"),
    "migrate": ("web", "python -m migrations"),
    "scheduler": ("web", "python -m worker.scheduler"),
    "worker": ("worker", "celery --quiet --app worker.app worker --without-gossip --without-mingle"),
}


@pytest.mark.parametrize("after", [0.3, 1.5, 15.0])
@pytest.mark.parametrize("service", COMMANDS)
def test_sigterm_ends_a_service_that_starts(
    engine: Engine, images: dict[str, str], service: str, after: float
) -> None:
    """At 15 seconds it waits for a database that does not come."""
    part, command = COMMANDS[service]
    settings = {
        "MT3_DATABASE_URL": "postgresql://mt3:x@127.0.0.1:9/mt3",
        "MT3_REDIS_URL": "redis://127.0.0.1:9/0",
        "MT3_STORAGE_URL": "file:///tmp/storage",
        "MT3_AUTH": "keys",
    }
    words = [word for key, value in settings.items() for word in ("--env", f"{key}={value}")]
    name = f"mt3-test-{service}"
    engine.run("run", "--detach", "--name", name, *words, images[part], *command.split())
    try:
        time.sleep(after)
        began = time.monotonic()
        engine.run("stop", "--time", str(GRACE), name)
        took = time.monotonic() - began
        code = int(engine.run("inspect", "--format", "{{.State.ExitCode}}", name))
        print(f"\n{service}: SIGTERM after {after} s: {took:.1f} s, exit code {code}")
        assert code in (0, 143), engine.run("logs", name)
        assert took < (2 if after < 2 else 4)
    finally:
        engine.run("rm", "--force", name)
