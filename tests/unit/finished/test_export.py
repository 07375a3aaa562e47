"""finished/export.py: what other programs read of a run."""

from __future__ import annotations

import csv
import importlib.util
import itertools
import shutil
import zipfile
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clustering.cli.commands import export as export_command
from clustering.cli.main import main
from clustering.errors import ConfigError
from clustering.finished import export
from clustering.finished.export import export_run
from clustering.finished.results import Results
from clustering.runs.directory import RunDir
from clustering.runs.storage import write_table
from tests.unit.finished.test_results import HOSTILE, RECORDS, found  # noqa: F401

SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


@pytest.fixture
def exported(found: Results, tmp_path: Path) -> Any:  # noqa: F811
    def write(to: str) -> Path:
        lines = export_run(found.run, to, tmp_path / to)
        assert all(str(tmp_path / to) in line for line in lines)
        return tmp_path / to

    return write


def test_atlas_takes_texts_with_places_and_names_with_levels(exported: Any, found: Results) -> None:  # noqa: F811
    folder = exported("atlas")
    texts, names = pq.read_table(folder / "texts.parquet"), pq.read_table(folder / "labels.parquet")
    lines, layers = found.labels(), found.layers()
    assert texts.select(["text_id", "text", "x", "y", "title"]).equals(
        lines.select(["text_id", "text", "x", "y", "title"])
    )
    assert not [field.name for field in texts.schema if pa.types.is_nested(field.type)]
    titles = [*layers["title"].to_pylist(), None]
    for place in range(3):
        expected = [titles[line[place]] for line in lines["layers"].to_pylist()]
        assert texts[f"layer_{place + 1}"].to_pylist() == expected
    assert names.column_names == ["x", "y", "text", "level", "priority"]
    assert names["text"].to_pylist() == layers["title"].to_pylist()
    assert names["level"].to_pylist() == [min(one) for one in layers["layers"].to_pylist()]
    assert names["priority"].to_pylist() == layers["size"].to_pylist()
    own = np.array([line[1] == 5 for line in lines["layers"].to_pylist()])
    assert names["x"][5].as_py() == pytest.approx(np.median(lines["x"].to_numpy()[own]))


def test_a_csv_file_computes_nothing(exported: Any, found: Results) -> None:  # noqa: F811
    folder = exported("csv")
    with open(folder / "clusters.csv", encoding="utf-8-sig", newline="") as file:
        clusters = list(csv.DictReader(file))
    assert clusters[3]["title"] == "'=1+1"
    assert clusters[0]["title"] == HOSTILE[0]
    assert "\x00" not in clusters[2]["title"]
    with open(folder / "texts.csv", encoding="utf-8-sig", newline="") as file:
        texts = list(csv.DictReader(file))
    assert [line["text"] for line in texts] == found.labels()["text"].to_pylist()
    assert {line["strength"] for line in texts} == {"0.2", "0.4", "0.6", "0.8", "1.0"}  # no digits of float32
    assert {line["title"] for line in texts if line["label"] == "-1"} == {""}


def test_ids_stay_keys_in_every_sheet(found: Results, tmp_path: Path) -> None:  # noqa: F811
    run = RunDir(shutil.copytree(found.run.path, tmp_path / "run"))
    lines = found.labels()
    keys = ["-1", "=1+1", "+49 30", "@home", " 7 ", "two\nlines", 'a"b,c', "\uff1d5", *map(str, range(RECORDS - 8))]
    run.remove("labels.parquet")  # a folder of parts
    write_table(run / "labels.parquet", lines.set_column(0, "text_id", pa.array(keys)))
    export_run(run, "csv", tmp_path)
    with open(tmp_path / "texts.csv", encoding="utf-8-sig", newline="") as file:
        assert [line["text_id"] for line in csv.DictReader(file)] == keys
    assert pd.read_csv(tmp_path / "texts.csv", dtype=str)["text_id"].tolist() == keys
    if importlib.util.find_spec("xlsxwriter") is not None:
        export_run(run, "xlsx", tmp_path)
        with zipfile.ZipFile(tmp_path / "clusters.xlsx") as book:
            rows = ElementTree.fromstring(book.read("xl/worksheets/sheet3.xml")).iter(f"{SHEET}row")
            assert ["".join(row[0].itertext()) for row in rows][1:] == keys


def test_values_of_users_stay_as_they_are(found: Results, tmp_path: Path) -> None:  # noqa: F811
    run = RunDir(shutil.copytree(found.run.path, tmp_path / "run"))
    lines, rest = found.labels(), [None] * (RECORDS - 2)
    pair = pa.StructArray.from_arrays([pa.array(range(RECORDS))] * 2, ["a", "a"])
    columns = {
        "score": pa.array([1e-7, 123456.7, *rest], pa.float32()), "price": pa.array([Decimal("-12.50"), None, *rest]),
        "span": pa.array([timedelta(seconds=-3), None, *rest]), "pair": pair, "word": pa.array(["-12.50", "a", *rest]),
        "late": pa.array([0, 2**63 - 1, *rest]).cast(pa.timestamp("us", "UTC")),
        "share": pa.array([1e-8, 2, *rest], "f4"),
        "by": pa.array([[("k", 1)], None, *rest], pa.map_(pa.string(), pa.int8())),
        "many": pa.array([[1.5, None], [], *rest]), "flag": pa.array([True, None, *rest]),
        "long": pa.array([Decimal("0.12345678901234567890"), None, *rest]),
    }  # fmt: skip
    for name, column in columns.items():
        lines = lines.append_column(name, column)
    run.remove("labels.parquet")
    write_table(run / "labels.parquet", lines)
    export_run(run, "csv", tmp_path)
    with open(tmp_path / "texts.csv", encoding="utf-8-sig", newline="") as file:
        first, second = itertools.islice(csv.DictReader(file), 2)
    told = {
        "score": ["1e-07", "123456.7"], "price": ["-12.50", ""], "span": ["-0:00:03", ""], "word": ["'-12.50", "a"],
        "pair": ['{"a": 0, "a": 0}', '{"a": 1, "a": 1}'], "share": ["1e-08", "2.0"], "flag": ["True", ""],
        "late": ["1970-01-01T00:00:00+00:00", f"{2**63 - 1} us since 1970"], "by": ['{"k": 1}', ""],
        "many": ["1.5 |", ""], "long": ["0.12345678901234567890", ""],
    }  # fmt: skip
    assert {name: [first[name], second[name]] for name in columns} == told
    if importlib.util.find_spec("xlsxwriter") is not None:
        export_run(run, "xlsx", tmp_path)
        with zipfile.ZipFile(tmp_path / "clusters.xlsx") as book:
            sheet = ElementTree.fromstring(book.read("xl/worksheets/sheet3.xml"))
        row = list(list(sheet.iter(f"{SHEET}row"))[1])
        row = row[-len(columns) - 3 : -3]  # then the layers
        numbers = [name for name, cell in zip(columns, row, strict=True) if cell.get("t", "n") == "n"]
        assert numbers == ["score", "price", "share", "flag"]
        assert float("".join(row[1].itertext())) == -12.5


def test_a_sheet_holds_texts_as_texts(exported: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("xlsxwriter") is None:
        with pytest.raises(ConfigError, match=r"needs the package XlsxWriter; pip install 'covey\[xlsx\]'"):
            exported("xlsx")
        pytest.skip("XlsxWriter is not installed")
    with zipfile.ZipFile(exported("xlsx") / "clusters.xlsx") as book:
        sheets = [book.read(f"xl/worksheets/sheet{number}.xml").decode() for number in (1, 2, 3)]
        assert not [sheet for sheet in sheets if "<f>" in sheet]  # a formula
        assert "&lt;script&gt;" in sheets[0]
        assert "=1+1" in sheets[0]
        assert sheets[2].count("<row ") == RECORDS + 1
        assert [
            name for name in ("clusters", "layers", "texts") if name not in book.read("xl/workbook.xml").decode()
        ] == []
    monkeypatch.setattr(export, "SHEET_ROWS", RECORDS)
    with pytest.raises(ConfigError, match="600 records are more than the 599 of a sheet; take --to csv"):
        exported("xlsx")


def test_the_script_for_datamapplot_names_what_is_beside_it(exported: Any) -> None:
    folder = exported("datamapplot")
    script = (folder / "draw.py").read_text(encoding="utf-8")
    compile(script, "draw.py", "exec")
    assert 'here / "texts.parquet"' in script
    assert {"x", "y", "text", "layer_1"} <= set(pq.read_schema(folder / "texts.parquet").names)


def test_plotly_is_one_page_that_runs_no_text(exported: Any) -> None:
    page = (exported("plotly") / "map.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "onerror=alert(1)>" not in page
    assert "cdn" not in page.partition("<script")[0]


def test_the_run_itself_is_not_changed(
    found: Results,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for folder in (found.run.path, found.run.path / "texts"):
        with pytest.raises(ConfigError, match="lies in the run, which is not changed; name another folder"):
            export_run(found.run, "csv", folder)
    with pytest.raises(ConfigError, match="--to 'word' is unknown; take one of atlas, datamapplot, csv, xlsx, plotly"):
        export_run(found.run, "word", tmp_path)
    assert tuple(export.FORMS) == export_command.FORMS
    assert main(["export", "--run", str(found.run.path), "--to", "csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [str(found.run.path / "export" / "csv" / name) for name in ("texts.csv", "clusters.csv")]
    assert main(["export", "--run", str(tmp_path), "--to", "csv"]) == 2
    assert "holds no finished run" in capsys.readouterr().err
