"""An artefact's folder in; the index of its parts out: names, first rows, rows, bytes and counts."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustering.errors import CoveyError, StageError
from clustering.runs.storage import REDO_HINT, Location, atomic_write, read_metadata
from clustering.schema import Figures

INDEX = "_parts.json"  # readers of Parquet folders pass over names that begin with _
WRITING_SHARE = 0.05  # of the driver's time, at most, goes into writing the index while parts are made
_NAME = re.compile(r"part-\d{6}\.parquet")
# Counts that earlier versions kept in the footers of parts, each with its reader.
_FORMER_COUNTS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("tokens", "cut", "unknown", "short"), int),
    **dict.fromkeys(("unread", "without_vector"), lambda rows: [int(row) for row in rows.split()]),
    "languages": json.loads,
}


@dataclass(frozen=True)
class Part:
    """A part as the index lists it.

    first : row of its first line; in members/, the number of lines before it
    bytes : of the file; 0: not known
    counts : what its worker counted, as JSON: numbers, rows of this part, numbers by name
    """

    name: str
    first: int
    rows: int
    bytes: int = 0
    counts: Figures = field(default_factory=dict)


class PartIndex:
    """The finished parts of an artefact, in row order."""

    def __init__(self, parts: Iterable[Part]) -> None:
        self._parts = {part.name: part for part in sorted(parts, key=lambda part: part.name)}

    def __iter__(self) -> Iterator[Part]:
        return iter(self._parts.values())

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, name: str) -> Part:
        return self._parts[name]

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    @property
    def names(self) -> list[str]:
        return list(self._parts)

    @property
    def rows(self) -> int:
        """Of all parts."""
        return sum(part.rows for part in self)

    def first(self, name: str) -> int:
        """The row of a part's first line."""
        return self[name].first

    def counts(self, key: str) -> list[Any]:
        """What was counted under a key, of each part that has it."""
        return [part.counts[key] for part in self if key in part.counts]

    def listed_rows(self, key: str) -> NDArray[np.int64]:
        """The rows that the parts list under a key: int64, shape (n_rows,), ascending."""
        return np.array([row for rows in self.counts(key) for row in rows], np.int64)

    def part_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The position in ``names`` of the part that holds each row; -1 for a row that no part holds.

        rows : int64, shape (n_rows,); Returns: the same shape
        """
        bounds = np.array([(part.first, part.first + part.rows) for part in self], np.int64).reshape(-1, 2)
        found = np.searchsorted(bounds[:, 0], rows, side="right") - 1
        return np.where(rows < np.append(bounds[:, 1], 0)[found], found, -1)


def read_index(folder: Location) -> PartIndex:
    """The index of an artefact; of one without an index, as earlier versions left it, what its parts' footers tell.

    Raises: StageError when the index is damaged.
    """
    try:
        content = (folder / INDEX).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return PartIndex(_parts_by_footers(folder))
    try:
        parts = [Part(**part) for part in json.loads(content)["parts"]]
        if not all(_NAME.fullmatch(part.name) and min(part.first, part.rows, part.bytes) >= 0 for part in parts):
            raise ValueError("it lists what is no part")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise StageError(f"{folder / INDEX} is damaged: {str(error)[:200]}. {REDO_HINT}") from None
    return PartIndex(parts)


def _parts_by_footers(folder: Location) -> Iterator[Part]:
    lines = 0
    for name in sorted(path.name for path in folder.glob("part-*.parquet")):
        footer = read_metadata(folder / name)
        first = lines
        if footer.num_row_groups and footer.schema.column(0).name == "row":
            first = int(footer.row_group(0).column(0).statistics.min)
        held = {key.decode(): value.decode() for key, value in (footer.metadata or {}).items() if key.isascii()}
        counts = {key: read(held[key]) for key, read in _FORMER_COUNTS.items() if key in held}
        yield Part(name, first, footer.num_rows, counts=counts)
        lines += footer.num_rows


class IndexWriter:
    """The index of an artefact whose parts are being made. The driver adds what workers return.

    It is written when the block begins, from time to time, and when the block ends, also by an error. So parts that
    it lists are whole, and a later start makes the others.
    kept : parts of an earlier start
    """

    def __init__(self, folder: Location, kept: Iterable[Part] = ()) -> None:
        self.folder = folder
        self.parts = {part.name: part for part in kept}
        self._next_s = 0.0

    def __enter__(self) -> IndexWriter:
        self.write()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            self.write()
        else:
            with suppress(OSError, CoveyError):  # the error itself is reported
                self.write()

    def add(self, part: Part) -> None:
        self.parts[part.name] = part
        if time.monotonic() >= self._next_s:
            self.write()

    def write(self) -> None:
        started = time.monotonic()
        lines = ",\n".join(json.dumps(vars(self.parts[name]), separators=(",", ":")) for name in sorted(self.parts))
        with atomic_write(self.folder / INDEX) as temporary:
            temporary.write_text(f'{{"fingerprint": "{self.folder.name}", "parts": [\n{lines}\n]}}\n', encoding="utf-8")
        ended = time.monotonic()
        self._next_s = ended + (ended - started) / WRITING_SHARE


def write_index(folder: Location, parts: Iterable[Part]) -> None:
    """Write the index of an artefact whose parts are all made."""
    IndexWriter(folder, parts).write()
