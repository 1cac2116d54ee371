"""Long recordings: cut once, read in shards by any worker, put together by the one that read the last.

The cutting worker decodes the recording and stores, for each shard, the samples that its segments hear: float32
little-endian, mono, at the model's rate. Where segments overlap, both sides of a cut hear the same samples: the
segments, and with them the notes, are those of the recording in one piece.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from mt3_infer.audio import Waveform
from mt3_infer.errors import AudioWarning
from mt3_infer.loading import Model
from mt3_infer.results import pack, unpack
from mt3_infer.segments import SegmentGrid, split_segments
from mt3_infer.transcription import Transcription
from shared import shards
from shared.config import Settings
from shared.db import Sessions
from shared.jobs import Claim
from shared.shards import NewShard, ShardClaim
from shared.storage import ObjectStorage, put_checked, shard_prefix
from shared.tables import Phase
from worker.engine import TranscriptionEngine, refuse_silence
from worker.heartbeat import Heartbeat

SAMPLE = np.dtype("<f4")
BINARY = "application/octet-stream"


@dataclass(frozen=True)
class Cut:
    """A recording that lies in storage in shards; `samples` at the model's rate, `seconds` as decoded."""

    shards: list[NewShard]
    samples: int
    seconds: float
    warnings: Sequence[AudioWarning] = ()


@dataclass(frozen=True)
class ShardWork:
    """The three stages of a long recording. What they raise is for the attempt to class."""

    settings: Settings
    sessions: Sessions
    storage: ObjectStorage
    engine: TranscriptionEngine

    def is_long(self, model: Model, recording: BinaryIO) -> bool:
        """Whether a recording is to be cut, by its header; if that says nothing, the cutting will tell."""
        if not self.settings.shard_seconds:
            return False
        with self.engine.open(model, recording) as audio:
            return audio.duration is None or audio.duration > self.settings.shard_seconds

    def cut(
        self,
        claim: Claim,
        model: Model,
        recording: BinaryIO,
        heartbeat: Heartbeat,
        give_way: Callable[[], None],
    ) -> Cut:
        """Decode a recording once, and store what each shard hears.

        Args:
            give_way: is called between two blocks of the recording.
        Raises:
            AudioError: it is silent, too long, cut off or cannot be decoded.
        """
        grid = model.network.grid
        size = max(1, int(self.settings.shard_seconds / grid.seconds))

        def key(number: int) -> str:
            return shard_prefix(claim.job_id, claim.attempt, number) + "audio"

        def keep(number: int, samples: BinaryIO) -> None:
            self.storage.put(key(number), samples, content_type=BINARY)
            heartbeat.report(Phase.DECODING_AUDIO, done=audio.seconds, total=audio.duration)

        def watched(blocks: Iterable[Waveform]) -> Iterator[Waveform]:
            for block in blocks:
                heartbeat.report(Phase.DECODING_AUDIO, done=audio.seconds, total=audio.duration)
                give_way()
                yield block

        with self.engine.open(model, recording) as audio:
            samples = cut_samples(watched(audio), grid, size, keep)
        refuse_silence(audio)
        count = grid.count(samples)
        cut = []
        for number, first in enumerate(range(0, count, size)):
            stop = min(first + size, count)
            heard = min(stop * grid.hop, samples) - min(first * grid.hop, samples)
            cut.append(NewShard(first, stop, heard / grid.sample_rate, key(number)))
        return Cut(cut, samples, audio.seconds, audio.warnings)

    def read(self, claim: ShardClaim, model: Model, heartbeat: Heartbeat, give_way: Callable[[], None]) -> str:
        """Run the network on a shard and store its results; their key. `give_way` is called between segments."""
        network = model.network
        before = None
        if network.in_order and claim.number:
            assert claim.before_key is not None, "A shard waits for the one before it."
            before = self._results(claim.before_key)[-1]
        collected = []
        options = model.spec.check_options(claim.options)
        with self.storage.open(claim.audio_key) as audio:
            blocks = read_samples(audio, network.grid.sample_rate)
            segments = split_segments(blocks, network.grid, first=claim.first, stop=claim.stop)
            with closing(network.read(segments, options, before=before)) as results:
                for result in results:
                    collected.append(result)
                    done = min(len(collected) * network.grid.seconds, claim.seconds)
                    heartbeat.report(Phase.TRANSCRIBING, done=done, total=claim.seconds)
                    give_way()
        key = shard_prefix(claim.job_id, claim.plan, claim.number, claim.attempt) + "results"
        put_checked(self.storage, key, pack(collected), content_type=BINARY)
        return key

    def assemble(self, claim: Claim, model: Model, heartbeat: Heartbeat) -> Transcription:
        """Make notes of the results of all shards, one shard in memory at a time."""
        assert claim.plan is not None
        with self.sessions() as session:
            keys = shards.result_keys(session, claim.job_id)
            seconds_taken = shards.seconds_taken(session, claim.job_id)
        assert len(keys) == claim.plan.shards_total
        options = model.spec.check_options(claim.options)
        collector = model.network.collect(options)
        for key in keys:
            for result in self._results(key):
                collector.feed(result)
            heartbeat.report(Phase.WRITING_RESULTS, done=claim.plan.seconds, total=claim.plan.seconds)
        output = collector.finish(claim.plan.samples)
        warnings = [AudioWarning(**warning) for warning in claim.plan.warnings]
        return model.sign(output, claim.plan.seconds, options, seconds_taken=seconds_taken, warnings=warnings)

    def _results(self, key: str) -> list[Any]:
        with self.storage.open(key) as packed:
            return unpack(packed.read())


def cut_samples(
    blocks: Iterable[Waveform], grid: SegmentGrid, size: int, keep: Callable[[int, BinaryIO], None]
) -> int:
    """Cut a recording into shards of `size` segments as it comes in; returns how many samples it has.

    Args:
        keep: is called for each shard, in order, with its number and a file of the samples that it hears. The
            files lie on disk, one or two at a time.
    """
    endless = 1 << 62
    position = kept = 0
    with ExitStack() as files:
        growing: list[tuple[int, int, BinaryIO]] = []  # of shards kept, kept + 1, …: from, up to, samples

        def begin_next() -> bool:
            """Begin the next shard if its first sample has come."""
            first = (kept + len(growing)) * size
            start, stop = grid.span(first, first + size, endless)
            if start < position:
                file = files.enter_context(tempfile.TemporaryFile())
                growing.append((start, stop, file))
            return start < position

        def end_first() -> None:
            nonlocal kept
            file = growing.pop(0)[2] if growing else files.enter_context(tempfile.TemporaryFile())
            file.seek(0)
            keep(kept, file)
            file.close()
            kept += 1

        for block in blocks:
            begin, position = position, position + len(block)
            while begin_next():
                pass
            for start, stop, file in growing:
                file.write(
                    block[max(0, start - begin) : max(0, stop - begin)].astype(SAMPLE, copy=False).tobytes()
                )
            while growing and growing[0][1] <= position:
                end_first()
        # What is left: shards that the end of the recording cuts short, down to one that hears only silence.
        while kept * size < grid.count(position):
            end_first()
    return position


def read_samples(file: BinaryIO, sample_rate: int) -> Iterator[Waveform]:
    """The samples of a shard in blocks of a second."""
    while data := file.read(sample_rate * SAMPLE.itemsize):
        yield np.frombuffer(data, SAMPLE).astype(np.float32, copy=False)
