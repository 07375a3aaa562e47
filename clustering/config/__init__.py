"""What a run is told: sections of settings, checks between them, and how they are read."""
