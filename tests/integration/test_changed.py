"""Somebody else deletes from a run's collection: what is missing is loaded again; no search of half of it counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pymilvus import MilvusClient

from clustering import collection_lifecycle
from clustering.milvus.embedded import embedded_server
from clustering.milvus.endpoint import Endpoint
from clustering.runs.directory import RunDir
from clustering.runs.parts import read_columns
from tests.integration.conftest import digests

pytestmark = [pytest.mark.ray, pytest.mark.full]


def delete(uri: str, name: str, expression: str) -> None:
    client = MilvusClient(uri=uri)
    client.delete(name, filter=expression)
    client.close()


@pytest.mark.nightly
def test_a_collection_that_has_lost_every_row_is_filled_again(covey, undisturbed, tmp_path):
    """The audit crashed on a range of keys of which none was there."""
    run = RunDir(tmp_path / "run")
    words = [*undisturbed.words, f"run.dir={run.path}"]
    assert covey(*words).status == 0
    with embedded_server(run.local("store")) as uri:
        (name,) = MilvusClient(uri=uri).list_collections()
        delete(uri, name, "row >= 0")
    result = covey(*words, "search.k=20")
    assert result.status == 0, result.err
    assert "holds 0 vectors in place of" in result.err
    report = run.report
    assert report["store"]["repaired_rows"] == report["store"]["rows"] == report["counts"]["texts"]
    assert report["search"]["recall"] == 1
    assert covey(*words).status == 0
    assert digests(run) == undisturbed.digests


@pytest.mark.parametrize("change", ["after", "replace"])
def test_rows_that_are_deleted_during_the_search_end_the_run(covey, undisturbed, tmp_path, monkeypatch, change):
    """It ended as ok, with a recall of 0.60."""
    run = RunDir(tmp_path / "run")
    words = [*undisturbed.words, f"run.dir={run.path}"]
    search: Callable[..., Any] = collection_lifecycle.search_neighbors

    def disturbed(run: RunDir, endpoint: Endpoint, *rest: Any) -> Any:
        found = search(run, endpoint, *rest) if change == "after" else None
        delete(endpoint.uri, endpoint.collection, "row < 100")
        if change == "replace":  # the count is right
            client = MilvusClient(uri=endpoint.uri)
            client.insert(endpoint.collection, [{"row": row, "vector": [1.0] * 256} for row in range(100)])
        return found or search(run, endpoint, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(collection_lifecycle, "search_neighbors", disturbed)
        result = covey(*words)
    assert result.status == 1
    last = result.err.splitlines()[-1]
    assert "has changed while it was searched: it " + ("differs in rows" if change == "replace" else "holds") in last
    assert "the same command loads what is missing and searches again" in last
    assert not (run / "neighbors").exists()
    assert "search" not in run.manifest["stages"]
    result = covey(*words)
    assert result.status == 0, result.err
    assert run.report["store"]["repaired_rows"] >= 100
    assert digests(run) == undisturbed.digests


def test_neighbors_found_in_half_a_collection_by_a_start_that_was_killed_are_given_up(
    covey, undisturbed, tmp_path, monkeypatch
):
    run = RunDir(tmp_path / "run")
    words = [*undisturbed.words, f"run.dir={run.path}"]
    search: Callable[..., Any] = collection_lifecycle.search_neighbors

    def killed(run: RunDir, endpoint: Endpoint, *rest: Any) -> Any:
        delete(endpoint.uri, endpoint.collection, "row >= 100")
        search(run, endpoint, *rest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(collection_lifecycle, "search_neighbors", killed)
        assert covey(*words).status == 130
    assert max(map(len, read_columns(run / "neighbors", ["neighbors"])["neighbors"].to_pylist())) == 50
    result = covey(*words)
    assert result.status == 0, result.err
    assert digests(run) == undisturbed.digests
