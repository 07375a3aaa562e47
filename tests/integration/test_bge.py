"""BGE-M3 and other sentence-transformers folders, on a small random checkpoint with the files of BAAI/bge-m3."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from clustering.config.sections import EmbedSection
from clustering.encoders.loading import check_encoder, load_encoder
from clustering.encoders.weights import encoder_fingerprint, model_prompt
from clustering.errors import ConfigError, StageError

pytestmark = [pytest.mark.bge, pytest.mark.full]

DIM = 64
LONGEST = 128  # words of the longest text; a word of the vocabulary is one token
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
WORDS = [a + b + c for a in SYLLABLES[::7] for b in SYLLABLES[1::11] for c in SYLLABLES[2::17]]  # one token each


@pytest.fixture(scope="module", autouse=True)
def _offline():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            patch.setenv(name, "1")  # read when the packages are imported
        for module in ("torch", "sentence_transformers"):
            pytest.importorskip(module, reason=f"{module} is missing: pip install 'covey[bge]'")
        yield


@pytest.fixture(scope="module")
def bge(tmp_path_factory) -> Path:
    """XLM-R with two layers and random weights, in the files that the hub has for BGE-M3."""
    folder = tmp_path_factory.mktemp("bge-m3")
    write_weights(folder, n_tokens=write_tokenizer(folder))
    root = "sentence_transformers.models"
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"{root}.{kind}"} for i, (path, kind) in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)
    write_pooling(folder, "cls")
    (folder / "2_Normalize").mkdir()
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 8192, "do_lower_case": False})
    write_json(folder / "config_sentence_transformers.json", {"__version__": {"sentence_transformers": "2.2.2"}})
    return folder


@pytest.fixture(scope="module")
def mean_model(bge, tmp_path_factory) -> Path:
    """The same weights as a generic sentence-transformers folder: mean pooling, vectors of any length."""
    folder = tmp_path_factory.mktemp("generic") / "mean"
    shutil.copytree(bge, folder)
    write_json(folder / "modules.json", json.loads((bge / "modules.json").read_text())[:2])
    write_pooling(folder, "mean")
    return folder


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Sixty texts in no order of length, three of one token and three of 128 among them."""
    rng = np.random.default_rng(5)
    lengths = [1, LONGEST, 1, LONGEST, 1, LONGEST, *rng.integers(2, LONGEST, 54)]
    sentences = [" ".join(rng.choice(WORDS, length)) for length in lengths]
    return [sentences[i] for i in rng.permutation(len(sentences))]


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_pooling(folder: Path, mode: str) -> None:
    modes = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max", "mean_sqrt_len_tokens": "sqrt"}
    chosen = {f"pooling_mode_{name}": mode == short for name, short in modes.items()}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": DIM, **chosen})


def write_tokenizer(folder: Path) -> int:
    """A Unigram tokenizer with XLM-R's special ids; returns the size of its vocabulary."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [(token, 0.0) for token in special] + [("▁", -4.0)]
    pieces += [(f"▁{word}", -6.0) for word in WORDS] + [(syllable, -8.0) for syllable in SYLLABLES] + [("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens([*special, AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = ["bos", "cls", "eos", "sep", "pad", "unk", "mask"]
    found = ["<s>", "<s>", "</s>", "</s>", "<pad>", "<unk>", "<mask>"]
    tokens = {f"{name}_token": token for name, token in zip(names, found, strict=True)}
    write_json(folder / "special_tokens_map.json", tokens)
    config = {**tokens, "model_max_length": 8192, "tokenizer_class": "XLMRobertaTokenizer"}
    write_json(folder / "tokenizer_config.json", config)
    return len(pieces)


def write_weights(folder: Path, n_tokens: int) -> None:
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaModel

    torch.manual_seed(3)
    config = XLMRobertaConfig(
        vocab_size=n_tokens,
        hidden_size=DIM,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * DIM,
        max_position_embeddings=8194,
        type_vocab_size=1,
        pad_token_id=1,
        layer_norm_eps=1e-5,
        initializer_range=0.2,  # at the usual 0.02 all texts get one vector, and no comparison could fail
    )
    config.architectures = ["XLMRobertaModel"]
    config.save_pretrained(folder)
    torch.save(XLMRobertaModel(config).state_dict(), folder / "pytorch_model.bin")
    for name, size in (("colbert_linear", DIM), ("sparse_linear", 1)):
        torch.save(torch.nn.Linear(DIM, size).state_dict(), folder / f"{name}.pt")


def bge_section(folder: Path, **settings: Any) -> EmbedSection:
    return EmbedSection(encoder="bge-m3", model=str(folder), **settings)


def words(count: int) -> str:
    return " ".join(WORDS[:count])


def token_counts(folder: Path, texts: list[str]) -> NDArray[np.int64]:
    """Tokens of each text, without <s> and </s>."""
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(folder)(texts, add_special_tokens=False)["input_ids"]
    return np.array([len(ids) for ids in found])


def cosines(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    a, b = a.astype(float), b.astype(float)
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def count_batches(encoder: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that gets the number of texts of each forward pass from now on."""
    sizes: list[int] = []
    inner = encoder.packed.forward

    def forward(pack: Any) -> Any:
        sizes.append(len(pack.host_lengths))
        return inner(pack)

    monkeypatch.setattr(encoder.packed, "forward", forward)
    return sizes


def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def changed(path: Path, **values: Any) -> None:
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **values})


def own_code(folder: Path) -> Path:
    """Put a module own.py into a folder; the file that is returned exists once the module was run."""
    trace = folder / "own_code_was_run"
    (folder / "own.py").write_text(f"open({str(trace)!r}, 'w').close()\nclass Own: ...\n", encoding="utf-8")
    return trace


def test_bge_m3_gives_float32_vectors_of_unit_length(bge, texts):
    encoder = load_encoder(bge_section(bge))
    vectors = encoder.encode(texts).vectors
    assert (vectors.dtype, vectors.shape, encoder.dim) == (np.float32, (len(texts), DIM), DIM)
    assert_allclose(np.linalg.norm(vectors.astype(float), axis=1), 1, atol=1e-6)


def test_the_time_of_the_model_is_told_without_the_tokenizers(bge, texts):
    encoder = load_encoder(bge_section(bge))
    started = time.perf_counter()
    first = encoder.encode(texts).model_seconds
    spent = time.perf_counter() - started
    assert 0 < first < spent
    assert encoder.encode([]).model_seconds < first  # of each call its own


def test_no_text_and_an_empty_text_are_encoded(bge):
    encoder = load_encoder(bge_section(bge))
    assert encoder.encode([]).vectors.shape == (0, DIM)
    found = encoder.encode(["", words(3)])
    assert found.unread.tolist() == [True, False]
    assert_allclose(np.linalg.norm(found.vectors, axis=1), [0, 1], atol=1e-6)


@pytest.mark.parametrize("max_tokens", [512, 32], ids=["whole texts", "cut texts"])
@pytest.mark.parametrize("tokens_per_batch", [16_384, 512], ids=["one batch", "many batches"])
def test_vectors_equal_those_of_flag_embedding(bge, texts, tokens_per_batch, max_tokens, monkeypatch):
    package = pytest.importorskip("FlagEmbedding", reason="FlagEmbedding is missing: pip install 'FlagEmbedding>=1.4'")
    model = package.BGEM3FlagModel(str(bge), use_fp16=False, devices="cpu")
    expected = model.encode(texts, return_dense=True, max_length=max_tokens)["dense_vecs"]
    encoder = load_encoder(bge_section(bge, max_tokens=max_tokens, tokens_per_batch=tokens_per_batch))
    batches = count_batches(encoder, monkeypatch)
    assert cosines(encoder.encode(texts).vectors, expected).min() >= 0.999
    assert {1, LONGEST} <= set(token_counts(bge, texts))
    assert sum(batches) == len(texts)
    assert len(batches) == 1 if tokens_per_batch > 512 else len(batches) > 3


def test_vectors_equal_those_of_pymilvus(bge, texts):
    """``BGEM3EmbeddingFunction`` with its defaults; what it lacks it would install, so that is looked for first."""
    for name in ("peft", "datasets", "FlagEmbedding"):
        pytest.importorskip(name, reason=f"{name} is missing, or does not go with these transformers")
    package = pytest.importorskip("pymilvus.model.hybrid", reason="pymilvus.model is missing: pip install it")
    function = package.BGEM3EmbeddingFunction(model_name=str(bge), device="cpu", use_fp16=False)
    expected = np.array(function.encode_documents(texts)["dense"])
    assert cosines(load_encoder(bge_section(bge)).encode(texts).vectors, expected).min() >= 0.9999
    assert cosines(np.array(function.encode_queries(texts)["dense"]), expected).min() >= 0.9999


def test_vectors_equal_those_of_the_steps_that_pymilvus_takes(bge, texts):
    """Tokens cut at 512, batches of 16 by length, padded; the last state of the first token, at unit length."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(bge), AutoModel.from_pretrained(bge).eval()
    order = np.argsort([-len(ids) for ids in tokenizer(texts)["input_ids"]], kind="stable")
    expected = np.empty((len(texts), DIM), np.float32)
    for rows in np.array_split(order, range(16, len(texts), 16)):
        some = [texts[row] for row in rows]
        given = tokenizer(some, padding=True, truncation=True, max_length=512, return_tensors="pt")
        with torch.inference_mode():
            states = model(**given).last_hidden_state[:, 0]
        expected[rows] = torch.nn.functional.normalize(states, dim=-1).numpy()
    assert cosines(load_encoder(bge_section(bge)).encode(texts).vectors, expected).min() >= 0.9999


def test_other_texts_and_other_word_orders_have_other_vectors(bge, texts):
    """Else these random weights could not tell a right encoder from a wrong one."""
    backwards = [" ".join(reversed(text.split())) for text in texts if " " in text]
    vectors = load_encoder(bge_section(bge)).encode([*texts, *backwards]).vectors
    assert np.triu(vectors @ vectors.T, k=1).max() < 0.999


def test_a_cut_text_is_counted_and_has_the_vector_of_its_head(bge):
    texts = [words(count) for count in (29, 30, 31, 90)]  # <s> and </s> make 30 words 32 tokens
    encoded = load_encoder(bge_section(bge, max_tokens=32)).encode(texts)
    assert (encoded.cut, encoded.tokens) == (2, 31 + 3 * 32)
    assert cosines(encoded.vectors[1:2], encoded.vectors[2:]).min() >= 0.9999


def test_the_limit_of_the_model_holds_where_it_is_lower(bge, tmp_path):
    folder = copied(bge, tmp_path)
    changed(folder / "sentence_bert_config.json", max_seq_length=32)
    encoded = load_encoder(bge_section(folder)).encode([words(30), words(31)])
    assert (encoded.cut, encoded.tokens) == (1, 2 * 32)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "by its library"])
def test_no_text_is_longer_than_the_model_has_positions_for(mean_model, tmp_path, packed):
    """XLM-R counts positions behind the padding token's, and many folders give them all as the longest text."""
    from transformers import XLMRobertaConfig, XLMRobertaModel

    folder = copied(mean_model, tmp_path)
    (folder / "pytorch_model.bin").unlink()
    config = XLMRobertaConfig.from_pretrained(folder, max_position_embeddings=34, hidden_act=("relu", "gelu")[packed])
    XLMRobertaModel(config).save_pretrained(folder)
    changed(folder / "sentence_bert_config.json", max_seq_length=34)
    encoder: Any = load_encoder(EmbedSection(encoder=str(folder)))
    assert (encoder.packed is not None) == packed
    encoded = encoder.encode([words(30), words(31), words(90)])
    assert (encoded.cut, encoded.tokens) == (2, 3 * 32)
    assert np.isfinite(encoded.vectors).all()


def test_vectors_do_not_depend_on_the_order_of_the_texts(bge, texts):
    encoder = load_encoder(bge_section(bge, tokens_per_batch=512))
    order = np.random.default_rng(8).permutation(len(texts))
    shuffled = encoder.encode([texts[i] for i in order]).vectors
    assert_allclose(cosines(shuffled, encoder.encode(texts).vectors[order]), 1, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_gives_nearly_the_same_vectors(bge, texts, dtype):
    encoder: Any = load_encoder(bge_section(bge, dtype=dtype))
    vectors = encoder.encode(texts).vectors
    assert {str(weights.dtype) for weights in encoder.model.parameters()} == {f"torch.{dtype}"}
    assert vectors.dtype == np.float32
    assert_allclose(np.linalg.norm(vectors.astype(float), axis=1), 1, atol=1e-6)
    assert cosines(vectors, load_encoder(bge_section(bge)).encode(texts).vectors).min() >= 0.99


def test_bge_m3_without_modules_json_is_refused(bge, tmp_path):
    folder = copied(bge, tmp_path)
    (folder / "modules.json").unlink()
    with pytest.raises(ConfigError, match=r"pools by mean, BGE-M3 by its first token \(cls\).*needs modules\.json"):
        load_encoder(bge_section(folder))


def test_bge_m3_with_mean_pooling_is_refused(mean_model):
    with pytest.raises(ConfigError, match="pools by mean"):
        load_encoder(bge_section(mean_model))


def test_a_folder_without_a_vocabulary_is_refused(bge, tmp_path):
    folder = copied(bge, tmp_path)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"holds no vocabulary.*tokenizer\.json"):
        load_encoder(bge_section(folder))


def test_a_folder_without_weights_is_refused(bge, tmp_path):
    folder = copied(bge, tmp_path)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ConfigError, match=r"cannot be loaded.*no file named model\.safetensors"):
        load_encoder(bge_section(folder))


def test_the_commit_that_is_asked_for_is_loaded_not_the_latest(bge, mean_model, texts, tmp_path, monkeypatch):
    """Offline, from a cache whose main is another commit."""
    cache = tmp_path / "models--somebody--model"
    commits = {"a" * 40: bge, "b" * 40: mean_model}
    for commit, folder in commits.items():
        shutil.copytree(folder, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text("b" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for commit, folder in commits.items():
        vectors = load_encoder(EmbedSection(encoder="somebody/model"), commit).encode(texts[:9]).vectors
        own = load_encoder(EmbedSection(encoder=str(folder))).encode(texts[:9]).vectors
        assert cosines(vectors, own).min() > 0.9999


def test_damaged_files_are_told_as_such(bge, tmp_path):
    folder = copied(bge, tmp_path)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_encoder(bge_section(folder))
    for broken in ("{", "[]", '{"hidden_size": "x"}', "\ud800"):
        (folder / "config.json").write_bytes(broken.encode(errors="surrogatepass"))
        with pytest.raises(ConfigError, match="cannot be loaded"):
            check_encoder(bge_section(folder))


@pytest.mark.parametrize("by_name", [False, True], ids=["folder as encoder", "folder as model"])
def test_a_generic_folder_gives_the_vectors_of_sentence_transformers(mean_model, texts, by_name):
    from sentence_transformers import SentenceTransformer

    folder = str(mean_model)
    section = EmbedSection(encoder="some-model", model=folder) if by_name else EmbedSection(encoder=folder)
    expected = SentenceTransformer(folder, device="cpu").encode(texts, normalize_embeddings=True)
    encoder = load_encoder(section)
    assert_allclose(encoder.encode(texts).vectors, expected, atol=1e-4)
    assert check_encoder(section) == encoder.dim == DIM


def test_a_model_that_is_not_read_packed_gives_the_vectors_of_its_library(mean_model, texts, tmp_path):
    from sentence_transformers import SentenceTransformer

    folder = copied(mean_model, tmp_path)
    changed(folder / "config.json", hidden_act="relu")
    encoder: Any = load_encoder(EmbedSection(encoder=str(folder), tokens_per_batch=512))
    assert encoder.packed is None
    found = encoder.encode(texts)
    assert_allclose(
        found.vectors,
        SentenceTransformer(str(folder), device="cpu").encode(texts, normalize_embeddings=True),
        atol=1e-4,
    )
    assert found.model_seconds > 0


def test_mean_pooling_gives_other_vectors_than_the_first_token(bge, mean_model, texts):
    mean = load_encoder(EmbedSection(encoder=str(mean_model))).encode(texts).vectors
    assert cosines(mean, load_encoder(bge_section(bge)).encode(texts).vectors).max() < 0.999


def test_the_dimension_is_known_without_the_weights(bge, tmp_path):
    folder = copied(bge, tmp_path)
    (folder / "pytorch_model.bin").unlink()
    assert check_encoder(bge_section(folder)) == DIM


def test_the_dimension_is_left_open_where_a_layer_changes_it(mean_model, tmp_path):
    folder = copied(mean_model, tmp_path)
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    dense = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    write_json(folder / "modules.json", [*modules, dense])
    assert check_encoder(EmbedSection(encoder=str(folder))) is None


def test_the_dimension_is_left_open_where_config_json_names_it_otherwise(mean_model, tmp_path):
    folder = copied(mean_model, tmp_path)
    write_json(folder / "config.json", {"model_type": "distilbert", "dim": DIM})
    assert check_encoder(EmbedSection(encoder=str(folder))) is None


@pytest.mark.parametrize("by_name", [False, True], ids=["folder as encoder", "folder as model"])
def test_a_folder_without_a_model_is_refused_before_the_work(tmp_path, by_name):
    section = EmbedSection(model=str(tmp_path)) if by_name else EmbedSection(encoder=str(tmp_path))
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        check_encoder(section)


def test_a_module_of_the_folder_is_refused_and_not_run(bge, tmp_path):
    folder = copied(bge, tmp_path)
    trace = own_code(folder)
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    write_json(folder / "modules.json", [{**modules[0], "type": "own.Own"}, *modules[1:]])
    with pytest.raises(ConfigError, match="third-party code"):
        load_encoder(bge_section(folder))
    assert not trace.exists()


def test_an_architecture_of_the_folder_is_refused_and_not_run(bge, tmp_path):
    folder = copied(bge, tmp_path)
    trace = own_code(folder)
    changed(folder / "config.json", model_type="own", auto_map={"AutoConfig": "own.Own", "AutoModel": "own.Own"})
    with pytest.raises(ConfigError, match="custom code"):
        load_encoder(bge_section(folder))
    assert not trace.exists()


def test_code_beside_a_known_architecture_is_not_run(bge, tmp_path):
    folder = copied(bge, tmp_path)
    trace = own_code(folder)
    changed(folder / "config.json", auto_map={"AutoConfig": "own.Own", "AutoModel": "own.Own"})
    changed(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Own", "own.Own"]})
    assert load_encoder(bge_section(folder)).dim == DIM
    assert not trace.exists()


# --- models by any name, prompts, dimensions, broken vectors ---


def test_a_folder_is_the_same_model_whichever_key_names_it(mean_model, bge, texts):
    ways = [
        {"encoder": str(mean_model)},
        {"encoder": "some-model", "model": str(mean_model)},
        {"encoder": "some/model", "model": str(mean_model)},
    ]
    sections = [EmbedSection(**way) for way in ways]
    first, *others = (encoder_fingerprint(section) for section in sections)
    assert others == [first, first]
    first, *others = (load_encoder(section).encode(texts).vectors for section in sections)
    for vectors in others:
        assert_array_equal(vectors, first)
    by_name, by_folder = bge_section(bge), EmbedSection(encoder=str(bge))  # BGE-M3's own files say how it pools
    assert encoder_fingerprint(by_name) == encoder_fingerprint(by_folder)
    assert_array_equal(load_encoder(by_name).encode(texts).vectors, load_encoder(by_folder).encode(texts).vectors)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_the_prompt_that_a_model_wants_is_read_before_each_text(mean_model, texts, tmp_path, packed):
    from sentence_transformers import SentenceTransformer

    folder = copied(mean_model, tmp_path)
    if not packed:
        changed(folder / "config.json", hidden_act="relu")
    prompt = f"{WORDS[7]} {WORDS[9]} "
    settings = {"prompts": {"query": "", "topic": prompt}, "default_prompt_name": "topic"}
    write_json(folder / "config_sentence_transformers.json", settings)
    library = SentenceTransformer(str(folder), device="cpu")
    for told, expected in ((None, prompt), ("", ""), (words(3), words(3))):
        encoder: Any = load_encoder(EmbedSection(encoder=str(folder), prompt=told))
        assert (encoder.packed is not None) == packed
        assert model_prompt(EmbedSection(encoder=str(folder), prompt=told)) == expected
        found = encoder.encode(texts).vectors
        by_library = library.encode(texts, prompt=expected, normalize_embeddings=True)
        assert cosines(found, by_library).min() >= 0.9999
    default = load_encoder(EmbedSection(encoder=str(folder))).encode(texts).vectors
    assert cosines(default, library.encode(texts)).min() >= 0.9999
    assert (
        cosines(default, load_encoder(EmbedSection(encoder=str(folder), prompt="")).encode(texts).vectors).min() < 0.99
    )


def test_a_model_that_leaves_its_prompt_out_of_the_mean_is_read_by_its_library(mean_model, texts, tmp_path):
    from sentence_transformers import SentenceTransformer

    folder = copied(mean_model, tmp_path)
    changed(folder / "1_Pooling/config.json", include_prompt=False)
    encoder: Any = load_encoder(EmbedSection(encoder=str(folder), prompt=words(4) + " "))
    assert encoder.packed is None
    library = SentenceTransformer(str(folder), device="cpu")
    expected = library.encode(texts, prompt=words(4) + " ", normalize_embeddings=True)
    assert cosines(encoder.encode(texts).vectors, expected).min() >= 0.9999
    assert cosines(expected, library.encode([f"{words(4)} {text}" for text in texts])).min() < 0.9999


def test_a_prompt_makes_no_text_known(bge):
    texts = ["", "😀😀", WORDS[3], "👍"]
    found = load_encoder(bge_section(bge, prompt=words(2) + " ")).encode(texts)
    assert found.unread.tolist() == load_encoder(bge_section(bge)).encode(texts).unread.tolist()
    assert found.unread.tolist() == [True, True, False, True]
    with pytest.raises(ConfigError, match=r"^embed\.prompt has 32 tokens, and a text with it at most 32: nothing"):
        load_encoder(bge_section(bge, prompt=words(90), max_tokens=32))


def test_the_first_numbers_of_the_vectors_have_unit_length_again(bge, texts):
    whole = load_encoder(bge_section(bge)).encode(texts).vectors[:, :24].astype(float)
    section = bge_section(bge, dimensions=24)
    found = load_encoder(section)
    assert check_encoder(section) == found.dim == 24
    expected = whole / np.linalg.norm(whole, axis=1, keepdims=True)
    assert_allclose(found.encode(texts).vectors, expected, atol=1e-6)
    for asked in (check_encoder, load_encoder):
        with pytest.raises(ConfigError, match=rf"^embed\.dimensions=65 is above the {DIM} dimensions of {bge}; lower"):
            asked(bge_section(bge, dimensions=65))


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_a_text_whose_vector_is_no_number_is_told_and_spoils_no_other(mean_model, texts, tmp_path, packed):
    import torch

    folder = copied(mean_model, tmp_path)
    if not packed:
        changed(folder / "config.json", hidden_act="relu")
    whole = load_encoder(EmbedSection(encoder=str(folder))).encode(texts)
    assert not whole.not_finite.any()
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    (number,) = load_encoder(EmbedSection(encoder=str(folder))).model.tokenizer(  # type: ignore[attr-defined]
        [WORDS[5]], add_special_tokens=False
    )["input_ids"][0]
    weights["embeddings.word_embeddings.weight"][number] = torch.nan
    torch.save(weights, folder / "pytorch_model.bin")
    broken = np.array([WORDS[5] in text.split() for text in texts])
    assert 3 < broken.sum() < len(texts) - 3
    given = [*texts, "😀", WORDS[5]]
    encoder: Any = load_encoder(EmbedSection(encoder=str(folder)))
    assert (encoder.packed is not None) == packed
    found = encoder.encode(given)
    assert found.not_finite.tolist() == [*broken.tolist(), False, True]
    assert np.flatnonzero(found.unread).tolist() == [len(texts)]
    assert (found.vectors.any(axis=1) == ~(found.not_finite | found.unread)).all()
    assert cosines(found.vectors[: len(texts)][~broken], whole.vectors[~broken]).min() >= 0.9999


# --- an actor with a GPU ---


@pytest.mark.parametrize("cut", [True, False])
def test_threads_get_the_vectors_of_their_own_texts(bge, mean_model, texts, tmp_path, cut):
    folder = bge if cut else copied(mean_model, tmp_path)
    if not cut:
        changed(folder / "config.json", hidden_act="relu")  # the library's own pass
    encoder: Any = load_encoder(EmbedSection(encoder=str(folder), tokens_per_batch=512))
    assert (encoder.packed is not None) == cut
    alone = [encoder.encode(texts[first : first + 20]).vectors for first in range(40)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda first: encoder.encode(texts[first : first + 20]).vectors, range(40)))
    for own, expected in zip(found, alone, strict=True):
        assert_array_equal(own, expected)


def too_many(encoder: Any, most: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A GPU's memory that holds so many tokens of a batch; the list gets the tokens of each forward pass."""
    import torch

    tokens: list[int] = []
    inner = encoder.packed.forward

    def forward(pack: Any) -> Any:
        tokens.append(len(pack.ids))
        if tokens[-1] > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return inner(pack)

    monkeypatch.setattr(encoder.packed, "forward", forward)
    return tokens


def test_a_batch_that_the_gpus_memory_does_not_hold_is_halved_once_and_told(bge, texts, monkeypatch):
    from clustering.encoders import torch

    logged: list[Any] = []
    monkeypatch.setattr(torch.log, "warning", lambda *words: logged.append(words))
    expected = load_encoder(bge_section(bge)).encode(texts)
    assert expected.warning is None
    encoder: Any = load_encoder(bge_section(bge, tokens_per_batch=1024))
    tokens = too_many(encoder, 600, monkeypatch)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(encoder.encode, [texts] * 3))
    for encoded in found:
        assert_allclose(encoded.vectors, expected.vectors, atol=1e-5)
        assert encoded.warning == (
            "The GPU's memory did not hold a batch of embed.tokens_per_batch=1024; the batches from then on had 512 "
            "tokens."
        )
    assert sum(count > 600 for count in tokens) == 1
    assert logged == [("embed: %s", found[0].warning)]


def test_memory_that_does_not_hold_half_a_batch_either_ends_the_stage(bge, texts, monkeypatch):
    encoder = load_encoder(bge_section(bge, tokens_per_batch=1024))
    too_many(encoder, 300, monkeypatch)
    with pytest.raises(StageError, match=r"=1024; .* had 512 tokens\. Those are too many as well: lower it"):
        encoder.encode(texts)


def test_a_gpu_that_torch_does_not_see_is_said(bge):
    with pytest.raises(ConfigError, match=r"embed\.gpus_per_actor=0\.5, but torch \S+ sees no GPU on"):
        load_encoder(bge_section(bge, gpus_per_actor=0.5))


def test_the_dtype_is_that_of_the_device(bge, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)  # no GPU is reserved, so none is touched
    encoder: Any = load_encoder(bge_section(bge))
    assert {str(weights.dtype) for weights in encoder.model.parameters()} == {"torch.float32"}
    assert encoder.tokens_per_batch == 16_384
