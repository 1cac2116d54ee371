"""Many streams at once on two web processes, while others poll: everyone gets every note, and polls stay fast."""

from __future__ import annotations

import asyncio
import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from shared import note_stream, work
from shared.config import Settings
from shared.db import Sessions, make_engine, make_sessions
from shared.kinds import Claim, Result
from shared.note_stream import Change, Fields
from tests import servers
from tests.poller import poll_apart
from tests.work import add_job, must_claim

pytestmark = pytest.mark.integration

JOBS = 20
ARRIVALS = 100  # clients a second that begin to follow or to wait, before polls are measured


@dataclass
class Follower:
    """A client of a stream, which connects again where it was when it is cut off."""

    port: int
    job_id: UUID
    notes: dict[int, Any] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    connections: int = 0

    async def follow(self, *, cut_after: int | None = None) -> None:
        """Read to the end; disconnect after a number of events, and go on."""
        while not self.ids or not self.ids[-1].endswith(".end"):
            self.connections += 1
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            headers = f"Last-Event-ID: {self.ids[-1]}\r\n" if self.ids else ""
            request = f"GET /v1/transcriptions/{self.job_id}/events HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"
            writer.write(request.encode())
            assert b" 200 " in await reader.readline()
            await self._read(reader, cut_after)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader, most: int | None) -> None:
        event_id, left = None, most
        while line := await reader.readline():
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "id":
                event_id = value
            elif name == "data" and event_id is not None:
                content = json.loads(value)
                for note_id in content.get("ids", ()):
                    del self.notes[note_id]
                self.notes |= {note.pop("id"): note for note in content.get("notes", ())}
                self.ids.append(event_id)
                event_id = None
                if self.ids[-1].endswith(".end") or (left is not None and (left := left - 1) == 0):
                    return


async def wait_for_end(port: int, job_id: UUID) -> dict[str, Any]:
    """Return a job once it has ended, by one request that waits for it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = f"GET /v1/transcriptions/{job_id} HTTP/1.1\r\nHost: localhost\r\nPrefer: wait=60\r\n"
    writer.write(f"{request}Connection: close\r\n\r\n".encode())
    assert b" 200 " in await reader.readline()
    answer = await reader.read()
    writer.close()
    return dict(json.loads(answer.partition(b"\r\n\r\n")[2]))


def note(pitch: int, number: int) -> Fields:
    return {
        "onset": float(number),
        "offset": number + 1.0,
        "pitch": pitch,
        "velocity": 90,
        "program": 0,
        "is_drum": False,
        "confidence": None,
    }


def publish(sessions: Sessions, claims: list[Claim], number: int) -> None:
    for claim in claims:
        with sessions.begin() as session:
            change = Change([], [note(pitch, number) for pitch in range(10)])
            assert note_stream.publish(session, claim, change) is not None


def succeed(sessions: Sessions, claim: Claim, final: list[Fields]) -> None:
    with sessions() as session:
        ending = note_stream.plan_ending(session, claim.job_id, final)
    with sessions.begin() as session:
        assert work.complete(session, claim, result=Result([], len(final), 9.0))
        note_stream.end(session, claim.job_id, ending, final)


def follow_all(
    folder: Path, *, streams: int, seconds: int, polls_per_second: int, waiters: int = 0
) -> list[float]:
    """Let clients follow running jobs, and others wait for them; return how long polls took meanwhile."""
    with servers.web_process(folder, workers=2, MT3_MAX_STREAMS=str(streams)) as url:
        port = int(url.rpartition(":")[2])
        settings = Settings(database_url=f"sqlite:///{folder}/mt3.sqlite3")
        engine = make_engine(settings)
        sessions = make_sessions(engine)
        jobs = [add_job(sessions) for _ in range(JOBS)]
        claims = [must_claim(sessions, job_id, lease_seconds=600) for job_id in jobs]
        final = [note(pitch, number) for number in range(seconds) for pitch in range(1, 11)]

        async def run() -> list[float]:
            followers = [Follower(port, jobs[n % JOBS]) for n in range(streams)]
            following, waiting = [], []
            for n, follower in enumerate(followers):
                following.append(asyncio.ensure_future(follower.follow(cut_after=3 if n % 4 == 0 else None)))
                await asyncio.sleep(1 / ARRIVALS)
            for n in range(waiters):
                waiting.append(asyncio.ensure_future(wait_for_end(port, jobs[n % JOBS])))
                await asyncio.sleep(1 / ARRIVALS)
            paths = [f"/v1/transcriptions/{job_id}{call}" for job_id in jobs for call in ("", "/notes?after=0")]
            polling = asyncio.ensure_future(poll_apart(port, paths, per_second=polls_per_second, seconds=seconds))
            for number in range(seconds):
                await asyncio.gather(asyncio.to_thread(publish, sessions, claims, number), asyncio.sleep(1))
            taken = await polling
            for claim in claims:
                await asyncio.to_thread(succeed, sessions, claim, final)
            async with asyncio.timeout(60):
                await asyncio.gather(*following)
                ended = await asyncio.gather(*waiting)
            assert [job["status"] for job in ended] == ["succeeded"] * waiters
            for n, follower in enumerate(followers):
                numbers = [event_id for event_id in follower.ids if not event_id.endswith(".end")]
                assert numbers == [str(number + 1) for number in range(len(numbers))], "each once, in order"
                assert sorted(map(str, follower.notes.values())) == sorted(map(str, final))
                assert (follower.connections > 1) == (n % 4 == 0)
            return taken

        taken = asyncio.run(run())
        engine.dispose()
    return taken


def report(taken: list[float]) -> float:
    p50, p99 = statistics.median(taken), statistics.quantiles(taken, n=100)[98]
    print(f"\n{len(taken)} polls: p50 {1000 * p50:.1f} ms, p99 {1000 * p99:.1f} ms")
    return p99


def test_streams_deliver_every_note_while_others_poll(tmp_path: Path) -> None:
    taken = follow_all(tmp_path, streams=40, seconds=5, polls_per_second=20, waiters=40)
    assert report(taken) < 2, "no poll waits for a stream"


@pytest.mark.soak
def test_two_hundred_streams_and_three_hundred_waiters_leave_polls_fast(tmp_path: Path) -> None:
    taken = follow_all(tmp_path, streams=200, seconds=30, polls_per_second=100, waiters=300)
    assert report(taken) < 0.1
