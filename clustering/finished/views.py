"""A finished run in; other views of it, each in a directory of its own that shares its files, out."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustering.config.sections import RunConfig
from clustering.errors import ConfigError
from clustering.finished.recluster import change_config, recluster_from, require_search
from clustering.runs.directory import RunDir
from clustering.runs.inventory import ARTEFACTS, LOCK, MANIFEST, PENDING, PROGRESS, STAGE_ARTEFACTS
from clustering.runs.parts import walk_tables
from clustering.runs.saved_config import load_run_config
from clustering.runs.storage import atomic_write, write_json

NAME = re.compile(r"[\w][\w.-]{0,60}")


def find_view(run: RunDir, name: str) -> Path:
    """Where the view of a name lies, beside the run as ``<run>-<name>``; it need not be there yet.

    Raises: ConfigError for a name that is none, a run in an object store, one that is not finished, and a directory of
        that name that is no view of this run, or of what the run was before it was read, embedded or searched anew.
    """
    if not NAME.fullmatch(name):
        raise ConfigError([f"--into={name[:60]!r} is no name of a view; take letters, digits, -, _ and ."])
    if not isinstance(run.path, Path):
        raise ConfigError([f"--into needs a run directory on a disk; {run.path} lies in an object store"])
    if not run.is_complete:
        raise ConfigError([f"{run.path} holds no finished run; finish it with covey run first"])
    place = run.path.with_name(f"{run.path.name}-{name}")
    if place.exists() and not ((place / MANIFEST).exists() and _shared(RunDir(place)) == _shared(run)):
        raise ConfigError([f"{place} is no view of {run.path} as it is now: its texts, vectors or neighbors are "
                           f"others. Remove it, or take another name"])  # fmt: skip
    return place


def _shared(run: RunDir) -> dict[str, tuple[str, float]]:
    """What a run and its views have in common, and no other run: the stages up to the search, and when they ended."""
    stages = run.results["stages"]
    return {
        name: (stages[name]["fingerprint"], stages[name]["finished"])
        for name in ("read", "embed", "search")
        if name in stages
    }


def _make_view(run: RunDir, place: Path) -> None:
    """The run's directory once more, without its report, so that nobody takes it for finished before it is clustered.

    Its files are links to those of the run and take no room; what is made anew replaces them there alone.
    """
    assert isinstance(run.path, Path)  # find_view refuses others
    half = place.with_name(f".{place.name}.tmp")
    shutil.rmtree(half, ignore_errors=True)  # of a command that was killed
    half.mkdir()
    try:
        for artefact in (*ARTEFACTS, PENDING):
            path = run.path / artefact
            if artefact in (PROGRESS, *STAGE_ARTEFACTS["report"]) or not path.exists():
                continue
            if path.is_dir():
                shutil.copytree(path, half / artefact, copy_function=_link)
            else:
                _link(path, half / artefact)
        manifest = run.manifest
        manifest |= {**manifest.pop("previous", {}), "id": secrets.token_hex(6), "collection": None}  # the run's alone
        manifest["stages"].pop("report", None)
        manifest.get("swapped", {}).pop("report", None)
        for config in (manifest.get("config"), manifest.get("origin")):
            if config:
                config["run"]["dir"] = str(place)
        (half / LOCK).touch()
        write_json(half / MANIFEST, manifest)
        half.rename(place)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise


def _check_view(
    run: RunDir, name: str, overrides: Sequence[str], config_file: str | Path | None, trusted: bool
) -> tuple[Path, RunConfig]:
    """Where a view lies, and the run's configuration there. Raises: as ``recluster_view``, before anything is made."""
    place = find_view(run, name)
    require_search(run, run.results["stages"])
    original = load_run_config(run, original=True)
    original = replace(original, run=replace(original.run, dir=str(place)))
    change_config(original, overrides, config_file, trusted)
    return place, original


def recluster_view(
    run: RunDir,
    name: str,
    overrides: Sequence[str],
    config_file: str | Path | None = None,
    trusted: bool = False,
) -> RunDir:
    """Cluster a finished run with other settings in a view of it, a directory beside it that shares its files.

    The settings are those of the run with ``overrides``, also where the view is there. A new view whose clustering does
    not finish is removed; one that was there keeps its results.
    overrides, config_file, trusted : as in ``recluster_run``
    Raises: ConfigError as ``find_view`` and ``recluster_run`` do, before anything is made for a wrong name or setting.
    """
    place, original = _check_view(run, name, overrides, config_file, trusted)
    is_new = not place.exists()
    if is_new:
        _make_view(run, place)
    try:
        return recluster_from(original, RunDir(place), overrides, config_file, trusted)
    except BaseException:
        if is_new:
            shutil.rmtree(place, ignore_errors=True)
        raise


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
    Raises: ConfigError as ``recluster_view`` does, before a view is made if one of the values is wrong, and for a
        setting with fewer than two values.
    """
    key, equals, text = setting.partition("=")
    key = key.removeprefix("cluster.")
    values = list(dict.fromkeys(value.strip() for value in text.split(",") if value.strip()))
    if not equals or not re.fullmatch(r"\w+", key) or len(values) < 2:
        raise ConfigError([f"--sweep={setting[:80]!r}: write a key of cluster with several values, such as "
                           f"granularity=5000,20000,80000"])  # fmt: skip
    names = [re.sub(r"[^\w.-]", "_", f"{key}-{value}") for value in values]
    words = [[*overrides, f"cluster.{key}={value}"] for value in values]
    problems: list[str] = []
    for name, own in zip(names, words, strict=True):
        try:
            _check_view(run, name, own, config_file, trusted)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    tried = []
    for value, name, own in zip(values, names, words, strict=True):
        view = recluster_view(run, name, own, config_file, trusted)
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

    Two values are as like each other as the other way round, so of them the one with the higher modularity is taken.
    A value that gives one cluster or none tells nothing, and noise alone is like noise alone, so it is left out.
    Returns: the position of the value, None where each is left out; and the reason as a sentence.
    """
    useful = [at for at, one in enumerate(tried) if one.figures["count"] > 1]
    if not useful:
        return None, f"no value of {key} is recommended: none of them gives more than one cluster"
    sides = [[*agreement[max(at - 1, 0) : at], *agreement[at : at + 1]] for at in range(len(tried))]
    scores = [round(sum(side) / len(side), 2) for side in sides]
    middle = (len(tried) - 1) / 2
    kept = [one.figures["modularity"] or 0.0 if len(tried) == 2 else 0.0 for one in tried]
    best = max(useful, key=lambda at: (scores[at], kept[at], -abs(at - middle), -at))
    why = (
        f"its clusters are most like those of the values beside it (adjusted Rand index {scores[best]:.2f} on average, "
        f"1 is the same), so they depend least on the choice"
    )
    if len(tried) == 2:
        why = (
            f"its modularity is {kept[best]:.3f}, that of the other value {kept[1 - best]:.3f}; only of three "
            f"values or more the one is found whose clusters depend least on the choice"
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
