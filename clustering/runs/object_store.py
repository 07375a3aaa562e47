"""An object store as a file system: paths, requests that are repeated where waiting helps, one client each."""

from __future__ import annotations

import fnmatch
import functools
import os
import random
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

PATIENCE_S = 300.0  # how long an object store that fails is waited for, unless the run says otherwise
FEW_TRIES = 3  # for what is neither known to pass nor known to stay, such as a file that is no Parquet
LONGEST_PAUSE_S = 10.0
COPIED_BYTES = 4 << 30  # S3 copies objects of 5 GB at most by itself
S3_ATTEMPTS = 5  # of one request, in 1 s
LOCAL = pa.fs.LocalFileSystem()
_only_streams: set[str] = set()  # buckets that the other client cannot write to
# What waiting cannot mend: missing rights, a wrong key, a bucket that is not there. The words of Amazon's
# client, then of Google's.
PERMANENT_WORDS = ("access_denied", "http status 401", "http status 403", "no_such_bucket", "invalid_access_key",
               "signature_does_not_match", "invalid_signature", "status(permission_denied", "status(unauthenticated",
               "status(invalid_argument", "status(failed_precondition")  # fmt: skip
TRANSIENT_WORDS = ("aws error", "google::cloud::status", "curl", "time", "connect", "unavailable", "status code: 5",
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
        return LOCAL, local_path(uri).rstrip("/") or "/"
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

    def retry(self, work: Callable[[pa.fs.FileSystem], T], tries: int = 0) -> T:
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
                hope = is_transient(error)
                if hope is False or failures == tries or left <= 0 or (hope is None and failures >= FEW_TRIES):
                    raise self._failed(error, failures, time.monotonic() - started) from None
                # Drawn, so that workers that fail together do not come back together.
                time.sleep(min(left, random.uniform(0.5, 1) * min(0.2 * 2**failures, LONGEST_PAUSE_S)))

    def _failed(self, error: Exception, failures: int, seconds: float) -> StageError:
        words = " ".join(str(error).split())[:400]
        tried = f" (tried {failures} times in {seconds:.0f} s)" if failures > 1 else ""
        return StageError(f"{self}: {words}{tried}. When that is mended, the same command goes on")

    def _info(self) -> Any:
        return self.retry(lambda fs: fs.get_file_info(self.inner))

    def exists(self) -> bool:
        return bool(self._info().type != pa.fs.FileType.NotFound)

    def glob(self, pattern: str) -> list[RemotePath]:
        """The objects directly below whose name matches."""
        selector = pa.fs.FileSelector(self.inner, allow_not_found=True)
        infos = self.retry(lambda fs: fs.get_file_info(selector))
        return [self / info.base_name for info in infos if fnmatch.fnmatchcase(info.base_name, pattern)]

    def read_bytes(self) -> bytes:
        def read(fs: pa.fs.FileSystem) -> bytes:
            with fs.open_input_stream(self.inner, compression=None) as stream:
                return stream.read()  # type: ignore[no-any-return]

        return self.retry(read)

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

        self.retry(put, tries)

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
            if is_transient(error) is True:
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

        self.retry(delete, tries)


def is_transient(error: Exception) -> bool | None:
    """Whether waiting may mend what a client of an object store raised: True, False, or None for who knows."""
    words = str(error).lower()
    if any(word in words for word in PERMANENT_WORDS):
        return False
    return True if any(word in words for word in TRANSIENT_WORDS) else None
