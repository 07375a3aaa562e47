"""The parameters of a search: the usual ones for each index, within what Milvus takes."""

from __future__ import annotations

import pytest

from clustering.config.sections import SearchSection, StoreSection
from clustering.milvus.query import search_params


@pytest.mark.parametrize(
    ("store", "search", "n_texts", "expected"),
    [
        ({"index": "HNSW"}, {}, 1000, {"ef": 102}),
        ({"index": "HNSW"}, {}, 10, {"ef": 64}),  # each text has 9 others
        ({"index": "HNSW"}, {"params": {"ef": 51}}, 1000, {"ef": 51}),
        ({"index": "FLAT"}, {}, 1000, {}),
        ({"index": "IVF_FLAT"}, {}, 1_000_000, {"nprobe": 250}),
        ({"index": "IVF_FLAT", "params": {"nlist": 4}}, {}, 1000, {"nprobe": 4}),
        ({"index": "IVF_FLAT"}, {"params": {"nprobe": 500}}, 100, {"nprobe": 40}),
    ],
)
def test_parameters_follow_index_and_size(store, search, n_texts, expected):
    assert search_params(SearchSection(**search), StoreSection(**store), n_texts) == expected
