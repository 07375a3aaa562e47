"""What a worker of the tests does at its start: rests or waits, so that somebody can step in, and says where it is."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import time
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

REST_S = 0.2
SEEN = "COVEY_TEST_SEEN"  # names a folder that gets an empty file WORKER-NODE for each node that a kind of worker is on
SPREAD = "COVEY_TEST_SPREAD"  # on how many nodes a kind of worker, but a loader, shall be before one of it goes on
HELD = "COVEY_TEST_HELD"  # kinds of workers, with commas, that go on when the folder has a file go-WORKER
BLOCKS = 8  # of the graph
PART = 100  # rows of a part, and what a task of a stage gets
TASKS = {  # of which a stage has many
    "workers.graph.shuffle": ("_join_block",),
    "workers.graph.forest": ("_average", "_merge"),
    "workers.graph.quality": ("_sum_over",),
    "stages.describe": ("_count",),
    "stages.project": ("_place_first",),
    "viewer.columns": ("_read_shown",),
    "workers.labels": ("_write_parts",),
}


def small_slow_parts() -> None:
    """Small parts, a rest before each or a wait for other nodes, and a mark of the node."""
    _when_loaded("stages.read", lambda read: setattr(read, "RECORDS_PER_PART", PART))
    _when_loaded("stages.embed", lambda embed: _rest(embed.Embedder, "__call__"))
    _when_loaded("milvus.loader", lambda loader: _rest(loader.Loader, "load"))
    _when_loaded("stages.search", lambda search: _rest(search.Searcher, "search"))
    for module, names in TASKS.items():
        _when_loaded(module, lambda loaded, names=names: _wait_in(loaded, names))


def _rest(worker: type, method: str) -> None:
    setattr(worker, method, _slowed(worker.__name__, getattr(worker, method), REST_S))


def _wait_in(module: Any, names: tuple[str, ...]) -> None:
    for name in names:
        setattr(module, name, _slowed(name, getattr(module, name), 0))


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

        own = ray.get_runtime_context().get_node_id()
        (cpus,) = (node["Resources"]["CPU"] for node in ray.nodes() if node["NodeID"] == own)
        here = NodeAffinitySchedulingStrategy(own, soft=False)
        busy = ray.remote(Busy).options(num_cpus=cpus, scheduling_strategy=here).remote()
        ray.get(busy.is_so.remote())
        try:
            return run_stage(config, run, fingerprints, name, work)
        finally:
            ray.kill(busy)

    pipeline.run_stage = do


def _project_after_describe(pipeline: Any) -> None:
    """The map comes last of the stages that run side by side: tasks of two stages that wait for all nodes, or until one
    has died, could share the nodes out among them, and neither would ever be on all."""
    project_texts = pipeline.project_texts

    def do(run: Any, *args: Any, **options: Any) -> Any:
        while "describe" not in run.manifest["stages"]:
            time.sleep(0.05)
        return project_texts(run, *args, **options)

    pipeline.project_texts = do


def _slowed(name: str, work: Any, rest_s: float) -> Any:
    """The work after a rest, when as many nodes have begun such work as SPREAD says, and it is no longer held."""
    import ray

    @functools.wraps(work)  # Ray looks at the signature
    def wait_and_work(*args: Any) -> Any:
        seen = Path(os.environ[SEEN])
        (seen / f"{name}-{ray.get_runtime_context().get_node_id()}").touch()
        enough = 1 if name == "Loader" else int(os.environ[SPREAD])
        held = name in os.environ[HELD].split(",")
        deadline = time.monotonic() + 600
        while len(list(seen.glob(f"{name}-*"))) < enough or (held and not (seen / f"go-{name}").exists()):
            assert time.monotonic() < deadline, f"{name} waits for too long"
            time.sleep(0.05)
        time.sleep(rest_s)
        return work(*args)

    return wait_and_work


def _share_out(pipeline: Any) -> None:
    """Several tasks in each stage, of few texts."""
    _project_after_describe(pipeline)
    pipeline.describe_clusters = functools.partial(pipeline.describe_clusters, counted_texts=PART, summed_texts=PART)
    pipeline.project_texts = functools.partial(pipeline.project_texts, task_texts=PART)
    pipeline.plot_map = functools.partial(pipeline.plot_map, task_texts=PART)
    _keep_the_head_busy_while_loading(pipeline)


def _write_a_folder(report: Any) -> None:
    report.write_labels = functools.partial(report.write_labels, file_records=PART, joined_records=PART)


def main() -> None:
    """``covey`` with the words given, on the Ray of RAY_ADDRESS, whose workers are slow."""
    import ray

    from clustering.cli.main import main
    from clustering.runs import index

    index.WRITING_SHARE = inf  # an index lists each part as soon as it is made
    _when_loaded("pipeline", _share_out)
    _when_loaded("sources.deduplication", lambda module: setattr(module, "part_rows", lambda *_: PART))
    _when_loaded("stages.graph", lambda graph: setattr(graph, "count_blocks", lambda *_: BLOCKS))
    _when_loaded("stages.report", _write_a_folder)
    ray.init(
        address=os.environ["RAY_ADDRESS"],
        logging_level="ERROR",
        runtime_env={
            "worker_process_setup_hook": small_slow_parts,
            "env_vars": {name: os.environ[name] for name in (SEEN, SPREAD, HELD)},
        },
    )
    sys.exit(main())


if __name__ == "__main__":
    main()
