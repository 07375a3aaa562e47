"""A finished run and other settings in; its stages after the search done again, out."""

from __future__ import annotations

from pathlib import Path

from clustering.errors import ConfigError, StageError
from clustering.fingerprints import later_fingerprints
from clustering.monitoring.resources import GUESSED_DIM
from clustering.pipeline import cluster_stages
from clustering.preflight import make_plan
from clustering.runs.directory import RunDir
from clustering.runs.parts import parts
from clustering.runs.saved_config import apply_overrides, load_run_config, refuse_untrusted
from clustering.runs.storage import REDO_HINT
from clustering.schema import Figures
from clustering.text.titles import check_titles
from clustering.workers.session import ray_session


def recluster_run(
    run: RunDir, overrides: list[str], config_file: str | Path | None = None, trusted: bool = False
) -> RunDir:
    """Do a finished run's later stages again under other settings; vectors and neighbors stay as they are.

    overrides : words such as ``cluster.min_samples=3``; only sections after the search may be named
    config_file : a configuration that names the endpoint of the titles, where the run has one; trusted : or the word
        that the one in the run directory is meant, which may come from anybody
    Raises: ConfigError for other sections, wrong values, an endpoint that nobody has named, or a directory without a
        finished search.
    """
    later = ("graph", "cluster", "describe", "project", "plot")
    wrong = [word for word in overrides if word.partition(".")[0] not in later]
    if wrong:
        raise ConfigError([f"recluster takes keys of {', '.join(later)} only, not '{word}'" for word in wrong])
    config, said = apply_overrides(load_run_config(run), overrides, config_file, trusted)
    with run.locked():
        stages = run.results["stages"]
        _require_search(run, stages)
        # The fingerprints of the stages that stay are taken as they are: the input files may be gone by now.
        fingerprints = later_fingerprints(config, stages["search"]["fingerprint"] if "search" in stages else "")
        if not run.finished("describe", fingerprints["describe"]):
            if not said:
                refuse_untrusted(config, run.path)
            check_titles(config.describe.titles)
        kept = {name: stage["fingerprint"] for name, stage in stages.items() if name not in fingerprints}
        read = stages["read"]["figures"]
        with ray_session():
            run.begin({**kept, **fingerprints}, config=config.as_dict())
            dim = stages["embed"]["figures"].get("dim") or GUESSED_DIM  # no model of the directory is looked at
            make_plan(config, run, read, dim, run.unfinished(fingerprints))
            # The store has nothing to do with it: no token goes to an address that only the directory names.
            cluster_stages(config, run, fingerprints, read["texts"])
            run.publish()
    return run


def _require_search(run: RunDir, stages: Figures) -> None:
    """Raises: ConfigError when the stages up to the graph are not finished; a single text has no search. StageError
    when what they left is gone."""
    texts = stages.get("read", {}).get("figures", {}).get("texts", 0)
    needed = ["read", "embed", *(["search"] if texts > 1 else []), "graph"]
    missing = [name for name in needed if name not in stages]
    if missing:
        raise ConfigError([f"{run.path} has no finished {missing[-1]}; finish it with covey run first"])
    for name in ("texts", "vectors"):
        if not parts(run / name):
            raise StageError(f"{run / name} is missing. {REDO_HINT}")
