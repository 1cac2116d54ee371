"""Run the network on some segments of a long recording, and store its results."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from mt3_infer.audio.segments import split_segments
from mt3_infer.symbolic.results import pack
from shared import work
from shared.kinds import SHARD, Claim
from shared.tables import Phase
from worker.context import Context, Done, evidence_key
from worker.live_notes import LiveNotes
from worker.splitting import read_samples


def stores(claim: Claim) -> Sequence[str]:
    """Return the prefix under which an attempt stores its results: a folder beside the shard's input."""
    return (f"{(claim.input_key or '').rpartition('/')[0]}/{claim.attempt}/",)


def run(context: Context) -> Done:
    """Run the network on a shard. Where segments overlap, the shards on both sides hold the samples."""
    claim = context.claim
    assert claim.input_key is not None
    assert claim.seconds is not None
    model = context.load_model()
    network, began, collected = model.network, time.monotonic(), []
    previous = _last_result_before(context) if network.in_order and claim.number else None
    options = model.spec.check_options(claim.options)
    first, stop = claim.payload["first"], claim.payload["stop"]
    live = LiveNotes(context.services.sessions, claim, model, first=first, stop=stop)
    with context.services.storage.open(claim.input_key) as audio:
        plan = claim.payload.get("evidence")  # none if it was split without, or by an earlier release
        recorder = None if plan is None else model.record_evidence(**plan)
        samples = read_samples(audio, network.grid.sample_rate)
        blocks = samples if recorder is None else recorder.passing(samples)
        segments = split_segments(blocks, network.grid, first=first, stop=stop)
        with closing(network.infer(segments, options, previous=previous)) as results:
            for result in results:
                collected.append(result)
                live.feed(result)
                done = min(len(collected) * network.grid.seconds, claim.seconds)
                context.heartbeat.report(Phase.TRANSCRIBING, done=done, total=claim.seconds)
                context.preempt()
    live.publish()
    context.report_speed(network.device, claim.seconds, time.monotonic() - began - context.preempt.seconds)
    (prefix,) = stores(claim)
    context.store(prefix + "results", pack(collected))
    if recorder is not None:
        context.store(evidence_key(prefix + "results"), recorder.evidence.pack())
    return Done(result_key=prefix + "results")


def _last_result_before(context: Context) -> Any:
    """Return the result of the segment before the first one of this shard."""
    with context.services.sessions() as session:
        shards = work.list_items(session, context.claim.job_id, SHARD)
    key = shards[context.claim.number - 1].result_key
    assert key is not None, "A shard is blocked by the one before it."
    return context.load_results(key)[-1]
