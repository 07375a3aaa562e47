"""pipeline.py and collection_lifecycle.py with stages that only leave figures: their order, and what is done again."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from clustering import collection_lifecycle, pipeline, preflight
from clustering.config.loading import build_config
from clustering.milvus.collection import ChangedError
from clustering.milvus.endpoint import Endpoint
from clustering.runs.directory import RunDir
from clustering.runs.inventory import READS

LATER = ["graph", "forest", "cluster", "describe", "plot", "report"]  # project works beside them
FIGURES = {"read": {"texts": 9, "records": 9, "text_bytes": 90}, "embed": {"dim": 8, "vectors": 9}}
WORK = {"read_texts": "read", "embed_texts": "embed", "build_graph": "graph", "build_forest": "forest",
        "cluster_graph": "cluster", "describe_clusters": "describe", "project_texts": "project", "plot_map": "plot",
        "write_report": "report"}  # fmt: skip
Run = Callable[..., RunDir]


@pytest.fixture
def done() -> list[str]:
    """What was done, in its order."""
    return []


@pytest.fixture
def run(done: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``run(key=value)`` runs the pipeline on one file and a server, with such keys of section run."""

    def stub(name: str) -> Callable[..., Any]:
        return lambda *_, **_options: done.append(name) or dict(FIGURES.get(name, {}))  # type: ignore[func-returns-value]

    for function, stage in WORK.items():
        monkeypatch.setattr(pipeline, function, stub(stage))
    for function in ("make_plan", "check_nodes", "refuse_blind_nodes", "check_store", "require_gpus"):
        monkeypatch.setattr(pipeline, function, lambda *_: None)
    monkeypatch.setattr(pipeline, "ray_session", nullcontext)
    monkeypatch.setattr(pipeline, "start_compiling", lambda _: None)
    monkeypatch.setattr(pipeline, "track_stage", lambda run, name, stage, work, expected: work())
    for function, name in {"store_vectors": "store", "search_neighbors": "search", "confirm_store": "confirm",
                           "release_store": "release", "drop_collection": "drop"}.items():  # fmt: skip
        monkeypatch.setattr(collection_lifecycle, function, stub(name))
    monkeypatch.setattr(collection_lifecycle, "confirm_unchanged", lambda *_: None)
    monkeypatch.setattr(collection_lifecycle, "is_in_use", lambda _: False)
    endpoint = Endpoint("http://milvus.example", "covey_one")
    monkeypatch.setattr(collection_lifecycle, "open_store", lambda *_: nullcontext(endpoint))
    texts = tmp_path / "texts.csv"
    texts.write_text("id,title\n1,one\n2,two\n", encoding="utf-8")
    read = {"paths": [str(texts)], "text_columns": ["title"], "id_column": "id"}
    embed, store = {"encoder": "static"}, {"uri": "http://milvus.example"}

    def run_with(paths: list[str] | None = None, **words: Any) -> RunDir:
        done.clear()
        own, files = {"dir": str(tmp_path / "run"), **words}, read | ({"paths": paths} if paths else {})
        return pipeline.run_pipeline(build_config({"run": own, "embed": embed, "store": store, "read": files}))

    return run_with


def without_project(done: list[str]) -> list[str]:
    return [name for name in done if name != "project"]


def test_results_of_another_file_are_not_replaced_without_a_word(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(pipeline.log, "warning", lambda text, *words: told.append(text % words))
    run()
    run()
    run(resume=False)
    assert told == []
    other = tmp_path / "other.csv"
    other.write_text("id,title\n1,three\n", encoding="utf-8")
    run([str(other)])
    texts = tmp_path / "texts.csv"
    assert told == [f"{tmp_path / 'run'} holds the results of {texts}; this run replaces them when it is done"]


def test_the_stages_run_in_order_and_a_finished_run_does_nothing(run: Run, done: list[str]) -> None:
    manifest = run().manifest
    assert without_project(done) == ["read", "embed", "store", "search", "release", *LATER]
    assert done.index("release") < done.index("project") < done.index("plot")
    assert manifest["loaded"] is None
    run()
    assert done == []


def test_a_stage_follows_those_whose_artefacts_it_reads_and_project_works_beside_the_others(
    run: Run, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    meet = threading.Barrier(2, timeout=60)

    def meeting(stage: str) -> Callable[..., Any]:
        return lambda *_, **_options: (meet.wait() >= 0 and done.append(stage)) or {}  # type: ignore[func-returns-value]

    monkeypatch.setattr(pipeline, "project_texts", meeting("project"))
    monkeypatch.setattr(pipeline, "describe_clusters", meeting("describe"))
    run()
    for stage, read in READS.items():
        assert max(done.index(other) for other in read) < done.index(stage), stage


def test_a_server_that_has_answered_is_waited_for_with_the_patience(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    monkeypatch.setattr(
        collection_lifecycle, "store_vectors", lambda run, endpoint, *_: seen.append(endpoint.timeout_s) or {}
    )
    run()
    assert seen == [300]


def test_what_a_killed_start_with_other_settings_has_left_loaded_is_released(
    run: Run, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run()

    def killed(*_: object) -> None:
        raise SystemExit(137)

    with monkeypatch.context() as patched:
        patched.setattr(collection_lifecycle, "search_neighbors", killed)
        patched.setattr(collection_lifecycle, "_release", killed)  # nor does it release
        with pytest.raises(SystemExit):
            run(seed=5)
    manifest = run().manifest
    assert done == ["release"]
    assert manifest["loaded"] is None
    run()
    assert done == []


def test_a_start_anew_drops_the_collection_first(run: Run, done: list[str]) -> None:
    run()
    run(resume=False)
    assert without_project(done) == ["drop", "read", "embed", "store", "search", "release", *LATER]


def test_another_seed_searches_the_confirmed_collection_again(run: Run, done: list[str]) -> None:
    run()
    run(seed=5)
    assert without_project(done) == ["confirm", "search", "release", *LATER]


def test_a_collection_that_changes_during_the_search_is_loaded_and_searched_again(
    run: Run, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(*_: object) -> None:
        raise ChangedError("somebody has written to it")

    with monkeypatch.context() as patched:
        patched.setattr(collection_lifecycle, "confirm_unchanged", changed)
        with pytest.raises(ChangedError):
            run()
    assert done == ["read", "embed", "store", "search", "release"]
    run()
    assert without_project(done) == ["store", "search", "release", *LATER]


def test_what_ends_a_stage_of_a_run_starts_no_ray() -> None:
    code = """
import ray
from clustering.workers.tasks import run_concurrently
with run_concurrently(lambda: None):
    pass
assert not ray.is_initialized()
"""  # in a process of its own: tests beside this one may have started Ray
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("embed", "gpus", "told"),
    [
        ({"encoder": "bge-m3"}, 2, "Ray has 2 GPUs, and the encoder works on CPUs; embed.gpus_per_actor=1 takes them"),
        ({"encoder": "bge-m3", "gpus_per_actor": 1}, 2, ""),
        ({"encoder": "bge-m3"}, 0, ""),
        ({"encoder": "static"}, 2, ""),
    ],
)
def test_gpus_that_nobody_takes_are_told(
    embed: dict[str, Any], gpus: float, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(preflight, "cluster_gpus", lambda: gpus)
    monkeypatch.setattr(preflight.log, "warning", lambda text, *given: warnings.append(text % given))
    preflight.require_gpus(build_config({"embed": embed}))
    assert warnings == ([told] if told else [])
