"""Nearest neighbors as a graph: distances in, edges, forests and groups out; numpy, scipy and numba alone."""
