"""Folders in; a small server that hands them out as models of a hub, and counts what is asked, out."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Hub:
    """One model: the folder of each commit, and the commit of each branch and tag."""

    model: str
    commits: dict[str, Path]
    refs: dict[str, str]
    url: str = ""
    taken: Counter[str] = field(default_factory=Counter)  # by file: how often it was downloaded

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a path without its query."""
        if path.startswith("/api/models/"):
            named, what, revision = re.split("/(revision|tree)/", f"{path.removeprefix('/api/models/')}/revision/")[:3]
            commit = self.refs.get(revision or "main", revision)
            if named != self.model or commit not in self.commits:
                return 404, {"X-Error-Code": "RevisionNotFound" if named == self.model else "RepoNotFound"}, b""
            if what == "tree":
                files = [file for file in self.commits[commit].rglob("*") if file.is_file()]
                entries = [
                    {
                        "type": "file",
                        "path": file.relative_to(self.commits[commit]).as_posix(),
                        "size": file.stat().st_size,
                        "oid": _digest(file.read_bytes()),
                    }
                    for file in files
                ]
                return 200, {}, json.dumps(entries).encode()
            return 200, {}, json.dumps({"id": self.model, "sha": commit}).encode()
        named, _, rest = path.removeprefix("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        commit = self.refs.get(revision, revision)
        file = self.commits.get(commit, Path("/nowhere")) / name
        if named != self.model or not file.is_file():
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{_digest(file.read_bytes())}"'}, file.read_bytes()


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub at an address of this machine, for as long as the block takes."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = hub.answer(self.path.partition("?")[0])
            if self.command == "GET" and "/resolve/" in self.path and status == 200:
                hub.taken[self.path.partition("/resolve/")[2].partition("/")[2]] += 1
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
