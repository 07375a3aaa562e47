"""Embedding actors: those that die change no vector, a part that kills them is named; a model is downloaded once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from clustering import schema
from clustering.config.sections import EmbedSection
from clustering.encoders.base import Encoded
from clustering.encoders.loading import load_encoder
from clustering.errors import StageError
from clustering.monitoring.progress import track_stage
from clustering.runs.directory import RunDir
from clustering.runs.index import read_index
from clustering.runs.parts import part_name, read_columns
from clustering.runs.storage import write_table
from clustering.stages import embed
from clustering.stages.embed import Embedder, embed_texts
from tests.hub import Hub, serving
from tests.integration.conftest import ROOT
from tests.integration.test_faults import kill_an_actor, meanwhile

pytestmark = [pytest.mark.ray, pytest.mark.full]
PARTS, ROWS = 12, 200
WORDS = "flood river bridge rain dam goal final cup team coach vote mayor poll seat party".split()
STATIC = EmbedSection(encoder="static", actors=2)


class Slow(Embedder):
    """Rests over each part while its file is being written."""

    def __init__(self, run: RunDir, cfg: EmbedSection, commit: str | None = None) -> None:
        super().__init__(run, cfg, commit)
        self.inner, self.encoder.encode = self.encoder.encode, self.encode  # type: ignore[method-assign]

    def encode(self, texts: Sequence[str]) -> Encoded:
        time.sleep(0.3)
        return self.inner(texts)


class Deadly(Slow):
    """A library that a certain text ends the process with."""

    def encode(self, texts: Sequence[str]) -> Encoded:
        if any("deadly" in text for text in texts):
            os.kill(os.getpid(), signal.SIGSEGV)
        return self.inner(texts)


def texts_of(folder: Path, deadly: int | None = None) -> RunDir:
    """A run whose texts are read: parts of different texts, one of which may hold a deadly one."""
    run, rng = RunDir(folder), np.random.default_rng(3)
    for number in range(PARTS):
        rows = np.arange(number * ROWS, (number + 1) * ROWS)
        texts = [f"{row} {' '.join(rng.choice(WORDS, 6))}" for row in rows]
        if number == deadly:
            texts[ROWS // 2] += " deadly"
        columns = {"row": rows, "text": texts, "copies": np.ones(ROWS, np.int32)}
        write_table(run / "texts" / part_name(number), pa.table(columns, schema=schema.TEXTS))
        ids = [f"id {row}" for row in rows]
        write_table(run / "members" / part_name(number), pa.table({"text_id": ids, "row": rows}))
    return run


def embedded(run: RunDir) -> pa.Table:
    """The stage; its vectors, each row once and in order."""
    track_stage(run, "news", "embed", lambda: embed_texts(run, STATIC))
    found = read_columns(run / "vectors", ["row", "vector"])
    assert found["row"].to_pylist() == list(range(PARTS * ROWS))
    return found


def test_actors_killed_twice_half_way_change_no_vector(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = embedded(texts_of(tmp_path / "undisturbed"))
    run = texts_of(tmp_path / "killed")
    written: list[int] = []

    def kill_twice() -> None:
        for _ in range(2):
            kill_an_actor()
            written.append(len(list((run / "vectors").glob("part-*"))))
            deadline = time.monotonic() + 300
            while len(list((run / "vectors").glob("part-*"))) < written[-1] + 2:
                assert time.monotonic() < deadline
                time.sleep(0.02)

    monkeypatch.setattr(embed, "Embedder", Slow)
    with meanwhile(lambda: len(list((run / "vectors").glob("part-*"))) >= 3, kill_twice):
        found = embedded(run)
    assert found.equals(undisturbed)
    assert written[1] < PARTS - 1


def test_words_weigh_the_same_whoever_counts_them_and_are_counted_once(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = EmbedSection(encoder="static", actors=2, lexical=0.35)

    def weights(name: str, texts_of_task: int) -> bytes:
        monkeypatch.setattr(embed, "COUNTED_TEXTS", texts_of_task)
        embed.weigh_words(texts_of(tmp_path / name))
        return (tmp_path / name / "vectors" / embed.TERMS).read_bytes()

    assert weights("tasks", 3 * ROWS) == weights("alone", PARTS * ROWS)
    run = RunDir(tmp_path / "tasks")
    first = (run / "vectors" / embed.TERMS).stat()
    figures = embed_texts(run, cfg)
    assert (figures["dim"], figures["lexical"]) == (512, 0.35)
    assert (run / "vectors" / embed.TERMS).stat() == first  # as of a start before
    found = np.stack(read_columns(run / "vectors", ["vector"])["vector"].to_pylist())
    assert np.abs(np.linalg.norm(found[:, 256:], axis=1) - 0.35**0.5).max() < 1e-5


@pytest.mark.nightly
def test_a_part_that_kills_its_actor_each_time_is_named_with_its_first_ids(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = texts_of(tmp_path / "deadly", deadly=PARTS // 2)
    monkeypatch.setattr(embed, "Embedder", Deadly)
    with pytest.raises(StageError) as error:
        embedded(run)
    first = PARTS // 2 * ROWS
    ids = ", ".join(f"id {row}" for row in range(first, first + 3))
    part = f"part-000006.parquet (rows {first} to {first + ROWS - 1}, text ids {ids} ...)"
    said = f"embed: {part} ended its worker 3 times: signal SIGSEGV at File "
    assert str(error.value).startswith(said), str(error.value)
    assert "the same command goes on from the last finished part" in str(error.value)
    kept = read_index(run / "vectors").names
    assert part_name(6) not in kept
    assert len(kept) >= 3
    times = {name: (run / "vectors" / name).stat().st_mtime_ns for name in kept}
    monkeypatch.setattr(embed, "Embedder", Embedder)
    embedded(run)
    assert {name: (run / "vectors" / name).stat().st_mtime_ns for name in kept} == times


def static_model(folder: Path, seed: int) -> Path:
    """Word vectors in the form of model2vec."""
    folder.mkdir()
    vocabulary = {word: number for number, word in enumerate(["[UNK]", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    vectors = np.random.default_rng(seed).normal(size=(len(vocabulary), 16)).astype(np.float32)
    save_file({"embeddings": vectors}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


EMBED = """
import sys
import ray
from clustering.config.sections import EmbedSection
from clustering.encoders.weights import resolve_commit
from clustering.runs.directory import RunDir
from clustering.stages.embed import embed_texts

ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR")
cfg = EmbedSection(encoder="static", model="somebody/model", revision="v1", actors=2)
embed_texts(RunDir(sys.argv[1]), cfg, resolve_commit("somebody/model", revision="v1"))
"""


@pytest.mark.nightly
def test_a_model_of_the_hub_is_downloaded_once_for_all_actors_of_a_node(tmp_path: Path) -> None:
    commits = {"a" * 40: static_model(tmp_path / "one", 1), "b" * 40: static_model(tmp_path / "other", 2)}
    run = texts_of(tmp_path / "run")
    with serving(Hub("somebody/model", commits, {"main": "b" * 40, "v1": "a" * 40})) as hub:
        env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
        words = [sys.executable, "-c", EMBED, str(run.path)]
        subprocess.run(words, env=env, cwd=ROOT, check=True, timeout=900)
    assert hub.taken == {"config.json": 1, "model.safetensors": 1, "tokenizer.json": 1}
    found = read_columns(run / "vectors", ["vector"])["vector"].combine_chunks().values.to_numpy().reshape(-1, 16)
    texts = read_columns(run / "texts", ["text"])["text"].to_pylist()
    expected = load_encoder(EmbedSection(encoder="static", model=str(commits["a" * 40]))).encode(texts).vectors
    np.testing.assert_allclose(found, expected, atol=1e-6)
