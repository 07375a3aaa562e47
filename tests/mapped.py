"""What the plot stage needs of a run, left in a directory; and what a map.html holds, read back."""

from __future__ import annotations

import gzip
import json
import re
from typing import Any

import numpy as np
import pyarrow as pa

from clustering import schema
from clustering.runs.directory import RunDir
from clustering.runs.parts import part_name
from clustering.runs.storage import write_json, write_table
from clustering.viewer.page import DIGITS, END


def leave_run(
    run: RunDir, texts: list[str], layers: np.ndarray[Any, Any], xy: np.ndarray[Any, Any],
    clusters: dict[str, list[Any]],
    *, chosen: int = 0, part_rows: int = 10_000, strength: Any = None, home: Any = None,
    members: dict[str, pa.Array] | None = None, near: list[list[int]] | None = None,
) -> RunDir:  # fmt: skip
    """Leave texts/, members/, coords/, neighbors/, the assignment, layers.json and layers.parquet.

    layers : shape (n_texts, n_layers); clusters : title, terms, exemplars and parent of each
    members : text_id, row and other columns of the records; None: one for each text
    """
    n = len(texts)
    layers = np.asarray(layers, np.int32).reshape(n, -1)
    label = layers[:, chosen]
    members = members or {"text_id": pa.array([f"id{row}" for row in range(n)]), "row": pa.array(range(n), pa.int64())}
    records = pa.table(members)
    copies = np.bincount(records["row"].to_numpy(), minlength=n).astype(np.int32)
    for part, first in enumerate(range(0, n, part_rows)):
        rows = np.arange(first, min(first + part_rows, n))
        own = slice(first, first + rows.size)
        held = {"row": rows, "text": texts[own], "copies": copies[own]}
        write_table(run / "texts" / part_name(part), pa.table(held, schema=schema.TEXTS))
        places = {"row": rows, "x": xy[own, 0].astype(np.float32), "y": xy[own, 1].astype(np.float32)}
        write_table(run / "coords" / part_name(part), pa.table(places, schema=schema.COORDS))
        in_part = np.isin(records["row"].to_numpy(), rows)
        write_table(run / "members" / part_name(part), records.filter(pa.array(in_part)))
        if near:
            lists = {"row": rows, "neighbors": near[own], "distances": [[0.5] * len(one) for one in near[own]],
                     "cell": np.zeros(rows.size, np.int32)}  # fmt: skip
            write_table(run / "neighbors" / part_name(part), pa.table(lists, schema=schema.NEIGHBORS))
    ones = np.ones(n, np.float32)
    assigned = {
        "row": np.arange(n), "label": label, "strength": ones if strength is None else strength,
        "layers": list(layers), "outlier_score": 0 * ones, "home": label if home is None else home,
        "home_strength": ones,
    }  # fmt: skip
    write_table(run / "assignment.parquet", pa.table(assigned, schema=schema.ASSIGNMENT))
    numbers = range(len(clusters["title"]))
    own = [(layers == number).any(axis=1) for number in numbers]
    columns = {
        "label": list(numbers), "size": [int(copies[held].sum()) for held in own], "texts": [int(h.sum()) for h in own],
        "persistence": [0.0 for _ in numbers], "link_share": [1.0 for _ in numbers],
        "layers": [np.unique(np.nonzero(layers == c)[1]) for c in numbers],
        **clusters,
    }  # fmt: skip
    write_table(run / "layers.parquet", pa.table(columns, schema=schema.LAYERS))
    in_layers = [np.unique(layer[layer >= 0]).tolist() for layer in layers.T]
    write_json(run / "layers.json", {"chosen": chosen, "layers": in_layers})
    return run


def unpacked(page: str) -> dict[str, Any]:
    """Facts, arrays (under points and records), and packs of a page."""
    packs = {
        name: _bytes_of(pack) for name, pack in re.findall(r'<script type="text/plain" id="data-([\w-]+)">(.*?)<', page)
    }
    facts = json.loads(packs.pop("facts"))
    found: dict[str, Any] = {"facts": facts, "points": {}, "records": {}}
    for told in facts["arrays"]:
        values = np.frombuffer(packs["points"], np.dtype(told["type"]).newbyteorder("<"), told["length"], told["at"])
        found[told["group"]][told["name"]] = values
    strings = {name: pack.decode().split(END) for name, pack in packs.items() if name not in ("points", "near")}
    cells = {name: strings.pop(f"cell-{at}") for at, name in enumerate(facts["cells"]) if f"cell-{at}" in strings}
    return {**found, **strings, "cells": cells, "near": packs.get("near")}


def _bytes_of(pack: str) -> bytes:
    digit = {code: number for number, code in enumerate(DIGITS)}
    codes = pack[1:].encode()
    packed = b"".join(
        sum(digit[code] * 85**place for place, code in zip((4, 3, 2, 1, 0), codes[at : at + 5], strict=True)).to_bytes(
            4, "big"
        )
        for at in range(0, len(codes), 5)
    )
    return gzip.decompress(packed[: len(packed) - int(pack[0])])
