"""A DNS server on a loopback address whose answers change, and a resolver that asks it."""

from __future__ import annotations

import ipaddress
import random
import socket
import struct
import threading
from types import TracebackType
from typing import Self

A, AAAA, IN = 1, 28, 1
NXDOMAIN = 3


class DnsServer:
    """Answers queries over UDP.

    Attributes:
        answers: the addresses of each name, query by query; the last ones are repeated.
        queries: the names that were asked for.
    """

    def __init__(self) -> None:
        self.answers: dict[str, list[list[str]]] = {}
        self.queries: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def resolve(self, host: str, _port: int) -> list[str]:
        """Query the server once; raise OSError if there is no such name."""
        query = struct.pack(">6H", random.getrandbits(16), 0x0100, 1, 0, 0, 0) + _name(host)
        query += struct.pack(">2H", A, IN)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(5)
            client.sendto(query, self._socket.getsockname())
            answer = client.recv(512)
        assert answer[:2] == query[:2]
        flags, _, count = struct.unpack_from(">3H", answer, 2)
        if flags & 15 == NXDOMAIN:
            raise socket.gaierror(f"{host} does not exist")
        position, found = len(query), []
        for _ in range(count):
            _, _, _, _, length = struct.unpack_from(">2HHIH", answer, position)
            position += 12 + length
            found.append(str(ipaddress.ip_address(answer[position - length : position])))
        return found

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(512)
            if not query:
                return
            self._socket.sendto(self._answer(query), client)

    def _answer(self, query: bytes) -> bytes:
        labels, position = [], 12
        while length := query[position]:
            labels.append(query[position + 1 : position + 1 + length].decode())
            position += 1 + length
        name = ".".join(labels)
        self.queries.append(name)
        answers = self.answers.get(name)
        if not answers:
            return query[:2] + struct.pack(">5H", 0x8180 | NXDOMAIN, 1, 0, 0, 0) + query[12:]
        found = [ipaddress.ip_address(text).packed for text in (answers.pop(0) if answers[1:] else answers[0])]
        records = b"".join(
            struct.pack(">HHHIH", 0xC00C, A if len(packed) == 4 else AAAA, IN, 0, len(packed)) + packed
            for packed in found
        )
        return query[:2] + struct.pack(">5H", 0x8180, 1, len(found), 0, 0) + query[12:] + records


def _name(host: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in host.split(".")) + b"\0"
