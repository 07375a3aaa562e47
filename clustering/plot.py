"""coords/ and the assignment in, map.html (interactive) and map.png out."""

from __future__ import annotations

import colorsys
import html
import textwrap
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clustering import schema
from clustering.config import PlotSection
from clustering.kernels.memory import PICTURE_POINTS
from clustering.parts import on_worker
from clustering.rundir import Figures, RunDir, gather_texts, read_columns
from clustering.storage import read_table, whole

NOISE = "#c4c8cf"
NAMED = 40  # clusters whose titles are written into the picture, where there is room
HOVER_CHARACTERS = 300


def plot_map(run: RunDir, cfg: PlotSection, name: str, seed: int) -> Figures:
    """Leave map.html and map.png. Returns: drawn (texts in the interactive map)."""
    return on_worker(_plot, run, cfg, name, seed)


def _plot(run: RunDir, cfg: PlotSection, name: str, seed: int) -> Figures:
    asked = [name for name in schema.ASSIGNMENT.names if name in ("label", *cfg.hover)]
    assignment = read_table(run / "assignment.parquet", columns=asked)
    label = assignment["label"].to_numpy()
    coords = read_columns(run / "coords", ["x", "y"])
    xy = np.column_stack([coords["x"].to_numpy(), coords["y"].to_numpy()])
    clusters = read_table(run / "clusters.parquet")
    shown = np.arange(label.size) if cfg.noise == "shown" else np.flatnonzero(label >= 0)
    _draw_png(run, xy[shown], label[shown], clusters, name, seed)
    shown = _some(shown, cfg.points, seed)
    titles = clusters["title"].to_pylist()
    facts: dict[str, Any] = {
        "copies": read_columns(run / "texts", ["copies"])["copies"].to_numpy()[shown],
        "title": ["noise" if number < 0 else titles[number] for number in label[shown]],
        **{key: assignment[key].to_numpy()[shown] for key in cfg.hover if key in assignment.column_names},
    }
    hover = {str(key): facts[key] for key in cfg.hover}
    drawn = _draw_html(run, xy, label, shown, clusters, name, hover)
    return {"drawn": drawn}


def _some(rows: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """The rows, or so many of them as may be drawn, sampled evenly."""
    return rows if rows.size <= most else np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def label_colors(label: NDArray[np.int32]) -> NDArray[np.str_]:
    """A color for each label: noise grey, and hues a golden angle apart, so that neighbors in number differ."""
    palette = []
    for number in range(int(label.max(initial=-1)) + 1):
        light, saturation = (0.42, 0.56, 0.34)[number % 3], (0.72, 0.6, 0.5)[number // 3 % 3]
        red, green, blue = colorsys.hls_to_rgb(number * 0.61803398875 % 1, light, saturation)
        palette.append(f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}")
    return np.array([*palette, NOISE])[label]  # -1 is the last one


def view_limits(values: NDArray[np.float32]) -> tuple[float, float]:
    """The range that holds nearly all points; a few far outliers would shrink the map to a dot."""
    if not values.size:
        return -1.0, 1.0
    low, high = np.percentile(values, [0.05, 99.95])
    margin = 0.05 * float(high - low) or 1.0
    return float(low) - margin, float(high) + margin


def _middles(xy: NDArray[np.float32], label: NDArray[np.int32], n_named: int) -> list[tuple[int, float, float]]:
    found = []
    for number in range(min(n_named, int(label.max(initial=-1)) + 1)):
        own = xy[label == number]
        if len(own):
            x, y = np.median(own, axis=0)
            found.append((number, float(x), float(y)))
    return found


def _headline(label: NDArray[np.int32]) -> str:
    noise = float((label < 0).mean()) if label.size else 0.0
    return f"{label.size:,} texts, {label.max(initial=-1) + 1:,} clusters, {noise:.0%} noise"


def _draw_png(run: RunDir, xy: Any, label: NDArray[np.int32], clusters: pa.Table, name: str, seed: int) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke

    figure = Figure(figsize=(14, 10), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    size = float(np.clip(1e5 / max(label.size, 1), 0.5, 24))
    drawn = _some(np.arange(label.size), PICTURE_POINTS, seed)
    order = drawn[np.argsort(label[drawn] >= 0, kind="stable")]  # noise first, so that clusters lie on top
    axes.scatter(xy[order, 0], xy[order, 1], c=label_colors(label[order]), s=size, linewidths=0, rasterized=True)
    titles = clusters["title"].to_pylist()
    names = [
        axes.annotate(
            textwrap.fill(_plain(titles[number]), 22),
            (x, y),
            xytext=(0, -9),  # below the cluster, so that its points stay visible
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=7,
            color="#1f2430",
            path_effects=[withStroke(linewidth=2, foreground="white")],
            in_layout=False,
        )
        for number, x, y in _middles(xy, label, NAMED)
    ]
    axes.set_xlim(view_limits(xy[:, 0]))
    axes.set_ylim(view_limits(xy[:, 1]))
    axes.set_axis_off()
    axes.set_title(f"{_plain(name)}: {_headline(label)}", loc="left", fontsize=12)
    hide_overlapping(figure, names)
    with whole(run / "map.png") as temporary:
        figure.savefig(temporary, format="png")


def hide_overlapping(figure: Any, names: list[Any]) -> None:
    """Of matplotlib texts that lie on one another, leave the first: clusters come largest first."""
    figure.draw_without_rendering()  # gives each its place
    kept: list[Any] = []
    for name in names:
        box = name.get_window_extent()
        if box.count_overlaps(kept):
            name.set_visible(False)
        else:
            kept.append(box)


def _plain(text: str) -> str:
    """matplotlib reads $ as mathematics and has no glyphs for emoji."""
    return "".join(c for c in text if ord(c) < 0x2E80).replace("$", r"\$")


def _draw_html(
    run: RunDir, xy: Any, label: Any, shown: Any, clusters: pa.Table, name: str, facts: dict[str, Any]
) -> int:
    import plotly.graph_objects as go

    texts = gather_texts(run, shown)
    titles = clusters["title"].to_pylist()
    figure = go.Figure()
    for noise in (True, False):
        places = np.flatnonzero((label[shown] < 0) == noise)
        if not places.size:
            continue
        rows = shown[places]
        hover = [f"{_wrapped(texts[shown[at]])}<br><i>{_facts(facts, at)}</i>" for at in places.tolist()]
        figure.add_trace(
            go.Scattergl(
                x=xy[rows, 0], y=xy[rows, 1], mode="markers", name="noise" if noise else "clusters", text=hover,
                hovertemplate="%{text}<extra></extra>",
                marker={"color": label_colors(label[rows]), "size": 4 if shown.size > 5000 else 6,
                        "opacity": 0.45 if noise else 0.85, "line": {"width": 0}},
            )
        )  # fmt: skip
    for number, x, y in _middles(xy, label, NAMED // 2):
        figure.add_annotation(
            x=x,
            y=y,
            yshift=-14,
            text=html.escape(titles[number]),
            showarrow=False,
            font={"size": 10, "color": "#1f2430"},
        )
    sampled = "" if shown.size == label.size else f" ({shown.size:,} drawn)"
    axis = {"visible": False}
    figure.update_layout(
        title={"text": f"{html.escape(name)}: {_headline(label)}{sampled}"},
        template="plotly_white", hovermode="closest", dragmode="pan",
        xaxis={**axis, "range": view_limits(xy[:, 0])}, yaxis={**axis, "range": view_limits(xy[:, 1])},
        legend={"orientation": "h", "y": 0}, margin={"l": 10, "r": 10, "t": 50, "b": 10},
        hoverlabel={"align": "left", "bgcolor": "white"},
    )  # fmt: skip
    with whole(run / "map.html") as temporary:
        figure.write_html(
            temporary,
            include_plotlyjs=True,
            default_height="96vh",
            config={"scrollZoom": True, "displaylogo": False, "responsive": True},
        )
    return int(shown.size)


def _facts(facts: dict[str, Any], at: int) -> str:
    values = {key: column[at] for key, column in facts.items()}
    return ", ".join(
        f"{key} {value:.3g}" if isinstance(value, (float, np.floating)) else f"{key} {html.escape(str(value))}"
        for key, value in values.items()
    )


def _wrapped(text: str) -> str:
    """A text for the hover box: escaped, cut, and broken into lines."""
    cut = text if len(text) <= HOVER_CHARACTERS else text[: HOVER_CHARACTERS - 1] + "…"
    return "<br>".join(html.escape(line) for part in cut.split("\n") for line in textwrap.wrap(part, 70))
