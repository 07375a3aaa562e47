"""Figures and clusters of a run in; what they mean, as sentences for people, out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import betainc

from clustering.kernels.printable import one_line
from clustering.schema import Figures
from clustering.text.languages import language_of
from clustering.viewer.findings import BINS, Findings

TITLE_CHARACTERS = 100
LARGE, LOOSE, ONE_SOURCE, SMALL = 0.15, 0.5, 0.9, 10  # from which, or up to which, a cluster is to be doubted
SPOKEN = 0.05  # of the texts, from which a language counts as one of the run's
DOUBTED, MOVING = 12, 6  # that are named at most
CHANCE = 0.01  # that any cluster of a run without trends is said to rise, and likewise to fade
RECENT = BINS // 5  # spans of time that count as the end


@dataclass(frozen=True)
class RecordCounts:
    """with_text : records that have one, of which all shares are; clustered, noise : of these, in a cluster, in none"""

    with_text: int
    clustered: int
    noise: int

    def share(self, records: int) -> float:
        return records / max(self.with_text, 1)


def count_records(figures: Figures) -> RecordCounts:
    """From report.json; that of an earlier version has shares alone, which round the counts."""
    counts, clusters = figures["counts"], figures["clusters"]
    with_text = clusters.get("with_text")
    if with_text is not None:
        return RecordCounts(with_text, clusters["clustered"], clusters["noise"])
    with_text = counts["records"] - counts.get("empty", 0)
    noise = round(clusters.get("noise_share", 0) * with_text)
    return RecordCounts(with_text, with_text - noise, noise)


def opening(figures: Figures, largest: dict[str, Any] | None, findings: Findings) -> list[str]:
    """What is in the run, as sentences. largest : of the clusters of the labels, a line of layers.parquet"""
    counts, clusters, held = figures["counts"], figures["clusters"], count_records(figures)
    fell = f"{_count(held.clustered, 'record')} fell into {_count(clusters['count'], 'cluster')}"
    none = f"{held.noise:,} {'fits' if held.noise == 1 else 'fit'} none ({held.share(held.noise):.1%})"
    empty = counts.get("empty", 0)
    lost = counts["records"] - empty - held.with_text
    left = f"; {empty:,} {'has' if empty == 1 else 'have'} no text" if empty else ""
    left += f"; {lost:,} {'has' if lost == 1 else 'have'} no vector" if lost else ""
    lines = [f"{fell}; {none}{left}."]
    if largest is not None:
        title = one_line(largest["title"], TITLE_CHARACTERS)
        lines.append(f"The largest is “{title}” with {largest['size']:,} ({held.share(largest['size']):.1%}).")
    if (layers := clusters.get("layers") or [])[1:]:
        counts_of, chosen = [layer["clusters"] for layer in layers], clusters["layer"]
        others = [_layers_of("broader", counts_of[:chosen]), _layers_of("finer", counts_of[chosen + 1 :])]
        lines.append(f"The {counts_of[chosen]:,} are the labels; {', '.join(filter(None, others))}.")
    if findings.times is not None:
        (first, last), (start, length) = findings.period, findings.span
        stop = min(last, start + BINS * length - 1)
        nearly = f", nearly all of them from {day(start)} to {day(stop)}"
        far = start - first > length or last - stop > length
        lines.append(f"They are from {day(first)} to {day(last)}{nearly if far else ''}.")
    texts = counts.get("texts", held.with_text)
    if texts < held.with_text:
        held_by = f"The {held.with_text:,} records hold {_count(texts, 'different text')}."
        lines.append(f"{held_by} {repeated(figures)}".strip())
    return lines


def repeated(figures: Figures) -> str:
    """How many texts are near-duplicates of others; "" where none is known."""
    counts = figures["counts"]
    families, copies = counts.get("families") or 0, counts.get("near_duplicates") or 0
    if not families:
        return ""
    other = "one other" if families == 1 else f"one of {families:,} others"
    say, count = ("say", "count") if copies > 1 else ("says", "counts")
    return f"{_count(copies, 'text')} {say} in nearly the same words what {other} says, and {count} as that one."


def trust(figures: Figures) -> list[tuple[str, str]]:
    """Whether the clusters can be relied on: what was measured, and what it means."""
    search, clusters, forest, embed = (figures[name] for name in ("search", "clusters", "forest", "embed"))
    found: list[tuple[str, str]] = []
    if search["recall"] is not None:
        low, high = search["recall_low"], search["recall_high"]
        found.append((
            f"{search['recall']:.1%} of the nearest neighbors were found",
            f"Exact search for {search['recall_sample']:,} texts finds the share; for all texts it lies between "
            f"{low:.1%} and {high:.1%} (95 times in 100). Clusters are made of these neighbors.",
        ))  # fmt: skip
    if clusters.get("modularity") is not None:
        found.append((
            f"modularity {clusters['modularity']:.2f}",
            "The share of links between near texts that stay inside a cluster, less the share that would by chance. 0 "
            "is chance, 1 is the most. Above 0.6 the clusters are clear.",
        ))  # fmt: skip
    if clusters.get("tiling") is not None:
        found.append((
            f"borders cut {clusters['tiling']:.0%} as many links as tiles would",
            "Texts without groups could be cut into tiles of this size, too. Near 0 % there are gaps between the "
            "clusters; near 100 % there are none, and other borders would be as good.",
        ))  # fmt: skip
    if forest.get("certified") is not None and forest["edges"]:
        found.append((
            f"{(forest['certified'] + forest['repaired']) / forest['edges']:.2%} of the tree's merges are exact",
            "Each is proven by the neighbors that were found, or settled by comparing texts with all others.",
        ))  # fmt: skip
    if embed.get("unknown_share") is not None:
        found.append((
            f"{embed['unknown_share']:.1%} of the words are strange to the encoder",
            "Unknown words, bytes and single letters. With more than a third of them, the encoder does not know the "
            "language: take a multilingual one.",
        ))  # fmt: skip
    return found


def doubts(
    clusters: Sequence[dict[str, Any]], places: Sequence[int], figures: Figures, findings: Findings
) -> list[tuple[int, str]]:
    """Clusters that are to be looked at before they are used, with the reason.

    clusters : lines of layers.parquet; places : of those that are to be judged, in the order in which they are told
    """
    held = count_records(figures)
    known = len({name for sources in findings.sources for name, _ in sources})
    spoken = {code for code, share in (figures["embed"]["languages"] or {}).items() if share >= SPOKEN}
    doubted: list[tuple[int, str]] = []
    for at in places:
        cluster, reasons = clusters[at], []
        if held.share(cluster["size"]) > LARGE:
            reasons.append(f"holds {held.share(cluster['size']):.0%} of all records, perhaps several subjects")
        if cluster["link_share"] is not None and cluster["link_share"] < LOOSE:
            reasons.append(f"is loose: {cluster['link_share']:.0%} of its texts' nearest neighbors are inside")
        heard = Counter(map(language_of, cluster["exemplars"])) if len(spoken) > 1 else Counter()
        languages = sorted(code for code in spoken if heard[code] > 1)  # that of a single headline is often wrong
        if len(languages) > 1:
            reasons.append(f"mixes languages ({', '.join(languages)})")
        if findings.sources and known > 2 and cluster["size"] >= SMALL and findings.sources[at]:
            name, count = findings.sources[at][0]
            if count >= ONE_SOURCE * cluster["size"]:
                reasons.append(f"comes from {name} ({count:,} of {cluster['size']:,}), perhaps a format of theirs")
        doubted += [(at, "; ".join(reasons))] if reasons else []
    return doubted


def moving(places: Sequence[int], findings: Findings) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """Clusters that rise at the end, and those that fade, each with what is seen of it.

    The records of a cluster that are from the end are a binomial sample where times are as those of all records; the
    more clusters are judged, the rarer must be what is told of one (Bonferroni).

    places : of the clusters among which they are sought
    """
    if findings.times is None or findings.all_times is None or np.count_nonzero(findings.all_times) < 3:
        return [], []
    share = float(findings.all_times[-RECENT:].sum() / findings.all_times.sum())
    times = findings.times[np.asarray(places, np.int64)]
    size, recent = times.sum(axis=1), times[:, -RECENT:].sum(axis=1)
    judged = size >= SMALL
    least = CHANCE / max(int(judged.sum()), 1)
    score = (recent - size * share) / np.sqrt(np.maximum(size * share * (1 - share), 1e-9))  # for the order alone
    span = duration(RECENT * findings.span[1])

    def told(number: int) -> tuple[int, str]:
        what = f"{recent[number]:,} of its {size[number]:,} in the last {span}, where {share:.0%} of all are"
        return places[number], what

    order = np.argsort(-score, kind="stable")
    # The chances of so many or more, and of so many or fewer. scipy's bdtr is inexact for large sizes.
    rises = judged & (betainc(recent, size - recent + 1, share) < least)
    fades = judged & (betainc(size - recent, recent + 1, 1 - share) < least)
    rising = [told(number) for number in order[rises[order]][:MOVING].tolist()]
    fading = [told(number) for number in order[fades[order]][::-1][:MOVING].tolist()]
    return rising, fading


def day(second: int) -> str:
    """The day in UTC as ISO 8601 writes it; of any year, which Python's dates do not hold."""
    return str(np.datetime64(second, "s").astype("datetime64[D]"))


def duration(seconds: int) -> str:
    """Rounded, in the unit that people would take."""
    for unit, length in (("year", 31_557_600), ("month", 2_629_800), ("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= 1.5 * length or unit == "minute":
            return _count(max(1, round(seconds / length)), unit)
    return ""


def _layers_of(kind: str, counts: list[int]) -> str:
    """How many clusters the layers of a kind have."""
    if not counts:
        return ""
    *others, last = (f"{count:,}" for count in counts)
    return f"{kind} layers have {', '.join(others)} and {last}" if others else f"a {kind} layer has {last}"


def _count(number: int, word: str, several: str = "") -> str:
    return f"{number:,} {word if number == 1 else several or word + 's'}"
