"""BGE-M3 and other sentence-transformers folders, on a small random checkpoint with the files of BAAI/bge-m3."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from clustering.config import EmbedSection
from clustering.encoders import Encoded, check_encoder, load_encoder
from clustering.errors import ConfigError

pytestmark = pytest.mark.bge

DIM = 64
LONGEST = 128  # words of the longest text; a word of the vocabulary is one token
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
WORDS = [a + b + c for a in SYLLABLES[::7] for b in SYLLABLES[1::11] for c in SYLLABLES[2::17]]  # one token each
RANDOM_CODE = "from pathlib import Path\n\nPath(__file__).with_name('was_run').touch()\n"


@pytest.fixture(scope="module", autouse=True)
def _offline():
    reason = "install the extra: pip install 'covey[bge]'"
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")  # read when the packages are imported
    pytest.importorskip("torch", reason=f"torch is missing; {reason}")
    pytest.importorskip("sentence_transformers", reason=f"sentence-transformers is missing; {reason}")


@pytest.fixture(scope="module")
def bge(tmp_path_factory) -> Path:
    """XLM-R with two layers and random weights, in the files that the hub has for BGE-M3."""
    folder = tmp_path_factory.mktemp("bge-m3")
    write_weights(folder, n_tokens=write_tokenizer(folder))
    root = "sentence_transformers.models"
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [{"idx": i, "name": str(i), "path": path, "type": f"{root}.{kind}"} for i, (path, kind) in enumerate(kinds)]
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
    names = dict(bos="<s>", cls="<s>", eos="</s>", sep="</s>", pad="<pad>", unk="<unk>", mask="<mask>")
    tokens = {f"{name}_token": token for name, token in names.items()}
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


def encode(texts: list[str], **settings: Any) -> Encoded:
    return load_encoder(EmbedSection(**settings)).encode(texts)


def token_counts(folder: Path, texts: list[str]) -> NDArray[np.int64]:
    """Tokens of each text, without <s> and </s>."""
    from transformers import AutoTokenizer

    return np.array([len(ids) for ids in AutoTokenizer.from_pretrained(folder)(texts, add_special_tokens=False)["input_ids"]])


def cosines(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    a, b = a.astype(float), b.astype(float)
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
