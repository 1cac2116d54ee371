"""One process of many that need a checkpoint: python checkpoint_fetcher.py CATALOG ROOT HOST REDIS_URL TTL.

HOST is the folder of the machine that it plays: lock files are kept there, so that, as on some network file
systems, they hold between the processes of one machine alone.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from checkpoints.catalog import load_catalog
from checkpoints.files import sha256_of
from checkpoints.locks import ClusterLocks, RedisLock
from checkpoints.mirror import open_mirror
from checkpoints.store import CheckpointStore


def main() -> None:
    """Fetch the checkpoint, and print the resulting state."""
    catalog, root, host, redis_url, ttl = sys.argv[1:]
    cluster = ClusterLocks.from_url(redis_url, ttl=float(ttl))

    def locks(key: str, path: Path) -> RedisLock:
        Path(host).mkdir(exist_ok=True)
        return cluster(key, Path(host) / path.name)

    url = os.environ.get("MT3_CHECKPOINT_MIRROR")
    store = CheckpointStore(
        Path(root), catalog=load_catalog(Path(catalog)), locks=locks, mirror=open_mirror(url) if url else None
    )
    directory = store.fetch("big")
    assert sha256_of(directory / "weights.bin") == store.entry("big").files[0].sha256


if __name__ == "__main__":
    main()
