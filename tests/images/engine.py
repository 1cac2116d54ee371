"""A container engine: the one that this machine runs, or a Docker daemon of the tests' own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import servers

FOLDER = Path(os.environ.get("MT3_TEST_ENGINE_DIR", Path.home() / ".cache" / "mt3-infer" / "test-engine"))
"""The data of the tests' own daemon. It is kept, so that a second run builds only what has changed."""

BUILD_SECONDS = 1800.0


@dataclass(frozen=True)
class Engine:
    """The command `docker`, for one daemon."""

    program: str
    environment: dict[str, str]
    is_ours: bool

    def run(self, *words: str, timeout: float = 120, check: bool = True) -> str:
        """Run `docker …` and return what it prints, errors included."""
        done = subprocess.run(
            [self.program, *words],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, f"docker {' '.join(words)}:\n{done.stdout[-6000:]}"
        return done.stdout.strip()

    def has(self, image: str) -> bool:
        """Return True if the image is there."""
        return bool(self.run("images", "--quiet", image))

    def build(self, tag: str, dockerfile: str, context: Path, *arguments: str) -> str:
        """Build an image, which sees this machine's network, and return what was printed."""
        words = [word for argument in arguments for word in ("--build-arg", argument)]
        return self.run(
            *(
                "build",
                "--network",
                "host",
                "--tag",
                tag,
                "--file",
                str(context / dockerfile),
                *words,
                str(context),
            ),
            timeout=BUILD_SECONDS,
        )


def _has_buildkit(program: str) -> bool:
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    return ("version 2" in version and version.split("version ")[1][:2] < "23") or (
        subprocess.run([program, "buildx", "version"], capture_output=True, check=False).returncode == 0
    )


def _answers(program: str, environment: dict[str, str]) -> bool:
    return subprocess.run([program, "info"], env=environment, capture_output=True, check=False).returncode == 0


@contextmanager
def running_engine() -> Iterator[Engine]:
    """Return an engine: the machine's if it answers, else a daemon that is started here and ended afterwards."""
    # The client of the daemon's own package first: another one may lack the builder.
    program = next(filter(None, (shutil.which("docker", path="/usr/bin"), shutil.which("docker"))), None)
    if program is None:
        pytest.skip("there is no container engine here: install Docker (as root, `make test-images` does)")
    # Docker 20 to 22 have BuildKit inside, later ones as the plugin buildx. The classic builder does, too.
    environment = {**os.environ, "DOCKER_BUILDKIT": "1" if _has_buildkit(program) else "0"}
    if _answers(program, environment):
        yield Engine(program, environment, is_ours=False)
        return
    daemon = shutil.which("dockerd")
    if os.geteuid() != 0 or daemon is None:
        pytest.skip("no container engine answers here, and without root none can be started")
    FOLDER.mkdir(parents=True, exist_ok=True)
    environment["DOCKER_HOST"] = f"unix://{FOLDER}/docker.sock"
    if _answers(program, environment):  # left by a run that was killed
        yield Engine(program, environment, is_ours=True)
        return
    (FOLDER / "docker.pid").unlink(missing_ok=True)
    command = [daemon, "--data-root", f"{FOLDER}/data", "--exec-root", f"{FOLDER}/exec"]
    command += ["--host", environment["DOCKER_HOST"], "--pidfile", f"{FOLDER}/docker.pid"]
    command += ["--default-ulimit", "nofile=20000:20000", "--shutdown-timeout", "5"]
    with servers.running(command, log=FOLDER / "dockerd.log"):
        servers.wait_until(lambda: _answers(program, environment), seconds=60, what="dockerd")
        yield Engine(program, environment, is_ours=True)
