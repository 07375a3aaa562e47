"""The wheel: the library and its ready configurations, and nothing else that everybody's environment would get."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from clustering import __version__

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {f"clustering/configs/{path.name}": path for path in (ROOT / "cluster_configs").glob("*.yaml")}
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        int(version("setuptools").split(".")[0]) < 77, reason="needs setuptools 77, of the extra `test`"
    ),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("clustering", "cluster_configs", "jobs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "out", "."]
    subprocess.run(command, cwd=folder, check=True)
    (built,) = (folder / "out").glob("covey-*.whl")
    return zipfile.ZipFile(built)


def test_the_wheel_holds_the_library_and_the_ready_configurations(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "clustering").rglob("*.py")}
    page = {str(path.relative_to(ROOT)) for path in (ROOT / "clustering/viewer").iterdir() if path.is_file()}
    assert names == {*modules, *CONFIGS, *page, "clustering/py.typed", "clustering/monitoring/rates.json"}
    assert len(CONFIGS) == 3
    assert {name: wheel.read(name) for name in CONFIGS} == {name: path.read_bytes() for name, path in CONFIGS.items()}


def test_what_is_installed_finds_its_configurations_outside_the_checkout(
    wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    wheel.extractall(tmp_path / "installed")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}

    def covey(*words: str) -> str:
        command = [sys.executable, "-m", "clustering.cli.main", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    assert covey("--version") == f"covey {__version__}\n"
    assert covey("plan", "--config", "laptop", "--texts", "1000").startswith("1,000 texts of 70 bytes")
