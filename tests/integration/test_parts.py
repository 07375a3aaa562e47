"""parts.py on a real Ray: what single tasks are given, and what becomes of a pool in which a part fails."""

from __future__ import annotations

import contextvars
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from clustering import preflight
from clustering.config.loading import build_config
from clustering.errors import ConfigError, StageError, StoreError
from clustering.monitoring.usage import counting_usage
from clustering.runs.directory import RunDir
from clustering.workers import failures, pool, remote, reservations, tasks
from clustering.workers import nodes as node_list
from clustering.workers.failures import Attempts
from clustering.workers.nodes import FreeResources, free_resources, live_nodes
from clustering.workers.pool import map_parts
from clustering.workers.reservations import requiring_memory
from clustering.workers.tasks import run_concurrently, run_on_one_node
from tests.integration.at_work import (
    Crowd,
    Dies,
    DiesUnlessTold,
    Marks,
    Threads,
    Together,
    Unbegun,
    given,
    meets,
    misses_a_key,
)

pytestmark = [pytest.mark.ray, pytest.mark.full]


@contextmanager
def held(**resources: Any) -> Iterator[None]:
    """Another job holds some of the cluster, and does not give it back."""

    class Holder:
        def held(self) -> bool:
            return True

    holder: Any = ray.remote(Holder).options(**{"num_cpus": 0, **resources}).remote()
    assert ray.get(holder.held.remote())
    (node,) = live_nodes()
    left = FreeResources(node.cpus - resources.get("num_cpus", 0), node.memory_bytes - resources.get("memory", 0))
    deadline = time.monotonic() + 300
    while free_resources([node])[node.id] != left:  # Ray's head hears of it later
        assert time.monotonic() < deadline
        time.sleep(0.02)
    try:
        yield
    finally:
        ray.kill(holder)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Warnings of tasks."""
    lines: list[str] = []
    for module in (reservations, failures):
        monkeypatch.setattr(module.log, "warning", lambda line, *words, **_: lines.append(line % words))
    return lines


def test_a_single_task_has_all_threads_right_after_a_pool_and_after_another(local_ray: None, tmp_path: Path) -> None:
    map_parts(Marks, [{}] * 4, actors=2, folder=tmp_path, error=None)
    for _ in range(3):
        with requiring_memory(1 << 20):
            assert run_on_one_node(given) == ({"CPU": 1, "memory": 1 << 20}, 2)


def test_a_single_task_starts_where_another_job_holds_a_core(local_ray: None) -> None:
    assert run_on_one_node(given) == ({"CPU": 1}, 2)
    time.sleep(reservations.SETTLE_S)
    with held(num_cpus=1):
        assert run_on_one_node(given) == ({"CPU": 1}, 1)


@pytest.mark.parametrize(("actors", "cpus"), [(None, 1), (1, 2)])
def test_an_actor_has_as_many_threads_as_cores(local_ray: None, actors: int | None, cpus: int) -> None:
    results = map_parts(Threads, [{}] * 3, actors=actors, cpus=cpus)
    assert [result["threads"] for result in results] == [cpus] * 3


def test_two_stages_in_two_threads_work_side_by_side_each_with_its_own_account(local_ray: None, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"

    def stage(mine: Path, theirs: Path) -> tuple[bool, float, int]:
        with requiring_memory(1 << 20), counting_usage() as usage:
            return run_on_one_node(meets, mine, theirs), usage.cpu_seconds, usage.peak_bytes

    with ThreadPoolExecutor(2) as pool:
        found = [done.result() for done in [pool.submit(stage, one, other), pool.submit(stage, other, one)]]
    assert [met for met, *_ in found] == [True, True]
    assert all(cpu_seconds > 0 and peak > 0 for _, cpu_seconds, peak in found)


def test_what_a_single_task_waits_for_is_told(
    local_ray: None, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "REPORT_WAIT_AFTER_S", 0.5)
    with ThreadPoolExecutor(1) as pool:
        with held(num_cpus=2), requiring_memory(3 << 20):
            waiting = pool.submit(contextvars.copy_context().run, run_on_one_node, given)
            deadline = time.monotonic() + 300
            while not told and time.monotonic() < deadline:
                time.sleep(0.05)
        assert waiting.result(timeout=300)[0] == {"CPU": 1, "memory": 3 << 20}
    assert re.match(
        r"given waits for 1 core and 3 MiB of memory on one node since \d s; free now: 0 of 2 cores and "
        r"[\d,]+ of [\d,]+ MiB on [\d.]+ \(`ray status` shows what others hold\)$",
        told[0],
    ), told


def test_a_task_is_tried_with_the_memory_that_another_job_leaves(local_ray: None, told: list[str]) -> None:
    (node,) = live_nodes()
    with held(memory=node.memory_bytes // 2), requiring_memory(node.memory_bytes):
        memory = run_on_one_node(given)[0]["memory"]
    assert 0 < memory <= node.memory_bytes // 2 + 1
    (line,) = told
    assert line.startswith(f"given is planned with {node.memory_bytes >> 20} MiB, and no node has more than ")


def test_a_larger_node_than_there_is_is_waited_for(local_ray: None) -> None:
    """Where one is lost, or an autoscaler will bring one up."""
    (node,) = live_nodes()
    with requiring_memory(node.memory_bytes + 1):
        assert reservations.single_task_request("graph") == reservations.Request("graph", node.memory_bytes + 1)


def test_a_task_goes_to_the_largest_node_that_is_free_where_they_differ(
    local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (small,) = live_nodes()
    large, larger = replace(small, id="large", cpus=32), replace(small, id="larger", cpus=64)
    free = {
        "large": FreeResources(20, 1 << 30),
        "larger": FreeResources(0, 1 << 30),
        small.id: FreeResources(2, 1 << 30),
    }
    monkeypatch.setattr(reservations, "live_nodes", lambda: [small, large, larger])
    monkeypatch.setattr(reservations, "free_resources", lambda nodes: free)
    assert reservations.single_task_request("graph") == reservations.Request("graph", 0, large)
    with requiring_memory(2 << 30):
        assert reservations.single_task_request("graph") == reservations.Request("graph", 1 << 30, large)


def test_a_run_that_not_all_nodes_see_is_refused(local_ray: None, tmp_path: Path, monkeypatch: Any) -> None:
    run, (node,) = RunDir(tmp_path / "run"), live_nodes()
    server = build_config({"store": {"uri": "http://milvus:19530"}})
    nodes = [node, replace(node, address="10.0.0.9")]
    for function in ("live_nodes", "nodes_to_ask"):
        monkeypatch.setattr(preflight, function, lambda: nodes)
    preflight.check_nodes(server, run)
    with pytest.raises(ConfigError, match=r"^store\.uri=embedded serves one machine, and this cluster works on 2 "):
        preflight.check_nodes(build_config({}), run)
    for told in (r"10\.0\.0\.9", "nodes that are not up yet"):  # as under a head without cores
        nodes.pop(0)
        with pytest.raises(ConfigError, match=rf"=embedded serves the driver's machine, \S+, alone, .* on {told};"):
            preflight.check_nodes(build_config({}), run)
    nodes += [node, replace(node, address="10.0.0.9")]
    monkeypatch.setattr(remote, "sees_run", lambda run, run_id: False)
    with pytest.raises(ConfigError, match=r"/run is not the same place on 10\.0\.0\.9, .*; take a folder"):
        preflight.check_nodes(server, run)
    monkeypatch.undo()
    preflight.check_nodes(build_config({}), run)  # on one machine nothing is asked
    assert not remote.nodes_to_ask()
    monkeypatch.setattr(node_list, "live_nodes", lambda: [replace(node, id="another")])
    assert [one.id for one in remote.nodes_to_ask()] == ["another"]
    node_list.forget_refused_nodes()


def test_a_run_in_the_jobs_copy_of_its_folder_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    """Which is where a relative run.dir of a job with --working-dir would lie."""
    copy = tmp_path / "working_dir_files" / "_ray_pkg_0123456789abcdef"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    (copy / "texts.csv").write_text("id,title\n1,one\n", encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        preflight.check_everything(build_config({"run": {"dir": "runs/one"}, "read": {"paths": ["texts.csv"]}}))
    said = "run.dir=runs/one would lie in the job's copy of --working-dir, which Ray deletes; give a path"
    assert any(problem.startswith(said) for problem in error.value.problems), error.value.problems


def test_the_parts_that_are_left_do_not_wait_for_what_one_has_waited_for(local_ray: None, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"^no answer$"):
        map_parts(Marks, [{}] * 60, actors=2, folder=tmp_path, error=StoreError)
    assert len(list(tmp_path.iterdir())) < 60


def test_wrong_input_is_told_for_all_parts(local_ray: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        map_parts(Marks, [{}] * 5, actors=2, folder=tmp_path, error=ConfigError)
    assert sorted(error.value.problems) == [f"part {number}" for number in range(5)]


def test_a_part_that_ends_its_worker_is_tried_three_times(local_ray: None, tmp_path: Path) -> None:
    items = [{"name": f"part-{number}", "how": "SIGSEGV", "times": 99 * (number == 2)} for number in range(4)]
    with pytest.raises(StageError) as error:
        map_parts(Dies, items, actors=2, folder=tmp_path)
    way = r'signal SIGSEGV at File ".*", line \d+ in __call__ \(process \d+ on [\d.]+\)'
    assert re.match(
        rf"Dies: part-2 ended its worker 3 times: {way}(; {way}){{0,2}}\. Give it more memory, or take out what is "
        r"wrong in it; the same command goes on from the last finished part$",
        str(error.value),
    ), str(error.value)
    assert len(list(tmp_path.glob("2-*"))) == 3
    assert not (tmp_path / "2").exists()


@pytest.mark.nightly
def test_a_single_part_is_tried_three_times_too(local_ray: None, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"^Dies: part-0 ended its worker 3 times: signal SIGKILL, or an exit"):
        map_parts(Dies, [{"name": "part-0", "how": "SIGKILL", "times": 99}], actors=2, folder=tmp_path)


@pytest.mark.parametrize("n_items", [pytest.param(1, marks=pytest.mark.nightly), 3])
def test_an_item_whose_worker_has_ended_says_so_when_it_is_tried_again(n_items: int, local_ray: None) -> None:
    taken: list[dict[str, Any]] = []
    found = map_parts(DiesUnlessTold, [{}] * n_items, actors=2, take=taken.append)
    assert found == taken == [{"rows": 1}] * n_items


def test_actors_that_are_killed_now_and_then_end_no_run(local_ray: None, tmp_path: Path) -> None:
    items = [{"how": "SIGKILL", "times": times} for times in (0, 2, 0, 2)]
    found = map_parts(Dies, items, actors=2, folder=tmp_path)
    assert [result["rows"] for result in found] == [1] * 4
    assert len(list(tmp_path.glob("*-*"))) == 4


def test_an_actor_works_on_several_parts_at_a_time_and_its_seconds_are_counted_once(local_ray: None) -> None:
    with counting_usage() as used:
        found = map_parts(Together, [{}] * 9, actors=1, at_once=3, count=3)
    assert [result["rows"] for result in found] == list(range(9))
    assert used.cpu_seconds < 2


def test_no_actor_takes_the_parts_of_the_others(local_ray: None) -> None:
    found = map_parts(Crowd, [{}] * 4, actors=2, at_once=6)  # the second may start when the first has done some
    assert max(result["most"] for result in found) <= 2


@pytest.mark.nightly
def test_of_parts_at_a_time_only_the_one_that_ends_its_worker_is_blamed(local_ray: None, tmp_path: Path) -> None:
    items = [{"name": f"part-{number}", "how": "SIGKILL", "rest": 0.5} for number in range(9)]
    items[4] |= {"times": 99, "rest": 0}
    with pytest.raises(StageError, match=r"^Dies: part-4 ended its worker 3 times: "):
        map_parts(Dies, items, actors=1, at_once=3, folder=tmp_path)
    items[4]["times"] = 5  # two more than the three above
    assert len(map_parts(Dies, items, actors=1, at_once=3, folder=tmp_path)) == 9


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("... Worker exits with an exit code 7.", r"exit code 7 \(process 12 on 10\.0\.0\.9\)"),
        ("... Worker exits with an exit code 1. The process receives a SIGTERM.", r"signal SIGTERM \(process 12 on "),
        ("Task was killed due to the node running low on memory.\nMemory on ...", r"out of memory: Ray killed it, as "),
        ("The actor died because its node has died. Node Id: ab", r"^its node was lost$"),
    ],
)
def test_what_ray_says_of_an_end_is_told_in_words(said: str, words: str) -> None:
    process = failures.WorkerProcess("ab", "10.0.0.9", 12, "", 0)
    assert re.search(words, failures.failure_cause(ray.exceptions.RayActorError("00", error_msg=said), process))


def test_the_kernels_kills_are_seen_by_its_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = failures.WorkerProcess("ab", "10.0.0.9", 12, str(tmp_path / "none.err"), 3)
    monkeypatch.setattr(failures, "_oom_kills", lambda: 3)
    assert failures._exit_cause(process) == "signal SIGKILL, or an exit without a word"
    monkeypatch.setattr(failures, "_oom_kills", lambda: 4)
    assert failures._exit_cause(process) == "out of memory: the kernel killed it (SIGKILL)"


def test_a_log_that_ray_has_moved_still_tells_the_cause(tmp_path: Path) -> None:
    process = failures.WorkerProcess("ab", "10.0.0.9", 12, str(tmp_path / "worker.err"), failures._oom_kills())
    (tmp_path / "old").mkdir()
    (tmp_path / "worker.err").write_text("*** SIGABRT received at time=1 on cpu 0 ***\n")
    (tmp_path / "worker.err").rename(tmp_path / "old" / "worker.err")  # as Ray's log monitor does
    assert failures._exit_cause(process) == "signal SIGABRT"


@pytest.mark.nightly
def test_workers_that_end_while_they_begin_are_tried_three_times(local_ray: None, tmp_path: Path) -> None:
    said = r"^Unbegun: the start of Unbegun ended its worker 3 times: (an end without a word|signal SIGKILL)"
    with pytest.raises(StageError, match=said):
        map_parts(Unbegun, [{}] * 4, actors=2, folder=tmp_path)


def test_a_lost_node_is_not_counted_against_a_part() -> None:
    tries = Attempts("embed: part-0")
    for _ in range(9):
        tries.record(ray.exceptions.NodeDiedError("its raylet is gone"), None)
    with pytest.raises(StageError, match=r"^embed: part-0 ended its worker 10 times: its node was lost\. "):
        tries.record(ray.exceptions.NodeDiedError("its raylet is gone"), None)


def test_a_workers_own_traceback_stays_with_its_error(local_ray: None) -> None:
    with pytest.raises(KeyError, match="missing") as error:
        run_on_one_node(misses_a_key)
    assert re.search(r'File ".*at_work\.py", line \d+, in misses_a_key', str(error.value.__cause__))


def test_what_a_pool_waits_for_is_told(local_ray: None, told: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(pool, "REPORT_WAIT_AFTER_S", 0.5)
    with ThreadPoolExecutor(1) as thread:
        with held(num_cpus=2):
            waiting = thread.submit(map_parts, Marks, [{}] * 2, actors=2, cpus=2, folder=tmp_path, error=None)
            deadline = time.monotonic() + 300
            while not told and time.monotonic() < deadline:
                time.sleep(0.05)
        assert len(waiting.result(timeout=300)) == 2
    assert re.match(r"Marks waits for (1 core|2 cores) on one node since ", told[0]), told  # as Ray saw the node last


def test_two_tasks_work_side_by_side(local_ray: None, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    found: list[bool] = []
    with run_concurrently(lambda: found.append(run_on_one_node(meets, one, other))):
        found.append(run_on_one_node(meets, other, one))
    assert found == [True, True]


def test_a_block_that_fails_ends_what_works_beside_it(local_ray: None, tmp_path: Path) -> None:
    started, never = tmp_path / "started", tmp_path / "never"

    def block() -> None:
        while not started.exists():
            time.sleep(0.05)
        raise StoreError("no answer")

    begun = time.monotonic()
    with (
        pytest.raises(StoreError, match="no answer"),
        run_concurrently(lambda: run_on_one_node(meets, started, never)),
    ):
        block()
    assert time.monotonic() - begun < 50  # it would have waited for 60 s


def test_what_fails_beside_a_block_is_told_when_the_block_is_done(local_ray: None) -> None:
    done = []

    def fails() -> None:
        raise StageError("no map")

    with pytest.raises(StageError, match="no map"), run_concurrently(fails):
        done.append(True)
    assert done


def test_what_fails_beside_a_block_ends_its_task(local_ray: None, tmp_path: Path) -> None:
    started, never = tmp_path / "started", tmp_path / "never"

    def fails() -> None:
        while not started.exists():
            time.sleep(0.05)
        raise StageError("no map")

    begun = time.monotonic()
    with pytest.raises(StageError, match="no map"), run_concurrently(fails):
        run_on_one_node(meets, started, never)
    assert time.monotonic() - begun < 50  # it would have waited for 60 s
