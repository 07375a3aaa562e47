"""A URI in; an object store as a file system out: paths, and requests that are retried on transient errors."""

from __future__ import annotations

import errno
import fnmatch
import functools
import os
import random
import re
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import obstore
import pyarrow as pa
import pyarrow.fs
from obstore.exceptions import BaseError
from obstore.store import GCSStore, S3Store

from clustering.errors import StageError

T = TypeVar("T")

PATIENCE_S = 300.0  # how long a failing request is retried, unless the run says otherwise
FEW_TRIES = 3  # for an error that is neither known to be transient nor permanent, such as a file that is no Parquet
LONGEST_PAUSE_S = 10.0
COPIED_BYTES = 4 << 30  # S3 itself copies objects of 5 GB at most
S3_ATTEMPTS = 5  # of one request, in 1 s
EMPTY_WORDS = ("InvalidRange", "NotPartial")  # of an error for a range of an empty object
UPLOAD_BYTES, UPLOADS = 16 << 20, 4  # a larger object is uploaded in pieces, so many at a time
LOCAL = pa.fs.LocalFileSystem()
_only_streams: set[str] = set()  # buckets that obstore has no access to
# Permanent errors are missing rights, a wrong key, an unknown bucket. The words of Amazon's client, then of Google's.
PERMANENT_WORDS = ("access_denied", "http status 401", "http status 403", "no_such_bucket", "invalid_access_key",
               "signature_does_not_match", "invalid_signature", "status(permission_denied", "status(unauthenticated",
               "status(invalid_argument", "status(failed_precondition")  # fmt: skip
TRANSIENT_WORDS = ("aws error", "google::cloud::status", "curl", "time", "connect", "unavailable", "status code: 5",
                 "status code: 429", "sending request")  # fmt: skip
# Names of objects in an error, in which the words of an error may occur, too: s3://nytimes, bucket 'sentiment'.
NAMES = re.compile(r"'[^']*'|<(?:key|bucketname|resource)>[^<]*|(?<=location )\S+|(?<=path )\S+|(?<!\S)[^\s<]*/\S*")


@functools.lru_cache(maxsize=16)
def _filesystem(scheme: str, authority: str, query: str) -> pa.fs.FileSystem:
    filesystem, _ = pa.fs.FileSystem.from_uri(f"{scheme}://{authority}{'?' + query if query else ''}")
    if scheme != "s3":
        return filesystem
    options = dict(urllib.parse.parse_qsl(query))
    kept = {name: options[name] for name in ("scheme", "endpoint_override") if name in options}
    retry = pa.fs.AwsDefaultS3RetryStrategy(max_attempts=S3_ATTEMPTS)  # the default strategy waits up to 20 s
    return pa.fs.S3FileSystem(region=filesystem.region, retry_strategy=retry, allow_delayed_open=True, **kept)


def is_local(uri: str) -> bool:
    """Whether a path or URI lies on this machine, as file:///home/u/a%20b does."""
    return "://" not in uri or uri[:7].lower() == "file://"


def local_path(uri: str) -> str:
    """The path that is_local's path or file URI means; in a URI, %20 is a space.

    Raises: ValueError for a URI that names another machine, or options, which are for buckets.
    """
    if "://" not in uri:
        return os.path.expanduser(uri)  # ~unknown stays as it is
    _, authority, path, query, _ = urllib.parse.urlsplit(uri, allow_fragments=False)
    if authority not in ("", "localhost") or not path:
        raise ValueError(f"file:// is followed by an absolute path (file:///home), not by {authority!r}")
    if query:
        raise ValueError("a local path has no options; in a URI, ? is written %3F")
    return urllib.parse.unquote(path)


def filesystem_of(uri: str) -> tuple[pa.fs.FileSystem, str]:
    """The file system of a URI such as s3://bucket/prefix?region=eu-west-1, and the path within it.

    Credentials come from the environment, never from the URI. The key of an object is not decoded, because Hive writes
    percent signs into names; other URIs are.
    Raises: OSError, ValueError for a URI without a file system.
    """
    if is_local(uri):
        return LOCAL, local_path(uri).rstrip("/") or "/"
    scheme, authority, path, query, _ = urllib.parse.urlsplit(uri, allow_fragments=False)
    if scheme in ("s3", "gs"):  # one for all paths of a bucket, to reuse connections
        return _filesystem(scheme, authority, query), f"{authority}{path}".rstrip("/")
    filesystem, inner = pa.fs.FileSystem.from_uri(uri)
    return filesystem, inner.rstrip("/")


@functools.lru_cache(maxsize=16)
def object_client(root: str, bucket: str) -> Any:
    """A client for atomic and conditional writes, which pyarrow does not have.

    Credentials come from the environment and the machine, as for pyarrow, but not from profiles.
    """
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
    """An object or prefix of an object store, with the methods of pathlib that a run directory needs.

    An object exists only when it is complete. Requests are retried, because object stores have transient errors.
    """

    root: str  # scheme, bucket and options: s3://bucket?region=eu-west-1
    inner: str  # bucket and key
    patience_s: float = field(default=PATIENCE_S, compare=False)  # how long a failing request is retried

    @classmethod
    def of(cls, uri: str) -> RemotePath:
        """Raises: ValueError for a key with a step . or .., which object stores do not know."""
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

    @property
    def filesystem(self) -> pa.fs.FileSystem:
        return filesystem_of(self.root)[0]

    def retry(self, work: Callable[[pa.fs.FileSystem], T], tries: int = 0) -> T:
        """Call ``work`` until it succeeds, for ``patience_s`` at most; tries : at most so many times, 0 for no limit

        Raises: FileNotFoundError at once; StageError at once for a permanent error, after a few tries for an unknown
            one, and after ``patience_s`` for a transient one.
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
                transient = is_transient(error)
                is_last = failures == tries or left <= 0 or (transient is None and failures >= FEW_TRIES)
                if transient is False or is_last:
                    raise self._failed(error, failures, time.monotonic() - started) from None
                # Random, so that workers that fail together do not retry together.
                time.sleep(min(left, random.uniform(0.5, 1) * min(0.2 * 2 ** min(failures, 9), LONGEST_PAUSE_S)))

    def _failed(self, error: Exception, failures: int, seconds: float) -> StageError:
        words = " ".join(str(error).split())[:400]
        tried = f" (tried {failures} times in {seconds:.0f} s)" if failures > 1 else ""
        return StageError(f"{self}: {words}{tried}. When that is mended, the same command goes on")

    def _info(self) -> Any:
        return self.retry(lambda fs: fs.get_file_info(self.inner))

    def exists(self) -> bool:
        return bool(self._info().type != pa.fs.FileType.NotFound)

    def glob(self, pattern: str) -> list[RemotePath]:
        """The objects directly below this prefix whose name matches."""
        selector = pa.fs.FileSelector(self.inner, allow_not_found=True)
        infos = self.retry(lambda fs: fs.get_file_info(selector))
        return [self / info.base_name for info in infos if fnmatch.fnmatchcase(info.base_name, pattern)]

    def read_bytes(self) -> bytes:
        def read(fs: pa.fs.FileSystem) -> bytes:
            found = self.ask(lambda client, key: obstore.get(client, key).bytes().to_bytes())
            if found is not None:
                return found
            with fs.open_input_stream(self.inner, compression=None) as stream:
                return stream.read()  # type: ignore[no-any-return]

        return self.retry(read)

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def age_s(self) -> float:
        """Seconds since the object was written; infinity when there is none."""
        info = self._info()
        return float("inf") if info.mtime is None else time.time() - info.mtime.timestamp()

    def upload(self, content: Path | bytes, tries: int = 0) -> None:
        """Write bytes, or a local file's content, to the object in one step."""

        def put(fs: pa.fs.FileSystem) -> None:
            if self._put_at_once(content):
                return
            if isinstance(content, bytes):
                with fs.open_output_stream(self.inner) as stream:
                    stream.write(content)
                return
            # One call, so that a signal cannot close a partial object as if it were complete.
            pa.fs.copy_files(str(content), self.inner, pa.fs.LocalFileSystem(), fs)
            if fs.get_file_info(self.inner).size != content.stat().st_size:
                raise OSError(f"{self.inner} has another size than what was written")

        self.retry(put, tries)

    def _put_at_once(self, content: Path | bytes) -> bool:
        """Write without a stream; False when the store does not take it.

        A failed stream of pyarrow writes again when it is garbage collected, and replaces the object with an empty one.
        """
        options: Any = {"chunk_size": UPLOAD_BYTES, "max_concurrency": UPLOADS}
        return self.ask(lambda client, key: obstore.put(client, key, content, **options)) is not None

    def read_range(self, first: int | None, size: int) -> tuple[bytes, int] | None:
        """Some bytes from ``first`` on, or the last ones for None, and the size of the whole object, by one request.

        None where the store does not take it. pyarrow asks for the size first.
        """

        def get(client: Any, key: str) -> tuple[bytes, int]:
            wanted: Any = {"suffix": size} if first is None else (first, first + size)
            found = obstore.get(client, key, options={"range": wanted})
            return found.bytes().to_bytes(), found.meta["size"]

        return self.ask(get)

    def ask(self, work: Callable[[Any, str], T]) -> T | None:
        """What ``work`` does with a client of obstore and the object's key; None where obstore has no access.

        Raises: FileNotFoundError; OSError for a transient error, for ``retry``.
        """
        bucket, _, key = self.inner.partition("/")
        if not self.root.startswith("s3://") or bucket in _only_streams:
            return None
        try:
            return work(object_client(self.root, bucket), key)
        except (BaseError, FileNotFoundError) as error:
            if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error):
                raise FileNotFoundError(errno.ENOENT, "there is no such object", str(self)) from None
            if is_transient(error) is True:
                raise OSError(str(error).split("Debug source")[0]) from None
            if not any(words in str(error) for words in EMPTY_WORDS):
                _only_streams.add(bucket)  # for instance without credentials; pyarrow reports what is wrong
            return None

    def copy(self, to: RemotePath) -> None:
        """Copy an object to another of the same store."""
        size = self._info().size or 0

        def copy(fs: pa.fs.FileSystem) -> None:
            if size <= COPIED_BYTES:
                fs.copy_file(self.inner, to.inner)
            else:
                pa.fs.copy_files(self.inner, to.inner, fs, fs)

        self.retry(copy)

    def remove(self, tries: int = 0) -> None:
        def delete(fs: pa.fs.FileSystem) -> None:
            kind = fs.get_file_info(self.inner).type
            if kind == pa.fs.FileType.Directory:
                try:
                    fs.delete_dir(self.inner)
                except FileNotFoundError:  # Google's store raises it when the prefix is empty
                    if fs.get_file_info(self.inner).type != pa.fs.FileType.NotFound:
                        raise
            elif kind == pa.fs.FileType.File:
                fs.delete_file(self.inner)

        self.retry(delete, tries)


def is_transient(error: Exception) -> bool | None:
    """Whether an error of an object store's client is transient: True, False for permanent, None for unknown."""
    words = NAMES.sub("", str(error).lower())
    if any(word in words for word in PERMANENT_WORDS):
        return False
    return True if any(word in words for word in TRANSIENT_WORDS) else None
