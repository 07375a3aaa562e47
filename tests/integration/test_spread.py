"""describe and report on three nodes: their tasks run on all, and a node that is lost meanwhile changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from ray.cluster_utils import Cluster

from clustering.config.sections import DescribeSection
from clustering.runs.directory import RunDir
from clustering.stages.describe import describe_clusters
from clustering.workers.labels import write_labels
from tests.integration.conftest import ROOT, free_port
from tests.integration.slow import SEEN, SPREAD, connect, rest_in_tasks
from tests.planted import write_clustered

pytestmark = [pytest.mark.ray, pytest.mark.full]
NODE = {"num_cpus": 1, "object_store_memory": 100 << 20}
RECORDS, PART, SHARE = 4000, 100, 300
TASKS = {
    "stages.describe": ("_count", "_add_up", "_choose_words", "_count_phrases", "_choose_phrases", "_shown_texts"),
    "workers.labels": ("_repeated_rows", "_write_parts"),
}
LOST = ("_count", "_add_up", "_write_parts")  # of many tasks, in the midst of which a node is lost


def rest_at_start() -> None:
    rest_in_tasks(TASKS, LOST)


def main(path: str) -> None:
    """Do both stages on the Ray of RAY_ADDRESS; print the nodes of each task."""
    connect(rest_at_start)
    run = RunDir(path)
    describe_clusters(run, DescribeSection(), SHARE, 500)
    assert write_labels(run, RECORDS - 1, SHARE) == RECORDS
    from ray.util.state import list_tasks

    nodes: dict[str, list[str]] = {}
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:  # Ray's state hears of each task and its node a little later
        nodes = {}
        for task in list_tasks(limit=1000, detail=True):
            nodes.setdefault(task.name, []).append(task.node_id or "")
        ran = [nodes.get(name, [""]) for names in TASKS.values() for name in names]
        if all(map(all, ran)):
            break
        time.sleep(0.5)
    print(json.dumps(nodes))


class Nodes:
    def __init__(self) -> None:
        dashboard = {"include_dashboard": True, "dashboard_port": free_port()}
        self.cluster = Cluster(initialize_head=True, head_node_args={**NODE, **dashboard})
        self.workers = [self.cluster.add_node(**NODE) for _ in range(2)]

    def start(self, run: RunDir, n_nodes: int) -> subprocess.Popen[str]:
        """Do both stages; tasks of the kinds in LOST go on when so many nodes have one."""
        seen = Path(f"{run.path}-seen")
        seen.mkdir()
        env = {**os.environ, "RAY_ADDRESS": self.cluster.address, SEEN: str(seen), SPREAD: str(n_nodes)}
        words = [sys.executable, "-c", f"from tests.integration.test_spread import main; main({str(run.path)!r})"]
        return subprocess.Popen(words, env=env, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def lose_a_worker(self, run: RunDir, task: str, process: subprocess.Popen[str]) -> None:
        """As soon as a worker node has such a task."""
        deadline = time.monotonic() + 60
        while True:
            for number, node in enumerate(self.workers):
                if Path(f"{run.path}-seen", f"{task}-{node.node_id}").exists():
                    self.cluster.remove_node(node, allow_graceful=False)
                    self.workers[number] = self.cluster.add_node(**NODE)
                    return
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, f"no worker has had {task}"
            time.sleep(0.02)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    nodes = Nodes()
    yield nodes
    nodes.cluster.shutdown()


@pytest.fixture(scope="module")
def spread(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, dict[str, list[str]]]:
    """Both stages, undisturbed, and the nodes of each task."""
    run = RunDir(tmp_path_factory.mktemp("spread") / "run")
    write_clustered(run, RECORDS, PART)
    out, err = nodes.start(run, 3).communicate(timeout=180)
    assert out, err
    return run, json.loads(out.splitlines()[-1])


def test_the_tasks_of_both_stages_run_on_all_nodes(nodes: Nodes, spread: Any) -> None:
    _, seen = spread
    for names in TASKS.values():
        assert len({node for name in names for node in seen[name]}) == 3, seen
    assert len(seen["_count"]) > 8
    assert len(seen["_add_up"]) > 5
    assert len(seen["_write_parts"]) > 10


def test_a_node_lost_in_the_midst_of_each_changes_nothing(nodes: Nodes, spread: Any, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    write_clustered(run, RECORDS, PART)
    process = nodes.start(run, 2)
    for task in LOST:
        nodes.lose_a_worker(run, task, process)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    for name in ("clusters.parquet", "labels.parquet"):
        assert pq.read_table(run / name).equals(pq.read_table(spread[0] / name)), name
    assert len(list((run / "labels.parquet").iterdir())) == RECORDS // PART
