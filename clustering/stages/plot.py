"""coords/, the assignment, texts and records in; map.html (interactive) and map.png out."""

from __future__ import annotations

import colorsys
import re
import textwrap
import unicodedata
from typing import Any

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
Middle = tuple[int, float, float]  # of a cluster: its number, x and y


def plot_map(run: RunDir, cfg: PlotSection, name: str, seed: int, task_texts: int = LARGEST_PART) -> Figures:
    """Leave map.html and map.png.

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
    clusters = read_table(run / "layers.parquet", columns=["title"])
    noise = float((label < 0).mean()) if label.size else 0.0
    counts = f"{label.size:,} texts, {label.max(initial=-1) + 1:,} clusters, {noise:.0%} noise"  # noise may be hidden
    title = f"{one_line(name, TITLE_CHARACTERS)}: {counts}"
    if cfg.noise == "hidden":
        xy, label = xy[label >= 0], label[label >= 0]
    middles = _middles(xy, label, NAMED)
    without_font = _draw_png(run, xy, label, middles, clusters, title, seed)
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


def _draw_png(
    run: RunDir, xy: Any, label: NDArray[np.int32], middles: list[Middle], clusters: pa.Table, title: str, seed: int
) -> int:
    """Leave map.png. Returns: the number of names that no font here draws in full."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke

    figure = Figure(figsize=(14, 10), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
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
    with atomic_write(run / "map.png") as temporary:
        figure.savefig(temporary, format="png")
    return sum(bool(missing & set(titles[number])) for number in shown)


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
