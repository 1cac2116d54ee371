"""A TCP proxy that counts what clients send, and does something when so many bytes have passed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

Event = Callable[[], None]


class CuttingProxy:
    """Forwards connections to a port on this machine.

    Attributes:
        sent: bytes that clients have sent, headers included.
        cuts: connections that were cut.

    Args:
        events: at how many bytes to cut the connection that carries them, and what to do before that.
    """

    def __init__(self, port: int, events: list[tuple[int, Event]]) -> None:
        self.sent = self.cuts = 0
        self._target = ("127.0.0.1", port)
        self._events = sorted(events, key=lambda event: event[0])
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in list(self._open):
            _end(each)
        for thread in self._threads:
            thread.join()

    def _start(self, run: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            self._open |= {client, server}
            self._start(self._connect, client, server)

    def _connect(self, client: socket.socket, server: socket.socket) -> None:
        with client, server:
            back = threading.Thread(target=self._pump, args=(server, client, False))
            back.start()
            self._pump(client, server, True)
            back.join()
        self._open -= {client, server}

    def _pump(self, source: socket.socket, target: socket.socket, is_counted: bool) -> None:
        with suppress(OSError):
            while piece := source.recv(16 * 1024):
                if is_counted and self._passes_an_event(len(piece)):
                    break
                target.sendall(piece)
        _end(source)
        _end(target)

    def _passes_an_event(self, size: int) -> bool:
        with self._lock:
            self.sent += size
            due = [act for at, act in self._events if at <= self.sent]
            self._events = self._events[len(due) :]
            self.cuts += len(due)
            for act in due:
                act()
        return bool(due)


def _end(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
