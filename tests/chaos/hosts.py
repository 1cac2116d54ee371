"""A stack on several hosts: web with scheduler, and each worker, in network namespaces of their own on one bridge.

The data services and the tests are on the bridge's host. Links are cut by the kernel, silently: packets
vanish, and no connection is reset.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from tests import servers
from tests.chaos.stack import Stack

BRIDGE = "mt3t-br"
DATA = "10.213.0.1"
HOSTS = {"web": "10.213.0.2", "w0": "10.213.0.3", "w1": "10.213.0.4"}


def unavailable() -> str | None:
    """Return why this machine has no namespaces for tests, or None."""
    if os.geteuid() != 0:
        return "making network namespaces takes root"
    missing = [program for program in ("ip", "iptables", "tc") if shutil.which(program) is None]
    if missing:
        return f"there is no {', '.join(missing)} here"
    if subprocess.run(["ip", "netns", "add", "mt3t-try"], capture_output=True, check=False).returncode != 0:
        return "the kernel grants no network namespaces"
    _ip("netns", "delete", "mt3t-try")
    return None


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _inside(host: str, *words: str) -> None:
    subprocess.run(["ip", "netns", "exec", f"mt3t-{host}", *words], check=True, capture_output=True)


class HostsStack(Stack):
    """A stack with two workers, whose network can be cut."""

    def __init__(self, folder: Path, *, environment: Mapping[str, str] | None = None) -> None:
        super().__init__(folder, workers=2, schedulers=1, environment=environment)
        for part in (self.web, *self.workers, *self.schedulers, self.migrations):
            part.environment = {key: value.replace("127.0.0.1", DATA) for key, value in part.environment.items()}
        self.redis.command = [*self.redis.command, "--bind", "127.0.0.1", DATA, "--protected-mode", "no"]
        self.s3.command = [*self.s3.command, "--addr", f"{DATA}:{self.s3_port}"]
        self.web.command = [*self.web.command, "--host", HOSTS["web"], "--insecure"]
        self.client.url = self.client.url.replace("127.0.0.1", HOSTS["web"])
        parts = (self.web, *self.schedulers, self.migrations, *self.workers)
        for part, host in zip(parts, ("web", "web", "web", "w0", "w1"), strict=True):
            part.command = ["ip", "netns", "exec", f"mt3t-{host}", *part.command]

    def _open_postgres(self, postgres: servers.Postgres) -> None:
        self.postgres.command = [word.replace("=127.0.0.1", f"=127.0.0.1,{DATA}") for word in postgres.command]
        with (postgres.data / "pg_hba.conf").open("a", encoding="utf-8") as rules:
            rules.write(f"host all all {DATA}/24 trust\n")

    def __enter__(self) -> Self:
        self._remove_hosts()
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("address", "add", f"{DATA}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        for host, address in HOSTS.items():
            _ip("netns", "add", f"mt3t-{host}")
            _ip("link", "add", f"mt3t-{host}", "type", "veth", "peer", "name", "eth0", "netns", f"mt3t-{host}")
            _ip("link", "set", f"mt3t-{host}", "master", BRIDGE, "up")
            _inside(host, "ip", "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _inside(host, "ip", "link", "set", device, "up")
        return super().__enter__()

    def end(self) -> None:
        super().end()
        self._remove_hosts()

    def _remove_hosts(self) -> None:
        for host in HOSTS:
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", f"mt3t-{host}")
        with suppress(subprocess.CalledProcessError):
            _ip("link", "delete", BRIDGE)

    # --- faults ------------------------------------------------------------------------------------------

    @property
    def _ports(self) -> dict[str, int]:
        return {"redis": int(self.redis_url.split(":")[-1].split("/")[0]), "postgres": self._postgres_port}

    @contextmanager
    def partitioned(self, host: str) -> Iterator[None]:
        """Cut a host off, in silence."""
        _ip("link", "set", f"mt3t-{host}", "down")
        try:
            yield
        finally:
            _ip("link", "set", f"mt3t-{host}", "up")

    @contextmanager
    def losing(self, *hosts: str, direction: str = "OUTPUT", service: str | None = None) -> Iterator[None]:
        """Drop what hosts send (or receive: INPUT) to the data services, or to one of them."""
        rule = [direction, "-d" if direction == "OUTPUT" else "-s", DATA]
        if service is not None:
            rule += ["-p", "tcp", "--dport" if direction == "OUTPUT" else "--sport", str(self._ports[service])]
        for host in hosts:
            _inside(host, "iptables", "-A", *rule, "-j", "DROP")
        try:
            yield
        finally:
            for host in hosts:
                _inside(host, "iptables", "-D", *rule, "-j", "DROP")

    @contextmanager
    def slow(self, host: str, rate: str = "200kbit") -> Iterator[None]:
        """Limit what reaches a host to a rate."""
        words = ["tc", "qdisc", "add", "dev", f"mt3t-{host}", "root", "tbf", "rate", rate]
        subprocess.run([*words, "burst", "8kb", "latency", "2s"], check=True, capture_output=True)
        try:
            yield
        finally:
            subprocess.run(["tc", "qdisc", "del", "dev", f"mt3t-{host}", "root"], check=True, capture_output=True)
