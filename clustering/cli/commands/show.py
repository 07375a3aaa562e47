"""Print a run's clusters: the largest of a layer, or one with its texts."""

from __future__ import annotations

import shutil
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from clustering.cli import add_run
from clustering.kernels.printable import one_line, printable

if TYPE_CHECKING:
    from clustering.runs.directory import RunDir

LARGEST = 30  # clusters of a layer


def add_arguments(parser: ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--layer", type=int, metavar="N", help="0 is the broadest (default: that of the labels)")
    parser.add_argument("--cluster", type=int, metavar="LABEL", help="one cluster, of any layer")
    parser.add_argument("--all", action="store_true", help=f"all clusters, not the {LARGEST} largest")


def execute(args: Namespace) -> None:
    """Print a table of clusters, or a cluster."""
    from clustering.errors import ConfigError
    from clustering.runs.directory import RunDir

    run = RunDir(args.run)
    if not run.is_complete and not (run / "report.json").exists():
        raise ConfigError([f"{run.path} holds no finished run; covey status --run {args.run} says how far it is"])
    if args.cluster is not None:
        lines = cluster_lines(run, args.cluster)
    else:
        lines = table_lines(run, args.layer, None if args.all else LARGEST)
    for line in lines:
        print(printable(line))


def table_lines(run: RunDir, layer: int | None = None, most: int | None = 10) -> Iterator[str]:
    """The largest clusters of a layer, a line each; first what the columns are.

    layer : None for that of the labels; most : None for all
    Raises: ConfigError for a layer that the run does not have; StageError for a run that is not finished.
    """
    from clustering.errors import ConfigError
    from clustering.viewer.words import count_records

    figures = run.report
    if not figures["counts"]["texts"]:
        yield "the run has no texts"
        return
    asked = "" if layer is None else f" --layer {layer}"
    n_layers = len(figures["clusters"]["layers"] or []) or 1
    layer = (figures["clusters"]["layer"] or 0) if layer is None else layer
    if not 0 <= layer < n_layers:
        has = f"{n_layers} layers, of which 0 is the broadest" if n_layers > 1 else "one layer, which is 0"
        raise ConfigError([f"--layer={layer}: the run has {has}"])
    found = [cluster for cluster in _clusters(run) if layer in cluster["layers"]]
    found.sort(key=lambda cluster: (-cluster["size"], cluster["label"]))
    held = count_records(figures)
    width = max(shutil.get_terminal_size((100, 24)).columns - 26, 20)
    yield f"{'label':>7} {'records':>9} {'share':>6}  title" if found else "no clusters"
    for cluster in found[:most]:
        share = held.share(cluster["size"])
        yield f"{cluster['label']:>7} {cluster['size']:>9,} {share:>6.1%}  {one_line(cluster['title'], width)}"
    if most is not None and len(found) > most:
        yield f"{'':>7} and {len(found) - most:,} more; covey show --run {run.path}{asked} --all shows them"


def cluster_lines(run: RunDir, label: int) -> Iterator[str]:
    """A cluster with its texts, and the clusters around and in it.

    Raises: ConfigError for a label that no cluster has; StageError for a run that is not finished.
    """
    from clustering.errors import ConfigError

    if not run.report["counts"]["texts"]:
        raise ConfigError([f"--cluster={label}: the run has no texts, and so no clusters"])
    clusters = _clusters(run)
    if not 0 <= label < len(clusters):
        has = f"has the clusters 0 to {len(clusters) - 1}" if clusters else "has no clusters"
        raise ConfigError([f"--cluster={label}: the run {has}"])
    cluster = clusters[label]
    inside = "" if cluster["link_share"] is None else f", {cluster['link_share']:.0%} of their links inside"
    yield one_line(cluster["title"])
    yield f"label {label}, {cluster['size']:,} records, {cluster['texts']:,} different texts{inside}"
    yield f"terms: {one_line(', '.join(cluster['terms']))}"
    if cluster["parent"] is not None:
        yield f"in {cluster['parent']}: {one_line(clusters[cluster['parent']]['title'])}"
    for text in cluster["exemplars"]:
        yield f"  - {one_line(text, 300)}"
    held = [one for one in clusters if one["parent"] == label]
    held.sort(key=lambda one: -one["size"])
    for one in held:
        yield f"  holds {one['label']}: {one_line(one['title'], 100)} ({one['size']:,})"


def _clusters(run: RunDir) -> list[dict[str, Any]]:
    """Those of all layers, by label."""
    from clustering.runs.storage import read_table

    with run.naming_missing_artefacts():
        found: list[dict[str, Any]] = read_table(run / "layers.parquet").to_pylist()
    return found
