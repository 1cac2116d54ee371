"""Keeps a few child processes running: starts them, starts them again when they die, and ends them all."""

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

from shared.processes import die_with_parent

POLL_SECONDS = 0.1
GRACE_SECONDS = 15.0
LONGEST_PAUSE_SECONDS = 10.0
START_SECONDS = 60.0  # that a child may take until it first touches its file
SOUND_SECONDS = 30.0  # a process that lived this long was well: the next pause is short again


@dataclass
class Child:
    """One supervised process. `stdin` is given to it at each start.

    A child that touches a liveness file while it is well hangs when it has not done so for `patience_seconds`.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    stdin: bytes = b""
    liveness_file: Path | None = None
    patience_seconds: float = 60.0
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    started: float = field(default=0.0, init=False)
    failures: int = field(default=0, init=False)
    start_at: float = field(default=0.0, init=False)

    def start(self) -> None:
        """Start it in a session of its own, so that Ctrl-C reaches only the supervisor."""
        self.process = subprocess.Popen(
            self.command,
            env={**os.environ, **self.environment},
            stdin=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=die_with_parent if sys.platform == "linux" else None,
        )
        self.started = time.monotonic()
        assert self.process.stdin is not None
        self.process.stdin.write(self.stdin)
        self.process.stdin.close()

    def is_running(self) -> bool:
        """Whether its process is there."""
        return self.process is not None and self.process.poll() is None

    def is_hanging(self) -> bool:
        """Whether it runs, and has not touched its file lately, or not within a minute of its start."""
        if self.liveness_file is None or not self.is_running():
            return False
        age = time.monotonic() - self.started
        silence = age
        with suppress(OSError):
            silence = min(age, time.time() - self.liveness_file.stat().st_mtime)
        has_begun = silence < age
        return silence > (self.patience_seconds if has_begun else max(START_SECONDS, self.patience_seconds))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and all that it started."""
        if self.process is not None:
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                return

    def exit_words(self) -> str:
        """How it ended, for a person."""
        status = self.process.returncode if self.process else None
        if status is not None and status < 0:
            return f"was ended by {signal.Signals(-status).name}"
        return f"ended with status {status}"


class Supervisor:
    """Children in the order of their starts; they are ended in the opposite order."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._children: list[Child] = []
        self._stopping = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    @property
    def is_stopping(self) -> bool:
        """Whether somebody asked for the end."""
        return self._stopping

    def start(self, child: Child) -> None:
        """Start a child and keep it running from now on."""
        self._children.append(child)
        child.start()

    def watch(self) -> None:
        """Start again whatever dies, until the end is asked for."""
        while not self._stopping:
            self.check()
            time.sleep(POLL_SECONDS)

    def wait_until(self, is_there: Callable[[], bool], *, seconds: float) -> bool:
        """Watch until something is there; False when it did not come in time, or the end was asked for."""
        give_up = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < give_up:
            if is_there():
                return True
            self.check()
            time.sleep(POLL_SECONDS)
        return False

    def check(self) -> None:
        """One look at every child."""
        now = time.monotonic()
        for child in self._children:
            if child.is_hanging():
                self._say(f"{child.name} hangs; ending it")
                child.signal(signal.SIGKILL)
                assert child.process is not None
                child.process.wait()
            if child.is_running():
                continue
            if child.process is not None:
                child.failures = 1 if now - child.started > SOUND_SECONDS else child.failures + 1
                pause = min(LONGEST_PAUSE_SECONDS, 0.25 * 2**child.failures)
                self._say(f"{child.name} {child.exit_words()}; starting it again")
                child.signal(signal.SIGKILL)  # what it may have left behind
                child.process, child.start_at = None, now + pause
            elif now >= child.start_at:
                child.start()

    def stop(self) -> None:
        """End all children: ask, wait, and insist."""
        for child in reversed(self._children):
            child.signal(signal.SIGTERM)
            give_up = time.monotonic() + GRACE_SECONDS
            while child.is_running() and time.monotonic() < give_up:
                time.sleep(POLL_SECONDS)
            child.signal(signal.SIGKILL)
            if child.process is not None:
                child.process.wait()

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._stopping = True
