"""Bytes of a text file in; UTF-8 out. The encoding is declared by the first bytes, configured, or guessed."""

from __future__ import annotations

import codecs
import itertools
import re
from typing import Any

from clustering.errors import InputError
from clustering.sources.formats.issues import Issues

BOMS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip
WIDEST = 4  # bytes of a character; as many zeros are no part of the first one, but fill a file up
GUESS_BYTES = 1 << 16  # of lines with bytes beyond ASCII, which an encoding is guessed from
FEW = 12  # so few such bytes show nothing; they are taken for Western European, the most common by far
# What files are written in. Others, such as those of old Macs and of DOS, look like these and are rare.
KNOWN = (
    *(f"cp125{number}" for number in range(7)), "cp1258", "cp874", "latin_1", "iso8859_2", "iso8859_15", "koi8_r",
    "koi8_u", "cp932", "shift_jis", "euc_jp", "iso2022_jp", "gb18030", "big5", "big5hkscs", "cp949", "euc_kr",
)  # fmt: skip
LATIN = ("latin_1", "iso8859_15")  # guessed for what is cp1252
_MULTIBYTE = re.compile(rb"[\xc2-\xf4][\x80-\xbf]")


class CutError(Exception):
    """A piece of a file that cannot be read alone as it is read within the file.

    whole : whether all of the file is to be read at once; else the piece goes on beyond its end
    """

    def __init__(self, whole: bool = False) -> None:
        super().__init__()
        self.whole = whole


def declared_encoding(head: bytes) -> tuple[str | None, int]:
    """The encoding that a file's first bytes show, and the length of its byte order mark; None if they show nothing."""
    for mark, name in BOMS:
        if head.startswith(mark):
            return name, len(mark)
    zeros = _filling(head)
    some = head[zeros : zeros + 4096]
    if some.count(0) * 4 > len(some) and len(some) >= 4:  # ASCII in two or four bytes each
        even, odd = some[::2].count(0), some[1::2].count(0)
        wide = "32" if some.count(0) * 2 > len(some) * 1.2 else "16"
        return f"utf-{wide}-{'be' if (some[0] == 0 if wide == '32' else even > odd) else 'le'}", 0
    return None, 0


def _filling(data: bytes) -> int:
    """How many zeros at the beginning fill the file up, as in a log that was cut while it was written."""
    return (len(data) - len(data.lstrip(b"\0"))) // WIDEST * WIDEST


def guess_encoding(content: bytes) -> str:
    """The likely encoding of bytes that are not UTF-8."""
    from charset_normalizer import from_bytes

    lines = _non_ascii_lines(content)
    high = sum(byte > 127 for byte in lines)
    western = _fits(lines, "cp1252")
    likely = None if high <= FEW or high < 0.02 * len(lines) else from_bytes(lines, cp_isolation=list(KNOWN)).best()
    if likely is None or likely.encoding in ("", "ascii", "utf_8"):
        return "cp1252" if western else "latin-1"
    # Where bytes mean the same in the most common encoding, the bytes that follow are rather of that one.
    name = likely.encoding
    same = western and (name in LATIN or lines.decode(name, "replace") == lines.decode("cp1252"))
    return "cp1252" if same else name


def _non_ascii_lines(content: bytes) -> bytes:
    """Whole lines that are not ASCII: half a character at the end would rule out the right encoding."""
    lines = content.splitlines(keepends=True)
    if len(lines) > 1 and not lines[-1].endswith((b"\n", b"\r")):
        lines.pop()
    lines = [line for line in lines if not line.isascii()]
    ends = itertools.accumulate(map(len, lines))
    return b"".join(line for line, end in zip(lines, ends, strict=True) if end <= max(GUESS_BYTES, len(lines[0])))


def _fits(content: bytes, encoding: str, final: bool = True) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(content, final)
    except UnicodeDecodeError:
        return False
    return True


class Decoder:
    """Turn the blocks of a file into UTF-8, whole characters only.

    A file is UTF-8 unless an encoding is requested or its first bytes show another. The first byte that is not UTF-8
    shows an older encoding if only ASCII stands before it: that is guessed, and counted. Among UTF-8 it is an error.
    """

    def __init__(self, requested: str | None, errors: str, issues: Issues) -> None:
        self.requested, self.errors, self.issues = requested, errors, issues
        self.decoder: Any = None  # decoder of an encoding that is not UTF-8
        self.guessed = ""
        self.rest = b""
        self.offset = self.lines = 0
        self.started = self.multibyte = False

    def __call__(self, block: bytes, final: bool = False) -> bytes:
        """Raises: InputError that names the line and the byte."""
        data = self.rest + block
        if not self.started:
            zeros = _filling(data)
            data, self.offset = data[zeros:], self.offset + zeros
        if not self.started and (len(data) >= 4096 or final or not block):
            self.started = True
            declared, mark = declared_encoding(data)
            name = self.requested or declared or "utf-8"
            if codecs.lookup(name).name != "utf-8":
                # A byte order mark belongs to the encoding that it shows; utf-16, if requested, reads it itself.
                self.decoder = codecs.getincrementaldecoder(name)(self.errors)
            if declared and (not self.requested or codecs.lookup(self.requested).name == codecs.lookup(declared).name):
                data = data[mark:]
            if self.offset and not (declared or "").startswith(("utf-16", "utf-32")):
                data = data.lstrip(b"\0")  # the last of those that fill it up
        elif not self.started:
            self.rest = data
            return b""
        if self.decoder is not None:
            self.rest = b""
            return self._transcode(data, final)
        return self._utf8(data, final)

    def _utf8(self, data: bytes, final: bool) -> bytes:
        if data.isascii():
            self.rest = b""
            return self._done(data)
        try:
            _, used = codecs.utf_8_decode(data, "strict", final)
        except UnicodeDecodeError as error:
            return self._not_utf8(data, error, final)
        self.multibyte = self.multibyte or not data[:used].isascii()
        self.rest = data[used:]
        return self._done(data[:used])

    def _not_utf8(self, data: bytes, error: UnicodeDecodeError, final: bool) -> bytes:
        replaced = data.decode("utf-8", "replace")
        broken = replaced.count("\ufffd")
        mixed = self.multibyte or sum(not one.isascii() for one in replaced) >= 2 * broken
        if self.errors == "replace" and (mixed or self.requested):
            text, used = codecs.utf_8_decode(data, "replace", final)
            self.rest = data[used:]
            self.issues.count("replaced", text.count("\ufffd"), self._where(data, error))
            return self._done(text.encode())
        if mixed or self.requested:
            raise InputError([self._where(data, error) + "; read.csv.encoding names another encoding (cp1252, for one),"
                              " and read.errors=replace puts U+FFFD in the place of such bytes"])  # fmt: skip
        self.guessed = guess_encoding(data)
        self.issues.count("guessed", 1, f"{self._where(data, error)}; taken for {self.guessed}")
        self.rest = b""
        self.decoder = codecs.getincrementaldecoder(self.guessed)(self.errors)
        return self._transcode(data, final)

    def _transcode(self, data: bytes, final: bool) -> bytes:
        if self.guessed and len(_MULTIBYTE.findall(data)) >= FEW and _fits(data, "utf-8", False):
            raise InputError([f"it is UTF-8 from line {self.lines + 1} on, and {self.guessed} before; write it in one "
                              f"encoding, or set read.csv.encoding and read.errors=replace"])  # fmt: skip
        try:
            text = self.decoder.decode(data, final)
        except UnicodeDecodeError as error:
            name = self.guessed or self.requested or error.encoding
            raise InputError([f"{self._where(data, error, name)}; set read.csv.encoding, or read.errors=replace"]
                             ) from None  # fmt: skip
        if self.errors == "replace" and (count := text.count("\ufffd")):
            line = self.lines + 1 + text[: text.index("\ufffd")].count("\n")
            self.issues.count("replaced", count, f"line {line}")
        return self._done(text.encode("utf-8", "replace"), len(data))

    def _where(self, data: bytes, error: UnicodeDecodeError, name: str = "UTF-8") -> str:
        line = self.lines + 1 + data[: error.start].count(b"\n")
        byte = error.object[error.start]
        return f"line {line:,}, byte {self.offset + error.start:,}: can't decode byte 0x{byte:02x} as {name}"

    def _done(self, text: bytes, used: int | None = None) -> bytes:
        self.offset += len(text) if used is None else used
        self.lines += text.count(b"\n")
        return text
