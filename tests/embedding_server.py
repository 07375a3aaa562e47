"""A server of embeddings with OpenAI's interface, in this process or as one of its own.

``python -m tests.embedding_server PORT FILE`` serves the vectors of the encoder ``static`` and writes each text that it
answers into a file, a line of JSON for each request.
"""

from __future__ import annotations

import base64
import contextlib
import json
import random
import ssl
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

DIM = 24
KEY = "sk-very-secret-0815"
Reply = tuple[int, dict[str, str], bytes]


@dataclass
class Request:
    at: float  # time.monotonic()
    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def texts(self) -> list[str]:
        return list(self.body["input"])


def vectors_of(texts: list[str]) -> np.ndarray:
    """float32, shape (n_texts, DIM): a vector for each text, by its characters alone."""
    rows = [np.random.default_rng(zlib.crc32(text.encode())).normal(size=DIM) for text in texts]
    return np.array(rows, np.float32).reshape(-1, DIM)


@dataclass
class Script:
    """How a server answers: well, unless ``first`` returns a reply or raises; requests are numbered from 0."""

    first: Callable[[int, Request], Reply | None] = lambda number, request: None
    vectors: Callable[[list[str]], np.ndarray] = vectors_of
    forms: tuple[str, ...] = ("base64", "float")  # of vectors that it writes
    headers: dict[str, str] = field(default_factory=dict)  # of good replies
    asked: list[Request] = field(default_factory=list)
    at_work: int = 0
    most_at_work: int = 0
    lock: Any = field(default_factory=threading.Lock)

    def answer(self, request: Request) -> Reply:
        with self.lock:
            number = len(self.asked)
            self.asked.append(request)
            self.at_work += 1
            self.most_at_work = max(self.most_at_work, self.at_work)
        try:
            return self.first(number, request) or good(request, self.vectors(request.texts), self.forms, self.headers)
        finally:
            with self.lock:
                self.at_work -= 1


def good(request: Request, vectors: np.ndarray, forms: tuple[str, ...], headers: dict[str, str]) -> Reply:
    """The reply with some vectors, in an order of its own."""
    as_base64 = request.body.get("encoding_format") == "base64" and "base64" in forms
    data = [
        {"index": number, "embedding": base64.b64encode(row.tobytes()).decode() if as_base64 else row.tolist()}
        for number, row in enumerate(vectors)
    ]
    random.Random(len(data)).shuffle(data)
    tokens = sum(len(text.split()) for text in request.texts)
    return as_json(200, {"data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}, headers)


def as_json(status: int, content: Any, headers: dict[str, str] | None = None) -> Reply:
    return status, {"Content-Type": "application/json", **(headers or {})}, json.dumps(content).encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each reply waits for 40 ms
    script: Script

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        request = Request(time.monotonic(), self.path, dict(self.headers), body)
        status, headers, content = self.script.answer(request)
        self.send_response(status)
        length = {} if "Transfer-Encoding" in headers else {"Content-Length": str(len(content))}
        for name, value in (length | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        pass  # a client that has gone


@contextlib.contextmanager
def serving(script: Script, port: int = 0, host: str = "127.0.0.1", certificate: Path | None = None) -> Iterator[str]:
    """The address of a server that answers by a script, up to /v1; https with a certificate and its key."""
    kind = type("Own", (Handler,), {"script": script})
    family = {"address_family": 10} if ":" in host else {}
    server = type("OwnServer", (Server,), family)((host, port), kind)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http{'s' if certificate else ''}://{f'[{host}]' if ':' in host else host}:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def main() -> None:
    from clustering.config.sections import EmbedSection
    from clustering.encoders.loading import load_encoder

    port, file = int(sys.argv[1]), Path(sys.argv[2])
    encoder = load_encoder(EmbedSection(encoder="static"))
    writing = threading.Lock()

    def first(number: int, request: Request) -> Reply | None:
        time.sleep(float(sys.argv[3]) if len(sys.argv) > 3 else 0)
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return as_json(401, {"error": {"message": f"Incorrect API key: {request.headers.get('Authorization')}"}})
        with writing, file.open("a") as log:
            log.write(json.dumps(request.texts) + "\n")
        return None

    with serving(Script(first, lambda texts: encoder.encode(texts).vectors), port):
        threading.Event().wait()


if __name__ == "__main__":
    main()
