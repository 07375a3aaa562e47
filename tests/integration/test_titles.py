"""Titles from an OpenAI-compatible endpoint, here a small server that answers like one."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from clustering.config import Titles
from clustering.titles import write_titles


class Endpoint(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers.get("Authorization"), body))
        words = body["messages"][1]["content"].splitlines()[0].removeprefix("Words: ").split(", ")
        if words[0] == "fails" or (words[0] == "late" and len(self.server.asked) % 2):
            self.send_error(503)
            return
        answer = {"choices": [{"message": {"content": f'"About {words[0]}"\nmore words'}}]}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *words):
        pass


@pytest.fixture
def endpoint():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server, Titles(url=f"http://127.0.0.1:{server.server_port}/v1", model="small", key_env="COVEY_TEST_KEY")
    server.shutdown()


def test_titles_come_in_order_and_failures_are_none(endpoint, monkeypatch):
    server, cfg = endpoint
    monkeypatch.setenv("COVEY_TEST_KEY", "secret-key")
    terms = [["flood", "rain"], ["fails"], ["strike"]]
    assert write_titles(cfg, terms, [["Flood in town"], [], ["Pilots strike"]]) == ["About flood", None, "About strike"]
    path, key, body = next(call for call in server.asked if "Flood in town" in str(call))
    assert (path, key, body["model"]) == ("/v1/chat/completions", "Bearer secret-key", "small")


@pytest.mark.ray
@pytest.mark.full
def test_a_run_takes_titles_and_keeps_the_key_to_itself(endpoint, run_files, tmp_path, monkeypatch):
    _, cfg = endpoint
    given = tmp_path / "news.csv"
    titles = [
        f"{word} in town {n}" for word in ("flood", "strike") for n in ("one", "two", "three", "four", "five", "six")
    ]
    given.write_text("title\n" + "\n".join(titles) + "\n")
    words = [
        f"read.paths={given}",
        "read.id_column=null",
        "search.k=8",
        "project.n_neighbors=8",
        "cluster.min_samples=2",
    ]
    words += [f"describe.titles.url={cfg.url}", "describe.titles.model=small", "describe.titles.key_env=COVEY_TEST_KEY"]
    _, result = run_files(*words)
    assert result.status == 2
    assert "COVEY_TEST_KEY is not set" in result.err
    monkeypatch.setenv("COVEY_TEST_KEY", "secret-key")
    run, result = run_files(*words)
    assert result.status == 0, result.err
    report = json.loads((run / "report.json").read_text())
    # Ray's workers have the environment of when Ray started; there the key is missing, which counts as a failure.
    assert report["describe"]["titles_failed"] in (0, report["clusters"]["count"])
    for path in run.rglob("*"):
        assert path.is_dir() or b"secret-key" not in path.read_bytes(), path
