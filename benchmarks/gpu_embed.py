"""Embedding on one GPU: headlines a second, and the share of the card's bf16 rate, beside two other libraries.

    python -m benchmarks.gpu_embed --output benchmarks/results/gpu-embed.json

The bare loop takes tokens in memory. The actor is the embed stage's own: it reads parts of texts/ and writes parts of
vectors/, as the pool starts and calls it on a node. Both run with the product's default settings, and with others.

Needs torch and sentence-transformers (extra `bge`), pydantic, obstore and py3langid, no network, no Ray (which only
carries the calls to an actor) and no weights: BGE-M3's shape (XLM-R large: 24 layers, 1024 wide, 16 heads, 250,002
tokens) is filled at random, and its tokenizer is made on the spot. Other libraries are measured where they are
installed. The default call takes about four minutes on an H100. The texts are
made up, too: 2 to 30 words, median 9, as headlines in English and German have (5 % to 95 %: 5 to 16 words), and 1.4
tokens a word, about XLM-R's on them; the lengths that come of it are printed.

FLOPs are counted by formula, not measured: 2 for each weight of a matrix and token, and 4 x width x length for each
token's attention in a layer. Of the last layer CLS pooling needs one token a text, which is what is counted for the
packed passes; `share_of_peak` is that count over time and the card's rate (989 TFLOP/s: H100 SXM, bf16, not sparse).

Every figure is saved as soon as it is there. `--tiny` is for trying the script on a CPU.
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from clustering.encoders import packed
from clustering.encoders.base import tokenize
from clustering.encoders.packed import PackedEncoder
from clustering.encoders.torch import GPU_TOKENS_PER_BATCH

PEAK = 989e12
TILES = [(64, 32, 4), (64, 64, 4), (128, 64, 4), (128, 64, 8), (128, 128, 8)]  # queries, keys, warps of attention
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
BIG = {"vocab": 250_002, "width": 1024, "layers": 24, "heads": 16, "spread": 0.03}
SMALL = {"vocab": 12_000, "width": 64, "layers": 2, "heads": 4, "spread": 0.2}


# ---- what is measured on


def write_tokenizer(folder: Path, n_tokens: int) -> None:
    """A Unigram tokenizer with XLM-R's special ids: syllables, pairs of them, and as many words of three as fit."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pairs = [a + b for a in SYLLABLES for b in SYLLABLES]
    pieces = [(token, 0.0) for token in special] + [("▁", -4.0), ("<mask>", 0.0)]
    pieces += [(mark + piece, -9.0) for piece in SYLLABLES + pairs for mark in ("", "▁")]
    triples = (f"▁{pair}{last}" for last in SYLLABLES for pair in pairs)
    pieces += [(word, -10.0) for word, _ in zip(triples, range(n_tokens - len(pieces)), strict=False)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens([*special, AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
    tokens = {f"{name}_token": token for name, token in names.items()}
    config = {**tokens, "model_max_length": 8192, "tokenizer_class": "XLMRobertaTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens), encoding="utf-8")


def write_model(folder: Path, shape: dict[str, Any], device: str) -> None:
    """A sentence-transformers folder with the files of BAAI/bge-m3 and random weights in half precision."""
    from transformers import XLMRobertaConfig, XLMRobertaModel

    write_tokenizer(folder, shape["vocab"])
    config = XLMRobertaConfig(
        vocab_size=shape["vocab"], hidden_size=shape["width"], num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"], intermediate_size=4 * shape["width"], max_position_embeddings=8194,
        type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5, initializer_range=shape["spread"],
    )  # fmt: skip
    torch.manual_seed(3)
    with torch.device(device):
        model = XLMRobertaModel(config)
    model.half().save_pretrained(folder)
    for name, size in (("colbert_linear", shape["width"]), ("sparse_linear", 1)):  # FlagEmbedding reads them
        torch.save(torch.nn.Linear(shape["width"], size).state_dict(), folder / f"{name}.pt")
    root = "sentence_transformers.models"
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [{"idx": i, "name": str(i), "path": at, "type": f"{root}.{kind}"} for i, (at, kind) in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    for path in ("1_Pooling", "2_Normalize"):
        (folder / path).mkdir()
    pooling = {"word_embedding_dimension": shape["width"], "pooling_mode_cls_token": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    limits = {"max_seq_length": 8192, "do_lower_case": False}
    (folder / "sentence_bert_config.json").write_text(json.dumps(limits), encoding="utf-8")


def headlines(count: int, seed: int = 1) -> list[str]:
    """Made-up headlines: frequent words are drawn more often; six words in ten have three syllables."""
    rng = np.random.default_rng(seed)
    sizes = rng.choice([1, 2, 3, 4, 5], 60_000, p=[0.05, 0.1, 0.5, 0.25, 0.1])
    words = ["".join(rng.choice(SYLLABLES, size)) for size in sizes]
    n_words = np.clip(np.round(np.exp(rng.normal(np.log(9), 0.36, count))), 2, 30).astype(int)
    drawn = np.exp(rng.random(n_words.sum()) * np.log(len(words))).astype(int)
    ends = np.cumsum(n_words)
    return [" ".join(words[word] for word in drawn[end - n : end]) for end, n in zip(ends, n_words, strict=True)]


def write_texts(folder: Path, texts: list[str], rows: int) -> list[str]:
    """Write texts/ in parts of so many rows; return their names."""
    folder.mkdir(parents=True)
    names = []
    for start in range(0, len(texts), rows):
        some = texts[start : start + rows]
        table = pa.table({"row": range(start, start + len(some)), "text": some, "copies": [1] * len(some)})
        names.append(f"part-{len(names):06d}.parquet")
        pq.write_table(table, folder / names[-1], compression="zstd", row_group_size=8192)
    return names


def flops(shape: dict[str, Any], lengths: np.ndarray[Any, Any], *, first_only: bool) -> float:
    """Operations of one forward pass over all texts; ``first_only``: the last layer mixes one token a text."""
    width, tokens, texts = shape["width"], float(lengths.sum()), len(lengths)
    attention = 4.0 * width * float((lengths**2).sum())
    layer = 2.0 * 12 * width**2 * tokens + attention
    last = 2.0 * width**2 * (2 * tokens + 10 * texts) + 4.0 * width * tokens
    return layer * (shape["layers"] - 1) + (last if first_only else layer)


# ---- how it is measured


class Gpu:
    """How busy the card was, sampled by NVML ten times a second; without NVML its figures are missing."""

    def __init__(self) -> None:
        try:
            import pynvml

            pynvml.nvmlInit()
            self.nvml, self.card = pynvml, pynvml.nvmlDeviceGetHandleByIndex(0)
        except Exception:  # no package, no driver, no card
            self.nvml = None

    @contextmanager
    def watched(self, into: dict[str, Any]) -> Any:
        samples: list[tuple[int, int, int]] = []
        over = threading.Event()
        watcher = threading.Thread(target=self._sample, args=(samples, over))
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
        if samples:
            busy, watts, clock = np.mean(samples, axis=0)
            into["gpu_idle_share"] = round(1 - busy / 100, 3)
            into |= {"watts": round(watts / 1000), "sm_clock_mhz": round(clock)}

    def _sample(self, samples: list[tuple[int, int, int]], over: threading.Event) -> None:
        while self.nvml and not over.wait(0.1):
            busy = self.nvml.nvmlDeviceGetUtilizationRates(self.card).gpu
            watts = self.nvml.nvmlDeviceGetPowerUsage(self.card)
            samples.append((busy, watts, self.nvml.nvmlDeviceGetClockInfo(self.card, self.nvml.NVML_CLOCK_SM)))


class Bench:
    """What all measurements share: the model's folder, the texts, their tokens, and the results so far."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder, self.gpu = args, folder, Gpu()
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.shape = SMALL if args.tiny else BIG
        self.results: dict[str, Any] = {"machine": machine(), "shape": self.shape, "runs": []}
        started = time.perf_counter()
        (folder / "model").mkdir()
        write_model(folder / "model", self.shape, self.device)
        self.texts = headlines(args.texts)
        self.tokenizer = Tokenizer.from_file(str(folder / "model" / "tokenizer.json"))
        self.tokenizer.enable_truncation(512)
        begun = time.perf_counter()
        tokens = tokenize(self.tokenizer, self.texts)
        self.ids, self.lengths = tokens.ids, tokens.lengths
        took = time.perf_counter() - begun
        self.results["texts"] = {
            "texts": len(self.texts), "tokens": int(self.lengths.sum()),
            "tokens_a_text_5_25_50_75_95": np.percentile(self.lengths, [5, 25, 50, 75, 95]).tolist(),
            "tokenised_a_second": round(len(self.texts) / took), "setup_seconds": round(begun - started, 1),
        }  # fmt: skip
        self.show("texts", self.results["texts"])

    def show(self, name: str, found: Any) -> None:
        print(f"{name}: {json.dumps(found)}", flush=True)
        self.args.output.write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")

    def model(self, dtype: torch.dtype) -> Any:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(self.folder / "model"), device=self.device, model_kwargs={"dtype": dtype})

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def some(self, count: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The first texts' tokens and lengths."""
        lengths = self.lengths[:count]
        return self.ids[: lengths.sum()], lengths

    def timed(self, name: str, lengths: Any, work: Callable[[], Any], *, first_only: bool, **settings: Any) -> float:
        """Run ``work`` once and record what it reached; ``first_only`` as in ``flops``."""
        found: dict[str, Any] = {"name": name, **settings}
        try:
            self.wait()
            with self.gpu.watched(found):
                started = time.perf_counter()
                work()
                self.wait()
                seconds = time.perf_counter() - started
        except Exception as error:  # one way that does not work here must not end the others
            found["error"] = f"{type(error).__name__}: {error}"[:500]
            seconds = float("nan")
        else:
            rate = flops(self.shape, lengths, first_only=first_only) / seconds
            found |= {
                "seconds": round(seconds, 3), "texts_a_second": round(len(lengths) / seconds),
                "tokens_a_second": round(float(lengths.sum()) / seconds), "tflops": round(rate / 1e12, 1),
                "share_of_peak": round(rate / PEAK, 4),
            }  # fmt: skip
        self.results["runs"].append(found)
        self.show("run", found)
        return seconds


def machine() -> dict[str, Any]:
    names = ["torch", "triton", "transformers", "sentence-transformers", "tokenizers", "FlagEmbedding", "pyarrow"]
    found: dict[str, Any] = {"python": platform.python_version(), "cpus": os.cpu_count()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    found["card"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    found["torch"] = torch.__version__
    return found


# ---- parity


def padded_reference(model: Any, ids: Any, lengths: Any, size: int = 128) -> Any:
    """The library's own forward pass, texts padded to the longest of each batch; unit length, float32."""
    starts, order = np.cumsum(lengths) - lengths, np.argsort(lengths, kind="stable")
    found = np.empty((len(lengths), model[0].auto_model.config.hidden_size), np.float32)
    for at in range(0, len(order), size):
        rows = order[at : at + size]
        padded = np.ones((len(rows), lengths[rows].max()), np.int64)
        mask = np.zeros_like(padded)
        for place, row in enumerate(rows):
            padded[place, : lengths[row]] = ids[starts[row] : starts[row] + lengths[row]]
            mask[place, : lengths[row]] = 1
        inputs = {"input_ids": padded, "attention_mask": mask, "token_type_ids": np.zeros_like(padded)}
        with torch.inference_mode():
            given = {name: torch.from_numpy(array).to(model.device) for name, array in inputs.items()}
            found[rows] = model(given)["sentence_embedding"].float().cpu().numpy()
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def parity(bench: Bench) -> None:
    """2,000 texts of 1 to 512 tokens, against the library's padded pass in float32."""
    rng = np.random.default_rng(2)
    lengths = np.concatenate([[1, 512], rng.integers(1, 64, 1798), rng.integers(1, 513, 200)])
    rng.shuffle(lengths)
    ids = rng.integers(5, bench.shape["vocab"], lengths.sum())
    expected = padded_reference(bench.model(torch.float32), ids, lengths)
    others = np.sum(expected[:-1] * expected[1:], axis=1)
    found: dict[str, Any] = {"between_neighbors_mean": float(others.mean())}
    half = [torch.bfloat16, torch.float16]
    for dtype in [torch.float32, *half]:
        model = bench.model(dtype)
        short = str(dtype).removeprefix("torch.")
        on_gpu = dtype in half and bench.device == "cuda"
        if dtype in half:
            theirs = padded_reference(model, ids, lengths)
            found[f"library {short}"] = float(np.sum(theirs * expected, axis=1).min())
        ways = ["tiles", "varlen", "padded"] if on_gpu else ["padded"]
        for way in ways:
            for exact in (False, True) if on_gpu else (False,):
                try:
                    encoder = PackedEncoder(model, way, exact_gelu=exact)
                    for budget in (4096, 1 << 20):
                        cosine = np.sum(encoder.encode(ids, lengths, budget) * expected, axis=1).min()
                        found[f"{way} {short} {budget}{' erf' if exact else ''}"] = float(cosine)
                except Exception as error:
                    found[f"{way} {short}"] = f"{type(error).__name__}: {error}"[:300]
    bench.results["cosines_to_the_library_in_float32"] = found
    bench.show("cosines", found)


# ---- the bare loop


def bare(bench: Bench) -> None:
    """Tokens in memory, vectors out: ways of attention, batch sizes, dtypes."""
    dtypes = {"bfloat16": torch.bfloat16, "float16": torch.float16}
    for name in bench.args.dtypes:
        model = bench.model(dtypes[name])
        for way in bench.args.attention:
            others = way != bench.args.attention[0]
            try:
                encoder = PackedEncoder(model, way)
                warm(bench, encoder)
            except Exception as error:
                bench.show(way, f"{type(error).__name__}: {error}"[:500])
                continue
            for budget in bench.args.budgets[-1:] if others else bench.args.budgets:
                loop(bench, f"packed {way}", encoder, budget, dtype=name)


def warm(bench: Bench, encoder: PackedEncoder, budget: int = 16_384) -> None:
    encoder.encode(*bench.some(8192), budget)


def loop(bench: Bench, name: str, encoder: PackedEncoder, budget: int, **settings: Any) -> None:
    ids, lengths = bench.some(bench.args.loop_texts)
    bench.timed(
        name, lengths, lambda: encoder.encode(ids, lengths, budget),
        first_only=not encoder.mean, tokens_per_batch=budget, **settings,
    )  # fmt: skip


def variants(bench: Bench) -> None:
    """The best of the bare loops, with one thing changed each."""
    best = best_run(bench)
    way, budget, settings = best["name"].removeprefix("packed "), best["tokens_per_batch"], {"dtype": best["dtype"]}
    model = bench.model(getattr(torch, best["dtype"]))
    encoder = PackedEncoder(model, way, exact_gelu=True)
    warm(bench, encoder)
    loop(bench, f"packed {way}, GELU by erf", encoder, budget, **settings)
    if bench.device != "cuda":
        return
    encoder = PackedEncoder(model, way)
    encoder.kernels, encoder.attention = None, "varlen"
    warm(bench, encoder)
    loop(bench, "packed varlen, no own kernels", encoder, budget, **settings)
    encoder = PackedEncoder(model, "varlen", exact_gelu=True)
    encoder.kernels = None
    encoder._rest = torch.compile(encoder._rest, dynamic=True)  # type: ignore[method-assign]
    started = time.perf_counter()
    try:
        warm(bench, encoder)
    except Exception as error:
        bench.show("torch.compile", f"{type(error).__name__}: {error}"[:500])
        return
    compiled = round(time.perf_counter() - started, 1)
    loop(bench, "packed varlen, torch.compile", encoder, budget, startup_seconds=compiled, **settings)


def best_run(bench: Bench) -> dict[str, Any]:
    ways = [f"packed {way}" for way in bench.args.attention]
    runs = [run for run in bench.results["runs"] if run["name"] in ways and "tflops" in run]
    return max(runs, key=lambda run: run["texts_a_second"])


def profile(bench: Bench) -> None:
    """Where a forward pass spends the GPU's time, kernel by kernel."""
    best = best_run(bench)
    encoder = PackedEncoder(bench.model(getattr(torch, best["dtype"])), best["name"].removeprefix("packed "))
    warm(bench, encoder)
    ids, lengths = bench.some(16_384)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        encoder.encode(ids, lengths, best["tokens_per_batch"])
        bench.wait()
    events = sorted(seen.key_averages(), key=lambda event: -event.self_device_time_total)
    total = sum(event.self_device_time_total for event in events)
    found = [
        {"kernel": event.key[:110], "share": round(event.self_device_time_total / total, 4), "calls": event.count}
        for event in events[:14]
    ]
    bench.results["profile"] = found
    for line in found:
        print(line["share"], line["calls"], line["kernel"])
    bench.show("profiled_ms", round(total / 1000, 2))


def kernels(bench: Bench) -> None:
    """Each part of a layer alone, by tokens a pass: TFLOP/s of matrix products, milliseconds of the others."""
    from triton.testing import do_bench

    width, found, own = bench.shape["width"], [], packed._kernels()
    norm = [torch.randn(width, device="cuda", dtype=torch.bfloat16) for _ in range(2)]
    for tokens in bench.args.budgets:
        line: dict[str, Any] = {"tokens": tokens}
        for name, (deep, wide) in {"qkv": (1, 3), "out": (1, 1), "up": (1, 4), "down": (4, 1)}.items():
            x = torch.randn(tokens, deep * width, device="cuda", dtype=torch.bfloat16)
            w = torch.randn(wide * width, deep * width, device="cuda", dtype=torch.bfloat16) * 0.03
            b = torch.randn(wide * width, device="cuda", dtype=torch.bfloat16)
            count = 2.0 * tokens * w.numel()
            line[name] = rate(count, do_bench(lambda x=x, w=w, b=b: torch.nn.functional.linear(x, w, b)))
            line[f"{name} no bias"] = rate(count, do_bench(lambda x=x, w=w: x @ w.t()))
            if name == "up":
                gelu = do_bench(lambda x=x, w=w, b=b: torch._addmm_activation(b, x, w.t(), use_gelu=True))
                line["up with gelu"] = rate(count, gelu)
                y = x @ w.t()
                line["gelu ms"] = do_bench(lambda y=y: torch.nn.functional.gelu(y))
        x, y = (torch.randn(tokens, width, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        line["add, layer_norm ms"] = do_bench(lambda x=x, y=y: torch.nn.functional.layer_norm(x + y, (width,), *norm))
        line |= attention_alone(bench, tokens)
        if own:
            line["own add_norm ms"] = do_bench(lambda x=x, y=y: own.add_norm(x, y, *norm, 1e-5))
        found.append({name: round(value, 3) for name, value in line.items()})
        bench.results["kernels"] = found
        bench.show("kernels", found[-1])
    for length in (16, 32, 64, 128, 256, 512, 1024, 2048, 8192):
        alone = attention_alone(bench, tokens, length)
        found.append({"tokens": tokens, "length": length, **{name: round(value, 3) for name, value in alone.items()}})
        bench.show("attention", found[-1])


def attention_alone(bench: Bench, tokens: int, length: int = 0) -> dict[str, float]:
    """Milliseconds of attention over texts of one length, or of the lengths from the middle of the texts on."""
    from triton.testing import do_bench

    lengths = np.sort(bench.lengths)[len(bench.lengths) // 2 :]
    lengths = lengths[: np.searchsorted(np.cumsum(lengths), tokens)]
    if length:
        lengths = np.full(tokens // length, length)
    starts = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)).cuda()
    ids = torch.zeros(int(lengths.sum()), dtype=torch.int64, device="cuda")
    pack = packed.Pack(ids, ids, starts, lengths)
    qkv = torch.randn(len(ids), 3, bench.shape["heads"], 64, device="cuda", dtype=torch.bfloat16)
    q, k, v = qkv.unbind(1)
    found = {}
    for name, attend in {"varlen": packed._varlen(pack), "padded": packed._padded(pack)}.items():
        found[f"{name} ms"] = do_bench(lambda attend=attend: attend(q, k, v))
    own = packed._kernels()
    for sizes in TILES if own else ():
        attend = own.attention(pack, *sizes)
        found[" ".join(["tiles", *map(str, sizes), "ms"])] = do_bench(lambda attend=attend: attend(q, k, v), 5, 20)
    return found


def rate(count: float, milliseconds: float) -> float:
    return count / milliseconds / 1e9


# ---- others


def rivals(bench: Bench) -> None:
    """Texts in memory, vectors out, tokenising included; each at the better of the batch sizes."""
    texts, lengths = bench.texts[: bench.args.rival_texts], bench.lengths[: bench.args.rival_texts]
    dtype = torch.float16 if bench.device == "cuda" else torch.float32
    model = bench.model(dtype)
    for size in bench.args.rival_batches:
        model.encode(texts[: 2 * size], batch_size=size)
        bench.timed(
            "SentenceTransformer.encode", lengths,
            lambda size=size: model.encode(texts, batch_size=size, normalize_embeddings=True),
            first_only=False, batch_size=size, dtype=str(dtype).removeprefix("torch."),
        )  # fmt: skip
    ids, lengths = bench.some(bench.args.rival_texts)
    size = bench.args.rival_batches[-1]
    bench.timed(
        "the library's padded forward pass, tokens in memory", lengths,
        lambda: padded_reference(model, ids, lengths, size),
        first_only=False, batch_size=size, dtype=str(dtype).removeprefix("torch."),
    )  # fmt: skip
    flag_embedding(bench, texts, lengths)


def flag_embedding(bench: Bench, texts: list[str], lengths: Any) -> None:
    try:
        from FlagEmbedding import BGEM3FlagModel

        flag = BGEM3FlagModel(str(bench.folder / "model"), use_fp16=bench.device == "cuda", devices=bench.device)
    except Exception as error:
        bench.results["FlagEmbedding"] = f"not measured: {type(error).__name__}: {error}"[:300]
        bench.show("FlagEmbedding", bench.results["FlagEmbedding"])
        return
    for size in bench.args.rival_batches:
        bench.timed(
            "FlagEmbedding, BGEM3FlagModel.encode", lengths,
            lambda size=size: flag.encode(texts, batch_size=size, max_length=512), first_only=False, batch_size=size,
        )  # fmt: skip


# ---- files in, files out


class NoRay(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands for Ray's modules where Ray is missing: it carries the calls, and an actor's own work needs none of it."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        return importlib.machinery.ModuleSpec(name, self) if name.partition(".")[0] == "ray" else None

    def create_module(self, spec: Any) -> Any:
        return MagicMock(__path__=[])

    def exec_module(self, module: Any) -> None: ...


def actor(bench: Bench) -> None:
    """Parts of texts/ in, parts of vectors/ out, by the actor of the embed stage; its start is told apart."""
    if importlib.util.find_spec("ray") is None:
        sys.meta_path.append(NoRay())
    from clustering.config.sections import EmbedSection
    from clustering.runs.directory import RunDir
    from clustering.stages.embed import Embedder
    from clustering.workers.pool import _PoolActor

    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, NoRay)]
    for name in [name for name, module in sys.modules.items() if isinstance(module, MagicMock)]:
        del sys.modules[name]  # else other libraries take it for Ray
    ids, lengths = bench.some(2048)
    expected = padded_reference(bench.model(torch.float32), ids, lengths)
    for dtype in bench.args.actor_dtypes:
        for rows, threads in bench.args.actor:
            run = RunDir(bench.folder / f"run-{dtype}-{rows}-{threads}")
            names = write_texts(run / "texts", bench.texts, rows)
            gpus = 1 if bench.device == "cuda" else 0
            cfg = EmbedSection(encoder="bge-m3", model=str(bench.folder / "model"), gpus_per_actor=gpus, dtype=dtype)
            started = time.perf_counter()
            one = _PoolActor(Embedder, {"run": run, "cfg": cfg}, "")
            if error := one.start():
                raise error
            encoder = one.worker.encoder
            encoder.encode(bench.texts[:8192])  # compiles kernels, and takes memory
            start = time.perf_counter() - started
            outcomes: list[Any] = []

            def embed(one: Any = one, names: Any = names, threads: int = threads, outcomes: Any = outcomes) -> None:
                with ThreadPoolExecutor(threads) as pool:
                    outcomes += pool.map(one.run, [{"name": name, "item": at} for at, name in enumerate(names)])

            used = str(encoder.model.dtype).removeprefix("torch.")
            bench.timed(
                "actor, files in and files out", bench.lengths, embed, first_only=True, dtype=used, rows_a_part=rows,
                threads=threads, tokens_per_batch=encoder.tokens_per_batch,
            )  # fmt: skip
            found = bench.results["runs"][-1]
            _, results, usage = zip(*outcomes, strict=True)
            found["start_seconds"] = round(start, 1)
            found["gpu_seconds_by_its_clock"] = round(sum(result["model_seconds"] for result in results), 3)
            found["cpu_seconds"] = round(sum(one.cpu_seconds for one in usage), 1)
            found["peak_gib"] = round(max(one.peak_bytes for one in usage) / 2**30, 2)
            written = np.concatenate([vectors_of(run / "vectors" / name) for name in names])
            assert len(written) == len(bench.texts), len(written)
            cosines = np.sum(written[: len(expected)] * expected, axis=1)
            found["lowest_cosine_to_the_library_in_float32"] = float(cosines.min())
            bench.show("actor", found)
            shutil.rmtree(run.path)


def vectors_of(path: Path) -> Any:
    column = pq.read_table(path)["vector"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)


PARTS = {
    "parity": parity, "kernels": kernels, "bare": bare, "profile": profile, "rivals": rivals, "actor": actor,
    "variants": variants,
}  # fmt: skip


def pair(text: str) -> tuple[int, int]:
    rows, _, threads = text.partition("x")
    return int(rows), int(threads)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["parity", "bare", "actor", "rivals"])
    parser.add_argument("--texts", type=int, default=200_000)
    parser.add_argument("--loop-texts", type=int, default=200_000, help="of which the bare loop takes so many")
    parser.add_argument("--rival-texts", type=int, default=50_000, help="and the other libraries so many")
    parser.add_argument("--rival-batches", nargs="+", type=int, default=[1024, 4096])
    parser.add_argument(
        "--budgets", nargs="+", type=int, default=[32_768, 131_072, GPU_TOKENS_PER_BATCH], help="tokens a forward pass"
    )
    ways = ["tiles"] if torch.cuda.is_available() else ["padded"]
    parser.add_argument("--attention", nargs="+", default=ways, choices=["tiles", "varlen", "padded"])
    parser.add_argument("--dtypes", nargs="+", choices=["bfloat16", "float16"], default=["float16", "bfloat16"])
    parser.add_argument("--actor", nargs="+", type=pair, default=[(8192, 6)], help="rows a part x parts at a time")
    parser.add_argument("--actor-dtypes", nargs="+", default=["auto", "bfloat16"], help="embed.dtype")
    parser.add_argument("--tiny", action="store_true", help="a model of two layers, to try this on a CPU")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        bench, failed = Bench(args, Path(folder)), []
        for name in args.parts:
            started = time.perf_counter()
            try:
                PARTS[name](bench)
            except Exception:  # the other parts' figures are still worth their time
                traceback.print_exc()
                failed.append(name)
            bench.show(f"{name}_seconds", round(time.perf_counter() - started, 1))
    if failed:
        raise SystemExit(f"these parts failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
