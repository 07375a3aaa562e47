"""The cases of the board in; its tables, in their place on a page, and its picture beside it, out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.board_cases import all_cases, pairs_of
from benchmarks.quality import markdown

START, END = "<!-- board -->\n", "<!-- end of board -->\n"  # what stands between is written anew
PICTURE = Path("images/board.svg")  # from the page's folder
SHOWN = ("Covey default", "BERTopic", "EVoC", "PLSCAN", "Toponymy", "fast_hdbscan")  # in the picture
OUTLETS = {"once": 1, "2 outlets": 2, "4 outlets": 4, "8 outlets": 8}
Result = dict[str, Any]  # of a method, see board.scored
Case = dict[str, Any]  # kind, set, encoder, sizes and, by method, the results
Pairs = dict[tuple[str, str], Case]  # by set and encoder


def by_kind(cases: list[Case]) -> dict[str, list[Case]]:
    found: dict[str, list[Case]] = {}
    for case in cases:
        found.setdefault(case["kind"], []).append(case)
    return found


def results(cases: list[Case], method: str) -> list[Result]:
    return [case["methods"][method] for case in cases]


def means(cases: list[Case], method: str, way: str) -> list[float]:
    """Of NMI, ARI and B-cubed F1. way : placed or labelled"""
    return [float(mean) for mean in np.mean([result[way] for result in results(cases, method)], axis=0)]


def score(result: Result) -> float:
    return float(result["placed"][0] + result["placed"][1]) / 2


def in_words(values: list[float], digits: int = 3) -> str:
    return "/".join(f"{value:.{digits}f}" for value in values)


def kind_table(finished: list[Case], methods: list[str]) -> str:
    kinds = by_kind(finished)
    head = ["method", *(f"{kind} ({len(own)})" for kind, own in kinds.items())]
    rows = [[method, *(in_words(means(own, method, "placed")) for own in kinds.values())] for method in methods]
    return markdown(head, rows)


def method_table(finished: list[Case], lost: list[Case], methods: list[str]) -> str:
    first = results(finished, methods[0])
    head = ["method", "labelled", "noise mean/worst", "largest cluster, worst", f"{methods[0]} ahead on",
            "seconds mean/most", "MiB mean/most", "not finished"]  # fmt: skip
    rows = []
    for method in methods:
        own = results(finished, method)
        noise, seconds, peak = ([result[name] for result in own] for name in ("noise", "seconds", "peak_mib"))
        rows.append([
            method, in_words(means(finished, method, "labelled")), f"{np.mean(noise):.0%}/{max(noise):.0%}",
            f"{max(result['largest'] for result in own):.0%}",
            str(sum(score(a) > score(b) for a, b in zip(first, own, strict=True))),
            f"{np.mean(seconds):.1f}/{max(seconds):.0f}", f"{np.mean(peak):.0f}/{max(peak):.0f}",
            str(sum("failed" in result for result in results(lost, method))),
        ])  # fmt: skip
    return markdown(head, rows)


def case_table(cases: list[Case], methods: list[str]) -> str:
    head = ["set, encoder", "records, texts, leaders, classes", *methods]
    rows = []
    for case in cases:
        sizes = ", ".join(str(case[key]) for key in ("records", "texts", "leaders", "classes"))
        own = [case["methods"][method] for method in methods]
        scores = [in_words(result["placed"][1:], 2) if "placed" in result else "-" for result in own]
        rows.append([f"{case['set']}, {case['encoder']}", sizes, *scores])
    return markdown(head, rows)


def write_board(page: Path, report: dict[str, Any], methods: list[str]) -> None:
    """Write the tables into the page, which has a place for them, and the picture.

    methods : the columns; a case without one of them counts as not measured
    """
    pairs = {(case["set"], case["encoder"]): case for case in report["cases"] if {*methods} <= case["methods"].keys()}
    wanted = pairs_of(all_cases())
    cases = [pairs[pair] for pair in [*wanted, *(pair for pair in pairs if pair not in wanted)] if pair in pairs]
    lost = [case for case in cases if any("failed" in result for result in case["methods"].values())]
    finished = [case for case in cases if case not in lost]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    parts = [f"{versions}; {report['machine']}.\n"]
    if finished:
        parts += [
            f"![Scores by kind of set, and ARI by outlets]({PICTURE})\n",
            "Placed, by kind of set: mean NMI/ARI/B-cubed F1 (pairs of a set and an encoder)\n",
            kind_table(finished, methods),
            f"Over all {len(finished)} pairs that every method has finished\n",
            method_table(finished, lost, methods),
        ]
        draw_board(page.parent / PICTURE, finished)
    parts += ["Placed, each pair: ARI/B-cubed F1\n", case_table(cases, methods)]
    reasons = [
        f"{method} on {case['set']}, {case['encoder']}: {result['failed']}"
        for case in lost
        for method, result in case["methods"].items()
        if "failed" in result
    ]
    if reasons:
        parts.append(f"Not finished: {'; '.join(reasons)}.\n")
    if missing := [f"{name} ({encoder})" for name, encoder in wanted if (name, encoder) not in pairs]:
        parts.append(f"Not measured yet: {'; '.join(missing)}.\n")
    before, start, rest = page.read_text(encoding="utf-8").partition(START)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{page} has no place for the board: a line {START.strip()} and a line {END.strip()}")
    page.write_text(before + start + "\n" + "\n".join(parts) + "\n" + end + after, encoding="utf-8")


def draw_board(path: Path, finished: list[Case]) -> None:
    """Scores by kind of set, and what becomes of ARI when outlets carry the same headlines."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    kinds = by_kind(finished)
    outlets: dict[int, list[Case]] = {}
    for case in finished:
        if most := OUTLETS.get(case["set"].partition(", ")[2]):
            outlets.setdefault(most, []).append(case)
    figure = Figure((9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, method in enumerate(SHOWN):
        style: dict[str, Any] = {"color": f"C{number}", "marker": "o", "label": method, "markersize": 7 - number / 2}
        scores = [np.mean([score(result) for result in results(own, method)]) for own in kinds.values()]
        left.plot(scores, range(len(kinds)), linestyle="none", **style)
        ari = [means(outlets[most], method, "placed")[1] for most in sorted(outlets)]
        right.plot(range(len(outlets)), ari, linewidth=1 if number else 2.5, **style)
    left.set_yticks(range(len(kinds)), list(kinds))
    left.invert_yaxis()
    left.set_xlabel("mean of NMI and ARI, placed")
    right.set_xticks(range(len(outlets)), [str(most) for most in sorted(outlets)])
    right.set_xlabel("outlets that carry a headline, at most")
    right.set_ylabel("ARI, placed")
    right.set_ylim(0, 1)
    right.set_visible(bool(outlets))
    left.legend(fontsize=8)
    path.parent.mkdir(exist_ok=True)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "board"}):
        figure.savefig(path, metadata={"Date": None})
