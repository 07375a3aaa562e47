"""coords/, the assignment, texts and records in; map.html (interactive), map.png, map.svg and tree.png out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clustering.config.sections import PlotSection
from clustering.kernels.memory import LARGEST_PART
from clustering.kernels.printable import one_line
from clustering.runs.directory import RunDir
from clustering.runs.index import read_index
from clustering.runs.parts import group_parts, parts, walk_tables
from clustering.runs.storage import atomic_write, read_table
from clustering.schema import Figures
from clustering.viewer.columns import collect_columns
from clustering.viewer.page import write_page
from clustering.viewer.picture import NO_GLYPH, draw_map, draw_tree, find_middles
from clustering.workers.tasks import HERE, IN_TASKS, MOST_TASKS, Mapper, run_on_one_node

TITLE_CHARACTERS = 60  # of the run's name in the headline


def plot_map(run: RunDir, cfg: PlotSection, name: str, seed: int, task_texts: int = LARGEST_PART) -> Figures:
    """Leave map.html, map.png, map.svg and tree.png.

    One task has the coordinates and labels of all texts; others read what the interactive map shows of the texts, their
    records and their neighbors.

    task_texts : of a task; a run of no more is a single one
    Returns: drawn (texts in the interactive map), without_font (names in the picture that no font here draws in full).
    """
    return run_on_one_node(_plot, run, cfg, name, seed, task_texts)


def _plot(
    run: RunDir, cfg: PlotSection, name: str, seed: int, task_texts: int = LARGEST_PART, mapper: Mapper | None = None
) -> Figures:
    xy = _read_places(run)
    mapper = mapper or (IN_TASKS if len(group_parts(run / "texts", task_texts, MOST_TASKS)) > 1 else HERE)
    columns = collect_columns(run, cfg, xy, seed, task_texts, MOST_TASKS, mapper.map)
    with atomic_write(run / "map.html") as temporary, temporary.open("w", encoding="utf-8", newline="") as page:
        page.writelines(write_page(columns, name))
    drawn = columns.points["x"].size
    del columns
    label = read_table(run / "assignment.parquet", columns=["label"])["label"].to_numpy()
    clusters = read_table(run / "layers.parquet", columns=["title", "terms", "size", "parent", "layers"])
    noise = float((label < 0).mean()) if label.size else 0.0
    counts = f"{label.size:,} texts, {label.max(initial=-1) + 1:,} clusters, {noise:.0%} noise"  # noise may be hidden
    title = f"{one_line(name, TITLE_CHARACTERS)}: {counts}"
    if cfg.noise == "hidden":
        xy, label = xy[label >= 0], label[label >= 0]
    named = find_middles(xy, label, clusters["parent"].to_pylist())
    without_font = draw_map(run, xy, label, named, clusters, title)
    draw_tree(run, clusters, f"{one_line(name, TITLE_CHARACTERS)}: the largest clusters, from broad to fine")
    warning = (
        f"{without_font} of the names in map.png hold characters for which this machine has no font. The picture shows "
        f"{NO_GLYPH} or the cluster's number instead; map.html and this report show the names in full. Install a font "
        f"with these characters, such as the package fonts-noto-cjk, before the next run."
    )
    return {"drawn": drawn, "without_font": without_font, "warnings": [warning] if without_font else []}


def _read_places(run: RunDir) -> NDArray[np.float32]:
    """float32, shape (n_texts, 2): where every text lies."""
    xy = np.empty((read_index(run / "coords").rows, 2), np.float32)
    at = 0
    for table in walk_tables(parts(run / "coords"), ["x", "y"]):
        for axis in (0, 1):
            xy[at : at + len(table), axis] = table[axis].to_numpy()
        at += len(table)
    return xy
