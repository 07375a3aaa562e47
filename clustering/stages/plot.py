"""coords/ and the assignment in, map.html (interactive) and map.png out."""

from __future__ import annotations

import colorsys
import html
import re
import textwrap
import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clustering.config.sections import PlotSection
from clustering.kernels.memory import LARGEST_PART, PICTURE_POINTS
from clustering.kernels.printable import one_line, printable
from clustering.runs.directory import RunDir
from clustering.runs.index import read_index
from clustering.runs.parts import group_parts, parts, read_row_texts, read_rows, walk_tables
from clustering.runs.storage import atomic_write, read_table
from clustering.schema import Figures
from clustering.text.fonts import fonts_for
from clustering.workers.tasks import HERE, IN_TASKS, MOST_TASKS, Mapper, run_on_one_node

NOISE = "#c4c8cf"
NAMED = 40  # clusters whose titles are in the picture, as far as there is room
HOVER_CHARACTERS = 300
TITLE_CHARACTERS = 60  # of the run's name in the headline
NAME_CHARACTERS = 66  # of a cluster's title in the picture, in three lines
WIDE = ("W", "F")  # East Asian widths of characters that take two columns
NO_GLYPH = "□"  # in the picture, in place of characters that no font of this machine has
# The page loads nothing and sends nothing, whatever texts it holds. WebGL needs scripts from strings.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>Map of {title}</title>
<body style="margin: 0">{body}</body></html>
"""
Middle = tuple[int, float, float]  # of a cluster: its number, x and y
CONFIG = {
    "scrollZoom": True,
    "displaylogo": False,
    "responsive": True,
    "typesetMath": False,
    "showSendToCloud": False,  # the button "Share chart..." would send the texts to plotly's server
    "modeBarButtonsToRemove": ["sendChartToCloud", "sendDataToCloud"],
}


@dataclass(frozen=True)
class Points:
    """The texts that the interactive map shows.

    xy : float32, shape (n_points, 2); label : int32, shape (n_points,)
    hover : what the page says of each; n_texts : of the run
    """

    xy: NDArray[np.float32]
    label: NDArray[np.int32]
    hover: list[str]
    n_texts: int


def plot_map(run: RunDir, cfg: PlotSection, name: str, seed: int, task_texts: int = LARGEST_PART) -> Figures:
    """Leave map.html and map.png.

    One task has the coordinates and labels of all texts; others read the texts that the interactive map shows.

    task_texts : of a task; a run of no more is a single one
    Returns: drawn (texts in the interactive map), without_font (names in the picture that no font here draws in full).
    """
    return run_on_one_node(_plot, run, cfg, name, seed, task_texts)


def _plot(
    run: RunDir, cfg: PlotSection, name: str, seed: int, task_texts: int = LARGEST_PART, mapper: Mapper | None = None
) -> Figures:
    label, xy = _assigned(run, "label"), _read_places(run)
    clusters = read_table(run / "clusters.parquet")
    noise = float((label < 0).mean()) if label.size else 0.0
    counts = f"{label.size:,} texts, {label.max(initial=-1) + 1:,} clusters, {noise:.0%} noise"  # noise may be hidden
    title = f"{one_line(name, TITLE_CHARACTERS)}: {counts}"
    shown = None if cfg.noise == "shown" else np.flatnonzero(label >= 0)
    drawn = _sample_rows(label.size if shown is None else shown, cfg.points, seed)
    hover = _hover(run, cfg, drawn, label[drawn], clusters, task_texts, mapper)
    points = Points(xy[drawn], label[drawn], hover, label.size)
    limits = view_limits(xy[:, 0]), view_limits(xy[:, 1])
    if shown is not None:
        xy, label = xy[shown], label[shown]
        del shown
    middles = _middles(xy, label, NAMED)
    without_font = _draw_png(run, xy, label, middles, clusters, title, seed)
    _draw_html(run, points, limits, middles[: NAMED // 2], clusters, title)
    warning = (
        f"{without_font} of the names in map.png hold characters for which this machine has no font. The picture shows "
        f"{NO_GLYPH} or the cluster's number instead; map.html and this report show the names in full. Install a font "
        f"with these characters, such as the package fonts-noto-cjk, before the next run."
    )
    return {"drawn": drawn.size, "without_font": without_font, "warnings": [warning] if without_font else []}


def _assigned(run: RunDir, column: str) -> NDArray[Any]:
    return read_table(run / "assignment.parquet", columns=[column])[column].to_numpy()  # type: ignore[no-any-return]


def _read_places(run: RunDir) -> NDArray[np.float32]:
    """float32, shape (n_texts, 2): where every text lies."""
    xy = np.empty((read_index(run / "coords").rows, 2), np.float32)
    at = 0
    for table in walk_tables(parts(run / "coords"), ["x", "y"]):
        for axis in (0, 1):
            xy[at : at + len(table), axis] = table[axis].to_numpy()
        at += len(table)
    return xy


def _sample_rows(rows: NDArray[np.int64] | int, most: int, seed: int) -> NDArray[np.int64]:
    """The rows, or an even sample of them with ``most`` rows; ascending. rows : or their number, for the first ones"""
    n_rows = rows if isinstance(rows, int) else rows.size
    if n_rows > most:
        return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    return np.arange(rows) if isinstance(rows, int) else rows


def _hover(
    run: RunDir, cfg: PlotSection, rows: NDArray[np.int64], label: NDArray[np.int32], clusters: pa.Table,
    task_texts: int, mapper: Mapper | None,
) -> list[str]:  # fmt: skip
    """What the page says of some rows, ascending: their texts, and the facts of ``plot.hover``."""
    groups = group_parts(run / "texts", task_texts, MOST_TASKS)
    mapper = mapper or (IN_TASKS if len(groups) > 1 else HERE)
    bounds = np.searchsorted(rows, [group.stop for group in groups[:-1]])
    calls = ((run, own, "copies" in cfg.hover) for own in np.split(rows, bounds) if own.size)
    found = list(mapper.map(_read_shown, calls))
    titles = clusters["title"].to_pylist()
    facts: dict[str, Any] = {"row": rows, "title": ["noise" if number < 0 else titles[number] for number in label]}
    for key in cfg.hover:
        if key == "copies":
            facts[key] = np.concatenate([np.empty(0, np.int32), *(copies for _, copies in found)])
        elif key not in facts:
            facts[key] = _assigned(run, key)[rows]
    wanted = {str(key): facts[key] for key in cfg.hover}
    texts = (text for part, _ in found for text in part)
    return [f"{text}<br><i>{_facts(wanted, at)}</i>" for at, text in enumerate(texts)]


def _read_shown(run: RunDir, rows: NDArray[np.int64], with_copies: bool) -> tuple[list[str], NDArray[np.int32]]:
    """The texts of some rows, ascending, as the page shows them; and their copies."""
    texts = read_row_texts(run, rows)
    copies = read_rows(run / "texts", rows, ["copies"])["copies"].to_numpy() if with_copies else np.empty(0, np.int32)
    return [_wrapped(texts[row]) for row in rows.tolist()], copies


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


def _draw_html(
    run: RunDir, points: Points, limits: Any, middles: list[Middle], clusters: pa.Table, title: str
) -> None:  # fmt: skip
    """Leave map.html. limits : of the view, along x and y"""
    import plotly.graph_objects as go

    titles = clusters["title"].to_pylist()
    figure = go.Figure()
    n_drawn = points.label.size
    for noise in (True, False):
        at = np.flatnonzero((points.label < 0) == noise)
        if not at.size:
            continue
        figure.add_trace(
            go.Scattergl(
                x=points.xy[at, 0], y=points.xy[at, 1], mode="markers", name="noise" if noise else "clusters",
                text=[points.hover[one] for one in at.tolist()], hovertemplate="%{text}<extra></extra>",
                marker={"color": label_colors(points.label[at]), "size": 4 if n_drawn > 5000 else 6,
                        "opacity": 0.45 if noise else 0.85, "line": {"width": 0}},
            )
        )  # fmt: skip
    for number, x, y in middles:
        lines = textwrap.wrap(one_line(titles[number], NAME_CHARACTERS), 30)
        figure.add_annotation(
            x=x, y=y, yshift=-14, text="<br>".join(map(_escaped, lines)), showarrow=False,
            font={"size": 10, "color": "#1f2430"},
        )  # fmt: skip
    sampled = "" if n_drawn == points.n_texts else f" ({n_drawn:,} drawn)"
    axis = {"visible": False}
    figure.update_layout(
        title={"text": f"{_escaped(title)}{sampled}"},
        template="plotly_white", hovermode="closest", dragmode="pan",
        xaxis={**axis, "range": limits[0]}, yaxis={**axis, "range": limits[1]},
        legend={"orientation": "h", "y": 0}, margin={"l": 10, "r": 10, "t": 50, "b": 10},
        hoverlabel={"align": "left", "bgcolor": "white"},
    )  # fmt: skip
    drawing = figure.to_html(include_plotlyjs=True, default_height="96vh", config=dict(CONFIG), full_html=False)
    with atomic_write(run / "map.html") as temporary:
        temporary.write_text(PAGE.format(policy=POLICY, title=html.escape(title), body=drawing), encoding="utf-8")


def _facts(facts: dict[str, Any], at: int) -> str:
    values = {key: column[at] for key, column in facts.items()}
    return ", ".join(
        f"{key} {value:.3g}" if isinstance(value, (float, np.floating)) else f"{key} {_escaped(str(value), 120)}"
        for key, value in values.items()
    )


def _wrapped(text: str) -> str:
    """A text for the hover box: cut, escaped and broken into lines."""
    cut = text if len(text) <= HOVER_CHARACTERS else text[: HOVER_CHARACTERS - 1] + "…"
    return "<br>".join(_escaped(line) for part in printable(cut).split("\n") for line in textwrap.wrap(part, 70))


def _escaped(text: str, most: int | None = None) -> str:
    """One line for plotly, which knows a few tags and entities, but none for quotes."""
    return html.escape(one_line(text, most), quote=False)
