"""Where artefacts lie: a local path, or a place in an object store that is used like one."""

from __future__ import annotations

import errno
import fnmatch
import functools
import io
import os
import random
import tempfile
import time
import urllib.parse
import uuid
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
import obstore
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
from obstore.exceptions import BaseError
from obstore.store import GCSStore, S3Store

from clustering.errors import ConfigError, StageError
from clustering.kernels.printable import CREDENTIALS

T = TypeVar("T")
ANEW = "covey run with run.resume=false makes it anew"
SECRET_SHOWN = "a URI holds a user or password; object stores take credentials from the environment"
PATIENCE_S = 300.0  # how long an object store that fails is waited for, unless the run says otherwise
FEW_TRIES = 3  # for what is neither known to pass nor known to stay, such as a file that is no Parquet
LONGEST_PAUSE_S = 10.0
COPIED_BYTES = 4 << 30  # S3 copies objects of 5 GB at most by itself
S3_ATTEMPTS = 5  # of one request, in 1 s
_LOCAL = pa.fs.LocalFileSystem()
_only_streams: set[str] = set()  # buckets that the other client cannot write to
# What waiting cannot mend: missing rights, a wrong key, a bucket that is not there. The words of Amazon's
# client, then of Google's.
FINAL_WORDS = ("access_denied", "http status 401", "http status 403", "no_such_bucket", "invalid_access_key",
               "signature_does_not_match", "invalid_signature", "status(permission_denied", "status(unauthenticated",
               "status(invalid_argument", "status(failed_precondition")  # fmt: skip
PASSING_WORDS = ("aws error", "google::cloud::status", "curl", "time", "connect", "unavailable", "status code: 5",
                 "status code: 429", "sending request")  # fmt: skip


@functools.lru_cache(maxsize=16)
def _filesystem(scheme: str, authority: str, query: str) -> pa.fs.FileSystem:
    filesystem, _ = pa.fs.FileSystem.from_uri(f"{scheme}://{authority}{'?' + query if query else ''}")
    if scheme != "s3":
        return filesystem
    options = dict(urllib.parse.parse_qsl(query))
    kept = {name: options[name] for name in ("scheme", "endpoint_override") if name in options}
    retry = pa.fs.AwsDefaultS3RetryStrategy(max_attempts=S3_ATTEMPTS)  # the other waits up to 20 s
    return pa.fs.S3FileSystem(region=filesystem.region, retry_strategy=retry, allow_delayed_open=True, **kept)


def is_local(given: str) -> bool:
    """Whether a path or URI lies on this machine, as file:///home/u/a%20b does."""
    return "://" not in given or given[:7].lower() == "file://"


def local_path(given: str) -> str:
    """The path that is_local's path or file URI means; in a URI, %20 is a space.

    Raises: ValueError for a URI that names another machine, or options, which are for buckets.
    """
    if "://" not in given:
        return os.path.expanduser(given)  # ~nobody stays as it is
    _, authority, path, query, _ = urllib.parse.urlsplit(given, allow_fragments=False)
    if authority not in ("", "localhost") or not path:
        raise ValueError(f"file:// is followed by an absolute path (file:///home), not by {authority!r}")
    if query:
        raise ValueError("a local path has no options; in a URI, ? is written %3F")
    return urllib.parse.unquote(path)


def filesystem_of(uri: str) -> tuple[pa.fs.FileSystem, str]:
    """The file system of a URI such as s3://bucket/prefix?region=eu-west-1, and the path within it.

    Credentials are those of the environment, never part of the URI. A key of a bucket is taken as it stands, with its
    percent signs, which Hive writes into names; other URIs are decoded.
    Raises: OSError, ValueError for a URI that names none.
    """
    if is_local(uri):
        return _LOCAL, local_path(uri).rstrip("/") or "/"
    scheme, authority, path, query, _ = urllib.parse.urlsplit(uri, allow_fragments=False)
    if scheme in ("s3", "gs"):  # the same for every path of a bucket, so that connections are kept
        return _filesystem(scheme, authority, query), f"{authority}{path}".rstrip("/")
    filesystem, inner = pa.fs.FileSystem.from_uri(uri)
    return filesystem, inner.rstrip("/")


@functools.lru_cache(maxsize=16)
def object_client(root: str, bucket: str) -> Any:
    """A client that writes objects whole, and on a condition; pyarrow's does neither. Credentials as for pyarrow's, but
    of the environment and the machine alone, not of profiles."""
    scheme, _, _, query, _ = urllib.parse.urlsplit(root, allow_fragments=False)
    options = dict(urllib.parse.parse_qsl(query))
    plain = options.get("scheme") == "http"
    endpoint = options.get("endpoint_override")
    url = f"{'http' if plain else 'https'}://{endpoint}" if endpoint else None
    shared: Any = {
        "client_options": {"allow_http": plain, "timeout": "30s", "connect_timeout": "5s"},
        "retry_config": {"max_retries": 2, "retry_timeout": timedelta(seconds=10)},
    }
    where: Any = {}
    if scheme == "s3":
        region = filesystem_of(root)[0].region
        where = {"endpoint": url, "virtual_hosted_style_request": False} if url else {}
        return S3Store(bucket, region=region, **where, **shared)
    if url:
        where = {"config": {"base_url": url, "skip_signature": plain}}
    return GCSStore(bucket, **where, **shared)


@dataclass(frozen=True)
class RemotePath:
    """An object or prefix of an object store, with those of pathlib's methods that a run directory needs.

    An object is there when it is whole. What fails is tried again, because object stores fail now and then.
    """

    root: str  # scheme, bucket and options: s3://bucket?region=eu-west-1
    inner: str  # bucket and key
    patience_s: float = field(default=PATIENCE_S, compare=False)  # how long it is waited for when it fails

    @classmethod
    def of(cls, uri: str) -> RemotePath:
        """Raises: ValueError for a key with a step that object stores do not know."""
        scheme, authority, path, query, _ = urllib.parse.urlsplit(uri, allow_fragments=False)
        steps = [step for step in path.split("/") if step]
        if not {".", ".."}.isdisjoint(steps):
            raise ValueError("a bucket knows no steps . and ..")
        return cls(f"{scheme}://{authority}{'?' + query if query else ''}", "/".join([authority, *steps]))

    def __str__(self) -> str:
        scheme, _, _, query, _ = urllib.parse.urlsplit(self.root, allow_fragments=False)
        return f"{scheme}://{self.inner}{'?' + query if query else ''}"

    def __truediv__(self, name: str) -> RemotePath:
        return replace(self, inner=f"{self.inner}/{name}")

    @property
    def name(self) -> str:
        return PurePosixPath(self.inner).name

    @property
    def parent(self) -> RemotePath:
        return replace(self, inner=str(PurePosixPath(self.inner).parent))

    def with_suffix(self, suffix: str) -> RemotePath:
        return replace(self, inner=str(PurePosixPath(self.inner).with_suffix(suffix)))

    @property
    def filesystem(self) -> pa.fs.FileSystem:
        return filesystem_of(self.root)[0]

    def again(self, work: Callable[[pa.fs.FileSystem], T], tries: int = 0) -> T:
        """Call until it works, for ``patience_s`` at most; ``tries``: or so many times.

        Raises: FileNotFoundError at once; StageError at once for what waiting cannot mend, after a few tries for what
            is unknown, and for what has not passed in time.
        """
        failures, started = 0, time.monotonic()
        while True:
            try:
                return work(self.filesystem)
            except FileNotFoundError:
                raise
            except (OSError, pa.ArrowInvalid) as error:
                failures += 1
                if failures == 1:
                    started = time.monotonic()
                left = started + self.patience_s - time.monotonic()
                hope = passes(error)
                if hope is False or failures == tries or left <= 0 or (hope is None and failures >= FEW_TRIES):
                    raise self._failed(error, failures, time.monotonic() - started) from None
                # Drawn, so that workers that fail together do not come back together.
                time.sleep(min(left, random.uniform(0.5, 1) * min(0.2 * 2**failures, LONGEST_PAUSE_S)))

    def _failed(self, error: Exception, failures: int, seconds: float) -> StageError:
        words = " ".join(str(error).split())[:400]
        tried = f" (tried {failures} times in {seconds:.0f} s)" if failures > 1 else ""
        return StageError(f"{self}: {words}{tried}. When that is mended, the same command goes on")

    def _info(self) -> Any:
        return self.again(lambda fs: fs.get_file_info(self.inner))

    def exists(self) -> bool:
        return bool(self._info().type != pa.fs.FileType.NotFound)

    def glob(self, pattern: str) -> list[RemotePath]:
        """The objects directly below whose name matches."""
        selector = pa.fs.FileSelector(self.inner, allow_not_found=True)
        infos = self.again(lambda fs: fs.get_file_info(selector))
        return [self / info.base_name for info in infos if fnmatch.fnmatchcase(info.base_name, pattern)]

    def read_bytes(self) -> bytes:
        def read(fs: pa.fs.FileSystem) -> bytes:
            with fs.open_input_stream(self.inner, compression=None) as stream:
                return stream.read()  # type: ignore[no-any-return]

        return self.again(read)

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def age_s(self) -> float:
        """Seconds since the object was written; infinite when there is none."""
        info = self._info()
        return float("inf") if info.mtime is None else time.time() - info.mtime.timestamp()

    def upload(self, content: Path | bytes, tries: int = 0) -> None:
        """Put bytes, or a local file's content, here in one step."""

        def put(fs: pa.fs.FileSystem) -> None:
            if self._put_at_once(content):
                return
            if isinstance(content, bytes):
                with fs.open_output_stream(self.inner) as stream:
                    stream.write(content)
                return
            # One call: a signal cannot come in between and have half of the content closed as if it were all.
            pa.fs.copy_files(str(content), self.inner, pa.fs.LocalFileSystem(), fs)
            if fs.get_file_info(self.inner).size != content.stat().st_size:
                raise OSError(f"{self.inner} has another size than what was written")

        self.again(put, tries)

    def _put_at_once(self, content: Path | bytes) -> bool:
        """Put content without a stream, where the store can be asked so.

        A stream of pyarrow's that failed writes once more when it is forgotten: an empty object in the place of a whole
        one, as late as the interpreter likes.
        """
        bucket, _, key = self.inner.partition("/")
        if not self.root.startswith("s3://") or bucket in _only_streams:
            return False
        try:
            obstore.put(object_client(self.root, bucket), key, content)
        except BaseError as error:
            if passes(error) is True:
                raise OSError(str(error).split("Debug source")[0]) from None
            _only_streams.add(bucket)  # such as credentials that this client does not find; pyarrow says what is wrong
            return False
        return True

    def remove(self, tries: int = 0) -> None:
        def delete(fs: pa.fs.FileSystem) -> None:
            kind = fs.get_file_info(self.inner).type
            if kind == pa.fs.FileType.Directory:
                try:
                    fs.delete_dir(self.inner)
                except FileNotFoundError:  # of Google's, when what lay in it is gone and there is no object of its name
                    if fs.get_file_info(self.inner).type != pa.fs.FileType.NotFound:
                        raise
            elif kind == pa.fs.FileType.File:
                fs.delete_file(self.inner)

        self.again(delete, tries)


class SteadyFile(io.RawIOBase):
    """The content of an object, read at any place; a read that fails is tried again from where it was.

    Raises: StageError as ``RemotePath.again`` does.
    """

    def __init__(self, path: RemotePath) -> None:
        self.path, self.at, self.source = path, 0, None
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
        found = self.path.again(lambda fs: self._read(fs, wanted)) if wanted else b""
        buffer[: len(found)] = found
        self.at += len(found)
        return len(found)

    def _read(self, fs: pa.fs.FileSystem, wanted: int) -> bytes:
        source, self.source = self.source or fs.open_input_file(self.path.inner), None
        found: bytes = source.read_at(wanted, self.at)
        self.source = source  # one that has failed is opened anew
        return found


def passes(error: Exception) -> bool | None:
    """Whether waiting may mend what a client of an object store raised: True, False, or None for who knows."""
    words = str(error).lower()
    if any(word in words for word in FINAL_WORDS):
        return False
    return True if any(word in words for word in PASSING_WORDS) else None


Place = Path | RemotePath


def place(given: str | Place) -> Place:
    """A path of this machine, absolute, or a place in an object store for a URI.

    Raises: ConfigError for what is neither.
    """
    if isinstance(given, RemotePath):
        return given
    if not str(given) or "\0" in str(given):
        raise ConfigError([f"{str(given)!r} is no path"])
    if CREDENTIALS.search(str(given)):
        raise ConfigError([SECRET_SHOWN])
    try:
        return Path(local_path(str(given))).absolute() if is_local(str(given)) else RemotePath.of(str(given))
    except ValueError as error:
        raise ConfigError([f"{str(given)[:200]!r} is no URI: {error}"]) from None


def check_writable(path: Place, option: str) -> None:
    """Raises: ConfigError when a file cannot be written there; ``option`` names what was given on the command line."""
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


@contextmanager
def whole(path: Place, lasting: bool = True) -> Iterator[Path]:
    """A temporary local path whose content stands at ``path`` when the block ends without an error.

    lasting : also after a crash of the machine; what no other start reads need not wait for the disk
    """
    if isinstance(path, RemotePath):
        with tempfile.TemporaryDirectory(prefix="covey-") as folder:
            yield Path(folder) / path.name
            path.upload(Path(folder) / path.name)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")  # processes of containers share numbers
    try:
        yield temporary
        if lasting:  # a name that survives a crash without its content would pass for a whole part
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def move(path: Place, to: Place) -> None:
    """Put a file in the place of another, in one step for who reads it; in an object store, it is copied there."""
    if isinstance(path, RemotePath) and isinstance(to, RemotePath):
        size = path._info().size or 0

        def copy(fs: pa.fs.FileSystem) -> None:
            if size <= COPIED_BYTES:
                fs.copy_file(path.inner, to.inner)
            else:
                pa.fs.copy_files(path.inner, to.inner, fs, fs)

        path.again(copy)
        path.remove()
    else:
        os.replace(str(path), str(to))


def touch(path: Place) -> None:
    """An empty file as a mark."""
    with whole(path) as temporary:
        temporary.touch()


# How the footer of an Arrow file says that a column has an extension type, and, in base64, at each place of three, that
# of a Parquet file.
_EXTENSION = (
    b"ARROW:extension:name", b"QVJST1c6ZXh0ZW5zaW9uOm5hbW", b"FSUk9XOmV4dGVuc2lvbjpuYW1l", b"BUlJPVzpleHRlbnNpb246bmFtZ"
)  # fmt: skip
_MAGIC = (b"ARROW1", b"PAR1")  # with which a file ends, behind its footer and the footer's length


def has_extensions(file: Any) -> bool:
    """Whether a Parquet or Arrow file, opened and seekable, says that columns hold Arrow extension types.

    pyarrow makes them when the file is opened, by code that Ray and others have registered; some of it runs pickle. So
    this looks at the footer's bytes, before anything is read. The file's place is at its beginning afterwards.
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


def _read(path: Place, work: Callable[[pa.NativeFile], T], at_once: bool = False) -> T:
    """What ``work`` takes from a Parquet or Arrow file; at_once : in one request

    Raises: StageError when it is damaged, or holds extension types, which no artefact of Covey's does.
    """

    def read(fs: pa.fs.FileSystem) -> T:
        with fs.open_input_file(path.inner if isinstance(path, RemotePath) else str(path)) as opened:
            file = pa.BufferReader(opened.read_buffer()) if at_once else opened
            if has_extensions(file):
                raise StageError(
                    f"{path} holds columns of an Arrow extension type, which may run code when they are read; Covey "
                    f"writes none. Use only run directories whose origin you know"
                )
            return work(file)

    if isinstance(path, RemotePath):
        return path.again(read)
    try:
        return read(_LOCAL)
    except pa.ArrowInvalid as error:
        raise StageError(f"{path} is damaged: {str(error)[:200]}. {ANEW}") from None


def _read_parquet(path: Place, work: Callable[[pq.ParquetFile], T]) -> T:
    return _read(path, lambda file: work(pq.ParquetFile(file, pre_buffer=True)))


def read_table(path: Place, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file, or some of its columns. Raises: StageError when it holds extension types."""
    return _read_parquet(path, lambda file: file.read(columns=columns))


def read_metadata(path: Place) -> pq.FileMetaData:
    """What a Parquet file says of itself, without its rows. Raises: StageError when it holds extension types."""
    return _read_parquet(path, lambda file: file.metadata)


def read_schema(path: Place) -> pa.Schema:
    return read_metadata(path).schema.to_arrow_schema()


def write_passing(path: Place, table: pa.Table) -> None:
    """Write an Arrow file for this start alone: uncompressed, which takes a tenth of the time that Parquet takes."""
    with whole(path, lasting=False) as temporary, pa.ipc.new_file(str(temporary), table.schema) as writer:
        writer.write_table(table.combine_chunks())  # a file has one dictionary for each column


def read_passing(path: Place, wanted: Callable[[str], bool]) -> pa.Table:
    """The wanted columns of an Arrow file. Raises: StageError when it holds extension types."""

    def read(file: pa.NativeFile) -> pa.Table:
        at = [at for at, name in enumerate(pa.ipc.open_file(file).schema.names) if wanted(name)]
        return pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=at)).read_all()

    return _read(path, read, at_once=isinstance(path, RemotePath))  # small, and Arrow files are read in many steps


def load_array(path: Place, mapped: bool = False) -> Any:
    """A .npy file, memory-mapped where asked, or a .npz file; nothing in it is executed.

    A mapped one from an object store is first copied to this node, into a file that ends with its last use.
    """
    if isinstance(path, Path):
        try:
            return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        except (ValueError, EOFError, zipfile.BadZipFile):  # of pickles, too, which stay unread
            raise StageError(f"{path} is damaged: it holds no array. {ANEW}") from None
    if not mapped:
        return np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    with tempfile.NamedTemporaryFile(prefix="covey-") as copy:
        source = path.inner
        path.again(lambda fs: pa.fs.copy_files(source, copy.name, fs, pa.fs.LocalFileSystem()))
        return np.load(copy.name, mmap_mode="r", allow_pickle=False)
