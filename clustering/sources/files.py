"""read.paths in; the files of the input out, with what their names and first bytes say."""

from __future__ import annotations

import fnmatch
import os
import posixpath
import re
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.fs

from clustering.config.sections import ReadSection
from clustering.kernels.printable import CREDENTIALS
from clustering.runs.object_store import RemotePath, filesystem_of, is_local
from clustering.runs.storage import SECRET_SHOWN

FORMATS = {
    "csv": "csv", "tsv": "tsv", "jsonl": "jsonl", "ndjson": "jsonl", "json": "jsonl", "parquet": "parquet",
    "pq": "parquet", "txt": "txt",
}  # fmt: skip
COMPRESSIONS = {
    "gz": "gzip", "gzip": "gzip", "bz2": "bz2", "zst": "zstd", "zstd": "zstd", "lz4": "lz4", "xz": "xz", "zip": "zip",
}  # fmt: skip
MAGIC = {
    b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4",
    b"\xfd7zXZ\0": "xz", b"PK\x03\x04": "zip", b"PK\x05\x06": "zip",
}  # fmt: skip
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
SHOWN = 5  # files that a message names before it counts the others
DETECTION_THREADS = 8  # that look into files; on an object store they mostly wait


@dataclass(frozen=True)
class InputFile:
    """One file of the input, as found before any work."""

    path: str  # as the filesystem names it
    uri: str  # as a user would write it, with the options of its store
    name: str  # short, for ids: the path below the folder that all files share
    format: str  # csv, tsv, jsonl, parquet or txt; '' where only the content can tell
    compression: str | None  # gzip, bz2, zstd, lz4, xz, zip
    size: int  # bytes
    modified: str  # time of the last change, for the run's fingerprint
    pattern: str  # the item of ``paths`` that found it, which names its filesystem
    # positions: of each wanted column, None where the file lacks it, "constant" where its folders name it; constants:
    # what the folders say; and the csv dialect, or the style of JSON.
    layout: dict[str, Any] = field(default_factory=dict)
    patience_s: float = 0  # how long reading retries a bucket that fails

    @property
    def remote(self) -> RemotePath | None:
        """The location of an object whose reading is retried; None for a local file, and during detection."""
        if not self.patience_s or not self.pattern.startswith(("s3://", "gs://")):
            return None
        return replace(RemotePath.of(self.uri), inner=self.path, patience_s=self.patience_s)


class Inputs(list[InputFile]):
    """The files of an input, with the columns that are carried and warnings about the files."""

    def __init__(self, files: list[InputFile], keep: tuple[str, ...] = (), warnings: list[str] | None = None) -> None:
        super().__init__(files)
        self.keep, self.warnings = keep, list(warnings or [])


def filesystem(path: str) -> tuple[pa.fs.FileSystem, str]:
    """The filesystem that a path or URI names, and the path there."""
    store, inner = filesystem_of(path)
    return store, posixpath.abspath(inner) if is_local(path) else inner


def _uri(path: str, pattern: str) -> str:
    """How a user would write a path of the filesystem that ``pattern`` names; a local one without file://."""
    if is_local(pattern):
        return path
    scheme, authority, _, query, _ = urlsplit(pattern, allow_fragments=False)
    return f"{scheme}://{authority if path.startswith('/') else ''}{path}{'?' + query if query else ''}"


def resolve_paths(
    cfg: ReadSection, exclude: Callable[[str], bool], problems: list[str]
) -> tuple[list[InputFile], list[str]]:
    """The files that paths, globs, directories and URIs find, in their order, each path's by name, each file once.

    exclude : says of a file's URI whether it is no input
    problems : takes a line for every path that finds nothing
    Returns: the files, and the names of those whose format neither name nor first bytes tell.
    """
    found: dict[str, InputFile] = {}
    unread: dict[str, None] = {}
    if not cfg.paths:
        problems.append("read.paths is empty; name files, globs, directories or URIs, or give a read.collection")
    for pattern in cfg.paths:
        if CREDENTIALS.search(pattern):
            problems.append(f"read.paths: {SECRET_SHOWN}")
            continue
        files, others = _resolve(pattern, cfg.format, problems)
        inputs = [file for file in files if not exclude(file.uri)]
        if files and not inputs:
            problems.append(f"read.paths: {pattern} finds nothing but artefacts of the run itself")
        for file in inputs:
            found.setdefault(file.uri, file)
        unread.update(dict.fromkeys(name for name in others if not exclude(name)))
    files = list(found.values())
    if not files:
        return [], list(unread)
    rooted = ["/" + file.path.lstrip("/") for file in files]
    shared = posixpath.commonpath([posixpath.dirname(path) for path in rooted])
    files = [replace(file, name=posixpath.relpath(path, shared)) for path, file in zip(rooted, files, strict=True)]
    return files, [name for name in unread if name not in found]


@dataclass(frozen=True)
class _Entry:
    """A file as its filesystem lists it."""

    path: str
    size: int
    modified: str

    @property
    def base(self) -> str:
        return self.path.rsplit("/", 1)[-1]


class _Listing(NamedTuple):
    """What a path finds: one file that it names, or files of a folder or glob."""

    entries: list[_Entry]
    is_file: bool = False
    is_glob: bool = False


def _resolve(pattern: str, kind: str | None, problems: list[str]) -> tuple[list[InputFile], list[str]]:
    """Files that one item of read.paths finds, and the names of those that are not read; kind : read.format"""
    try:
        store, path = filesystem(pattern)
        listing = _list_pattern(store, path, problems)
    except (OSError, ValueError) as error:
        problems.append(f"read.paths: cannot look for {pattern}: {error}")
        return [], []
    if listing is None:
        problems.append(f"read.paths: no such file: {pattern}")
        return [], []
    files, unread = [], []
    for entry in sorted(listing.entries, key=lambda entry: entry.path):
        if entry.base.startswith(".") and not listing.is_file:
            continue
        file = _file_of(entry, pattern, kind, listing.is_file)
        if file is not None and _is_utf8(entry.path):
            files.append(file)
        elif not listing.is_file and not entry.base.startswith("_"):  # such as _SUCCESS, which describe the others
            unread.append(_uri(entry.path, pattern))
    files, others = _by_content(files, kind, listing.is_file, problems)
    unread += others
    if not files and not listing.is_file:
        what = "the glob matches no" if listing.is_glob else "the directory holds no"
        shown = ", ".join(map(repr, unread[:SHOWN]))
        shown = f"; it finds {shown} (read.format names their format)" if unread else ""
        problems.append(f"read.paths: {what} csv, tsv, jsonl, json or parquet file, nor a txt that is asked for: "
                        f"{pattern}{shown}")  # fmt: skip
    return files, [name.encode("utf-8", "replace").decode() for name in unread]


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:  # the operating system allows any bytes in a name
        return False
    return True


def _file_of(entry: _Entry, pattern: str, kind: str | None, is_named: bool) -> InputFile | None:
    """The file with what its name says; None where its suffix says that it is something else."""
    words = entry.base.lower().split(".")
    compression = COMPRESSIONS.get(words[-1]) if len(words) > 1 else None
    suffix = words[-2 if compression else -1] if len(words) > (2 if compression else 1) else ""
    form = {"json": "jsonl"}.get(kind or "", kind or "") or FORMATS.get(suffix, "")
    if form == "txt" and not takes_txt(pattern, is_named, kind):
        return None
    may_be_part = suffix in ("", "snappy", "part") or suffix.isdigit()  # as in part-00000-c000.snappy
    if not (form or is_named) and (not may_be_part or entry.base.startswith("_")):
        return None
    uri = _uri(entry.path, pattern)
    return InputFile(entry.path, uri, entry.path, form, compression, entry.size, entry.modified, pattern)


def takes_txt(pattern: str, is_named: bool, kind: str | None) -> bool:
    """Whether an item of read.paths asks for .txt files, which in a folder may be a README, or a list of files."""
    return is_named or kind is not None or ".txt" in posixpath.basename(pattern).lower()


def _by_content(
    files: list[InputFile], kind: str | None, is_named: bool, problems: list[str]
) -> tuple[list[InputFile], list[str]]:
    """The files with what their first bytes say: the compression, and whether they are Parquet."""
    found, unread = [], []
    with ThreadPoolExecutor(DETECTION_THREADS) as pool:
        for file, head in zip(files, pool.map(_first_bytes, files), strict=True):
            if isinstance(head, OSError):
                reason = head.strerror or " ".join(str(head).split())
                problems.append(f"read.paths: {file.uri} cannot be read: {reason}")
                continue
            compression = next((name for magic, name in MAGIC.items() if head.startswith(magic)), None)
            if compression or not file.compression:
                file = replace(file, compression=compression)
            if head.startswith(b"PAR1") and kind is None:
                file = replace(file, format="parquet")
            if file.format or file.compression == "zip":
                found.append(file)
            elif is_named:
                problems.append(f"read.paths: {file.pattern} is none of {', '.join(FORMATS)} (each also packed: "
                                f"{', '.join(COMPRESSIONS)}); read.format names its format")  # fmt: skip
            else:
                unread.append(file.uri)
    return found, unread


def _first_bytes(file: InputFile) -> bytes | OSError:
    if file.size == 0:
        return b""
    try:
        if is_local(file.pattern):
            with open(file.path, "rb") as local:
                return local.read(8)
        with filesystem(file.pattern)[0].open_input_stream(file.path, compression=None) as stream:
            return bytes(stream.read(8))
    except OSError as error:
        return error


def _list_pattern(store: pa.fs.FileSystem, path: str, problems: list[str]) -> _Listing | None:
    """The files that a path finds; None where nothing is."""
    local = isinstance(store, pa.fs.LocalFileSystem)
    parts = path.split("/")
    wild = [at for at, part in enumerate(parts) if any(c in part for c in "*?[")]
    if wild and not (os.path.lexists(path) if local else store.get_file_info(path).type == pa.fs.FileType.File):
        base = "/".join(parts[: wild[0]]) or "/"
        depth = None if "**" in parts else len(parts) - wild[0]
        listed = _walk(base, depth, problems) if local else _list(store, base)
        matched = [one for one in listed if _match_parts(one.path.split("/"), parts) and not _hidden(one.path, base)]
        return _Listing(matched, is_glob=True)
    if local:
        try:
            info = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        is_folder, entry = stat.S_ISDIR(info.st_mode), _Entry(path, info.st_size, str(info.st_mtime_ns))
        if not is_folder and not stat.S_ISREG(info.st_mode):
            raise OSError("it is no regular file; write what comes out of it to one")
    else:
        found = store.get_file_info(path)
        if found.type == pa.fs.FileType.NotFound:
            return None
        is_folder, entry = found.type == pa.fs.FileType.Directory, replace(_entry_of(found), path=path)
    if not is_folder:
        return _Listing([entry], is_file=True)
    listed = _walk(path, None, problems) if local else _list(store, path)
    return _Listing([one for one in listed if not _hidden(one.path, path)])


def _entry_of(info: pa.fs.FileInfo) -> _Entry:
    return _Entry(info.path, info.size or 0, str(info.mtime_ns))


def _list(store: pa.fs.FileSystem, base: str) -> list[_Entry]:
    found = store.get_file_info(pa.fs.FileSelector(base, recursive=True, allow_not_found=True))
    return [_entry_of(info) for info in found if info.type == pa.fs.FileType.File]


def _walk(base: str, depth: int | None, problems: list[str]) -> list[_Entry]:
    """The regular files below a folder, also through links; each folder and each linked file once."""
    folders_seen: set[tuple[int, int]] = set()
    found: dict[bool, list[tuple[tuple[int, int], _Entry]]] = {False: [], True: []}

    def failed(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            problems.append(f"read.paths: cannot look into {error.filename}: {error.strerror}")

    for folder, folders, names in os.walk(base, followlinks=True, onerror=failed):
        here = os.stat(folder)
        level = folder[len(base) :].count("/") + 1
        if (here.st_dev, here.st_ino) in folders_seen or (depth is not None and level > depth):
            folders.clear()
            continue
        folders_seen.add((here.st_dev, here.st_ino))
        folders.sort()
        for name in names:
            path = posixpath.join(folder, name)
            try:
                info = os.stat(path)
            except OSError:  # a broken link
                continue
            if stat.S_ISREG(info.st_mode):
                entry = _Entry(path, info.st_size, str(info.st_mtime_ns))
                found[os.path.islink(path)].append(((info.st_dev, info.st_ino), entry))
    seen = {key for key, _ in found[False]}
    linked = {key: entry for key, entry in reversed(found[True]) if key not in seen}
    return [*(entry for _, entry in found[False]), *linked.values()]


def _hidden(path: str, base: str) -> bool:
    """Whether a file or its folder is hidden, or a program keeps the folder beside its own files (_delta_log)."""
    *folders, name = path[len(base) :].split("/")
    return name.startswith(".") or any(part.startswith((".", "_")) for part in folders)


def _match_parts(path: list[str], pattern: list[str]) -> bool:
    """A glob where * stays within a folder and ** crosses folders."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(_match_parts(path[skip:], pattern[1:]) for skip in range(len(path) + 1))
    return bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and _match_parts(path[1:], pattern[1:])


def hive_partitions(name: str) -> dict[str, str]:
    """What a file's folders say of its records, as Hive writes it: date=2024-05-01, with %2F for a slash.

    The value that Hive writes for null is empty.
    """
    found = (re.fullmatch(r"([^=]+)=(.*)", part) for part in name.split("/")[:-1])
    values = {unquote(match[1]): unquote(match[2]) for match in found if match}
    return {key: "" if value == HIVE_NULL else value for key, value in values.items()}


def and_more(names: list[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")


def unread_warning(unread: list[str]) -> list[str]:
    """The warning that names files which are not read."""
    if not unread:
        return []
    count = f"{len(unread):,} files are" if len(unread) > 1 else "1 file is"
    return [f"{count} not read, for neither name nor content says csv, tsv, jsonl, json or parquet, or it is a txt in "
            f"a folder: {and_more(unread)}. read.format names a format for all files; *.txt in read.paths takes "
            f"those; a narrower read.paths leaves such files out."]  # fmt: skip
