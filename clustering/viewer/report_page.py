"""A run's figures, clusters and findings in; report.html, a page that loads nothing, and report.md out."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from clustering.kernels.printable import one_line
from clustering.kernels.topk import IntArray
from clustering.schema import Figures
from clustering.viewer.findings import CARRIERS, NO_TIME, NOISE, Findings, Syndication
from clustering.viewer.page import fill_frame, packed_text, script
from clustering.viewer.words import DOUBTED, count_records, day, doubts, moving, opening, repeated, trust

SCRIPTS = ("data.js", "dom.js", "report.js")
SHOWN_CLUSTERS = 20_000  # of all layers
STATIC = 20  # clusters that stand in the page without its script, and in report.md
TITLE_CHARACTERS, TEXT_CHARACTERS, TERM_CHARACTERS = 200, 240, 60
SHOWN_TEXTS = 5


@dataclass
class Report:
    """What the pages tell.

    layers : of layers.parquet, the largest clusters; findings : of these
    n_clusters : of all layers
    picture : map.png; None without a map
    ids : pack of ``ids.pack_ids``
    facts, stages : tables of cells, the second with a first line of headings
    """

    name: str
    figures: Figures
    layers: pa.Table
    n_clusters: int
    findings: Findings
    syndication: Syndication
    picture: bytes | None
    facts: list[tuple[str, str]]
    stages: list[list[str]]
    config: dict[str, Any]
    ids: str | None = None

    @cached_property
    def clusters(self) -> list[dict[str, Any]]:
        """Lines of ``layers``."""
        found: list[dict[str, Any]] = self.layers.to_pylist()
        return found

    @cached_property
    def largest(self) -> list[int]:
        """Places in ``layers`` of the clusters of the labels, the largest first."""
        chosen = self.figures["clusters"].get("layer") or 0
        held = [at for at, cluster in enumerate(self.clusters) if chosen in cluster["layers"]]
        return sorted(held, key=lambda at: (-self.clusters[at]["size"], at))


def choose_clusters(size: IntArray, most: int = SHOWN_CLUSTERS) -> IntArray:
    """The labels of the clusters that the report shows, ascending: the largest of all layers, and so with each cluster
    the one around it. size : int64, shape (n_clusters,)"""
    order = np.argsort(-size, kind="stable")[:most]
    return np.sort(order)


def report_html(report: Report) -> str:
    """The page. Texts of others stand in it as text, with their direction set apart."""
    lines = opening(report.figures, _first(report), report.findings)
    words = {
        "TITLE": shown(f"Clusters of {report.name}"),
        "OPENING": "".join(f"<p>{shown(line)}</p>" for line in lines),
        "WARNINGS": "".join(f"<p class=warning>{shown(line)}</p>" for line in report.figures["warnings"]),
        "PICTURE": _picture(report.picture),
        "CLUSTERS": _static_table(report),
        "MISSING": _missing(report),
        "MOVING": _moving(report),
        "SYNDICATION": _syndication(report),
        "NOISE": _noise(report),
        "TRUST": _trust(report),
        "RUN": _run(report),
    }
    data = json.dumps(_data(report), ensure_ascii=False, separators=(",", ":"))
    packs = {"report": packed_text(data.encode()), **({} if report.ids is None else {"ids": report.ids})}
    return "".join(fill_frame("report.html", script(SCRIPTS), ("theme.css", "report.css"), words, packs))


def _first(report: Report) -> dict[str, Any] | None:
    return report.clusters[report.largest[0]] if report.largest else None


def _data(report: Report) -> dict[str, Any]:
    """What the page's script draws the table of all clusters from."""
    table, findings = report.layers, report.findings
    found = report.figures["clusters"]
    share = [None if one is None else round(one, 3) for one in table["link_share"].to_pylist()]
    labels = table["label"].to_pylist()
    place = {label: at for at, label in enumerate(labels)}
    columns: dict[str, Any] = {
        "label": labels,
        "title": _lines(table["title"].to_pylist(), TITLE_CHARACTERS),
        "terms": [_lines(own, TERM_CHARACTERS) for own in table["terms"].to_pylist()],
        "exemplars": [_lines(own[:SHOWN_TEXTS], TEXT_CHARACTERS) for own in table["exemplars"].to_pylist()],
        "size": table["size"].to_pylist(), "texts": table["texts"].to_pylist(), "inside": share,
        "parent": [-1 if one is None else place[one] for one in table["parent"].to_pylist()],
        "layers": table["layers"].to_pylist(),
        "border": findings.border or [[] for _ in range(len(table))],
    }  # fmt: skip
    if findings.times is not None and findings.first is not None and findings.last is not None:
        seen = {"first": findings.first.tolist(), "last": findings.last.tolist()}
        columns |= {name: [None if one == NO_TIME else one for one in of] for name, of in seen.items()}
        columns["times"] = findings.times.tolist()
        columns["earliest"] = findings.earliest
        columns["tied"] = [] if findings.tied is None else findings.tied.tolist()
    if findings.n_sources is not None:
        columns |= {"sources": findings.sources, "n_sources": findings.n_sources.tolist()}
    return {
        "records": count_records(report.figures).with_text, "chosen": found.get("layer") or 0,
        "layers": [layer["clusters"] for layer in found.get("layers") or []] or [found["count"]],
        "all": report.n_clusters, "map": report.picture is not None, "ids": report.ids is not None,
        "span": None if findings.times is None else list(findings.span), "clusters": columns,
    }  # fmt: skip


def _lines(texts: Iterable[str], most: int) -> list[str]:
    return [one_line(text, most) for text in texts]


def _picture(picture: bytes | None) -> str:
    if picture is None:
        return "<p class=quiet>No map was drawn.</p>"
    encoded = base64.b64encode(picture).decode()
    return (
        f'<img alt="Map of the texts" src="data:image/png;base64,{encoded}">'
        f'<figcaption><a class=button href="map.html">Open the map</a></figcaption>'
    )


def _static_table(report: Report) -> str:
    """The largest clusters, for who opens the page without its script."""
    rows = ""
    for cluster in (report.clusters[at] for at in report.largest[:STATIC]):
        texts = "".join(f"<li>{said(text)}" for text in cluster["exemplars"][:3])
        terms = f"<span class=quiet>{shown(', '.join(_lines(cluster['terms'], TERM_CHARACTERS)))}</span>"
        rows += (
            f"<tr><td class=n>{cluster['label']}<td>{said(cluster['title'], TITLE_CHARACTERS)}<br>{terms}"
            f"<td class=n>{cluster['size']:,}<td><ul>{texts}</ul></tr>"
        )
    return f"<tr><th class=n>label<th>cluster<th class=n>records<th>texts</tr>{rows}" if rows else ""


def _missing(report: Report) -> str:
    """What the table lacks, and the setting that brings it."""
    settings, told = report.config.get("read") or {}, ""
    for kind, key, held in (
        ("dates", "time_column", report.findings.times), ("sources", "source_column", report.findings.n_sources)
    ):  # fmt: skip
        if held is None and settings.get(key):
            told += f" No {kind} in this run: the column {settings[key]} (read.{key}) holds none."
        elif held is None:
            told += f" No {kind} in this run: read.{key} names their column."
    return f"<p class=quiet>{shown(told)}</p>" if told else ""


def _moving(report: Report) -> str:
    blocks = ""
    for title, found in zip(("Rising", "Fading"), moving(report.largest, report.findings), strict=True):
        items = "".join(f"<li>{_link(report.clusters[at])}: {shown(what)}" for at, what in found)
        blocks += f"<div><h3>{title}</h3><ul>{items}</ul></div>" if items else ""
    return (
        f"<section id=moving><h2>What rises, what fades</h2><div class=two>{blocks}</div></section>" if blocks else ""
    )


def _syndication(report: Report) -> str:
    counts, syndication = report.figures["counts"], report.syndication
    several = [one for one in syndication.families if one["records"] > 1]
    if not several:
        return ""
    items = "".join(
        f"<li>{said(one['leader'])} <span class=quiet>{one['records']:,} records, "
        f"{one['texts']:,} {'wording' if one['texts'] == 1 else 'wordings'}"
        f"{'; ' + shown(', '.join(one['sources'])) if one['sources'] else ''}</span>"
        for one in several
    )
    carried = "".join(
        f"<tr><td>{said(other)}<td>{said(source)}<td class=n>{count:,}" for source, other, count in syndication.carried
    )
    table = f"<h3>Who carries whom</h3><table><tr><th>carries<th>after<th class=n>texts</tr>{carried}</table>"
    among = "" if syndication.all_sources else f" Counted among the {CARRIERS:,} sources that share most texts."
    table += f"<p class=quiet>Texts that one source had before all others, by the times of the records.{among}</p>"
    told = f"<p>{shown(repeated(report.figures))}</p>" if counts.get("families") else ""
    return (
        f"<section id=syndication><h2>The same text again</h2>{told}<div class=two><div><h3>Most carried</h3>"
        f"<ul>{items}</ul></div>{f'<div>{table}</div>' if carried else ''}</div>"
        f"<p class=quiet>All are in families.parquet.</p></section>"
    )


def _noise(report: Report) -> str:
    items = "".join(f"<li>{said(text)}" for text in report.findings.noise[:NOISE])
    if not items:
        return ""
    held = count_records(report.figures)
    fit = "record fits" if held.noise == 1 else "records fit"
    return (
        f"<section id=noise><h2>Noise</h2><p>{held.noise:,} {fit} no cluster (label -1), "
        f"{held.share(held.noise):.1%} of those with a text. The column home of labels.parquet names the cluster that "
        f"is nearest to each. Some of them:</p><ul>{items}</ul></section>"
    )


def _trust(report: Report) -> str:
    measured = "".join(f"<dt>{shown(what)}<dd>{shown(means)}" for what, means in trust(report.figures))
    found = doubts(report.clusters, report.largest, report.figures, report.findings)
    items = "".join(f"<li>{_link(report.clusters[at])} {shown(reason)}" for at, reason in found[:DOUBTED])
    more = f"<p class=quiet>{len(found) - DOUBTED:,} smaller ones likewise.</p>" if len(found) > DOUBTED else ""
    doubted = f"<h3>Clusters to look at before you use them</h3><ul>{items}</ul>{more}" if items else ""
    return f"<dl>{measured}</dl>{doubted}"


def _run(report: Report) -> str:
    facts = "".join(f"<tr><th>{shown(name)}<td>{shown(value)}</tr>" for name, value in report.facts)
    stages = "".join(
        f"<tr><{tag}>{shown(cells[0])}{''.join(f'<{tag} class=n>{shown(cell)}' for cell in cells[1:])}</tr>"
        for tag, cells in zip(["th", *["td"] * len(report.stages)], report.stages, strict=False)
    )
    versions = ", ".join(f"{name} {version}" for name, version in report.figures["versions"].items())
    config = html.escape(yaml.safe_dump(report.config, sort_keys=False, allow_unicode=True, width=100))
    config = re.sub("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", "\ufffd", config)
    return (
        f"<details><summary>Figures</summary><table>{facts}</table></details>"
        f"<details><summary>Stages, time and memory</summary><div class=wide><table>{stages}</table></div></details>"
        f"<details><summary>Configuration</summary><pre>{config}</pre></details>"
        f"<p class=quiet>Made with {shown(versions)}; seed {report.figures['seed']}. report.json has all figures.</p>"
    )


def _link(cluster: dict[str, Any]) -> str:
    return f'<a href="#cluster-{cluster["label"]}">{said(cluster["title"], TITLE_CHARACTERS)}</a>'


def shown(text: str, most: int | None = None) -> str:
    return html.escape(one_line(text, most))


def said(text: str, most: int | None = TEXT_CHARACTERS) -> str:
    """A text of others."""
    return f"<bdi>{shown(text, most)}</bdi>"


# --- Markdown ---


def report_markdown(report: Report) -> str:
    """The same in short, for terminals and pull requests."""
    lines = [f"# Clusters of {_plain(report.name)}", ""]
    lines += map(_plain, opening(report.figures, _first(report), report.findings))
    lines += [f"> **Warning:** {_plain(line)}\n>" for line in report.figures["warnings"]]
    clusters, first = report.clusters, report.findings.first
    if report.largest:
        lines += ["", f"| label | records | title |{'' if first is None else ' first seen |'}",
                  f"| ---: | ---: | --- |{'' if first is None else ' --- |'}"]  # fmt: skip
    for at in report.largest[:STATIC]:
        cells = [str(clusters[at]["label"]), f"{clusters[at]['size']:,}", _title(clusters[at])]
        cells += [] if first is None else ["" if first[at] == NO_TIME else day(int(first[at]))]
        lines.append(f"| {' | '.join(cells)} |")
    more = report.figures["clusters"]["count"] - STATIC
    where = "and" if report.n_clusters == len(clusters) else "and the largest of them in"
    lines += ["", f"{more:,} more are in clusters.csv {where} report.html."] if more > 0 else []
    for title, found in zip(("Rising", "Fading"), moving(report.largest, report.findings), strict=True):
        lines += ["", f"## {title}", ""] if found else []
        lines += [f"- {_title(clusters[at])}: {what}" for at, what in found]
    lines += ["", "## Can I trust it?", ""]
    lines += [f"- {what[:1].upper()}{what[1:]}. {means}" for what, means in trust(report.figures)]
    doubted = doubts(clusters, report.largest, report.figures, report.findings)[:DOUBTED]
    lines += [f"- {_title(clusters[at])} {_plain(reason)}." for at, reason in doubted]
    return "\n".join(lines) + "\n"


def _title(cluster: dict[str, Any]) -> str:
    return _plain(cluster["title"], TITLE_CHARACTERS)


def _plain(text: str, most: int | None = None) -> str:
    """A text in Markdown as it stands: what would be markup is escaped."""
    return re.sub(r"([\\`*_{}\[\]<>|#!~&])", r"\\\1", one_line(text, most))
