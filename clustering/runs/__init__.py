"""The run directory: its artefacts, its lock, its finished stages. Nothing here knows a stage's work, or Ray."""
