"""embed.py: vectors that came with the texts, and what is told of texts that an encoder does not know."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from clustering import schema
from clustering.config.sections import EmbedSection
from clustering.errors import StageError
from clustering.runs.directory import RunDir
from clustering.runs.index import Part, write_index
from clustering.runs.parts import part_name, parts, read_columns, rows_without_vector
from clustering.runs.parts import vectors_of as vectors_of_parts
from clustering.runs.storage import write_table
from clustering.stages.embed import Embedder, _weigh_words, adopt_vectors, embedding_figures, language_warnings
from tests.embedding_server import DIM, Script, serving, vectors_of
from tests.planted import headlines_in

NAMES = ["part-000000.parquet", "part-000001.parquet"]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """Two parts of source_vectors/, the first of which is in vectors/ already."""
    run = RunDir(tmp_path)
    for name in NAMES:
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(6, np.float32)), 3)
        write_table(run / "source_vectors" / name, pa.table([[0, 1], vectors], schema=schema.vectors_schema(3)))
    (tmp_path / "vectors").mkdir()
    (tmp_path / "vectors" / NAMES[0]).write_bytes((tmp_path / "source_vectors" / NAMES[0]).read_bytes())
    return run


def test_parts_that_lack_are_linked_and_the_others_kept(run: RunDir, tmp_path: Path) -> None:
    kept = (tmp_path / "vectors" / NAMES[0]).stat()  # reading it changes the time of its last use alone
    assert adopt_vectors(run) == {"dim": 3, "tokens": 0, "cut": 0, "vectors": 4, "actors": 0}
    after = (tmp_path / "vectors" / NAMES[0]).stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (kept.st_ino, kept.st_size, kept.st_mtime_ns)
    assert (tmp_path / "vectors" / NAMES[1]).samefile(tmp_path / "source_vectors" / NAMES[1])


def test_parts_are_copied_where_files_cannot_be_linked(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    adopt_vectors(run)
    assert [path.name for path in parts(run / "vectors")] == NAMES
    assert (tmp_path / "vectors" / NAMES[1]).read_bytes() == (tmp_path / "source_vectors" / NAMES[1]).read_bytes()
    assert not list((tmp_path / "vectors").glob(".*"))


# --- what the encoder does not know ---

STATIC = EmbedSection(encoder="static", lexical=0)


def embedded(folder: Path, *texts_of_parts: list[str], cfg: EmbedSection = STATIC) -> RunDir:
    """A run whose texts have been embedded, one part after the other, by this process."""
    run, first = RunDir(folder), 0
    listed: list[Part] = []
    for number, texts in enumerate(texts_of_parts):
        rows = np.arange(first, first + len(texts))
        first += len(texts)
        columns = {"row": rows, "text": texts, "copies": np.ones(len(texts), np.int32)}
        write_table(run / "texts" / part_name(number), pa.table(columns, schema=schema.TEXTS))
        listed.append(Part(part_name(number), int(rows[0]), len(rows), 0))
        ids = [f"id {row}" for row in rows.tolist()]
        write_table(run / "members" / part_name(number), pa.table({"text_id": ids, "row": rows}))
    write_index(run / "texts", listed)
    if cfg.words_share:
        _weigh_words(run, 100)
    embedder = Embedder(run, cfg)
    write_index(run / "vectors", [embedder({"name": part_name(number)})["part"] for number in range(len(listed))])
    return run


def test_texts_without_a_known_token_are_counted_over_all_parts(tmp_path: Path) -> None:
    run = embedded(tmp_path, ["Flood in Garford", "😀"], ["Vote\x1b[31m", "👍👍", "ማስታወቂያ"])
    found = embedding_figures(run, STATIC)
    assert (found["unread"], found["unusable"], found["vectors"]) == (3, 0, 2)
    assert found["warnings"][-1] == (
        "The encoder static knows no word or sign of 3 of 5 texts, for instance id 1, id 3, id 4. These texts have no "
        "neighbors: they are noise, unless the copies of one alone make a cluster."
    )
    assert rows_without_vector(run / "vectors").tolist() == [1, 3, 4]


def test_texts_behind_a_prompt_are_told_apart_as_without_it(tmp_path: Path) -> None:
    cfg = EmbedSection(encoder="static", prompt="query: ", dimensions=32, lexical=0)
    run = embedded(tmp_path, ["Flood in Garford", "😀"], ["Vote", "👍👍", "ማስታወቂያ"], cfg=cfg)
    found = embedding_figures(run, cfg)
    assert (found["unread"], found["vectors"], found["prompt"], found["dim"]) == (3, 2, "query: ", 32)


def test_texts_of_which_none_can_be_compared_end_the_stage(tmp_path: Path) -> None:
    run = embedded(tmp_path, ["Flood in Garford", "😀", "👍"])
    with pytest.raises(
        StageError, match=r"knows no word or sign of 2 of 3 texts, for instance id 1, id 2\. Nothing is left to compare"
    ):
        embedding_figures(run, STATIC)


def test_a_server_that_has_another_model_than_before_ends_the_stage(tmp_path: Path) -> None:
    with serving(Script()) as url:
        cfg = EmbedSection(encoder="openai", url=url, model="small")
        run = embedded(tmp_path, ["Flood in Garford", "Vote in Garford"], cfg=cfg)
        found = embedding_figures(run, cfg)
        assert (found["requests"], found["tokens"], found["unknown_share"], found["dim"]) == (1, 6, None, DIM)
        Embedder(run, cfg)
    for vectors, why in (
        (lambda texts: vectors_of([*texts, ""])[1:], r"their cosine is -?0\.\d\d"),
        (lambda texts: vectors_of(texts)[:, 1:], f"of {DIM - 1} dimensions, not {DIM}"),
    ):
        with (
            serving(Script(vectors=vectors)) as url,
            pytest.raises(StageError, match=rf"embedded already other vectors than before \({why}\)\. Let it have"),
        ):
            Embedder(run, EmbedSection(encoder="openai", url=url, model="small"))


def test_words_stand_beside_the_encoder_and_depend_on_all_texts_and_not_on_their_parts(tmp_path: Path) -> None:
    cfg = EmbedSection(encoder="static", lexical=0.35)
    texts = ["Flood in Garford", "Flood in Ashton", "Vote in Garford", "😀", "ማስታወቂያ ማስታወቂያ", "ማስታወቂያ"]
    runs = [embedded(tmp_path / "one", texts, cfg=cfg), embedded(tmp_path / "two", texts[:2], texts[2:], cfg=cfg)]
    one, two = (vectors_of_parts(read_columns(run / "vectors", ["vector"])) for run in runs)
    assert_array_equal(one, two)
    figures = embedding_figures(runs[1], cfg)
    assert (figures["dim"], figures["lexical"], figures["unread"], figures["vectors"]) == (512, 0.35, 1, 5)
    assert rows_without_vector(runs[1] / "vectors").tolist() == [3]  # words that the encoder does not know count
    plain = embedded(tmp_path / "plain", texts)
    own = vectors_of_parts(read_columns(plain / "vectors", ["vector"]))
    assert_allclose(one[:3, :256], own[:3] * np.sqrt(0.65), atol=1e-6)
    words = one[0, 256:] @ one[1, 256:]
    assert one[0] @ one[1] == pytest.approx(0.65 * own[0] @ own[1] + words, abs=1e-5)


def test_words_do_not_hide_another_model(tmp_path: Path) -> None:
    with serving(Script()) as url:
        cfg = EmbedSection(encoder="openai", url=url, model="small", lexical=0.9)
        run = embedded(tmp_path, ["Flood in Garford", "Vote in Garford", "Vote in Ashton"], cfg=cfg)
        assert embedding_figures(run, cfg)["dim"] == DIM + 256
        Embedder(run, cfg)
    with (
        serving(Script(vectors=lambda texts: vectors_of([*texts, ""])[1:])) as url,
        pytest.raises(StageError, match=r"\(their cosine is -?0\.\d\d\)"),
    ):
        Embedder(run, EmbedSection(encoder="openai", url=url, model="small", lexical=0.9))


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("en", None),
        ("de", "the texts are in other languages than English (German"),
        ("zh", "the texts are in other languages than English (Chinese 100% of a sample); "),
        ("ru", "the texts are in other languages than English (Russian"),
    ],
)
def test_texts_for_which_the_encoder_was_not_made_are_told(code: str, told: str | None, tmp_path: Path) -> None:
    found = embedding_figures(embedded(tmp_path, headlines_in(code)), STATIC)
    warnings = " ".join(found["warnings"])
    if told is None:
        assert warnings == ""
        return
    assert told in warnings
    assert "Take a multilingual encoder: embed.encoder=bge-m3 (pip install 'covey[bge]')" in warnings
    assert "embed.encoder=static embed.model=minishlab/potion-multilingual-128M, which is downloaded." in warnings
    assert found["languages"][code] > 0.8
    assert ("of its tokens are unknown words, single bytes or letters within words" in warnings) == (code == "zh")


@pytest.mark.parametrize(
    ("encoder", "model", "languages", "unknown", "told"),
    [
        ("static", None, {"de": 0.9}, 0.0, True),
        ("minilm", None, {"en": 0.7, "de": 0.3}, 0.0, True),
        ("static", None, {"en": 0.8, "de": 0.2}, 0.0, False),
        ("static", "/models/german", {"de": 0.9}, 0.0, False),  # whose language is not known here
        ("static", "/models/german", {"de": 0.9}, 0.2, True),
        ("bge-m3", None, {"de": 0.9}, 0.0, False),
        ("bge-m3", None, {}, 0.2, True),
        ("BAAI/bge-base-en-v1.5", None, {"de": 0.9}, 0.0, True),
        ("sentence-transformers/all-mpnet-base-v2", None, {"de": 0.9}, 0.0, True),
        ("intfloat/multilingual-e5-small", None, {"de": 0.9}, 0.0, False),
        ("jinaai/jina-embeddings-v2-base-de", None, {"de": 0.9}, 0.0, False),
    ],
)
def test_only_an_encoder_that_does_not_fit_is_told(
    encoder: str, model: str | None, languages: dict[str, float], unknown: float, told: bool
) -> None:
    assert bool(language_warnings(EmbedSection(encoder=encoder, model=model), languages, unknown)) == told
