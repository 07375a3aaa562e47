"""Near-duplicates against all pairs, and their time and memory, on headlines.

    python -m benchmarks.near_duplicates --data DIR --output benchmarks/results/near-duplicates.json

DIR holds, at any depth, the Parquet files named in FILES. `pairs`: on the first 50,000 headlines of the first file,
found pairs and families against those of all 1.25 billion pairs, each compared by its sets of words. `scale`: seconds,
and bytes a text beyond the texts themselves, for so many headlines of all files, in one process on one core (Linux).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.measured import memory_of
from clustering.kernels.words import near_copies, word_sets
from clustering.kernels.words.near_copies import Sets
from clustering.sources.folding import compile_folding
from clustering.workers.graph.families import Families, find_families, scan_texts, text_buffers
from clustering.workers.tasks import make_pieces

FILES = ("reddit_top150.parquet", "german_frontpages.parquet", "weibo_hot_search.parquet")
PAIRS_OF, SCALES = 50_000, (250_000, 500_000, 1_000_000)
PART = 32_768


def read_texts(data: Path, names: tuple[str, ...]) -> pa.Array:
    """The distinct titles of some files."""
    found = [pq.read_table(next(data.rglob(name)), columns=["title"])["title"].drop_null() for name in names]
    return pc.unique(pa.chunked_array([chunk for one in found for chunk in one.chunks]))


def families_of(texts: pa.Array, copies: NDArray[np.int32]) -> tuple[Families, NDArray[Any]]:
    """The families of distinct texts, as a run finds them, and the bytes of each before the name of an outlet, or -1.

    copies : shape (n_texts,), records of each text
    """
    parts = [texts.slice(at, PART) for at in range(0, len(texts), PART)]
    cuts, _, families, _ = find_families(make_pieces, [make_pieces(4, scan_texts, parts, copies)])
    return families[0], cuts[0][0]


def leaders_of(texts: pa.Array) -> NDArray[Any]:
    """The row of each text's family."""
    return families_of(texts, np.ones(len(texts), np.int32))[0].row


@numba.njit(nogil=True)  # type: ignore[untyped-decorator]
def all_pairs(words: Any, ends: Any, rarest: int) -> Any:
    found = [(0, 0)]
    for one in range(ends.size - 1):
        for other in range(one + 1, ends.size - 1):
            a, b, c, d = ends[one], ends[one + 1], ends[other], ends[other + 1]
            if min(b - a, d - c) > 1 and near_copies.sets_agree(words, a, b, c, d, rarest):
                found.append((one, other))
    return found[1:]


def compare_pairs(texts: pa.Array) -> dict[str, Any]:
    found = word_sets.scan_words(*text_buffers(texts))
    off = word_sets.tails_off(found, word_sets.outlets(word_sets.count_tails(found), len(texts)))
    words, ends = word_sets.word_sets(found, off)
    ordered = word_sets.order_by_rarity(words, ends, word_sets.count_words(words))
    sets, rarest = Sets(ordered, ends, np.ones(len(texts), np.int32)), near_copies.rare_bound(len(texts))
    members, key_ends = near_copies.shared_keys(*near_copies.make_keys(sets, rarest)[0])
    pairs = {*map(tuple, near_copies.agreeing_pairs(members, key_ends, sets, rarest).tolist())}
    exact = {*all_pairs(ordered, ends, rarest)}
    rows = leaders_of(texts)
    leader = near_copies.find_leaders(np.array(sorted(exact), np.int64), sets.copies)
    true_rows = np.unique(leader, return_inverse=True)[1]
    return {
        "texts": len(texts), "pairs": len(pairs), "exact_pairs": len(exact),
        "precision": len(pairs & exact) / max(len(pairs), 1), "recall": len(pairs & exact) / max(len(exact), 1),
        "families_are_equal": bool(np.array_equal(rows, true_rows.reshape(-1))), "leaders": int(rows.max()) + 1,
    }  # fmt: skip


def measure_scale(texts: pa.Array) -> dict[str, Any]:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before = memory_of("VmRSS")
    started = time.perf_counter()
    rows = leaders_of(texts)
    seconds = time.perf_counter() - started
    grown = memory_of("VmHWM") - before
    return {"texts": len(texts), "leaders": int(rows.max()) + 1, "seconds": round(seconds, 2),
            "bytes_a_text": round(grown / len(texts))}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    compile_folding()
    texts = read_texts(args.data, FILES)
    texts = texts.take(pa.array(np.random.default_rng(0).permutation(len(texts))))
    scale = [measure_scale(texts.slice(0, n)) for n in SCALES]
    found = {"scale": scale, "pairs": compare_pairs(read_texts(args.data, FILES[:1]).slice(0, PAIRS_OF))}
    print(json.dumps(found, indent=1))
    if args.output:
        args.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
