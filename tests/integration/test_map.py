"""The stages project and plot on three nodes: their tasks are on all, and a node that is lost changes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from ray.cluster_utils import Cluster
from ray.util.state import list_tasks

from clustering import schema
from clustering.config.sections import PlotSection, ProjectSection
from clustering.runs.directory import RunDir
from clustering.runs.parts import part_name, part_names
from clustering.runs.storage import write_table
from clustering.stages.plot import _plot, plot_map
from clustering.stages.project import _project, project_texts
from clustering.workers.tasks import HERE
from tests.integration.conftest import ROOT, free_port
from tests.integration.slow import SEEN, SPREAD, connect, rest_in_tasks
from tests.planted import blobs, write_vectors

pytestmark = [pytest.mark.ray, pytest.mark.full]
NODE = {"num_cpus": 1, "object_store_memory": 100 << 20}
N_TEXTS, PART = 6000, 200
TASKS = {"stages.project": ("_cut_lists", "_place_first"), "stages.plot": ("_read_shown",)}  # one a part


def rest_at_start() -> None:
    rest_in_tasks(TASKS, sum(TASKS.values(), ()))  # of each kind the first wait for the other nodes


def main(path: str) -> None:
    """Do both stages on the Ray of RAY_ADDRESS; print when some tasks of each are done, and in the end the nodes."""
    connect(rest_at_start)
    threading.Thread(target=watch, daemon=True).start()
    project_texts(RunDir(path), ProjectSection(sample=600, n_neighbors=8), N_TEXTS, 1, PART)
    plot_map(RunDir(path), PlotSection(points=900), "three nodes", 1, PART)
    seen: dict[str, set[str | None]] = {}
    for task in list_tasks(limit=9999):
        seen.setdefault(task.name, set()).add(task.node_id)
    print(json.dumps({name: sorted(node for node in nodes if node) for name, nodes in seen.items()}), flush=True)


def watch() -> None:
    for names in TASKS.values():
        for name in names:
            while sum(task.name == name and task.state == "FINISHED" for task in list_tasks(limit=9999)) < 3:
                time.sleep(0.05)
            print(name, flush=True)


def left(folder: Path) -> RunDir:
    """What both stages need, in parts: lists of near rows, of which many name no text of the sample."""
    run, rng = RunDir(folder), np.random.default_rng(0)
    vectors = blobs(1, n_blobs=6, each=N_TEXTS // 6).vectors
    write_vectors(run / "vectors", vectors, PART)
    label = np.arange(N_TEXTS, dtype=np.int32) // 1000 - 1
    for part, first in enumerate(range(0, N_TEXTS, PART)):
        rows = np.arange(first, first + PART)
        near = [row + np.unique(rng.integers(1, 30, 4)) for row in rows]
        lists = {
            "row": rows,
            "neighbors": pa.array([(one % N_TEXTS).tolist() for one in near], pa.list_(pa.int64())),
            "distances": pa.array([(np.arange(one.size) + 1.0).tolist() for one in near], pa.list_(pa.float32())),
            "cell": np.zeros(PART, np.int32),
        }
        write_table(run / "neighbors" / part_name(part), pa.table(lists, schema=schema.NEIGHBORS))
        texts = {"row": rows, "text": [f"text {row}" for row in rows], "copies": np.ones(PART, np.int32)}
        write_table(run / "texts" / part_name(part), pa.table(texts, schema=schema.TEXTS))
    write_table(run / "assignment.parquet", pa.table({"row": np.arange(N_TEXTS), "label": label}))
    write_table(run / "clusters.parquet", pa.table({"title": [f"title {number}" for number in range(5)]}))
    return run


def digests(run: RunDir) -> dict[str, str]:
    """Of the coordinates, the picture, and the page without its random ids."""
    page = (run / "map.html").read_text(encoding="utf-8")
    page = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "", page)
    content = {name: (run / "coords" / name).read_bytes() for name in part_names(run / "coords")}
    content |= {"page": page.encode(), "picture": (run / "map.png").read_bytes()}
    return {name: hashlib.sha256(one).hexdigest() for name, one in content.items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Both stages in this process."""
    run = left(tmp_path_factory.mktemp("undisturbed"))
    figures = _project(run, ProjectSection(sample=600, n_neighbors=8), N_TEXTS, 1, PART, HERE)
    assert figures["laid_out"] == 600
    _plot(run, PlotSection(points=900), "three nodes", 1, PART, HERE)
    return run


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    head = {**NODE, "include_dashboard": True, "dashboard_port": free_port()}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(**NODE)
    yield cluster
    cluster.shutdown()


def driven(cluster: Cluster, run: RunDir, n_nodes: int) -> subprocess.Popen[str]:
    """Do both stages; tasks go on when so many nodes have one of their kind."""
    seen = Path(f"{run.path}-seen")
    seen.mkdir()
    env = {**os.environ, "RAY_ADDRESS": cluster.address, SEEN: str(seen), SPREAD: str(n_nodes)}
    words = [sys.executable, "-c", f"from tests.integration.test_map import main; main({str(run.path)!r})"]
    return subprocess.Popen(words, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_tasks_of_both_stages_are_on_all_nodes(cluster: Cluster, undisturbed: RunDir, tmp_path: Path) -> None:
    run = left(tmp_path / "run")
    out, err = driven(cluster, run, 3).communicate(timeout=240)
    assert out, err
    seen = json.loads(out.splitlines()[-1])
    for names in TASKS.values():
        for name in names:
            assert len(seen[name]) == 3, (name, seen)
    assert len(seen["_place_waiting"]) > 1
    assert digests(run) == digests(undisturbed)


def test_nodes_that_are_lost_midway_change_nothing(cluster: Cluster, undisturbed: RunDir, tmp_path: Path) -> None:
    run = left(tmp_path / "run")
    workers = cluster.list_all_nodes()[1:]
    process = driven(cluster, run, 1)
    assert process.stdout
    for line in process.stdout:
        if line.startswith("_"):  # some tasks of this kind are done
            cluster.remove_node(workers.pop(0), allow_graceful=False)
            workers.append(cluster.add_node(**NODE))
    assert process.wait(60) == 0, process.stderr.read() if process.stderr else ""
    assert digests(run) == digests(undisturbed)
