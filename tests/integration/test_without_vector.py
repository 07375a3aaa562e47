"""Texts to which the encoder gives nothing: they keep their record, are told by id, and never share a cluster."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Replace
from tokenizers.pre_tokenizers import Whitespace

from clustering.runs.directory import RunDir
from clustering.runs.parts import read_columns, rows_without_vector

pytestmark = [pytest.mark.ray, pytest.mark.full]
TOPICS = ("flood river bridge rain dam", "goal final cup team coach", "vote mayor poll seat party")
APART = ["read.near_duplicates=keep", "project.n_neighbors=8"]  # texts are the same few words in another order
UNREAD = ["😀😀", "👍", "🎉 🎉", "ማስታወቂያ", "🐢", "🦀", "~", "~~ ~"]  # the tokenizer drops ~: those have no token at all
NOT_FINITE = [f"broken {word}" for word in "flood goal vote dam cup seat".split()]
HOLLOW = ["hollow", "hollow hollow"]
UNUSABLE = [*NOT_FINITE, *HOLLOW]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Word vectors in three directions; the vector of ``broken`` is NaN, that of ``hollow`` zero."""
    folder = tmp_path_factory.mktemp("encoder")
    rng = np.random.default_rng(0)
    vocabulary = {"[UNK]": 0, "broken": 1, "hollow": 2}
    weights = [rng.normal(size=16), np.full(16, np.nan), np.zeros(16)]
    for number, words in enumerate(TOPICS):
        for word in words.split():
            vocabulary[word] = len(vocabulary)
            weights.append(3 * np.eye(16)[number] + rng.normal(0, 0.3, 16))
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = Replace("~", "")
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(["[UNK]"])
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file({"embedding": np.array(weights, np.float32)}, folder / "words_256.safetensors")
    return folder


def topic_texts() -> list[str]:
    rng = np.random.default_rng(1)
    return [" ".join(rng.permutation(words.split())[:3]) for words in TOPICS for _ in range(40)]


@pytest.fixture
def given(tmp_path: Path) -> tuple[Path, list[str]]:
    """The file and its texts, those without a vector spread among the others."""
    texts = list(dict.fromkeys(topic_texts()))
    for place, text in enumerate([*UNREAD, *UNUSABLE]):
        texts.insert(3 * place, text)
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"id": f"t{n}", "title": text}) + "\n" for n, text in enumerate(texts)))
    return file, texts


def test_texts_without_a_vector_are_told_and_stay_alone(run_files, covey, encoder, given, tmp_path):
    file, texts = given
    run, result = run_files(f"read.paths={file}", f"embed.model={encoder}", "search.k=12", *APART)
    assert result.status == 0, result.err
    lost = np.array([text in UNREAD or text in UNUSABLE for text in texts])
    assert rows_without_vector(RunDir(run) / "vectors").tolist() == np.flatnonzero(lost).tolist()
    report = json.loads((run / "report.json").read_text())
    warnings = " ".join(report["warnings"])
    told = {
        "knows no word or sign of": UNREAD,
        "gives a vector of zeros to": HOLLOW,
        "gives a vector with infinite or undefined numbers (NaN) to": NOT_FINITE,
    }
    for reason, kind in told.items():
        ids = ", ".join([f"t{n}" for n, text in enumerate(texts) if text in kind][:5])
        line = f"The encoder static {reason} {len(kind)} of {len(texts)} texts, for instance {ids}. These texts have no"
        assert line in warnings
        assert line in result.err
    assert [report["embed"][kind] for kind in ("unread", "unusable", "not_finite")] == [8, 8, 6]
    assert report["store"]["rows"] == (~lost).sum()
    assert report["search"]["recall"] == 1.0
    assert report["search"]["short_rows"] == 0
    listed = read_columns(RunDir(run) / "neighbors", ["neighbors"])["neighbors"].to_pylist()
    assert [not others for others in listed] == lost.tolist()
    assert not set(np.flatnonzero(lost)) & {row for others in listed for row in others}
    for words in ([], ["cluster.weights=distance", "cluster.selection=eom"], ["cluster.allow_single_cluster=true"]):
        assert not words or covey("recluster", "--run", run, *words).status == 0
        labels = pq.read_table(run / "labels.parquet")
        assert labels["text_id"].to_pylist() == [f"t{n}" for n in range(len(texts))]
        for name in ("label", "home"):
            assert set(labels[name].to_numpy()[lost]) == {-1}, (words, name)
        assert np.isfinite(labels["x"].to_numpy()).all()
        assert (labels["label"].to_numpy()[~lost] >= 0).mean() > 0.8
        told = json.loads((run / "report.json").read_text())
        assert told["graph"]["pieces_left"] <= 3
        assert told["forest"]["isolated"] == 0
        placed = tmp_path / "placed.parquet"
        assert covey("assign", "--trust", "--run", run, "--input", file, "--output", placed).status == 0
        found = pq.read_table(placed)
        assert set(found["label"].to_numpy()[lost]) == {-1}
        assert found["nearest_row"].is_null().to_pylist() == lost.tolist()
    covey("recluster", "--run", run, "cluster.weights=distance", "cluster.selection=eom")
    assert covey("evaluate", "--run", run).status == 0
    assert json.loads((run / "report.json").read_text())["fidelity"]["ari_label"] > 0.9


def test_copies_of_such_a_text_are_a_cluster_also_for_assign(run_files, covey, encoder, tmp_path):
    texts = [*topic_texts(), *["👍"] * 12, *["🐢"] * 2]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"id": f"t{n}", "title": text}) + "\n" for n, text in enumerate(texts)))
    run, result = run_files(f"read.paths={file}", f"embed.model={encoder}", "search.k=12", *APART)
    assert result.status == 0, result.err
    for words in ([], ["cluster.weights=distance", "cluster.selection=eom"]):
        assert not words or covey("recluster", "--run", run, *words).status == 0
        labels = pq.read_table(run / "labels.parquet")
        thumbs = set(labels["label"].to_pylist()[120:132])
        assert len(thumbs) == 1
        assert thumbs != {-1}
        assert labels["label"].to_pylist()[132:] == [-1, -1]
        placed = tmp_path / "placed.parquet"
        assert covey("assign", "--trust", "--run", run, "--input", file, "--output", placed).status == 0
        found = pq.read_table(placed)
        for name in ("label", "home"):
            assert found[name].to_pylist() == labels[name].to_pylist()


def test_a_run_of_nothing_but_such_texts_is_refused_in_words(run_files, encoder, tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"id": f"t{n}", "title": text}) + "\n" for n, text in enumerate(UNREAD)))
    _, result = run_files(
        f"read.paths={file}", f"embed.model={encoder}", "search.k=5", *APART[:1], "project.n_neighbors=5"
    )
    assert result.status == 1
    assert "knows no word or sign of 8 of 8 texts, for instance t0, t1, t2" in result.err
    assert "Nothing is left to compare; take another embed.encoder" in result.err


@pytest.mark.milvus
@pytest.mark.parametrize("load", ["stream", "bulk"])
def test_a_server_gets_the_other_vectors_alone(run_files, encoder, given, tmp_path, milvus_server, load):
    file, texts = given
    words = [f"read.paths={file}", f"embed.model={encoder}", "search.k=12", *APART]
    words += [f"store.uri={milvus_server}", f"store.collection=without_{load}", f"store.load={load}"]
    run, result = run_files(*words, "store.index=FLAT", f"store.bulk_path={tmp_path / 'shared'}")
    assert result.status == 0, result.err
    report = json.loads((run / "report.json").read_text())
    assert report["store"]["rows"] == len(texts) - len(UNREAD) - len(UNUSABLE)
    assert report["store"]["repaired_rows"] == 0
    assert report["search"]["recall"] == 1.0
    lost = [text in UNREAD or text in UNUSABLE for text in texts]
    listed = read_columns(RunDir(run) / "neighbors", ["neighbors"])["neighbors"].to_pylist()
    assert [not others for others in listed] == lost
