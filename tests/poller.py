"""A client that polls at a steady rate, in a process of its own: what else a test does delays no measurement."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence


async def ask(port: int, path: str) -> float:
    """Return the seconds that a request took."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert b" 200 " in await reader.readline()
    await reader.read()
    writer.close()
    return time.monotonic() - began


async def poll(port: int, paths: Sequence[str], *, per_second: int, seconds: float) -> list[float]:
    """Poll paths in turn, however long responses take; return how long each took."""
    polls: list[asyncio.Task[float]] = []
    began = time.monotonic()
    while (due := began + len(polls) / per_second) < began + seconds:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        polls.append(asyncio.ensure_future(ask(port, paths[len(polls) % len(paths)])))
    return await asyncio.gather(*polls)


async def poll_apart(port: int, paths: Sequence[str], *, per_second: int, seconds: float) -> list[float]:
    """Do so in another process."""
    command = [sys.executable, "-m", "tests.poller", str(port), str(per_second), str(seconds), *paths]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    return [float(taken) for taken in json.loads(output)]


if __name__ == "__main__":
    port, rate, duration = sys.argv[1:4]
    print(json.dumps(asyncio.run(poll(int(port), sys.argv[4:], per_second=int(rate), seconds=float(duration)))))
