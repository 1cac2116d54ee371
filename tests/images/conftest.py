"""One engine, base images and both images of the project, for all tests here."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.images import stand_ins
from tests.images.engine import Engine, running_engine
from tests.images.stack import Stack

ROOT = Path(__file__).parents[2]
WHEELS_PORT = 47193  # fixed: it is written into the base image, which is kept


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    with running_engine() as engine:
        yield engine


@pytest.fixture(scope="session")
def base_images(engine: Engine) -> Iterator[None]:
    """Provide the base images; wheels that pip is configured to find on this machine are served to the builds."""
    folders = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.find-links"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    folder = next((path for path in folders if Path(path).is_dir()), os.devnull)
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(WHEELS_PORT), "--directory", folder]
    with servers.running(command):
        stand_ins.provide(engine, f"http://127.0.0.1:{WHEELS_PORT}/")
        yield


@pytest.fixture(scope="session")
def images(engine: Engine, base_images: None) -> dict[str, str]:
    """Build both images, and return their names by part."""
    found = {}
    for part, arguments in {"web": (), "worker": ("VARIANT=cpu", *_torch_index())}.items():
        began = time.monotonic()
        found[part] = f"mt3-infer-{part}:test"
        engine.build(found[part], f"{part}/Dockerfile", ROOT, *arguments)
        print(f"\n{part}: built in {time.monotonic() - began:.0f} s")
    return found


def _torch_index() -> tuple[str, ...]:
    return tuple(f"TORCH_INDEX_URL={os.environ[name]}" for name in ("TORCH_INDEX_URL",) if name in os.environ)


@pytest.fixture(scope="session")
def stack(engine: Engine, images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(engine, images, tmp_path_factory.mktemp("compose"))
    began = time.monotonic()
    try:
        stack.compose("up", "--detach", "--no-build", "--scale", "worker=2", timeout=600)
        stack.wait_until_ready()
        print(f"\nup and ready with two workers in {time.monotonic() - began:.0f} s")
        yield stack
    finally:
        print(stack.compose("logs", "--no-color", "--tail", "15"))
        stack.compose("down", "--volumes", "--timeout", "5")
