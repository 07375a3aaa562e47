"""What a worker of the tests does at its start: rests, so that somebody can step in, and says where it is."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
REST_S = 0.2
SEEN = "COVEY_TEST_SEEN"  # names a folder that gets an empty file WORKER-NODE for each node that a kind of worker is on
SPREAD = "COVEY_TEST_SPREAD"  # on how many nodes those that embed or search shall be before one of them goes on


def small_slow_parts() -> None:
    """Small parts, a rest before each, and a mark of the node."""
    _when_loaded("stages.read", lambda read: setattr(read, "RECORDS_PER_PART", 100))
    _when_loaded("stages.embed", lambda embed: _rest(embed.Embedder, "__call__"))
    _when_loaded("milvus.loader", lambda loader: _rest(loader.Loader, "load"))
    _when_loaded("stages.search", lambda search: _rest(search.Searcher, "search"))
    _when_loaded("workers.graph.forest", _rest_in_the_forest)


def _rest(worker: type, method: str) -> None:
    setattr(worker, method, _resting(worker.__name__, getattr(worker, method)))


def _rest_in_the_forest(forest: Any) -> None:
    forest._average = _resting("Shard", forest._average)
    forest._merge = _resting("Merge", forest._merge)


def _when_loaded(name: str, change: Callable[[Any], None]) -> None:
    """Change a module once it is loaded, at its first use: most workers never use it, and all would pay for it."""
    spec: Any = importlib.util.find_spec(f"clustering.{name}")

    class Changing(type(spec.loader)):  # type: ignore[misc]
        def exec_module(self, module: Any) -> None:
            super().exec_module(module)
            change(module)

    spec.loader = importlib.util.LazyLoader(Changing(spec.loader.name, spec.loader.path))
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def _keep_the_head_busy_while_loading(pipeline: Any) -> None:
    """So that the one loader of the embedded store is on a node that can be killed."""
    run_stage = pipeline.run_stage

    def do(config: Any, run: Any, fingerprints: Any, name: str, work: Any) -> Any:
        if name != "store":
            return run_stage(config, run, fingerprints, name, work)
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        class Busy:
            def is_so(self) -> bool:
                return True

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        busy = ray.remote(Busy).options(num_cpus=1, scheduling_strategy=here).remote()
        ray.get(busy.is_so.remote())
        try:
            return run_stage(config, run, fingerprints, name, work)
        finally:
            ray.kill(busy)

    pipeline.run_stage = do


def _resting(name: str, work: Any, spread: bool = False) -> Any:
    """The work after a rest. spread : only when as many nodes have begun such work as SPREAD says"""
    import ray

    @functools.wraps(work)  # Ray looks at the signature
    def rest_and_work(*args: Any) -> Any:
        seen = Path(os.environ[SEEN])
        (seen / f"{name}-{ray.get_runtime_context().get_node_id()}").touch()
        enough = int(os.environ[SPREAD]) if spread or name in ("Embedder", "Searcher") else 1
        deadline = time.monotonic() + 30
        while len(list(seen.glob(f"{name}-*"))) < enough and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(REST_S)
        return work(*args)

    return rest_and_work


def rest_in_tasks(tasks: dict[str, tuple[str, ...]], spread: tuple[str, ...]) -> None:
    """A rest before each task, and a mark of its node. tasks : their names by module; spread : see ``_resting``"""

    def change(module: Any, names: tuple[str, ...]) -> None:
        for name in names:
            setattr(module, name, _resting(name, getattr(module, name), name in spread))

    for module, names in tasks.items():
        _when_loaded(module, lambda loaded, names=names: change(loaded, names))


def connect(setup: Callable[[], None]) -> None:
    """Connect to the Ray of RAY_ADDRESS, each of whose workers calls ``setup``, found by its name, at its start."""
    import ray

    environment = {"PYTHONPATH": str(ROOT), **{name: os.environ[name] for name in (SEEN, SPREAD)}}
    hook = {"worker_process_setup_hook": setup, "env_vars": environment}
    ray.init(address=os.environ["RAY_ADDRESS"], logging_level="ERROR", runtime_env=hook)


def main() -> None:
    """``covey`` with the words given, on the Ray of RAY_ADDRESS, whose workers are slow."""
    import ray

    from clustering.cli.main import main

    _when_loaded("pipeline", _keep_the_head_busy_while_loading)
    _when_loaded("sources.deduplication", lambda module: setattr(module, "part_rows", lambda *_: 100))
    _when_loaded("stages.graph", lambda graph: setattr(graph, "count_blocks", lambda *_: 8))
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
