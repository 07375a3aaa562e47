"""show: the clusters of a run in the terminal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from clustering import schema
from clustering.cli.commands.show import cluster_lines, table_lines
from clustering.cli.main import main
from clustering.errors import ConfigError
from clustering.runs.directory import RunDir
from clustering.runs.storage import write_json, write_table


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """Two stories, one of which holds a finer cluster, in a broad one."""
    monkeypatch.setenv("COLUMNS", "60")
    shown = [("Flood\x1b[31m in Leeds", 40, 3, [1]), ("Quake in Chile", 50, 3, [1]), ("Quake strikes", 20, 1, [2]),
             ("Disasters " * 9, 90, None, [0])]  # fmt: skip
    lines = [
        {"label": label, "title": title, "size": size, "texts": size // 2, "link_share": 0.875, "persistence": 0.0,
         "terms": ["rain", "sea"], "exemplars": [f"{title}, again"], "parent": parent, "layers": layers}
        for label, (title, size, parent, layers) in enumerate(shown)
    ]  # fmt: skip
    write_table(tmp_path / "layers.parquet", pa.Table.from_pylist(lines, schema.LAYERS))
    clusters = {"layer": 1, "layers": [{"clusters": 1}, {"clusters": 2}, {"clusters": 1}]}
    write_json(tmp_path / "report.json", {"clusters": clusters, "counts": {"records": 140, "texts": 50, "empty": 40}})
    return RunDir(tmp_path)


def test_the_largest_clusters_of_a_layer_are_a_table(run: RunDir) -> None:
    assert list(table_lines(run)) == [
        "  label   records  share  title",
        "      1        50  50.0%  Quake in Chile",
        "      0        40  40.0%  Flood\ufffd[31m in Leeds",
    ]
    assert list(table_lines(run, most=1))[-1] == f"        and 1 more; covey show --run {run.path} --all shows them"
    told = list(table_lines(run, 0, most=0))[-1]
    assert told.endswith(f"more; covey show --run {run.path} --layer 0 --all shows them")
    assert list(table_lines(run, 0))[1] == "      3        90  90.0%  Disasters Disasters Disasters Dis…"
    with pytest.raises(ConfigError, match="--layer=3: the run has 3 layers, of which 0 is the broadest"):
        list(table_lines(run, 3))


def test_a_cluster_is_shown_with_its_texts_and_what_is_around_and_in_it(run: RunDir) -> None:
    assert list(cluster_lines(run, 1)) == [
        "Quake in Chile", "label 1, 50 records, 25 different texts, 88% of their links inside", "terms: rain, sea",
        f"in 3: {'Disasters ' * 8}Disasters", "  - Quake in Chile, again", "  holds 2: Quake strikes (20)",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="--cluster=9: the run has the clusters 0 to 3"):
        list(cluster_lines(run, 9))


def test_a_run_without_texts_says_so(tmp_path: Path) -> None:
    write_json(tmp_path / "report.json", {"clusters": {"layer": None, "layers": None}, "counts": {"texts": 0}})
    assert list(table_lines(RunDir(tmp_path))) == ["the run has no texts"]
    with pytest.raises(ConfigError, match="--cluster=0: the run has no texts, and so no clusters"):
        list(cluster_lines(RunDir(tmp_path), 0))


def test_a_run_without_clusters_says_so(tmp_path: Path) -> None:
    """It said: the labels 0 to -1."""
    write_json(
        tmp_path / "report.json", {"clusters": {"layer": 0, "layers": [{}]}, "counts": {"records": 3, "texts": 3}}
    )
    write_table(tmp_path / "layers.parquet", schema.LAYERS.empty_table())
    assert list(table_lines(RunDir(tmp_path))) == ["no clusters"]
    with pytest.raises(ConfigError, match="--layer=1: the run has one layer, which is 0"):
        list(table_lines(RunDir(tmp_path), 1))
    with pytest.raises(ConfigError, match="--cluster=0: the run has no clusters"):
        list(cluster_lines(RunDir(tmp_path), 0))


def test_the_command_prints_either(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "--run", str(run.path)]) == 0
    assert capsys.readouterr().out.splitlines() == list(table_lines(run))
    assert main(["show", "--run", str(run.path), "--cluster", "2"]) == 0
    assert capsys.readouterr().out.startswith("Quake strikes\nlabel 2")


def test_a_folder_without_a_finished_run_is_no_damaged_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "--run", str(tmp_path / "gone")]) == 2
    assert "gone holds no finished run; covey status --run" in capsys.readouterr().err


def test_who_stops_reading_ends_the_command_without_a_word() -> None:
    command = f"{sys.executable} -m clustering.cli.main keys | head -1; echo ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert ended.stdout.splitlines() == ["run.dir=runs/covey", "141"] or ended.stdout.splitlines()[1] == "0"
    assert ended.stderr == ""
