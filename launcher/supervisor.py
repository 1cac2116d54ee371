"""A supervisor of a few child processes: starts them, restarts them when they die, and stops them all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from shared.config import REFUSED
from shared.processes import die_with_parent

POLL_SECONDS = 0.1
GRACE_SECONDS = 15.0
LONGEST_PAUSE_SECONDS = 10.0
START_SECONDS = 60.0  # how long a child may take to first touch its file
STABLE_SECONDS = 30.0  # after a process has run this long, the next pause is short again


@dataclass
class Child:
    """One supervised process. `stdin` is passed to it at each start; with `is_quiet` its stdout is dropped.

    A child with a liveness file is considered hanging when it has not touched the file for `patience_seconds`.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    stdin: bytes = b""
    liveness_file: Path | None = None
    patience_seconds: float = 60.0
    is_quiet: bool = False
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    started: float = field(default=0.0, init=False)
    failures: int = field(default=0, init=False)
    start_at: float = field(default=0.0, init=False)

    def start(self) -> None:
        """Start it in its own session, so that Ctrl-C reaches only the supervisor."""
        self.process = subprocess.Popen(
            self.command,
            env={**os.environ, **self.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL if self.is_quiet else None,
            start_new_session=True,
            preexec_fn=die_with_parent if sys.platform == "linux" else None,
        )
        self.started = time.monotonic()
        assert self.process.stdin is not None
        self.process.stdin.write(self.stdin)
        self.process.stdin.close()

    def is_running(self) -> bool:
        """Return True if the process exists."""
        return self.process is not None and self.process.poll() is None

    def is_hanging(self) -> bool:
        """Return True if it runs but has not touched its file recently, or not within a minute of its start."""
        if self.liveness_file is None or not self.is_running():
            return False
        age = time.monotonic() - self.started
        silence = age
        with suppress(OSError):
            silence = min(age, time.time() - self.liveness_file.stat().st_mtime)
        has_begun = silence < age
        return silence > (self.patience_seconds if has_begun else max(START_SECONDS, self.patience_seconds))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and its descendants."""
        if self.process is not None:
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                return

    def exit_description(self) -> str:
        """Return a description of how it ended."""
        status = self.process.returncode if self.process else None
        if status is not None and status < 0:
            return f"was killed by {signal.Signals(-status).name}"
        return f"exited with status {status}"


class Supervisor:
    """Supervises children, started in order and stopped in reverse order.

    Attributes:
        has_refused: a child has ended because of a wrong setting, which starting it again would not change.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.has_refused = False
        self._children: list[Child] = []
        self._stopping = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    @property
    def is_stopping(self) -> bool:
        """Return True once a signal has requested the end, or a child has refused to start."""
        return self._stopping

    def start(self, child: Child) -> None:
        """Start a child and keep it running."""
        self._children.append(child)
        child.start()

    def watch(self) -> None:
        """Restart children that die, until a signal requests the end."""
        while not self._stopping:
            self.check()
            time.sleep(POLL_SECONDS)

    def wait_until(self, condition: Callable[[], bool], *, seconds: float) -> bool:
        """Watch until a condition holds; return False if it does not in time, or if the end is requested."""
        deadline = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < deadline:
            if condition():
                return True
            self.check()
            time.sleep(POLL_SECONDS)
        return False

    def check(self) -> None:
        """Check every child once."""
        now = time.monotonic()
        for child in self._children:
            if child.is_hanging():
                self._say(f"{child.name} hangs; killing it")
                child.signal(signal.SIGKILL)
                assert child.process is not None
                child.process.wait()
            if child.is_running():
                continue
            if child.process is not None and child.process.returncode == REFUSED:
                self._stopping, self.has_refused = True, True
                return
            if child.process is not None:
                child.failures = 1 if now - child.started > STABLE_SECONDS else child.failures + 1
                pause = min(LONGEST_PAUSE_SECONDS, 0.25 * 2**child.failures)
                self._say(f"{child.name} {child.exit_description()}; restarting it")
                child.signal(signal.SIGKILL)  # descendants that it may have left behind
                child.process, child.start_at = None, now + pause
            elif now >= child.start_at:
                child.start()

    def stop(self) -> None:
        """Stop all children: terminate, wait, then kill."""
        for child in reversed(self._children):
            child.signal(signal.SIGTERM)
            deadline = time.monotonic() + GRACE_SECONDS
            while child.is_running() and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
            child.signal(signal.SIGKILL)
            if child.process is not None:
                child.process.wait()

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._stopping = True
