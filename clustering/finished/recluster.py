"""A finished run and new settings in; the same run with the stages after the search done again, out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clustering.config.sections import RunConfig
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
from clustering.workers.nodes import forget_refused_nodes
from clustering.workers.session import ray_session


def recluster_run(
    run: RunDir, overrides: list[str], config_file: str | Path | None = None, trusted: bool = False
) -> RunDir:
    """Do a finished run's later stages again with new settings; vectors and neighbors stay as they are.

    overrides : words such as ``cluster.min_samples=3``, which change the settings of the run itself, not those of an
        earlier call; only sections after the search may be named
    config_file : a configuration that names the endpoint of the titles, if the run has one
    trusted : the endpoint in the run directory, which anybody may have prepared, is used
    Raises: ConfigError for other sections, wrong values, an endpoint that the user has not named, a run without
        texts, or a directory without a finished search.
    """
    return recluster_from(load_run_config(run, original=True), run, overrides, config_file, trusted)


def recluster_from(
    original: RunConfig, run: RunDir, overrides: Sequence[str], config_file: str | Path | None, trusted: bool
) -> RunDir:
    """``recluster_run``, but the settings that the words change are given: original."""
    config, is_confirmed = change_config(original, overrides, config_file, trusted)
    with run.locked():
        stages = run.results["stages"]
        require_search(run, stages)
        # The earlier stages keep their saved fingerprints, because the input files may be gone.
        fingerprints = later_fingerprints(config, stages["search"]["fingerprint"] if "search" in stages else "")
        if not run.finished("describe", fingerprints["describe"]):
            if not is_confirmed:
                refuse_untrusted(config, run.path)
            check_titles(config.describe.titles)
        kept = {name: stage["fingerprint"] for name, stage in stages.items() if name not in fingerprints}
        read = stages["read"]["figures"]
        with ray_session():
            forget_refused_nodes()
            run.begin({**kept, **fingerprints}, config=config.as_dict(), origin=original.as_dict())
            dim = stages["embed"]["figures"].get("dim") or GUESSED_DIM  # no model that the directory names is loaded
            make_plan(config, run, read, dim, run.unfinished(fingerprints))
            # The store is not used, so no token goes to a URL that only the directory names.
            cluster_stages(config, run, fingerprints, read["texts"])
            run.publish()
    return run


def change_config(
    original: RunConfig, overrides: Sequence[str], config_file: str | Path | None, trusted: bool
) -> tuple[RunConfig, bool]:
    """What ``apply_overrides`` gives. Raises: ConfigError for words of sections that do not come after the search."""
    later = ("graph", "cluster", "describe", "project", "plot")
    wrong = [word for word in overrides if word.partition(".")[0] not in later]
    if wrong:
        raise ConfigError([f"recluster takes keys of {', '.join(later)} only, not '{word}'" for word in wrong])
    return apply_overrides(original, list(overrides), config_file, trusted)


def require_search(run: RunDir, stages: Figures) -> None:
    """Raises: ConfigError without texts, and when the stages up to the graph are not finished; one text has no search.

    StageError when their artefacts are missing.
    """
    texts = stages.get("read", {}).get("figures", {}).get("texts")
    if texts == 0:
        raise ConfigError([f"{run.path}: the run has no texts, so there is nothing to cluster"])
    needed = ["read", "embed", *(["search"] if texts != 1 else []), "graph"]
    missing = [name for name in needed if name not in stages]
    if missing:
        raise ConfigError([f"{run.path} has no finished {missing[-1]}; finish it with covey run first"])
    for name in ("texts", "vectors"):
        if not parts(run / name):
            raise StageError(f"{run / name} is missing. {REDO_HINT}")
