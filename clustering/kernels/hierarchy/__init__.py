"""A spanning forest in; the tree of clusters, their labels, homes and layers out; numpy and numba alone."""
