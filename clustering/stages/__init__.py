"""The stages of a run, one verb a module: an artefact of the run directory in, the next one out."""
