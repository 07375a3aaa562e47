"""From neighbor lists to labels: GraphHDBSCAN, hdbscan, fast_hdbscan and scikit-learn on the same graphs, in one run.

    pip install "covey[benchmarks]"
    python -m benchmarks.graph_to_labels --output benchmarks/results/graph-to-labels.json

Points lie in 8 dimensions, two thirds of them in groups of 50. Their exact k nearest (a k-d tree) are the lists; a few
edges that join the pieces are added, without which hdbscan and scikit-learn refuse. GraphHDBSCAN reads the lists, the
others the symmetric matrix, which is made for them beforehand. `covey` is plain HDBSCAN, as the rivals are; `covey
default` diffuses the distances and cuts by modularity. Every case runs in a process of its own, after a small one that
compiles; seconds are the least of the repeats, memory is what the process holds at most beyond the start of the first
fit.
`--scaling` instead times both alone on points in 3 dimensions while their number doubles.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

MIN_SAMPLES, MIN_CLUSTER_SIZE = 5, 10
MOST_DEFAULT = 2_500_000  # rows with which the default's scaling is measured
ROOM = 20 << 30  # bytes; a case that is known to need more is left out
NEEDS = {"hdbscan": 355, "fast_hdbscan": 160, "scikit-learn": 64, "covey": 60}  # bytes a stored edge, seen before


def points(n_rows: int, dim: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    rng = np.random.default_rng(0)
    grouped = n_rows * 2 // 3
    centers = rng.random((grouped // 50 + 1, dim))
    near = centers[np.arange(grouped) % len(centers)] + rng.normal(0, 0.01, (grouped, dim))
    found = np.concatenate([near, rng.random((n_rows - grouped, dim))])
    return found[rng.permutation(n_rows)]


def lists_of(n_rows: int, k: int, dim: int) -> csr_array:
    """The exact k nearest others of every row, and the edges that join their pieces."""
    where = points(n_rows, dim)
    away, other = cKDTree(where).query(where, k + 1, workers=-1)
    data, indices = away[:, 1:].astype(np.float32), other[:, 1:].astype(np.int32)
    indptr = np.arange(n_rows + 1, dtype=np.int32) * k
    lists = csr_array((data.ravel(), indices.ravel(), indptr), shape=(n_rows, n_rows))
    n_pieces, piece = connected_components(lists, directed=False)
    if n_pieces > 1:  # a chain through the first row of each
        first = np.unique(piece, return_index=True)[1]
        length = np.linalg.norm(where[first[1:]] - where[first[:-1]], axis=1).astype(np.float32)
        chain = csr_array((length, (first[:-1], first[1:])), shape=lists.shape)
        lists = csr_array(lists + chain)
    return lists


def save(folder: Path, graph: csr_array) -> Path:
    folder.mkdir()
    for name in ("data", "indices", "indptr"):
        np.save(folder / f"{name}.npy", getattr(graph, name))
    return folder


def load(folder: Path) -> csr_array:
    arrays = tuple(np.load(folder / f"{name}.npy") for name in ("data", "indices", "indptr"))
    return csr_array(arrays, shape=(arrays[2].size - 1,) * 2)


def fit(rival: str, graph: Any) -> Any:
    if rival.startswith("covey"):
        from clustering import GraphHDBSCAN

        plain = GraphHDBSCAN(MIN_SAMPLES, MIN_CLUSTER_SIZE, weights="distance", selection="eom")
        return (plain if rival == "covey" else GraphHDBSCAN()).fit(graph).labels_
    if rival == "hdbscan":
        import hdbscan

        model = hdbscan.HDBSCAN(min_samples=MIN_SAMPLES, min_cluster_size=MIN_CLUSTER_SIZE, metric="precomputed")
        return model.fit(graph).labels_
    if rival == "scikit-learn":
        from sklearn.cluster import HDBSCAN

        model = HDBSCAN(min_samples=MIN_SAMPLES, min_cluster_size=MIN_CLUSTER_SIZE, metric="precomputed", copy=False)
        return model.fit(graph).labels_
    from fast_hdbscan.hdbscan import clusters_from_spanning_tree, compute_minimum_spanning_tree

    algorithm = rival.removeprefix("fast_hdbscan ")
    tree = compute_minimum_spanning_tree(graph, min_samples=MIN_SAMPLES, metric="precomputed", algorithm=algorithm)
    tree = tree[0] if isinstance(tree, tuple) else tree
    return clusters_from_spanning_tree(tree, min_cluster_size=MIN_CLUSTER_SIZE)[0]


def measure(rival: str, folder: Path, small: Path, repeats: int) -> dict[str, Any]:
    from scipy.sparse import csr_matrix

    from clustering.monitoring.usage import measured_peak, peak_bytes

    def fresh(where: Path) -> Any:
        return load(where) if rival.startswith("covey") else csr_matrix(load(where))

    fit(rival, fresh(small))
    seconds, extra = [], 0
    for repeat in range(repeats):
        graph = fresh(folder)
        with measured_peak():
            before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            started = time.perf_counter()
            labels = fit(rival, graph)
            seconds.append(time.perf_counter() - started)
        extra = extra if repeat else peak_bytes() - before  # later ones find memory that the first has left
    return {
        "seconds": round(min(seconds), 3),
        "extra_mib": round(extra / 2**20),
        "extra_bytes_per_edge": round(extra / graph.nnz, 1),
        "extra_bytes_per_row": round(extra / graph.shape[0]),
        "repeats": repeats,
        "clusters": int(labels.max()) + 1,
        "noise": round(float((labels < 0).mean()), 4),
    }


def apart(rival: str, folder: Path, small: Path, repeats: int) -> dict[str, Any]:
    """The measurement in a process of its own, which may crash."""
    words = [sys.executable, "-m", "benchmarks.graph_to_labels", "--case", rival, str(folder), str(small), str(repeats)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=3600, check=False)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:300]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compare(sizes: list[int], neighbors: list[int], folder: Path) -> list[dict[str, Any]]:
    found = []
    tiny = lists_of(2000, 15, 8)
    small = save(folder / "small-lists", tiny), save(folder / "small-graph", csr_array(tiny.maximum(tiny.T)))
    for n_rows in sizes:
        for k in neighbors:
            lists = lists_of(n_rows, k, 8)
            symmetric = csr_array(lists.maximum(lists.T))
            cases = save(folder / f"lists-{n_rows}-{k}", lists), save(folder / f"graph-{n_rows}-{k}", symmetric)
            stored = symmetric.nnz
            del lists, symmetric
            for rival in (
                "covey",
                "covey default",
                "fast_hdbscan boruvka",
                "fast_hdbscan kruskal",
                "scikit-learn",
                "hdbscan",
            ):
                line: dict[str, Any] = {"n": n_rows, "k": k, "rival": rival}
                need = NEEDS[rival.split()[0]] * stored
                once = rival == "hdbscan" and stored > 8_000_000
                side = 0 if rival.startswith("covey") else 1
                left_out = f"left out: about {need / 2**30:.0f} GiB"
                line |= (
                    apart(rival, cases[side], small[side], 1 if once else 3) if need < ROOM else {"failed": left_out}
                )
                print(json.dumps(line), flush=True)
                found.append(line)
    return found


def scale(sizes: list[int], folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    before: dict[str, float] = {}
    small = save(folder / "small", lists_of(2000, 15, 3))
    for n_rows in sizes:
        case = save(folder / str(n_rows), lists_of(n_rows, 15, 3))
        for rival in ("covey", "covey default"):
            if rival == "covey default" and n_rows > MOST_DEFAULT:
                continue
            line = {"n": n_rows, "k": 15, "rival": rival, **apart(rival, case, small, 3)}
            if rival in before:
                line["times_the_half"] = round(line["seconds"] / before[rival], 2)
            before[rival] = line["seconds"]
            print(json.dumps(line), flush=True)
            found.append(line)
        shutil.rmtree(case)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50_000, 200_000, 1_000_000])
    parser.add_argument("--neighbors", type=int, nargs="+", default=[15, 50])
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        rival, folder, small, repeats = given.case
        print(json.dumps(measure(rival, Path(folder), Path(small), int(repeats))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        lines = (
            scale(given.sizes, Path(scratch)) if given.scaling else compare(given.sizes, given.neighbors, Path(scratch))
        )
    packages = ("covey", "numpy", "numba", "hdbscan", "scipy", "scikit-learn", "fast-hdbscan")
    report = {
        "cases": lines,
        "min_samples": MIN_SAMPLES,
        "min_cluster_size": MIN_CLUSTER_SIZE,
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }
    if given.output:
        given.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
