"""The examples of docs/api.md, those of the docstrings of results, and docs/tour.ipynb run as they stand."""

from __future__ import annotations

import ast
import doctest
import json
import re
from pathlib import Path
from typing import Any

import pytest

import clustering
from clustering.finished import results

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "api.md"


def test_the_examples_of_the_api_page_run(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    examples = [block for block in blocks if not re.match(r"(def|class) ", block)]
    names: dict[str, object] = {}
    for example in examples:
        exec(compile(example, str(PAGE), "exec"), names)
    assert doctest.testmod(results, extraglobs={"clustering": clustering}) == (0, 10)
    said = capsys.readouterr().out
    assert re.search(r"^\d+ clusters$", said, re.MULTILINE)
    assert "unknown key 'cluster.min_sample'; the nearest known one is 'cluster.min_samples'" in said


def test_the_tour_runs_and_tells_what_its_words_say(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cells = json.loads((DOCS / "tour.ipynb").read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {}
    shown: list[Any] = []  # the value of each cell's last line, which a notebook shows
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == [], "outputs would be those of another version"
        body = ast.parse("".join(cell["source"])).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), "tour.ipynb", "exec"), names)
        if last is not None:
            shown.append(eval(compile(ast.Expression(last.value), "tour.ipynb", "eval"), names))  # type: ignore[attr-defined]
    assert "<table" in names["run"]._repr_html_()
    assert list(names["found"].columns[:4]) == ["text_id", "text", "label", "title"]
    assert names["found"]["text"].str.contains("recall", case=False).all()
    assert names["story"]["time"].is_monotonic_increasing
    finer, again = (value for value in shown if isinstance(value, int) and value > 9)
    assert finer > again == len(names["run"].clusters())
    assert names["score"] > 0.6
