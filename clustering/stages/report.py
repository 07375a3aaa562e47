"""Every artefact in; the tables that users open, report.json, report.html and report.md out."""

from __future__ import annotations

from typing import Any

import numpy as np

from clustering import schema
from clustering.config.sections import RunConfig
from clustering.kernels.graph.time_gaps import HOUR, LEAST
from clustering.kernels.words import LEXICAL_DIM
from clustering.monitoring.times import cost_of
from clustering.runs.directory import RunDir
from clustering.runs.storage import ParquetGroups, atomic_write, read_table, write_json
from clustering.schema import Figures
from clustering.sources.folding import write_families
from clustering.text.languages import language_names
from clustering.viewer.findings import collect_findings, collect_syndication
from clustering.viewer.ids import pack_ids
from clustering.viewer.report_page import Report, choose_clusters, report_html, report_markdown
from clustering.viewer.words import count_records
from clustering.workers.labels import write_clusters, write_labels
from clustering.workers.tasks import run_on_one_node

COLLAPSED = 0.3  # share of the records in one cluster from which on the report warns
NOISY = 0.5  # likewise, share of the records that are noise
GOOD_RECALL = 0.95  # below, the report warns
RESOLUTION_BY = {
    "granularity": ", as fine as cluster.granularity says",
    "small groups": ", finer than usual, because many texts are in small groups",
    "usual": ", as fine as usual",
}


def write_report(run: RunDir, config: RunConfig) -> Figures:
    """Leave labels.parquet (a line for each record), tables of clusters and families, and the report.

    Returns: records.
    """
    read = run.manifest["stages"]["read"]["figures"]
    records = write_labels(run, uuids=read.get("uuid_ids", False))
    write_clusters(run)
    write_families(run)
    figures = collect_figures(run, config)
    write_json(run / "report.json", figures)
    run_on_one_node(write_pages, run, config, figures)
    return {"records": records}


def collect_figures(run: RunDir, config: RunConfig) -> Figures:
    """The content of report.json: what the stages measured, under the names that users read."""
    manifest = run.manifest
    done = {name: stage["figures"] for name, stage in manifest["stages"].items()}
    read, search, graph = done["read"], done.get("search", {}), done.get("graph", {})
    forest, clusters = done.get("forest", {}), done.get("cluster", {})
    encoder = config.embed.encoder if config.read.collection is None else None  # else the collection holds the vectors
    figures: Figures = {
        "counts": {
            **{name: read[name] for name in ("records", "texts", "empty", "dropped", "repeated_ids")},
            **_pick(read, "near_duplicates", "families", "outlets"),
        },
        "stages": {
            name: stage_figures(stage, manifest.get("plan", {}).get(name, {}), config)
            for name, stage in manifest["stages"].items()
        },
        "driver_bytes": max((figures.get("used", {}).get("driver_bytes", 0) for figures in done.values()), default=0),
        "embed": {
            "encoder": encoder,
            **_pick(done.get("embed", {}), "prompt", "lexical", "dim", "tokens", "requests", "cut", "unread",
                    "unusable", "not_finite", "languages", "unknown_share"),
        },
        "store": _pick(done.get("store", {}), "collection", "index", "metric", "rows", "rows_per_second", "segments",
                       "retries", "repaired_rows"),
        "search": _pick(search, "k", "index", "recall", "recall_low", "recall_high", "recall_sample",
                        "queries_per_second", "short_rows", "retries", "params", "target_recall", "target_reached",
                        "target_steps"),
        "graph": {**_pick(graph, "edges", "too_long", "time"), **_pick(forest, "pieces", "bridges", "pieces_left")},
        # certified, repaired and open count merges of a tree of the stored distances; with diffused ones, they are null
        "forest": _pick(forest, "edges", "certified", "repaired", "open", "queries", "isolated", "small_groups",
                        "group_size", "families"),
        "clusters": {
            "count": clusters.get("count", 0),
            "noise_share": clusters.get("noise_share", 0.0),
            "largest_share": clusters.get("largest_share", 0.0),
            "home_share": clusters.get("home_share", 0.0),
            **_pick(clusters, "with_text", "clustered", "noise", "modularity", "tiling", "resolution_by", "layer",
                    "layers"),
        },
        "describe": _pick(done.get("describe", {}), "vocabulary", "titles_failed"),
        "versions": manifest["versions"],
        "seed": manifest["seed"],
    }  # fmt: skip
    of_stages = [line for stage in done.values() for line in stage.get("warnings", [])]
    figures["warnings"] = [*of_stages, *collect_warnings(figures, config)]
    return figures


def stage_figures(stage: Figures, planned: Figures, config: RunConfig) -> Figures:
    """What a stage used, beside its plan.

    stage : its entry in the manifest
    Returns: seconds (of the start that finished it), peak_bytes (of its largest process), planned_bytes, cpu_seconds
        (used), gpu_seconds (reserved), and with run.prices the cost of the machines and of a server's tokens.
    """
    figures = stage["figures"]
    used = figures.get("used", {})
    cost = {}
    if config.run.prices and used:
        tokens = figures["tokens"] if figures.get("requests") else 0  # of a server of embeddings
        cost = {"cost": round(cost_of(stage["seconds"], used, config, tokens) or 0, 4)}
    return {"seconds": stage["seconds"], "peak_bytes": figures.get("peak_bytes"),
            "planned_bytes": planned.get("memory"), "cpu_seconds": used.get("cpu_seconds", 0),
            "gpu_seconds": used.get("gpu_seconds", 0), **cost}  # fmt: skip


def _pick(figures: Figures, *names: str) -> Figures:
    return {name: figures.get(name) for name in names}


def collect_warnings(figures: Figures, config: RunConfig) -> list[str]:
    """What a user must know before relying on the clusters, with the remedy."""
    counts, clusters, search = (figures[name] for name in ("counts", "clusters", "search"))
    graph, forest = figures["graph"], figures["forest"]
    by_links = config.cluster.selection == "modularity"
    warnings: list[str] = []
    if counts["texts"] == 0:
        return [f"There was nothing to cluster: none of the {counts['records']} records has a text."]
    if counts["repeated_ids"]:
        warnings.append(f"{counts['repeated_ids']} records repeat an id; labels.parquet has a line for each.")
    if clusters["count"] == 0:
        also = " or cluster.min_samples" if config.cluster.core_rank > 1 else ""
        warnings.append(f"No cluster was found. Lower cluster.min_cluster_size{also}.")
    elif clusters["largest_share"] > COLLAPSED:
        remedy = "a smaller cluster.granularity" if by_links else "cluster.selection=modularity"
        warnings.append(
            f"One cluster holds {clusters['largest_share']:.0%} of the records. Either the selection has collapsed, or "
            f"the texts have one subject. Try {remedy}."
        )
    if clusters["count"] and clusters["noise_share"] > NOISY:
        remedy = _noise_remedy(clusters, config)
        use = f"{remedy}, or use" if remedy else "Use"
        warnings.append(
            f"{clusters['noise_share']:.0%} of the records are noise. {use} the column home, which places noise, too."
        )
    if search["target_reached"] is False:
        warnings.append(
            f"The search did not reach search.target_recall={search['target_recall']}: its best recall was "
            f"{search['target_steps'][-1]['recall']:.3f}. Take store.index=FLAT, or a finer index (store.params)."
        )
    if search["recall"] is not None and search["recall"] < GOOD_RECALL:
        warnings.append(
            f"The search found only {search['recall']:.1%} of the true neighbors. Raise search.params (ef or nprobe), "
            f"or take store.index=FLAT."
        )
    if search["short_rows"]:
        warnings.append(f"The index gave {search['short_rows']:,} texts fewer than k={search['k']} neighbors.")
    if (graph["pieces_left"] or 1) > 1:
        effect = "A piece that is too small for a cluster is noise without a home"
        if config.cluster.weights == "distance":
            effect = f"graph.bridge={config.graph.bridge}, graph.max_distance={config.graph.max_distance} and "
            effect += f"cluster.budget={config.cluster.budget:,} leave them so"
        pieces = f"The graph is in {graph['pieces_left']:,} separate pieces"
        warnings.append(f"{pieces}. {effect}. A larger search.k leaves fewer pieces.")
    if forest["open"]:
        warnings.append(
            f"{forest['open']:,} of the tree's {forest['edges']:,} merges may differ from those of exact HDBSCAN, with "
            f"graph.bridge={config.graph.bridge} and cluster.budget={config.cluster.budget:,} "
            f"({forest['queries']:,} used). A larger budget or a larger search.k leaves fewer."
        )
    return warnings


def _noise_remedy(clusters: Figures, config: RunConfig) -> str:
    """A setting that gives less noise than this run's; "" where none is known."""
    if config.cluster.weights == "distance":
        return "Take cluster.weights=diffused"
    if config.cluster.core_rank > 1:
        return "Lower cluster.min_samples"
    layers, chosen = clusters["layers"] or [], clusters["layer"] or 0
    return "Take a broader layer" if any(layer["noise_share"] < NOISY for layer in layers[:chosen]) else ""


def write_pages(run: RunDir, config: RunConfig, figures: Figures) -> None:
    """Leave report.html and report.md."""
    path = run / "layers.parquet"
    size = read_table(path, columns=["size"])["size"].to_numpy() if path.exists() else np.zeros(0, np.int64)
    kept = choose_clusters(size)
    place = np.full(size.size, -1, np.int32)
    place[kept] = np.arange(kept.size)
    layers = ParquetGroups(path).take(kept, schema.LAYERS.names) if kept.size else schema.LAYERS.empty_table()
    picture = run / "map.png"
    report = Report(
        config.name, figures, layers, size.size, collect_findings(run, place), collect_syndication(run),
        picture.read_bytes() if picture.exists() else None, facts_of(figures, config), stage_table(figures, config),
        config.as_dict(), pack_ids(run, figures["counts"]["records"]),
    )  # fmt: skip
    for name, content in (("report.html", report_html(report)), ("report.md", report_markdown(report))):
        with atomic_write(run / name) as temporary:
            temporary.write_text(content, encoding="utf-8")


def facts_of(figures: Figures, config: RunConfig) -> list[tuple[str, str]]:
    """Names and values of the table of figures."""
    counts, clusters, search, graph = (figures[name] for name in ("counts", "clusters", "search", "graph"))
    embed, held = figures["embed"], count_records(figures)
    folded = held.with_text - counts["texts"]
    return [
        ("records", f"{counts['records']:,}"),
        ("distinct texts", f"{counts['texts']:,}, without {folded:,} copies and {counts['empty']:,} empty records"),
        *([("near-duplicates", _folded(counts))] if counts["families"] is not None else []),
        ("clusters", f"{clusters['count']:,}"),
        ("noise", f"{held.noise:,} records, {held.share(held.noise):.1%} of those with a text"),
        ("with a home", f"{clusters['home_share']:.1%} of the records with a text, by the column home"),
        ("largest cluster", f"{clusters['largest_share']:.1%} of the records with a text"),
        ("vectors", f"from {embed['encoder'] or 'the collection'}, {_dimensions(embed)}{_prompted(embed)}"),
        *([("server", _served(embed, config))] if embed["requests"] else []),
        ("languages", _languages(embed)),
        ("neighbors", f"{search['k']} of each text, from the index {_index(search)}; {_recall(search)}"),
        ("graph", f"{graph['edges'] or 0:,} edges, {_pieces(graph)}"),
        *([("times", _timed(graph["time"], config.cluster.time_scale != "auto"))] if graph["time"] else []),
        ("tree", _proven(figures["forest"], search)),
        ("layers", _layered(clusters)),
    ]


def _folded(counts: Figures) -> str:
    return f"{counts['near_duplicates']:,} in {counts['families']:,} families; families.parquet tells who carried them"


def _pieces(graph: Figures) -> str:
    if (graph["pieces"] or 1) == 1:
        return "in one piece"
    return f"in {graph['pieces']:,} pieces with {graph['bridges']:,} bridges between them"


def _timed(time: Figures, given: bool) -> str:
    """What the times of the texts did to the links between them. given : whether the scale was"""
    if not time["share"] and given:
        return "left aside: hardly a text has a time, so cluster.time_scale changes nothing"
    if not time["share"]:
        nearer = "near texts are hardly nearer in time than any two"
        few = "so few texts with times do not tell whether near texts are nearer in time"
        return f"left aside: {nearer if time['difference'] < LEAST else few}; cluster.time_scale=DAYS counts them"
    why = "as given" if given else "near texts are nearer in time than any two"
    return (
        f"a link between two texts {_span(time['days'])} apart loses {time['share'] * 0.63:.0%} of their similarity, "
        f"one between texts much further apart {time['share']:.0%}: {why} (cluster.time_scale)"
    )


def _span(days: float) -> str:
    if days < HOUR:
        return f"{days * 86_400:.2g} seconds"
    return f"{days * 24:.2g} hours" if days < 2 else f"{days:.2g} days"


def _proven(forest: Figures, search: Figures) -> str:
    if not forest["edges"]:
        return "no merges"
    if forest["certified"] is None:
        return (
            f"{forest['edges']:,} merges of diffused distances; by their neighbor lists, {forest['small_groups']:.0%} "
            f"of the texts are in small groups that stand alone, {forest['families'] or 0:.0%} in families within a "
            f"larger group"
        )
    shares = (forest[name] / forest["edges"] for name in ("certified", "repaired", "open"))
    proven, repaired, left = (f"{share:.2%}" for share in shares)
    return (
        f"{forest['edges']:,} merges: {proven} proven by the neighbor lists, {repaired} settled by comparing "
        f"{forest['queries']:,} texts with all others, {left} open; as exact as the neighbors from {search['index']}"
    )


def _layered(clusters: Figures) -> str:
    counts = [f"{layer['clusters']:,}" for layer in clusters["layers"] or []]
    if len(counts) < 2:
        return "one"
    by = RESOLUTION_BY.get(clusters["resolution_by"] or "", "")
    return f"{', '.join(counts)} clusters, from broad to fine; the labels are the {counts[clusters['layer']]}{by}"


def _dimensions(embed: Figures) -> str:
    dimensions, share = f"{embed['dim']} dimensions", embed["lexical"]
    words = f", {LEXICAL_DIM} of them for words, whose share in the cosine is {share or 0:g}"
    return f"{dimensions}{words}" if share else dimensions


def _prompted(embed: Figures) -> str:
    return f"; each text was read behind the prompt \u201c{embed['prompt']}\u201d" if embed["prompt"] else ""


def _languages(embed: Figures) -> str:
    if embed["languages"] is None:
        return "not measured"
    names = language_names(embed["languages"]) or "none for certain"
    unknown = embed["unknown_share"]
    of_tokens = "" if unknown is None else f"; {unknown:.1%} of the tokens are unknown words, bytes or letters"
    return f"{names}, by a sample{of_tokens}"


def _served(embed: Figures, config: RunConfig) -> str:
    tokens = f"{embed['tokens']:,} tokens by its count" if embed["tokens"] else "of tokens it tells no count"
    priced = "" if config.run.prices else "; run.prices.million_tokens puts their cost beside the stage"
    return f"{config.embed.model} at {config.embed.url}: {embed['requests']:,} requests, {tokens}{priced}"


def _index(search: Figures) -> str:
    words = ", ".join(f"{name}={value}" for name, value in (search["params"] or {}).items())
    return f"{search['index']} ({words})" if words else str(search["index"])


def _recall(search: Figures) -> str:
    if search["recall"] is None:
        return "recall not measured"
    low, high = search["recall_low"], search["recall_high"]
    measured = f"{low:.3f} to {high:.3f}, by exact search for {search['recall_sample']:,} texts"
    return f"recall {search['recall']:.3f} ({measured})"


def stage_table(figures: Figures, config: RunConfig) -> list[list[str]]:
    """The table of stages, headings first; the report itself is not among them, since it is still at work."""
    columns = ["stage", "seconds", "CPU seconds", "peak memory of a process, MiB", "planned, MiB"]
    gpus = any(stage["gpu_seconds"] for stage in figures["stages"].values())
    columns += ["GPU seconds"] if gpus else []
    prices = config.run.prices
    columns += [f"cost, {prices.currency}"] if prices else []
    rows = [columns]
    for name, stage in figures["stages"].items():
        row = [name, f"{stage['seconds']:.1f}", f"{stage['cpu_seconds'] or 0:.1f}", _mebibytes(stage["peak_bytes"]),
               _mebibytes(stage["planned_bytes"])]  # fmt: skip
        row += [f"{stage['gpu_seconds']:.1f}"] if gpus else []
        row += [f"{stage.get('cost', 0):.4f}"] if prices else []
        rows.append(row)
    return rows


def _mebibytes(count: Any) -> str:
    return f"{count / 2**20:.0f}" if count else ""
