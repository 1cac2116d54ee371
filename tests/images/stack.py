"""The Compose project on an engine, with two workers."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests import servers
from tests.client import ServiceClient
from tests.images.engine import Engine

ROOT = Path(__file__).parents[2]
PROJECT = "mt3-infer-test"


class Stack:
    """The Compose project, with two workers."""

    def __init__(self, engine: Engine, images: dict[str, str], folder: Path) -> None:
        self.engine = engine
        self.ports = {"WEB": servers.free_port(), "S3": servers.free_port()}
        (folder / ".env").write_text(self._settings())
        build = {part: {"image": image} for part, image in images.items()}
        services = dict.fromkeys(("web", "scheduler", "migrate"), build["web"]) | {"worker": build["worker"]}
        (folder / "images.yml").write_text(json.dumps({"services": services}))
        self._words = [
            "--project-name",
            PROJECT,
            "--project-directory",
            str(folder),
            "--env-file",
            str(folder / ".env"),
        ]
        self._words += ["--file", str(ROOT / "docker-compose.yml"), "--file", str(folder / "images.yml")]
        self.client = ServiceClient(f"http://127.0.0.1:{self.ports['WEB']}")

    def _settings(self) -> str:
        values = {
            "POSTGRES_PASSWORD": "p1",
            "REDIS_PASSWORD": "p2",
            "MT3_S3_SECRET_ACCESS_KEY": "p3-is-long-enough",
            "WEB_ADDRESS": f"127.0.0.1:{self.ports['WEB']}",
            "S3_ADDRESS": f"127.0.0.1:{self.ports['S3']}",
            "MT3_S3_PUBLIC_ENDPOINT_URL": f"http://127.0.0.1:{self.ports['S3']}",
            "MT3_DEFAULT_MODEL": "basic_pitch",
            "MT3_LEASE_SECONDS": "10",
            "WORKER_MEMORY": "4g",
        }
        return "".join(f"{key}={value}\n" for key, value in values.items())

    def compose(self, *words: str, timeout: float = 300) -> str:
        """Run `docker-compose …` on the project and return what it prints."""
        done = subprocess.run(
            [str(servers.BIN / "docker-compose"), *self._words, *words],
            env={**os.environ, **self.engine.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"docker-compose {' '.join(words)}:\n{done.stdout[-6000:]}"
        return done.stdout

    def wait_until_ready(self, seconds: float = 180) -> None:
        """Wait until the service takes jobs and two workers are there."""
        url = f"{self.client.url}/readyz"
        servers.wait_until(lambda: servers.answers(url), seconds=seconds, what="/readyz")
