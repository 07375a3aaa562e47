"""A finished run, or a list of texts, in; its tables, clusters, graph and map out, for Python and notebooks."""

from __future__ import annotations

import html
import json
import math
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_array

from clustering.config.loading import load_config
from clustering.errors import ConfigError, InputError, StageError
from clustering.finished.assign import assign_texts
from clustering.finished.recluster import recluster_run
from clustering.kernels.printable import one_line
from clustering.pipeline import run_pipeline
from clustering.runs.directory import RunDir
from clustering.runs.kernel_inputs import load_graph
from clustering.runs.parts import label_parts, parts, shown_texts, walk_tables
from clustering.runs.saved_config import load_run_config, with_trusted_addresses
from clustering.runs.storage import Location, read_schema, read_table, write_table
from clustering.text.cleaning import encodable
from clustering.viewer.words import count_records
from clustering.workers.session import ray_session

TABLES = ("arrow", "pandas", "polars")
MOVED = {  # columns of clusters.parquet of an earlier version, and where they are
    "persistence": "layers() has it; link_share says more about a cluster",
    "layers": "layers() has it",
}
SHOWN = 10  # clusters on a page of a notebook
CHARACTERS = 120  # of a text there
NAMED = 20  # clusters with a name in the figure


def open_run(path: str | Location, tables: str = "arrow") -> Results:
    """Open a finished run to look at it and to work on.

    path : its directory, local, s3:// or gs://
    tables : what the methods return: ``arrow`` (pyarrow.Table), ``pandas`` or ``polars`` (DataFrame)
    Raises: ConfigError when there is no finished run, and for other tables.

    >>> run = clustering.open_run("runs/api", tables="pandas")
    >>> list(run.clusters().columns[:4])
    ['label', 'title', 'theme', 'size']
    """
    run = RunDir(path)
    if not run.is_complete:
        raise ConfigError([f"{run.path} holds no finished run; finish it with covey run first"])
    return Results(run, tables)


def cluster_texts(
    texts: Iterable[str | None], folder: str | Path | None = None, overrides: Iterable[str] = (), tables: str = "arrow"
) -> Results:
    """Cluster texts on this machine, with the ready configuration ``laptop``; ``text_id`` counts them from 0.

    texts : a list, or a column of pyarrow, pandas or Polars; None and NaN are records without text
    folder : of the run; None makes a temporary one, which stays. A second call with the same texts does nothing.
    overrides : words such as ``cluster.granularity=5000``
    tables : as in ``open_run``
    Raises: InputError for what is no string (None is a record without text), and for one string in the place of
        several; else as ``run_pipeline``.

    >>> headlines = clustering.open_run("runs/api").labels(["text"])["text"].to_pylist()
    >>> clustering.cluster_texts(headlines, "runs/mine").labels(["text_id"])["text_id"].to_pylist()[-1]
    299
    """
    held = _checked_texts(texts)
    place = Path(tempfile.mkdtemp(prefix="covey-run-") if folder is None else folder).absolute()
    file = place.with_name(f"{place.name}-texts.parquet")
    columns = {"id": pa.array(range(len(held)), pa.int64()), "text": pa.array(held, pa.string())}
    table = pa.table(columns)
    if not (file.exists() and _own_texts(file).equals(table)):  # a file that is new would be read anew
        write_table(file, table)
    read = [f"read.paths=[{json.dumps(str(file))}]", "read.text_columns=[text]", "read.id_column=id"]
    config = load_config("laptop", [f"run.dir={place}", *read, *overrides])
    return Results(run_pipeline(config), tables)


def _checked_texts(texts: Iterable[str | None]) -> list[str | None]:
    """Texts that Arrow takes: a lone surrogate becomes a question mark, as in files.

    Raises: InputError for what is no string, and for one string, which would be a text for each character.
    """
    if isinstance(texts, str | bytes):
        raise InputError([f"texts is one string, {one_line(repr(texts), 60)}; give a list of them"])
    told = texts.to_pylist() if isinstance(texts, pa.Array | pa.ChunkedArray) else texts
    held = [None if _is_missing(text) else text for text in told]
    for at, text in enumerate(held):
        if not isinstance(text, str | None):
            raise InputError([f"texts[{at}] is {one_line(repr(text), 60)}, which is no string; give str or None"])
    return [text and encodable(text) for text in held]


def _is_missing(text: object) -> bool:
    """Whether pandas writes this for no value: NaN or NA."""
    return type(text).__name__ == "NAType" or (isinstance(text, float) and math.isnan(text))


def _own_texts(file: Path) -> pa.Table:
    """What an earlier call left. Raises: InputError for a file of somebody else, which is not overwritten."""
    try:
        table = read_table(file)
    except (OSError, ValueError, StageError):
        table = pa.table({})
    if table.schema != pa.schema({"id": pa.int64(), "text": pa.string()}):
        raise InputError([f"{file}, where the texts of this run go, is another file; name another folder"])
    return table


class Results:
    """A finished run: its tables, and what can be done with it. ``open_run`` and ``cluster_texts`` make it.

    In a notebook it shows its largest clusters. ``run`` is its ``RunDir``.

    >>> run = clustering.open_run("runs/api")
    >>> run.labels(["text_id", "title"]).num_rows
    300
    >>> first = run.clusters()["title"][0].as_py()
    >>> set(run.cluster(0)["title"].to_pylist()) == {first}
    True
    >>> found = run.search("bridge")
    >>> all("bridge" in text.lower() for text in found["text"].to_pylist())
    True
    """

    def __init__(self, run: RunDir, tables: str = "arrow") -> None:
        if tables not in TABLES:
            raise ConfigError([f"tables={tables!r} is unknown; take one of {', '.join(TABLES)}"])
        self.run, self.tables = run, tables

    def labels(self, columns: list[str] | None = None) -> Any:
        """A line for each record: text_id, text, label, title, theme, strength, ... columns : those wanted; None: all

        Raises: ConfigError for a column that the run does not have.
        """
        paths = label_parts(self.run)
        _check_columns(columns, read_schema(paths[0]).names, {})
        return self._as_asked(pa.concat_tables(read_table(path, columns) for path in paths), columns)

    def clusters(self, columns: list[str] | None = None) -> Any:
        """A line for each label: title, theme, size, share, link_share, terms, ... As ``labels``."""
        # An earlier version had the clusters of other layers behind these.
        table = read_table(self.run / "clusters.parquet").slice(0, self.run.report["clusters"]["count"])
        _check_columns(columns, table.column_names, MOVED)
        return self._as_asked(table, columns)

    def layers(self, columns: list[str] | None = None) -> Any:
        """The clusters of all layers, broad and fine, at the place of their labels. As ``labels``."""
        table = self._layers()
        _check_columns(columns, table.column_names, {})
        return self._as_asked(table, columns)

    def texts(self) -> Any:
        """The distinct texts: row, text, and copies, the records that have it."""
        layout = pa.schema([("row", pa.int64()), ("text", pa.large_string()), ("copies", pa.int32())])
        found = [
            pa.table([table["row"], shown_texts(table), table["copies"]], layout.names).cast(layout)
            for table in walk_tables(parts(self.run / "texts"), ["row", "text", "shown", "copies"])
        ]
        return self._as_asked(pa.concat_tables([layout.empty_table(), *found]))

    def cluster(self, label: int) -> Any:
        """The records of a cluster of any layer, as in ``labels``, the strongest first.

        Raises: ConfigError for a label that no cluster has.
        """
        layers = self._layers()
        if label not in range(len(layers)):
            has = f"has the clusters 0 to {len(layers) - 1}" if len(layers) else "has no clusters"
            raise ConfigError([f"{self.run.path} {has}, and no cluster {label}; layers() lists them"])
        places = layers["layers"][label].as_py()

        def belongs(lines: pa.Table) -> pa.ChunkedArray:
            return reduce(pc.or_, [pc.equal(pc.list_element(lines["layers"], place), label) for place in places])

        table = self._lines(belongs)
        order = np.argsort(-table["strength"].to_numpy(), kind="stable")
        return self._as_asked(table.take(pa.array(order)))

    def search(self, words: str) -> Any:
        """The records whose text holds all the words, in upper or lower case, as in ``labels``, in their order.

        Raises: ConfigError without a word; StageError for a run of an earlier version, whose labels have no texts.
        """
        if not words.split():
            raise ConfigError(["search() has no word; give one or more, apart by spaces"])
        if "text" not in read_schema(label_parts(self.run)[0]).names:
            raise StageError(
                f"{self.run.path} is of an earlier version, whose labels.parquet has no texts; covey recluster makes "
                f"it anew"
            )

        def matches(lines: pa.Table) -> pa.ChunkedArray:
            found = [pc.match_substring(lines["text"], word, ignore_case=True) for word in words.split()]
            return reduce(pc.and_, found)

        return self._as_asked(self._lines(matches))

    def graph(self) -> csr_array:
        """The distance graph of the distinct texts: float32, shape (n_texts, n_texts), as ``load_graph``."""
        return load_graph(self.run)

    def figure(self, points: int = 20_000) -> Any:
        """The map as a plotly Figure, with an even sample of ``points`` records at most, and the largest names."""
        import plotly.graph_objects as go
        from plotly.colors import qualitative

        table = pa.concat_tables(read_table(path, ["x", "y", "label"]) for path in label_parts(self.run))
        chosen = np.arange(len(table))
        if chosen.size > points:
            chosen = np.sort(np.random.default_rng(0).choice(chosen, points, replace=False))
        x, y, label = (table[name].to_numpy()[chosen] for name in table.column_names)
        titles = self._layers()["title"].to_pylist()
        palette = np.array(qualitative.Dark24)
        colors = np.where(label < 0, "#c8ccd2", palette[label % palette.size])
        names = [_page_text(titles[one]) if one >= 0 else "no cluster" for one in label.tolist()]
        figure = go.Figure(go.Scattergl(
            x=x, y=y, mode="markers", marker={"size": 4, "color": colors}, text=names, hoverinfo="text",
        ))  # fmt: skip
        for one in range(min(NAMED, int(label.max(initial=-1)) + 1)):
            if (own := label == one).any():
                figure.add_annotation(x=float(np.median(x[own])), y=float(np.median(y[own])), showarrow=False,
                                      text=_page_text(titles[one], 40))  # fmt: skip
        hidden = {"visible": False}
        return figure.update_layout(template="simple_white", xaxis=hidden, yaxis={**hidden, "scaleanchor": "x"})

    def recluster(self, *overrides: str, trusted: bool = False, **cluster: Any) -> Results:
        """Cluster again with other settings, in the same directory.

        overrides, trusted : as in ``recluster_run``; cluster : keys of the section cluster, ``granularity=5000``
        """
        words = [f"cluster.{key}={json.dumps(value)}" for key, value in cluster.items()]
        return Results(recluster_run(self.run, [*overrides, *words], trusted=trusted), self.tables)

    def assign(self, texts: Iterable[str | None], overrides: Iterable[str] = (), trusted: bool = False) -> Any:
        """Place new texts in the clusters: a line for each, with text and title, and the columns of ``assign_texts``.

        overrides : words of embed and store that name the run's model and server; trusted : they need not be named
        A text that is empty has -1 for label and home.
        Raises: InputError for what is no string, and for one string in the place of several.
        """
        held = _checked_texts(texts)
        config = with_trusted_addresses(load_run_config(self.run), list(overrides), None, trusted, self.run.path)
        config = replace(config, read=replace(config.read, text_columns=("text",), id_column="number", format=None))
        with tempfile.TemporaryDirectory(prefix="covey-") as folder, ray_session():
            given, output = Path(folder) / "texts.parquet", Path(folder) / "assigned.parquet"
            table = pa.table({"number": pa.array(range(len(held))), "text": pa.array(held, pa.string())})
            write_table(given, table)
            assign_texts(self.run, config, [str(given)], output)
            found = read_table(output)
        row = np.full(len(held), -1)
        row[[int(one) for one in found["text_id"].to_pylist()]] = np.arange(len(found))
        found = found.drop_columns("text_id").take(pa.array(row, mask=row < 0))
        for name in ("label", "home"):
            found = found.set_column(found.schema.get_field_index(name), name, pc.fill_null(found[name], -1))
        titles = self._layers()["title"]
        title = titles.take(pc.if_else(pc.less(found["label"], 0), None, found["label"]))
        found = found.add_column(0, "title", title).add_column(0, "text", table["text"])
        return self._as_asked(found)

    def __repr__(self) -> str:
        return f"<{self._summary()}: {self.run.path}>"

    def _repr_html_(self) -> str:
        rows = ""
        shown = min(SHOWN, self.run.report["clusters"]["count"])
        for line in self._layers().slice(0, shown).to_pylist():
            example = next(iter(line["exemplars"]), "")
            cells = (line["label"], f"<b>{_page_text(line['title'])}</b>", f"{line['size']:,}", _page_text(example))
            rows += "<tr>" + "".join(f"<td style='text-align:left'>{cell}</td>" for cell in cells) + "</tr>"
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in ("label", "title", "records", "example"))
        named = f"{self._summary()}: {_page_text(str(self.run.path))}"
        return f"<p>{named}</p><table style='overflow-wrap:anywhere'><tr>{head}</tr>{rows}</table>"

    def _summary(self) -> str:
        figures = self.run.report
        held, count = count_records(figures), figures["clusters"]["count"]
        return f"{held.clustered:,} records in {count:,} clusters, {held.noise:,} ({held.share(held.noise):.1%}) noise"

    def _layers(self) -> pa.Table:
        path = self.run / "layers.parquet"  # not there without texts, and in runs of an earlier version
        return read_table(path if path.exists() else self.run / "clusters.parquet")

    def _lines(self, keep: Callable[[pa.Table], pa.ChunkedArray]) -> pa.Table:
        """The lines of labels.parquet that are to be kept, read some at a time."""
        paths = label_parts(self.run)
        found = [lines.filter(keep(lines)) for lines in walk_tables(paths)]
        return pa.concat_tables(found or [read_table(path) for path in paths])

    def _as_asked(self, table: pa.Table, columns: list[str] | None = None) -> Any:
        table = table if columns is None else table.select(columns)
        if self.tables == "pandas":
            return table.to_pandas()
        if self.tables == "polars":
            import polars

            return polars.from_arrow(table)
        return table


def _check_columns(columns: list[str] | None, known: list[str], moved: dict[str, str]) -> None:
    problems = []
    for name in columns or ():
        if name not in known:
            where = f"{moved[name]}" if name in moved else f"there are {', '.join(known)}"
            problems.append(f"there is no column {name!r}: {where}")
    if problems:
        raise ConfigError(problems)


def _page_text(text: str, most: int = CHARACTERS) -> str:
    return html.escape(one_line(text, most))
