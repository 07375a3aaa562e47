"""`ray job submit` to a Ray head that asks for a token, as the README writes it down, with a real Milvus server."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clustering.monitoring.metrics import METRICS
from clustering.runs.directory import RunDir
from clustering.runs.inventory import STAGE_ARTEFACTS
from clustering.sample import write_sample
from tests.integration.conftest import ROOT, free_port, holds, until_answers

pytestmark = [pytest.mark.ray, pytest.mark.milvus, pytest.mark.full]


def ray_command() -> str:
    return shutil.which("ray", path=str(Path(sys.executable).parent)) or "ray"


def tool(*words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ray_command(), *words], env=env, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
    )


def start_head(words: list[str], env: dict[str, str], printed: Path, dashboard: int) -> subprocess.Popen[bytes]:
    """A head that takes jobs; Ray gives each try a minute, which is little on a busy machine."""
    for tries_left in (2, 1, 0):
        with printed.open("wb") as log:
            process = subprocess.Popen(words, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            until_answers(dashboard, process)
            deadline = time.monotonic() + 300
            while tool("job", "submit", "--", "true", env=env).returncode != 0:  # its agent comes up after the head
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(2)
            break
        except AssertionError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and what it has started
            assert tries_left, printed.read_text()
    return process


@pytest.fixture(scope="module")
def head() -> Iterator[dict[str, str]]:
    """The environment of a shell that may submit to a running head."""
    folder = Path(tempfile.mkdtemp(prefix="head-"))  # Ray's sockets lie in it, whose paths end at 107 characters
    dashboard = free_port()
    env = {
        **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_metrics_report_interval_ms": "500",
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
    env["COVEY_TEST_SECRET"] = secrets.token_hex(16)
    env |= {"METRICS_PORT": ports[1].partition("=")[2], "RAY_LOGS": str(folder)}
    env["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{dashboard}"
    process = start_head([*words, "--num-cpus=2", f"--temp-dir={folder}"], env, folder / "head.log", dashboard)
    try:
        yield env
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # `ray stop` would end every Ray of this machine
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def submit(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    resources = ["--entrypoint-memory", "200000000"]
    return tool(
        "job", "submit", *resources, "--working-dir", ".", "--", "python", "-m", "jobs.cluster_texts", *words, env=env
    )


def job_log(env: dict[str, str], submitted: subprocess.CompletedProcess[str]) -> list[str]:
    """What the job itself printed."""
    (job,) = set(re.findall(r"raysubmit_\w+", submitted.stdout))
    shown = tool("job", "logs", "--log-style", "record", "--log-color", "false", job, env=env).stdout
    return [line for line in shown.splitlines() if line.strip() and "cli.py" not in line]


@dataclass(frozen=True)
class Submitted:
    words: list[str]
    run: RunDir
    first: subprocess.CompletedProcess[str]
    log: list[str]
    metrics: str  # as Prometheus found them while the job was at work


@pytest.fixture(scope="module")
def submitted(head: dict[str, str], milvus_server: str, tmp_path_factory: pytest.TempPathFactory) -> Submitted:
    """10,000 texts clustered by a job on the cluster, with their vectors in a Milvus server."""
    folder = tmp_path_factory.mktemp("submitted")
    write_sample(folder / "sample.parquet", 10_000)
    run = RunDir(folder / "run")
    words = ["--config", "cluster_configs/laptop.yaml", "--log-format", "json", f"run.dir={run.path}", "search.k=20",
             f"read.paths={folder / 'sample.parquet'}", f"store.uri={milvus_server}", "store.index=HNSW",
             "run.prices.cpu_hour=0.05", "project.sample=2000", "store.server.token_env=COVEY_TEST_SECRET"]  # fmt: skip
    scraped: list[str] = []
    ended = threading.Event()

    def scrape() -> None:
        while not ended.wait(0.5):
            with contextlib.suppress(OSError):
                text = urllib.request.urlopen(f"http://127.0.0.1:{head['METRICS_PORT']}/metrics", timeout=5).read()
                scraped.append(text.decode())

    scraper = threading.Thread(target=scrape)
    scraper.start()
    first = submit(head, *words)
    ended.set()
    scraper.join()
    return Submitted(words, run, first, job_log(head, first), "".join(scraped))


def test_a_submitted_job_leaves_its_run(submitted: Submitted) -> None:
    assert submitted.first.returncode == 0, submitted.first.stdout + submitted.first.stderr
    assert "succeeded" in submitted.first.stdout + submitted.first.stderr
    report = submitted.run.report
    assert pq.read_table(submitted.run / "labels.parquet").num_rows == 10_000 == report["counts"]["records"]
    assert report["search"]["index"] == "HNSW"
    assert report["search"]["recall"] > 0.9
    assert report["clusters"]["count"] > 50
    lines = [json.loads(line) for line in submitted.log if line.startswith("{")]  # others are Ray's own
    assert all({"time", "level", "message"} <= line.keys() for line in lines)
    ended = [line["stage"] for line in lines if line.get("event") == "stage_finished"]
    assert ended.index("search") < ended.index("project") < ended.index("plot")  # beside those between
    assert [name for name in ended if name != "project"] == [name for name in STAGE_ARTEFACTS if name != "project"]
    assert any(line.get("event") == "finished" for line in lines)


def test_the_report_stands_beside_the_plan(submitted: Submitted) -> None:
    for name, stage in submitted.run.report["stages"].items():
        assert 0.5 < stage["peak_bytes"] / stage["planned_bytes"] < 2, name
        assert stage["cost"] == pytest.approx(stage["seconds"] / 3600 * 2 * 0.05, abs=1e-4)
        assert stage["cpu_seconds"] >= 0
    assert "planned, MiB" in (submitted.run / "report.html").read_text()


def test_prometheus_finds_the_metrics(submitted: Submitted) -> None:
    found = set(re.findall(r"^ray_(covey_\w+)\{", submitted.metrics, re.MULTILINE))
    assert found == METRICS.keys() - {"covey_gpu_idle_ratio"}  # which is there only with a GPU
    assert 'stage="search"' in submitted.metrics
    assert 'run="run"' in submitted.metrics


@pytest.mark.nightly
def test_a_second_submit_goes_on_where_the_first_ended(submitted: Submitted, head: dict[str, str]) -> None:
    again = submit(head, *submitted.words)
    assert again.returncode == 0
    assert any("nothing to do" in line for line in job_log(head, again))
    more = submit(head, *submitted.words, "cluster.preset=events")
    assert more.returncode == 0
    ended = [json.loads(line) for line in job_log(head, more) if line.startswith("{")]
    assert [line["stage"] for line in ended if line.get("event") == "stage_finished"] == [
        "cluster", "describe", "plot", "report"
    ]  # fmt: skip


def test_a_failing_job_ends_with_its_cause(head: dict[str, str], tmp_path: Path) -> None:
    wrong = submit(head, "--config", "cluster_configs/laptop.yaml", f"run.dir={tmp_path / 'run'}", "read.paths=no.csv")
    assert wrong.returncode != 0
    assert job_log(head, wrong)[-1] == "error: read.paths: no such file: no.csv"


def test_a_stranger_may_not_submit(head: dict[str, str]) -> None:
    stranger = submit({**head, "RAY_AUTH_TOKEN": secrets.token_hex(32)}, "--help")
    assert stranger.returncode != 0
    assert "token authentication is enabled" in stranger.stderr


def test_no_secret_stands_anywhere(submitted: Submitted, head: dict[str, str], tmp_path: Path) -> None:
    """Neither Ray's token nor one of the job's environment, in logs, artefacts, or what Ray tells of jobs."""
    secret = head["COVEY_TEST_SECRET"]
    listed = tool("job", "list", env=head)
    told = [listed.stdout, listed.stderr, submitted.first.stdout, submitted.first.stderr, *submitted.log]
    (tmp_path / "planted").write_text(f"token={secret}", encoding="utf-8")
    assert holds(tmp_path, secret) == [tmp_path / "planted"]  # the search for it finds it where it stands
    for word in (secret, head["RAY_AUTH_TOKEN"]):
        assert [text for text in told if word in text] == []
        assert holds(submitted.run.path, word) == []
        assert holds(Path(head["RAY_LOGS"]), word) == []
    assert oct(submitted.run.path.stat().st_mode & 0o777) == "0o700"
