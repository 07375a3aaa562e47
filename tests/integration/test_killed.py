"""A cluster of three nodes: work lands on all. A node or a driver that dies in any stage changes nothing in the end."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from numpy.testing import assert_array_equal

from clustering.config.sections import PlotSection, ProjectSection
from clustering.runs.directory import RunDir
from clustering.runs.index import INDEX, read_index
from clustering.runs.kernel_inputs import load_forest, load_graph
from clustering.runs.parts import part_names
from clustering.stages.plot import plot_map
from clustering.stages.project import _project
from clustering.workers.tasks import HERE
from tests.integration.conftest import ROOT, Undisturbed, add_node, digests, start_cluster
from tests.integration.slow import BLOCKS, HELD, SEEN, SPREAD

pytestmark = [pytest.mark.ray, pytest.mark.full]
NODE = {"num_cpus": 2, "object_store_memory": 100 << 20}
WORKERS = {"plain": NODE, "gpu": {**NODE, "num_gpus": 1}}


class Nodes:
    """A head and two workers, of which one has a GPU that is none. Every object lies in a node's store."""

    def __init__(self) -> None:
        soon = {"health_check_period_ms": 300, "health_check_initial_delay_ms": 500}  # not 15 s later
        system = {"_system_config": {"max_direct_call_object_size": 99, **soon}}
        self.cluster = start_cluster(**NODE, **system)
        self.workers = {name: add_node(self.cluster, **options) for name, options in WORKERS.items()}

    @property
    def ids(self) -> set[str]:
        return {node.node_id for node in (self.cluster.head_node, *self.workers.values())}

    def start(
        self, undisturbed: Undisturbed, run: RunDir, *overrides: str, spread: int = 1, held: str = ""
    ) -> subprocess.Popen[str]:
        seen = traces_of(run)
        seen.mkdir(exist_ok=True)
        env = {**os.environ, "RAY_ADDRESS": self.cluster.address, SEEN: str(seen), SPREAD: str(spread), HELD: held}
        words = [sys.executable, "-m", "tests.integration.slow", *undisturbed.words, f"run.dir={run.path}", *overrides]
        return subprocess.Popen(words, env=env, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def kill_a_worker(self, run: RunDir, kind: str) -> None:
        """As a machine that loses its power, where a worker of the kind is; another takes its place."""
        at_work = (name for name, node in self.workers.items() if (traces_of(run) / f"{kind}-{node.node_id}").exists())
        name = next(at_work, None)
        assert name, f"no {kind} is on a node that could be killed"
        self.cluster.remove_node(self.workers[name], allow_graceful=False)
        self.workers[name] = add_node(self.cluster, **WORKERS[name])
        (traces_of(run) / f"go-{kind}").touch()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    nodes = Nodes()
    yield nodes
    nodes.cluster.shutdown()


def traces_of(run: RunDir) -> Path:
    """Where each kind of worker leaves a mark of its node."""
    return Path(f"{run.path}-seen")


def until(found: Callable[[], Any], process: subprocess.Popen[str], moment: str) -> None:
    deadline = time.monotonic() + 600
    while not found():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"it never came: {moment}"
        time.sleep(0.02)


def begun(stage: str) -> Callable[[RunDir], bool]:
    return lambda run: stage in run.manifest.get("begun", {})


def finished(stage: str) -> Callable[[RunDir], bool]:
    return lambda run: stage in run.manifest["stages"]


def some(artefact: str) -> Callable[[RunDir], bool]:
    """Whether an artefact has two parts."""
    return lambda run: len(list((run / artefact).glob("part-*.parquet"))) >= 2


def listed(artefact: str) -> Callable[[RunDir], bool]:
    """Whether the index of an artefact lists two parts."""
    return lambda run: (run / artefact / INDEX).exists() and len(read_index(run / artefact)) >= 2


def on_all_nodes(kind: str) -> Callable[[RunDir], bool]:
    return lambda run: len(list(traces_of(run).glob(f"{kind}-*"))) >= 3


MIDST = {
    "embed": (some("vectors"), "Embedder"),
    "store": (listed("loaded"), "Loader"),
    "search": (some("neighbors"), "Searcher"),
}
HOLDING = {  # until a node has died, the tasks of these kinds wait
    "graph": "_join_block", "forest": "_average", "forest, merging": "_merge", "cluster": "_sum_over",
    "describe": "_count", "project": "_place_first", "plot": "_read_shown", "report": "_write_parts",
}  # fmt: skip
MIDST |= {stage: (on_all_nodes(kind), kind) for stage, kind in HOLDING.items()}
SPREAD_RUN = ["embed.actors=3", "search.actors=3", "project.sample=100"]


IN_CI = ("embed", "graph")  # a pool of actors and a shuffle; every night nodes die in each stage
STAGES = [pytest.param(stage, marks=() if stage in IN_CI else pytest.mark.nightly) for stage in MIDST]


@pytest.fixture(scope="module")
def battered(
    nodes: Nodes, undisturbed: Undisturbed, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Any:
    """A run in which nodes die in the midst of the stages whose tests are chosen, and when they did."""
    chosen = {test.callspec.params["stage"] for test in request.session.items
              if getattr(test, "originalname", "") == test_a_node_that_dies_changes_nothing.__name__}  # fmt: skip
    midst = {stage: moment for stage, moment in MIDST.items() if stage in chosen or stage in IN_CI}
    holding = [HOLDING[stage] for stage in midst if stage in HOLDING]
    run = RunDir(tmp_path_factory.mktemp("battered") / "run")
    process = nodes.start(undisturbed, run, *SPREAD_RUN, spread=3, held=",".join(holding))
    died: dict[str, float] = {}
    at_first = nodes.ids
    for stage, (reached, kind) in midst.items():
        until(lambda: reached(run), process, stage)  # noqa: B023
        died[stage] = time.time()
        nodes.kill_a_worker(run, kind)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    assert "clusters" in out
    return run, died, at_first


@pytest.mark.parametrize("stage", STAGES)
def test_a_node_that_dies_changes_nothing(stage: str, battered: Any, undisturbed: Undisturbed) -> None:
    run, died, _ = battered
    done = run.manifest["stages"][stage.partition(",")[0]]
    assert done["started"] < died[stage] < done["finished"], "the node did not die in the midst of the stage"
    assert digests(run) == undisturbed.digests


def test_vectors_and_neighbors_are_made_on_all_nodes(nodes: Nodes, battered: Any) -> None:
    run, _, at_first = battered
    seen = {worker: {path.name.partition("-")[2] for path in traces_of(run).glob(f"{worker}-*")}
            for worker in ("Embedder", "Searcher")}  # fmt: skip
    assert len(at_first) == 3
    assert seen["Embedder"] >= at_first
    assert len(seen["Searcher"]) >= 3  # of the nodes at first two have died by then


@pytest.mark.parametrize("task", HOLDING.values())
def test_the_tasks_of_a_stage_are_on_all_nodes(battered: Any, task: str) -> None:
    assert len(list(traces_of(battered[0]).glob(f"{task}-*"))) >= 3


def test_many_blocks_on_nodes_that_die_give_what_one_gives_on_one(
    battered: Any, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    run, whole = battered[0], undisturbed.run
    assert (figures(run, "graph")["blocks"], figures(whole, "graph")["blocks"]) == (BLOCKS, 1)
    assert figures(run, "forest")["shards"] == BLOCKS
    for name in ("indptr", "indices", "data"):
        assert_array_equal(getattr(load_graph(run), name), getattr(load_graph(whole), name))
    for name in ("left", "right", "distance"):
        assert_array_equal(getattr(load_forest(run), name), getattr(load_forest(whole), name))
    mapped, seed = RunDir(tmp_path / "mapped"), run.manifest["seed"]
    shutil.copytree(run.path, mapped.path)
    for name in ("coords", "map.html", "map.png"):
        mapped.remove(name)
    n_texts = figures(run, "read")["texts"]
    assert _project(mapped, ProjectSection(sample=100), n_texts, seed, mapper=HERE)["laid_out"] == 100
    plot_map(mapped, PlotSection(), "undisturbed", seed)
    found, wanted = ({Path(name).name: digest for name, digest in files_of(one, "coords", "map.png", "map.html").items()
                      if not name.endswith(".json")} for one in (mapped, run))  # fmt: skip
    assert len(found) > 5
    assert found == wanted


def figures(run: RunDir, stage: str) -> dict[str, Any]:
    return run.manifest["stages"][stage]["figures"]


def files_of(run: RunDir, *names: str) -> dict[str, str]:
    """Digests of all files of some artefacts."""
    found = {}
    for name in names:
        path = run.path / name
        for file in sorted(path.rglob("*.*")) if path.is_dir() else [path]:
            found[str(file.relative_to(run.path))] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


KILLED = [some("vectors"), some("neighbors"), begun("plot")]  # at random moments of one node: test_random_kills.py


@pytest.mark.nightly
def test_a_driver_killed_at_three_points_does_nothing_twice(
    nodes: Nodes, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    run, on_gpu = RunDir(tmp_path / "run"), ["embed.actors=1", "embed.gpus_per_actor=1"]
    seen: dict[str, float] = {}
    for moment in KILLED:
        process = nodes.start(undisturbed, run, *on_gpu)
        until(lambda: moment(run), process, f"moment {KILLED.index(moment)}")  # noqa: B023
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        soon = time.monotonic() + 60  # a child that was just being started holds the lock for a moment
        while run.in_use():
            assert time.monotonic() < soon
            time.sleep(0.02)
        stages = {name: stage["finished"] for name, stage in run.manifest["stages"].items()}
        assert seen.items() <= stages.items()
        seen = stages
    assert "describe" in seen
    assert "report" not in seen
    out, err = nodes.start(undisturbed, run, *on_gpu).communicate(timeout=900)
    assert "clusters" in out, err
    assert seen.items() <= {name: stage["finished"] for name, stage in run.manifest["stages"].items()}.items()
    assert digests(run) == undisturbed.digests
    assert len(part_names(run / "vectors")) > 5
    assert run.manifest["stages"]["forest"]["figures"]["shards"] > 1
    used = run.manifest["stages"]["embed"]["figures"]["used"]
    assert used["gpu_seconds"] > 0
    assert 0 <= used["gpu_idle"] < 1
    assert (used["cpus"], used["gpus"]) == (6, 1)


def processes_of(session: int) -> list[str]:
    """Command lines of the processes of a session, as far as they live."""
    listed = subprocess.run(
        ["ps", "-ww", "-s", str(session), "-o", "stat=,args="], capture_output=True, text=True, check=False
    )
    return [line for line in listed.stdout.splitlines() if not line.startswith("Z")]


def test_sigterm_ends_the_run_soon_leaves_no_process_and_says_how_to_go_on(undisturbed, tmp_path):
    run = RunDir(tmp_path / "run")
    words = [sys.executable, "-m", "clustering.cli.main", *undisturbed.words, f"run.dir={run.path}"]
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    until(lambda: finished("search")(run), process, "search")
    status = main_of(["status", "--run", str(run.path)])
    assert f"{run.path}: running, process {process.pid} of" in status
    servers = [line for line in processes_of(process.pid) if "raylet" in line]
    assert servers, "Ray's processes are not where they are looked for"
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    err = process.communicate(timeout=300)[1]
    assert time.monotonic() - started < 10
    assert process.returncode == 143, err
    assert err.splitlines()[-1] == "terminated; the same command goes on from here"
    deadline = time.monotonic() + 10
    while processes_of(process.pid) or str(run.path) in listed_processes():
        assert time.monotonic() < deadline, processes_of(process.pid)
        time.sleep(0.1)
    status = main_of(["status", "--run", str(run.path)])
    assert "stopped; the same command goes on from here" in status
    assert re.search(r"search +done in", status)


WAITS = """
import sys, time
import ray
from clustering.workers.session import ray_session
from clustering.cli.main import run_command

@ray.remote
def waits():
    time.sleep(600)

def work():
    print("starts", flush=True)
    with ray_session():
        waiting = waits.remote()
        print("waits", flush=True)
        ray.get(waiting)

sys.exit(run_command(work))
"""


def catches(process, number) -> bool:
    """Whether a process has a handler for a signal."""
    (caught,) = re.findall(r"SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())
    return bool(int(caught, 16) >> (number - 1) & 1)


RAYS_LOG = re.compile(r"\[[-\d]+ [:,\d]+ [EW] \d+ \d+\] \w+\.cc:\d+: ")


@pytest.mark.parametrize("within", ["ray.init", "ray.get"])
def test_sigterm_in_a_call_of_ray_is_no_failure(within):
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "starts\n"
    if within == "ray.init":
        until(lambda: catches(process, signal.SIGFPE), process, "a handler")  # Ray's own handlers are there
    else:
        assert process.stdout.readline() == "waits\n"
        time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    err = process.communicate(timeout=300)[1]
    assert process.returncode == 143, err
    assert err.splitlines()[-1] == "terminated; the same command goes on from here"
    # In ray.init Ray prints its stack first; its own log may tell of the connection that ends.
    assert within == "ray.init" or len([line for line in err.splitlines() if not RAYS_LOG.match(line)]) == 1


def listed_processes() -> str:
    return subprocess.run(["ps", "-ww", "-eo", "args="], capture_output=True, text=True, check=True).stdout


def main_of(words: list[str]) -> str:
    """What a command of another shell prints."""
    return subprocess.run(
        [sys.executable, "-m", "clustering.cli.main", *words], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
