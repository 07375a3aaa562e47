"""Titles from an OpenAI-compatible endpoint, here a small server that answers like one."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow.parquet as pq
import pytest

from clustering import http_client
from clustering.config.sections import Titles
from clustering.text import titles
from clustering.text.titles import Answer, known_answers, message_of, read_reply, title_clusters, title_in, write_titles


def ask(cfg, terms, exemplars):
    """The titles that the endpoint gives, and why it gives none."""
    answers, reason = write_titles(cfg, [message_of(*cluster, []) for cluster in zip(terms, exemplars, strict=True)])
    return [answer.title for answer in answers], reason


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
    monkeypatch.setenv("COVEY_TEST_KEY", "secret-key\n")  # as a file or a Kubernetes secret gives it
    monkeypatch.setattr(titles, "PAUSE_S", 0)
    terms = [["flood", "rain"], ["fails"], ["strike"]]
    found, reason = ask(cfg, terms, [["Flood in town"], [], ["Pilots strike"]])
    assert found == ["About flood", None, "About strike"]
    assert reason == "it answered 503 Service Unavailable"
    assert len(server.asked) == 2 + titles.TRIES
    path, key, body = next(call for call in server.asked if "Flood in town" in str(call))
    assert (path, key, body["model"]) == ("/v1/chat/completions", "Bearer secret-key", "small")


@pytest.mark.parametrize(
    ("url", "key", "warned"),
    [
        ("http://titles.example/v1", "COVEY_TEST_KEY", True),
        ("https://titles.example/v1", "COVEY_TEST_KEY", False),
        ("http://localhost:8000/v1", "COVEY_TEST_KEY", False),
        ("http://titles.example/v1", None, False),
    ],
)
def test_a_key_on_an_open_line_to_another_machine_is_warned_of(url, key, warned, monkeypatch):
    told = []
    monkeypatch.setattr(http_client.log, "warning", lambda text, *rest: told.append(text % rest))
    monkeypatch.setenv("COVEY_TEST_KEY", "secret-key")
    titles.check_titles(Titles(url=url, model="small", key_env=key))
    said = (
        f"describe.titles.url={url} is plain http: the key is sent without encryption to another machine. Use https://"
    )
    assert told == ([said] if warned else [])


REPLY = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
BROKEN = {
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "nothing": b"",
    "only a head": REPLY,
    "not JSON": REPLY + b"<html>Bad gateway</html>",
    "not UTF-8": REPLY + b'{"choices": [{"message": {"content": "\xff\xfe"}}]}',
    "brackets without end": REPLY + b"[" * 500_000,
    "a long number": REPLY + b"9" * 10_000,
    "shorter than it says": b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{",
    "broken chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
    "a header without end": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 500_000,
    "a list": REPLY + b"[]",
    "no choice": REPLY + b'{"choices": []}',
    "null": REPLY + b'{"choices": [{"message": {"content": null}}]}',
    "parts": REPLY + b'{"choices": [{"message": {"content": [{"text": "Flood"}]}}]}',
    "a number": REPLY + b'{"choices": [{"message": {"content": 7}}]}',
    "no words": REPLY + b'{"choices": [{"message": {"content": " \\n**\\u0000\\ud800"}}]}',
    "only thoughts": REPLY + b'{"choices": [{"message": {"content": "<think>\\nIs it a flood?"}}]}',
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "refused": b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
    "compressed": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n\x1f\x8b\x08",
}


@pytest.fixture
def raw(monkeypatch):
    """Start a server that sends some pieces, one after the other with pauses, to whoever connects."""
    monkeypatch.setattr(titles, "PAUSE_S", 0)
    listening = socket.create_server(("127.0.0.1", 0))
    asked = []

    def start(pieces, pause_s=0.0):
        def answer(connection):
            with connection, contextlib.suppress(OSError):
                asked.append(connection.recv(1 << 16))
                for piece in pieces():
                    connection.sendall(piece)
                    time.sleep(pause_s)

        def accept():
            with contextlib.suppress(OSError):  # until the test closes it
                while True:
                    threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return Titles(url=f"http://127.0.0.1:{listening.getsockname()[1]}/v1", model="small"), asked

    yield start
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN.keys())
def test_a_malformed_reply_is_a_title_that_failed(raw, reply):
    cfg, asked = raw(lambda: [reply])
    found, reason = ask(cfg, [["flood"]], [["Flood in town"]])
    assert found == [None]
    assert reason
    assert 1 <= len(asked) <= titles.TRIES


def endless(head, piece):
    yield head
    while True:
        yield piece


@pytest.mark.parametrize("head", [REPLY, b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 "], ids=["body", "header", "status"])
def test_a_reply_that_drips_ends_in_time(raw, monkeypatch, head):
    monkeypatch.setattr(titles, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(titles, "TRIES", 1)
    cfg, _ = raw(lambda: endless(head, b"x"), pause_s=0.05)
    began = time.monotonic()
    assert ask(cfg, [["flood"]], [[]]) == ([None], "TimeoutError")
    assert time.monotonic() - began < 20


def test_a_reply_without_end_is_cut_off(raw):
    sent = []

    def pieces():
        for piece in endless(REPLY, b" " * (1 << 16)):
            sent.append(len(piece))
            yield piece

    cfg, _ = raw(pieces)
    assert ask(cfg, [["flood"]], [[]]) == ([None], "its reply is longer than 1,048,576 bytes")
    assert sum(sent) < 64 << 20  # what the kernel holds comes on top


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_is_refused_and_takes_nothing_there(endpoint, raw, monkeypatch, status):
    other, cfg = endpoint
    monkeypatch.setenv("COVEY_TEST_KEY", "secret-key")
    head = f"HTTP/1.1 {status} Moved\r\nLocation: {cfg.url}/chat/completions\r\nContent-Length: 0\r\n\r\n"
    redirecting, asked = raw(lambda: [head.encode()])
    found, reason = ask(replace(redirecting, key_env="COVEY_TEST_KEY"), [["flood"]], [["Flood in town"]])
    assert found == [None]
    where = cfg.url.removesuffix("/v1")
    assert reason == f"it redirects to {where}; set describe.titles.url to the address that answers"
    assert len(asked) == 1
    assert other.asked == []


def test_an_endpoint_that_never_answers_well_is_given_up(raw):
    cfg, asked = raw(lambda: [BROKEN["not JSON"]])
    found, _ = ask(cfg, [["flood"]] * 500, [[]] * 500)
    assert found == [None] * 500
    assert titles.MAX_FAILED_IN_A_ROW <= len(asked) < titles.MAX_FAILED_IN_A_ROW + titles.CONCURRENCY


def test_a_proxy_is_not_asked_for_this_machine(endpoint, monkeypatch):
    _, cfg = endpoint
    monkeypatch.setenv("COVEY_TEST_KEY", "secret-key")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert ask(cfg, [["flood"]], [[]]) == (["About flood"], "")
    assert http_client.proxy_for("http://titles.example.org/v1") == ("http://127.0.0.1:9", {})


GIVEN = REPLY + json.dumps({"choices": [{"message": {"content": "Flood"}}]}).encode()
SESAME = b"Proxy-Authorization: Basic " + base64.b64encode(b"me:ses@me/")


@pytest.mark.parametrize("before", ["http://me:ses%40me%2F@", "http://me:ses@me/@", "me:ses@me/@"])
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("answer", [b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", b"SSH-2.0\r\n", GIVEN])
def test_a_proxy_is_told_its_password_and_nobody_else(raw, monkeypatch, before, scheme, answer):
    proxy, asked = raw(lambda: [answer])
    place = proxy.url.removesuffix("/v1").removeprefix("http://")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(f"{scheme}_proxy", before + place)
    cfg = replace(proxy, url=f"{scheme}://titles.invalid/v1")
    found, reason = ask(cfg, [["flood"]], [["Flood in town"]])
    assert SESAME in asked[0]
    assert (b"Flood in town" in asked[0]) == (scheme == "http")
    if answer == GIVEN and scheme == "http":
        assert (found, reason) == (["Flood"], "")
    else:
        assert found == [None]
        assert reason.endswith(f"(asked through the proxy http://{place})")
        assert "ses" not in reason


@pytest.mark.parametrize("to", ["https://me:sesame@other.example", "//me:sesame@other.example/x"])
def test_where_a_redirect_leads_is_told_without_a_password(raw, to):
    cfg, _ = raw(lambda: [f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()])
    _, reason = ask(cfg, [["flood"]], [[]])
    assert "://other.example;" in reason
    assert "sesame" not in reason


@pytest.mark.parametrize(
    ("content", "title"),
    [
        ('"Flood in Garford"', "Flood in Garford"),
        ("\n\n**Title: Flood**\nIt is about", "Flood"),
        ("<think>What\nis it?</think>\nFlood", "Flood"),
        ("What\nis it?\n</think>\n\nFlood", "Flood"),
        ("Flood\u202e\x1b[31m", "Flood��[31m"),
        ("Flood \ud800", "Flood �"),
        ("洪水", "洪水"),
        ("x" * 500, "x" * 80),
    ],
)
def test_of_an_answer_the_first_line_is_the_title(content, title):
    assert title_in(read_reply(json.dumps({"choices": [{"message": {"content": content}}]}).encode())) == title


# Cluster 2 lies around 0 and 1, and the layers are [2] and [0, 1].
CLUSTERS = {
    "terms": [["flood", "rain"], ["fails"], ["weather"]], "exemplars": [["Flood in town"], ["Nothing"], ["Storm"]],
    "parent": [2, 2, None], "layers": [[1], [1], [0]], "title": ["flood · rain", "fails", "weather · storm"],
}  # fmt: skip


def title_all(cfg, known, clusters=CLUSTERS, waves=((0, 1), (2,))):
    kept = []
    titles, failed, reason = title_clusters(cfg, clusters, map(list, waves), known, lambda lines: kept.append([*lines]))
    return titles, failed, reason, kept


def test_all_layers_get_titles_parents_after_their_children_and_failures_keep_theirs(endpoint, monkeypatch):
    server, cfg = endpoint
    monkeypatch.setenv("COVEY_TEST_KEY", "secret-key")
    monkeypatch.setattr(titles, "PAUSE_S", 0)
    found, failed, reason, kept = title_all(cfg, {})
    assert (found, failed) == (["About flood", "fails", "About weather"], 1)
    assert reason == "it answered 503 Service Unavailable"
    message = server.asked[-1][2]["messages"][1]["content"]
    assert message.endswith("Smaller clusters within it:\n- About flood\n- fails")
    assert [len(lines) for lines in kept] == [2, 3]
    line = kept[-1][0]
    assert (line["cluster"], line["model"], line["reply"], line["title"]) == (
        0, "small", '"About flood"\nmore words', "About flood"
    )  # fmt: skip
    assert "Flood in town" in line["prompt"]
    assert "secret-key" not in str(kept)
    assert kept[-1][1]["reply"] is None


def test_what_was_answered_before_is_not_asked_again(endpoint, monkeypatch):
    server, cfg = endpoint
    monkeypatch.setenv("COVEY_TEST_KEY", "secret-key")
    monkeypatch.setattr(titles, "PAUSE_S", 0)
    first = title_all(cfg, {})
    lines = "\n".join(map(json.dumps, first[3][-1]))
    del server.asked[:]
    again = title_all(cfg, known_answers(f"{lines}\nbroken\n[]\n{{}}\n", "small"))
    assert again[:2] == first[:2]
    assert {body["messages"][1]["content"].splitlines()[0] for _, _, body in server.asked} == {"Words: fails"}
    assert known_answers(lines, "large") == {}


def test_equal_titles_of_a_layer_are_told_apart_by_a_term():
    clusters = {**CLUSTERS, "terms": [["flood"], ["flood", "rain"], ["weather"]]}
    messages = [message_of(clusters["terms"][at], clusters["exemplars"][at], []) for at in (0, 1)]
    known = {titles.prompt_of(message): Answer("Floods", "Floods") for message in messages}
    cfg = Titles(url="http://127.0.0.1:9/v1", model="small", key_env="COVEY_NO_SUCH_KEY")
    found, failed, reason, _ = title_all(cfg, known, clusters)
    assert found == ["Floods", "Floods · flood", "weather · storm"]
    assert failed == 1
    assert "COVEY_NO_SUCH_KEY is not set" in reason


def test_an_endpoint_that_is_given_up_is_not_asked_for_later_clusters(raw):
    cfg, asked = raw(lambda: [BROKEN["not JSON"]])
    n = 3 * titles.KEPT_TOGETHER
    clusters = {"terms": [[f"word{at}"] for at in range(n)], "exemplars": [[]] * n, "parent": [None] * n,
                "layers": [[0]] * n, "title": [f"word{at}" for at in range(n)]}  # fmt: skip
    found, failed, _, kept = title_all(cfg, {}, clusters, [range(n)])
    assert (found, failed) == (clusters["title"], n)
    assert len(asked) < titles.MAX_FAILED_IN_A_ROW + titles.CONCURRENCY
    assert [len(lines) for lines in kept] == [titles.KEPT_TOGETHER * more for more in (1, 2, 3)]


@pytest.mark.ray
@pytest.mark.full
def test_a_run_takes_titles_and_keeps_the_key_to_itself(endpoint, run_files, tmp_path, monkeypatch):
    _, cfg = endpoint
    given = tmp_path / "news.csv"
    headlines = [
        f"{word} in town {n}" for word in ("flood", "strike") for n in ("one", "two", "three", "four", "five", "six")
    ]
    given.write_text("title\n" + "\n".join(headlines) + "\n")
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
    lines = [json.loads(line) for line in (run / "titles.jsonl").read_text().splitlines()]
    assert len(lines) == pq.read_table(run / "layers.parquet").num_rows >= report["clusters"]["count"]
    assert report["describe"]["titles_failed"] in (0, len(lines))
    said = result.err
    assert said.index("The first message:") < said.index("clusters named")
    assert lines[0]["prompt"] in said
    for path in run.rglob("*"):
        assert path.is_dir() or b"secret-key" not in path.read_bytes(), path
