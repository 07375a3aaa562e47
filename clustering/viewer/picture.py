"""Places, labels and titles in; map.png, map.svg and tree.png out: points or densities, names, and the tree."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clustering.kernels.memory import PICTURE_POINTS
from clustering.kernels.printable import one_line
from clustering.runs.directory import RunDir
from clustering.runs.storage import atomic_write
from clustering.text.fonts import fonts_for
from clustering.viewer.columns import color_of

# The light colors of colors.js, and that of noise.
PALETTE = (
    "0072b2", "d55e00", "009e73", "cc79a7", "b98200", "4aa8de", "332288", "882255", "117733", "8a8a2b", "2f9a88",
    "aa4499",
)  # fmt: skip
NOISE = "b0b7c1"
NAMED_THEMES, NAMED = 12, 40  # clusters of the broadest layer and of the labels that are named, where there is room
NAME_CHARACTERS = 66  # of a cluster's title in the picture, in three lines
WIDE = ("W", "F")  # East Asian widths of characters that take two columns
NO_GLYPH = "□"  # in the picture, in place of characters that no font of this machine has
RINGS = (4, 18, 30, 45, 65, 90, 120, 155, 195, 240)  # pixels from a cluster's middle at which its name may lie
ANGLES = np.arange(16) * (np.pi / 8)
FREE = 140  # pixels that a name goes farther to lie on no points
LED = 26  # pixels from its cluster's middle from which on a line leads to a name
CELL = 8  # pixels of a square of which is known whether it has points
BLOCK = 1 << 20  # texts that are counted at a time
TREE_ROOTS = 25  # clusters of the broadest layer in the picture of the tree
LEAST_SHARE = 0.0005  # of the picture's height, half a pixel: lower boxes, and those in them, are left out
NAMED_SHARE = 0.012  # of the picture's height, from which a cluster has its name there
INK = "#1f2430"
Floats = NDArray[np.float32]
Labels = NDArray[np.int32]


class Middle(NamedTuple):
    """A cluster that may be named: its number, and the median of its texts' places."""

    number: int
    x: float
    y: float


class Box(NamedTuple):
    """A cluster in the picture of the tree."""

    left: int
    right: int
    bottom: float
    top: float


@dataclass(frozen=True)
class Named:
    """Clusters whose names may stand in the picture, the largest first: of the broadest layer, and of the labels."""

    themes: list[Middle]
    clusters: list[Middle]


def find_middles(xy: Floats, label: Labels, parent: list[int | None]) -> Named:
    """The clusters to name, those of the broadest layer by the texts of the labels in them.

    xy : float32, shape (n_texts, 2); label : int32, shape (n_texts,), noise is -1
    parent : of each cluster of any layer the next broader one
    """
    n_clusters = int(label.max(initial=-1)) + 1
    theme = np.arange(len(parent))
    while any(parent[number] is not None for number in theme.tolist()):
        theme = np.array([one if (up := parent[one]) is None else up for one in theme.tolist()])
    order = np.argsort(label, kind="stable")
    ends = np.searchsorted(label[order], np.arange(n_clusters + 1))
    own = [order[start:end] for start, end in pairwise(ends)]

    def middle(number: int, rows: NDArray[np.int64]) -> Middle:
        return Middle(number, *map(float, np.median(xy[rows], axis=0)))

    parts: dict[int, list[int]] = {}
    for number in range(n_clusters):
        if len(own[number]):
            parts.setdefault(int(theme[number]), []).append(number)
    several = {top: numbers for top, numbers in parts.items() if numbers != [top]}
    sizes = {top: sum(len(own[number]) for number in numbers) for top, numbers in several.items()}
    largest = sorted(several, key=lambda top: (-sizes[top], top))[:NAMED_THEMES]
    return Named(
        [middle(top, np.concatenate([own[number] for number in several[top]])) for top in largest],
        [middle(number, own[number]) for number in range(min(NAMED, n_clusters)) if len(own[number])],
    )


def draw_map(run: RunDir, xy: Floats, label: Labels, named: Named, clusters: pa.Table, title: str) -> int:
    """Leave map.png and map.svg.

    Up to PICTURE_POINTS texts are points. Of more, each pixel has the mean color of its texts, the stronger the more
    they are. Names lie on no other name, and where there is room beside the points; a line leads to one that lies
    apart.

    Returns: the number of names that no font here draws in full.
    """
    figure = _new_figure()
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_xlim(view_limits(xy[:, 0]))
    axes.set_ylim(view_limits(xy[:, 1]))
    axes.set_title(title, loc="left", fontsize=12, parse_math=False)
    figure.draw_without_rendering()  # this gives the axes their place
    palette = cluster_colors(clusters)
    count, color = count_pixels(xy, label, palette, axes)
    if label.size <= PICTURE_POINTS:
        size = float(np.clip(1e5 / max(label.size, 1), 0.5, 24))
        order = np.argsort(label >= 0, kind="stable")  # noise first, so that clusters lie on top
        axes.scatter(xy[order, 0], xy[order, 1], c=palette[label[order]] / 255, s=size, linewidths=0, rasterized=True)
    else:
        limits = (*axes.get_xlim(), *axes.get_ylim())
        axes.imshow(_tones(count, color), extent=limits, origin="lower", aspect="auto", interpolation="nearest")
    titles = clusters["title"].to_pylist()
    drawn = {one.number for one in [*named.themes, *named.clusters]}
    families, missing = fonts_for("".join(titles[number] for number in sorted(drawn)))
    names = {number: picture_name(titles[number], number, missing) for number in drawn}
    _draw_names(axes, named, names, families, Room(count))
    _save(figure, run, "map.png", "map.svg")
    return sum(bool(missing & set(titles[number])) for number in drawn)


def cluster_colors(clusters: pa.Table) -> NDArray[np.uint8]:
    """The color that each cluster has in map.html on a light page, and last that of noise, -1.

    Returns: uint8, shape (n_clusters + 1, 3), red, green and blue
    """
    rows = clusters.select(["terms", "title"]).to_pylist()
    found = [PALETTE[color_of(row["terms"], row["title"])] for row in rows]
    return np.array([[int(one[at : at + 2], 16) for at in (0, 2, 4)] for one in [*found, NOISE]], np.uint8)


def view_limits(values: NDArray[np.float32]) -> tuple[float, float]:
    """The range that holds nearly all points, with a margin; a few far outliers would shrink the map to a dot.

    values : float32, shape (n_points,), one coordinate
    """
    if not values.size:
        return -1.0, 1.0
    low, high = np.percentile(values, [0.05, 99.95])
    margin = 0.05 * float(high - low) or 1.0
    return float(low) - margin, float(high) + margin


def count_pixels(
    xy: Floats, label: Labels, palette: NDArray[np.uint8], axes: Any
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The texts on each pixel of the axes, and the sums of their colors.

    Returns: float64, shape (height, width), from the bottom, and (height, width, 3)
    """
    width, height = (max(1, int(side)) for side in axes.bbox.size)
    count, color = np.zeros(height * width), np.zeros((height * width, 3))
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for start in range(0, label.size, BLOCK):
        block = xy[start : start + BLOCK].astype(np.float64)
        x = np.floor((block[:, 0] - left) * (width / (right - left))).astype(np.int64)
        y = np.floor((block[:, 1] - bottom) * (height / (top - bottom))).astype(np.int64)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        pixel, tone = (y * width + x)[inside], palette[label[start : start + BLOCK][inside]]
        count += np.bincount(pixel, minlength=count.size)
        for part in range(3):
            color[:, part] += np.bincount(pixel, tone[:, part], count.size)
    return count.reshape(height, width), color.reshape(height, width, 3)


def _tones(count: NDArray[np.float64], color: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Red, green, blue and opacity of each pixel; a single text is seen, and many are no more than opaque."""
    most = np.log1p(np.quantile(count[count > 0], 0.99)) if count.any() else 1.0
    opacity = np.where(count > 0, 0.35 + 0.65 * np.minimum(np.log1p(count) / most, 1), 0)
    mean = color / np.maximum(count, 1)[:, :, None]
    return np.dstack([mean, opacity * 255]).round().astype(np.uint8)


def _draw_names(axes: Any, named: Named, names: dict[int, str], families: list[str], room: Room) -> None:
    """Write the names of themes, then of clusters, as far as there is room; lead a line to those that lie apart."""
    from matplotlib.patheffects import withStroke

    points_a_pixel = 72 / axes.figure.dpi
    for middles, size, weight in ((named.themes, 12, "bold"), (named.clusters, 7, "normal")):
        style: Any = {
            "textcoords": "offset points", "ha": "center", "va": "center", "color": INK, "fontsize": size,
            "fontweight": weight, "fontfamily": families, "in_layout": False,
            "parse_math": False,  # two prices in $ are no formula
            "path_effects": [withStroke(linewidth=2.5, foreground="white")],
        }  # fmt: skip
        for number, x, y in middles:
            sized = axes.annotate(names[number], (x, y), (0, 0), **style)
            box = sized.get_window_extent()
            sized.remove()
            place = room.take(axes.transData.transform((x, y)) - axes.bbox.min, box.width, box.height)
            if place is not None:
                line = {"arrowstyle": "-", "color": INK, "linewidth": 0.6, "alpha": 0.7, "shrinkA": 0, "shrinkB": 0}
                offset = (place.right * points_a_pixel, place.up * points_a_pixel)
                axes.annotate(names[number], (x, y), offset, arrowprops=line if place.led else None, **style)


class Place(NamedTuple):
    """Where a name's center lies beside its cluster's middle, in pixels, and whether a line leads to it."""

    right: float
    up: float
    led: bool


class Room:
    """The room that points, names and lines leave for names."""

    def __init__(self, count: NDArray[np.float64]) -> None:
        """count : shape (height, width), the texts on each pixel."""
        self.height, self.width = count.shape
        down, across = -(-self.height // CELL), -(-self.width // CELL)
        cells = np.zeros((down * CELL, across * CELL), bool)
        cells[: self.height, : self.width] = count > 0
        taken = cells.reshape(down, CELL, across, CELL).any((1, 3))
        self.sums = np.pad(taken.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        self.boxes: list[Any] = []
        self.lines: list[Any] = []

    def take(self, middle: NDArray[np.float64], width: float, height: float) -> Place | None:
        """The place of a name: the nearest to its cluster's middle, or one not much farther that lies on fewer points.

        Returns: None where none within reach is free of other names and lines
        """
        from matplotlib.path import Path
        from matplotlib.transforms import Bbox

        angle, ring = (grid.ravel() for grid in np.meshgrid(ANGLES, RINGS))
        offset = np.column_stack([np.cos(angle) * (ring + width / 2), np.sin(angle) * (ring + height / 2)])
        low, high = middle + offset - (width / 2, height / 2), middle + offset + (width / 2, height / 2)
        cost = ring + FREE * self._covered(low, high)
        fits = (low >= 0).all(1) & (high <= (self.width, self.height)).all(1)
        for at in np.argsort(cost, kind="stable"):
            if not fits[at]:
                continue
            box, led = Bbox([low[at] - 2, high[at] + 2]), bool(ring[at] >= LED)
            line = Path([middle, middle + offset[at]])
            if box.count_overlaps(self.boxes) or any(other.intersects_bbox(box, False) for other in self.lines):
                continue
            if led and (
                any(line.intersects_bbox(other, False) for other in self.boxes)
                or any(line.intersects_path(other, False) for other in self.lines)
            ):
                continue
            self.boxes.append(box)
            if led:
                self.lines.append(line)
            return Place(float(offset[at, 0]), float(offset[at, 1]), led)
        return None

    def _covered(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
        """The share of each box that lies on points."""
        down, across = (side - 1 for side in self.sums.shape)
        (left, bottom) = (np.clip(low[:, at] // CELL, 0, most).astype(int) for at, most in ((0, across), (1, down)))
        (right, top) = (np.clip(-(-high[:, at] // CELL), 0, most).astype(int) for at, most in ((0, across), (1, down)))
        sums = self.sums
        inside = sums[top, right] - sums[bottom, right] - sums[top, left] + sums[bottom, left]
        return np.asarray(inside / np.maximum((right - left) * (top - bottom), 1))


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


def draw_tree(run: RunDir, clusters: pa.Table, title: str) -> None:
    """Leave tree.png: the layers side by side, each cluster beside the finer ones in it."""
    from matplotlib.patches import Rectangle

    figure = _new_figure()
    axes = figure.add_subplot()
    titles, sizes = clusters["title"].to_pylist(), clusters["size"].to_pylist()
    boxes = tree_boxes(sizes, clusters["parent"].to_pylist(), clusters["layers"].to_pylist(), TREE_ROOTS)
    named = [number for number, box in boxes.items() if box.top - box.bottom >= NAMED_SHARE]
    families, missing = fonts_for("".join(titles[number] for number in named))
    colors = cluster_colors(clusters) / 255
    for number, box in boxes.items():
        height = box.top - box.bottom
        place = (box.left + 0.01, box.bottom)
        axes.add_patch(Rectangle(place, box.right - box.left - 0.02, height, color=colors[number], alpha=0.35, lw=0))
    for number in named:
        box = boxes[number]
        name = picture_name(titles[number], number, missing).replace("-\n", "-").replace("\n", " ")
        text = f"{textwrap.shorten(name, 42 * (box.right - box.left), placeholder='…')}  {sizes[number]:,}"
        axes.text(box.left + 0.03, (box.top + box.bottom) / 2, text, va="center", fontsize=7, fontfamily=families,
                  color=INK, parse_math=False, clip_on=True)  # fmt: skip
    axes.set_xlim(0, max((box.right for box in boxes.values()), default=1))
    axes.set_ylim(0, 1)
    axes.set_axis_off()
    axes.set_title(title, loc="left", fontsize=12, parse_math=False)
    _save(figure, run, "tree.png")


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
