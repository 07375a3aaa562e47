"""warm.py: what a run calls is in numba's cache beforehand, for the types that its stages give."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clustering import warm
from clustering.config import build_config

LATER = """
import numba, sys
from clustering.warm import warm_kernels
warm_kernels()
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
    monkeypatch.setattr(warm.os, "nice", lambda by: None)
    monkeypatch.setattr(warm, "warm_kernels", broken)
    monkeypatch.setattr(warm.log, "debug", lambda line, *given: said.append(line % given))
    warm.warm_beside(build_config({}))
    assert said == ["kernels are not compiled beforehand: OSError: no space left"]
