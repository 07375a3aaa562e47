"""Commands with wrong words: each says in a line what is wrong, before Ray is started, and ends with status 2."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from clustering.cli.main import main
from clustering.config.sections import RunConfig

CONFIG = str(Path(__file__).parents[3] / "cluster_configs/laptop.yaml")
ID = "0123456789ab"
MANIFESTS: dict[str, Any] = {
    "empty": {}, "list": [1], "text": "not json", "bytes": b"\xff\xfe{}", "nothing": {"id": ID, "stages": {}},
    "types": {"id": 5, "stages": []}, "stage": {"id": ID, "stages": {"read": 5}}, "deep": "[" * 100_000,
    "config": {"id": ID, "stages": {}, "config": {"read": 5}},
    "begun": {"id": ID, "stages": {}, "config": RunConfig().as_dict()},
}  # fmt: skip
DIRECTORIES = [
    "",
    "a\0b",
    "x" * 5000,
    "none",
    "folder",
    "file.csv",
    "file.csv/x",
    "/dev/null",
    "http://[::1",
    "~nobody-x",
]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("clustering.pipeline.ray_session", None)  # who starts Ray before it looks fails
    (tmp_path / "file.csv").write_text("id,title\n1,storm\n")
    (tmp_path / "folder").mkdir()
    for name, content in MANIFESTS.items():
        (tmp_path / name).mkdir()
        text = content if isinstance(content, (str, bytes)) else json.dumps(content)
        (tmp_path / name / "manifest.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    (tmp_path / "begun" / "progress.json").write_text('[{"stage": 5}]')
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    capsys.readouterr()
    status = main(list(words))
    return status, capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "status", "assign", "recluster"])
@pytest.mark.parametrize("run", [*DIRECTORIES, *MANIFESTS], ids=lambda run: repr(run[:12]))
def test_what_is_no_run_is_told(place: Path, command: str, run: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--input", "file.csv"] if command == "assign" else []
    if command != "status" and run == "begun":
        return  # it has a configuration, and the next test
    status, said = told(capsys, command, "--run", run, *words)
    assert "Traceback" not in said
    if command == "status" and run in ("nothing", "begun", "config"):
        assert status in (0, 2)
        return
    assert status == 2
    assert said.startswith("error: ")
    assert len(said) < 1500
    known = (
        "holds no run",
        "is no path",
        "is no URI",
        "is no run directory",
        "is damaged",
        "manifest.json",
        "section 'read'",
    )
    assert any(words in said for words in known), said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sample", "--output", "x.txt"], "--output x.txt: the ending says the format; use .csv or .parquet"),
        (["sample", "--texts", "0", "--output", "x.csv"], "--texts 0: at least 1 is needed"),
        (["sample", "--seed", "-1", "--output", "x.csv"], "--seed -1: no number below 0 is taken"),
        (["sample", "--output", "folder.csv"], "--output .*folder.csv cannot be written: it is a directory"),
        (["sample", "--output", "file.csv/x.csv"], "--output .*file.csv/x.csv cannot be written: "),
        (["sample", "--output", "x" * 5000 + ".csv"], "--output .* cannot be written: File name too long"),
        (["sample", "--output", "a\0b.csv"], r"'a\\x00b.csv' is no path"),
        (["plan", "--config", "none.yaml", "--texts", "5"], "cannot read the configuration none.yaml"),
        (["plan", "--config", "folder", "--texts", "5"], "cannot read the configuration folder: Is a directory"),
        (["plan", "--config", CONFIG, "--texts", "0"], "--texts=0 is no number of texts"),
        (["plan", "--config", CONFIG, "--texts", "9", "search.k=x"], "search.k: input should be a valid integer"),
        (["plan", "--config", CONFIG, "--texts", "9", "--run", "http://[::1"], "is no URI: Invalid IPv6 URL"),
        (["run", "--config", CONFIG, "run.dir=http://[::1"], "run.dir is no URI"),
        (["recluster", "--run", "begun", "read.limit=5"], "recluster takes keys of graph, .* only, not 'read.limit=5'"),
        (["recluster", "--run", "begun", "nonsense"], "recluster takes keys of graph, .* only, not 'nonsense'"),
        (["recluster", "--run", "begun", "cluster.nope=5"], "unknown key 'cluster.nope'"),
    ],
)  # fmt: skip
def test_wrong_words_are_told(place: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "folder.csv").mkdir()
    status, said = told(capsys, *words)
    assert status == 2
    assert "Traceback" not in said
    assert any(re.search(says, line) for line in said.splitlines()), said


@pytest.mark.parametrize("words", [["status"], ["status", "--run"], ["nope"], [], ["assign", "--run", "x"], ["plan"],
                                   ["sample", "--texts", "many", "--output", "x.csv"]])  # fmt: skip
def test_words_that_are_missing_are_told_by_the_parser(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err
