"""A stack on several hosts: each data service, web with scheduler, and each worker, on one bridge.

Each host is a network namespace; the tests are on the bridge's own. Links are cut by the kernel, silently, where
a packet arrives: packets vanish, and no connection is reset.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import ClassVar, Self

from tests.chaos.stack import Part, Stack

BRIDGE = "mt3t-br"
NETWORK = "10.213.0"
DATA = ("postgres", "redis", "s3")
FORWARDED = ("FORWARD", "-i", BRIDGE, "-o", BRIDGE, "-j", "ACCEPT")
HOSTS = {host: f"{NETWORK}.{number}" for number, host in enumerate(("web", "w0", "w1", *DATA), start=2)}


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


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def _ip(*words: str) -> None:
    _run("ip", *words)


def _inside(host: str, *words: str) -> None:
    _ip("netns", "exec", f"mt3t-{host}", *words)


class HostsStack(Stack):
    """A stack with two workers, whose network can be cut."""

    addresses: ClassVar[Mapping[str, str]] = HOSTS

    def __init__(self, folder: Path, *, environment: Mapping[str, str] | None = None) -> None:
        super().__init__(folder, workers=2, schedulers=1, environment=environment)
        self.web.command = [*self.web.command, "--host", HOSTS["web"], "--insecure"]
        for part in (self.web, *self.schedulers, self.migrations):
            self._place(part, "web")
        for part, host in zip((*self.workers, self.redis, self.s3), ("w0", "w1", "redis", "s3"), strict=True):
            self._place(part, host)

    def _place(self, part: Part, host: str) -> None:
        user = ["setpriv", "--reuid", part.user] if part.user else []  # only root enters a namespace
        part.command, part.user = ["ip", "netns", "exec", f"mt3t-{host}", *user, *part.command], None

    def __enter__(self) -> Self:
        self._remove_hosts()
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("address", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        # Where Docker has been, what crosses a bridge goes through this chain, which Docker lets drop it.
        _run("iptables", "-I", *FORWARDED)
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
            for kind in ("netns", "link"):  # the link stays while a process is left in its namespace
                with suppress(subprocess.CalledProcessError):
                    _ip(kind, "delete", f"mt3t-{host}")
        with suppress(subprocess.CalledProcessError):
            _ip("link", "delete", BRIDGE)
        with suppress(subprocess.CalledProcessError):
            _run("iptables", "-D", *FORWARDED)

    # --- faults ------------------------------------------------------------------------------------------

    @contextmanager
    def partitioned(self, host: str) -> Iterator[None]:
        """Cut a host off from all others."""
        _ip("link", "set", f"mt3t-{host}", "down")
        try:
            yield
        finally:
            _ip("link", "set", f"mt3t-{host}", "up")

    @contextmanager
    def losing(self, senders: Sequence[str], receivers: Sequence[str]) -> Iterator[None]:
        """Drop what hosts send to others as it arrives there; the other direction works."""
        with ExitStack() as rules:
            for receiver in receivers:
                for sender in senders:
                    rule = ["INPUT", "-s", HOSTS[sender], "-j", "DROP"]
                    _inside(receiver, "iptables", "-A", *rule)
                    rules.callback(_inside, receiver, "iptables", "-D", *rule)
            yield

    @contextmanager
    def slow(self, host: str, rate: str) -> Iterator[None]:
        """Limit what reaches a host, and what it sends, to a rate."""
        limit = ["root", "tbf", "rate", rate, "burst", "8kb", "latency", "2s"]
        _run("tc", "qdisc", "add", "dev", f"mt3t-{host}", *limit)
        _inside(host, "tc", "qdisc", "add", "dev", "eth0", *limit)
        try:
            yield
        finally:
            _inside(host, "tc", "qdisc", "del", "dev", "eth0", "root")
            _run("tc", "qdisc", "del", "dev", f"mt3t-{host}", "root")
