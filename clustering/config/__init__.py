"""The settings of a run: their sections, the checks between them, and how they are read."""
