"""Corpora whose clusters are known: points around centres, headlines of a few events."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import csr_array

from clustering import schema
from clustering.encoders.base import unit_rows
from clustering.kernels.graph.blocks import Block
from clustering.kernels.graph.csr import MIN_DISTANCE, ascending_rows, check_lists, join_directions
from clustering.runs.directory import RunDir
from clustering.runs.kernel_inputs import BlockIndex, save_block, write_block_index
from clustering.runs.parts import part_name
from clustering.runs.storage import write_json, write_table
from clustering.sample import write_sample
from clustering.schema import vectors_schema
from clustering.stages.cluster import _cluster_sizes


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


def undirected_graph(
    rows: NDArray[np.int64],
    cols: NDArray[np.int64],
    distances: NDArray[np.float32],
    n_texts: int,
    floor: float = MIN_DISTANCE,
) -> csr_array:
    """The symmetric distance graph of directed edges in any order, as the stage graph makes it."""
    order = np.argsort(rows, kind="stable")
    listed = np.bincount(rows, minlength=n_texts)
    check_lists(0, listed, cols[order], distances[order], n_texts)
    indptr = np.concatenate([[0], np.cumsum(listed)])
    lists, everyone = (indptr, cols[order], distances[order]), np.arange(n_texts)
    indptr, indices, data = join_directions(lists, everyone, everyone, 0, [], floor)
    return csr_array((data, indices, indptr), shape=(n_texts, n_texts))


def leave_graph(run: RunDir, graph: csr_array) -> None:
    """Leave graph/ in one block, whose lists are the rows of the graph; they prove nothing."""
    n_rows = graph.shape[0]
    lists = (graph.indptr, *ascending_rows(graph))
    rows, keys = np.arange(n_rows), np.arange(n_rows, dtype=np.uint64)
    zeros, ones = np.zeros(n_rows, np.float32), np.ones(n_rows, np.int32)
    save_block(run, 0, Block(rows, graph.indptr, graph.indices, graph.data, zeros, *lists, keys, ones))
    write_block_index(run, BlockIndex(n_rows, [n_rows], [graph.nnz], [graph.nnz], [0], [0]))


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


def write_clustered(run: RunDir, n_records: int, part_records: int, seed: int = 0) -> int:
    """Leave what the stages before describe and report leave of generated headlines; return the distinct texts.

    The stories are the clusters. A broader layer joins some, a finer one cuts large ones in two, and each layer leaves
    other texts out. Strengths are often equal. A copy's line stands in a later part of members/ than its text.
    """
    write_sample(run.path / "sample.parquet", n_records, seed)
    sample = pq.read_table(run.path / "sample.parquet")
    (run.path / "sample.parquet").unlink()
    text = sample["title"].combine_chunks().dictionary_encode()
    row = text.indices.to_numpy().astype(np.int64)  # numbered by first appearance
    copies = np.bincount(row).astype(np.int32)
    n_texts = copies.size
    rng = np.random.default_rng(seed)
    label = np.full(n_texts, -1, np.int64)
    label[row] = sample["story"].to_numpy()
    _, label = np.unique(label, return_inverse=True)
    label = label.reshape(-1) - 1
    n_stories = int(label.max()) + 1
    broad = np.where(rng.random(n_texts) < 0.9, label % max(n_stories // 8, 1) + n_stories, -1)
    large = np.bincount(label[label >= 0], minlength=n_stories) > 20
    fine = np.where((label >= 0) & large[label], broad.max() + 1 + 2 * label + np.arange(n_texts) % 2, label)
    layers = np.column_stack([broad, label, fine])
    used, numbered = np.unique(np.append(layers.ravel(), np.arange(-1, n_stories)), return_inverse=True)
    layers = numbered.reshape(-1)[: layers.size].reshape(layers.shape).astype(np.int32) - 1
    strength = (rng.integers(1, 6, n_texts) / 5).astype(np.float32)
    assignment = {
        "row": np.arange(n_texts), "label": layers[:, 1], "strength": strength, "layers": layers.tolist(),
        "outlier_score": 1 - strength, "home": np.maximum(layers[:, 1], 0), "home_strength": strength,
    }  # fmt: skip
    write_table(run / "assignment.parquet", pa.table(assignment, schema=schema.ASSIGNMENT))
    texts, size = _cluster_sizes(layers, copies, used.size - 1)
    kept = {"chosen": 1, "layers": [np.unique(layer[layer >= 0]).tolist() for layer in layers.T],
            "parent": [-1] * (used.size - 1), "persistence": [0.5] * (used.size - 1), "texts": texts.tolist(),
            "size": size.tolist(), "link_share": [0.9] * (used.size - 1)}  # fmt: skip
    write_json(run / "layers.json", kept)
    clusters = {"label": np.arange(used.size - 1), "title": [f"Story {one}" for one in range(used.size - 1)],
                "size": size, "texts": texts, "terms": [["one", "two"]] * (used.size - 1),
                "exemplars": [["A text", "Another"]] * (used.size - 1)}  # fmt: skip
    columns = [
        clusters.get(name, pa.nulls(used.size - 1, kind))
        for name, kind in zip(schema.LAYERS.names, schema.LAYERS.types, strict=True)
    ]
    write_table(run / "layers.parquet", pa.table(columns, schema=schema.LAYERS))
    x, y = rng.normal(size=(2, n_texts)).astype(np.float32)
    new = np.r_[0, np.flatnonzero(np.diff(np.maximum.accumulate(row))) + 1]  # the record of each row's first appearance
    carried = pa.table([sample["id"], pa.array(row), sample["story"]], ["text_id", "row", "story"])
    for number, first in enumerate(range(0, n_records, part_records)):
        write_table(run / "members" / part_name(number), carried.slice(first, part_records))
        own = np.flatnonzero((new >= first) & (new < first + part_records))
        if own.size:
            columns = {"row": own, "text": text.dictionary.take(pa.array(own)), "copies": copies[own]}
            write_table(run / "texts" / part_name(number), pa.table(columns, schema=schema.TEXTS))
            places = {"row": own, "x": x[own], "y": y[own]}
            write_table(run / "coords" / part_name(number), pa.table(places, schema=schema.COORDS))
    return n_texts
