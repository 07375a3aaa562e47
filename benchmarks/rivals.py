"""Vectors, or a layout of them in five dimensions, in; the clusters of other methods, with their usual settings, out.

Nobody is told the number of clusters. Noise is -1.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from functools import cache as once
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from clustering.encoders.base import unit_rows
from clustering.kernels.topk import FloatArray, IntArray

SEED = 42
SMALLEST = 10  # rows of a cluster, as in BERTopic


def umap_layout(vectors: FloatArray) -> FloatArray:
    """The first half of BERTopic's recipe: float32, shape (n_rows, 5)."""
    import umap

    layout = umap.UMAP(n_neighbors=15, n_components=5, min_dist=0.0, metric="cosine", random_state=SEED, n_jobs=1)
    found: FloatArray = layout.fit_transform(vectors)
    return found


def bertopic_clusters(layout: FloatArray) -> IntArray:
    """Its second half."""
    import hdbscan

    model = hdbscan.HDBSCAN(
        min_cluster_size=SMALLEST, metric="euclidean", cluster_selection_method="eom", core_dist_n_jobs=1
    )
    found: IntArray = model.fit(layout).labels_
    return found


def fast_hdbscan_clusters(layout: FloatArray) -> IntArray:
    import fast_hdbscan  # type: ignore[import-untyped]

    found: IntArray = fast_hdbscan.HDBSCAN(min_cluster_size=SMALLEST).fit(layout).labels_
    return found


def plscan_clusters(layout: FloatArray) -> IntArray:
    import fast_plscan  # type: ignore[import-untyped]

    found: IntArray = fast_plscan.PLSCAN().fit(layout).labels_
    return found


def evoc_layers(vectors: FloatArray) -> tuple[list[IntArray], int]:
    """All layers, finest first, and which of them EVoC itself returns."""
    import evoc  # type: ignore[import-untyped]

    model = evoc.EVoC(random_state=SEED).fit(vectors)
    chosen = [np.array_equal(layer, model.labels_) for layer in model.cluster_layers_].index(True)
    return model.cluster_layers_, chosen


def toponymy_clusters(layout: FloatArray, vectors: FloatArray) -> IntArray:
    """The finest layer of Toponymy's clusterer; the others are made of larger clusters, and it prefers none."""
    clusterer = _toponymy_clustering().ToponymyClusterer()
    layers, _ = clusterer.fit_predict(layout, vectors, layer_class=_labels_of_layer)
    found: IntArray = layers[0]
    return found


def _labels_of_layer(labels: IntArray, centroids: FloatArray, **named: Any) -> IntArray:
    return labels


@once
def _toponymy_clustering() -> Any:
    """Toponymy's module of clusterers, without the packages that name topics, which are many and which it needs not."""
    found = importlib.util.find_spec("toponymy")
    if found is None:
        raise ModuleNotFoundError("toponymy is not installed")
    package, layer = types.ModuleType("toponymy"), types.ModuleType("toponymy.cluster_layer")
    package.__path__ = list(found.submodule_search_locations or [])
    layer.__dict__.update(ClusterLayer=object, ClusterLayerText=object)
    stand_ins: dict[str, Any] = {package.__name__: package, layer.__name__: layer, "evoc": None}  # None: not installed
    sys.modules |= stand_ins
    try:
        return importlib.import_module("toponymy.clustering")
    finally:
        del sys.modules["evoc"]  # so that it can be imported afterwards


def nearest_centroid(label: IntArray, vectors: FloatArray) -> IntArray:
    """Rows of noise go to the cluster whose mean vector has the largest cosine with theirs."""
    home, members, noise = label.copy(), np.flatnonzero(label >= 0), np.flatnonzero(label < 0)
    if members.size and noise.size:
        ones = np.ones(members.size, np.float32), (label[members], members)
        sums = csr_array(ones, shape=(label.max() + 1, label.size)) @ vectors
        home[noise] = np.argmax(vectors[noise] @ unit_rows(sums).T, axis=1)
    return home
