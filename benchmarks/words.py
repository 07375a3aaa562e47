"""Words beside an encoder's vectors (embed.lexical), by their share, on labelled sets and small samples of them.

    python -m benchmarks.words --data DIR --cache DIR --output benchmarks/results/words.json

DIR and cache are those of benchmarks.quality; the samples are those of benchmarks.granularity, each with weights of
its own terms. A score is the mean of NMI and ARI of `home`. `chosen without each set`: the share that is best on all
other sets (each with its samples, all with one weight), and what it gains over 0 on the set that had no part in it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.granularity import SMALL, draw
from benchmarks.quality import ENCODERS, SETS, agreement, load_case, truth_of_texts
from clustering import GraphHDBSCAN
from clustering.encoders.lexical import combine, words_of
from clustering.kernels.topk import FloatArray, IntArray
from clustering.kernels.words.lexical import count_terms, lexical_vectors, table_bits, weigh_terms

SHARES = (0.0, 0.2, 0.35, 0.5)
PRESETS = {"default": None, "events": "events", "topics": "topics"}


def load(name: str, encoder: str, data: Path, cache: Path) -> tuple[FloatArray, list[str], IntArray, IntArray]:
    """Vectors and texts of the distinct rows; of each record the distinct row and the true class."""
    origin = SMALL[name][0] if name in SMALL else name
    case = load_case(origin, SETS[origin], encoder, data, cache)
    texts = pq.read_table(cache / f"{origin}-texts.parquet")["text"].to_pylist()
    if name == origin:
        return case.vectors, texts, case.group, case.truth
    rows, truth = draw(truth_of_texts(case.group, case.truth), *SMALL[name][1:])
    return case.vectors[rows], [texts[row] for row in rows.tolist()], np.arange(rows.size), truth


def with_words(vectors: FloatArray, texts: list[str], share: float) -> FloatArray:
    """Vectors as a run with ``embed.lexical`` makes them."""
    if not share:
        return vectors
    found = words_of(texts)
    weights = weigh_terms(count_terms(found, table_bits(len(texts))), len(texts))
    return combine(vectors, lexical_vectors(found, weights), share)


def lines(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for encoder in given.encoders:
        for name in given.sets:
            vectors, texts, group, truth = load(name, encoder, given.data, given.cache)
            for share in given.shares:
                rows = with_words(vectors, texts, share)
                for preset in given.presets:
                    found = GraphHDBSCAN(preset=PRESETS[preset]).fit(rows)
                    score = agreement(truth, found.home_[group])
                    yield {"set": name, "encoder": encoder, "preset": preset, "share": share, "texts": len(texts),
                           "clusters": int(found.labels_.max()) + 1, "score": round(score, 4)}  # fmt: skip


def summary(found: list[dict[str, Any]]) -> Iterator[str]:
    score = {(line["encoder"], line["preset"], line["set"], line["share"]): line["score"] for line in found}
    for encoder, preset in dict.fromkeys(key[:2] for key in score):
        for small in (False, True):
            of_kind = {key: one for key, one in score.items() if (key[2] in SMALL) == small}
            own = {key[2:]: one for key, one in of_kind.items() if key[:2] == (encoder, preset)}
            sets = {name for name, _ in own}
            for share in sorted({share for _, share in own}):
                both = [name for name in sets if {(name, 0.0), (name, share)} <= own.keys()]
                changes = [own[name, share] - own[name, 0.0] for name in both]
                mean = np.mean([own[name, share] for name in both])
                kind = "samples" if small else "sets"
                yield f"{encoder}, {preset}, {share:g}: {len(both)} {kind}, mean {mean:.3f}, worst {min(changes):+.3f}"
    for encoder in dict.fromkeys(key[0] for key in score):
        chosen = list(left_out({key[2:]: one for key, one in score.items() if key[:2] == (encoder, "default")}))
        told = ", ".join(f"{share:g} ({gain:+.3f})" for share, gain in chosen)
        yield f"{encoder}: chosen without each set {told}; mean {np.mean([gain for _, gain in chosen]):+.3f}"


def left_out(score: dict[tuple[str, float], float]) -> Iterator[tuple[float, float]]:
    """For each set the share that is best on the others, and its gain over 0 on the set and its samples."""
    shares = sorted({share for _, share in score})
    names = dict.fromkeys(name for name, _ in score)
    whole = [name for name in names if all((name, share) in score for share in shares)]
    origin = {name: SMALL[name][0] if name in SMALL else name for name in whole}
    gains = {one: dict.fromkeys(shares, 0.0) for one in origin.values()}
    for name, one in origin.items():
        for share in shares:
            of_set = list(origin.values()).count(one)
            gains[one][share] += (score[name, share] - score[name, 0.0]) / of_set
    for one, own in gains.items():
        best = max(shares, key=lambda share: sum(others[share] for other, others in gains.items() if other != one))
        yield best, own[best]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--encoders", nargs="*", choices=ENCODERS, default=list(ENCODERS))
    parser.add_argument("--sets", nargs="*", choices=[*SETS, *SMALL], default=[*SETS, *SMALL])
    parser.add_argument("--shares", nargs="*", type=float, default=list(SHARES))
    parser.add_argument("--presets", nargs="*", choices=PRESETS, default=["default"])
    parser.add_argument("--output", type=Path, help="lines are added to those that it holds")
    given = parser.parse_args()
    held = json.loads(given.output.read_text())["cases"] if given.output and given.output.exists() else []
    for line in lines(given):
        print(json.dumps(line), flush=True)
        held.append(line)
        if given.output:
            given.output.write_text(json.dumps({"cases": held}, indent=1) + "\n", encoding="utf-8")
    print("\n".join(summary(held)))


if __name__ == "__main__":
    main()
