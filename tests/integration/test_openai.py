"""A run whose texts a server of embeddings embeds, a process of its own that is killed and started again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from clustering.config.sections import EmbedSection
from clustering.encoders.base import unit_rows
from clustering.encoders.loading import load_encoder
from clustering.runs.directory import RunDir
from clustering.runs.parts import parts, vectors_of
from clustering.runs.storage import read_table
from clustering.sample import write_sample
from tests.embedding_server import KEY
from tests.integration.conftest import ROOT, free_port, holds, until_answers

pytestmark = [pytest.mark.ray, pytest.mark.full]
COVEY = """
import sys
from clustering.cli.main import main
from clustering.sources import deduplication
deduplication.part_rows = lambda *_: 100
sys.exit(main())
"""


class Server:
    """The vectors of the encoder ``static``, by HTTP; ``answered`` are the texts of each request."""

    def __init__(self, folder: Path) -> None:
        self.port, self.file = free_port(), folder / "answered.jsonl"
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.start()

    def start(self) -> None:
        words = [sys.executable, "-m", "tests.embedding_server", str(self.port), str(self.file), "0.3"]
        self.process = subprocess.Popen(words, cwd=ROOT)
        until_answers(self.port, self.process)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def answered(self) -> list[list[str]]:
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return [texts for texts in map(json.loads, lines) if texts != ["Covey"]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.kill()


def start(tmp_path: Path, *words: str, key: str = KEY) -> subprocess.Popen[str]:
    (tmp_path / "tmp").mkdir(exist_ok=True)
    env = {**os.environ, "COVEY_TEST_KEY": key, "TMPDIR": str(tmp_path / "tmp")}
    env.pop("RAY_ADDRESS", None)
    return subprocess.Popen(
        [sys.executable, "-c", COVEY, *words],
        env=env,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def said_by(process: subprocess.Popen[str], status: int) -> str:
    out, err = process.communicate(timeout=900)
    assert process.returncode == status, err
    assert KEY not in out + err
    return out + err


@pytest.mark.nightly
def test_a_run_outlives_its_server_and_keeps_the_key_to_itself(tmp_path: Path, server: Server) -> None:
    write_sample(tmp_path / "sample.csv", 900)
    run = RunDir(tmp_path / "run")
    words = ["run", "--config", "cluster_configs/laptop.yaml", f"read.paths={tmp_path / 'sample.csv'}",
             f"run.dir={run.path}", "run.prices.million_tokens=10"]  # fmt: skip
    served = ["embed.encoder=openai", f"embed.url={server.url}", "embed.model=static", "embed.key_env=COVEY_TEST_KEY",
              "embed.requests=4"]  # fmt: skip

    said = said_by(start(tmp_path, *words, *served, key="sk-wrong"), 2)
    assert f"embed.url={server.url}: it refuses the key in the environment variable COVEY_TEST_KEY: 401" in said
    assert "sk-wrong" not in said
    assert "COVEY_TEST_KEY is not set" in said_by(start(tmp_path, *words, *served, key=""), 2)
    assert run.manifest["stages"] == {}

    process = start(tmp_path, *words, *served)
    while len(server.answered) < 3:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    server.kill()
    before = server.answered
    time.sleep(3)
    assert process.poll() is None
    server.start()
    said = said_by(process, 0)

    texts = [text for path in parts(run / "texts") for text in read_table(path)["text"].to_pylist()]
    answers = Counter(text for request in server.answered for text in request)
    assert answers.keys() == set(texts)
    lost = {text for request in before[-4:] for text in request}  # those that were in flight
    assert {text for text, times in answers.items() if times > 1} <= lost
    assert max(answers.values()) <= 2

    told = json.loads(Path(run.path, "report.json").read_text())
    assert told["embed"]["encoder"] == "openai"
    assert told["embed"]["tokens"] == sum(len(text.split()) for text in texts)
    assert len(server.answered) <= told["embed"]["requests"] + 4
    assert told["stages"]["embed"]["cost"] == pytest.approx(told["embed"]["tokens"] * 1e-5, abs=1e-4)
    assert (
        f"static at {server.url}: {told['embed']['requests']:,} requests" in Path(run.path, "report.html").read_text()
    )
    assert run.manifest["stages"]["embed"]["figures"]["dim"] == 256

    encoder = load_encoder(EmbedSection(encoder="static"))
    for texts_part, vectors_part in zip(parts(run / "texts"), parts(run / "vectors"), strict=True):
        held, answered = read_table(texts_part), read_table(vectors_part)
        assert held["row"].to_pylist() == answered["row"].to_pylist()
        expected = unit_rows(encoder.encode(held["text"].to_pylist()).vectors)
        np.testing.assert_allclose(vectors_of(answered), expected, atol=1e-6)

    # New texts go to the server only on a word of the user, and get the clusters of the run's own texts.
    new = tmp_path / "new.csv"
    new.write_text("id,title\n" + "".join(f'{number},"{text} !"\n' for number, text in enumerate(texts[:40])))
    assign = ["assign", "--run", str(run.path), "--input", str(new), "--output", str(tmp_path / "assigned.parquet")]
    assert f"has vectors from {server.url} with the key in" in said_by(start(tmp_path, *assign), 2)
    said_by(start(tmp_path, *assign, f"embed.url={server.url}", "embed.key_env=COVEY_TEST_KEY"), 0)
    assert read_table(RunDir(tmp_path) / "assigned.parquet").num_rows == 40

    # What is embedded needs no server any more.
    server.kill()
    said_by(start(tmp_path, *words, *served, "cluster.min_cluster_size=4"), 0)
    assert holds(tmp_path, KEY) == []
