"""Assemble the notes from the results of all shards of a long recording, one shard in memory at a time."""

from __future__ import annotations

from collections.abc import Sequence

from mt3_infer.errors import AudioWarning
from shared import work
from shared.kinds import SHARD, Claim
from shared.storage import result_prefix, shard_prefix
from shared.tables import Phase
from worker.context import Context, Done
from worker.live_notes import plan_ending
from worker.results import store_results


def stores(claim: Claim) -> Sequence[str]:
    """Return the prefix under which an attempt stores its results."""
    return (result_prefix(claim.job_id, claim.payload["split_by_attempt"], claim.attempt),)


def run(context: Context) -> Done:
    """Collect the network's results and the evidence of each shard, and store the notes of the whole recording."""
    claim, seconds = context.claim, context.claim.payload["seconds"]
    with context.services.sessions() as session:
        shards = work.list_items(session, claim.job_id, SHARD)
    model = context.load_model()
    options = model.spec.check_options(claim.options)
    collector = model.collect(options)
    seconds_taken = 0.0
    for shard in shards:
        assert shard.result_key is not None, "The assembly is blocked by all shards."
        assert shard.finished_at is not None
        assert shard.started_at is not None
        seconds_taken += (shard.finished_at - shard.started_at).total_seconds()
        for result in context.load_results(shard.result_key):
            collector.feed(result)
        collector.add(context.load_evidence(shard.result_key))
        context.heartbeat.report(Phase.WRITING_RESULTS, done=seconds, total=seconds)
    output = collector.finish(claim.payload["samples"])
    warnings = [AudioWarning(**warning) for warning in claim.payload["warnings"]]
    transcription = model.with_provenance(output, seconds, options, seconds_taken=seconds_taken, warnings=warnings)
    (prefix,) = stores(claim)
    result = store_results(context, transcription, prefix)
    ending = plan_ending(context.services.sessions, claim, transcription.notes)
    return Done(result=result, unneeded=[shard_prefix(claim.job_id)], also=ending)
