"""An artefact of the run directory in, the next one out: the stages of a run, one verb a module."""
