"""SIGKILL of the driver, a worker or Ray's own part, at moments spread over a whole run: the result is the same.

COVEY_TEST_KILLS=20 kills at each stage's begin, too; the few of the usual run take a minute.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clustering.runs.directory import RunDir
from clustering.runs.inventory import PROGRESS, STAGE_ARTEFACTS
from tests.integration.conftest import ROOT, Undisturbed, digests

pytestmark = [pytest.mark.ray, pytest.mark.nightly]
STAGES = list(STAGE_ARTEFACTS)
KILLS = int(os.environ.get("COVEY_TEST_KILLS", "4"))
VICTIMS = ["driver", "raylet", "worker", "gcs_server"]


def moments(seed: int = 7) -> list[tuple[int, float, str]]:
    """Stages, seconds after their begin, and who is killed then."""
    draw = random.Random(seed)
    found = [(draw.randrange(len(STAGES)), draw.uniform(0, 2), VICTIMS[at % 4]) for at in range(KILLS)]
    if KILLS >= 20:
        found += [(stage, 0.0, VICTIMS[stage % 4]) for stage in range(len(STAGES))]
    return sorted(found)


class Killed:
    """A command that is begun again and again, with a folder of its own for what is temporary."""

    def __init__(self, words: list[str], run: RunDir, folder: Path) -> None:
        self.words, self.run, self.folder = [*words, f"run.dir={run.path}"], run, folder
        self.done: list[str] = []
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "clustering.cli.main", *self.words],
            cwd=ROOT, env={**os.environ, "TMPDIR": str(self.folder)}, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def wait_for(self, stage: int) -> bool:
        """Until this process has begun the stage; whether it is still at work."""
        deadline = time.monotonic() + 600
        while self.process.poll() is None:
            assert time.monotonic() < deadline, STAGES[stage]
            try:
                told = json.loads((self.run / PROGRESS).read_text(encoding="utf-8"))
            except (FileNotFoundError, ValueError):
                told = {}
            if told.get("pid") == self.process.pid and STAGES.index(told["stage"]) >= stage:
                return True
            time.sleep(0.02)
        return False

    def kill(self, victim: str) -> None:
        """Kill, and begin again where the run does not go on by itself."""
        names = {pid: args for pid, args in self.processes().items() if victim in args.split("/")[-1].split(" ")[0]}
        if victim == "worker":
            names = {pid: args for pid, args in self.processes().items() if args.startswith(("ray::", "ray::IDLE"))}
            names = {pid: args for pid, args in names.items() if "Agent" not in args}
        pid = next(iter(sorted(names, reverse=True)), self.process.pid)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.done.append(victim if pid != self.process.pid else "driver")
        if victim == "worker" and pid != self.process.pid:
            return
        err = self.process.communicate(timeout=300)[1]
        if pid == self.process.pid:
            assert self.process.returncode == -signal.SIGKILL
        else:
            assert self.process.returncode == 1, err
            assert err.splitlines()[-1].startswith("error: "), err
            assert "same command goes on" in err.splitlines()[-1], err
        self.start()

    def processes(self) -> dict[int, str]:
        """Those of the command's session, by pid, as far as they live."""
        listed = subprocess.run(
            ["ps", "-ww", "-s", str(self.process.pid), "-o", "pid=,stat=,args="],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        fields = [line.split(None, 2) for line in listed.stdout.splitlines()]
        return {int(pid): args for pid, state, args in fields if not state.startswith("Z")}


def left_over(folder: Path, run: RunDir) -> list[str]:
    """Processes that name the run or its temporary folder, and what lies in that."""
    listed = subprocess.run(["ps", "-ww", "-eo", "args="], capture_output=True, text=True, check=True).stdout
    running = [line for line in listed.splitlines() if str(folder) in line or str(run.path) in line]
    return [*running, *(str(path) for path in folder.iterdir())]


def test_kills_at_moments_of_the_whole_run_change_nothing_and_leave_nothing(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    folder = Path(f"/tmp/k{os.getpid() % 1000}{int(time.time()) % 1000}")  # short enough for Ray's sockets
    folder.mkdir()
    run = RunDir(tmp_path / "run")
    killed = Killed(undisturbed.words, run, folder)
    for stage, seconds, victim in moments():
        if not killed.wait_for(stage):
            break
        time.sleep(seconds)
        if killed.process.poll() is None:
            killed.kill(victim)
    err = killed.process.communicate(timeout=900)[1]
    assert killed.process.returncode == 0, err
    assert len(killed.done) >= KILLS / 2, killed.done
    assert digests(run) == undisturbed.digests
    deadline = time.monotonic() + 300
    while left := left_over(folder, run):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
    folder.rmdir()
