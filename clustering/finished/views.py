"""A finished run in; other views of it, each in a directory of its own that shares its files, out."""

from __future__ import annotations

import copy
import os
import re
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustering.errors import ConfigError
from clustering.finished.recluster import recluster_run
from clustering.runs.directory import RunDir
from clustering.runs.inventory import ARTEFACTS, LOCK, MANIFEST, PENDING, PROGRESS
from clustering.runs.parts import walk_tables
from clustering.runs.storage import atomic_write, write_json

NAME = re.compile(r"[\w][\w.-]{0,60}")


def make_view(run: RunDir, name: str) -> RunDir:
    """The run's directory once more, beside it as ``<run>-<name>``, to be clustered otherwise.

    Its files are links to those of the run and take no room; what is made anew replaces them there alone. A view that
    is already there is returned as it is.
    Raises: ConfigError for a name that is none, a run in an object store, one that is not finished, and a directory of
        that name that is no view of this run.
    """
    if not NAME.fullmatch(name):
        raise ConfigError([f"--into={name[:60]!r} is no name of a view; take letters, digits, -, _ and ."])
    if not isinstance(run.path, Path):
        raise ConfigError([f"--into needs a run directory on a disk; {run.path} lies in an object store"])
    if not run.is_complete:
        raise ConfigError([f"{run.path} holds no finished run; finish it with covey run first"])
    place = run.path.with_name(f"{run.path.name}-{name}")
    view = RunDir(place)
    if place.exists():
        if (view / MANIFEST).exists() and _read(view) == _read(run):
            return view
        raise ConfigError([f"{place} is no view of {run.path}; take another name for --into"])
    half = place.with_name(f".{place.name}.tmp")
    shutil.rmtree(half, ignore_errors=True)  # of a command that was killed
    half.mkdir()
    try:
        for artefact in (*ARTEFACTS, PENDING):
            path = run.path / artefact
            if artefact == PROGRESS or not path.exists():
                continue
            if path.is_dir():
                shutil.copytree(path, half / artefact, copy_function=_link)
            else:
                _link(path, half / artefact)
        manifest = copy.deepcopy(run.manifest) | {"id": secrets.token_hex(6), "collection": None}  # the run's alone
        for config in (manifest.get("config"), manifest.get("origin")):
            if config:
                config["run"]["dir"] = str(place)
        (half / LOCK).touch()
        write_json(half / MANIFEST, manifest)
        half.rename(place)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise
    return view


def _read(run: RunDir) -> Any:
    """What tells a run and its views from others: when its input was read, and what from."""
    return run.results["stages"].get("read")


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        shutil.copy2(source, target)


@dataclass(frozen=True)
class Tried:
    """A run with one of the values of a sweep."""

    value: str
    run: RunDir
    figures: dict[str, Any]  # clusters of report.json
    labels: NDArray[np.int32]  # of each text


@dataclass(frozen=True)
class Sweep:
    """The runs of a sweep, in the order of their values.

    agreement : adjusted Rand index of each run's labels with those of the next one, noise as a cluster
    best : position of the value that is recommended, None where none is; reason : why, as a sentence
    """

    key: str
    tried: list[Tried]
    agreement: list[float]
    best: int | None
    reason: str

    def lines(self) -> list[str]:
        """The table, a line a value, and the recommendation."""
        width = max(len(self.key), *(len(one.value) for one in self.tried))
        found = [f"{self.key:>{width}}  clusters   noise  largest  modularity  like the next"]
        for one, next_one in zip(self.tried, [*self.agreement, None], strict=True):
            figures = one.figures
            like = "" if next_one is None else f"{next_one:.2f}"
            modularity = "" if figures.get("modularity") is None else f"{figures['modularity']:.3f}"
            found.append(f"{one.value:>{width}} {figures['count']:>9,} {figures['noise_share']:>7.1%} "
                         f"{figures['largest_share']:>8.1%} {modularity:>11} {like:>14}".rstrip())  # fmt: skip
        return [*found, self.reason]


def sweep(
    run: RunDir,
    setting: str,
    overrides: Sequence[str] = (),
    config_file: str | Path | None = None,
    trusted: bool = False,
) -> Sweep:
    """Cluster a finished run with several values of a key of ``cluster``, each into a view of its own.

    setting : such as ``granularity=5000,20000,80000``; overrides : what all of them have besides
    config_file, trusted : as in ``recluster_run``
    Raises: ConfigError as ``make_view`` and ``recluster_run`` do, and for a setting with fewer than two values.
    """
    key, equals, text = setting.partition("=")
    key = key.removeprefix("cluster.")
    values = list(dict.fromkeys(value.strip() for value in text.split(",") if value.strip()))
    if not equals or not re.fullmatch(r"\w+", key) or len(values) < 2:
        raise ConfigError([f"--sweep={setting[:80]!r}: write a key of cluster with several values, such as "
                           f"granularity=5000,20000,80000"])  # fmt: skip
    tried = []
    for value in values:
        view = make_view(run, re.sub(r"[^\w.-]", "_", f"{key}-{value}"))
        recluster_run(view, [*overrides, f"cluster.{key}={value}"], config_file, trusted)
        tables = walk_tables([view / "assignment.parquet"], ["label"])
        labels = np.concatenate([table["label"].to_numpy() for table in tables])
        tried.append(Tried(value, view, view.report["clusters"], labels))
    agreement = [_agreement(one.labels, other.labels) for one, other in pairwise(tried)]
    best, reason = recommend(key, tried, agreement)
    return Sweep(key, tried, agreement, best, reason)


def _agreement(left: NDArray[np.int32], right: NDArray[np.int32]) -> float:
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(left, right))


def recommend(key: str, tried: Sequence[Tried], agreement: Sequence[float]) -> tuple[int | None, str]:
    """The value whose clusters stay most as they are with the values beside it; of equals, the one in the middle.

    A value that gives one cluster or none tells nothing, and noise alone is like noise alone, so it is left out.
    Returns: the position of the value, None where each is left out; and the reason as a sentence.
    """
    useful = [at for at, one in enumerate(tried) if one.figures["count"] > 1]
    if not useful:
        return None, f"no value of {key} is recommended: none of them gives more than one cluster"
    sides = [[*agreement[max(at - 1, 0) : at], *agreement[at : at + 1]] for at in range(len(tried))]
    scores = [round(sum(side) / len(side), 2) for side in sides]
    middle = (len(tried) - 1) / 2
    best = max(useful, key=lambda at: (scores[at], -abs(at - middle), -at))
    why = (
        f"its clusters are most like those of the values beside it (adjusted Rand index {scores[best]:.2f} on average, "
        f"1 is the same), so they depend least on the choice"
    )
    if len(useful) == 1:
        why = "no other value gives more than one cluster"
    return best, f"{key}={tried[best].value}: {why}. It lies in {tried[best].run.path}"


def draw_sweep(found: Sweep, path: Path) -> None:
    """Leave a picture: clusters, noise and agreement for each value."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    counts, shares = figure.subplots(2, 1, sharex=True)
    places = range(len(found.tried))
    counts.bar(places, [one.figures["count"] for one in found.tried], color="#5b7fd6", width=0.5)
    counts.set_ylabel("clusters")
    shares.plot(places, [one.figures["noise_share"] for one in found.tried], "o-", color="#8a8678", label="noise")
    shares.plot(places, [one.figures["largest_share"] for one in found.tried], "s-", color="#b98200", label="largest")
    between = [at + 0.5 for at in places[:-1]]
    shares.plot(between, found.agreement, "^--", color="#0072b2", label="agreement of neighbors")
    shares.set_ylim(0, 1.02)
    shares.set_xticks(list(places), [one.value for one in found.tried])
    shares.set_xlabel(f"cluster.{found.key}")
    shares.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    recommended = "none" if found.best is None else found.tried[found.best].value
    counts.set_title(f"recommended: {recommended}", fontsize=10)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
