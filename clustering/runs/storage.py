"""A local path or a URI in; files that are written atomically and read back, out."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import random
import tempfile
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from clustering.errors import ConfigError, StageError
from clustering.kernels.printable import CREDENTIALS
from clustering.runs.object_store import LOCAL, RemotePath, is_local, local_path

T = TypeVar("T")
ROW_GROUP = 131_072  # rows that are read at once at least
END_BYTES = 64 << 10  # of an object: the footer of a part is smaller
REQUEST_BYTES = 16 << 20  # of an array that is copied from an object store, with each request
REDO_HINT = "covey run with run.resume=false makes it anew"
SECRET_SHOWN = "a URI holds a user or password; object stores take credentials from the environment"


class RetryingFile(io.RawIOBase):
    """The content of an object at any position; a failed read is retried from its position.

    Raises: StageError as ``RemotePath.retry`` does.
    """

    def __init__(self, path: RemotePath) -> None:
        self.path, self.at = path, 0
        self.source: pa.NativeFile | None = None
        self.size = int(path._info().size or 0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        return self.at

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self.size - self.at))
        found = self.path.retry(lambda fs: self._read(fs, wanted)) if wanted else b""
        buffer[: len(found)] = found
        self.at += len(found)
        return len(found)

    def _read(self, fs: pa.fs.FileSystem, wanted: int) -> bytes:
        source, self.source = self.source or fs.open_input_file(self.path.inner), None
        found: bytes = source.read_at(wanted, self.at)
        self.source = source  # after a failure the next read opens the object again
        return found


class ObjectFile(RetryingFile):
    """An object of a run directory at any position; its last bytes, where a footer lies, come with its size.

    known : ``end`` and ``size`` of the same object, opened before
    """

    def __init__(self, path: RemotePath, known: tuple[bytes, int] | None = None) -> None:
        self.path, self.at, self.source = path, 0, None
        self.end, self.size = known or path.retry(self._open)

    def _open(self, fs: pa.fs.FileSystem) -> tuple[bytes, int]:
        found = self.path.read_range(None, END_BYTES)
        if found is not None:
            return found
        source = fs.open_input_file(self.path.inner)
        self.source = source
        return b"", source.size()

    def _read(self, fs: pa.fs.FileSystem, wanted: int) -> bytes:
        first = self.at + len(self.end) - self.size
        if first >= 0:
            return self.end[first : first + wanted]
        found = self.path.read_range(self.at, wanted)
        return super()._read(fs, wanted) if found is None else found[0]


Location = Path | RemotePath


def locate(uri: str | Location) -> Location:
    """An absolute path of this machine, or the path in an object store that a URI names.

    Raises: ConfigError for what is neither.
    """
    if isinstance(uri, RemotePath):
        return uri
    if not str(uri) or "\0" in str(uri):
        raise ConfigError([f"{str(uri)!r} is no path"])
    if CREDENTIALS.search(str(uri)):
        raise ConfigError([SECRET_SHOWN])
    try:
        return Path(local_path(str(uri))).absolute() if is_local(str(uri)) else RemotePath.of(str(uri))
    except ValueError as error:
        raise ConfigError([f"{str(uri)[:200]!r} is no URI: {error}"]) from None


def is_within(path: Location, folder: Location) -> bool:
    """Whether a path is a folder or lies below it; links are followed."""
    if isinstance(folder, RemotePath):
        return isinstance(path, RemotePath) and f"{path.inner}/".startswith(f"{folder.inner}/")
    if isinstance(path, RemotePath):
        return False
    if not folder.exists():
        return path.is_relative_to(folder)
    real = Path(os.path.realpath(path))
    return any(above.exists() and above.samefile(folder) for above in (real, *real.parents))


def check_writable(path: Location, option: str) -> None:
    """Raises: ConfigError when the file cannot be written; ``option`` is the option of the command line in messages."""
    if isinstance(path, RemotePath):
        return
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a directory; name a file in it")
        path.parent.mkdir(parents=True, exist_ok=True)
        trial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise ConfigError([f"{option} {str(path)[:200]} cannot be written: {error.strerror}"]) from None


def _make_empty(path: Path) -> None:
    """Make an empty file and its folder; another thread may remove the folder while it is empty."""
    for tries_left in range(EMPTIED, -1, -1):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            return
        except (FileNotFoundError, FileExistsError):  # mkdir raises either when the folder vanishes meanwhile
            if not tries_left:
                raise
            time.sleep(random.uniform(0, 0.001))  # else two threads may take turns for long on a busy machine


@contextmanager
def atomic_write(path: Location, durable: bool = True, make_folder: bool = True) -> Iterator[Path]:
    """A temporary local path; its content replaces ``path`` when the block ends without an error.

    durable : also after a crash of the machine; a file that no other start reads need not wait for the disk
    make_folder : the path's; without it, FileNotFoundError where there is none
    """
    if isinstance(path, RemotePath):
        with tempfile.TemporaryDirectory(prefix="covey-") as folder:
            yield Path(folder) / path.name
            path.upload(Path(folder) / path.name)
        return
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")  # containers may share process ids
    try:
        (_make_empty if make_folder else Path.touch)(temporary)
        yield temporary
        if durable:  # otherwise a name could survive a crash without its content
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def is_folder(path: Location) -> bool:
    return path.is_dir() if isinstance(path, Path) else bool(path._info().type == pa.fs.FileType.Directory)


def move(path: Location, to: Location) -> None:
    """Replace a file with another, in one step for readers; an object store copies it.

    A folder needs a free place. In an object store its files are copied, and stay where they are as well.
    """
    if isinstance(path, RemotePath) and isinstance(to, RemotePath):
        is_prefix = is_folder(path)
        with ThreadPoolExecutor(COPIES) as pool:
            list(pool.map(lambda one: one.copy(to / one.name if is_prefix else to), path.glob("*") or [path]))
        if not is_prefix:
            path.remove()
    else:
        os.replace(str(path), str(to))


COPIES = 16  # concurrent requests to an object store
EMPTIED = 100  # times that a folder may vanish before it holds a file
# The key of an extension type in the footer of an Arrow file and, in base64 at three offsets, of a Parquet file.
_EXTENSION = (
    b"ARROW:extension:name", b"QVJST1c6ZXh0ZW5zaW9uOm5hbW", b"FSUk9XOmV4dGVuc2lvbjpuYW1l", b"BUlJPVzpleHRlbnNpb246bmFtZ"
)  # fmt: skip
_MAGIC = (b"ARROW1", b"PAR1")  # the last bytes of a file, after its footer and the footer's length


def has_extension_types(file: Any) -> bool:
    """Whether an open, seekable Parquet or Arrow file has columns of Arrow extension types.

    pyarrow builds such columns with code that Ray and others register, and some of it runs pickle. This function
    therefore searches the bytes of the footer before pyarrow reads the file. It leaves the file at its beginning.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 10))
    tail = file.read(10)
    end = 4 + len(_MAGIC[0] if tail.endswith(_MAGIC[0]) else _MAGIC[1])
    footer_bytes = int.from_bytes(tail[-end:][:4], "little")
    file.seek(max(0, size - end - footer_bytes))
    footer = file.read(footer_bytes)
    file.seek(0)
    return any(name in footer for name in _EXTENSION)


def _read(path: Location, work: Callable[[pa.NativeFile], T], at_once: bool = False) -> T:
    """The result of ``work`` on a Parquet or Arrow file; at_once : read the file in one request

    Raises: StageError when the file is damaged, or holds extension types, which Covey never writes.
    """
    at_once = at_once and isinstance(path, RemotePath)
    return _work_on(path, pa.BufferReader(path.read_bytes()) if at_once else _open(path), work)


def _open(path: Location, known: tuple[bytes, int] | None = None) -> Any:
    return ObjectFile(path, known) if isinstance(path, RemotePath) else LOCAL.open_input_file(str(path))


def _work_on(path: Location, opened: Any, work: Callable[[pa.NativeFile], T], checked: bool = False) -> T:
    """The same for a file that is open; checked : its footer is known to name no extension types"""
    try:
        with opened:
            if not checked and has_extension_types(opened):
                raise StageError(
                    f"{path} holds columns of an Arrow extension type, which may run code when they are read; Covey "
                    f"writes none. Use only run directories whose origin you know"
                )
            return work(opened if isinstance(opened, pa.NativeFile) else pa.PythonFile(opened, mode="r"))
    except pa.ArrowInvalid as error:
        raise StageError(f"{path} is damaged: {str(error)[:200]}. {REDO_HINT}") from None


def _read_parquet(path: Location, work: Callable[[pq.ParquetFile], T]) -> T:
    return _read(path, lambda file: work(pq.ParquetFile(file, pre_buffer=True)))


def read_table(path: Location, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file, or some of its columns. Raises: StageError when it holds extension types."""
    return _read_parquet(path, lambda file: file.read(columns=columns))


def read_slice(path: Location, first: int, stop: int, columns: list[str]) -> pa.Table:
    """Some columns of some consecutive rows of a Parquet file; only the row groups that hold them are read.

    first, stop : positions in the file, stop at most its rows
    """

    def read(file: pq.ParquetFile) -> pa.Table:
        ends = np.cumsum([0, *(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))])
        wanted = [group for group in range(file.num_row_groups) if ends[group] < stop and ends[group + 1] > first]
        table = file.read_row_groups(wanted, columns=columns)
        return table.slice(first - ends[wanted[0]], stop - first) if wanted else table

    return _read_parquet(path, read)


def read_metadata(path: Location) -> pq.FileMetaData:
    """The footer of a Parquet file. Raises: StageError when the file holds extension types."""
    return _read_parquet(path, lambda file: file.metadata)


class ParquetGroups:
    """A Parquet file whose row groups are read one at a time; its footer is read once.

    Raises: StageError when the file holds extension types.
    """

    def __init__(self, path: Location) -> None:
        self.path = path
        opened = _open(path)
        self.known = (opened.end, opened.size) if isinstance(opened, ObjectFile) else None
        self.footer: pq.FileMetaData = _work_on(path, opened, lambda file: pq.ParquetFile(file).metadata)
        rows = [self.footer.row_group(group).num_rows for group in range(self.footer.num_row_groups)]
        self.starts = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])  # positions, and the number of rows

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def group_bytes(self) -> int:
        """Of the first row group, in memory."""
        return self.footer.row_group(0).total_byte_size if len(self) else 0

    def read(self, group: int, columns: list[str] | None = None) -> pa.Table:
        """A row group, or those of some columns that the file has."""

        def read(file: pa.NativeFile) -> pa.Table:
            return pq.ParquetFile(file, metadata=self.footer, pre_buffer=True).read_row_group(group, columns)

        return _work_on(self.path, _open(self.path, self.known), read, checked=True)

    def take(self, positions: np.ndarray[Any, Any], columns: list[str]) -> pa.Table:
        """Some columns of some rows, of which only the row groups are read. positions : int64, ascending"""
        group = np.searchsorted(self.starts, positions, side="right") - 1
        return pa.concat_tables(
            self.read(int(one), columns).take(positions[group == one] - self.starts[one]) for one in np.unique(group)
        )


def read_schema(path: Location) -> pa.Schema:
    return read_metadata(path).schema.to_arrow_schema()


def write_temporary(path: Location, table: pa.Table) -> None:
    """Write an uncompressed Arrow file for this start alone, in a tenth of the time of a Parquet file."""
    with atomic_write(path, durable=False) as temporary, pa.ipc.new_file(str(temporary), table.schema) as writer:
        writer.write_table(table.combine_chunks())  # a file has one dictionary for each column


def read_temporary(path: Location, wanted: Callable[[str], bool]) -> pa.Table:
    """The wanted columns of an Arrow file. Raises: StageError when it holds extension types."""

    def read(file: pa.NativeFile) -> pa.Table:
        fields = [field for field, name in enumerate(pa.ipc.open_file(file).schema.names) if wanted(name)]
        return pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=fields)).read_all()

    # The files are small, and reading one takes many requests.
    return _read(path, read, at_once=isinstance(path, RemotePath))


def load_array(path: Location, mapped: bool = False) -> Any:
    """A .npy or .npz file; nothing in it is executed.

    mapped : memory-map the .npy file; one from an object store is first copied to this node, until its last use
    """
    try:
        if isinstance(path, Path):
            return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        if not mapped:
            return np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        with tempfile.NamedTemporaryFile(prefix="covey-") as copy:
            source = path.inner
            path.retry(lambda fs: pa.fs.copy_files(source, copy.name, fs, LOCAL, chunk_size=REQUEST_BYTES))
            return np.load(copy.name, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile):  # also raised for pickles, which are not loaded
        raise StageError(f"{path} is damaged: it holds no array. {REDO_HINT}") from None


def digest(*parts: Any) -> str:
    """A digest of 16 hexadecimal digits of values that JSON can hold, others as strings."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def json_bytes(content: Any) -> bytes:
    return f"{json.dumps(content, indent=1, ensure_ascii=False)}\n".encode()


def write_json(path: Location, content: Any, make_folder: bool = True) -> None:
    with atomic_write(path, make_folder=make_folder) as temporary:
        temporary.write_bytes(json_bytes(content))


def read_json(path: Location, *keys: str) -> dict[str, Any]:
    """The object that ``write_json`` has written, with these keys. Raises: StageError when it is damaged."""
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        if lacking := [key for key in keys if key not in found] if isinstance(found, dict) else ["object"]:
            raise ValueError(f"it holds no {', '.join(lacking)}")
    except (ValueError, RecursionError) as error:
        raise StageError(f"{path} is damaged: {str(error)[:200]}. {REDO_HINT}") from None
    return dict(found)


def write_table(path: Location, table: pa.Table) -> None:
    """Write a Parquet file atomically."""
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=ROW_GROUP)


def save_array(path: Location, array: np.ndarray[Any, Any]) -> None:
    """Write a .npy file atomically."""
    with atomic_write(path) as temporary, temporary.open("wb") as handle:
        np.save(handle, array)
