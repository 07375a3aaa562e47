"""encoders/: unit vectors that depend on their own text alone, however the texts are batched."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.numpy import save

from clustering.config.sections import EmbedSection
from clustering.encoders.base import Encoded, Encoder, FloatArray, token_batches, unit_rows
from clustering.encoders.loading import check_encoder, load_encoder
from clustering.encoders.minilm import MiniLMEncoder
from clustering.encoders.static import StaticEncoder
from clustering.errors import ConfigError
from tests.planted import EVENTS, ODD_TEXTS

HEADLINES = [text for texts in EVENTS.values() for text in texts]
LONG = "word " * 20_000  # 100,000 characters


@pytest.fixture(scope="module", params=["static", "minilm"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    cfg = EmbedSection(encoder=request.param, max_tokens=64)
    try:
        check_encoder(cfg)
    except ConfigError as error:
        pytest.skip(str(error))
    return load_encoder(cfg)


# --- every encoder ---


@pytest.mark.parametrize("texts", [HEADLINES, ODD_TEXTS, [""], []], ids=["headlines", "odd", "empty text", "no text"])
def test_vectors_have_unit_length(encoder: Encoder, texts: list[str]) -> None:
    encoded = encoder.encode(texts)
    assert encoded.vectors.shape == (len(texts), encoder.dim)
    assert encoded.vectors.dtype == np.float32
    assert_allclose(np.linalg.norm(encoded.vectors, axis=1), ~encoded.unread, atol=1e-6)


@pytest.mark.parametrize("text", ["", " ", "😀😀", "👍", "ማስታወቂያ"])
def test_a_text_without_a_known_token_has_no_vector(encoder: Encoder, text: str) -> None:
    encoded = encoder.encode([text, "Flood in Garford", f"{text} Flood"])
    assert encoded.unread.tolist() == [True, False, False]
    assert not encoded.vectors[0].any()


def test_the_dimension_is_known_beforehand(encoder: Encoder) -> None:
    name = "static" if isinstance(encoder, StaticEncoder) else "minilm"
    assert check_encoder(EmbedSection(encoder=name, lexical=0)) == encoder.dim


def test_a_vector_does_not_depend_on_the_order(encoder: Encoder) -> None:
    texts = HEADLINES + ODD_TEXTS
    order = np.random.default_rng(0).permutation(len(texts))
    straight = encoder.encode(texts).vectors
    shuffled = encoder.encode([texts[one] for one in order]).vectors
    assert_allclose(shuffled, straight[order], atol=1e-5)


def test_a_batch_gives_what_one_text_at_a_time_gives(encoder: Encoder) -> None:
    texts = HEADLINES + ODD_TEXTS
    together = encoder.encode(texts).vectors
    alone = np.concatenate([encoder.encode([text]).vectors for text in texts])
    there = alone.any(axis=1)
    assert ((together * alone).sum(axis=1)[there] > 0.99).all()
    assert there.sum() > len(HEADLINES)


def test_equal_texts_have_equal_vectors(encoder: Encoder) -> None:
    first, _, again = encoder.encode(["Vote in Garford", LONG, "Vote in Garford"]).vectors
    assert_allclose(first, again, atol=1e-6)


def test_a_long_text_is_cut_and_counted(encoder: Encoder) -> None:
    encoded = encoder.encode([LONG, "Vote in Garford"])
    assert encoded.cut == 1
    assert 64 < encoded.tokens < 64 + 10
    assert encoder.encode(HEADLINES).cut == 0


@pytest.mark.parametrize(
    ("texts", "least", "most"),
    [
        (HEADLINES, 0, 0.06),
        (["قطار جديد يصل إلى المدينة بعد الفيضان", "عمدة المدينة يريد بناء مدرسة جديدة"], 0.4, 1),
        (["새 기차가 도시에 도착했다", "시장은 새 학교를 짓고 싶어한다"], 0.4, 1),
        (["ማስታወቂያ ለከተማው ነዋሪዎች"], 0.4, 1),
    ],
    ids=["English", "Arabic", "Korean", "Amharic"],
)
def test_tokens_that_tell_nothing_are_counted(encoder: Encoder, texts: list[str], least: float, most: float) -> None:
    encoded = encoder.encode(texts)
    assert least <= encoded.unknown / encoded.tokens <= most


def test_headlines_of_one_event_are_nearest_each_other(encoder: Encoder) -> None:
    vectors = encoder.encode(HEADLINES).vectors
    event = np.repeat(np.arange(len(EVENTS)), 3)
    dots = vectors @ vectors.T
    np.fill_diagonal(dots, -1)
    assert_array_equal(event[dots.argmax(axis=1)], event)


def behind(encoder: Encoder, prompt: str, **settings: int) -> Encoder:
    """The same encoder, which reads each text behind a prompt."""
    name = "static" if isinstance(encoder, StaticEncoder) else "minilm"
    return load_encoder(EmbedSection(encoder=name, prompt=prompt, **settings))


def test_a_prompt_is_read_before_each_text(encoder: Encoder) -> None:
    found = behind(encoder, "query: ", max_tokens=64).encode([*HEADLINES, LONG])
    expected = encoder.encode([f"query: {text}" for text in [*HEADLINES, LONG]])
    assert_allclose(found.vectors, expected.vectors, atol=1e-6)
    assert (found.tokens, found.cut) == (expected.tokens, 1)
    assert not np.allclose(found.vectors, encoder.encode([*HEADLINES, LONG]).vectors, atol=0.01)
    assert behind(encoder, "query: ").encode([]).vectors.shape == (0, encoder.dim)


@pytest.mark.parametrize("prompt", ["query: ", "topic", "storm: 😀"])
def test_a_prompt_makes_no_text_known(encoder: Encoder, prompt: str) -> None:
    """Else all these texts would share the vector of the prompt, and a cluster."""
    texts = ["😀😀", "👍", "Flood in Garford", "ማስታወቂያ", "s", "ing", "\u200b"]
    found = behind(encoder, prompt).encode(texts)
    assert found.unread.tolist() == encoder.encode(texts).unread.tolist()
    assert found.unread[[0, 1, 3]].all()
    assert not found.vectors[found.unread].any()


def test_a_prompt_that_leaves_no_token_for_the_text_is_refused(encoder: Encoder) -> None:
    with pytest.raises(ConfigError, match=r"^embed\.prompt has 1\d tokens, and a text with it at most 10: nothing of"):
        behind(encoder, "one two three four five six seven eight nine ten", max_tokens=10)


def test_the_first_numbers_of_the_vectors_have_unit_length_again(encoder: Encoder) -> None:
    name = "static" if isinstance(encoder, StaticEncoder) else "minilm"
    cfg = EmbedSection(encoder=name, dimensions=64, max_tokens=64, lexical=0)
    texts = [*HEADLINES, "😀"]
    whole, found = encoder.encode(texts), load_encoder(cfg).encode(texts)
    assert check_encoder(cfg) == load_encoder(cfg).dim == 64
    expected = whole.vectors[:, :64] / np.maximum(np.linalg.norm(whole.vectors[:, :64], axis=1), 1e-9)[:, None]
    assert_allclose(found.vectors, expected, atol=1e-6)
    assert (found.tokens, found.unread.tolist()) == (whole.tokens, whole.unread.tolist())


def test_more_dimensions_than_the_model_has_are_refused_before_work(encoder: Encoder) -> None:
    name = "static" if isinstance(encoder, StaticEncoder) else "minilm"
    said = rf"^embed\.dimensions=1024 is above the {encoder.dim} dimensions of {name}; lower it, or leave it out$"
    for asked in (check_encoder, load_encoder):
        with pytest.raises(ConfigError, match=said):
            asked(EmbedSection(encoder=name, dimensions=1024))


# --- one encoder each ---


def test_the_static_encoder_is_wordllama() -> None:
    wordllama = pytest.importorskip("wordllama")
    theirs = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
    texts = [*HEADLINES, "wow 😀😀", "北京大学", "Don't panic: 3.5% up!"]
    ours = StaticEncoder(EmbedSection(encoder="static")).encode(texts).vectors
    assert_allclose(ours, theirs.embed(texts, norm=True), atol=1e-5)


def test_minilm_gives_the_same_in_small_batches() -> None:
    cfg = EmbedSection(encoder="minilm")
    try:
        check_encoder(cfg)
    except ConfigError as error:
        pytest.skip(str(error))
    large = MiniLMEncoder(cfg).encode(HEADLINES).vectors
    small = MiniLMEncoder(EmbedSection(encoder="minilm", tokens_per_batch=64)).encode(HEADLINES).vectors
    assert ((large * small).sum(axis=1) > 0.99).all()


def test_openvino_gives_the_vectors_of_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    cfg = EmbedSection(encoder="minilm")
    one = load_encoder(cfg).encode(HEADLINES).vectors
    monkeypatch.setattr("clustering.encoders.minilm.find_spec", lambda name: None)
    other = load_encoder(cfg).encode(HEADLINES).vectors
    cosines = (one * other).sum(axis=1)
    assert 0.998 < cosines.min() < 1
    assert cosines.mean() > 0.999


@pytest.mark.parametrize("name", ["static", "minilm"])
def test_a_folder_without_a_model_is_named(name: str, tmp_path: Path) -> None:
    says = rf"embed\.model: {tmp_path} holds no .*tokenizer.*json"
    with pytest.raises(ConfigError, match=says):
        check_encoder(EmbedSection(encoder=name, model=str(tmp_path)))


# --- unit_rows and token_batches ---


def test_vectors_that_are_no_numbers_are_told_from_zeros() -> None:
    rows = np.array([[3, 4], [0, 0], [np.nan, 1], [1, np.inf], [3e38, 3e38], [2, 2]], np.float32)
    unread = np.arange(6) == 5
    found = Encoded.of_vectors(rows, unread, tokens=9, unknown=1, cut=0, model_seconds=0.5)
    half = 0.5**0.5
    assert_allclose(found.vectors, [[0.6, 0.8], [0, 0], [0, 0], [0, 0], [half, half], [0, 0]], rtol=1e-6)
    assert found.not_finite.tolist() == [False, False, True, True, False, False]


def test_rows_become_unit_rows() -> None:
    rows = unit_rows(np.array([[3.0, 4.0], [0.0, -2.0]]))
    assert rows.dtype == np.float32
    assert_allclose(rows, [[0.6, 0.8], [0, -1]], atol=1e-7)


@pytest.mark.parametrize("row", [[0, 0, 0], [np.nan, 1, 0], [1, np.inf, 0], [-np.inf, np.nan, np.inf]])
def test_a_row_without_a_direction_becomes_zeros_and_the_input_stays(row: list[float]) -> None:
    rows = np.array([row, [0, 2, 0]], np.float32)
    before = rows.copy()
    assert_array_equal(unit_rows(rows), [[0, 0, 0], [0, 1, 0]])
    assert_array_equal(rows, before)


@pytest.mark.parametrize("size", [1e-44, 1e-30, 1e-19, 1e19, 3e38])
def test_very_small_and_very_large_rows_have_a_direction(size: float) -> None:
    assert_allclose(unit_rows(np.array([[size, -size]], np.float32)), [[0.5**0.5, -(0.5**0.5)]], rtol=1e-6)


lengths = st.lists(st.integers(0, 600), max_size=60)


@given(lengths, st.integers(64, 2000))
def test_batches_hold_every_text_once_within_the_budget(held: list[int], budget: int) -> None:
    batches = list(token_batches(held, budget))
    assert sorted(index for batch in batches for index in batch.tolist()) == list(range(len(held)))
    for batch in batches:
        longest = max(held[index] for index in batch)
        assert len(batch) * longest <= budget or len(batch) == 1


@given(lengths, st.integers(64, 2000))
def test_batches_go_from_short_to_long_and_none_is_cut_too_early(held: list[int], budget: int) -> None:
    batches = [[held[index] for index in batch] for batch in token_batches(held, budget)]
    flat = [length for batch in batches for length in batch]
    assert flat == sorted(flat)
    for batch, following in pairwise(batches):
        assert (len(batch) + 1) * following[0] > budget


# --- folders that hold something else ---

VOCABULARY = b'{"model": {"type": "WordLevel", "vocab": {"storm": 0, "[UNK]": 1}, "unk_token": "[UNK]"}}'


@pytest.mark.parametrize(
    ("weights", "vocabulary"),
    [
        (b"", VOCABULARY),
        (b"cut off", VOCABULARY),
        ({"a": np.ones((2, 4), np.float32), "b": np.ones((2, 4), np.float32)}, VOCABULARY),
        ({"a": np.ones(8, np.float32)}, VOCABULARY),
        ({"a": np.ones((1, 4), np.float32)}, VOCABULARY),  # fewer vectors than tokens
        ({"a": np.ones((2, 4), np.float32)}, b"{}"),
        ({"a": np.ones((2, 4), np.float32)}, b"\xff"),
    ],
)
def test_a_damaged_folder_is_named(weights: bytes | dict[str, FloatArray], vocabulary: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(vocabulary)
    (tmp_path / "own_256.safetensors").write_bytes(weights if isinstance(weights, bytes) else save(weights))
    with pytest.raises(ConfigError, match=f"embed.model: {tmp_path} cannot be loaded: .*Is a file damaged, cut off"):
        check_encoder(EmbedSection(encoder="static", model=str(tmp_path)))


def test_a_damaged_onnx_file_is_named(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "tokenizer.json").write_bytes(VOCABULARY)
    (tmp_path / "model.onnx").write_bytes(b"cut off")
    with pytest.raises(ConfigError, match=f"embed.model: {tmp_path} cannot be loaded"):
        load_encoder(EmbedSection(encoder="minilm", model=str(tmp_path)))


def test_of_two_files_of_weights_every_worker_takes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.json").write_bytes(VOCABULARY)
    for name, weight in (("b", 2), ("a", 1)):
        (tmp_path / f"{name}_256.safetensors").write_bytes(save({"a": np.full((2, 4), weight, np.float32)}))
    listed = Path.glob
    for order in (False, True):  # a folder lists its files in any order
        with monkeypatch.context() as patch:
            patch.setattr(Path, "glob", lambda self, name, order=order: sorted(listed(self, name), reverse=order))
            encoder = load_encoder(EmbedSection(encoder="static", model=str(tmp_path)))
        assert isinstance(encoder, StaticEncoder)
        assert encoder.vectors.max() == 1
