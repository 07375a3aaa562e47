"""The columns of the map in; map.html out: packed columns, styles and scripts in one file that loads nothing."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clustering.kernels.printable import one_line
from clustering.text.cells import STRING, cut_strings, joined_strings
from clustering.viewer.columns import MapColumns

# In the order in which their names are known; each is a module, and the page holds them as one.
SCRIPTS = (
    "data.js", "colors.js", "grid.js", "search.js", "columns.js", "state.js", "points.js", "names.js", "view.js",
    "dom.js", "time.js", "terms.js", "actions.js", "when.js", "card.js", "filters.js", "cluster_list.js", "panel.js",
    "hover.js", "lasso.js", "legend.js", "keys.js", "address.js", "main.js",
)  # fmt: skip
PAGE_BYTES = 50_000_000  # of the page; what would make it larger is left out, the least needed first
MOST_BYTES = 75_000_000  # with the ids, of which a million take 27 MB, and exemplars; texts are cut for them first
TEXT_CUTS = (2_000, 500, 200, 100, 50)  # characters of a text: the longest that leaves the page small enough
LEVEL = 6  # of gzip
# Of numbers to base 85, which take less room than base 64: visible characters that mean nothing to HTML.
DIGITS = bytes(code for code in range(35, 127) if chr(code) not in "&'<>\\`")[:85]
END, LIST_END = "\x1f", "\x1e"  # of a string, and of one in a list; texts hold neither


def write_page(columns: MapColumns, name: str) -> Iterator[str]:
    """The page in pieces of text. name : of the run

    The cells of a column have the name ``cell-`` with its number, not its own, which may be anything.
    """
    facts: dict[str, Any] = {"name": one_line(name, 60), **columns.facts, "left_out": [], "cut": TEXT_CUTS[0]}
    facts["points"], facts["records"] = columns.points["x"].size, int(columns.points["records"].sum())
    facts["clusters"] = {key: value for key, value in columns.clusters.items() if key != "exemplars"}
    facts["cells"], facts["key"] = list(columns.cells), _key(columns.points)
    packs: dict[str, str] = {}
    facts["arrays"], packed = _arrays({"points": columns.points, "records": columns.records})
    packs["points"] = packed_text(packed)
    left = PAGE_BYTES - len(packs["points"]) - len(packed_text(json.dumps(facts).encode()))
    ids, *others = ((f"cell-{number}", strings) for number, strings in enumerate(columns.cells.values()))
    key, packed_ids = ids[0], packed_text(joined_strings(ids[1], END))
    cut, packs["texts"] = _cut_texts(columns.texts, left - len(packed_ids))
    if len(packed_ids) + len(packs["texts"]) <= left + MOST_BYTES - PAGE_BYTES:
        packs[key] = packed_ids
        left -= len(packed_ids)
    else:
        facts["left_out"].append(key)
        cut, packs["texts"] = _cut_texts(columns.texts, left)
    facts["cut"] = cut
    left -= len(packs["texts"])
    exemplars = pa.array([LIST_END.join(own) for own in columns.clusters["exemplars"]], STRING)
    own = [] if columns.own is None else [("own", cut_strings(columns.own, cut))]
    for key, strings in [("exemplars", exemplars), ("near", None), *others, *own]:
        pack = packed_text(_planes(columns.near) if strings is None else joined_strings(strings, END))
        if len(pack) > left + (MOST_BYTES - PAGE_BYTES) * (key == "exemplars"):
            facts["left_out"].append(key)
        else:
            packs[key] = pack
            left -= len(pack)
    packs = {"facts": packed_text(json.dumps(facts, ensure_ascii=False, separators=(",", ":")).encode()), **packs}
    words = {"TITLE": html.escape(f"Map of {facts['name']}")}
    yield from fill_frame("index.html", script(), ("theme.css", "style.css"), words, packs)


def _cut_texts(texts: pa.Array, most: int) -> tuple[int, str]:
    """The longest cut whose pack has ``most`` bytes, else the shortest one; and the pack."""
    for cut in TEXT_CUTS:
        pack = packed_text(joined_strings(cut_strings(texts, cut), END))
        if len(pack) <= most:
            break
    return cut, pack


def _key(points: dict[str, NDArray[Any]]) -> str:
    """Differs where the texts or clusters of two pages have other numbers, by which addresses name them."""
    found = hashlib.sha256()
    for name in sorted(points):
        if name in ("x", "y") or name.startswith("layer"):
            found.update(np.ascontiguousarray(points[name], points[name].dtype.newbyteorder("<")).tobytes())
    return found.hexdigest()[:8]


def _arrays(groups: dict[str, dict[str, NDArray[Any]]]) -> tuple[list[dict[str, Any]], bytes]:
    """Where each array lies in the bytes, one after another in 4-byte steps; and the bytes."""
    told, pieces, at = [], [], 0
    for group, arrays in groups.items():
        for name, array in arrays.items():
            content = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
            told.append({"group": group, "name": name, "type": array.dtype.name, "at": at, "length": array.size})
            pieces.append(content + bytes(-len(content) % 4))
            at += len(pieces[-1])
    return told, b"".join(pieces)


def _planes(near: NDArray[np.int32]) -> bytes:
    """Neighbors as steps from their text, low bytes first and then the next ones, which pack better so.

    A step of n is 2 n + 1 or, back, -2 n + 1; 0 is no neighbor.
    """
    step = near.astype(np.int64) - np.arange(len(near))[:, None]
    coded = np.where(near < 0, 0, np.where(step < 0, -2 * step, 2 * step + 1)).astype("<u4")
    return np.ascontiguousarray(coded.reshape(-1).view(np.uint8).reshape(-1, 4).T).tobytes()


def packed_text(content: bytes) -> str:
    """The content with gzip, five characters for four bytes; a first character tells how many bytes were added."""
    packed = gzip.compress(content, LEVEL, mtime=0)
    added = -len(packed) % 4
    number = np.frombuffer(packed + bytes(added), ">u4").copy()
    digits = np.empty((number.size, 5), np.uint8)
    for place in reversed(range(5)):
        number, digits[:, place] = np.divmod(number, len(DIGITS))
    return f"{added}{np.frombuffer(DIGITS, np.uint8)[digits].tobytes().decode()}"


def script(names: tuple[str, ...] = SCRIPTS) -> str:
    """Some modules as one, without the imports and exports between them."""
    folder = files("clustering.viewer")
    sources = ((folder / name).read_text(encoding="utf-8") for name in names)
    joined = "\n".join(re.sub(r"(?ms)^import .*?;\n|^export (?=\w)", "", source) for source in sources)
    return f"\n{joined}"


def fill_frame(
    frame: str, code: str, styles: tuple[str, ...], words: dict[str, str], packs: dict[str, str]
) -> Iterator[str]:
    """A page's frame with its content. The policy allows the page's own script and styles, by their digests, and
    pictures that lie in the page where ``words`` have a PICTURE.

    frame, styles : names of files of this folder; words : what stands for each name in double braces; packs : of DATA
    """
    folder = files("clustering.viewer")
    style = "".join((folder / name).read_text(encoding="utf-8") for name in styles)
    pictures = "img-src data:; " if "PICTURE" in words else ""
    policy = (
        f"default-src 'none'; script-src {_digest(code)}; style-src {_digest(style)}; {pictures}base-uri 'none'; "
        f"form-action 'none'"
    )
    content = {"POLICY": policy, "STYLE": style, "SCRIPT": code, **words}
    for piece in re.split(r"(\{\{\w+\}\})", (folder / frame).read_text(encoding="utf-8")):
        key = piece.strip("{}")
        if key == "DATA":
            yield from (f'<script type="text/plain" id="data-{name}">{pack}</script>\n' for name, pack in packs.items())
        else:
            yield content.get(key, piece) if piece.startswith("{{") else piece


def _digest(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
