"""The examples of docs/api.md, and those of the docstrings of results, run as they stand."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

import clustering
from clustering.finished import results

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"


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
