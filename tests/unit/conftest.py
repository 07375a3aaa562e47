"""What the tests of reading share: files to read, and a reader with this process in the place of Ray's workers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clustering.config.sections import ReadSection
from clustering.runs.directory import RunDir
from clustering.sources import deduplication, folding, numbering
from clustering.sources.detection import find_files
from clustering.stages import read
from clustering.stages.read import read_texts
from clustering.workers.tasks import make_pieces

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write(name, content)`` leaves a file and returns its path; a name that ends in .gz is compressed."""

    def file(name: str, content: str | bytes = "title\nFlood in Garford\n") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") and isinstance(content, str) else raw)
        return str(path)

    return file


@pytest.fixture
def read_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[RunDir, dict[str, Any]]]:
    def map_parts(make: Any, items: list[Any], **kwargs: Any) -> list[Any]:
        worker = make(**kwargs)
        numbered = [json.loads(json.dumps({**item, "item": number})) for number, item in enumerate(items)]
        return [{**worker(item), "item": item["item"]} for item in numbered]

    for module in (read, deduplication):
        monkeypatch.setattr(module, "map_parts", map_parts)
    for module in (numbering, folding):
        monkeypatch.setattr(module, "run_on_one_node", lambda work, *given: work(*given))
        monkeypatch.setattr(module, "submit_pieces", make_pieces)
        monkeypatch.setattr(module, "fetch", lambda values: values)
    monkeypatch.setattr(folding, "await_all", lambda references: None)
    made: list[RunDir] = []

    def run(cfg: ReadSection, part_rows: int = 8192, near: str = "keep") -> tuple[RunDir, dict[str, Any]]:
        monkeypatch.setattr(read, "RECORDS_PER_PART", part_rows)
        monkeypatch.setattr(deduplication, "part_rows", lambda *_: part_rows)
        made.append(RunDir(tmp_path / f"run-{len(made)}"))
        return made[-1], read_texts(find_files(cfg), replace(cfg, near_duplicates=near), made[-1], 256)

    return run
