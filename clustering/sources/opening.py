"""An input file in; its unpacked bytes out, wherever it lies and whatever packs it."""

from __future__ import annotations

import io
import lzma
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from clustering.errors import InputError
from clustering.runs.storage import RetryingFile
from clustering.sources.files import InputFile, filesystem
from clustering.sources.formats import packed, parquet
from clustering.sources.formats.encodings import Decoder

BLOCK_BYTES = 4 << 20  # of a text file, read at once
OFFICE = {"[Content_Types].xml", "META-INF/manifest.xml"}  # in the zips that xlsx, docx, ods and odt are
# What the libraries raise for a file that they cannot read.
UNREADABLE = (
    OSError, UnicodeError, pa.ArrowException, LookupError, EOFError, lzma.LZMAError, zlib.error, zipfile.BadZipFile,
    RuntimeError, NotImplementedError,
)  # fmt: skip


def open_file(file: InputFile) -> Any:
    """The unpacked bytes of a file, as a stream."""
    if file.compression == "zip":
        archive = zipfile.ZipFile(open_raw(file))
        return archive.open(archive_member(archive))
    if file.compression in packed.START:
        return io.BufferedReader(packed.Unpacked(open_raw(file), file.compression), packed.CHUNK_BYTES)
    if file.remote:
        stream = io.BufferedReader(RetryingFile(file.remote), BLOCK_BYTES)
        return pa.CompressedInputStream(pa.PythonFile(stream, "r"), file.compression) if file.compression else stream
    return filesystem(file.pattern)[0].open_input_stream(file.path, compression=file.compression)


def open_raw(file: InputFile) -> Any:
    """The bytes of a file as they are stored, with random access."""
    return RetryingFile(file.remote) if file.remote else filesystem(file.pattern)[0].open_input_file(file.path)


def archive_member(archive: zipfile.ZipFile) -> str:
    """The name of the only file in an archive.

    Raises: InputError when there are several, or none.
    """
    names = [
        info.filename
        for info in archive.infolist()
        if not (info.is_dir() or info.filename.startswith("__MACOSX/") or info.filename.split("/")[-1].startswith("."))
    ]
    if OFFICE & {*names}:
        raise InputError(["it is a document of an office program; save its table as csv, in UTF-8"])
    if len(names) != 1:
        shown = ", ".join(map(repr, names[:5]))
        raise InputError([f"it is a zip of {len(names)} files ({shown}); unpack it, and name the files that you mean"])
    return names[0]


def read_blocks(file: InputFile, decoder: Decoder) -> Iterator[tuple[bytes, bool]]:
    """A text file as UTF-8, in blocks of whole characters, each with whether it is the last."""
    with open_file(file) as stream:
        while block := stream.read(BLOCK_BYTES):
            yield decoder(block), False
    yield decoder(b"", True), True


def open_parquet(file: InputFile) -> Any:
    """A Parquet file with random access; a packed one is unpacked to the disk.

    Raises: InputError for one that unpacks to more than parquet.UNPACKED_BYTES.
    """
    if not file.compression:
        return open_raw(file)
    unpacked: Any = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as somebody reads from it
    with open_file(file) as stream:
        while chunk := stream.read(1 << 20):
            if unpacked.tell() + len(chunk) > parquet.UNPACKED_BYTES:
                raise InputError([f"it unpacks to more than {parquet.UNPACKED_BYTES:,} bytes. Take it out of its "
                                  f"{file.compression}."])  # fmt: skip
            unpacked.write(chunk)
    return unpacked


def check_unchanged(file: InputFile) -> None:
    """Raises: InputError for a file whose size or time differs from those that detection found."""
    remote = file.remote
    info = remote._info() if remote else filesystem(file.pattern)[0].get_file_info(file.path)
    if (info.size or 0, str(info.mtime_ns)) != (file.size, file.modified):
        raise InputError(["it changed while the run was reading it; start again when nobody writes to it"])


def short_reason(error: BaseException, file: InputFile) -> str:
    """A library's error in a few words."""
    words = " ".join(str(error).split())[:300] or type(error).__name__
    hints = ("incorrect header check", "Not a gzipped file", "Invalid data stream", "Input format not supported")
    if file.compression and any(hint in words for hint in hints):
        return f"it is not {file.compression}, or something else follows its {file.compression}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return words
