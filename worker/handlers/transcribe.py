"""Transcribe a recording in one piece, or split it into shards if it is long.

The recording is opened once, and its length decides what happens before any weights are fetched or loaded.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, BinaryIO

from mt3_infer.audio import AudioStream, Waveform
from mt3_infer.audio.segments import SegmentGrid
from mt3_infer.evidence.recorder import windows_of, with_context
from mt3_infer.model import Progress
from shared.fairness import must_defer
from shared.kinds import ASSEMBLE, SHARD, Claim, NewItem
from shared.logs import get_logger
from shared.storage import result_prefix, shard_prefix
from shared.tables import Phase
from worker.context import Context, Deferred, Done
from worker.engine import refuse_silence
from worker.live_notes import LiveNotes, plan_ending
from worker.results import store_results
from worker.splitting import split_samples

log = get_logger(__name__)


def stores(claim: Claim) -> Sequence[str]:
    """Return the prefixes under which an attempt stores its results."""
    return result_prefix(claim.job_id, claim.attempt), shard_prefix(claim.job_id, claim.attempt)


def run(context: Context) -> Done:
    """Transcribe the recording, or split it.

    Raises:
        AudioError: it is silent, too long, truncated or cannot be decoded.
        Deferred: it is long, and must wait before it is split.
    """
    claim, services = context.claim, context.services
    assert claim.input_key is not None
    context.heartbeat.report(Phase.DECODING_AUDIO)
    with (
        services.storage.open(claim.input_key) as recording,
        services.engine.open(claim.model, recording) as audio,
    ):
        shard_seconds = services.settings.shard_seconds
        # If the header does not state the length, treat it as long: splitting determines it.
        if shard_seconds and (audio.duration is None or audio.duration > shard_seconds):
            if _must_wait(context):
                raise Deferred
            return _split(context, audio, shard_seconds)
        model = context.load_model()
        began = time.monotonic()

        def progress(at: Progress) -> None:
            context.heartbeat.report(Phase.TRANSCRIBING, done=at.seconds_done, total=at.seconds_total)

        live = LiveNotes(services.sessions, claim, model)
        transcription = services.engine.transcribe(model, audio, claim.options, progress, live.feed)
    device = transcription.provenance.device
    context.report_speed(device, transcription.duration, time.monotonic() - began)
    result = store_results(context, transcription, result_prefix(claim.job_id, claim.attempt))
    return Done(result=result, also=plan_ending(services.sessions, claim, transcription.notes))


def _must_wait(context: Context) -> bool:
    """Return True if a long recording must be deferred: at most once, and always if it preempts another item."""
    if context.claim.is_long:
        return False
    if context.is_preempting:
        return True
    with context.services.sessions() as session:
        return must_defer(session, context.claim.owner)


def _split(context: Context, audio: AudioStream, shard_seconds: float) -> Done:
    """Decode a recording once, and store the input of each shard."""
    claim, heartbeat = context.claim, context.heartbeat
    model = context.load_model()
    network, grid = model.network, model.network.grid
    size = max(1, int(shard_seconds / grid.seconds))
    plan = model.plan_evidence() if context.services.settings.estimates else None

    def key(number: int) -> str:
        return shard_prefix(claim.job_id, claim.attempt, number) + "audio"

    def keep(number: int, samples: BinaryIO) -> None:
        context.services.storage.put(key(number), samples, content_type="application/octet-stream")
        heartbeat.report(Phase.DECODING_AUDIO, done=audio.seconds, total=audio.duration)

    def with_progress(blocks: Iterable[Waveform]) -> Iterator[Waveform]:
        for block in blocks:
            heartbeat.report(Phase.DECODING_AUDIO, done=audio.seconds, total=audio.duration)
            context.preempt()
            yield block

    stored = grid if plan is None else with_context(grid)
    samples = split_samples(with_progress(audio), stored, size, keep)
    refuse_silence(audio)
    segments = grid.count(samples)
    shards = []
    for number, first in enumerate(range(0, segments, size)):
        stop = min(first + size, segments)
        length = min(stop * grid.hop, samples) - min(first * grid.hop, samples)
        shards.append(
            NewItem(
                SHARD,
                number,
                blocked_by=number - 1 if network.in_order and number else None,
                input_key=key(number),
                seconds=length / grid.sample_rate,
                payload={"first": first, "stop": stop} | _evidence(plan, grid, first, stop, samples),
            )
        )
    warnings = [asdict(warning) for warning in audio.warnings]
    assembly = NewItem(
        ASSEMBLE,
        number=len(shards),
        blocked_by=len(shards) - 1,
        payload={
            "samples": samples,
            "seconds": audio.seconds,
            "split_by_attempt": claim.attempt,
            "warnings": warnings,
        },
    )
    log.info("split", shards=len(shards), audio_seconds=round(audio.seconds, 1))
    job = {
        "shards_total": len(shards),
        "warnings": warnings,
        "phase": Phase.TRANSCRIBING,
        "download": None,
        "audio_seconds_done": 0.0,
        "audio_seconds_total": audio.seconds,
    }
    return Done(then=[*shards, assembly], job=job)


def _evidence(
    plan: dict[str, Any] | None, grid: SegmentGrid, first: int, stop: int, samples: int
) -> dict[str, Any]:
    """Return what a shard needs to record its evidence, if it is to: see `Model.record_evidence`."""
    if plan is None:
        return {}
    position, _ = grid.span(first, stop, samples)
    return {"evidence": {**plan, "position": position, "windows": windows_of(grid, first, stop, samples)}}
