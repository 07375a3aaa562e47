"""One large csv or JSON Lines file in; pieces that several workers read, cut where records seem to end, out.

Where a piece begins is a guess from the bytes behind a target. The worker of the piece before checks it: its last
record must end exactly there. If it does not, the two pieces are read as one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from clustering.config.sections import ReadSection
from clustering.sources.files import InputFile
from clustering.sources.formats.dialects import Dialect
from clustering.sources.formats.encodings import CutError, Decoder, declared_encoding
from clustering.sources.formats.issues import Issues
from clustering.sources.opening import BLOCK_BYTES, open_raw

PIECE_BYTES = 64 << 20
HEAD_BYTES = 1 << 18  # that hold the header
WINDOW_BYTES = 1 << 16  # behind a target, whose quotes tell where a record begins
LINE_BYTES = 16 << 20  # of a line that is sought behind a target, at most
AHEAD_BYTES = 1 << 20  # behind a piece, which tell whether its last record is whole


@dataclass(frozen=True)
class ReadTask:
    """What one worker call reads: some files, some row groups of one Parquet file, or a piece of one text file."""

    files: list[dict[str, Any]] = field(default_factory=list)
    row_groups: list[int] | None = None
    first_record: int = 0
    # Of a piece: bytes, behind which it begins and ends, see ``Piece``; and the line that names the columns.
    start: int = 0
    stop: int | None = None
    header: str = ""

    @property
    def is_piece(self) -> bool:
        return self.stop is not None


def cut_file(file: InputFile, cfg: ReadSection) -> list[ReadTask]:
    """The tasks that read a large file in pieces; none where it is read as a whole.

    That is a small or packed file, one in another encoding than UTF-8, JSON that is not one object a line, csv with
    comments, escaped quotes or carriage returns at line ends, and any file where ``read.limit`` ends the reading.
    """
    if file.compression or file.size <= PIECE_BYTES or cfg.limit is not None or not file.layout["positions"]:
        return []
    requested = cfg.csv.encoding if file.format != "jsonl" else None
    with open_raw(file) as source:
        head = source.read(HEAD_BYTES)
    declared, mark = declared_encoding(head)
    if head.startswith(b"\0") or declared not in (None, "utf-8"):
        return []
    if (requested or "utf-8").lower() not in ("utf-8", "utf8"):
        return []
    header = ""
    if file.format == "jsonl":
        if file.layout["style"] != "lines":
            return []
    elif dialect := _dialect(file):
        if dialect.carriage or dialect.escape or dialect.comment:
            return []
        lines = head[mark:].split(b"\n")
        if len(lines) <= dialect.skip:
            return []
        header = lines[dialect.skip - 1].rstrip(b"\r").decode("utf-8", "replace") if dialect.skip else ""
    else:
        return []  # Parquet
    count = -(-file.size // PIECE_BYTES)
    bounds = [number * file.size // count for number in range(count)]
    raw = asdict(file)
    return [
        ReadTask([raw], start=start, stop=stop, header=header)
        for start, stop in zip(bounds, [*bounds[1:], file.size], strict=True)
    ]


def _dialect(file: InputFile) -> Dialect | None:
    found = file.layout.get("dialect")
    return Dialect(**found) if found else None


class Piece:
    """The bytes of a piece, of whole records by all appearances.

    Raises: CutError where no record seems to begin behind one of the task's targets.
    """

    def __init__(self, file: InputFile, task: ReadTask) -> None:
        assert task.stop is not None
        self.file, self.dialect = file, _dialect(file)
        self.start = self._record_start(task.start) if task.start else 0
        self.stop = self._record_start(task.stop) if task.stop < file.size else file.size
        self.is_last = self.stop == file.size
        if self.start > self.stop:
            raise CutError

    def blocks(self, errors: str, issues: Issues) -> Iterator[tuple[bytes, bool]]:
        """The piece as UTF-8, each block with whether the file ends there. Raises: CutError where it is not UTF-8."""
        decoder = _PieceDecoder(errors, issues, self.start)
        with open_raw(self.file) as source:
            source.seek(self.start)
            left = self.stop - self.start
            while left and (block := source.read(min(BLOCK_BYTES, left))):
                left -= len(block)
                issues.lines += block.count(b"\n")
                yield decoder(block), False
        yield decoder(b"", True), self.is_last

    def ahead(self) -> tuple[bytes, bool]:
        """The bytes behind the piece, and whether the file ends with them."""
        with open_raw(self.file) as source:
            source.seek(self.stop)
            found = bytes(source.read(AHEAD_BYTES))
        return found, self.stop + len(found) >= self.file.size

    def _record_start(self, target: int) -> int:
        """The first place behind a target where a record seems to begin; the same for both pieces that meet there."""
        quote = self.dialect.quote if self.dialect else None
        with open_raw(self.file) as source:
            source.seek(target)
            window = bytes(source.read(WINDOW_BYTES))
            while not quote and b"\n" not in window and len(window) < LINE_BYTES:
                more = source.read(len(window))
                if not more:
                    break
                window += more
            if quote and self.dialect:
                at = _first_record(window, quote.encode(), self.dialect.delimiter.encode())
            else:
                at = window.find(b"\n") + 1
            if not at or target + at >= self.file.size:
                raise CutError
        return target + at


def _first_record(window: bytes, quote: bytes, delimiter: bytes) -> int:
    """The first line of a window of csv that begins outside a quoted field, most likely; 0 without such a line.

    Quotes open and close fields in turn. Whether the first one opens or closes one is seen by what stands around all of
    them: an opening quote follows a delimiter or a line end, and a closing one precedes one; doubled quotes do neither.
    """
    chars = np.frombuffer(window, np.uint8)
    quotes = np.flatnonzero(chars == quote[0])
    ends = np.flatnonzero(chars == 10)
    inner = quotes[(quotes > 0) & (quotes < len(chars) - 1)]
    edge = (delimiter[0], 10, 13, quote[0])
    opening, closing = np.isin(chars[inner - 1], edge), np.isin(chars[inner + 1], edge)
    opens = np.searchsorted(quotes, inner) % 2 == 0
    as_outside = int((opens & ~opening).sum() + (~opens & ~closing).sum())
    as_inside = int((~opens & ~opening).sum() + (opens & ~closing).sum())
    starts_inside = as_inside < as_outside
    outside = (np.searchsorted(quotes, ends) + starts_inside) % 2 == 0
    return int(ends[outside.argmax()]) + 1 if outside.any() else 0


class _PieceDecoder(Decoder):
    """UTF-8 alone: what follows other bytes depends on all that stands before them in the file."""

    def __init__(self, errors: str, issues: Issues, start: int) -> None:
        super().__init__(None, errors, issues)
        self.started = start > 0  # a byte order mark stands at the beginning of the file

    def _not_utf8(self, data: bytes, error: UnicodeDecodeError, final: bool) -> bytes:
        raise CutError(whole=True)
