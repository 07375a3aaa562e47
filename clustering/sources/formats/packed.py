"""A file packed with gzip, bzip2 or xz in; its unpacked bytes out, of all streams that it holds one after another."""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any

CHUNK_BYTES = 1 << 20  # of the packed file, held at once
START: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(31),
    "bz2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ),
}


class Unpacked(io.RawIOBase):
    """Zeros after a stream fill up the blocks of a tape or of a disk; anything else is an error, and never left out.

    Raises: what the libraries raise for bytes that are not packed so, and EOFError for a stream without its end.
    """

    def __init__(self, source: Any, kind: str) -> None:
        self.source, self.kind = source, kind
        self.rest = b""  # packed bytes that are not taken yet
        # An .xz may be of the older form, which has no mark that tells it from other bytes.
        self.stream: Any = lzma.LZMADecompressor() if kind == "xz" else START[kind]()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self.stream is not None and self.stream.eof:
                self.rest, self.stream = self.stream.unused_data, None
            if self.stream is None:
                self.rest = self.rest.lstrip(b"\0")
            may_hold_more = self.stream is not None and not getattr(self.stream, "needs_input", True)
            if not self.rest and not may_hold_more:
                self.rest = self.source.read(CHUNK_BYTES)
                if not self.rest and self.stream is None:
                    return 0
                if not self.rest:
                    raise EOFError("Truncated compressed stream")
                continue
            self.stream = self.stream or START[self.kind]()
            found = self.stream.decompress(self.rest, len(buffer))
            self.rest = getattr(self.stream, "unconsumed_tail", b"")  # the others keep it themselves
            if found:
                buffer[: len(found)] = found
                return len(found)

    def close(self) -> None:
        if not self.closed:
            self.source.close()
        super().close()
