"""A finished run in; files for Embedding Atlas, DataMapPlot, spreadsheets or plotly out."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clustering.errors import ConfigError
from clustering.finished.results import Results, open_run
from clustering.kernels.printable import CELL_CHARACTERS, one_line, spreadsheet_cell
from clustering.runs.directory import RunDir
from clustering.runs.parts import label_parts, walk_tables
from clustering.runs.storage import Location, atomic_write, check_writable, is_within, locate, read_table
from clustering.sources.formats.column_types import LARGEST_EXACT
from clustering.text.cells import shown_strings
from clustering.workers.labels import with_short_numbers

SHEET_ROWS = 1_048_576  # that a spreadsheet has, with the heading

DRAW = '''"""Draw the map with DataMapPlot (pip install datamapplot): python draw.py, then open map.html."""

from pathlib import Path

import datamapplot
import pandas as pd

here = Path(__file__).parent
frame = pd.read_parquet(here / "texts.parquet")
# The finest layer first; DataMapPlot calls what is in no cluster Unlabelled.
layers = sorted((name for name in frame if name.startswith("layer_")), key=lambda name: -int(name[6:]))
titles = [frame[name].fillna("Unlabelled").to_numpy(object) for name in layers]
plot = datamapplot.create_interactive_plot(
    frame[["x", "y"]].to_numpy(), *titles, hover_text=frame["text"].str.slice(0, 300).tolist(), enable_search=True
)
plot.save(str(here / "map.html"))
'''


def export_run(run: RunDir, to: str, folder: str | Location | None = None) -> list[str]:
    """Write a finished run's tables as other programs take them; the run is not changed.

    to : ``atlas`` (texts.parquet and labels.parquet for Embedding Atlas), ``datamapplot`` (texts.parquet and draw.py),
        ``csv`` (texts.csv and clusters.csv), ``xlsx`` (clusters.xlsx), ``plotly`` (map.html)
    folder : where; None: ``export/`` and the name of the form in the run's directory
    Returns: what was written, and how it is opened, in lines.
    Raises: ConfigError for another form, an unfinished run, a folder that cannot be written, a missing package, and
        more records than a sheet has rows.
    """
    if to not in FORMS:
        raise ConfigError([f"--to {to!r} is unknown; take one of {', '.join(FORMS)}"])
    found = open_run(run.path)
    place = run.path / "export" / to if folder is None else locate(folder)
    if is_within(place, run.path) and not is_within(place, run.path / "export"):
        raise ConfigError([f"--output {place} lies in the run, which is not changed; name another folder"])
    check_writable(place / "texts.parquet", "--output")
    return FORMS[to](found, place)


def _lines(found: Results) -> Iterator[pa.Table]:
    """The records, some at a time, with a column for the title of each layer in place of the clusters' numbers.

    Columns layer_1, layer_2, ... go from broad to fine. Ids that are UUIDs become strings.
    """
    run, titles = found.run, found.layers(["title"])["title"].combine_chunks()
    for table in walk_tables(label_parts(run)):
        layers = table["layers"]
        depth = pc.max(pc.list_value_length(layers)).as_py() or 0
        new = [f"layer_{place + 1}" for place in range(depth)]
        table = table.rename_columns([f"input_{name}" if name in new else name for name in table.column_names])
        for place, name in enumerate(new):
            label = pc.list_element(layers, place)
            table = table.append_column(name, titles.take(pc.if_else(pc.less(label, 0), None, label)))
        if isinstance(table["text_id"].type, pa.BaseExtensionType):
            table = table.set_column(0, "text_id", shown_strings(table["text_id"]).cast(pa.string()))
        yield table.drop_columns("layers")


def _write_parquet(found: Results, path: Location) -> None:
    writer: pq.ParquetWriter | None = None
    with atomic_write(path) as temporary:
        for table in _lines(found):
            writer = writer or pq.ParquetWriter(temporary, table.schema, compression="zstd")
            writer.write_table(table)
        if writer is None:
            pq.write_table(found.labels().drop_columns("layers"), temporary)
        else:
            writer.close()


def _atlas(found: Results, folder: Location) -> list[str]:
    """texts.parquet, and labels.parquet with the clusters' names: x, y, text, level (0 is broad) and priority."""
    texts, labels = folder / "texts.parquet", folder / "labels.parquet"
    _write_parquet(found, texts)
    with atomic_write(labels) as temporary:
        pq.write_table(_places(found), temporary)
    opened = f"embedding-atlas {texts} --text text --x x --y y --labels {labels}"
    return [str(texts), str(labels), f"open them with: {opened}"]


def _places(found: Results) -> pa.Table:
    """The names of the clusters in the middle of their records; of several layers a cluster is in the broadest."""
    places = pa.concat_tables(read_table(path, ["x", "y", "layers"]) for path in label_parts(found.run))
    xy = np.column_stack([places["x"].to_numpy(), places["y"].to_numpy()])
    clusters = found.layers()
    level = np.array([min(one, default=0) for one in clusters["layers"].to_pylist()], np.int64)
    middle = np.full((len(clusters), 2), np.nan)
    for number in range(int(level.max(initial=-1)) + 1):
        label = pc.list_element(places["layers"], number).to_numpy()
        order = np.argsort(label, kind="stable")
        names, starts = np.unique(label[order], return_index=True)
        for name, own in zip(names.tolist(), np.split(order, starts[1:]), strict=True):
            if name >= 0 and level[name] == number:
                middle[name] = np.nanmedian(xy[own], axis=0)
    columns = {"x": middle[:, 0], "y": middle[:, 1], "text": clusters["title"], "level": level,
               "priority": clusters["size"]}  # fmt: skip
    return pa.table(columns).filter(pa.array(~np.isnan(middle).any(axis=1)))


def _datamapplot(found: Results, folder: Location) -> list[str]:
    texts, script = folder / "texts.parquet", folder / "draw.py"
    _write_parquet(found, texts)
    with atomic_write(script) as temporary:
        temporary.write_text(DRAW, encoding="utf-8")
    return [str(texts), str(script), f"draw the map with: python {script}"]


def _csv(found: Results, folder: Location) -> list[str]:
    paths = [folder / "texts.csv", folder / "clusters.csv"]
    for path, tables in zip(paths, (_lines(found), iter([found.clusters()])), strict=True):
        with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8-sig", newline="") as file:
            writer = csv.writer(file)
            for number, table in enumerate(tables):
                if number == 0:
                    writer.writerow(map(spreadsheet_cell, table.column_names))
                writer.writerows(_rows(table, spreadsheet_cell))
    return list(map(str, paths))


def _xlsx(found: Results, folder: Location) -> list[str]:
    try:
        import xlsxwriter
    except ImportError:
        raise ConfigError(
            ["--to xlsx needs the package XlsxWriter; pip install 'covey[xlsx]', or take --to csv"]
        ) from None
    records = found.run.report["counts"]["records"]
    if records >= SHEET_ROWS:
        problem = f"--to xlsx: {records:,} records are more than the {SHEET_ROWS - 1:,} of a sheet; take --to csv"
        raise ConfigError([problem])
    path = folder / "clusters.xlsx"
    # Text that looks like a formula or an address stays text.
    options = {"constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
    with atomic_write(path) as temporary, xlsxwriter.Workbook(str(temporary), options) as book:
        for name, tables in (("clusters", [found.clusters()]), ("layers", [found.layers()]), ("texts", _lines(found))):
            sheet, at = book.add_worksheet(name), 0
            sheet.freeze_panes(1, 0)
            for table in tables:
                if at == 0:
                    sheet.write_row(0, 0, table.column_names)
                for line in _rows(table, lambda text: one_line(text, CELL_CHARACTERS)):
                    at += 1
                    for column, cell in enumerate(line):
                        if isinstance(cell, str) or (cell is not None and not _is_exact(cell)):
                            sheet.write_string(at, column, str(cell))
                        elif cell is not None and math.isfinite(cell):
                            sheet.write_number(at, column, cell)
    return [str(path)]


def _rows(table: pa.Table, shown: Callable[[str], str]) -> Iterator[tuple[Any, ...]]:
    """The cells of each line: a number as it is, nothing for null, and anything else as text on one line.

    shown : of a text that users wrote; dates and durations cannot be formulas
    """
    table = with_short_numbers(table)
    return zip(*(_cells(name, table[name], shown) for name in table.column_names), strict=True)


def _cells(heading: str, column: pa.ChunkedArray, shown: Callable[[str], str]) -> list[Any]:
    """A text_id is a key, with which lines are joined with the input, so it stays as it is."""
    kind = column.type
    if _is_number(kind):
        found: list[Any] = column.to_pylist()
        return found
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return [cell for chunk in column.chunks for cell in _joined(chunk, shown)]
    strings = shown_strings(column)
    if pa.types.is_timestamp(kind):
        strings = pc.replace_substring_regex(strings, "^(.{10}) (.{8})", r"\1T\2")
    if pa.types.is_temporal(kind):
        return list(strings.to_pylist())
    key = heading == "text_id"
    return [
        text if text is None or (key and len(text) <= CELL_CHARACTERS) else shown(text) for text in strings.to_pylist()
    ]


def _is_number(kind: pa.DataType) -> bool:
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return bool(number or pa.types.is_boolean(kind))


def _joined(lists: pa.Array, shown: Callable[[str], str]) -> Iterator[str | None]:
    items = [item or "" for item in shown_strings(lists.flatten()).to_pylist()]
    at = 0
    for length in pc.list_value_length(lists).to_pylist():
        yield None if length is None else shown(" | ".join(items[at : at + length]))
        at += length or 0


def _is_exact(number: float | Decimal) -> bool:
    """Whether a sheet, which has numbers of 64 bits, shows it as it is."""
    if isinstance(number, Decimal):
        return number.is_finite() and Decimal(repr(float(number))) == number
    return isinstance(number, float) or abs(number) <= LARGEST_EXACT


def _plotly(found: Results, folder: Location) -> list[str]:
    path = folder / "map.html"
    with atomic_write(path) as temporary:
        found.figure().write_html(temporary, include_plotlyjs=True)
    return [str(path)]


FORMS: dict[str, Callable[[Results, Location], list[str]]] = {
    "atlas": _atlas,
    "datamapplot": _datamapplot,
    "csv": _csv,
    "xlsx": _xlsx,
    "plotly": _plotly,
}
