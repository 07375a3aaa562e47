"""Rows in and queries out of the embedded store, by the product's own loader and searcher.

    python benchmarks/embedded_store.py --texts 2000 20000 50000 --dims 256 1024 --busy 0 2

Vectors of a run's kind (clustered, unit length) lie in parts of the product's size. Each case starts the embedded
server anew, loads all parts through ``loader.Loader`` and searches some through ``search.Searcher``, once with the
sizes of requests that a server gets, which were the embedded store's, too, and once with its own. Then the searcher
compares the vectors itself, as it does for a run on FLAT, with matrix products on all cores. --busy N keeps N
processes at work beside it. A case that takes longer than --limit seconds is stopped, and its speed is that of the
rows which were there by then. --request-kib tries other sizes. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from clustering.config.sections import StoreSection
from clustering.errors import StoreError
from clustering.kernels.memory import GROUP_ROWS
from clustering.milvus import loader, query
from clustering.milvus.audit import audit_collection
from clustering.milvus.channel import Channel
from clustering.milvus.collection import prepare_collection
from clustering.milvus.embedded import embedded_server
from clustering.milvus.endpoint import Endpoint, connected
from clustering.milvus.index import make_searchable
from clustering.milvus.loader import Loader
from clustering.runs.directory import RunDir
from clustering.runs.parts import part_name, part_names
from clustering.runs.storage import read_table, write_table
from clustering.schema import vectors_schema
from clustering.stages.search import Searcher

K, QUERIES, OWN_QUERIES = 50, 400, 4096


def made_vectors(folder: Path, n_texts: int, dim: int) -> RunDir:
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(max(n_texts // 50, 1), dim)).astype(np.float32)
    run = RunDir(folder)
    for number, start in enumerate(range(0, n_texts, GROUP_ROWS)):
        size = min(GROUP_ROWS, n_texts - start)
        some = centers[rng.integers(0, len(centers), size)] + 0.6 * rng.normal(size=(size, dim)).astype(np.float32)
        some = (some / np.linalg.norm(some, axis=1, keepdims=True)).astype(np.float32)
        column = pa.FixedSizeListArray.from_arrays(pa.array(some.ravel()), dim)
        rows = pa.array(range(start, start + size), pa.int64())
        write_table(run / "vectors" / part_name(number), pa.table([rows, column], schema=vectors_schema(dim)))
    return run


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@contextlib.contextmanager
def sizes(request_bytes: int, in_flight: int, products: int) -> Iterator[None]:
    kept = loader.EMBEDDED_REQUEST_BYTES, loader.EMBEDDED_IN_FLIGHT, query.EMBEDDED_PRODUCTS, query.EMBEDDED_IN_FLIGHT
    loader.EMBEDDED_REQUEST_BYTES, loader.EMBEDDED_IN_FLIGHT = request_bytes, in_flight
    query.EMBEDDED_PRODUCTS, query.EMBEDDED_IN_FLIGHT = products, in_flight
    try:
        yield
    finally:
        loader.EMBEDDED_REQUEST_BYTES, loader.EMBEDDED_IN_FLIGHT = kept[:2]
        query.EMBEDDED_PRODUCTS, query.EMBEDDED_IN_FLIGHT = kept[2:]


def rows_per_second(run: RunDir, endpoint: Endpoint, n_texts: int, limit_s: float) -> tuple[float, bool]:
    """Rows a second through the loader, and whether all of them came within the limit."""
    endpoint = dataclasses.replace(endpoint, patience_s=limit_s)
    items = {"pieces": [{"name": name} for name in part_names(run / "vectors")]}
    failed: list[BaseException] = []

    def load() -> None:
        try:
            Loader(run, endpoint, again=False)(items)
        except StoreError as error:
            failed.append(error)

    started = time.perf_counter()
    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    thread.join(limit_s)
    seconds, whole = time.perf_counter() - started, not thread.is_alive() and not failed
    if whole:
        return n_texts / seconds, True
    with contextlib.suppress(Exception), Channel(dataclasses.replace(endpoint, patience_s=120)) as channel:
        return channel.count() / (time.perf_counter() - started), False
    return 0.0, False


def queries_per_second(run: RunDir, endpoint: Endpoint, n_texts: int, dim: int, compares_itself: bool) -> float:
    """Queries a second through one searcher; it asks the endpoint, or compares the vectors itself on all cores."""
    searcher = Searcher(run, endpoint, "L2", {}, K, np.eye(1, dim, dtype=np.float32), n_texts, None, compares_itself)
    table = read_table(run / "vectors" / part_name(0)).slice(0, OWN_QUERIES if compares_itself else QUERIES)
    asked = RunDir(Path(f"{run.path}-asked-{compares_itself}"))
    write_table(asked / "vectors" / part_name(0), table)
    searcher.run = asked
    started = time.perf_counter()
    searcher({"name": part_name(0)})
    return len(table) / (time.perf_counter() - started)


def measure(run: RunDir, n_texts: int, dim: int, limit_s: float) -> str:
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(OSError):
        home = Path(folder) / "store"
        with embedded_server(home) as uri:
            endpoint = Endpoint(uri, "texts", home=str(home))
            with connected(endpoint) as client, Channel(endpoint) as channel:
                prepare_collection(run, client, "texts", StoreSection(), dim, "mark")
                rows, whole = rows_per_second(run, endpoint, n_texts, limit_s)
                if not whole:
                    return f"{rows:,.0f} (stopped after {limit_s:g} s) | | |"
                started = time.perf_counter()
                make_searchable(client, channel, StoreSection(), n_texts)
                assert audit_collection(run, channel, n_texts) == []
                audit = time.perf_counter() - started
            asked, own = (queries_per_second(run, endpoint, n_texts, dim, itself) for itself in (False, True))
    return f"{rows:,.0f} | {audit:.1f} | {asked:,.0f} | {own:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, nargs="+", default=[2000, 20_000, 50_000])
    parser.add_argument("--dims", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--request-kib", type=int, nargs="+", default=[])
    parser.add_argument("--limit", type=float, default=120)
    parser.add_argument("--without-before", action="store_true", help="only the embedded store's own sizes")
    options = parser.parse_args()
    products = query.EMBEDDED_PRODUCTS
    cases: dict[str, tuple[int, int, int]] = {
        f"{kib} KiB, one in flight": (kib << 10, 1, products)
        for kib in [*options.request_kib, loader.EMBEDDED_REQUEST_BYTES >> 10]
    }
    if not options.without_before:
        cases = {"as a server's: 12 MiB, two": (loader.REQUEST_BYTES, loader.IN_FLIGHT, 1 << 62), **cases}
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, k = {K}\n")
    print("| texts | dim | busy loops | requests | rows/s in | index and audit s | queries/s | itself | load average |")
    print("| ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for n_texts in options.texts:
        for dim in options.dims:
            for loops in options.busy:
                for name, case in cases.items():
                    with tempfile.TemporaryDirectory() as folder, busy(loops), sizes(*case):
                        found: Any = measure(
                            made_vectors(Path(folder) / "run", n_texts, dim), n_texts, dim, options.limit
                        )
                    load = os.getloadavg()[0]
                    print(f"| {n_texts:,} | {dim:,} | {loops} | {name} | {found} | {load:.1f} |", flush=True)


if __name__ == "__main__":
    main()
