"""Nearest neighbors as a graph: distances in, edges, spanning forests and components out."""
