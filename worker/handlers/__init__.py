"""The handlers of the kinds of work: one file for each, and a row here."""

from __future__ import annotations

from shared.kinds import ASSEMBLE, EXPORT, FETCH_URL, SHARD, TRANSCRIBE, WEBHOOK
from worker.context import Handler
from worker.handlers import assemble, export, fetch_url, shard, transcribe, webhook

HANDLERS = {
    FETCH_URL: Handler(fetch_url.run, fetch_url.stores),
    TRANSCRIBE: Handler(transcribe.run, transcribe.stores),
    SHARD: Handler(shard.run, shard.stores),
    ASSEMBLE: Handler(assemble.run, assemble.stores),
    EXPORT: Handler(export.run, export.stores),
    WEBHOOK: Handler(webhook.run),
}
