"""A run directory whose disk is full, that vanishes, or cannot be written: told; nothing half-finished is taken."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clustering.runs.directory import RunDir
from tests.integration.conftest import digests

pytestmark = [pytest.mark.ray, pytest.mark.full]
Resize = Callable[[str], None]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Resize]]:
    """A disk of its own, in memory, and a way to mount it again with other options."""
    path = tmp_path / "disk"
    path.mkdir()

    def mount(options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], check=True, capture_output=True)

    try:
        mount("size=64m")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"only root may mount a disk for this test: {error}")
    yield path, lambda options: mount(f"remount,{options}")
    subprocess.run(["umount", "--lazy", path], check=True)


def test_a_full_disk_ends_the_run_and_the_next_start_goes_on(covey, undisturbed, disk):
    path, mount = disk
    run = RunDir(path / "run")
    words = [*undisturbed.words, f"run.dir={run.path}"]
    kept: dict[str, float] = {}
    for size in ("60k", "500k", "2500k"):
        mount(f"size={size}")
        started = time.monotonic()
        result = covey(*words)
        assert time.monotonic() - started < 150, "within the patience of the store"
        assert result.status == 1, size
        last = result.err.splitlines()[-1]
        assert "o space left" in last or "isk quota" in last or "server.log" in last, last
        stages = {name: stage["finished"] for name, stage in run.manifest["stages"].items()}
        assert kept.items() <= stages.items()
        assert "report" not in stages
        kept = stages
    mount("size=64m")
    result = covey(*words)
    assert result.status == 0, result.err
    assert kept.items() <= {name: stage["finished"] for name, stage in run.manifest["stages"].items()}.items()
    assert digests(run) == undisturbed.digests


def test_a_disk_that_cannot_be_written_is_told_before_any_work(covey, undisturbed, disk):
    path, mount = disk
    mount("ro")
    result = covey(*undisturbed.words, f"run.dir={path / 'run'}")
    assert result.status == 2
    assert f"run.dir {path / 'run'} cannot be written: Read-only file system" in result.err


def test_a_directory_that_vanishes_ends_the_run(covey, undisturbed, tmp_path):
    run = RunDir(tmp_path / "run")

    def vanish() -> None:
        while "search" not in run.manifest["stages"]:
            time.sleep(0.01)
        run.path.rename(tmp_path / "elsewhere")  # all at once

    vanishing = threading.Thread(target=vanish)
    vanishing.start()
    result = covey(*undisturbed.words, f"run.dir={run.path}")
    vanishing.join()
    assert result.status == 1
    assert str(run.path) in result.err.splitlines()[-1]
    assert not (run / "report.json").exists()
    assert not (run / "labels.parquet").exists()
