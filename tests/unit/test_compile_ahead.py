"""compile_ahead.py: what a run calls is in numba's cache beforehand, for the types that its stages give."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clustering import compile_ahead
from clustering.config.loading import build_config
from clustering.kernels import cache
from clustering.kernels.graph.layout import _move

ROOT = Path(__file__).parents[2]

LATER = """
import numba, sys
from clustering.compile_ahead import compile_kernels
compile_kernels()
import gc
for one in gc.get_objects():
    if isinstance(one, numba.core.dispatcher.Dispatcher) and one.py_func.__module__.startswith("clustering."):
        for signature, misses in one.stats.cache_misses.items():
            print(one.py_func.__qualname__, signature)
"""

IN_BLOCKS = """
import sys
from clustering.stages import graph
graph.count_blocks = lambda *_: 3
from clustering.cli.main import main
from clustering.sample import write_sample
write_sample("sample.csv", 400)
sys.exit(main(["run", "read.paths=sample.csv", "run.dir=run", "read.time_column=null",
               "project.sample=100"]))
"""


@pytest.mark.nightly  # compiles every kernel
@pytest.mark.ray
def test_what_is_compiled_beforehand_is_all_that_a_run_compiles(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    env = os.environ | {"NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}

    def run(code: str) -> str:
        words = [sys.executable, "-c", code]
        return subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=True).stdout

    def compiled_by(code: str) -> set[str]:
        before = set(cache.rglob("*.nbc"))
        run(code)
        return {path.name.partition("-")[0] for path in set(cache.rglob("*.nbc")) - before}

    assert "_move" in run(LATER)
    assert run(LATER) == ""
    assert len(list(cache.glob("covey-*.warm"))) == 1  # by which a run knows
    for_blocks = "from clustering.compile_ahead import compile_for_blocks; compile_for_blocks()"
    assert compiled_by(for_blocks) > {"blocks._fill_cut", "diffusion._average", "forest._merge", "modularity_cut._sum"}
    assert compiled_by(IN_BLOCKS) == set()


def test_what_hinders_it_is_no_trouble_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(config: object) -> None:
        raise OSError("no space left")

    said: list[str] = []
    monkeypatch.setattr(compile_ahead.os, "nice", lambda by: None)
    monkeypatch.setattr(compile_ahead, "compile_kernels", broken)
    monkeypatch.setattr(compile_ahead.log, "debug", lambda line, *given: said.append(line % given))
    compile_ahead.compile_beside_run(build_config({}))
    assert said == ["kernels are not compiled beforehand: OSError: no space left"]


@pytest.mark.parametrize("xdg", [False, True])
def test_the_note_lies_where_numba_keeps_what_it_compiles(
    xdg: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that both go together."""
    from numba.core.caching import UserWideCacheLocator

    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if xdg:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(cache, "_is_writable", lambda folder: folder.name != "__pycache__")  # read-only packages
    locator = UserWideCacheLocator(_move, compile_ahead.__file__)
    assert Path(locator.get_cache_path()).parent == cache.cache_folder()
