"""static.py: models of many languages, made and saved by the package model2vec, give the vectors that it gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from clustering.config.loading import build_config
from clustering.config.sections import EmbedSection
from clustering.encoders.base import FloatArray
from clustering.encoders.loading import check_encoder, english_only, load_encoder
from clustering.encoders.static import StaticEncoder
from clustering.encoders.weights import encoder_fingerprint, hub_name, resolve_commit
from clustering.errors import ConfigError
from clustering.fingerprints import stage_fingerprints
from tests.planted import EVENTS, ODD_TEXTS, headlines_in

model2vec = pytest.importorskip("model2vec")
LANGUAGES = ("en", "de", "zh", "ru")
OTHERS = ["قطار جديد يصل إلى المدينة", "नई ट्रेन शहर पहुँची", "새 기차가 도시에 도착했다", "新しい列車が街に着いた"]
HEADLINES = [text for texts in EVENTS.values() for text in texts]
TEXTS = [*OTHERS, *HEADLINES, *(text for code in LANGUAGES for text in headlines_in(code))]
COMMIT = "c" * 40


def trained(kind: str) -> Tokenizer:
    """A tokenizer of TEXTS: of whole words, of BERT's form, of XLM-R's form, or of Llama's form."""
    special = ["[PAD]", "[UNK]"]
    if kind == "words":
        tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
        trainer: Any = trainers.WordLevelTrainer(vocab_size=200, special_tokens=special)
    elif kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=special, limit_alphabet=200)
    elif kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(vocab_size=500, special_tokens=special, unk_token="[UNK]")
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", fuse_unk=True))
        trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, limit_alphabet=200)
    if kind == "unigram":
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    elif kind == "bpe":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def saved(folder: Path, kind: str = "wordpiece", form: str = "plain", **config: Any) -> Any:
    """A model of model2vec with made vectors, in a folder."""
    tokenizer, random = trained(kind), np.random.default_rng(0)
    n_tokens = tokenizer.get_vocab_size()
    vectors: np.ndarray[Any, Any] = random.normal(size=(n_tokens, 64)).astype(np.float32)
    rest: dict[str, Any] = {}
    if form in ("weights", "mapping"):
        rest["weights"] = random.uniform(0.1, 2, n_tokens)
    if form == "mapping":
        rest["token_mapping"] = random.integers(0, 40, n_tokens)
        vectors = vectors[:40]
    elif form == "int8":
        vectors = np.rint(vectors * 30).clip(-127, 127).astype(np.int8)
    elif form.startswith("float"):
        vectors = vectors.astype(form)
    model = model2vec.StaticModel(vectors, tokenizer, normalize=config.pop("normalize", True), **rest, **config)
    model.save_pretrained(folder)
    return model


def unit(rows: np.ndarray[Any, Any]) -> FloatArray:
    rows = rows.astype(np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)


def assert_same(folder: Path, texts: Sequence[str], **settings: Any) -> StaticEncoder:
    """Covey's vectors are those of model2vec, which gives one to spaces as well; returns Covey's encoder."""
    encoder = load_encoder(EmbedSection(encoder="static", model=str(folder), **settings))
    assert isinstance(encoder, StaticEncoder)
    library = model2vec.StaticModel.from_pretrained(folder)
    ours, theirs = encoder.encode(texts), unit(library.encode(list(texts)))
    assert (ours.vectors.shape, ours.vectors.dtype) == (theirs.shape, np.float32)
    known = [any(library.tokens[token].strip("▁") for token in tokens) for tokens in library.tokenize(texts)]
    assert_array_equal(ours.vectors.any(axis=1), known)
    assert_array_equal(~ours.unread, known)
    there = ~ours.unread
    assert ((ours.vectors * theirs).sum(axis=1)[there] >= 0.99999).all()
    return encoder


@pytest.mark.parametrize("form", ["plain", "weights", "mapping", "int8", "float16", "float64"])
@pytest.mark.parametrize("kind", ["words", "wordpiece", "unigram", "bpe"])
def test_vectors_are_those_of_the_library(kind: str, form: str, tmp_path: Path) -> None:
    saved(tmp_path, kind, form)
    encoder = assert_same(tmp_path, [*TEXTS, *ODD_TEXTS, "", "zzz qqq"])
    assert encoder.dim == check_encoder(EmbedSection(encoder="static", model=str(tmp_path))) == 64


def test_a_model_that_does_not_normalise_is_normalised(tmp_path: Path) -> None:
    saved(tmp_path, normalize=False)
    assert_same(tmp_path, TEXTS)


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_a_long_text_is_cut_where_the_library_cuts_it(kind: str, tmp_path: Path) -> None:
    model = saved(tmp_path, kind, max_length=16)
    letters, words = "b d b d " * 40, "Überschwemmungskatastrophe " * 5 + "Flood in Garford " * 40
    assert len(model.tokenizer.encode(words[: 16 * model.median_token_length]).ids) < 17
    for max_tokens in (16, 512):
        encoder = assert_same(tmp_path, [letters, words, "Flood in Garford"], max_tokens=max_tokens)
        assert encoder.encode([letters, words, "Flood in Garford"]).cut == 2


def test_no_limit_and_the_usual_one(tmp_path: Path) -> None:
    long = ["Flood in Garford, storm in Neustadt. " * 200]
    saved(tmp_path / "none", max_length=None)
    assert_same(tmp_path / "none", long, max_tokens=8192)
    saved(tmp_path / "usual")
    assert_same(tmp_path / "usual", long, max_tokens=8192)


def test_no_script_is_lost(tmp_path: Path) -> None:
    saved(tmp_path, "unigram")
    encoded = load_encoder(EmbedSection(encoder="static", model=str(tmp_path))).encode(TEXTS)
    assert not encoded.unread.any()
    distinct = np.unique(encoded.vectors.round(4), axis=0)
    assert len(distinct) == len(set(TEXTS))


def test_tokens_that_stand_for_unknown_words_are_counted(tmp_path: Path) -> None:
    saved(tmp_path, "words")
    encoder = load_encoder(EmbedSection(encoder="static", model=str(tmp_path)))
    assert encoder.encode(["zzz qqq yyy", "!"]).unknown >= 3
    assert encoder.encode(["zzz qqq"]).unread.tolist() == [True]


# --- where it lies ---


def test_the_form_of_sentence_transformers_is_read(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    saved(tmp_path)
    (tmp_path / "0_StaticEmbedding").mkdir()
    rows = load_file(tmp_path / "model.safetensors")["embeddings"]
    save_file({"embedding.weight": rows}, tmp_path / "0_StaticEmbedding/model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "tokenizer.json").rename(tmp_path / "0_StaticEmbedding/tokenizer.json")
    (tmp_path / "config.json").rename(tmp_path / "config_sentence_transformers.json")
    assert_same(tmp_path, TEXTS)


def test_a_model_of_the_hub_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = tmp_path / "models--minishlab--potion-multilingual-128M"
    saved(model / "snapshots" / COMMIT)
    (model / "refs").mkdir()
    (model / "refs/main").write_text(COMMIT)
    cfg = EmbedSection(encoder="static", model="minishlab/potion-multilingual-128M")
    commit = resolve_commit(hub_name(cfg) or "")
    assert commit == COMMIT
    ours = load_encoder(cfg, commit).encode(TEXTS).vectors
    theirs = load_encoder(EmbedSection(encoder="static", model=str(model / "snapshots" / COMMIT))).encode(TEXTS).vectors
    assert_array_equal(ours, theirs)
    assert encoder_fingerprint(cfg, commit)["commit"] == COMMIT
    with pytest.raises(ConfigError, match=r"embed\.model: minishlab/other cannot be loaded"):
        load_encoder(EmbedSection(encoder="static", model="minishlab/other"))


@pytest.mark.parametrize("name", ["./models/potion", "/models/potion", "potion", "a/b/c"])
def test_neither_a_folder_nor_a_name_of_the_hub(name: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"embed\.model: {name} is no folder here, and no name of a model of the hub"
    ):
        check_encoder(EmbedSection(encoder="static", model=name))


def test_other_weights_are_another_run(tmp_path: Path) -> None:
    saved(tmp_path, form="plain")
    config = build_config({"embed": {"encoder": "static", "model": str(tmp_path)}})
    first = stage_fingerprints(config, [])
    assert stage_fingerprints(config, []) == first
    saved(tmp_path, form="float16")
    assert stage_fingerprints(config, [])["embed"] != first["embed"]


@pytest.mark.parametrize(
    ("model", "english"),
    [
        ("minishlab/potion-base-8M", True),
        ("/models/potion-retrieval-32M", True),
        ("minishlab/M2V_base_output", True),
        ("minishlab/potion-multilingual-128M", False),
        ("minishlab/M2V_multilingual_output", False),
        ("/models/own", False),
    ],
)
def test_english_models_are_known_by_their_names(model: str, english: bool) -> None:
    assert english_only(EmbedSection(encoder="static", model=model)) == english
