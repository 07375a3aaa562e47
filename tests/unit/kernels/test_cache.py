"""kernels/cache.py: kernels load and are kept also where neither home nor the package can be written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clustering.kernels import cache

PACKAGE = Path(cache.__file__).parents[1]
IMPORTS = "import clustering.kernels.graph.csr, numba; print(numba.config.CACHE_DIR)"


@pytest.fixture
def read_only(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that finds the package where nothing can be written beside it, root or not."""
    copy = tmp_path / "packages" / "clustering"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "kernels" / "__pycache__").touch()
    kept = {name: value for name, value in os.environ.items() if name not in (cache.CACHE_VARIABLE, "XDG_CACHE_HOME")}
    return kept | {"PYTHONPATH": str(copy.parent), "HOME": "/dev/null/home", "TMPDIR": str(tmp_path)}


def python(code: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=environment["TMPDIR"],
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_kernels_are_kept_in_a_folder_of_the_user_where_nothing_else_can_be_written(
    read_only: dict[str, str], tmp_path: Path
) -> None:
    ours = tmp_path / f"covey-{os.getuid()}"
    code = f"import numpy as np; {IMPORTS}; clustering.kernels.graph.csr.first_invalid(np.zeros(3, np.float32))"
    assert python(code, read_only) == str(ours / "numba")
    assert list((ours / "numba").rglob("csr.first_invalid*"))
    assert ours.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_may_write_is_not_taken(read_only: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / f"covey-{os.getuid()}").mkdir(mode=0o777)
    (tmp_path / f"covey-{os.getuid()}").chmod(0o777)
    found = Path(python(IMPORTS, read_only))
    assert found.parent.parent == tmp_path
    assert found.parent.name != f"covey-{os.getuid()}"
    assert not found.parent.exists()  # it went with the process


def test_a_folder_of_the_user_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours").chmod(0o755)
    assert cache.make_private(tmp_path / "ours")
    assert (tmp_path / "ours").stat().st_mode & 0o777 == 0o700


def test_what_the_user_has_set_stays(read_only: dict[str, str], tmp_path: Path) -> None:
    assert python(IMPORTS, read_only | {cache.CACHE_VARIABLE: str(tmp_path / "mine")}) == str(tmp_path / "mine")


def test_a_set_folder_that_cannot_be_written_stops_nothing(read_only: dict[str, str], tmp_path: Path) -> None:
    found = python(IMPORTS, read_only | {cache.CACHE_VARIABLE: "/dev/null/cache"})
    assert found == str(tmp_path / f"covey-{os.getuid()}" / "numba")


def test_a_user_without_a_home_gets_no_folder_named_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert not cache._is_writable(cache._user_cache("~"))
    assert not list(tmp_path.iterdir())
