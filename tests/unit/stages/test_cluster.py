"""cluster.py: the forest's hierarchy against hdbscan itself; pieces, copies, small and odd inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hdbscan
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.metrics import adjusted_rand_score

from clustering import schema
from clustering.config.sections import ClusterSection, GraphSection
from clustering.encoders.base import unit_rows
from clustering.kernels.graph.csr import MIN_DISTANCE
from clustering.kernels.graph.forest import Forest, core_distances, join_components, spanning_forest
from clustering.kernels.hierarchy.condensed_tree import Clusters, cluster_forest, renumber_clusters
from clustering.kernels.hierarchy.labels import unfold_copies
from clustering.runs.directory import RunDir
from clustering.runs.kernel_inputs import ListOptions
from clustering.runs.parts import load_assignment, part_name
from clustering.runs.storage import write_table
from clustering.schema import Figures
from clustering.stages.cluster import _cluster
from clustering.stages.forest import _diffused_forest, _forest
from clustering.workers.graph.shuffle import build_whole
from tests import oracles
from tests.planted import blobs, leave_graph, neighbor_graph, undirected_graph
from tests.strategies import graphs

SELECTIONS = ["eom", "leaf"]
both_selections = pytest.mark.parametrize("selection", SELECTIONS)


def forest_of(*edges: oracles.Edge) -> Forest:
    left, right, distance = zip(*sorted(edges, key=lambda edge: edge[2]), strict=True) if edges else ((), (), ())
    return Forest(np.array(left, np.int64), np.array(right, np.int64), np.array(distance, np.float32))


def chain(first: int, *distances: float) -> list[oracles.Edge]:
    return [(first + place, first + place + 1, distance) for place, distance in enumerate(distances)]


def clusters_of(graph: csr_array, min_samples: int, min_cluster_size: int = 5, **options: object) -> Clusters:
    forest = spanning_forest(graph, core_distances(graph, min_samples))
    return cluster_forest(forest, graph.shape[0], min_cluster_size=min_cluster_size, **options)  # type: ignore[arg-type]


def pieces_of(forest: Forest, n_texts: int) -> NDArray[np.int64]:
    piece = np.arange(n_texts)
    join_components(forest.left, forest.right, piece)
    return piece


def shared_clusters(label: NDArray[np.int64], piece: NDArray[np.int64]) -> list[int]:
    """Clusters whose members lie in more than one piece."""
    return [one for one in set(label[label >= 0].tolist()) if len(set(piece[label == one].tolist())) > 1]


# --- against hdbscan on the vectors ---


@both_selections
@pytest.mark.parametrize("seed", range(4))
def test_all_neighbors_give_the_clusters_of_hdbscan(seed: int, selection: str) -> None:
    # With min_samples=1 no two edges of mutual reachability tie, so that nothing is left to the order of rows.
    vectors = blobs(seed, noise=40, spread=0.12).vectors
    ours = clusters_of(neighbor_graph(vectors), min_samples=1, selection=selection)
    exact = hdbscan.HDBSCAN(
        min_samples=1, min_cluster_size=5, cluster_selection_method=selection, approx_min_span_tree=False
    ).fit(vectors.astype(np.float64))
    assert adjusted_rand_score(exact.labels_, ours.label) == 1
    assert_array_equal(exact.labels_ < 0, ours.label < 0)
    assert_allclose(ours.strength, exact.probabilities_, atol=1e-4)
    assert_allclose(ours.outlier_score, exact.outlier_scores_, atol=1e-4)
    assert_allclose(np.sort(ours.persistence), np.sort(exact.cluster_persistence_), atol=1e-4)


@both_selections
@pytest.mark.parametrize("min_samples", [3, 5, 10])
def test_all_neighbors_find_separate_blobs_as_hdbscan_does(min_samples: int, selection: str) -> None:
    vectors, truth = blobs(seed=7, each=40, spread=0.05)
    ours = clusters_of(neighbor_graph(vectors), min_samples, min_cluster_size=12, selection=selection)
    exact = hdbscan.HDBSCAN(min_samples=min_samples, min_cluster_size=12, cluster_selection_method=selection)
    exact.fit(vectors.astype(np.float64))
    assert adjusted_rand_score(exact.labels_, ours.label) >= 0.99
    if selection == "eom":
        assert adjusted_rand_score(truth, ours.label) >= 0.95


@both_selections
def test_hdbscans_own_tree_gives_the_very_labels_of_hdbscan(selection: str) -> None:
    vectors = blobs(seed=5, noise=40, spread=0.12).vectors.astype(np.float64)
    exact = hdbscan.HDBSCAN(
        min_samples=5, min_cluster_size=6, cluster_selection_method=selection, gen_min_span_tree=True
    )
    exact.fit(vectors)
    tree = exact._min_spanning_tree[np.argsort(exact._min_spanning_tree[:, 2], kind="stable")]
    forest = Forest(tree[:, 0].astype(np.int64), tree[:, 1].astype(np.int64), tree[:, 2])
    ours = cluster_forest(forest, len(vectors), min_cluster_size=6, selection=selection)
    assert_array_equal(ours.label, exact.labels_)
    assert_array_equal(ours.strength, exact.probabilities_)


@pytest.mark.parametrize("min_samples", [1, 5])
def test_fifteen_neighbors_find_separate_blobs_as_hdbscan_does(min_samples: int) -> None:
    # Each blob is a piece of its own, and a piece of its own is a cluster of its own.
    vectors, truth = blobs(seed=2, each=40, spread=0.05)
    ours = clusters_of(neighbor_graph(vectors, k=15), min_samples, min_cluster_size=12)
    exact = hdbscan.HDBSCAN(min_samples=min_samples, min_cluster_size=12).fit(vectors.astype(np.float64))
    assert adjusted_rand_score(exact.labels_, ours.label) >= 0.99
    assert adjusted_rand_score(truth, ours.label) >= 0.95


def test_shuffled_rows_give_the_same_clusters() -> None:
    vectors = blobs(seed=4, noise=30).vectors
    order = np.random.default_rng(0).permutation(len(vectors))
    ours, shuffled = (clusters_of(neighbor_graph(held), min_samples=1) for held in (vectors, vectors[order]))
    assert adjusted_rand_score(ours.label[order], shuffled.label) == 1


# --- graphs in several pieces ---


@both_selections
def test_two_pieces_are_two_clusters(selection: str) -> None:
    forest = forest_of(*chain(0, *[0.1] * 5), *chain(6, *[0.9] * 5))
    found = cluster_forest(forest, 12, min_cluster_size=5, selection=selection)
    assert found.label.tolist() in ([0] * 6 + [1] * 6, [1] * 6 + [0] * 6)


@both_selections
@pytest.mark.parametrize("each", [3, 6])
def test_thousands_of_pieces_neither_crash_nor_share_a_cluster(each: int, selection: str) -> None:
    n_pieces = 3000
    starts = np.arange(n_pieces) * each
    left = (starts[:, None] + np.arange(each - 1)).ravel()
    distance = np.sort(np.random.default_rng(0).uniform(0.1, 0.5, left.size)).astype(np.float32)
    left = np.random.default_rng(1).permutation(left)
    found = cluster_forest(Forest(left, left + 1, distance), n_pieces * each, min_cluster_size=5, selection=selection)
    if each < 5:
        assert (found.label == -1).all()
    else:
        assert_array_equal(np.bincount(found.label), np.full(n_pieces, each))
        assert shared_clusters(found.label, np.arange(n_pieces * each) // each) == []


ISOLATED = forest_of(*chain(6, *[0.1] * 9))  # six texts alone, then a piece of ten


@both_selections
def test_texts_without_edges_are_noise(selection: str) -> None:
    found = cluster_forest(ISOLATED, 16, min_cluster_size=5, selection=selection)
    assert found.label[:6].tolist() == [-1] * 6


options = st.fixed_dictionaries(
    {
        "min_cluster_size": st.integers(2, 5),
        "max_cluster_size": st.sampled_from([0, 7]),
        "allow_single_cluster": st.booleans(),
    }
)


@both_selections
@given(graph=graphs(fewest_texts=2, most_texts=20, most_edges=25), chosen=options)
@example(
    graph=undirected_graph(np.array([6, 7, 8, 9]), np.array([7, 8, 9, 10]), np.full(4, 0.5, np.float32), 11),
    chosen={"min_cluster_size": 5, "max_cluster_size": 0, "allow_single_cluster": False},
)
def test_pieces_never_share_a_cluster(graph: csr_array, chosen: dict[str, int], selection: str) -> None:
    forest = spanning_forest(graph, core_distances(graph, 1))
    found = cluster_forest(forest, graph.shape[0], selection=selection, **chosen)
    assert shared_clusters(found.label, pieces_of(forest, graph.shape[0])) == []


@both_selections
def test_epsilon_works_on_pieces(selection: str) -> None:
    forest = forest_of(*chain(0, *[0.1] * 5), *chain(6, *[0.2] * 5))
    found = cluster_forest(forest, 12, min_cluster_size=5, selection=selection, epsilon=0.5)
    assert shared_clusters(found.label, pieces_of(forest, 12)) == []
    assert (found.label >= 0).all()


@both_selections
@given(graph=graphs(fewest_texts=2, most_texts=20, most_edges=30), min_cluster_size=st.integers(2, 5))
def test_shares_lie_between_0_and_1_and_every_cluster_is_large_enough(
    graph: csr_array, min_cluster_size: int, selection: str
) -> None:
    found = clusters_of(graph, 1, min_cluster_size, selection=selection)
    for share in (found.strength, found.outlier_score, found.persistence):
        assert ((share >= 0) & (share <= 1)).all()
    assert_array_equal(found.strength[found.label < 0], 0)
    sizes = np.bincount(found.label[found.label >= 0], minlength=found.persistence.size)
    assert sizes.size == found.persistence.size
    assert (sizes >= min_cluster_size).all()


def test_a_cluster_that_is_counted_has_members() -> None:
    forest = forest_of(*chain(0, 0.5, 0.6, 0.7, 0.8))
    found = cluster_forest(forest, 5, min_cluster_size=2, allow_single_cluster=True, epsilon=0.25)
    assert found.persistence.size == found.label.max() + 1


# --- few texts, equal distances, options ---


@both_selections
@pytest.mark.parametrize("n_texts", [2, 3])
@pytest.mark.parametrize("n_edges", [0, 1, 2])
def test_two_or_three_texts_are_noise(n_texts: int, n_edges: int, selection: str) -> None:
    forest = forest_of(*chain(0, *[0.3] * min(n_edges, n_texts - 1)))
    found = cluster_forest(forest, n_texts, min_cluster_size=5, selection=selection)
    assert found.label.tolist() == [-1] * n_texts
    assert found.strength.tolist() == [0] * n_texts
    assert found.persistence.size == 0


@pytest.mark.parametrize("n_texts", [2, 3, 40])
def test_texts_at_equal_distances_are_one_cluster_where_one_is_allowed(n_texts: int) -> None:
    low, high = np.triu_indices(n_texts, 1)
    graph = undirected_graph(low, high, np.full(low.size, 0.5, np.float32), n_texts)
    assert (clusters_of(graph, 1, 2).label == -1).all()
    found = clusters_of(graph, 1, 2, allow_single_cluster=True)
    assert (found.label == 0).all()
    assert found.strength.tolist() == [1] * n_texts


def test_a_larger_epsilon_keeps_close_clusters_together() -> None:
    edges = [*chain(0, *[0.1] * 5), (5, 6, 0.3), *chain(6, *[0.1] * 5), (11, 12, 0.9), *chain(12, *[0.1] * 5)]
    apart = cluster_forest(forest_of(*edges), 18, min_cluster_size=5, selection="leaf")
    together = cluster_forest(forest_of(*edges), 18, min_cluster_size=5, selection="leaf", epsilon=0.5)
    assert sorted(np.bincount(apart.label).tolist()) == [6, 6, 6]
    assert sorted(np.bincount(together.label).tolist()) == [6, 12]


def test_no_cluster_is_larger_than_allowed() -> None:
    edges = [*chain(0, *[0.1] * 9), (9, 10, 0.12), *chain(10, *[0.1] * 9), (19, 20, 0.9), *chain(20, *[0.5] * 9)]
    free = cluster_forest(forest_of(*edges), 30, min_cluster_size=5)
    held = cluster_forest(forest_of(*edges), 30, min_cluster_size=5, max_cluster_size=12)
    assert np.bincount(free.label).max() == 20
    assert np.bincount(held.label).tolist() == [10, 10, 10]


# --- copies ---


@pytest.mark.parametrize("min_samples", [1, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_weighed_copies_are_rows_a_tiny_way_apart(seed: int, min_samples: int) -> None:
    vectors = blobs(seed, n_blobs=5, each=16, noise=15).vectors
    rng = np.random.default_rng(seed)
    weights = np.where(rng.random(len(vectors)) < 0.2, rng.integers(2, 9, len(vectors)), 1).astype(np.int32)
    graph = neighbor_graph(vectors)
    core = core_distances(graph, min_samples, weights)
    unfolded = unfold_copies(spanning_forest(graph, core), weights, core, MIN_DISTANCE)

    owner = np.concatenate([np.arange(len(vectors)), np.repeat(np.arange(len(vectors)), weights - 1)])
    rows = graph.toarray().astype(np.float64)[owner][:, owner]
    rows[owner[:, None] == owner[None]] = MIN_DISTANCE
    np.fill_diagonal(rows, 0)
    exact = hdbscan.HDBSCAN(
        metric="precomputed", min_samples=min_samples, min_cluster_size=5, gen_min_span_tree=True
    ).fit(rows)
    assert_allclose(unfolded.distance, np.sort(exact._min_spanning_tree[:, 2]), rtol=1e-6)
    if min_samples == 1:  # without ties of mutual reachability
        ours = cluster_forest(unfolded, len(owner), min_cluster_size=5)
        assert adjusted_rand_score(exact.labels_, ours.label) == 1


def test_texts_without_copies_keep_their_forest() -> None:
    forest = forest_of(*chain(0, 0.1, 0.2))
    assert unfold_copies(forest, np.ones(3, np.int32), np.ones(3, np.float32), MIN_DISTANCE) is forest


@given(graphs(), st.data())
def test_unfolding_gives_every_record_a_node_and_every_piece_its_copies(graph: csr_array, data: st.DataObject) -> None:
    n_texts = graph.shape[0]
    weights = np.array(data.draw(st.lists(st.integers(1, 4), min_size=n_texts, max_size=n_texts)), np.int32)
    core = core_distances(graph, 2, weights)
    forest = spanning_forest(graph, core)
    unfolded = unfold_copies(forest, weights, core, MIN_DISTANCE)
    n_nodes = int(weights.sum())
    assert unfolded.left.size == forest.left.size + n_nodes - n_texts
    assert_array_equal(unfolded.distance, np.sort(unfolded.distance))
    assert (unfolded.distance > 0).all()
    assert np.isfinite(unfolded.distance).all()
    piece = pieces_of(unfolded, n_nodes)
    assert_array_equal(piece[:n_texts], pieces_of(forest, n_texts))
    assert_array_equal(piece[n_texts:], np.repeat(piece[:n_texts], weights - 1))


# --- the artefacts of a run ---


def clustered(run: RunDir, graph: csr_array, records: list[int], **keys: Any) -> tuple[dict[str, list[Any]], Figures]:
    """Leave texts/ and graph/, do the two stages in this process; the assignment's columns and the figures."""
    columns = {
        "row": np.arange(len(records)),
        "text": [f"text {row}" for row in range(len(records))],
        "copies": records,
    }
    write_table(run / "texts" / part_name(0), pa.table(columns, schema=schema.TEXTS))
    leave_graph(run, graph)
    rows = [np.arange(*graph.indptr[row : row + 2]) for row in range(len(records))]
    near = [entries[np.argsort(graph.data[entries], kind="stable")] for entries in rows]
    neighbors = {
        "row": columns["row"],
        "neighbors": [graph.indices[entries] for entries in near],
        "distances": [graph.data[entries] for entries in near],
        "cell": np.zeros(len(records), np.int32),
    }
    write_table(run / "neighbors" / part_name(0), pa.table(neighbors, schema=schema.NEIGHBORS))
    cfg = ClusterSection(**{"weights": "distance", "selection": "eom", **keys})
    forest = _diffused_forest if cfg.weights == "diffused" else _forest
    build_whole(run, ListOptions(len(records), None, "L2", len(records), 0))
    forest(run, cfg, GraphSection(bridge="none"), "L2", 0)
    figures = _cluster(run, cfg, len(records), "L2")
    return load_assignment(run).to_pydict(), figures


def two_blobs_and_a_text_apart() -> csr_array:
    """Rows 0 to 19 and 20 to 39 are blobs near each other, row 40 is far from both."""
    centres = np.repeat([[1, 0, 0], [0.8, 0.6, 0], [0, 0, 1]], [20, 20, 1], axis=0)
    return neighbor_graph(unit_rows(centres + np.random.default_rng(0).normal(0, 0.02, centres.shape)))


APART = two_blobs_and_a_text_apart()


def test_a_text_with_many_copies_is_a_cluster_of_its_own(tmp_path: Path) -> None:
    found, figures = clustered(RunDir(tmp_path), APART, [1] * 40 + [50], min_cluster_size=10)
    assert found["label"][40] == 0  # the largest by records
    assert found["strength"][40] == 1
    assert sorted(set(found["label"])) == [0, 1, 2]
    assert figures["copies_clusters"] == 1
    assert figures["largest_share"] == pytest.approx(50 / 90, abs=1e-5)
    assert len(json.loads((tmp_path / "layers.json").read_text())["persistence"]) == figures["count"] == 3


@pytest.mark.parametrize("keys", [{}, {"weights": "diffused", "selection": "modularity"}])
def test_a_cluster_tells_how_many_of_its_links_stay_inside(keys: dict[str, str], tmp_path: Path) -> None:
    found, _ = clustered(RunDir(tmp_path), APART, [1] * 40 + [50], min_cluster_size=10, **keys)
    away = np.where(APART.toarray() > 0, APART.toarray(), np.inf)
    near = np.argsort(away, axis=1, kind="stable")[:, :10]
    layers = np.array(found["layers"])
    shares = json.loads((tmp_path / "layers.json").read_text())["link_share"]
    assert len(shares) == layers.max() + 1
    for label, share in enumerate(shares):
        column = layers[:, (layers == label).any(axis=0).argmax()]
        inside = column == label
        if inside.sum() > 1:
            assert share == pytest.approx((column[near[inside][:, : inside.sum() - 1]] == label).mean())
    assert (None in shares) == (not keys)  # of eom, the text alone
    assert max(share or 0 for share in shares) == 1


def test_a_text_with_few_copies_stays_noise_and_has_a_home(tmp_path: Path) -> None:
    found, figures = clustered(RunDir(tmp_path), APART, [1] * 40 + [4], min_cluster_size=10)
    assert found["label"][40] == -1
    assert found["home"][40] in (0, 1)
    assert 0 < found["home_strength"][40] < 0.5
    assert found["home"][:40] == found["label"][:40]
    assert found["home_strength"][:40] == [1] * 40
    assert figures["noise_share"] == pytest.approx(4 / 44, abs=1e-5)
    assert (figures["with_text"], figures["clustered"], figures["noise"]) == (44, 40, 4)
    assert figures["home_share"] == 1


def test_weighed_copies_count_towards_density(tmp_path: Path) -> None:
    few = blobs(seed=3, n_blobs=2, each=4, spread=0.03)
    folded, _ = clustered(RunDir(tmp_path / "fold"), neighbor_graph(few.vectors), [3] * 8, min_cluster_size=10)
    weighed, figures = clustered(
        RunDir(tmp_path / "weigh"), neighbor_graph(few.vectors), [3] * 8, min_cluster_size=10, copies="weigh"
    )
    assert set(folded["label"]) == {-1}
    assert adjusted_rand_score(few.truth, weighed["label"]) == 1
    assert figures["largest_share"] == 0.5


@pytest.mark.parametrize("words", [{}, {"weights": "diffused", "selection": "modularity"}], ids=["plain", "default"])
@pytest.mark.parametrize("copies", ["fold", "weigh"])
@pytest.mark.parametrize("n_texts", [1, 2, 6])
def test_texts_without_any_edge_have_neither_cluster_nor_home(
    n_texts: int, copies: str, words: dict[str, str], tmp_path: Path
) -> None:
    graph = undirected_graph(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), n_texts)
    found, figures = clustered(RunDir(tmp_path), graph, [1] * n_texts, min_cluster_size=7, copies=copies, **words)
    assert found["label"] == found["home"] == [-1] * n_texts
    assert found["strength"] == found["home_strength"] == [0] * n_texts
    assert (figures["count"], figures["noise_share"], figures["home_share"]) == (0, 1, 0)


def test_a_tiling_is_told_from_groups(tmp_path: Path) -> None:
    rng, words = np.random.default_rng(0), {"weights": "diffused", "selection": "modularity"}
    _, even = clustered(RunDir(tmp_path / "even"), neighbor_graph(rng.random((400, 8)), k=50), [1] * 400, **words)
    apart = blobs(3, n_blobs=8, each=50, dim=16).vectors
    _, grouped = clustered(RunDir(tmp_path / "grouped"), neighbor_graph(apart, k=50), [1] * 400, **words)
    assert even["tiling"] > 0.66 > 0.4 > grouped["tiling"]
    assert grouped["warnings"] == []
    assert even["warnings"] == [
        f"There are no clear groups; treat the clusters as a tiling. The links to near texts that leave their cluster "
        f"are {even['tiling']:.0%} of what they would be if the texts were spread evenly. Another encoder may show "
        f"groups (embed.encoder)."
    ]


@pytest.mark.parametrize("copies", ["fold", "weigh"])
def test_one_text_is_a_cluster_by_its_copies_alone(copies: str, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    texts = {"row": [0], "text": ["one"], "copies": [5]}
    write_table(run / "texts" / part_name(0), pa.table(texts, schema=schema.TEXTS))
    cfg = ClusterSection(copies=copies)
    build_whole(run, ListOptions(50, None, "L2", 1, 0))
    _diffused_forest(run, cfg, GraphSection(), "L2", 0)
    assert _cluster(run, cfg, 50, "L2")["count"] == 1
    assert load_assignment(run)["label"].to_pylist() == [0]


# --- numbers ---


def test_clusters_are_numbered_by_records_then_by_smallest_row() -> None:
    label = np.array([2, 0, 0, -1, 1, 1, 2])
    copies = np.array([1, 1, 1, 9, 5, 1, 1], np.int32)
    renumbered, persistence = renumber_clusters(label, copies, np.array([0.1, 0.2, 0.3]))
    assert renumbered.tolist() == [1, 2, 2, -1, 0, 0, 1]
    assert persistence.tolist() == [0.2, 0.3, 0.1]


@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(1, 3)), min_size=1, max_size=12), st.permutations(range(4)))
def test_numbers_do_not_depend_on_the_numbers_before(rows: list[tuple[int, int]], names: list[int]) -> None:
    label, copies = np.array([row[0] for row in rows]), np.array([row[1] for row in rows], np.int32)
    known = np.unique(label[label >= 0])
    compact = np.where(label >= 0, np.searchsorted(known, label), -1)
    other = np.argsort([names[one] for one in range(known.size)])
    persistence = np.arange(known.size) / 10
    moved = np.where(compact >= 0, other[compact], -1) if known.size else compact
    first = renumber_clusters(compact, copies, persistence)
    second = renumber_clusters(moved, copies, persistence[np.argsort(other)])
    assert_array_equal(first[0], second[0])
    assert_array_equal(first[1], second[1])
    sizes = [int(copies[first[0] == one].sum()) for one in range(known.size)]
    assert sizes == sorted(sizes, reverse=True)


def test_no_clusters_need_no_numbers() -> None:
    label, persistence = renumber_clusters(np.array([-1, -1]), np.array([3, 1], np.int32), np.empty(0))
    assert label.tolist() == [-1, -1]
    assert persistence.size == 0
