"""Artefacts of a run in; the columns that map.html shows out, in the order of the page."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clustering.config.sections import PlotSection
from clustering.kernels.printable import one_line, printable
from clustering.kernels.topk import IntArray
from clustering.runs.directory import RunDir
from clustering.runs.index import read_index
from clustering.runs.parts import group_parts, part_names, walk_row_texts, walk_tables
from clustering.runs.storage import ParquetGroups, read_json, read_table
from clustering.schema import Figures
from clustering.text.cells import cut_strings, printable_strings, shown_strings
from clustering.viewer.records import CELL_CHARACTERS, TEXT_CHARACTERS, Map, collect_records

FULL = 65_535  # the largest number of 16 bits
NEAR = 5  # nearest texts of each, of the run's own lists
TITLE_CHARACTERS = 300
COLORS = 12  # of the page's palette


@dataclass
class MapColumns:
    """What the page holds.

    points, records : arrays with an entry for each point, or record. The records of a point follow each other, and
        points["records"] counts them; where some were left out, points["copies"] counts all of the run.
    texts : of the points; own : of the records, null where it is that of the point; None where all are
    cells : columns of the records, of which text_id is the first; all are large_string
    near : int32, shape (n_points, NEAR), positions of the nearest texts, -1 for none
    clusters : columns with a value for each cluster of every layer; facts : what else the page tells
    """

    points: dict[str, NDArray[Any]]
    records: dict[str, NDArray[Any]]
    texts: pa.Array
    own: pa.Array | None
    cells: dict[str, pa.Array]
    near: NDArray[np.int32]
    clusters: dict[str, list[Any]]
    facts: Figures


def collect_columns(
    run: RunDir, cfg: PlotSection, xy: NDArray[np.float32], seed: int, task_texts: int, most_tasks: int, mapped: Map
) -> MapColumns:
    """What the page shows of a run. Tasks read texts, records and neighbors.

    xy : float32, shape (n_texts, 2); task_texts : of a task, at least; mapped : runs tasks
    """
    known = read_json(run / "layers.json", "layers", "chosen")
    rows = choose_rows(run, xy.shape[0], cfg.points, seed)
    facts = ["layers", "home", "strength", *({"outlier_score"} & set(cfg.hover))]
    assigned = ParquetGroups(run / "assignment.parquet").take(rows, facts).combine_chunks()
    layers = assigned["layers"].combine_chunks().flatten().to_numpy().reshape(rows.size, -1)
    places = quantized(xy, rows)
    order = np.lexsort((interleaved(places), *layers.T[::-1]))  # similar texts follow each other, which packs well
    layers, places, assigned = layers[order], places[order], assigned.take(pa.array(order))
    points: dict[str, NDArray[Any]] = {"x": places[:, 0], "y": places[:, 1]}
    points |= {f"layer{number}": layers[:, number] for number in range(layers.shape[1])}
    points["home"] = assigned["home"].to_numpy()
    points |= {name: _bytes_of(assigned[name]) for name in facts[2:]}
    if "row" in cfg.hover:
        points["row"] = rows[order].astype(np.uint32)
    position = np.empty(rows.size, np.int64)  # in the page, of each row
    position[order] = np.arange(rows.size)

    bounds = [group.stop for group in group_parts(run / "texts", task_texts, most_tasks)[:-1]]
    pieces = np.split(rows, np.searchsorted(rows, bounds))
    read = list(mapped(_read_shown, ((run, own) for own in pieces if own.size)))
    texts = pa.concat_arrays(read).take(pa.array(order))
    del read
    records = collect_records(run, rows, position, 2 * cfg.points, task_texts, most_tasks, mapped)
    points["records"] = records.counts
    left_out = 0
    if records.copies is not None:
        points["copies"] = records.copies
        left_out = int(records.copies.sum(dtype=np.int64) - records.counts.sum(dtype=np.int64))
    return MapColumns(
        points, records.arrays, texts, records.texts, records.cells,
        _nearest(run, rows, position, task_texts, most_tasks, mapped),
        _clusters(run, layers, places),
        {"texts": xy.shape[0], "run_records": read_index(run / "members").rows, "records_left_out": left_out,
         "layers": [len(layer) for layer in known["layers"]], "chosen": known["chosen"], "columns": records.kinds,
         "hover": list(cfg.hover), "noise": cfg.noise == "shown"},
    )  # fmt: skip


def choose_rows(run: RunDir, n_texts: int, most: int, seed: int) -> IntArray:
    """All rows, or an even sample of them in which every cluster has its strongest text. Ascending.

    most : of the sample; a run with more clusters gets a text of as many of them
    """
    if n_texts <= most:
        return np.arange(n_texts)
    best = np.zeros(0, np.int64)  # row of the strongest text of each cluster
    height = np.zeros(0, np.float32)
    first = 0
    for table in walk_tables([run / "assignment.parquet"], ["layers", "strength"]):
        layers = table["layers"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
        strength = table["strength"].to_numpy()
        n_clusters = int(layers.max(initial=-1)) + 1
        if n_clusters > best.size:
            best = np.append(best, np.full(n_clusters - best.size, -1))
            height = np.append(height, np.full(n_clusters - height.size, -1, np.float32))
        for layer in layers.T:
            at = np.flatnonzero(layer >= 0)
            at = at[np.lexsort((-at, strength[at]))]  # the last one written is the strongest, then the first row
            at = at[strength[at] > height[layer[at]]]
            best[layer[at]], height[layer[at]] = at + first, strength[at]
        first += len(table)
    random = np.random.default_rng(seed)
    kept = np.unique(best[best >= 0])
    kept = random.choice(kept, most, replace=False) if kept.size > most else kept
    others = np.setdiff1d(np.arange(n_texts), kept, assume_unique=True)
    return np.sort(np.concatenate([kept, random.choice(others, most - kept.size, replace=False)]))


def quantized(xy: NDArray[np.float32], rows: IntArray) -> NDArray[np.uint16]:
    """Places of some rows in the page, with one scale for both axes; the few far outliers lie at its edge.

    xy : float32, shape (n_texts, 2); Returns: uint16, shape (n_rows, 2)
    """
    low, high = np.percentile(xy, [0.05, 99.95], axis=0)
    span = float((high - low).max()) * 1.06 or 1.0
    placed: NDArray[np.float64] = ((xy[rows] - (low + high) / 2) / span + 0.5) * FULL
    return np.rint(placed).clip(0, FULL).astype(np.uint16)


def interleaved(places: NDArray[np.uint16]) -> NDArray[np.uint32]:
    """Morton's order: near places have near numbers. places : uint16, shape (n_points, 2); Returns: (n_points,)"""
    spread = places.astype(np.uint32)
    for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
        spread = (spread | (spread << np.uint32(shift))) & np.uint32(mask)
    return spread[:, 0] | (spread[:, 1] << np.uint32(1))


def _bytes_of(share: pa.ChunkedArray) -> NDArray[np.uint8]:
    """A share from 0 to 1 in 255 steps."""
    steps: NDArray[np.float32] = np.rint(np.nan_to_num(share.to_numpy()) * 255)
    return steps.clip(0, 255).astype(np.uint8)


def _read_shown(run: RunDir, rows: IntArray) -> pa.Array:
    """The texts of some rows, ascending, as the page shows them: large_string."""
    texts = [shown_strings(held) for _, held in walk_row_texts(run, rows)]
    return pa.concat_arrays([cut_strings(printable_strings(own), TEXT_CHARACTERS) for own in texts])


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _nearest(
    run: RunDir, rows: IntArray, position: IntArray, task_texts: int, most_tasks: int, mapped: Map
) -> NDArray[np.int32]:
    """int32, shape (n_points, NEAR): positions of the nearest texts, -1 for none, as in a page that has only a sample.

    rows : of the points, ascending; position : in the page, of each
    """
    near = np.full((rows.size, NEAR), -1, np.int32)
    if rows.size < 2 or rows[-1] != rows.size - 1 or not part_names(run / "neighbors"):
        return near  # in a sample, hardly any of a text's neighbors would be there
    groups = group_parts(run / "neighbors", task_texts, most_tasks)
    for row, found in mapped(_read_nearest, ((run, group.names) for group in groups)):
        near[position[row]] = np.where(found >= 0, position[found], -1)
    return near


def _read_nearest(run: RunDir, names: list[str]) -> tuple[IntArray, NDArray[np.int32]]:
    """The rows of some parts, and the first of their lists: int64, shape (n_rows,), and int32, shape (n_rows, NEAR)."""
    rows, found = [], []
    for table in walk_tables([run / "neighbors" / name for name in names], ["row", "neighbors"]):
        lengths = pc.list_value_length(table["neighbors"]).to_numpy().astype(np.int64)
        listed = table["neighbors"].combine_chunks().flatten().to_numpy()
        line = np.repeat(np.arange(lengths.size), lengths)
        place = np.arange(line.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        nearest = np.full((lengths.size, NEAR), -1, np.int32)
        nearest[line[place < NEAR], place[place < NEAR]] = listed[place < NEAR]
        rows.append(table["row"].to_numpy())
        found.append(nearest)
    return np.concatenate(rows), np.concatenate(found)


def _clusters(run: RunDir, layers: NDArray[np.int32], places: NDArray[np.uint16]) -> dict[str, list[Any]]:
    """What the page tells of the clusters of all layers.

    Column ``box``: of their points, the 5, 50 and 95 % quantiles of x, and those of y; zeros where none is shown.
    ``heart``: the same of those where the cluster is densest, since one may lie in several places.
    """
    table = read_table(run / "layers.parquet")
    box, heart = np.zeros((len(table), 6), np.int64), np.zeros((len(table), 6), np.int64)
    for label in layers.T[::-1]:
        own = np.flatnonzero(label >= 0)
        _measure(box, label[own], places[own])
        own = own[in_hearts(label[own], places[own])]
        _measure(heart, label[own], places[own])
    terms = [[one_line(term, 80) for term in own] for own in table["terms"].to_pylist()]
    titles = [one_line(title, TITLE_CHARACTERS) for title in table["title"].to_pylist()]
    return {
        "title": titles,
        "terms": terms,
        "exemplars": [
            [_cut(printable(text), CELL_CHARACTERS) for text in own] for own in table["exemplars"].to_pylist()
        ],
        "size": table["size"].to_pylist(),
        "texts": table["texts"].to_pylist(),
        "parent": pc.fill_null(table["parent"], -1).to_pylist(),
        "layers": table["layers"].to_pylist(),
        "color": [color_of(own, title) for own, title in zip(terms, titles, strict=True)],
        "box": box.tolist(),
        "heart": heart.tolist(),
    }


def _measure(box: NDArray[np.int64], label: NDArray[np.int32], places: NDArray[np.uint16]) -> None:
    """Set the box of each cluster that has points. label : shape (n_points,), of ``places``"""
    for axis in (0, 1):
        order = np.lexsort((places[:, axis], label))
        found, first, size = np.unique(label[order], return_index=True, return_counts=True)
        for column, share in enumerate((0.05, 0.5, 0.95)):
            at = first + np.floor((size - 1) * share + 0.5).astype(np.int64)
            box[found, 3 * axis + column] = places[order[at], axis]


def in_hearts(label: NDArray[np.int32], places: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Which points lie where their cluster is densest: in nine cells of a grid of 64 x 64, whose middle has the most.

    label : int32, shape (n_points,), 0 or more; places : uint16, shape (n_points, 2); Returns: shape (n_points,)
    """
    side = 66  # with an empty cell around the grid
    cell = (places >> 10).astype(np.int64) + 1
    key = (label.astype(np.int64) * side + cell[:, 0]) * side + cell[:, 1]
    found, counts = np.unique(key, return_counts=True)
    around = np.zeros(found.size, np.int64)
    for step in (across * side + down for across in (-1, 0, 1) for down in (-1, 0, 1)):
        at = np.minimum(np.searchsorted(found, found + step), max(found.size - 1, 0))
        around += np.where(found[at] == found + step, counts[at], 0)
    order = np.lexsort((-around, found // side**2))  # of each cluster the densest cell first
    owner, first = np.unique(found[order] // side**2, return_index=True)
    middle = found[order[first]][np.searchsorted(owner, label)]
    away = np.stack([middle // side % side, middle % side], 1) - cell
    inside: NDArray[np.bool_] = np.abs(away).max(axis=1, initial=0) <= 1
    return inside


def color_of(terms: list[str], title: str) -> int:
    """A cluster's color in the page's palette: by its strongest term, so that it stays when sizes change."""
    return zlib.crc32(one_line(terms[0] if terms else title, 80).casefold().encode()) % COLORS
