"""`ray job submit` of the laptop run to a Ray head that asks for a token, as the README writes it down."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clustering.sample import write_sample
from tests.integration.conftest import ROOT, free_port

pytestmark = pytest.mark.ray


def ray_command() -> str:
    return shutil.which("ray", path=str(Path(sys.executable).parent)) or "ray"


def tool(*words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ray_command(), *words], env=env, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a shell that may submit to a running head."""
    folder = tmp_path_factory.mktemp("head")
    dashboard = free_port()
    env = {
        **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    # Ports of its own, so that it can stand beside the Ray of the other tests.
    ports = [
        f"--{name}-port={free_port()}" for name in ("dashboard-agent-listen", "metrics-export", "ray-client-server")
    ]
    words = [
        ray_command(),
        "start",
        "--head",
        "--block",
        f"--port={free_port()}",
        f"--dashboard-port={dashboard}",
        *ports,
    ]
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(
            [*words, "--num-cpus=2", f"--temp-dir={folder}"], env=env, stdout=log, stderr=log, start_new_session=True
        )
    env["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{dashboard}"
    deadline = time.monotonic() + 60
    try:
        while tool("job", "submit", "--", "true", env=env).returncode != 0:  # its agent comes up after the head
            assert time.monotonic() < deadline
            assert process.poll() is None, (folder / "head.log").read_text()
            time.sleep(0.5)
        yield env
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # `ray stop` would end every Ray of this machine
        process.wait(60)


def submit(env: dict[str, str], *overrides: str) -> subprocess.CompletedProcess[str]:
    words = ["job", "submit", "--working-dir", ".", "--", "python", "-m", "jobs.cluster_texts"]
    return tool(*words, "--config", "cluster_configs/laptop.yaml", *overrides, env=env)


def test_a_submitted_job_leaves_its_run_and_a_wrong_one_fails(head, tmp_path):
    sample, run = tmp_path / "sample.csv", tmp_path / "run"
    write_sample(sample, 600)
    overrides = [f"run.dir={run}", f"read.paths={sample}"]
    done = submit(head, *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout + done.stderr
    assert pq.read_table(run / "labels.parquet").num_rows == 600
    again = submit(head, *overrides)
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    wrong = submit(head, f"run.dir={tmp_path / 'other'}", "read.paths=missing.csv")
    assert wrong.returncode != 0
    assert "no such file: missing.csv" in wrong.stdout + wrong.stderr
    stranger = submit({**head, "RAY_AUTH_TOKEN": secrets.token_hex(32)}, *overrides)
    assert stranger.returncode != 0
