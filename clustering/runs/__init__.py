"""The run directory: where artefacts lie, who holds it, what is finished; knows no stage and no Ray."""
