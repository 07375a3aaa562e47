"""A pool on a cluster that changes: nodes that join are used if they see the run, and lost nodes cost nothing."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from clustering.config.loading import load_config
from clustering.finished.assign import assign_texts
from clustering.finished.evaluate import evaluate_run
from clustering.monitoring.usage import Usage
from clustering.pipeline import run_pipeline
from clustering.runs.directory import RunDir
from clustering.runs.saved_config import load_run_config
from clustering.sample import write_sample
from clustering.workers import pool
from clustering.workers.nodes import Wish, forget_refused_nodes, watch_run, withdrawing_wishes
from clustering.workers.pool import map_parts
from clustering.workers.remote import fetch, refuse_blind_nodes, start_actor
from clustering.workers.session import ray_session
from clustering.workers.tasks import (
    collect,
    map_tasks,
    run_concurrently,
    run_on_one_node,
    submit,
    submit_pieces,
    submit_yields,
)
from tests.integration.conftest import add_node, start_cluster

pytestmark = [pytest.mark.ray, pytest.mark.full]
NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 << 20}
UNMOUNTED = "TESTS_WITHOUT_THE_SHARED_FOLDER"  # set on a node that does not mount it


class SharedRun(RunDir):
    """A run directory on a shared folder: where that is not mounted, the path leads to nothing."""

    def __reduce__(self) -> Any:
        return _mounted, (getattr(self, "shared", self.path), self.artefact_paths)


def _mounted(path: Path, artefact_paths: dict[str, str]) -> RunDir:
    run: Any = SharedRun(path / "nothing" if UNMOUNTED in os.environ else path, artefact_paths)
    run.shared = path
    return run


class Notes:
    """Takes a while for each item, and says where that was."""

    def __init__(self, run: RunDir, seconds: float) -> None:
        self.folder, self.seconds = Path(str(run.path)), seconds

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        node = ray.get_runtime_context().get_node_id()
        (self.folder / f"{node}-{item['item']}").touch()
        time.sleep(self.seconds)
        return {"node": node, "number": item["item"], "rows": 1}


def _map(
    address: str, folder: Path, n_items: int, seconds: float, options: dict[str, Any]
) -> tuple[list[Any], list[str]]:
    """The results of a pool in a process of its own, and its warnings."""
    pool.RESIZE_EVERY_S, pool.NODE_START_S = 0.5, options.pop("node_start_s", pool.NODE_START_S)
    with _connected(address, folder) as (run, said):
        return map_parts(Notes, [{}] * n_items, run=run, seconds=seconds, **options), said


def _node() -> str:
    time.sleep(0.5)  # so that every core gets a task
    return _node_id()


def _map_between_stages(address: str, folder: Path) -> tuple[set[str], list[str]]:
    """Nodes join between two stages that have no pool: the nodes that do the second one's tasks, and the warnings."""
    with _connected(address, folder) as (run, said):
        refuse_blind_nodes(run)
        (folder / "first").touch()
        while not (folder / "second").exists():
            time.sleep(0.05)
        refuse_blind_nodes(run)
        return {collect(one) for one in ray.get([submit(_node) for _ in range(8)])}, said


def _read(run: RunDir, number: int) -> tuple[str, int]:
    """A task that needs the run directory."""
    assert (run / "manifest.json").exists(), f"no manifest.json in {run.path}"
    time.sleep(0.3)
    return _node_id(), number


def _node_id() -> str:
    return str(ray.get_runtime_context().get_node_id())


def _read_pieces(run: RunDir, number: int) -> list[Any]:
    return [_read(run, number), number]


def _yield_pieces(run: RunDir, number: int) -> Iterator[Any]:
    yield _read(run, number), Usage()
    yield number, Usage()


def _read_in_tasks(run: RunDir, folder: Path, until: str) -> list[Any]:
    """The single task of a stage, which starts others."""
    (folder / "first").touch()
    while not (folder / until).exists():
        time.sleep(0.05)
    return list(map_tasks(_read, ((run, number) for number in range(5))))


def _start_during_a_stage(address: str, folder: Path) -> tuple[list[Any], list[str]]:
    """Nodes join while tasks of every kind are at work: which nodes did the tasks that came after, and the warnings."""
    with _connected(address, folder) as (run, said):
        refuse_blind_nodes(run)
        found = run_on_one_node(_read_in_tasks, run, folder, "second")
        told = list(said)
        forget_refused_nodes()  # as if nobody had asked the nodes yet
        watch_run(run, run.id)
        references = [submit(_read, run, number) for number in range(5)]
        references += [submit_pieces(2, _read_pieces, run, number)[0] for number in range(3)]
        references += [submit_yields(2, _yield_pieces, run, number)[0] for number in range(3)]
        results = [*found, *map(collect, ray.get(references))]
        return [*results, run_on_one_node(_read, run, 5)], told


class _Idle:
    def answer(self) -> int:
        return 1


def _work_beside_an_actor(address: str, folder: Path) -> int:
    with _connected(address, folder):
        actor = start_actor(_Idle)
        return fetch(actor.answer.remote()) + collect(fetch(submit(_Idle().answer)))


def _ask_until_killed(folder: Path) -> None:
    """The task of a stage whose shards wait for nodes."""
    wish = Wish({"memory": 1 << 30})
    try:
        wish.ask(3)
        (folder / "asked").touch()
        time.sleep(60)
    finally:
        wish.ask(0)


def _kill_a_task_that_asks(address: str, folder: Path) -> None:
    def fails_beside() -> None:
        while not (folder / "seen").exists():
            time.sleep(0.05)
        raise ValueError("a stage beside it fails")

    with _connected(address, folder), run_concurrently(fails_beside), withdrawing_wishes():
        run_on_one_node(_ask_until_killed, folder)


@ray.remote
def _hold_core(folder: Path) -> None:
    (folder / "held").touch()
    time.sleep(5)


def _use_when_finished(address: str, folder: Path) -> tuple[pa.Table, dict[str, Any], list[str]]:
    """A node joins a finished run's cluster, and has the free core: what assign and evaluate give, and the warnings."""
    with _connected(address, folder / "run") as (run, said):
        write_sample(folder / "sample.csv", 300)
        words = [f"run.dir={folder / 'run'}", f"read.paths={folder / 'sample.csv'}", "cluster.selection=eom"]
        run_pipeline(load_config("laptop", [*words, "cluster.weights=distance"]))
        said.clear()
        (folder / "first").touch()
        while not (folder / "second").exists():
            time.sleep(0.05)
        _hold_core.options(scheduling_strategy=NodeAffinitySchedulingStrategy(_node_id(), soft=False)).remote(folder)
        while not (folder / "held").exists():
            time.sleep(0.05)
        (folder / "new.csv").write_text("id,title\n1,A flood that nobody has seen\n")
        config = load_run_config(run)
        with ray_session():
            assign_texts(run, config, [str(folder / "new.csv")], folder / "assigned.parquet")
        with ray_session():
            figures = evaluate_run(run, config)
        return pq.read_table(folder / "assigned.parquet"), figures, said


@contextmanager
def _connected(address: str, folder: Path) -> Iterator[tuple[RunDir, list[str]]]:
    """A run directory on a shared folder, and the warnings of this process."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("covey").addHandler(handler)
    ray.init(address, logging_level="ERROR")
    run = SharedRun(folder)
    run.update_manifest()
    yield run, said
    ray.shutdown()


@pytest.fixture
def process() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        yield process


@pytest.fixture
def started(process: ProcessPoolExecutor, tmp_path: Path) -> Callable[..., Future[Any]]:
    return lambda address, n_items, seconds=0.5, **options: process.submit(
        _map, address, tmp_path, n_items, seconds, options
    )


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = start_cluster(**NODE)
    yield cluster
    cluster.shutdown()


def until_at_work(folder: Path, found: Future[Any], node_id: str = "") -> None:
    until(lambda: any(folder.glob(f"{node_id}*-*")), found)


def until(done: Callable[[], bool], found: Future[Any]) -> None:
    deadline = time.monotonic() + 300
    while not done():
        assert time.monotonic() < deadline
        assert not found.done(), found.result()
        time.sleep(0.05)


def check_complete(results: list[dict[str, Any]]) -> Counter[str]:
    """Every item is done, in order; how many each node did."""
    assert [result["number"] for result in results] == list(range(len(results)))
    return Counter(result["node"] for result in results)


def test_a_node_that_joins_gets_items(cluster: Cluster, started: Any, tmp_path: Path) -> None:
    found = started(cluster.address, 80)
    until_at_work(tmp_path, found)
    joined = add_node(cluster, **{**NODE, "num_cpus": 2})
    on = check_complete(found.result(timeout=300)[0])
    assert set(on) == {cluster.head_node.node_id, joined.node_id}
    assert on[joined.node_id] > 2


def test_a_node_that_does_not_see_the_run_gets_none(cluster: Cluster, started: Any, tmp_path: Path) -> None:
    found = started(cluster.address, 80)
    until_at_work(tmp_path, found)
    blind = add_node(cluster, **NODE, env_vars={UNMOUNTED: "1"})
    seeing = add_node(cluster, **NODE)
    results, said = found.result(timeout=300)
    assert set(check_complete(results)) == {cluster.head_node.node_id, seeing.node_id}
    assert not list(tmp_path.glob(f"{blind.node_id}-*"))
    (line,) = said
    assert line.startswith(f"Notes: a node that has joined gets no work: run.dir={tmp_path} is not the same place on ")
    assert line.endswith("; take a folder that all nodes share, or a bucket (s3://, gs://)")


@pytest.mark.nightly
def test_a_node_that_joins_between_stages_and_does_not_see_the_run_gets_no_task(
    cluster: Cluster, process: ProcessPoolExecutor, tmp_path: Path
) -> None:
    found = process.submit(_map_between_stages, cluster.address, tmp_path)
    until(lambda: (tmp_path / "first").exists(), found)
    add_node(cluster, **NODE, env_vars={UNMOUNTED: "1"})
    seeing = add_node(cluster, **NODE)
    (tmp_path / "second").touch()
    on, (line,) = found.result(timeout=300)
    assert on == {cluster.head_node.node_id, seeing.node_id}
    assert line.startswith(f"nodes that have joined get no work: run.dir={tmp_path} is not the same place on ")


@pytest.mark.nightly
def test_a_task_on_a_node_that_joins_during_a_stage_and_does_not_see_the_run_is_done_elsewhere(
    cluster: Cluster, process: ProcessPoolExecutor, tmp_path: Path
) -> None:
    found = process.submit(_start_during_a_stage, cluster.address, tmp_path)
    until(lambda: (tmp_path / "first").exists(), found)
    blind = add_node(cluster, **{**NODE, "num_cpus": 2}, env_vars={UNMOUNTED: "1"})
    seeing = add_node(cluster, **NODE)
    (tmp_path / "second").touch()
    results, (line, *_) = found.result(timeout=900)
    assert [number for _, number in results] == [*range(5), *range(5), *range(3), *range(3), 5]
    assert {node for node, _ in results} == {cluster.head_node.node_id, seeing.node_id} - {blind.node_id}
    assert line.startswith(f"nodes that have joined get no work: run.dir={tmp_path} is not the same place on ")


@pytest.mark.nightly
def test_an_actor_leaves_the_only_core_to_tasks(cluster: Cluster, process: ProcessPoolExecutor, tmp_path: Path) -> None:
    assert process.submit(_work_beside_an_actor, cluster.address, tmp_path).result(timeout=300) == 2


@pytest.mark.nightly
def test_a_node_that_does_not_see_a_finished_run_places_no_texts(
    cluster: Cluster, process: ProcessPoolExecutor, tmp_path: Path
) -> None:
    found = process.submit(_use_when_finished, cluster.address, tmp_path)
    until(lambda: (tmp_path / "first").exists(), found)
    add_node(cluster, **{**NODE, "num_cpus": 4}, env_vars={UNMOUNTED: "1"})
    (tmp_path / "second").touch()
    assigned, figures, said = found.result(timeout=900)
    assert assigned["nearest_row"].null_count == 0
    assert figures["fidelity"]["mst_weight_difference"] == pytest.approx(0, abs=0.01)
    assert [line.partition(":")[0] for line in said] == ["nodes that have joined get no work"] * 2


@pytest.mark.nightly
def test_a_lost_node_makes_the_pool_smaller_and_loses_nothing(cluster: Cluster, started: Any, tmp_path: Path) -> None:
    lost = add_node(cluster, **{**NODE, "num_cpus": 2})
    found = started(cluster.address, 16)
    until_at_work(tmp_path, found, lost.node_id)
    cluster.remove_node(lost, allow_graceful=False)
    on = check_complete(found.result(timeout=300)[0])
    assert on[cluster.head_node.node_id] >= 12


@pytest.mark.nightly
def test_a_number_of_actors_is_no_more_and_waits_for_no_more_than_there_is_room_for(
    cluster: Cluster, started: Any, tmp_path: Path
) -> None:
    add_node(cluster, **{**NODE, "num_cpus": 2})
    assert len(check_complete(started(cluster.address, 8, actors=1).result(timeout=300)[0])) == 1
    assert sum(check_complete(started(cluster.address, 8, 0.1, actors=7).result(timeout=300)[0]).values()) == 8


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Callable[[], list[int]]:
    """What the autoscaler of ``cluster`` is asked for: how many bundles of each kind."""
    monkeypatch.setenv("RAY_enable_autoscaler_v2", "1")  # its requests can be read
    monkeypatch.setenv("RAY_CLOUD_INSTANCE_ID", "head")
    address = request.getfixturevalue("cluster").address

    def ask() -> list[int]:
        demands = get_cluster_status(address).resource_demands.cluster_constraint_demand
        return [bundle.count for demand in demands for bundle in demand.bundles_by_count]

    return ask


@pytest.mark.nightly
def test_the_autoscaler_is_asked_for_what_much_work_needs_until_it_is_done(
    started: Any, asked: Callable[[], list[int]], cluster: Cluster
) -> None:
    found, seen = started(cluster.address, 12, 1.0, node_start_s=3), set()
    while not found.done():
        seen.update(asked())
        time.sleep(0.2)
    check_complete(found.result()[0])
    assert max(seen) in (3, 4)  # the rest takes 11 s, and a node comes up in 3
    assert not asked()


@pytest.mark.nightly
def test_what_a_task_has_asked_for_is_withdrawn_when_it_is_killed(
    asked: Callable[[], list[int]], cluster: Cluster, process: ProcessPoolExecutor, tmp_path: Path
) -> None:
    found = process.submit(_kill_a_task_that_asks, cluster.address, tmp_path)
    until(lambda: (tmp_path / "asked").exists(), found)
    assert asked() == [3]
    (tmp_path / "seen").touch()
    with pytest.raises(ValueError, match="a stage beside it fails"):
        found.result(timeout=300)
    assert not asked()
