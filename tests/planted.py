"""Corpora whose clusters are known: points around centres, headlines of a few events."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_array

from clustering.encoders.base import unit_rows
from clustering.kernels.graph.csr import undirected_graph
from clustering.runs.parts import part_name
from clustering.runs.storage import write_table
from clustering.schema import vectors_schema


class Blobs(NamedTuple):
    vectors: NDArray[np.float32]  # (n, dim), unit length
    truth: NDArray[np.int64]  # -1 is noise


def blobs(seed: int, n_blobs: int = 6, each: int = 30, noise: int = 0, dim: int = 8, spread: float = 0.1) -> Blobs:
    """Points around random centres on the unit sphere, then noise all over it, in shuffled order."""
    rng = np.random.default_rng(seed)
    centres = unit_rows(rng.normal(size=(n_blobs, dim)))
    points = np.repeat(centres, each, axis=0) + rng.normal(0, spread, (n_blobs * each, dim))
    vectors = unit_rows(np.concatenate([points, rng.normal(size=(noise, dim))]))
    truth = np.concatenate([np.repeat(np.arange(n_blobs), each), np.full(noise, -1)])
    order = rng.permutation(len(truth))
    return Blobs(vectors[order], truth[order])


def pair_distances(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Euclidean distances of all pairs, in double precision; the diagonal is infinite."""
    exact = vectors.astype(np.float64)
    distances = np.linalg.norm(exact[:, None] - exact[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    return distances


def neighbor_graph(vectors: NDArray[np.float32], k: int | None = None) -> csr_array:
    """The distance graph of each point's k nearest others; of all others without k."""
    k = len(vectors) - 1 if k is None else k
    distances = pair_distances(vectors)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :k]
    lengths = np.take_along_axis(distances, nearest, axis=1).ravel().astype(np.float32)
    return undirected_graph(np.repeat(np.arange(len(vectors)), k), nearest.ravel(), lengths, len(vectors))


def edges_of(graph: csr_array) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Each undirected edge once: low, high, distance, ascending by (low, high)."""
    low = np.repeat(np.arange(graph.shape[0], dtype=np.int64), np.diff(graph.indptr))
    once = graph.indices > low
    return low[once], graph.indices[once].astype(np.int64), graph.data[once]


def write_vectors(folder: Path, vectors: NDArray[np.float32], part_rows: int) -> Path:
    """Leave the vectors as an artefact of several parts."""
    dim = vectors.shape[1]
    for part, first in enumerate(range(0, len(vectors), part_rows)):
        rows = np.arange(first, min(first + part_rows, len(vectors)))
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors[rows].ravel()), dim)
        write_table(folder / part_name(part), pa.table([pa.array(rows), column], schema=vectors_schema(dim)))
    return folder


EVENTS = {
    "flood": ["Flood closes the old bridge in Garford", "Garford bridge closed after river flood",
              "River flood: old Garford bridge still closed"],
    "election": ["Elif Kirk wins the mayor election", "Mayor election goes to Elif Kirk",
                 "Elif Kirk elected mayor in landslide vote"],
    "recall": ["Electric kettles recalled over fire risk", "Fire risk: maker recalls electric kettles",
               "Recall of electric kettles after fires"],
    "final": ["Late goal wins the hockey cup final", "Hockey cup final decided by late goal",
              "Thriller in hockey final ends with late goal"],
}  # fmt: skip
ODD_TEXTS = ["", " ", "😀😀", "北京大学", "ש", "x" * 50, "Flood in Garford", "\u200b"]

# Headlines of some languages: every place with every happening.
HAPPENINGS = {
    "en": ["The bridge in {} is closed after the flood", "Fire in {}: police are looking for a witness",
           "Mayor of {} wants to build a new school", "Why the train to {} was late again this morning",
           "{} wins the final after a late goal", "People in {} are waiting for the new hospital"],
    "de": ["Die Brücke in {} ist nach dem Hochwasser für alle gesperrt", "Brand in {}: Polizei sucht nach Zeugen",
           "Bürgermeister von {} will eine neue Schule bauen", "Warum der Zug nach {} heute wieder zu spät kam",
           "{} gewinnt das Endspiel durch ein spätes Tor", "Was die Menschen in {} jetzt über das Krankenhaus wissen"],
    "zh": ["{}大桥因洪水关闭，居民被要求绕行", "{}发生火灾，警方正在寻找目击者", "{}市长计划新建一所学校",
           "为什么开往{}的列车今天早上又晚点了", "{}在决赛最后时刻进球获胜", "{}的居民正在等待新的医院"],
    "ru": ["Мост в городе {} закрыт после наводнения", "Пожар в городе {}: полиция ищет свидетелей",
           "Мэр города {} хочет построить новую школу", "Почему поезд в {} сегодня снова опоздал",
           "{} выигрывает финал благодаря позднему голу", "Жители города {} ждут новую больницу"],
}  # fmt: skip
PLACES = {
    "en": "Garford Millbrook Ashton Westhaven Thornby Kilburn Oakridge Stanmore Redcliffe Hartley".split(),
    "de": "Garfurt Mühlbach Aschau Westhafen Dornheim Kilburg Eichenried Steinmoor Rotfels Hirschau".split(),
    "zh": "北京 上海 广州 深圳 成都 杭州 武汉 西安 南京 重庆".split(),
    "ru": "Москва Казань Самара Омск Пермь Тверь Рязань Пенза Тула Сочи".split(),
}


def headlines_in(code: str) -> list[str]:
    """60 headlines in a language: en, de, zh or ru."""
    return [happening.format(place) for happening in HAPPENINGS[code] for place in PLACES[code]]
