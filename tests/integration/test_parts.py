"""parts.py on a real Ray: what single tasks are given, and what becomes of a pool in which a part fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from clustering import parts, pipeline
from clustering.config import build_config
from clustering.errors import ConfigError, StoreError
from clustering.parts import live_nodes, map_parts, needing, on_worker
from clustering.rundir import RunDir

pytestmark = [pytest.mark.ray, pytest.mark.full]


class Marks:
    """Leaves a file for each part, and fails as it is told."""

    def __init__(self, folder: Path, error: type[Exception] | None) -> None:
        self.folder, self.error = folder, error

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        (self.folder / str(item["item"])).touch()
        if self.error:
            raise self.error([f"part {item['item']}"]) if self.error is ConfigError else self.error("no answer")
        return {"rows": 1}


def _given() -> dict[str, float]:
    found: dict[str, float] = ray.get_runtime_context().get_assigned_resources()
    return found


def test_a_single_task_has_all_cores_right_after_a_pool_and_after_another(local_ray: None, tmp_path: Path) -> None:
    map_parts(Marks, [{}] * 4, actors=2, folder=tmp_path, error=None)
    for _ in range(3):
        with needing(1 << 20):
            assert on_worker(_given) == {"CPU": 2, "memory": 1 << 20}


def test_a_task_is_tried_with_the_memory_that_another_job_leaves(local_ray: None, monkeypatch: Any) -> None:
    (node,) = live_nodes()

    class Holder:
        def held(self) -> bool:
            return True

    holder: Any = ray.remote(Holder).options(num_cpus=0, memory=node.memory_bytes // 2).remote()
    assert ray.get(holder.held.remote())
    told: list[str] = []
    monkeypatch.setattr(parts.log, "warning", lambda line, *words: told.append(line % words))
    monkeypatch.setattr(parts, "_idle", {})  # as in a driver that has just begun
    with needing(node.memory_bytes):
        given = on_worker(_given)["memory"]
    ray.kill(holder)
    assert 0 < given <= node.memory_bytes // 2 + 1
    (line,) = told
    assert line.startswith(f"given is planned with {node.memory_bytes >> 20} MiB, and no node has more than ")


def test_a_larger_node_than_there_is_is_waited_for(local_ray: None) -> None:
    """Where one is lost, or an autoscaler will bring one up."""
    (node,) = live_nodes()
    with needing(node.memory_bytes + 1):
        assert parts._wanted("graph") == {"num_cpus": 1, "memory": node.memory_bytes + 1}


def test_a_run_that_not_all_nodes_see_is_refused(local_ray: None, tmp_path: Path, monkeypatch: Any) -> None:
    run, (node,) = RunDir(tmp_path / "run"), live_nodes()
    server = build_config({"store": {"uri": "http://milvus:19530"}})
    nodes = [node, replace(node, address="10.0.0.9")]
    monkeypatch.setattr(pipeline, "live_nodes", lambda: nodes)
    pipeline.check_nodes(server, run)
    with pytest.raises(ConfigError, match=r"^store\.uri=embedded serves one machine, and this cluster works on 2 "):
        pipeline.check_nodes(build_config({}), run)
    monkeypatch.setattr(pipeline, "_sees", lambda run, run_id: False)
    with pytest.raises(ConfigError, match=r"/run is not the same place on 10\.0\.0\.9, .*; take a folder"):
        pipeline.check_nodes(server, run)
    monkeypatch.setattr(pipeline, "live_nodes", lambda: nodes[:1])
    pipeline.check_nodes(build_config({}), run)  # on one machine nothing is asked


def test_a_run_in_the_jobs_copy_of_its_folder_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    """Which is where a relative run.dir of a job with --working-dir would lie."""
    copy = tmp_path / "working_dir_files" / "_ray_pkg_0123456789abcdef"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    (copy / "texts.csv").write_text("id,title\n1,one\n", encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        pipeline.check_everything(build_config({"run": {"dir": "runs/one"}, "read": {"paths": ["texts.csv"]}}))
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
