"""The recall of a search: what its workers see of a sample gives what a search of all vectors gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clustering import schema
from clustering.config.sections import SearchSection, StoreSection
from clustering.milvus.channel import Channel
from clustering.milvus.collection import prepare_collection
from clustering.milvus.embedded import embedded_server
from clustering.milvus.endpoint import Endpoint, connected
from clustering.milvus.index import make_searchable
from clustering.milvus.loader import Loader
from clustering.runs import parts
from clustering.runs.directory import RunDir
from clustering.runs.index import read_index, write_index
from clustering.runs.parts import part_name, read_columns
from clustering.runs.storage import write_table
from clustering.stages.search import search_neighbors
from clustering.workers import recall
from clustering.workers.recall import RecallSample, find_true_neighbors
from tests.planted import blobs

pytestmark = pytest.mark.ray
IVF = StoreSection(index="IVF_FLAT", params={"nlist": 16})


def run_of(path: Path, vectors: np.ndarray, n_parts: int) -> RunDir:
    run = RunDir(path)
    for number, rows in enumerate(np.array_split(np.arange(len(vectors)), n_parts)):
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors[rows].ravel()), vectors.shape[1])
        table = pa.table([rows, column], schema=schema.vectors_schema(vectors.shape[1]))
        write_table(run / "vectors" / part_name(number), table)
    return run


def slow_recall(run: RunDir, vectors: np.ndarray, rows: np.ndarray, k: int) -> float:
    lists, shares = read_columns(run / "neighbors", ["neighbors"])["neighbors"], []
    for row in rows.tolist():
        away = ((vectors.astype(np.float64) - vectors[row]) ** 2).sum(axis=1)
        away[row] = np.inf
        shares.append((away[lists[row].as_py()] <= np.sort(away)[k - 1] + recall.TIE).sum() / k)
    return float(np.mean(shares))


@pytest.mark.full
def test_the_driver_reads_no_vectors_for_a_sample(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("read by the driver")

    vectors = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    run = run_of(tmp_path, vectors, 3)
    monkeypatch.setattr(parts, "read_table", refuse)
    sample = RecallSample(run, "L2", 5, 20, 60, seed=1)
    np.testing.assert_array_equal(sample.vectors, vectors[sample.rows])


def test_the_searchers_measure_the_recall_also_of_parts_that_an_earlier_start_left(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a pass over all vectors")

    cfg = SearchSection(k=10, params={"nprobe": 2}, recall_sample=150)
    vectors = blobs(seed=2, n_blobs=12, each=50, dim=8).vectors
    n_texts = len(vectors)
    run, home = run_of(tmp_path / "run", vectors, 5), tmp_path / "store"
    expected_rows = RecallSample(run, "L2", 10, 150, n_texts, seed=3).rows
    with embedded_server(home) as uri:
        endpoint = Endpoint(uri, "texts", patience_s=60, home=str(home))
        with connected(endpoint) as client, Channel(endpoint) as channel:
            prepare_collection(run, client, "texts", IVF, 8, "mark")
            # A quarter of the vectors is not there, as if the index never found it.
            pieces = [{"name": part_name(at), "first": 120 * at, "stop": 120 * at + 90} for at in range(5)]
            Loader(run, endpoint)({"pieces": pieces})
            make_searchable(client, channel, IVF, n_texts)
        found: list[dict[str, Any]] = []
        for left in ([], [0, 3], [0, 1, 2, 3, 4]):
            done = read_index(run / "neighbors")
            write_index(run / "neighbors", [part for part in done if part.name in map(part_name, left)])
            with monkeypatch.context() as patched:
                patched.setattr(recall, "exact_neighbors", refuse)
                found.append(search_neighbors(run, endpoint, IVF, cfg, n_texts, seed=3))
        target = SearchSection(k=10, target_recall=0.5, recall_sample=150)
        run.remove("neighbors")
        tuned = search_neighbors(run, endpoint, IVF, target, n_texts, seed=3)
        slow_tuned = slow_recall(run, vectors, expected_rows, 10)
        run.remove("neighbors")
        search_neighbors(run, endpoint, IVF, cfg, n_texts, seed=3)
    slow = slow_recall(run, vectors, expected_rows, 10)
    assert 0.2 < slow < 1
    keys = ("recall", "recall_low", "recall_high", "recall_sample")
    assert [figures["recall"] for figures in found] == [round(slow, 5)] * 3
    assert len({tuple(figures[key] for key in keys) for figures in found}) == 1
    assert found[0]["recall_low"] < slow < found[0]["recall_high"]
    assert found[0]["recall_sample"] == 150
    assert tuned["recall"] == round(slow_tuned, 5) >= found[0]["recall"]


def test_distances_of_rounded_vectors_count_by_their_rows(local_ray: None, tmp_path: Path) -> None:
    vectors = blobs(seed=2, n_blobs=4, each=30, dim=8).vectors
    run = run_of(tmp_path, vectors, 2)
    exact, rounded = (RecallSample(run, "L2", 3, 20, 120, 1, is_exact) for is_exact in (True, False))
    find_true_neighbors(exact, rounded)
    neighbors, counts = rounded.true.rows.ravel().copy(), np.full(20, 3)
    neighbors[::3] = (rounded.rows + 60) % 120  # the nearest of each list is replaced by one of another blob
    distances = np.full(60, 2, np.float32)  # what a coarse code says
    assert exact.shares(neighbors, distances, counts).tolist() == [0] * 20
    np.testing.assert_allclose(rounded.shares(neighbors, distances, counts), 2 / 3)
