"""Texts in, vectors out: BGE-M3, or any sentence-transformers model, by torch."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from itertools import chain
from threading import Lock
from typing import Any, TypeVar

import numpy as np

from clustering.config.sections import EmbedSection
from clustering.encoders.base import (
    CPU_TOKENS_PER_BATCH,
    Encoded,
    FloatArray,
    IntArray,
    Tokens,
    package_folder,
    read_tokens,
    require_room,
    token_batches,
    token_kinds,
    tokenize,
)
from clustering.encoders.weights import model_location
from clustering.errors import ConfigError, StageError

log = logging.getLogger("covey")
T = TypeVar("T")
GPU_TOKENS_PER_BATCH = 65_536  # where embed.tokens_per_batch sets none; smaller batches leave an H100 waiting


class _Forwards:
    """The seconds that a torch module spends in forward passes; ``wait`` waits until the device is idle."""

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

    It works on a GPU where the actor has reserved one or a share of one, else on the CPU.
    BGE-M3 has XLM-R's architecture. Its dense vector is the last state of the first token, at unit length.
    Code that comes with a model is never run.
    Source: Chen et al. (2024), arXiv:2402.03216.
    """

    def __init__(self, cfg: EmbedSection, commit: str | None = None) -> None:
        package_folder("torch", "bge")
        package_folder("sentence_transformers", "bge")
        import torch
        from sentence_transformers import SentenceTransformer

        from clustering.encoders.packed import PackedEncoder, count_positions, unsupported_reason

        name, revision = model_location(cfg), commit or cfg.revision
        on_gpu = cfg.gpus_per_actor > 0
        if on_gpu and not torch.cuda.is_available():
            raise ConfigError([
                f"embed.gpus_per_actor={cfg.gpus_per_actor:g}, but torch {torch.__version__} sees no GPU on this node; "
                "install a build for its GPUs and driver (https://pytorch.org), or set it to 0"
            ])  # fmt: skip
        dtype = "float32" if cfg.dtype == "auto" and not on_gpu else cfg.dtype
        try:
            self.model: Any = SentenceTransformer(
                name, device="cuda" if on_gpu else "cpu", trust_remote_code=False, revision=revision,
                model_kwargs={"dtype": dtype if dtype == "auto" else getattr(torch, dtype)},
            )  # fmt: skip
        except (OSError, ValueError) as error:  # a missing file, an unreachable hub, or a model with code of its own
            shown = f"{name} in the revision {revision}" if revision else name
            raise ConfigError([f"embed.model: {shown} cannot be loaded: {error}"]) from error
        if cfg.encoder == "bge-m3":
            self._require_cls_pooling(name)
        self._require_vocabulary(name)
        can_pack = unsupported_reason(self.model) is None
        if dtype == "auto":  # float16 is nearer to float32, but the states of other architectures may leave its range
            self.model.to(torch.float16 if can_pack else torch.bfloat16)
        names = self.model.tokenizer.convert_ids_to_tokens(range(len(self.model.tokenizer)))
        self.kinds = token_kinds(names, self.model.tokenizer.all_special_ids)
        limits = (cfg.max_tokens, self.model.max_seq_length, count_positions(self.model))  # files may tell too many
        self.max_tokens = min(limit for limit in limits if limit)
        self.model.max_seq_length = self.max_tokens
        self.tokenizer = self._own_tokenizer()
        self.prompt = cfg.prompt or ""
        require_room(self.prompt, self._tokenize([self.prompt]).ids.size, self.max_tokens)
        self.dim = int(self.model.get_embedding_dimension())
        self.tokens_per_batch = cfg.tokens_per_batch or (GPU_TOKENS_PER_BATCH if on_gpu else CPU_TOKENS_PER_BATCH)
        self.full: type[RuntimeError] = torch.OutOfMemoryError
        self.free_memory: Callable[[], None] = torch.cuda.empty_cache
        self.warning: str | None = None
        self.forwards = _Forwards(self.model[0], torch.cuda.synchronize if on_gpu else None)
        self.packed: Any = None
        if can_pack and (not on_gpu or dtype != "float32"):
            self.packed = PackedEncoder(self.model)
        # Threads take turns: the tokenizer uses all cores for one call, and the device works in the order of the calls.
        self.cores, self.device = Lock(), Lock()

    def _own_tokenizer(self) -> Any:
        """A copy of the tokenizer, because the library changes its settings; None for one that is written in Python."""
        backend = getattr(self.model.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        tokenizer = type(backend).from_str(backend.to_str())
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.max_tokens)
        return tokenizer

    def _tokenize(self, texts: Sequence[str]) -> Tokens:
        if self.tokenizer is not None:
            return tokenize(self.tokenizer, texts)
        limit, ids = self.max_tokens, self.model.tokenizer(list(texts))["input_ids"] if texts else []
        each = [own if len(own) <= limit else [*own[: limit - 1], own[-1]] for own in ids]
        lengths = np.array([len(own) for own in each], np.int64)
        return Tokens(np.array([*chain(*each)], np.int64), lengths, sum(len(own) > limit for own in ids))

    def _require_cls_pooling(self, model: str) -> None:
        """Refuse another pooling than BGE-M3's. A folder without modules.json would get mean pooling."""
        pooling = next((module for module in self.model if type(module).__name__ == "Pooling"), None)
        if pooling is None or pooling.pooling_mode not in ("cls", ("cls",), ["cls"]):
            mode = getattr(pooling, "pooling_mode", "nothing")
            raise ConfigError([
                f"embed.model: {model} pools by {mode}, BGE-M3 by its first token (cls); its folder needs modules.json "
                f"and 1_Pooling/config.json, as the hub has them"
            ])  # fmt: skip

    def _require_vocabulary(self, model: str) -> None:
        """Refuse a folder without a vocabulary, for which transformers makes a tokenizer that knows no word."""
        if len(self.model.tokenizer) <= len(self.model.tokenizer.all_special_ids):
            raise ConfigError([f"embed.model: {model} holds no vocabulary; its folder needs tokenizer.json"])

    def encode(self, texts: Sequence[str]) -> Encoded:
        with self.cores:
            read = read_tokens(self._tokenize, texts, self.prompt, self.kinds)
            lengths = read.tokens.lengths
            prepared = self.packed.prepare(read.tokens) if self.packed and lengths.all() else None
        if prepared is None:
            vectors, seconds = self._within_memory(lambda budget: self._padded(texts, lengths, budget))
        else:
            pending = self._within_memory(lambda budget: self.packed.start(prepared, budget))
            vectors, seconds = pending.vectors(), pending.seconds()
        return Encoded.of_tokens(vectors, read, model_seconds=seconds, warning=self.warning)

    def _within_memory(self, work: Callable[[int], T]) -> T:
        """Do the work with the tokens of a batch; once the GPU's memory is full, with half as many from then on.

        Raises: StageError when its memory does not hold that either.
        """
        with self.device:
            before = self.tokens_per_batch
            try:
                return work(before)
            except self.full as error:
                if self.warning is not None:
                    raise StageError(f"{self.warning} Those are too many as well: lower it. ({error})") from error
            # Behind the except block, whose error keeps the tensors of the failed batch alive.
            self.tokens_per_batch = before // 2
            self.warning = (
                f"The GPU's memory did not hold a batch of embed.tokens_per_batch={before}; the batches from then on "
                f"had {before // 2} tokens."
            )
            log.warning("embed: %s", self.warning)
            self.free_memory()
        return self._within_memory(work)

    def _padded(self, texts: Sequence[str], lengths: IntArray, budget: int) -> tuple[FloatArray, float]:
        """The same by sentence-transformers, which tokenises again and pads: for models that ``packed`` cannot read."""
        vectors = np.empty((len(texts), self.dim), np.float32)
        self.forwards.seconds = 0.0
        for batch in token_batches(lengths, budget):
            vectors[batch] = self.model.encode(
                [texts[row] for row in batch],
                prompt=self.prompt,  # the library's own default otherwise
                batch_size=len(batch),
                convert_to_numpy=True,
                normalize_embeddings=False,
                show_progress_bar=False,
            )
        return vectors, self.forwards.seconds
