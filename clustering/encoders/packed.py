"""Token ids in, unit vectors out: the forward pass of BERT and XLM-R over texts that lie end to end.

No token is padding. The matrix products run over all tokens of a batch at once, and attention knows where each text
begins and ends. On a GPU in half precision, attention is a kernel of this project (Triton) or torch's own for variable
lengths. Elsewhere, the texts of a batch lie side by side for attention alone.
"""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from clustering.encoders.base import FloatArray, IntArray, Tokens

log = logging.getLogger("covey")
ROBERTA = ("xlm-roberta", "roberta", "camembert")  # they count positions from the padding token's id on
ARCHITECTURES = ("bert", *ROBERTA)
SIDE_BY_SIDE = 8192  # tokens with their padding that attention takes at a time where it must pad


def unsupported_reason(model: Any) -> str | None:
    """Why a SentenceTransformer cannot run as a packed encoder; None where it can."""
    kinds = [type(module).__name__ for module in model]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        return f"its modules are {', '.join(kinds)}; read are Transformer, Pooling and Normalize"
    config, pooling = model[0].auto_model.config, model[1]
    if config.model_type not in ARCHITECTURES:
        return f"its architecture is {config.model_type}; read are {', '.join(ARCHITECTURES)}"
    if config.hidden_act != "gelu" or getattr(config, "position_embedding_type", "absolute") != "absolute":
        return f"its activation is {config.hidden_act}, or its positions are not absolute"
    if getattr(config, "is_decoder", False):
        return "it is a decoder"
    if pooling.pooling_mode not in ("cls", "mean"):
        return f"it pools by {pooling.pooling_mode}; read are cls and mean"
    if not pooling.include_prompt:
        return "it pools without the prompt"
    return None


def count_positions(model: Any) -> int | None:
    """The tokens of a text that a SentenceTransformer has positions for; None where that is not known.

    RoBERTa's architectures have two positions more than that, which many files give as the longest text.
    """
    config: Any = getattr(getattr(model[0], "auto_model", None), "config", None)
    if getattr(config, "model_type", None) not in ARCHITECTURES:
        return None
    before = config.pad_token_id + 1 if config.model_type in ROBERTA else 0
    return int(config.max_position_embeddings) - before


@dataclass(frozen=True)
class Pack:
    """The texts of one forward pass, on the device."""

    ids: Tensor  # (n_tokens,)
    positions: Tensor  # (n_tokens,), as the model counts them
    starts: Tensor  # int32 (n_texts + 1,), the first token of each text; the last entry is n_tokens
    host_lengths: IntArray  # (n_texts,), tokens of each text, ascending, on the host

    @property
    def lengths(self) -> Tensor:
        return self.starts.diff()

    @property
    def longest(self) -> int:
        return int(self.host_lengths[-1])

    def text_of_token(self) -> Tensor:
        """int64, shape (n_tokens,): the text that each token belongs to."""
        numbers = torch.arange(len(self.starts) - 1, device=self.ids.device)
        return numbers.repeat_interleave(self.lengths, output_size=len(self.ids))


def batch_ends(lengths: IntArray, n_tokens: int, *, padded: bool = False) -> Iterator[tuple[int, int]]:
    """Ranges of texts that hold at most ``n_tokens`` tokens; a range has one text at least.

    lengths : int64, shape (n_texts,), tokens of each text, ascending
    padded : count each text as long as the longest of its range
    """
    until = np.cumsum(lengths)
    start = 0
    while start < len(lengths):
        if padded:
            some = lengths[start : start + n_tokens]
            end = start + int(np.searchsorted(some * np.arange(1, len(some) + 1), n_tokens, side="right"))
        else:
            before = until[start - 1] if start else 0
            end = int(np.searchsorted(until, before + n_tokens, side="right"))
        end = max(end, start + 1)
        yield start, end
        start = end


@dataclass(frozen=True)
class PreparedTexts:
    """Texts ascending by length, in memory of the host that a GPU can copy from directly."""

    ids: Tensor  # (n_tokens,)
    positions: Tensor  # (n_tokens,), as the model counts them
    begins: Tensor  # int32 (n_texts + 1,), the first token of each text
    order: Tensor  # (n_texts,), the positions that the texts had before
    lengths: IntArray
    starts: IntArray  # equal to ``begins``

    def batches(self, n_tokens: int) -> Iterator[tuple[int, int]]:
        """Ranges of texts of at most ``n_tokens`` tokens each, of about one size."""
        n_batches = max(1, -(-int(self.starts[-1]) // n_tokens))
        level = -(-int(self.starts[-1]) // n_batches) + int(self.lengths.max(initial=0))
        return batch_ends(self.lengths, min(level, n_tokens))


@dataclass(frozen=True)
class PendingVectors:
    """Vectors that the device still works on."""

    output: Tensor  # float32 (n_texts, dim) on the host
    begun: Any  # the CUDA event before the first forward pass; on a CPU, the seconds that all took
    done: Any  # the CUDA event behind the last copy; None on a CPU, where the vectors are ready

    def vectors(self) -> FloatArray:
        """Wait for this work, and not for later work of the device. Returns: float32, shape (n_texts, dim)."""
        if self.done is not None:
            self.done.synchronize()
        vectors: FloatArray = self.output.numpy()
        return vectors

    def seconds(self) -> float:
        """Seconds that the device spent on these vectors, once they are there."""
        return float(self.begun if self.done is None else self.begun.elapsed_time(self.done) / 1000)


class PackedEncoder:
    """The weights of a SentenceTransformer, and a forward pass over them without padding.

    attention : tiles (Triton), varlen (torch's own, flash attention) or padded; None takes the first that works
    exact_gelu : False lets the GPU compute GELU by tanh, within the matrix product before it. The difference (5e-4 at
        most) lies below the rounding of half precision. Float32 is always exact.
    Source: Devlin et al. (2019), arXiv:1810.04805; Conneau et al. (2020), arXiv:1911.02116.
    """

    def __init__(self, model: Any, attention: str | None = None, *, exact_gelu: bool = False) -> None:
        """Raises: ValueError for a model that is not one of these encoders."""
        why = unsupported_reason(model)
        if why:
            raise ValueError(f"the model cannot be read as a packed encoder: {why}")
        inner, config = model[0].auto_model, model[0].auto_model.config
        self.mean = model[1].pooling_mode == "mean"
        self.heads: int = config.num_attention_heads
        self.dim: int = config.hidden_size
        self.eps: float = config.layer_norm_eps
        self.pad: int | None = config.pad_token_id if config.model_type in ROBERTA else None
        with torch.no_grad():
            self._read(inner)
        self.device, self.dtype = self.words.device, self.words.dtype
        self.on_gpu = self.device.type == "cuda" and self.dtype in (torch.float16, torch.bfloat16)
        self.kernels: Any = _kernels() if self.on_gpu else None
        self.tanh = self.on_gpu and not exact_gelu
        self.attention = attention or self._attention()
        if self.attention == "tiles" and self.kernels is None:
            raise ValueError("attention by tiles needs a GPU, a model in half precision, and Triton with a C compiler")

    def _read(self, inner: Any) -> None:
        embeddings = inner.embeddings
        self.words = embeddings.word_embeddings.weight.detach()
        # A text is one segment, so the segment's vector is added to each position's.
        positions, segments = embeddings.position_embeddings.weight, embeddings.token_type_embeddings.weight
        self.position_vectors = positions.detach() + segments[0]
        self.norm = _weights(embeddings.LayerNorm)
        self.layers = [_Layer.read(layer) for layer in inner.encoder.layer]

    def _attention(self) -> str:
        if not self.on_gpu:
            return "padded"
        width = self.dim // self.heads
        if self.kernels is not None and width >= 16 and width & (width - 1) == 0:
            return "tiles"
        return "varlen" if importlib.util.find_spec("torch.nn.attention.varlen") else "padded"

    def encode(self, ids: IntArray, lengths: IntArray, tokens_per_batch: int) -> FloatArray:
        """Vectors of unit length, in the order of the texts.

        ids : int64, shape (lengths.sum(),), the tokens of the texts end to end, with the special ones
        lengths : int64, shape (n_texts,), tokens of each text, at most as many as the model has positions
        tokens_per_batch : tokens of one forward pass; a longer text has a pass of its own
        Returns: float32, shape (n_texts, dim)
        Raises: ValueError for a text without a token, or with more tokens than the model has positions.
        """
        return self.start(self.prepare(Tokens(ids, lengths, 0)), tokens_per_batch).vectors()

    def prepare(self, tokens: Tokens) -> PreparedTexts:
        """The CPU's share of ``encode``: sort the texts by length, and count their positions."""
        lengths = tokens.lengths
        n_positions = len(self.position_vectors) - (0 if self.pad is None else self.pad + 1)
        if len(lengths) and not 1 <= lengths.min() <= lengths.max() <= n_positions:
            raise ValueError(
                f"the texts have {lengths.min()} to {lengths.max()} tokens, the model takes 1 to {n_positions}; "
                f"cut them where they are tokenised"
            )
        order = np.argsort(lengths, kind="stable")
        ids, lengths = tokens.take(order).ids, lengths[order]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        positions, begins = self._positions(ids, lengths), starts.astype(np.int32)
        return PreparedTexts(
            ids=self._pinned(ids), positions=self._pinned(positions), begins=self._pinned(begins),
            order=self._pinned(order), lengths=lengths, starts=starts,
        )  # fmt: skip

    def start(self, prepared: PreparedTexts, tokens_per_batch: int) -> PendingVectors:
        """Queue all the work on the device. On a GPU, this does not wait for it. One thread may call it at a time.

        Raises: torch.OutOfMemoryError when the GPU's memory does not hold a batch; a smaller one may be tried.
        """
        started = time.perf_counter()
        begun = self._event()
        inputs = (prepared.ids, prepared.positions, prepared.begins, prepared.order)
        ids, positions, begins, order = (tensor.to(self.device, non_blocking=True) for tensor in inputs)
        starts = prepared.starts
        vectors = torch.empty((len(order), self.dim), dtype=torch.float32, device=self.device)
        with torch.inference_mode():
            for first, last in prepared.batches(tokens_per_batch):
                tokens = slice(starts[first], starts[last])
                own = begins[first : last + 1] - begins[first]
                pack = Pack(ids[tokens], positions[tokens], own, prepared.lengths[first:last])
                vectors.index_copy_(0, order[first:last], self.forward(pack))
        if self.device.type != "cuda":
            return PendingVectors(vectors, time.perf_counter() - started, None)
        host = torch.empty(vectors.shape, dtype=torch.float32, pin_memory=True)
        host.copy_(vectors, non_blocking=True)
        return PendingVectors(host, begun, self._event())

    def _event(self) -> Any:
        """An event behind the work that the GPU has so far; None on a CPU."""
        if self.device.type != "cuda":
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _pinned(self, array: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory() if self.device.type == "cuda" else tensor

    def _positions(self, ids: IntArray, lengths: IntArray) -> IntArray:
        starts = np.cumsum(lengths) - lengths
        if self.pad is None:
            return np.arange(len(ids), dtype=np.int64) - np.repeat(starts, lengths)
        # A padding token that is part of a text has no position of its own, as in transformers.
        counted = ids != self.pad
        before = np.concatenate([[0], np.cumsum(counted)])
        positions: IntArray = (before[1:] - np.repeat(before[starts], lengths)) * counted + self.pad
        return positions

    def forward(self, pack: Pack) -> Tensor:
        """Unit vectors of one batch: float32, shape (n_texts, dim), on the device."""
        states = functional.embedding(pack.ids, self.words)
        states = states + functional.embedding(pack.positions, self.position_vectors)
        states = functional.layer_norm(states, (self.dim,), *self.norm, self.eps)
        attend = self._attend(pack)
        for layer in self.layers[:-1]:
            q, k, v = functional.linear(states, *layer.qkv).unflatten(-1, (3, self.heads, -1)).unbind(-3)
            states = self._rest(layer, states, attend(q, k, v))
        # CLS pooling reads only the first token of each text from the last layer.
        first = None if self.mean else pack.starts[:-1].long()
        pooled = states if first is None else states[first]
        weight, bias = self.layers[-1].qkv
        q = functional.linear(pooled, weight[: self.dim], bias[: self.dim]).unflatten(-1, (self.heads, -1))
        k, v = (
            functional.linear(states, weight[self.dim :], bias[self.dim :])
            .unflatten(-1, (2, self.heads, -1))
            .unbind(-3)
        )
        states = self._rest(self.layers[-1], pooled, attend(q, k, v))
        if self.mean:
            states = torch.segment_reduce(states.float(), "mean", lengths=pack.lengths.long(), unsafe=True)
        return functional.normalize(states.float(), dim=-1)

    def _rest(self, layer: _Layer, states: Tensor, mixed: Tensor) -> Tensor:
        """The part of a layer that follows its attention."""
        states = self._add_norm(functional.linear(mixed.flatten(-2), *layer.out), states, layer.norm)
        weight, bias = layer.up
        if self.tanh:  # within the kernel of the matrix product
            wide = torch._addmm_activation(bias, states, weight.t(), use_gelu=True)
        else:
            wide = functional.gelu(functional.linear(states, weight, bias))
        return self._add_norm(functional.linear(wide, *layer.down), states, layer.norm_2)

    def _add_norm(self, change: Tensor, states: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
        if self.kernels is not None:
            return self.kernels.add_norm(change, states, *weights, self.eps)
        return functional.layer_norm(change + states, (self.dim,), *weights, self.eps)

    def _attend(self, pack: Pack) -> Any:
        """Attention within each text: a function of q, k and v, each of shape (n, heads, width), to an array like q.

        q holds every token, or the first token of each text.
        """
        if self.attention == "tiles":
            return self.kernels.attention(pack)
        if self.attention == "varlen":
            return _varlen(pack)
        return _padded(pack)


@dataclass(frozen=True)
class _Layer:
    qkv: tuple[Tensor, Tensor]  # weight and bias of the three products in one
    out: tuple[Tensor, Tensor]
    norm: tuple[Tensor, Tensor]
    up: tuple[Tensor, Tensor]
    down: tuple[Tensor, Tensor]
    norm_2: tuple[Tensor, Tensor]

    @staticmethod
    def read(layer: Any) -> _Layer:
        own, output = layer.attention.self, layer.attention.output
        three = [_weights(linear) for linear in (own.query, own.key, own.value)]
        weight, bias = (torch.cat(same) for same in zip(*three, strict=True))
        return _Layer(
            (weight, bias), _weights(output.dense), _weights(output.LayerNorm),
            _weights(layer.intermediate.dense), _weights(layer.output.dense), _weights(layer.output.LayerNorm),
        )  # fmt: skip


def _weights(module: Any) -> tuple[Tensor, Tensor]:
    return module.weight.detach(), module.bias.detach()


def _kernels() -> Any:
    """The module of this project's GPU kernels; None where Triton or its C compiler is missing."""
    try:
        from clustering.encoders import triton_kernels

        triton_kernels.self_test(Pack)
    except Exception as error:  # Triton passes on any error of its compiler, the driver or the C compiler
        log.warning(
            "embed: this project's GPU kernels do not work here (%s: %s); torch's own take longer",
            type(error).__name__, error,
        )  # fmt: skip
        return None
    return triton_kernels


def _varlen(pack: Pack) -> Any:
    from torch.nn.attention.varlen import varlen_attn

    single = torch.arange(len(pack.starts), dtype=torch.int32, device=pack.starts.device)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        starts, longest = (pack.starts, pack.longest) if len(q) == len(k) else (single, 1)
        out: Tensor = varlen_attn(q, k, v, starts, pack.starts, longest, pack.longest)
        return out

    return attend


def _padded(pack: Pack) -> Any:
    """Attention over texts of similar lengths side by side, padded to the longest of them."""
    starts = np.concatenate([[0], np.cumsum(pack.host_lengths)])
    buckets = list(batch_ends(pack.host_lengths, SIDE_BY_SIDE, padded=True))

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        for first, last in buckets:
            tokens = slice(starts[first], starts[last])
            rows = tokens if len(q) == len(k) else slice(first, last)
            longest = int(pack.host_lengths[last - 1])
            out[rows] = _bucket(q[rows], k[tokens], v[tokens], pack.lengths[first:last], longest)
        return out

    return attend


def _bucket(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, longest: int) -> Tensor:
    inside = torch.arange(longest, device=k.device) < lengths[:, None]
    full = inside.numel() == len(k)

    def side_by_side(packed: Tensor) -> Tensor:
        if len(packed) < len(k):
            return packed[:, :, None]
        if full:
            return packed.unflatten(0, inside.shape).transpose(1, 2)
        padded = packed.new_zeros((*inside.shape, *packed.shape[1:]))
        padded[inside] = packed
        return padded.transpose(1, 2)

    mask = None if full else inside[:, None, None]
    mixed = functional.scaled_dot_product_attention(*map(side_by_side, (q, k, v)), attn_mask=mask).transpose(1, 2)
    return mixed.flatten(0, 1) if full or len(q) < len(k) else mixed[inside]
