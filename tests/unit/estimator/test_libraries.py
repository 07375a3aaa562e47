"""GraphHDBSCAN as scikit-learn, BERTopic and Toponymy use it: with the calls that they make."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from sklearn.base import is_clusterer
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import check_estimator

from clustering import GraphHDBSCAN
from tests.planted import blobs

PAGE = Path(__file__).resolve().parents[3] / "docs/estimator.md"


@pytest.mark.parametrize("parameters", [{}, {"weights": "distance", "selection": "eom"}], ids=["default", "plain"])
def test_scikit_learn_finds_nothing_to_blame(parameters: dict[str, Any]) -> None:
    check_estimator(GraphHDBSCAN(**parameters))


def test_it_has_the_tags_and_habits_of_a_clusterer() -> None:
    vectors = blobs(3, noise=60).vectors
    tags = get_tags(GraphHDBSCAN())
    assert is_clusterer(GraphHDBSCAN())
    assert tags.estimator_type == "clusterer"
    assert not tags.input_tags.allow_nan
    assert not tags.target_tags.required
    assert not tags.non_deterministic
    chain = make_pipeline(StandardScaler(), PCA(5), GraphHDBSCAN(n_neighbors=15))
    labels = chain.fit_predict(vectors)
    assert labels.max() > 3
    assert_array_equal(chain.predict(vectors), labels)


def test_neighbors_of_a_search_are_clustered_in_one_call() -> None:
    vectors = blobs(3, noise=60).vectors
    model = GraphHDBSCAN(n_neighbors=15)
    by_vectors = model.fit_predict(vectors)
    near = np.argsort(np.linalg.norm(vectors[:, None] - vectors[None], axis=2), axis=1)[:, 1:16]
    away = np.linalg.norm(vectors[:, None] - vectors[near], axis=2)
    assert adjusted_rand_score(GraphHDBSCAN().fit_predict(neighbors=(near, away)), by_vectors) > 0.95
    plain = GraphHDBSCAN(weights="distance", selection="eom")
    assert_array_equal(plain.fit_predict(neighbors=(near, away), vectors=vectors), plain.labels_)
    assert plain.certified_ == 1


def test_settings_are_chosen_by_a_search_over_a_grid() -> None:
    corpus = blobs(5, n_blobs=6, each=40, dim=5, spread=0.08)
    search = GridSearchCV(
        GraphHDBSCAN(weights="distance", selection="eom"), {"min_cluster_size": [5, 150]},
        scoring=lambda model, rows, truth: adjusted_rand_score(truth, model.predict(rows)), cv=2,
    )  # fmt: skip
    assert search.fit(corpus.vectors, corpus.truth).best_params_ == {"min_cluster_size": 5}


class Topics:
    """What BERTopic 0.17 does with its hdbscan_model: bertopic/_bertopic.py, _cluster_embeddings and transform."""

    def __init__(self, hdbscan_model: Any) -> None:
        self.hdbscan_model = hdbscan_model

    def fit_transform(self, documents: list[str], embeddings: NDArray[Any], y: Any = None) -> tuple[list[int], Any]:
        try:
            self.hdbscan_model.fit(embeddings, y=y)
        except TypeError:
            self.hdbscan_model.fit(embeddings)
        probabilities = self.hdbscan_model.probabilities_ if hasattr(self.hdbscan_model, "probabilities_") else None
        return [int(label) for label in self.hdbscan_model.labels_], probabilities

    def transform(self, documents: list[str], embeddings: NDArray[Any]) -> tuple[list[int], None]:
        return [int(label) for label in self.hdbscan_model.predict(embeddings)], None


def test_it_stands_where_bertopic_takes_hdbscan() -> None:
    corpus = blobs(5, n_blobs=6, each=40, dim=5, spread=0.08)  # BERTopic reduces to 5 dimensions
    topics = Topics(GraphHDBSCAN(min_cluster_size=10))
    texts = [""] * len(corpus.vectors)
    found, probabilities = topics.fit_transform(texts, corpus.vectors)
    assert adjusted_rand_score(corpus.truth, found) > 0.95
    assert probabilities.shape == (len(corpus.vectors),)
    assert topics.transform(texts, corpus.vectors) == (found, None)
    near, _ = topics.transform(texts, corpus.vectors + 0.001)
    assert adjusted_rand_score(corpus.truth, near) > 0.9


class Layer:
    """Takes what Toponymy's ClusterLayerText takes: toponymy/cluster_layer.py."""

    def __init__(
        self, cluster_labels: NDArray[Any], centroid_vectors: NDArray[Any], layer_id: int, **keys: Any
    ) -> None:
        self.cluster_labels, self.centroid_vectors, self.layer_id, self.keys = (
            cluster_labels, centroid_vectors, layer_id, keys,
        )  # fmt: skip


def centroids_from_labels(labels: NDArray[Any], vectors: NDArray[Any]) -> NDArray[Any]:
    return np.array([vectors[labels == one].mean(axis=0) for one in range(labels.max() + 1)])


def build_cluster_tree(labels: list[NDArray[Any]]) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Toponymy asks for int arrays, finest first, numbered from 0 without a gap, and nests them by their rows."""
    tree: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for layer, column in enumerate(labels):
        assert sorted(set(column.tolist()) - {-1}) == list(range(column.max() + 1))
        above = labels[layer + 1] if layer + 1 < len(labels) else np.zeros(column.size, int)
        for cluster in range(column.max() + 1):
            around = {(layer + 1, int(one)) for one in above[column == cluster]}
            for one in around:
                tree.setdefault(one, []).append((layer, cluster))
    return tree


def blocks(heading: str) -> list[str]:
    """The blocks of Python under a heading of the page, without imports of a library that is not installed."""
    part = PAGE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [
        re.sub(r"(?m)^from (toponymy|bertopic).*\n", "", block)
        for block in re.findall(r"```python\n(.*?)```", part, re.DOTALL)
    ]


def test_the_pipeline_of_the_page_runs() -> None:
    corpus = blobs(3, n_blobs=6, each=40)
    names: dict[str, Any] = {"vectors": corpus.vectors, "new_vectors": corpus.vectors[:7]}
    exec(blocks("scikit-learn")[0], names)
    assert adjusted_rand_score(corpus.truth, names["labels"]) > 0.9
    assert_array_equal(names["new_labels"], names["labels"][:7])


def test_the_topics_of_the_page_are_found_and_given_to_new_texts() -> None:
    corpus = blobs(3, n_blobs=6, each=40)
    names: dict[str, Any] = {
        "BERTopic": lambda hdbscan_model, umap_model: Topics(hdbscan_model), "GraphHDBSCAN": GraphHDBSCAN,
        "BaseDimensionalityReduction": object, "texts": [""] * 240, "vectors": corpus.vectors, "new_texts": [""] * 5,
        "new_vectors": corpus.vectors[:5],
    }  # fmt: skip
    exec(blocks("BERTopic")[0], names)
    assert adjusted_rand_score(corpus.truth, names["found"]) > 0.9
    assert names["found_for_new"] == names["found"][:5]


def test_the_layers_of_the_page_are_what_toponymy_takes() -> None:
    names: dict[str, Any] = {
        "Clusterer": object, "ClusterLayerText": Layer, "build_cluster_tree": build_cluster_tree,
        "centroids_from_labels": centroids_from_labels,
    }  # fmt: skip
    exec(blocks("Toponymy")[0], names)
    corpus = blobs(5, n_blobs=12, each=30, dim=5, spread=0.04)
    clusterer = names["CoveyClusterer"](GraphHDBSCAN(granularity=50))
    layers, tree = clusterer.fit_predict(
        corpus.vectors, corpus.vectors, Layer, verbose=False, show_progress_bar=False, exemplar_delimiters=["", ""],
        prompt_template=None,
    )  # fmt: skip
    assert clusterer.cluster_layers_ is layers
    assert clusterer.cluster_tree_ is tree
    assert [layer.layer_id for layer in layers] == list(range(len(layers)))
    counts = [layer.cluster_labels.max() + 1 for layer in layers]
    assert len(counts) > 1
    assert sorted(counts, reverse=True) == counts
    assert [len(layer.centroid_vectors) for layer in layers] == counts
    assert sum(map(len, tree.values())) >= sum(counts)
