"""texts/ in, vectors/ out, by a pool of actors that each load the encoder once."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clustering import schema
from clustering.config.sections import SERVED, EmbedSection
from clustering.encoders.base import Encoder, unit_rows
from clustering.encoders.loading import download_model, english_only, load_encoder
from clustering.encoders.weights import hub_name
from clustering.errors import StageError
from clustering.kernels.printable import one_line
from clustering.monitoring.resources import parts_at_once
from clustering.runs.directory import RunDir
from clustering.runs.index import IndexWriter, PartIndex, read_index
from clustering.runs.object_store import RemotePath
from clustering.runs.parts import (
    WITHOUT_VECTOR,
    group_parts,
    part_names,
    parts,
    read_ahead,
    records_of,
    vectors_of,
    walk_tables,
    writing_part,
)
from clustering.runs.storage import Location, atomic_write, load_array, read_schema, save_array
from clustering.schema import Figures
from clustering.text.languages import SAMPLE, count_languages, dominant_languages, language_names
from clustering.workers.nodes import cores_of_actors, cores_of_pool, live_nodes, room_for
from clustering.workers.pool import Item, map_parts
from clustering.workers.remote import run_on_each_node
from clustering.workers.tasks import map_here, map_tasks, run_on_one_node

ACTORS_PER_NODE = 4  # without GPUs, on a node of four cores and more
REQUESTS_OF_ACTOR = 8  # in flight at a server of embeddings, where embed.actors does not say how many share them
TERMS = "_terms.npy"  # in vectors/: the weights of all terms
COUNTED_TEXTS, MOST_TASKS, TABLES = 131_072, 64, 4  # of a task that counts terms; such tasks; and those at work
COPIES = 16  # parts that are copied at the same time
# Counted of a part of vectors/: rows of texts without a token that the encoder knows, and with a vector of no numbers.
UNREAD, NOT_FINITE = "unread", "not_finite"
NO_NEIGHBORS = "These texts have no neighbors: they are noise, unless the copies of one alone make a cluster."
SHOWN_IDS = 5
MULTILINGUAL = "minishlab/potion-multilingual-128M"  # a model of model2vec, for about a hundred languages
SAME_MODEL = 0.95  # cosine of two vectors of one text; when it is lower, two models have made them
SAME_SAMPLE = 16  # texts of the run whose vectors are compared
OTHER_LANGUAGES = 0.25  # share of texts that earns a warning: 0 in English sets, 0.7 and more in others
UNKNOWN_SHARE = 0.2  # of tokens, likewise: 0.01 to 0.06 in English, 0.25 to 0.92 in scripts that an encoder lacks


class Embedder:
    """Embed parts of texts/ on one actor, which loads the model once, when it starts.

    With a GPU, threads call it for several parts at a time: while one is on the GPU, others are read, tokenised and
    written. The encoder lets them take turns.
    """

    def __init__(self, run: RunDir, cfg: EmbedSection, commit: str | None = None) -> None:
        self.run = run
        self.encoder = load_run_encoder(run, cfg, commit)
        if cfg.encoder == SERVED and (why := differing_vectors(run, self.encoder)):
            problem = f"embed.url={cfg.url} gives texts that are embedded already other vectors than before ({why})"
            remedy = (
                "Let it have its former model again, or give embed.model the new one's name to embed all texts anew"
            )
            raise StageError(f"{problem}. {remedy}")
        count_languages(["flood"])  # loads its model once, before threads ask for it together

    def __call__(self, item: Item) -> Item:
        dim, model_seconds, warning = self.encoder.dim, 0.0, None
        tokens = cut = unknown = requests = retries = 0
        unread: list[int] = []
        not_finite: list[int] = []
        without: list[int] = []
        languages: Counter[str] = Counter()
        with writing_part(self.run / "vectors", item["name"]) as part:
            for texts in walk_tables([self.run / "texts" / item["name"]], ["row", "text"]):
                rows, strings = texts["row"].to_numpy(), texts["text"].to_pylist()
                encoded = self.encoder.encode(strings)
                vectors = pa.FixedSizeListArray.from_arrays(pa.array(encoded.vectors.ravel()), dim)
                part.write(pa.table([texts["row"], vectors], schema=schema.vectors_schema(dim)))
                tokens, cut, unknown = tokens + encoded.tokens, cut + encoded.cut, unknown + encoded.unknown
                unread += rows[encoded.unread].tolist()
                not_finite += rows[encoded.not_finite].tolist()
                without += rows[~encoded.vectors.any(axis=1)].tolist()
                languages.update(count_languages(strings, SAMPLE // 4 if languages else SAMPLE))
                requests, retries = requests + encoded.requests, retries + encoded.retries
                model_seconds, warning = model_seconds + encoded.model_seconds, encoded.warning
        rows_of = {UNREAD: unread, NOT_FINITE: not_finite, WITHOUT_VECTOR: without}
        counts = {"tokens": tokens, "cut": cut, "unknown": unknown, "requests": requests}
        listed = part.listed(**counts, languages=dict(languages), **rows_of)
        return {"rows": part.rows, "retries": retries, "model_seconds": model_seconds, "part": listed,
                "warning": warning}  # fmt: skip


def load_run_encoder(run: RunDir, cfg: EmbedSection, commit: str | None = None) -> Encoder:
    """Load the encoder into this process, with the words of the run beside it. Raises: ConfigError as load_encoder."""
    encoder = load_encoder(cfg, commit)
    if not cfg.words_share:
        return encoder
    from clustering.encoders.lexical import LexicalEncoder  # numba takes 60 MiB, which other runs spare

    return LexicalEncoder(encoder, cfg.words_share, load_array(run / "vectors" / TERMS))


def weigh_words(run: RunDir) -> None:
    """Leave the weights of all terms of texts/ in vectors/, unless an earlier start has."""
    if not (run / "vectors" / TERMS).exists():
        run_on_one_node(_weigh_words, run, COUNTED_TEXTS)


def _weigh_words(run: RunDir, least: int) -> None:
    """Count terms in tasks for at least so many texts each, or in this process, and save their weights."""
    from clustering.kernels.words import lexical

    groups = group_parts(run / "texts", least, MOST_TASKS)
    n_texts = read_index(run / "texts").rows
    bits = lexical.table_bits(n_texts)
    each = partial(map_tasks, most=TABLES) if len(groups) > 1 else map_here
    counts = np.zeros(1 << bits, np.uint32)
    for of_group in each(_count_terms, [(run, group.names, bits) for group in groups]):
        counts += of_group
    save_array(run / "vectors" / TERMS, lexical.weigh_terms(counts, n_texts))


def _count_terms(run: RunDir, names: list[str], bits: int) -> NDArray[np.uint32]:
    """How many texts of some parts have each term."""
    from clustering.kernels.words.lexical import count_terms
    from clustering.kernels.words.word_sets import scan_words
    from clustering.workers.graph.families import text_buffers

    counts = np.zeros(1 << bits, np.uint32)
    for table in walk_tables([run / "texts" / name for name in names], ["text"]):
        for texts in table["text"].chunks:
            counts += count_terms(scan_words(*text_buffers(texts)), bits)
    return counts


def compile_words() -> None:
    """Compile the kernels that count and weigh terms."""
    from clustering.encoders.lexical import words_of
    from clustering.kernels.words import lexical

    found = words_of(["one two", "one two"])
    lexical.lexical_vectors(found, lexical.weigh_terms(lexical.count_terms(found, lexical.table_bits(2)), 2))


def differing_vectors(run: RunDir, encoder: Encoder) -> str:
    """Why an encoder is not the one that made vectors/, by some texts of its first part; "" where nothing says so."""
    for path in parts(run / "vectors")[:1]:
        vectors, texts = (next(walk_tables([run / folder / path.name])) for folder in ("vectors", "texts"))
        stored = vectors_of(vectors)
        if stored.shape[1] != encoder.dim:
            return f"of {encoder.dim} dimensions, not {stored.shape[1]}"
        own = getattr(encoder, "own_dim", encoder.dim)  # words tell of no model
        sample = np.flatnonzero(stored[:, :own].any(axis=1))[:SAME_SAMPLE]
        encoded = encoder.encode(texts["text"].take(pa.array(sample)).to_pylist()).vectors
        cosines = (unit_rows(stored[sample, :own]) * unit_rows(encoded[:, :own])).sum(axis=1)
        cosine = float(np.median(cosines)) if sample.size else 1.0
        if cosine < SAME_MODEL:
            return f"their cosine is {cosine:.2f}"
    return ""


def adopt_vectors(run: RunDir) -> Figures:
    """Take source_vectors/, the vectors that came with the texts, as vectors/; parts that exist already are kept.

    Returns: dim, tokens, cut, vectors, actors, as ``embed_texts``.
    """
    source, folder = run / "source_vectors", run / "vectors"
    found, done = read_index(source), read_index(folder)

    def copy(name: str) -> str:
        _copy(source / name, folder / name)
        return name

    with IndexWriter(folder, done) as index:
        for name in read_ahead(copy, [name for name in found.names if name not in done], COPIES):
            index.add(found[name])
    dim = int(read_schema(folder / found.names[0]).field("vector").type.list_size)
    return {"dim": dim, "tokens": 0, "cut": 0, "vectors": found.rows, "actors": 0}


def _copy(path: Location, to: Location) -> None:
    """Copy a part; a file system with hard links does not store it twice."""
    if isinstance(path, RemotePath) and isinstance(to, RemotePath):
        path.retry(lambda fs: fs.copy_file(path.inner, to.inner))
    elif isinstance(path, Path) and isinstance(to, Path):
        to.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, to)
        except OSError:  # a file system without hard links
            with atomic_write(to) as temporary:
                shutil.copyfile(path, temporary)


def embed_texts(run: RunDir, cfg: EmbedSection, commit: str | None = None) -> Figures:
    """Leave vectors/: a float32 vector of unit length for every text; finished parts of an interrupted run are kept.

    A text without a token that the encoder knows gets zeros, and so does one whose vector is NaN, infinite or zero.
    Such a text stays in the run, without neighbors.
    commit : of a model of the hub, which all workers load
    Returns: dim, tokens, cut (texts longer than max_tokens), languages (share of the texts in each, by a sample),
        unknown_share (of the tokens: unknown words, single bytes or letters within words), unread (texts without a
        known token), unusable (texts whose vector has no direction), not_finite (those of them whose vector has an
        infinity or a NaN), vectors (texts that have one), prompt, actors; of a server of embeddings also requests (with
        those that were repeated), and tokens as it counts them.
    Raises: StageError when fewer than two of several texts have a vector.
    """
    done = read_index(run / "vectors")
    todo = [name for name in part_names(run / "texts") if name not in done]
    nodes, fixed, at_once = live_nodes(), cfg.actors, parts_at_once(cfg)
    cpus = cores_of_actors(nodes, cfg.actors) if cfg.actors else cores_of_pool(nodes, ACTORS_PER_NODE)
    if cfg.encoder == SERVED:  # the actors share the requests in flight, so that no core waits for each of them
        cpus = 1
        few = cfg.actors or -(-cfg.requests // REQUESTS_OF_ACTOR)
        fixed = max(1, min(few, cfg.requests, room_for(nodes, cpus), len(todo)))
        cfg = replace(cfg, requests=cfg.requests // fixed)
    actors = fixed or max(1, room_for(nodes, cpus, cfg.gpus_per_actor))
    if todo and cfg.words_share:
        weigh_words(run)
    if todo and commit and hub_name(cfg):  # once a node, and not by all of its actors at the same time
        run_on_each_node([node for node in nodes if node.gpus >= cfg.gpus_per_actor], download_model, cfg, commit)
    with IndexWriter(run / "vectors", done) as index:
        results = map_parts(
            Embedder, [{"name": name} for name in todo], actors=fixed, cpus=cpus, gpus=cfg.gpus_per_actor,
            at_once=at_once, take=lambda result: index.add(result["part"]),
            run=run, cfg=cfg, commit=commit,
        )  # fmt: skip
    figures = embedding_figures(run, cfg)
    told = sorted({result["warning"] for result in results if result["warning"]})
    actors = min(actors, max(len(todo), 1))
    return {**figures, "actors": actors, "warnings": [*told, *figures["warnings"]]}


def embedding_figures(run: RunDir, cfg: EmbedSection) -> Figures:
    """What ``embed_texts`` returns except actors, from the index of all parts, also those of earlier starts."""
    index = read_index(run / "vectors")
    tokens, cut, unknown, requests = (sum(index.counts(key)) for key in ("tokens", "cut", "unknown", "requests"))
    in_languages = sum(map(Counter, index.counts("languages")), Counter[str]())
    languages, unknown_share = dominant_languages(in_languages), unknown / max(tokens, 1)
    figures = _without_vector(run, cfg, index)
    return {
        "dim": int(read_schema(run / "vectors" / index.names[0]).field("vector").type.list_size),
        "tokens": tokens,
        "cut": cut,
        "prompt": cfg.prompt or None,
        "lexical": cfg.words_share,
        **({"requests": requests} if cfg.encoder == SERVED else {}),
        **figures,
        "languages": {code: round(share, 4) for code, share in languages.items()},
        "unknown_share": None if cfg.encoder == SERVED else round(unknown_share, 4),  # only the server knows it
        "warnings": [*language_warnings(cfg, languages, unknown_share), *figures["warnings"]],
    }


def language_warnings(cfg: EmbedSection, languages: dict[str, float], unknown_share: float) -> list[str]:
    """A warning where the encoder does not fit the texts, with an encoder that does.

    languages : see ``dominant_languages``
    unknown_share : of the encoder's tokens
    """
    reasons = []
    others = {code: share for code, share in languages.items() if code != "en"}
    if english_only(cfg) and sum(others.values()) >= OTHER_LANGUAGES:
        reasons.append(f"the texts are in other languages than English ({language_names(others)} of a sample)")
    if unknown_share >= UNKNOWN_SHARE:
        reasons.append(f"{unknown_share:.0%} of its tokens are unknown words, single bytes or letters within words")
    if not reasons:
        return []
    return [
        f"The encoder {cfg.encoder} does not fit: {'; '.join(reasons)}. Its clusters then hold texts of similar "
        f"spelling rather than of similar meaning. Take a multilingual encoder: embed.encoder=bge-m3 (pip install "
        f"'covey[bge]'), or, on CPUs, embed.encoder=static embed.model={MULTILINGUAL}, which is downloaded."
    ]


def _without_vector(run: RunDir, cfg: EmbedSection, index: PartIndex) -> Figures:
    """How many texts have no vector, and warnings that say why and name the first of them."""
    unread, without, not_finite = map(index.listed_rows, (UNREAD, WITHOUT_VECTOR, NOT_FINITE))
    unusable, n_texts = np.setdiff1d(without, unread), index.rows
    reasons = {
        "knows no word or sign of": unread,
        "gives a vector of zeros to": np.setdiff1d(unusable, not_finite),
        "gives a vector with infinite or undefined numbers (NaN) to": not_finite,
    }
    warnings = [
        f"The encoder {cfg.encoder} {reason} {rows.size:,} of {n_texts:,} texts, for instance "
        f"{_ids_of(run, rows[:SHOWN_IDS])}"
        for reason, rows in reasons.items()
        if rows.size
    ]
    n_vectors = n_texts - without.size
    if n_vectors < min(2, n_texts):
        raise StageError(f"{'. '.join(warnings)}. Nothing is left to compare; take another embed.encoder")
    return {
        "unread": unread.size,
        "unusable": unusable.size,
        "not_finite": not_finite.size,
        "vectors": n_vectors,
        "warnings": [f"{line}. {NO_NEIGHBORS}" for line in warnings],
    }


def _ids_of(run: RunDir, rows: NDArray[np.int64]) -> str:
    """The id of the first record of each of some rows."""
    index = read_index(run / "texts")
    first: dict[int, Any] = {}
    for position in np.unique(index.part_of(rows)).tolist():
        for row, text_id in records_of(run, index.names[position], rows):
            first.setdefault(row, text_id)
    return ", ".join(one_line(str(first[row]), 80) for row in rows.tolist())
