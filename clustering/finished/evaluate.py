"""A finished run and an optional truth file in; agreement, fidelity to exact HDBSCAN, and recall in report.json out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from hdbscan import HDBSCAN
from numpy.typing import NDArray
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, homogeneity_completeness_v_measure

from clustering import schema
from clustering.config.sections import ClusterSection, ReadSection, RunConfig
from clustering.errors import ConfigError
from clustering.kernels.graph.group_sizes import MIN_CLUSTER_SIZE
from clustering.runs.directory import RunDir
from clustering.runs.kernel_inputs import load_forest
from clustering.runs.parts import load_assignment, load_labels, parts, stored_vectors, walk_tables
from clustering.runs.storage import write_json
from clustering.schema import Figures
from clustering.sources.detection import find_files
from clustering.sources.formats.column_types import as_type
from clustering.stages.read import read_columns_of
from clustering.workers.remote import refuse_blind_nodes
from clustering.workers.tasks import run_on_one_node

EXACT_TEXTS = {"L2": 30_000, "COSINE": 8_000, "IP": 8_000}  # takes minutes; hdbscan keeps all pairs for cosine
OPTIONS = {"read.text_columns": "--truth-column", "read.id_column": "--id-column", "read.paths": "--truth"}
NO_TRUTH = ["-1", "-1.0", "nan", "NaN"]  # as a true label


def evaluate_run(
    run: RunDir, config: RunConfig, truth: str | None = None, truth_column: str = "label", id_column: str | None = None
) -> Figures:
    """Add ``truth`` and ``fidelity`` to the run's report.json and return them with its ``search`` figures.

    truth : file with the column ``truth_column``, and ids in ``id_column`` (default: the run's own read.id_column)
    Returns: truth {label, home: nmi, ami, ari, homogeneity, completeness; records, left_out}, fidelity {ari_label,
        mst_weight_difference} (None above EXACT_TEXTS texts, with cluster.copies=weigh, and where the run is not plain
        HDBSCAN), search.
    Raises: ConfigError when the run is not finished or in use by another command, the truth file does not fit it, or no
        node sees the run directory.
    """
    _require_finished(run)  # before the lock writes anything
    with run.locked():  # so that no report of another run is lost
        return _evaluate(run, config, truth, truth_column, id_column)


def _evaluate(run: RunDir, config: RunConfig, truth: str | None, truth_column: str, id_column: str | None) -> Figures:
    _require_finished(run)
    report: Figures = run.report
    found: Figures = {"search": report.get("search")}
    if truth is not None:
        found["truth"] = compare_with_truth(run, config.read, truth, truth_column, id_column)
    # hdbscan has no weighed copies, diffusion or modularity, so such a run cannot be compared with it.
    plain = config.cluster.weights == "distance" and config.cluster.selection != "modularity"
    fits = plain and 1 < report["counts"]["texts"] <= EXACT_TEXTS[config.store.metric]
    if fits and config.cluster.copies == "fold":
        refuse_blind_nodes(run)
        found["fidelity"] = run_on_one_node(exact_fidelity, run, config.cluster, config.store.metric)
    else:
        found["fidelity"] = None
    write_json(run / "report.json", {**report, **found})
    return found


def _require_finished(run: RunDir) -> None:
    if not run.is_complete:
        raise ConfigError([f"{run.path} is not finished; finish it with covey run first"])


def agreement(truth: NDArray[Any], label: NDArray[Any]) -> dict[str, float]:
    """How well labels agree with the truth; noise (-1) counts as one more cluster.

    truth : any type, label : int, each shape (n_records,)
    Returns: nmi (arithmetic mean), ami, ari, homogeneity, completeness, each 1 for full agreement.
    """
    homogeneity, completeness, nmi = homogeneity_completeness_v_measure(truth, label)
    figures = {
        "nmi": nmi,
        "ami": adjusted_mutual_info_score(truth, label),
        "ari": adjusted_rand_score(truth, label),
        "homogeneity": homogeneity,
        "completeness": completeness,
    }
    return {name: round(float(value), 5) for name, value in figures.items()}


def compare_with_truth(run: RunDir, read: ReadSection, truth: str, truth_column: str, id_column: str | None) -> Figures:
    """Agreement of ``label`` and of ``home`` with a truth file, over the records that have a truth.

    A truth that is missing, empty, NaN or -1 (which is noise in most files of labels) is none.
    Returns: records that have a truth, left_out (records of the file that have none), and label and home.
    """
    if not (truth and truth_column):
        raise ConfigError(["--truth and --truth-column are empty; name a file and its column of labels"])
    key = id_column or read.id_column
    section = replace(
        read, paths=(truth,), collection=None, text_columns=(truth_column,), id_column=key, limit=None, keep=(),
        time_column=None, source_column=None, link_column=None,
    )  # fmt: skip
    try:
        table = read_columns_of(find_files(section), section)
    except ConfigError as error:
        problems = error.problems
        for key_of_run, option in OPTIONS.items():
            problems = [problem.replace(key_of_run, option) for problem in problems]
        raise type(error)(problems) from None
    locations = table[schema.LOCATION]  # replace missing ids, as in the run
    ids = locations if key is None else pc.coalesce(_filled(as_type(table[key], pa.string())), locations)
    truths = pa.table({"text_id": ids, "truth": _known(table[truth_column])})
    n_given = len(truths)
    truths = truths.filter(pc.is_valid(truths["truth"]))
    if not len(truths):
        raise ConfigError([f"--truth {truth}: no record has a label in '{truth_column}'"])
    if pc.count_distinct(truths["text_id"]).as_py() != len(truths):
        raise ConfigError([f"--truth {truth}: ids in '{key}' repeat; each record needs a truth of its own"])
    labels = load_labels(run, ["text_id", "label", "home"])
    if not len(labels):
        raise ConfigError([f"{run.path} clusters no texts, so there is nothing to compare with --truth {truth}"])
    text_ids = as_type(labels["text_id"], pa.string())  # 7 in one file may be "7" in another
    labels = labels.set_column(0, "text_id", text_ids)
    joined = labels.join(truths, "text_id", join_type="inner")
    if not len(joined):
        raise ConfigError([f"--truth {truth}: none of its ids ({ids[0]}, ...) is a text_id of the run "
                           f"({labels['text_id'][0]}, ...); name the id column with --id-column"])  # fmt: skip
    codes = joined["truth"].combine_chunks().dictionary_encode().indices.to_numpy()
    return {
        "records": len(joined),
        "left_out": n_given - len(truths),
        "label": agreement(codes, joined["label"].to_numpy()),
        "home": agreement(codes, joined["home"].to_numpy()),
    }


def _known(truth: pa.ChunkedArray) -> pa.ChunkedArray:
    """Labels as strings, with null in place of those that say that there is none."""
    strings = _filled(as_type(truth, pa.string()))
    return pc.if_else(pc.is_in(strings, value_set=pa.array(NO_TRUTH)), None, strings)


def _filled(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Strings with null in place of an empty one, which csv writes for a missing value."""
    return pc.if_else(pc.equal(column, ""), None, column)


def exact_fidelity(run: RunDir, cluster: ClusterSection, metric: str) -> Figures | None:
    """Compare the run with hdbscan on all pairwise distances of the vectors; texts without a vector are left out.

    Returns: ari_label (agreement of the labels of distinct texts), mst_weight_difference (of the trees' total
        lengths, relative to the exact one; None where all vectors are equal), noise_share of the exact labels; None
        for fewer than two vectors.
    """
    by_part = [stored_vectors(table) for table in walk_tables(parts(run / "vectors"))]
    rows, vectors = (np.concatenate(pieces) for pieces in zip(*by_part, strict=True))
    if len(vectors) < 2:
        return None
    exact = HDBSCAN(
        min_samples=min(cluster.core_rank, len(vectors) - 1),
        min_cluster_size=cluster.min_cluster_size or MIN_CLUSTER_SIZE,
        cluster_selection_method=cluster.selection,
        cluster_selection_epsilon=cluster.epsilon,
        max_cluster_size=cluster.max_cluster_size,
        allow_single_cluster=cluster.allow_single_cluster,
        gen_min_span_tree=True,
        algorithm="generic" if metric != "L2" else "best",
        metric="cosine" if metric != "L2" else "euclidean",
    ).fit(vectors.astype(np.float64))
    label = load_assignment(run)["label"].to_numpy()[rows]
    exact_length = float(exact._min_spanning_tree[:, 2].sum())
    length = float(load_forest(run).distance.astype(np.float64).sum())
    return {
        "ari_label": round(float(adjusted_rand_score(exact.labels_, label)), 5),
        "mst_weight_difference": round(length / exact_length - 1, 8) if exact_length else None,
        "exact_noise_share": round(float((exact.labels_ < 0).mean()), 5),
        "exact_count": int(exact.labels_.max()) + 1,
    }
