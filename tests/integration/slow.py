"""What a worker of the tests does at its start: rests, so that somebody can step in, and says where it is; or draws its
map without UMAP."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import time
from pathlib import Path
from typing import Any

REST_S = 0.2
SEEN = "COVEY_TEST_SEEN"  # names a folder that gets an empty file WORKER-NODE for each node that a kind of worker is on
SPREAD = "COVEY_TEST_SPREAD"  # on how many nodes those that embed or search shall be before one of them goes on


def plain_maps() -> None:
    """UMAP compiles for 5 s in each new process: only the runs of test_submit.py and test_killed.py draw with it."""
    _when_needed("clustering.project").SMALLEST_MAP = 1 << 62


def _when_needed(name: str) -> Any:
    """A module that is loaded at its first use: most workers never need it, and all would pay for it at their start."""
    spec: Any = importlib.util.find_spec(name)
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def small_slow_parts() -> None:
    """Small parts, a rest before each, and a mark of the node."""
    from clustering import embed, forest, read, search, store

    read.RECORDS_PER_PART = 100
    forest.SHARD_EDGES = 15_000
    for worker, method in (
        (embed.Embedder, "__call__"),
        (store.Loader, "load"),
        (search.Searcher, "search"),
        (forest._Shard, "average"),
    ):
        setattr(worker, method, _resting(worker.__name__, getattr(worker, method)))


def _resting(name: str, work: Any) -> Any:
    import ray

    @functools.wraps(work)  # Ray looks at the signature
    def rest_and_work(*args: Any) -> Any:
        seen = Path(os.environ[SEEN])
        (seen / f"{name}-{ray.get_runtime_context().get_node_id()}").touch()
        enough = int(os.environ[SPREAD]) if name in ("Embedder", "Searcher") else 1
        deadline = time.monotonic() + 30
        while len(list(seen.glob(f"{name}-*"))) < enough and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(REST_S)
        return work(*args)

    return rest_and_work


def main() -> None:
    """``covey`` with the words given, on the Ray of RAY_ADDRESS, whose workers are slow."""
    import ray

    from jobs.cli import main

    ray.init(
        address=os.environ["RAY_ADDRESS"],
        logging_level="ERROR",
        runtime_env={
            "worker_process_setup_hook": small_slow_parts,
            "env_vars": {name: os.environ[name] for name in (SEEN, SPREAD)},
        },
    )
    sys.exit(main())


if __name__ == "__main__":
    main()
