"""Clusters with and without the times of their texts (cluster.time_scale): real, generated and planted ones.

    python -m benchmarks.dated --data DIR --cache DIR --output benchmarks/results/dated.json

DIR and cache are those of benchmarks.quality. `uci` has the times of its records, which tell little but the order in
which one program collected the stories; `sample` is the shipped generator's. In `planted`, each true class of a set has
a day within 30, and its texts are a normal distribution around it, with a spread of 1 to 30 days; `none` draws the
times of all texts alike. A score is the mean of NMI and ARI of `home`; `at` gives it for a share of the cosine that
time takes, at the scale of the rule, and `chosen` is what the rule decides.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from benchmarks.exactness import exact_lists
from benchmarks.granularity import SMALL, sample
from benchmarks.quality import ENCODERS, SETS, Case, agreement, find_file, load_case, truth_of_texts
from clustering import GraphHDBSCAN
from clustering.encoders.loading import load_encoder
from clustering.kernels.graph.csr import min_distance
from clustering.kernels.graph.time_gaps import TimeScale, lengthen_by_time, measure_time_scale
from clustering.kernels.topk import FloatArray
from clustering.runs.kernel_inputs import NEAREST
from clustering.sample import write_sample

SHARES = (0.0, 0.15, 0.3, 0.5)
SPREADS = (1.0, 3.0, 10.0, 30.0, None)  # days; none: no class has a day of its own
PLANTED = ("uci", "gnews", "so", "ag", "uci-3to6", "gnews-3to6", "gnews-4to12", "uci-5to20", "reddit-5to10")
DAY = pd.Timedelta("1D")


def with_uci_times(encoder: str, data: Path, cache: Path) -> tuple[Case, FloatArray]:
    case = load_case("uci", SETS["uci"], encoder, data, cache)
    records = pq.read_table(find_file(SETS["uci"], data), columns=["title", "published_at"]).to_pandas()
    records["title"] = records["title"].str.split().str.join(" ")
    times = pd.to_datetime(records["published_at"], utc=True).groupby(records["title"]).min()
    texts = pq.read_table(cache / "uci-texts.parquet")["text"].to_pylist()
    return case, ((times[texts] - times.min()) / DAY).to_numpy(np.float32)


def generated(encoder: str) -> tuple[Case, FloatArray]:
    with tempfile.TemporaryDirectory() as folder:
        write_sample(Path(folder, "sample.csv"), 4000, seed=0)
        with Path(folder, "sample.csv").open(encoding="utf-8") as file:
            records = [row for row in csv.DictReader(file) if row["story"] != "-1"]
    first = {row["title"]: row for row in sorted(records, key=lambda row: row["time"], reverse=True)}
    rows = sorted(first.values(), key=lambda row: row["id"])
    times = pd.to_datetime([row["time"] for row in rows])
    vectors = load_encoder(ENCODERS[encoder]).encode([row["title"] for row in rows]).vectors
    truth = np.unique([row["story"] for row in rows], return_inverse=True)[1]
    return Case(vectors, *exact_lists(vectors), np.arange(len(rows)), truth), ((times - times.min()) / DAY).to_numpy(
        np.float32
    )


def planted(name: str, encoder: str, data: Path, cache: Path) -> Iterator[tuple[str, Case, FloatArray]]:
    origin = SMALL[name][0] if name in SMALL else name
    case = load_case(origin, SETS[origin], encoder, data, cache)
    if name in SMALL:
        case = sample(case, *SMALL[name][1:])
    truth = truth_of_texts(case.group, case.truth)
    for spread in SPREADS:
        rng = np.random.default_rng(1)
        days = rng.uniform(0, 30, truth.max() + 1)[truth]
        days = rng.uniform(0, 30, truth.size) if spread is None else days + rng.normal(0, spread, truth.size)
        yield f"{name}, {'no' if spread is None else f'{spread:g}'} days", case, days.astype(np.float32)


def cases(given: argparse.Namespace) -> Iterator[tuple[str, str, str, Case, FloatArray]]:
    for encoder in ENCODERS:
        yield "uci", "real", encoder, *with_uci_times(encoder, given.data, given.cache)
        yield "sample", "generated", encoder, *generated(encoder)
        for name in PLANTED:
            for told, case, days in planted(name, encoder, given.data, given.cache):
                yield told, "planted", encoder, case, days


def score(case: Case, days: FloatArray, scale: TimeScale) -> float:
    others, distances = case.indices.astype(np.int64), case.distances.copy()
    if scale.share:
        listed = np.full(len(others), others.shape[1])
        lengthen_by_time(listed, others.ravel(), distances.ravel(), 0, days, scale, "L2", min_distance("L2"))
    found = GraphHDBSCAN().fit(neighbors=(others, distances))
    return round(agreement(case.truth, found.home_[case.group]), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    lines: list[dict[str, Any]] = []
    for name, times, encoder, case, days in cases(given):
        nearest = np.abs(days[case.indices[:, :NEAREST]] - days[:, None]).ravel()
        found = measure_time_scale(nearest, days)
        at = {share: score(case, days, TimeScale(found.days, share, 0)) for share in SHARES}
        lines.append(
            {"set": name, "times": times, "encoder": encoder, "texts": len(days),
             **{key: round(one, 3) for key, one in vars(found).items()}, "at": at,
             "chosen": score(case, days, found) if found.share else at[0.0]}
        )  # fmt: skip
        print(json.dumps(lines[-1]), flush=True)
    if given.output:
        given.output.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
