"""coords/, the assignment, texts and records in; map.html (interactive), map.png, map.svg and tree.png out."""

from __future__ import annotations

import colorsys
import re
import textwrap
import unicodedata
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clustering.config.sections import PlotSection
from clustering.kernels.memory import LARGEST_PART, PICTURE_POINTS
from clustering.kernels.printable import one_line
from clustering.runs.directory import RunDir
from clustering.runs.index import read_index
from clustering.runs.parts import group_parts, parts, walk_tables
from clustering.runs.storage import atomic_write, read_table
from clustering.schema import Figures
from clustering.text.fonts import fonts_for
from clustering.viewer.columns import collect_columns
from clustering.viewer.page import write_page
from clustering.workers.tasks import HERE, IN_TASKS, MOST_TASKS, Mapper, run_on_one_node

NOISE = "#c4c8cf"
NAMED = 40  # clusters whose titles are in the picture, as far as there is room
TITLE_CHARACTERS = 60  # of the run's name in the headline
NAME_CHARACTERS = 66  # of a cluster's title in the picture, in three lines
WIDE = ("W", "F")  # East Asian widths of characters that take two columns
NO_GLYPH = "□"  # in the picture, in place of characters that no font of this machine has
TREE_ROOTS = 25  # clusters of the broadest layer in the picture of the tree
LEAST_SHARE = 0.0005  # of the picture's height, half a pixel: lower boxes, and those in them, are left out
NAMED_SHARE = 0.012  # of the picture's height, from which a cluster has its name there
Middle = tuple[int, float, float]  # of a cluster: its number, x and y


class Box(NamedTuple):
    """A cluster in the picture of the tree."""

    left: int
    right: int
    bottom: float
    top: float


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
    clusters = read_table(run / "layers.parquet", columns=["title", "size", "parent", "layers"])
    noise = float((label < 0).mean()) if label.size else 0.0
    counts = f"{label.size:,} texts, {label.max(initial=-1) + 1:,} clusters, {noise:.0%} noise"  # noise may be hidden
    title = f"{one_line(name, TITLE_CHARACTERS)}: {counts}"
    if cfg.noise == "hidden":
        xy, label = xy[label >= 0], label[label >= 0]
    middles = _middles(xy, label, NAMED)
    without_font = _draw_map(run, xy, label, middles, clusters, title, seed)
    _draw_tree(run, clusters, f"{one_line(name, TITLE_CHARACTERS)}: the largest clusters, from broad to fine")
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


def _sample_rows(n_rows: int, most: int, seed: int) -> NDArray[np.int64]:
    """All rows, or an even sample of them with ``most`` rows; ascending."""
    return np.arange(n_rows) if n_rows <= most else np.sort(np.random.default_rng(seed).choice(n_rows, most, False))


def label_colors(label: NDArray[np.int32]) -> NDArray[np.str_]:
    """A color (#rrggbb) for each label: grey for noise, else hues a golden angle apart, so that near numbers differ.

    label : int32, shape (n_texts,)
    """
    palette = []
    for number in range(int(label.max(initial=-1)) + 1):
        light, saturation = (0.42, 0.56, 0.34)[number % 3], (0.72, 0.6, 0.5)[number // 3 % 3]
        red, green, blue = colorsys.hls_to_rgb(number * 0.61803398875 % 1, light, saturation)
        palette.append(f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}")
    return np.array([*palette, NOISE])[label]  # label -1 takes the last one


def view_limits(values: NDArray[np.float32]) -> tuple[float, float]:
    """The range that holds nearly all points, with a margin; a few far outliers would shrink the map to a dot.

    values : float32, shape (n_points,), one coordinate
    """
    if not values.size:
        return -1.0, 1.0
    low, high = np.percentile(values, [0.05, 99.95])
    margin = 0.05 * float(high - low) or 1.0
    return float(low) - margin, float(high) + margin


def _middles(xy: NDArray[np.float32], label: NDArray[np.int32], n_named: int) -> list[Middle]:
    """The first clusters that have texts here, each with the median of their places."""
    found = []
    for number in range(min(n_named, int(label.max(initial=-1)) + 1)):
        own = xy[label == number]
        if len(own):
            x, y = np.median(own, axis=0)
            found.append((number, float(x), float(y)))
    return found


def _draw_map(
    run: RunDir, xy: Any, label: NDArray[np.int32], middles: list[Middle], clusters: pa.Table, title: str, seed: int
) -> int:
    """Leave map.png and map.svg. Returns: the number of names that no font here draws in full."""
    from matplotlib.patheffects import withStroke

    figure = _new_figure()
    axes = figure.add_subplot()
    size = float(np.clip(1e5 / max(label.size, 1), 0.5, 24))
    drawn = _sample_rows(label.size, PICTURE_POINTS, seed)
    order = drawn[np.argsort(label[drawn] >= 0, kind="stable")]  # noise first, so that clusters lie on top
    axes.scatter(xy[order, 0], xy[order, 1], c=label_colors(label[order]), s=size, linewidths=0, rasterized=True)
    titles = clusters["title"].to_pylist()
    families, missing = fonts_for("".join(titles[number] for number, _, _ in middles))
    shown = {number: picture_name(titles[number], number, missing) for number, _, _ in middles}
    # Names lie below the middle of a cluster, so that its points stay visible; two prices in $ are no formula.
    style: Any = {
        "xytext": (0, -9), "textcoords": "offset points", "ha": "center", "va": "top", "color": "#1f2430",
        "fontsize": 7, "fontfamily": families, "parse_math": False, "in_layout": False,
        "path_effects": [withStroke(linewidth=2, foreground="white")],
    }  # fmt: skip
    names = [axes.annotate(shown[number], (x, y), **style) for number, x, y in middles]
    axes.set_xlim(view_limits(xy[:, 0]))
    axes.set_ylim(view_limits(xy[:, 1]))
    axes.set_axis_off()
    axes.set_title(title, loc="left", fontsize=12, parse_math=False)
    hide_overlapping(figure, names)
    _save(figure, run, "map.png", "map.svg")
    return sum(bool(missing & set(titles[number])) for number in shown)


def _new_figure() -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 10), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, run: RunDir, *names: str) -> None:
    """Leave a picture in the formats of the names; the same picture gives the same bytes."""
    from matplotlib import rc_context

    for name in names:
        kind = name.rpartition(".")[2]
        with atomic_write(run / name) as temporary, rc_context({"svg.hashsalt": name}):
            figure.savefig(temporary, format=kind, metadata={"Date": None} if kind == "svg" else None)


def tree_boxes(size: list[int], parent: list[int | None], layers: list[list[int]], most: int) -> dict[int, Box]:
    """Where the picture of the tree shows each cluster: a box over its layers, as high as its share of the records.

    size, parent, layers : of each cluster; most : clusters of the broadest layer that are shown, the largest first
    Returns: for each cluster that is shown its left and right end, in layers, and its lower and upper one, of 0 to 1
    """
    inside: list[list[int]] = [[] for _ in size]
    for number, around in enumerate(parent):
        if around is not None:
            inside[around].append(number)

    def largest(numbers: list[int]) -> list[int]:
        return sorted(numbers, key=lambda number: (-size[number], number))

    found: dict[int, Box] = {}
    roots = largest([number for number, around in enumerate(parent) if around is None])[:most]
    scale = 1 / max(sum(size[number] for number in roots), 1)
    places = [(roots, 1.0)]
    while places:
        numbers, top = places.pop()
        for number in numbers:
            if size[number] * scale < LEAST_SHARE:
                break  # the others are no larger
            bottom = top - size[number] * scale
            found[number] = Box(min(layers[number]), max(layers[number]) + 1, bottom, top)
            places.append((largest(inside[number]), top))
            top = bottom
    return found


def _draw_tree(run: RunDir, clusters: pa.Table, title: str) -> None:
    """Leave tree.png: the layers side by side, each cluster beside the finer ones in it."""
    from matplotlib.patches import Rectangle

    figure = _new_figure()
    axes = figure.add_subplot()
    titles, sizes = clusters["title"].to_pylist(), clusters["size"].to_pylist()
    boxes = tree_boxes(sizes, clusters["parent"].to_pylist(), clusters["layers"].to_pylist(), TREE_ROOTS)
    named = [number for number, box in boxes.items() if box.top - box.bottom >= NAMED_SHARE]
    families, missing = fonts_for("".join(titles[number] for number in named))
    colors = label_colors(np.arange(len(titles), dtype=np.int32))
    for number, box in boxes.items():
        height = box.top - box.bottom
        place = (box.left + 0.01, box.bottom)
        axes.add_patch(Rectangle(place, box.right - box.left - 0.02, height, color=colors[number], alpha=0.35, lw=0))
    for number in named:
        box = boxes[number]
        name = picture_name(titles[number], number, missing).replace("-\n", "-").replace("\n", " ")
        text = f"{textwrap.shorten(name, 42 * (box.right - box.left), placeholder='…')}  {sizes[number]:,}"
        axes.text(box.left + 0.03, (box.top + box.bottom) / 2, text, va="center", fontsize=7, fontfamily=families,
                  color="#1f2430", parse_math=False, clip_on=True)  # fmt: skip
    axes.set_xlim(0, max((box.right for box in boxes.values()), default=1))
    axes.set_ylim(0, 1)
    axes.set_axis_off()
    axes.set_title(title, loc="left", fontsize=12, parse_math=False)
    _save(figure, run, "tree.png")


def hide_overlapping(figure: Any, names: list[Any]) -> None:
    """Hide each matplotlib text that overlaps an earlier one; those of the largest clusters come first."""
    figure.draw_without_rendering()  # this gives each text its position
    kept: list[Any] = []
    for name in names:
        box = name.get_window_extent()
        if box.count_overlaps(kept):
            name.set_visible(False)
        else:
            kept.append(box)


def picture_name(title: str, number: int, missing: frozenset[str]) -> str:
    """A cluster's name in the picture: its title, cut and in short lines, or its number where fonts lack most of it.

    missing : characters that no font has
    """
    line = one_line(title)
    visible = [sign for sign in line if not sign.isspace()]
    if 2 * sum(sign in missing for sign in visible) > len(visible):
        return f"cluster {number}"
    drawn = re.sub(f"{NO_GLYPH}+", NO_GLYPH, "".join(NO_GLYPH if sign in missing else sign for sign in line))
    wide = any(unicodedata.east_asian_width(sign) in WIDE for sign in drawn)
    columns = 12 if wide else 22
    return textwrap.fill(drawn[:NAME_CHARACTERS], columns, max_lines=3, placeholder="…")
