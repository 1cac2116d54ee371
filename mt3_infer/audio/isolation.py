"""Decode files in a process of their own, within limits of time and memory.

Native code reads untrusted bytes: it may crash, take quadratic time for tags, or unpack a few bytes to
gigabytes. Each file is therefore opened and decoded in a child process, which costs a file when it dies and never
the calling process. A server process, started on first use, has everything imported already and forks a child
for each file in a few milliseconds.

    parent ──(descriptor of the file, socket for the answer)──▶ server ──fork──▶ keeper ──fork──▶ child
       ▲                                                                            │ how it ended   │ blocks
       └────────────────────────────────────────────────────────────────────────────┴────────────────┘

The child's time is its CPU time, so that a busy machine makes no file too costly: `probe_seconds` to open it, and
then as much again plus a share of the length of the audio. The kernel kills it (SIGPROF) when it takes more.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from mt3_infer import errors
from mt3_infer.audio.levels import Waveform
from mt3_infer.audio.stream import SPENT, AudioStream
from mt3_infer.errors import AudioError, AudioWarning, CostlyAudioError, InvalidOptionError

if TYPE_CHECKING:
    from mt3_infer.audio.decode import Recording

REQUEST_BYTES = 512  # a request on the server's socket: JSON, padded
STALL_SECONDS = 60.0  # without an answer, while the child takes no time: the disk or the network hangs
SCAN_SECONDS = 2e-9  # of CPU time allowed for each byte that is looked through for joined recordings
SHARE = 0.25  # seconds of CPU time allowed for each second of audio
COSTLY_TIME = "The file takes too long to decode. Save it as WAV or FLAC, without tags and pictures."
COSTLY_MEMORY = "The file takes too much memory to decode. Save it again without tags and pictures."
CRASHED = "The file is corrupt: the decoder crashed. Convert it to WAV, FLAC, MP3, OGG or M4A."
SERVE = "mt3_infer.audio.isolation"  # the module whose `serve` the server process runs


@dataclass(frozen=True)
class DecodeLimits:
    """Bounds for opening and decoding one file.

    Attributes:
        probe_seconds: CPU time to open it, and again to decode it, beside a quarter of the sound's length.
        memory_bytes: that the child may allocate beyond what it begins with.
    """

    probe_seconds: float = 3.0
    memory_bytes: int = 512 * 1024**2


class FileStream(AudioStream):
    """A file that a child process decodes."""

    def __init__(
        self,
        source: str | PathLike[str] | BinaryIO,
        *,
        sample_rate: int,
        max_seconds: float | None,
        limits: DecodeLimits,
    ) -> None:
        self._connection: Connection | None = None
        self._pid: int | None = None
        self._cause: str | None = None
        file, close = _regular_file(source)
        try:
            request = {"sample_rate": sample_rate, "max_seconds": max_seconds, "limits": asdict(limits)}
            self._connection = _server().ask(file.fileno(), request)
        finally:
            close()
        try:
            opened = json.loads(self._receive(b"O"))
        except BaseException:
            self.close()
            raise
        super().__init__(sample_rate=sample_rate, duration=opened["duration"])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _generate(self) -> Iterator[Waveform]:
        try:
            while (message := self._receive(b"SE")) and message[:1] != b"E":
                self.seconds, self.peak = struct.unpack_from("<dd", message, 1)
                yield np.frombuffer(message, np.float32, offset=17)
            ended = json.loads(message[1:])
            self.seconds, self.peak = ended["seconds"], ended["peak"]
            self.warnings = [AudioWarning(**warning) for warning in ended["warnings"]]
        finally:
            self.close()

    def close(self) -> None:
        """Kill the child."""
        if self._connection is None:
            return
        if self._pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        self._connection.close()
        self._connection = self._pid = None

    def _receive(self, kinds: bytes) -> bytes:
        """Return the next message; any other kind reports how the child ended.

        Raises:
            AudioError: the recording cannot be decoded.
            InvalidOptionError: the stream is closed.
            OSError: the file cannot be read.
        """
        while True:
            if self._connection is None:
                raise InvalidOptionError(SPENT)
            if not self._connection.poll(STALL_SECONDS):
                raise TimeoutError(f"Reading the recording made no progress for {STALL_SECONDS:.0f} s.")
            try:
                message = self._connection.recv_bytes()
            except EOFError:
                raise AudioError(CRASHED) from None
            kind, body = message[:1], message[1:]
            if kind == b"P":
                self._pid = int(body)
            elif kind == b"X":
                self._pid = None
                raise _error_from(json.loads(body))
            elif kind == b"Z":
                self._pid = None
                raise _error_of_exit(int(body))
            elif kind in kinds:
                return message if len(kinds) > 1 else body


def _error_from(described: dict[str, Any]) -> Exception:
    """Return the exception that a child described."""
    if described["class"] == "OSError":
        return OSError(described["errno"], described["message"])
    kind: type[errors.MT3Error] = getattr(errors, described["class"])
    return kind(described["message"])


def _error_of_exit(status: int) -> Exception:
    """Return the exception for the way in which a child ended without an answer."""
    if status == -signal.SIGPROF:
        return CostlyAudioError(COSTLY_TIME)
    if status == -signal.SIGKILL:  # by the kernel, for want of memory
        return CostlyAudioError(COSTLY_MEMORY)
    return AudioError(CRASHED)


def _regular_file(source: str | PathLike[str] | BinaryIO) -> tuple[BinaryIO, Callable[[], None]]:
    """Return a file on a disk with the bytes of a source, and what closes it."""
    if isinstance(source, str | PathLike):
        file: BinaryIO = Path(source).open("rb")  # noqa: SIM115  the caller closes it
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file, file.close
        with file:
            return _spool(file)
    try:
        descriptor = source.fileno()
    except (AttributeError, OSError):  # io.UnsupportedOperation is one
        descriptor = None
    if descriptor is not None and stat.S_ISREG(os.fstat(descriptor).st_mode):
        if not source.readable() or source.writable():
            source.flush()
        return source, lambda: None
    if source.seekable():
        source.seek(0)
    return _spool(source)


def _spool(source: BinaryIO) -> tuple[BinaryIO, Callable[[], None]]:
    copy = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115  the caller closes it
    try:
        shutil.copyfileobj(source, copy)
        copy.flush()
    except BaseException:
        copy.close()
        raise
    return copy, copy.close


# --- the server's address in this process ---------------------------------------------------------------------


class _Server:
    """The decoding server of this process, reached over a socket."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        program = f"import sys; sys.path[:] = {sys.path!r}; from {SERVE} import serve; serve({theirs.fileno()})"
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        # It stays in the process group, so that it is stopped and killed with its parent. Ctrl-C and SIGTERM are
        # for the parent, with whose socket it ends.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", program],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    env=environment,
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._socket = ours
        self._lock = threading.Lock()
        self.owner = os.getpid()

    def ask(self, descriptor: int, request: dict[str, Any]) -> Connection:
        """Request the decoding of a file; return the connection for the answer."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        message = json.dumps(request).encode().ljust(REQUEST_BYTES)
        with theirs:
            try:
                with self._lock:
                    socket.send_fds(self._socket, [message], [descriptor, theirs.fileno()])
            except BaseException:
                ours.close()
                raise
        return Connection(ours.detach())

    def is_running(self) -> bool:
        """Return True if the process is alive."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Kill the server; running children continue."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


_current: _Server | None = None
_starting = threading.Lock()


def _server() -> _Server:
    """Return this process's server, started if there is none yet or it was ended."""
    global _current
    with _starting:
        if _current is not None and _current.owner == os.getpid() and not _current.is_running():
            _current.stop()
            _current = None
        if _current is None or _current.owner != os.getpid():  # a forked process has none yet
            _current = _Server()
    return _current


def _stop_server() -> None:
    if _current is not None and _current.owner == os.getpid():
        _current.stop()


atexit.register(_stop_server)


# --- the server process ---------------------------------------------------------------------------------------


def serve(descriptor: int) -> None:
    """Fork a keeper for each request, until the parent is gone."""
    import mt3_infer.audio.decode  # imported once, for all children

    assert mt3_infer.audio.decode
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are reaped by the kernel
    with socket.socket(fileno=descriptor) as requests:
        while True:
            message, descriptors, _, _ = socket.recv_fds(requests, REQUEST_BYTES, 2)
            if not message:
                return
            while len(message) < REQUEST_BYTES and (more := requests.recv(REQUEST_BYTES - len(message))):
                message += more
            if os.fork() == 0:
                requests.close()
                _keep(json.loads(message), *descriptors)
            for received in descriptors:
                os.close(received)


def _keep(request: dict[str, Any], file: int, answer: int) -> None:
    """Run a child, and report how it ended where it could not report itself."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    connection = Connection(answer)
    if pid == 0:
        _decode_file(request, file, connection)
    os.close(file)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code:
        with suppress(OSError):
            connection.send_bytes(b"Z%d" % code)
    os._exit(0)


# --- the child ------------------------------------------------------------------------------------------------


def _decode_file(request: dict[str, Any], file: int, connection: Connection) -> None:
    """Decode and send the blocks, or the reason why not; never returns."""
    status = 0
    try:
        limits = DecodeLimits(**request["limits"])
        connection.send_bytes(b"P%d" % os.getpid())
        budget = _Budget(limits, os.fstat(file).st_size)
        with suppress(BrokenPipeError, ConnectionResetError):  # the parent has gone away
            try:
                _send_blocks(file, request, budget, connection)
            except errors.MT3Error as error:
                _send_error(connection, type(error).__name__, str(error))
            except MemoryError:
                _send_error(connection, "CostlyAudioError", COSTLY_MEMORY)
            except (BrokenPipeError, ConnectionResetError):
                raise
            except OSError as error:
                _send_error(connection, "OSError", error.strerror or str(error), error.errno)
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    finally:
        os._exit(status)


def _send_blocks(file: int, request: dict[str, Any], budget: _Budget, connection: Connection) -> None:
    recording = _open_recording(file, request, budget)
    connection.send_bytes(b"O" + json.dumps({"duration": recording.duration}).encode())
    for block in recording.blocks():
        figures = struct.pack("<dd", recording.seconds, recording.peak)
        connection.send_bytes(b"S" + figures + block.astype(np.float32, copy=False).tobytes())
    ended = {
        "seconds": recording.seconds,
        "peak": recording.peak,
        "warnings": [asdict(warning) for warning in recording.warnings],
    }
    connection.send_bytes(b"E" + json.dumps(ended).encode())


def _open_recording(file: int, request: dict[str, Any], budget: _Budget) -> Recording:
    from mt3_infer.audio.decode import Recording
    from mt3_infer.audio.files import File

    return Recording(
        File(file),
        sample_rate=request["sample_rate"],
        max_seconds=request["max_seconds"],
        on_sound=budget.extend,
    )


def _send_error(connection: Connection, kind: str, message: str, number: int | None = None) -> None:
    connection.send_bytes(b"X" + json.dumps({"class": kind, "message": message, "errno": number}).encode())


class _Budget:
    """The CPU time that this process has left, enforced by the kernel."""

    def __init__(self, limits: DecodeLimits, size: int) -> None:
        import resource

        self._seconds = time.process_time() + limits.probe_seconds + SCAN_SECONDS * size
        self._probe_seconds: float | None = limits.probe_seconds
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with suppress(ValueError, OSError):  # where the system knows no such limit
            memory = _allocated() + limits.memory_bytes
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
        self._set()

    def extend(self, seconds: float) -> None:
        """Allow more time, for `seconds` of audio."""
        if self._probe_seconds is not None:
            self._seconds, self._probe_seconds = time.process_time() + self._probe_seconds, None
        self._seconds += SHARE * seconds
        self._set()

    def _set(self) -> None:
        # The default action of its signal ends a process, whatever native code it is in.
        signal.setitimer(signal.ITIMER_PROF, max(0.001, self._seconds - time.process_time()))


def _allocated() -> int:
    """Return the bytes of data that this process has already, where Linux reports them."""
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 256 * 1024**2
