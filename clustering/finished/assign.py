"""A finished run and new texts in; the clusters that the texts belong to out."""

from __future__ import annotations

import logging
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clustering import schema
from clustering.collection_lifecycle import kept_collection
from clustering.config.sections import EmbedSection, RunConfig
from clustering.encoders.base import Encoder
from clustering.encoders.weights import UNKNOWN, hub_key, model_location, recorded_commit
from clustering.errors import ConfigError, StageError, StoreError
from clustering.kernels.hierarchy.placement import Assignments, ReachabilityAssigner, assign_by_vote
from clustering.kernels.topk import FloatArray, IntArray, dot_distance
from clustering.milvus.endpoint import Endpoint
from clustering.milvus.query import NeighborQuery
from clustering.runs.directory import RunDir
from clustering.runs.kernel_inputs import load_copies, load_forest, load_group_sizes, load_radius
from clustering.runs.parts import load_assignment, parts, read_rows, rows_without_vector, vectors_of, walk_tables
from clustering.runs.storage import (
    REDO_HINT,
    Location,
    atomic_write,
    check_writable,
    load_array,
    locate,
    read_schema,
)
from clustering.schema import Figures
from clustering.sources.detection import find_files
from clustering.sources.files import FORMATS
from clustering.sources.folding import without_outlets
from clustering.sources.formats.column_types import as_type
from clustering.sources.formats.issues import Issues
from clustering.sources.records import TextCleaner
from clustering.stages.embed import differing_vectors, load_run_encoder
from clustering.stages.read import read_columns_of
from clustering.workers.exact_search import exact_neighbors, map_unordered
from clustering.workers.nodes import blind_nodes_problem, own_address, sees_run
from clustering.workers.remote import fetch, refuse_blind_nodes, share, start_actor

log = logging.getLogger("covey")
OTHER_SUFFIXES = {*FORMATS, "xlsx"} - {"parquet", "pq"}
UNFIT = re.compile(r"Set (read\.\w+(?: and read\.\w+)*) to one of them")  # in a message on a column
SAME = 2e-6  # 1 - cosine of equal texts, by rounding
ROUNDED_SAME = 0.01  # the same, as an index says it that rounds vectors
BATCH = 2000  # texts that are encoded and searched at once
ASSIGNED = pa.schema(
    [
        ("text_id", pa.string()),  # has the type of the run's ids
        ("label", pa.int32()),
        ("strength", pa.float32()),
        ("home", pa.int32()),
        ("home_strength", pa.float32()),
        ("nearest_row", pa.int64()),
        ("distance", pa.float32()),
    ]
)


def assign_texts(run: RunDir, config: RunConfig, paths: list[str], output: str | Location) -> Figures:
    """Assign new texts to the clusters of a finished run, which is not changed.

    Their nearest texts come from the run's collection where a server keeps it, loaded for this call, or else from exact
    search over ``vectors/``; the log says which.

    With ``cluster.weights=diffused`` the nearest neighbors vote, as many as diffusion averages over, with a Gaussian
    weight of the distance. ``home`` is the home with most votes. ``label`` is the label (or noise) with most votes of
    those neighbors whose own lists would contain the text, -1 without such a neighbor. With ``distance`` a text joins
    at its smallest mutual reachability distance: ``home`` is the home of the neighbor there, and ``label`` is the same
    cluster if the distance is no larger than those at which the cluster's own members join, else -1. A text that the
    run already has, or whose vector equals that of such a text, gets the values of that text.

    config : the run's, whose encoder is loaded and whose server is asked: see ``saved_config.with_trusted_addresses``
    paths : files with the run's text columns (and its id column); output : a Parquet file
    Returns: records, empty (left out), assigned (label not -1).
    Raises: ConfigError when the run is not finished or has no texts, or the files do not fit its configuration, and
        where no node sees the run directory.
    """
    if run.is_complete and run.results["stages"].get("read", {}).get("figures", {}).get("texts") == 0:
        raise ConfigError([f"{run.path}: the run has no texts, and so no clusters that new texts could belong to"])
    if not run.is_complete or not (run / "assignment.parquet").exists():
        raise ConfigError([f"{run.path} holds no finished clusters; finish it with covey run first"])
    read = config.read
    if read.collection is not None:
        problem = (
            f"{run.path} clusters the vectors of a collection; their encoder is not known here, so new texts "
            f"cannot be given vectors that fit"
        )
        raise ConfigError([problem])
    if not all(paths):
        raise ConfigError(["--input is empty; name files"])
    check_writable(locate(output), "--output")
    read = replace(
        read, paths=tuple(paths), limit=None, keep=(), time_column=None, source_column=None, link_column=None
    )
    try:
        files = find_files(read, patience_s=config.run.patience_s)
    except ConfigError as error:
        problems = [UNFIT.sub(r"\1 of the run means it; rename it in the file", one) for one in error.problems]
        raise ConfigError([problem.replace("read.paths", "--input") for problem in problems]) from None
    _refuse_overwriting(run, locate(output), [file.uri for file in files])
    table = read_columns_of(files, read)
    texts = without_outlets(run, TextCleaner(read)(table, Issues())[0])
    ids = ids_like(run, table[read.id_column] if read.id_column else table[schema.LOCATION], table[schema.LOCATION])
    kept = [number for number, text in enumerate(texts) if text]
    refuse_blind_nodes(run)
    encoder: Any = start_actor(_Encoder, run, run.id, config.embed, gpus=config.embed.gpus_per_actor)
    known = known_texts(run, texts)
    assigned = 0
    layout = ASSIGNED.set(0, pa.field("text_id", ids.type))
    with (
        kept_collection(config, run) as collection,
        atomic_write(locate(output)) as temporary,
        pq.ParquetWriter(temporary, layout) as writer,
    ):
        clusters = _Clusters(run, config, collection)
        for start in range(0, len(kept), BATCH):
            batch = kept[start : start + BATCH]
            rows = np.array([known.get(texts[number], -1) for number in batch])
            new = [texts[number] for number, row in zip(batch, rows, strict=True) if row < 0]
            vectors: Any = fetch(encoder.encode.remote(new)) if new else None
            table = clusters.table(ids.take(pa.array(batch, pa.int64())), rows, vectors)
            assigned += int((table["label"].to_numpy() >= 0).sum())
            writer.write_table(table)
    return {"records": len(texts), "empty": len(texts) - len(kept), "assigned": assigned}


def _refuse_overwriting(run: RunDir, output: Location, inputs: list[str]) -> None:
    """Raises: ConfigError when the output would replace an input or an artefact, or is not Parquet by name."""
    if run.has_written(str(output)):
        raise ConfigError([f"--output {output} is an artefact of the run, which is not changed; name another file"])
    for uri in inputs:
        source = locate(uri)
        same = source == output
        if isinstance(source, Path) and isinstance(output, Path) and output.exists():
            same = source.samefile(output)
        if same:
            raise ConfigError([f"--output {output} is a file of --input, whose place it would take; name another file"])
    suffix = output.name.rpartition(".")[2].lower()
    if suffix in OTHER_SUFFIXES:
        raise ConfigError([f"--output {output} would be Parquet, whatever its name says; let it end with .parquet"])


def ids_like(run: RunDir, new_ids: pa.ChunkedArray, locations: pa.ChunkedArray) -> pa.Array:
    """The ids of new records, in the type of the run's ids if they all stay what they are in it, else as strings.

    new_ids : of the input; locations : in the input files, which replace missing string ids
    """
    members = parts(run / "members")
    kind = read_schema(members[0]).field("text_id").type if members else pa.string()
    ids = new_ids.combine_chunks()
    if ids.type != kind:
        try:
            cast = ids.cast(kind)
            # "007" and "7" are two ids, and one number.
            fits = pa.types.is_string(kind) or pa.types.is_null(ids.type) or cast.cast(ids.type).equals(ids)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            fits = False
        ids = cast if fits else as_type(ids, pa.string())
    return pc.coalesce(pc.if_else(pc.equal(ids, ""), None, ids), locations) if pa.types.is_string(ids.type) else ids


def known_texts(run: RunDir, texts: list[str]) -> dict[str, int]:
    """The rows of those texts that the run already has, also those that share a row with others.

    texts : without names of outlets
    """
    wanted = share(pa.array(set(texts), pa.string()))
    known: dict[str, int] = {}
    calls = [(run, path, wanted) for artefact in ("members", "texts") for path in parts(run / artefact)]
    for known_in_part in map_unordered(_known_in, calls):
        known.update(known_in_part)
    return known


def _known_in(run: RunDir, path: Location, wanted: pa.Array) -> dict[str, int]:
    found: dict[str, int] = {}
    for table in walk_tables([path], ["row", "text"]):
        if "text" not in table.schema.names:  # members/ of an earlier version
            break
        if "text_id" in read_schema(path).names:  # members/, where a record has a text of its own
            table = table.filter(pc.is_valid(table["text"]))
            bodies = without_outlets(run, table["text"].to_pylist())
            table = pa.table([table["row"], pa.array(bodies, pa.string())], ["row", "text"])
        known = table.filter(pc.is_in(table["text"], value_set=wanted))
        found.update(zip(known["text"].to_pylist(), known["row"].to_pylist(), strict=True))
    return found


class _Encoder:
    """The run's encoder on a worker. It loads with the first texts, because Ray wraps an error of the constructor."""

    def __init__(self, run: RunDir, run_id: str, cfg: EmbedSection) -> None:
        self.run, self.run_id, self.cfg = run, run_id, cfg
        self.encoder: Encoder | None = None

    def encode(self, texts: list[str]) -> FloatArray:
        """float32, shape (n_texts, dim).

        Raises: ConfigError when the run's own texts get other vectors, or this node has joined and does not see them.
        """
        if self.encoder is None:
            if not sees_run(self.run, self.run_id):
                raise ConfigError([blind_nodes_problem(self.run, [own_address()])])
            key = hub_key(self.cfg)
            commit = recorded_commit(key, self.run.results.get("versions")) if key else None
            self.encoder = load_run_encoder(self.run, self.cfg, None if commit == UNKNOWN else commit)
            if why := differing_vectors(self.run, self.encoder):
                problem = (
                    f"{model_location(self.cfg)} gives the run's own texts other vectors than the run has ({why}), so "
                    f"new ones would get none that fit. Name the model that the run was made with: embed.encoder, "
                    f"embed.model, or --config"
                )
                raise ConfigError([problem])
        return self.encoder.encode(texts).vectors


class _Clusters:
    """What the assignment of texts needs of a run: one entry for each text or cluster, no vectors.

    collection : where the run's collection can be asked, or why it cannot
    """

    def __init__(self, run: RunDir, config: RunConfig, collection: Endpoint | str) -> None:
        self.vectors = run / "vectors"
        if not parts(self.vectors):
            raise StageError(f"{self.vectors} is missing. {REDO_HINT}")
        self.metric, self.min_samples = config.store.metric, config.cluster.core_rank
        self.core = load_array(run / "forest" / "core.npy")
        self.without = rows_without_vector(self.vectors)
        self.k = min(config.search.k, self.core.size - self.without.size)
        self.has_exact_distances = config.store.exact_distances
        self.query: NeighborQuery | None = None
        if isinstance(collection, Endpoint):
            params = run.results["stages"]["search"]["figures"]["params"]
            self.query = NeighborQuery(collection, self.metric, params, self.k)
            log.info("assign: %s is asked for the nearest texts", collection)
        else:
            self._search_exactly(collection)
        assignment = load_assignment(run)
        self.of_run = {name: assignment[name].to_numpy() for name in ("label", "strength", "home", "home_strength")}
        self.diffused = config.cluster.weights == "diffused"
        if self.diffused:
            self.radius = load_radius(run)
            self.longest, self.averaged = config.graph.max_distance, load_group_sizes(run).n_averaged
            return
        copies = load_copies(run) if config.cluster.copies == "weigh" else None
        self.reach = ReachabilityAssigner.from_forest(
            load_forest(run), self.core, self.of_run["label"], self.of_run["home"], self.min_samples, copies
        )

    def table(self, ids: pa.Array, rows: IntArray, vectors: FloatArray | None) -> pa.Table:
        """The table of assign_texts for some texts.

        rows : int64, shape (n_texts,), of texts that the run already has; -1 for new ones
        vectors : float32, shape (n_new, dim), of the new ones in their order; None when there are none
        """
        columns = {name: values[rows] for name, values in self.of_run.items()}
        columns |= {"nearest_row": rows.copy(), "distance": np.zeros(len(rows), np.float32)}
        without = np.isin(rows, self.without)
        new = rows < 0
        if vectors is not None:
            for name, column in self.assign(vectors).items():
                columns[name][new] = column
            without[new] = ~vectors.any(axis=1)  # a text without a vector is noise without a home
            for name in ("label", "home", "strength", "home_strength"):
                columns[name][new & without] = -1 if name in ("label", "home") else 0
        typed = {
            name: pa.array(
                column.astype(ASSIGNED.field(name).type.to_pandas_dtype()),
                mask=without if name in ("nearest_row", "distance") else None,
            )
            for name, column in columns.items()
        }
        return pa.table({"text_id": ids, **typed}, schema=ASSIGNED.set(0, pa.field("text_id", ids.type)))

    def assign(self, vectors: FloatArray) -> Assignments:
        """The columns of new texts; vectors : float32, shape (n_texts, dim)"""
        rows, distances = self.nearest(vectors)
        found = self._by_vote(rows, distances) if self.diffused else self.reach.assign(rows, distances)
        cosine = distances**2 / 2 if self.metric == "L2" else distances
        is_exact = self.query is None or self.has_exact_distances
        equal = cosine <= (SAME if is_exact else ROUNDED_SAME)
        first = np.where(equal.any(axis=1), np.where(equal, rows, self.core.size).min(axis=1), rows[:, 0])
        known = equal[:, 0]  # the run has a text with an equal vector
        if known.any() and not is_exact:
            stored = np.unique(first[known])
            held = vectors_of(read_rows(self.vectors, stored, ["vector"]))[np.searchsorted(stored, first[known])]
            known[known] = (vectors[known] * held).sum(axis=1) >= 1 - SAME
        columns = {name: np.where(known, self.of_run[name][first], column) for name, column in found.items()}
        return {**columns, "nearest_row": np.where(known, first, rows[:, 0]), "distance": distances[:, 0]}

    def nearest(self, vectors: FloatArray) -> tuple[IntArray, FloatArray]:
        """The nearest rows of the run, int64 and float32, shape (n_texts, k), nearest first.

        The collection is asked; exact search finds those that it has not found, and all where there is no collection.
        """
        todo: NDArray[np.bool_] = np.any(vectors, axis=1)  # what stands for a text without a vector is replaced
        rows, distances = np.zeros((len(todo), self.k), np.int64), np.zeros((len(todo), self.k), np.float32)
        new = np.full(len(todo), -1, np.int64)
        if self.query is not None:
            asked = np.flatnonzero(todo)
            try:
                with ThreadPoolExecutor(self.query.in_flight) as pool:
                    near, away, counts = self.query.neighbors(new[asked], vectors[asked], pool.map)
                full = counts == self.k
                kept, answered = np.repeat(full, counts), asked[full]
                rows[answered], distances[answered] = near[kept].reshape(-1, self.k), away[kept].reshape(-1, self.k)
                todo[answered] = False
            except StoreError as error:  # somebody has released or dropped it meanwhile
                self._search_exactly(str(error))
        if todo.any():
            rows[todo], dots = exact_neighbors(self.vectors, vectors[todo], new[todo], self.k)
            distances[todo] = dot_distance(dots, self.metric)
        return rows, distances

    def _search_exactly(self, reason: str) -> None:
        self.query = None
        log.info("assign: exact search over vectors/ finds the nearest texts: %s", reason)

    def _by_vote(self, rows: IntArray, distances: FloatArray) -> Assignments:
        radius = np.minimum(self.radius[rows], np.float32(np.inf if self.longest is None else self.longest))
        euclidean = distances if self.metric == "L2" else np.sqrt(2 * distances)
        labels, homes = self.of_run["label"], self.of_run["home"]
        return assign_by_vote(rows, euclidean, distances <= radius, self.averaged, labels, homes)
