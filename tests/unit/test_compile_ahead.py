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


@pytest.mark.full  # compiles every kernel
def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    kept = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    first, second = (
        subprocess.run([sys.executable, "-c", LATER], env=kept, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert "_move" in first
    assert second == ""
    assert len(list(tmp_path.glob("covey-*.warm"))) == 1  # by which a run knows


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
