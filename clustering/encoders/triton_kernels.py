"""Tensors of texts that lie end to end in, attention within each text or LayerNorm out: GPU kernels in Triton."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

QUERIES, KEYS, WARPS = 64, 64, 4  # queries of a program, keys that it reads at a time, its warps


@triton.jit
def _attention_kernel(  # type: ignore[no-untyped-def]
    q, k, v, out, begins, ends, n_queries, q_row, kv_row, scale,
    width: tl.constexpr, tile: tl.constexpr, step: tl.constexpr,
):  # fmt: skip
    # A program takes one head and a tile of queries of any texts. Short texts share a tile: tiles of their own would be
    # nearly empty.
    head = tl.program_id(0)
    rows = tl.program_id(1) * tile + tl.arange(0, tile)
    inside = rows < n_queries
    wide = tl.arange(0, width)
    begin = tl.load(begins + rows, mask=inside, other=0)
    end = tl.load(ends + rows, mask=inside, other=0)
    at = head * width + wide[None, :]
    query = tl.load(q + rows[:, None].to(tl.int64) * q_row + at, mask=inside[:, None], other=0.0)
    low = tl.load(begins + tl.program_id(1) * tile)
    high = tl.max(end)
    best = tl.full((tile,), -1e30, tl.float32)
    total = tl.zeros((tile,), tl.float32)
    mixed = tl.zeros((tile, width), tl.float32)
    for start in range(low, high, step):
        keys = start + tl.arange(0, step)
        exists = keys < high
        address = keys[:, None].to(tl.int64) * kv_row + at
        key = tl.load(k + address, mask=exists[:, None], other=0.0)
        score = tl.dot(query, tl.trans(key)) * scale
        own = (keys[None, :] >= begin[:, None]) & (keys[None, :] < end[:, None])
        score = tl.where(own, score, -float("inf"))
        better = tl.maximum(best, tl.max(score, 1))
        shrink = tl.exp2(best - better)
        share = tl.exp2(score - better[:, None])
        value = tl.load(v + address, mask=exists[:, None], other=0.0)
        mixed = mixed * shrink[:, None] + tl.dot(share.to(value.dtype), value)
        total = total * shrink + tl.sum(share, 1)
        best = better
    total = tl.where(inside, total, 1.0)
    target = out + rows[:, None].to(tl.int64) * (tl.num_programs(0) * width) + at
    tl.store(target, (mixed / total[:, None]).to(out.dtype.element_ty), mask=inside[:, None])


@triton.jit
def _add_norm_kernel(x, y, weight, bias, out, width, eps, block: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64) * width
    at = tl.arange(0, block)
    inside = at < width
    both = tl.load(x + row + at, mask=inside, other=0.0).to(tl.float32)
    both += tl.load(y + row + at, mask=inside, other=0.0).to(tl.float32)
    away = tl.where(inside, both - tl.sum(both) / width, 0.0)
    scaled = away * tl.rsqrt(tl.sum(away * away) / width + eps)
    scaled = scaled * tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    scaled += tl.load(bias + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row + at, scaled.to(out.dtype.element_ty), mask=inside)


def attention(pack: Any, tile: int = QUERIES, keys: int = KEYS, warps: int = WARPS) -> Any:
    """Attention within each text of a Pack: a function of q, k and v, each of shape (n, heads, width).

    The function takes every token as q, or the first token of each text, and returns q's shape and dtype. The width of
    a head is a power of two, 16 or more.
    """
    starts = pack.starts
    texts = pack.text_of_token()
    begins, ends = starts[:-1][texts], starts[1:][texts]

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n_queries, heads, width = q.shape
        of_queries = (begins, ends) if n_queries == len(k) else (starts[:-1], starts[1:])
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        _attention_kernel[(heads, triton.cdiv(n_queries, tile))](
            q, k, v, out, *of_queries, n_queries, q.stride(0), k.stride(0), width**-0.5 * 1.4426950408889634,
            width=width, tile=tile, step=keys, num_warps=warps,
        )  # fmt: skip
        return out

    return attend


def add_norm(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm of x + y, both contiguous and of shape (n, width); sums are in float32."""
    out = torch.empty_like(x)
    n_rows, width = x.shape
    block = triton.next_power_of_2(width)
    _add_norm_kernel[(n_rows,)](
        x, y, weight, bias, out, width, eps, block=block, num_warps=max(1, min(8, block // 256))
    )
    return out


def self_test(pack: Callable[..., Any]) -> None:
    """Run both kernels once on a few tokens. Raises: whatever Triton raises where it cannot compile them."""
    device = torch.device("cuda")
    starts = torch.tensor([0, 2, 5], dtype=torch.int32, device=device)
    some = torch.ones((5, 1, 16), dtype=torch.float16, device=device)
    ids = torch.zeros(5, dtype=torch.int64, device=device)
    attention(pack(ids, ids, starts, np.array([2, 3])))(some, some, some)
    flat = some.flatten(1)
    add_norm(flat, flat, flat[0], flat[0], 1e-5)
    torch.cuda.synchronize()
