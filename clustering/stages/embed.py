"""texts/ in, vectors/ out, on a pool of actors that each load the encoder once."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clustering import schema
from clustering.config.sections import EmbedSection
from clustering.encoders.loading import english_only, load_encoder
from clustering.errors import StageError
from clustering.kernels.printable import one_line
from clustering.runs.directory import RunDir
from clustering.runs.object_store import RemotePath
from clustering.runs.parts import WITHOUT, gather, named_rows, names_of, parts
from clustering.runs.storage import Location, atomic_write, read_metadata, read_schema, read_table, write_table
from clustering.schema import Figures
from clustering.text.languages import ENGLISH, count_languages, dominant_languages, language_names
from clustering.workers.nodes import cluster_gpus, node_cpus
from clustering.workers.pool import Item, map_parts

COPIES = 16  # parts that an object store copies at the same time
UNREAD = b"unread"  # in the metadata of a part of vectors/: rows of whose text the encoder knows no token
ALONE = "Such texts stay without neighbors: they are noise, unless the copies of one alone make a cluster."
SHOWN_IDS = 5
OTHER_LANGUAGES = 0.25  # share of texts in other languages that is told; 0 in English sets, 0.7 and more in others
UNKNOWN_SHARE = 0.1  # of tokens: 0 to 0.01 in English, 0.28 to 0.92 in scripts that static vectors do not know


class Embedder:
    """Embed parts of texts/ on one actor; the model is loaded once, when the actor starts."""

    def __init__(self, run: RunDir, cfg: EmbedSection, commit: str | None = None) -> None:
        self.run = run
        self.encoder = load_encoder(cfg, commit)

    def __call__(self, item: Item) -> Item:
        texts = read_table(self.run / "texts" / item["name"], columns=["row", "text"])
        encoded = self.encoder.encode(texts["text"].to_pylist())
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(encoded.vectors.ravel()), self.encoder.dim)
        table = pa.table([texts["row"], vectors], schema=schema.vectors_schema(self.encoder.dim))
        # The counts lie beside the part, so that a run in several starts still reports all of them.
        rows = texts["row"].to_numpy()
        without = {UNREAD: rows[encoded.unread], WITHOUT: rows[~encoded.vectors.any(axis=1)]}
        named = {key: " ".join(map(str, found)) for key, found in without.items()}
        counts = {b"tokens": str(encoded.tokens), b"cut": str(encoded.cut), b"unknown": str(encoded.unknown), **named}
        counts[b"languages"] = json.dumps(count_languages(texts["text"].to_pylist()))
        write_table(self.run / "vectors" / item["name"], table.replace_schema_metadata(counts))
        return {"rows": len(texts), "model_seconds": encoded.model_seconds}


def adopt_vectors(run: RunDir) -> Figures:
    """Take given/, the vectors that came with the texts, for vectors/; parts that are there already are kept.

    Returns: what embedding returns.
    """
    found = set(names_of(run / "vectors"))
    todo = [name for name in names_of(run / "given") if name not in found]
    with ThreadPoolExecutor(COPIES) as pool:
        list(pool.map(lambda name: _copy(run / "given" / name, run / "vectors" / name), todo))
    dim = int(read_schema(parts(run / "vectors")[0]).field("vector").type.list_size)
    rows = sum(read_metadata(path).num_rows for path in parts(run / "vectors"))
    return {"dim": dim, "tokens": 0, "cut": 0, "vectors": rows, "actors": 0}


def _copy(path: Location, to: Location) -> None:
    """Let a part lie at another place of the run, too; its content stays with the file system where it can."""
    if isinstance(path, RemotePath) and isinstance(to, RemotePath):
        path.again(lambda fs: fs.copy_file(path.inner, to.inner))
    elif isinstance(path, Path) and isinstance(to, Path):
        to.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, to)
        except OSError:  # a file system without hard links
            with atomic_write(to) as temporary:
                shutil.copyfile(path, temporary)


def embed_texts(run: RunDir, cfg: EmbedSection, commit: str | None = None) -> Figures:
    """Give every text a float32 vector of unit length; finished parts of an interrupted run are kept.

    A text of which the encoder knows no token, and one to which it gives NaN, infinite or only zeros, gets zeros: it
    stays in the run, without neighbors.
    commit : of a model of the hub, which all workers load
    Returns: dim, tokens, cut (texts longer than max_tokens), languages (share of the texts in each, by a sample),
        unknown_share (of the tokens: unknown words and single bytes), unread (texts without a known token), unusable
        (texts whose vector has no direction), vectors (texts that have one), actors.
    Raises: StageError when fewer than two of several texts have a vector.
    """
    found = set(names_of(run / "vectors"))
    todo = [name for name in names_of(run / "texts") if name not in found]
    default = int(cluster_gpus() / cfg.gpus_per_actor) if cfg.gpus_per_actor else min(node_cpus(), 4)
    actors = min(cfg.actors or max(default, 1), max(len(todo), 1))
    cpus = max(1, node_cpus() // actors)
    map_parts(
        Embedder, [{"name": name} for name in todo],
        actors=actors, cpus=cpus, gpus=cfg.gpus_per_actor, run=run, cfg=cfg, commit=commit,
    )  # fmt: skip
    return {**embedding_figures(run, cfg), "actors": actors}


def embedding_figures(run: RunDir, cfg: EmbedSection) -> Figures:
    """What ``embed_texts`` returns besides actors, from the metadata of all parts, those of earlier starts too."""
    schemas = [read_schema(path) for path in parts(run / "vectors")]
    tokens, cut, unknown = (
        sum(int(found.metadata.get(key, 0)) for found in schemas) for key in (b"tokens", b"cut", b"unknown")
    )
    counts = sum((Counter(json.loads(found.metadata.get(b"languages", b"{}"))) for found in schemas), Counter[str]())
    languages, unknown_share = dominant_languages(counts), unknown / max(tokens, 1)
    figures = _without_vector(run, cfg)
    return {
        "dim": int(schemas[0].field("vector").type.list_size),
        "tokens": tokens,
        "cut": cut,
        **figures,
        "languages": {code: round(share, 4) for code, share in languages.items()},
        "unknown_share": round(unknown_share, 4),
        "warnings": [*language_warnings(cfg, languages, unknown_share), *figures["warnings"]],
    }


def language_warnings(cfg: EmbedSection, languages: dict[str, float], unknown_share: float) -> list[str]:
    """What a reader must know where the encoder was not made for the texts, with an encoder that was.

    languages : see ``spoken``; unknown_share : of the encoder's tokens
    """
    found = []
    others = {code: share for code, share in languages.items() if code not in ENGLISH}
    if english_only(cfg) and sum(others.values()) >= OTHER_LANGUAGES:
        found.append(f"the texts are in other languages than English ({language_names(others)} of a sample)")
    if unknown_share >= UNKNOWN_SHARE:
        found.append(
            f"{unknown_share:.0%} of the pieces into which it cuts them are unknown words or single bytes to it"
        )
    if not found:
        return []
    return [
        f"The encoder {cfg.encoder} does not fit: {'; '.join(found)}. Its clusters are then of like spelling rather "
        f"than of like meaning. Take embed.encoder=bge-m3 (pip install 'covey[bge]'), or another multilingual "
        f"sentence-transformers model."
    ]


def _without_vector(run: RunDir, cfg: EmbedSection) -> Figures:
    """How many texts have no vector, and why, with the ids of the first in words."""
    unread, without = (named_rows(run / "vectors", key) for key in (UNREAD, WITHOUT))
    unusable = np.setdiff1d(without, unread)
    n_texts = sum(read_metadata(path).num_rows for path in parts(run / "vectors"))
    why = {
        f"No word or sign that the encoder {cfg.encoder} knows stands in": unread,
        f"A vector that is zero, infinite or not a number came from the encoder {cfg.encoder} for": unusable,
    }
    told = [
        f"{words} {rows.size:,} of {n_texts:,} texts, for instance {_ids_of(run, rows[:SHOWN_IDS])}"
        for words, rows in why.items()
        if rows.size
    ]
    n_vectors = n_texts - without.size
    if n_vectors < min(2, n_texts):
        raise StageError(f"{'. '.join(told)}. Nothing is left to compare; take another embed.encoder")
    return {
        "unread": unread.size,
        "unusable": unusable.size,
        "vectors": n_vectors,
        "warnings": [f"{line}. {ALONE}" for line in told],
    }


def _ids_of(run: RunDir, rows: NDArray[np.int64]) -> str:
    """The id of the first record of each of some rows."""
    members = gather(run / "members", rows, ["row", "text_id"])
    first = dict(zip(reversed(members["row"].to_pylist()), reversed(members["text_id"].to_pylist()), strict=True))
    return ", ".join(one_line(str(first[row]), 80) for row in rows.tolist())
