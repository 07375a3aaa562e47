"""A part of an artefact in, the words that name it in messages out."""

from __future__ import annotations

import json
from typing import Any

import pyarrow.compute as pc

from clustering.kernels.printable import one_line
from clustering.runs.directory import RunDir
from clustering.runs.storage import read_table

SHOWN_IDS = 3


def describe_item(item: dict[str, Any], run: RunDir | None = None) -> str:
    """The names of an item's parts, or what it says of a piece of input; with the first text ids where they are known.

    item : with ``name``, ``names``, ``pieces`` (each with a name, or first and stop), or another description
    """
    pieces = item.get("pieces", [])
    names = item.get("names") or [piece["name"] for piece in pieces if "name" in piece]
    names = names or ([item["name"]] if "name" in item else [])
    if not names:
        rest = {key: value for key, value in item.items() if key != "item"}
        return json.dumps(rest, ensure_ascii=False, default=str)
    words = names[0] + (f" to {names[-1]}" if len(names) > 1 else "")
    first = _first_ids(run, names[0]) if run is not None else ""
    return f"{words} ({first})" if first else str(words)


def _first_ids(run: RunDir, name: str) -> str:
    """Rows and first text ids of a part; empty where they cannot be read, as before the stage read is done."""
    try:
        rows = read_table(run / "texts" / name, columns=["row"])["row"]
        members = read_table(run / "members" / name, columns=["text_id", "row"])
        ids = members.filter(pc.is_in(members["row"], rows[:SHOWN_IDS]))["text_id"].to_pylist()[:SHOWN_IDS]
    except Exception:  # what is wrong is told already; this only adds to it
        return ""
    shown = ", ".join(one_line(str(one), 80) for one in ids)
    return f"rows {rows[0]} to {rows[-1]}" + (f", text ids {shown} ..." if shown else "")
