"""openai.py: vectors of a server of embeddings, in the order of the texts, whatever the server and the network do."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import gc
import gzip
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from clustering.config.sections import EmbedSection
from clustering.encoders import openai
from clustering.encoders.base import unit_rows
from clustering.encoders.loading import load_encoder, served_dim
from clustering.encoders.openai import OpenAIEncoder, _seconds, _wait_s, embeddings_url
from clustering.encoders.weights import model_prompt
from clustering.errors import ConfigError, StageError
from tests.embedding_server import DIM, KEY, Reply, Request, Script, as_json, good, serving, vectors_of

TEXTS = [f"{word} in town {number}" for number in range(100) for word in ("flood", "strike", "vote")]
Connect = Callable[..., OpenAIEncoder]


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """``connect(script, embed keys)``: an encoder that asks a server of its own."""
    monkeypatch.setenv("COVEY_TEST_KEY", KEY + "\n")  # as a file or a Kubernetes secret gives it
    with contextlib.ExitStack() as stack:

        def start(script: Script, **keys: Any) -> OpenAIEncoder:
            url = keys.pop("url", None) or stack.enter_context(serving(script))
            cfg = {"url": url, "model": "small", "key_env": "COVEY_TEST_KEY", "patience_s": 20, **keys}
            encoder = OpenAIEncoder(EmbedSection(encoder="openai", **cfg))
            stack.callback(encoder.close)
            script.asked.clear()  # of the request for the dimension
            return encoder

        yield start


def assert_right(encoder: OpenAIEncoder, texts: list[str] = TEXTS) -> Any:
    encoded = encoder.encode(texts)
    assert_allclose(encoded.vectors, unit_rows(vectors_of(texts)), atol=1e-6)
    assert not encoded.unread.any()
    return encoded


def once(*statuses: Reply) -> Callable[[int, Request], Reply | None]:
    """These replies to the first requests after the one for the dimension."""
    return lambda number, request: statuses[number] if number < len(statuses) and request.texts != ["Covey"] else None


def error(status: int, words: str = "no", **headers: str) -> Reply:
    return as_json(status, {"error": {"message": words}}, {k.replace("_", "-"): v for k, v in headers.items()})


# --- what is asked, and what comes ---


@pytest.mark.parametrize("forms", [("base64", "float"), ("float",)])
def test_vectors_come_in_the_order_of_the_texts(connect: Connect, forms: tuple[str, ...]) -> None:
    script = Script(forms=forms)
    encoder = connect(script)
    encoded = assert_right(encoder)
    assert encoder.dim == DIM
    assert sorted(text for request in script.asked for text in request.texts) == sorted(TEXTS)
    assert max(len(request.texts) for request in script.asked) == openai.TEXTS
    assert (encoded.requests, encoded.retries, encoded.cut) == (len(script.asked), 0, 0)
    assert encoded.tokens == sum(len(text.split()) for text in TEXTS)
    for request in script.asked:
        assert request.path == "/v1/embeddings"
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        assert request.body.keys() == {"model", "input", "encoding_format"}
        assert request.body["model"] == "small"


def test_a_server_that_refuses_base64_is_asked_for_numbers(connect: Connect) -> None:
    def only_float(number: int, request: Request) -> Reply | None:
        return error(422, "encoding_format: float only") if request.body["encoding_format"] == "base64" else None

    script = Script(only_float)
    assert_right(connect(script))
    assert {request.body["encoding_format"] for request in script.asked} == {"float"}


def test_without_a_key_none_is_sent(connect: Connect) -> None:
    script = Script()
    assert_right(connect(script, key_env=None))
    assert all("Authorization" not in request.headers for request in script.asked)


@pytest.mark.parametrize("threads", [1, 3])
def test_requests_in_flight_are_bounded(connect: Connect, threads: int) -> None:
    script = Script(lambda number, request: time.sleep(0.05))
    encoder = connect(script, requests=4, tokens_per_batch=64)
    workers = [threading.Thread(target=assert_right, args=(encoder,)) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert script.most_at_work == 4


def test_prompt_and_dimensions_are_the_models(connect: Connect) -> None:
    script = Script()
    encoder = connect(script, prompt="query: ", dimensions=7)
    encoded = encoder.encode(["flood", " "])
    assert_allclose(encoded.vectors[:1], unit_rows(vectors_of(["query: flood"])), atol=1e-6)
    assert encoded.unread.tolist() == [False, True]
    assert [(request.texts, request.body["dimensions"]) for request in script.asked] == [(["query: flood"], 7)]


def test_a_server_that_gives_more_dimensions_than_asked_for_has_its_vectors_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serving(Script()) as url:
        cfg = EmbedSection(encoder="openai", url=url, model="small", dimensions=7)
        assert served_dim(cfg) == 7
        assert_allclose(load_encoder(cfg).encode(["flood"]).vectors, unit_rows(vectors_of(["flood"])[:, :7]), atol=1e-6)
        with pytest.raises(ConfigError, match=rf"embed\.dimensions=99 is above the {DIM} dimensions of small"):
            served_dim(replace(cfg, dimensions=99))


@pytest.mark.parametrize(("model", "prompt"), [("intfloat/multilingual-e5-large", "query: "), ("small", "")])
def test_e5_gets_its_prompt_by_its_name(model: str, prompt: str) -> None:
    assert model_prompt(EmbedSection(encoder="openai", url="http://h/v1", model=model)) == prompt


def test_long_texts_share_a_request_with_fewer_others(connect: Connect) -> None:
    texts = [f"{number} {'word ' * 100}" for number in range(40)]
    script = Script()
    assert_right(connect(script, tokens_per_batch=1024), texts)
    assert max(sum(map(len, request.texts)) for request in script.asked) <= 4 * 1024
    assert max(len(request.texts) for request in script.asked) == 8


def test_a_text_beyond_max_tokens_is_cut_before_it_is_sent_and_counted(connect: Connect) -> None:
    script = Script()
    encoded = connect(script, max_tokens=10).encode(["x" * 81, "y" * 80])
    assert encoded.cut == 1
    assert sorted(text for request in script.asked for text in request.texts) == ["x" * 80, "y" * 80]


def test_texts_of_nothing_but_space_are_not_sent_and_have_no_vector(connect: Connect) -> None:
    script = Script()
    encoded = connect(script).encode(["", "flood", " \n"])
    assert encoded.unread.tolist() == [True, False, True]
    assert encoded.vectors.any(axis=1).tolist() == [False, True, False]
    assert [request.texts for request in script.asked] == [["flood"]]
    assert connect(Script()).encode([]).vectors.shape == (0, DIM)


@pytest.mark.parametrize("forms", [("base64", "float"), ("float",)])
def test_a_vector_that_is_no_number_becomes_zeros(connect: Connect, forms: tuple[str, ...]) -> None:
    def some(texts: list[str]) -> np.ndarray:
        rows = vectors_of(texts)
        rows[[text == "nan" for text in texts], 3] = np.nan
        rows[[text == "zero" for text in texts]] = 0
        return rows

    encoded = connect(Script(vectors=some, forms=forms)).encode(["nan", "flood", "zero"])
    assert encoded.vectors.any(axis=1).tolist() == [False, True, False]
    assert np.isfinite(encoded.vectors).all()
    assert not encoded.unread.any()


def test_null_in_a_vector_counts_as_no_number(connect: Connect) -> None:
    def first(number: int, request: Request) -> Reply | None:
        return as_json(200, {"data": [{"index": 0, "embedding": [None] * DIM}]}) if "odd" in request.texts else None

    assert not connect(Script(first)).encode(["odd"]).vectors.any()


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://h", "http://h/embeddings"),
        ("http://h:80/", "http://h:80/embeddings"),
        ("http://[::1]:8080/v1//", "http://[::1]:8080/v1/embeddings"),
        ("https://h/v1/embeddings", "https://h/v1/embeddings"),
        ("https://h/v1/embeddings/", "https://h/v1/embeddings"),
    ],
)
def test_the_address_may_be_given_in_several_ways(url: str, asked: str) -> None:
    assert embeddings_url(url) == asked


def test_a_host_may_be_an_address_of_version_6(connect: Connect) -> None:
    try:
        with serving(Script(), host="::1") as url:
            assert_right(connect(Script(), url=url))
    except OSError:
        pytest.skip("this machine has no ::1")


def test_an_encoder_that_nobody_closes_leaves_nothing_and_says_nothing() -> None:
    with serving(Script()) as url:
        cfg = EmbedSection(encoder="openai", url=url, model="small")
        load_encoder(cfg).encode(["flood"])
        gc.collect()
        assert "embed.url" not in [thread.name for thread in threading.enumerate()]
        code = "from clustering.config.sections import EmbedSection; from clustering.encoders.loading import *"
        code += f"; encoder = load_encoder({cfg}); encoder.encode(['flood'])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# --- what the server wants otherwise ---


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_batch_that_is_too_large_is_halved_and_later_ones_are_smaller(connect: Connect, status: int) -> None:
    def few(number: int, request: Request) -> Reply | None:
        many = len(request.texts)
        return error(status, f"batch size {many} > maximum allowed batch size 20") if many > 20 else None

    script = Script(few)
    encoder = connect(script, requests=1)
    assert_right(encoder)
    assert encoder.most == 16
    before = len(script.asked)
    encoded = assert_right(encoder)
    assert max(len(request.texts) for request in script.asked[before:]) <= 16
    assert (encoded.requests, encoded.retries) == (len(script.asked) - before, 0)


def test_a_text_that_is_too_long_is_cut_alone_and_batches_stay_large(connect: Connect) -> None:
    def short(number: int, request: Request) -> Reply | None:
        return error(413, "inputs must have less than 100 tokens") if max(map(len, request.texts)) > 400 else None

    script = Script(short)
    encoder = connect(script, requests=1)
    texts = [*TEXTS, "long " * 200]
    encoded = encoder.encode(texts)
    assert_allclose(encoded.vectors, unit_rows(vectors_of([*TEXTS, ("long " * 200)[:250]])), atol=1e-6)
    assert (encoded.cut, encoder.most) == (1, openai.TEXTS)
    refused = sum(max(map(len, request.texts)) > 400 for request in script.asked)
    assert (encoded.requests, encoded.retries) == (len(script.asked), refused)


def test_a_short_text_that_is_refused_ends_the_run_and_is_shown(connect: Connect) -> None:
    def never(number: int, request: Request) -> Reply | None:
        return error(400, "content policy") if "bad text" in request.texts else None

    with pytest.raises(StageError, match=r"refuses the text 'bad text': 400 Bad Request: content policy\. Leave"):
        connect(Script(never)).encode([*TEXTS, "bad text"])


def test_of_a_text_that_is_refused_the_prompt_alone_is_not_asked_for(connect: Connect) -> None:
    prompt = "Represent this sentence for searching relevant passages: "

    def never(number: int, request: Request) -> Reply | None:
        return error(400, "content policy") if any("bad" in text for text in request.texts) else None

    with pytest.raises(StageError, match="refuses the text 'a bad text': 400"):
        connect(Script(never), prompt=prompt).encode([*TEXTS, "a bad text"])


def test_a_text_that_is_too_long_is_cut_behind_its_prompt(connect: Connect) -> None:
    def short(number: int, request: Request) -> Reply | None:
        return error(413, "too long") if max(map(len, request.texts)) > 150 else None

    prompt, texts = "query: " * 14, ["one " * 100, "two " * 100]
    script = Script(short)
    encoded = connect(script, prompt=prompt).encode(texts)
    assert_allclose(encoded.vectors, unit_rows(vectors_of([prompt + text[:50] for text in texts])), atol=1e-6)
    assert encoded.cut == 2


def test_a_batch_that_does_not_fit_the_memory_of_the_server_is_halved(connect: Connect) -> None:
    def full(number: int, request: Request) -> Reply | None:
        return error(500, "CUDA out of memory") if len(request.texts) > 30 else None

    assert_right(connect(Script(full)), TEXTS[:64])


# --- failures ---


def test_retry_after_is_obeyed_by_all_requests(connect: Connect) -> None:
    script = Script(once(error(429, "slow down", Retry_After="1")))
    encoder = connect(script, requests=1)
    encoded = assert_right(encoder)
    assert script.asked[1].at - script.asked[0].at >= 1
    assert (encoded.requests, encoded.retries) == (len(script.asked), 1)


def test_others_wait_too_where_one_was_told_to(connect: Connect) -> None:
    limited_at: list[float] = []

    def first(number: int, request: Request) -> Reply | None:
        if number == 0 and request.texts != ["Covey"]:
            limited_at.append(time.monotonic())
            return error(429, "slow down", x_ratelimit_reset_requests="1s", x_ratelimit_remaining_requests="0")
        time.sleep(0.1)
        return None

    script = Script(first)
    assert_right(connect(script, requests=2, tokens_per_batch=64))
    assert not [request.at for request in script.asked if 0.1 < request.at - limited_at[0] < 1]
    assert len(script.asked) > 5


def test_a_limit_that_is_used_up_is_waited_for_before_it_is_met(connect: Connect) -> None:
    script = Script(headers={"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "200ms"})
    encoder = connect(script, requests=1)
    assert_right(encoder, TEXTS[:150])
    times = [request.at for request in script.asked]
    assert len(times) == 3
    assert min(np.diff(times)) >= 0.2


def test_a_wait_beyond_the_patience_ends_at_once_with_words(connect: Connect) -> None:
    encoder = connect(Script(once(error(429, "daily limit", Retry_After="86400"))), requests=1)
    began = time.monotonic()
    says = r"429 .*daily limit, and to wait 86,400 s, more than embed\.patience_s=20\. When .* same command goes on"
    with pytest.raises(StageError, match=says):
        encoder.encode(TEXTS)
    assert time.monotonic() - began < 5


def test_a_limit_that_others_use_up_does_not_end_the_patience(connect: Connect) -> None:
    def first(number: int, request: Request) -> Reply | None:
        if request.texts == ["Covey"]:
            return None
        time.sleep(0.02)
        return error(429) if "flood in town 0" in request.texts and time.monotonic() < until else None

    encoder = connect(Script(first), requests=2, tokens_per_batch=64, patience_s=1)
    until = time.monotonic() + 2
    texts = [*TEXTS, *(f"{text} again" for text in TEXTS * 3)]
    assert_right(encoder, texts)


def test_a_server_that_fails_for_a_while_is_asked_again(connect: Connect) -> None:
    script = Script(once(error(503), error(502), error(424), as_json(200, ["not", "embeddings"])))
    encoded = assert_right(connect(script, requests=1))
    assert encoded.retries == 4


def test_a_server_that_fails_for_the_whole_patience_ends_the_stage(connect: Connect) -> None:
    script = Script(lambda number, request: None if request.texts == ["Covey"] else error(503, "loading"))
    encoder = connect(script, patience_s=1)
    began = time.monotonic()
    with pytest.raises(StageError, match=r"503 Service Unavailable: loading \(tried \d+ times in \d s; embed\.patien"):
        encoder.encode(TEXTS[:3])
    assert 0.9 < time.monotonic() - began < 5


def test_a_server_that_hangs_is_asked_again_in_halves(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "TIMEOUT_S", 0.3)
    script = Script(lambda number, request: time.sleep(1.5) if len(request.texts) > 40 else None)
    encoded = assert_right(connect(script, requests=1), TEXTS[:64])
    assert [len(request.texts) for request in script.asked] == [64, 64, 32, 32]
    assert encoded.retries >= 1


def test_a_server_that_dies_and_comes_back_is_waited_for(connect: Connect) -> None:
    script = Script(lambda number, request: time.sleep(0.05))
    with serving(script) as url:
        port = int(url.rpartition(":")[2].removesuffix("/v1"))
        encoder = connect(script, url=url, requests=2, tokens_per_batch=64)
        found: list[Any] = []
        worker = threading.Thread(target=lambda: found.append(assert_right(encoder)))
        worker.start()
        while len(script.asked) < 4:
            time.sleep(0.01)
    time.sleep(0.5)
    with serving(script, port):
        worker.join(30)
    assert found


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, r"refuses the key in the environment variable COVEY_TEST_KEY: 401 Unauthorized"),
        (403, r"refuses the key in the environment variable COVEY_TEST_KEY: 403 Forbidden"),
        (404, r"answers 404 Not Found.* Does the server have embed\.model=small, and does its address end with /v1\?"),
        (402, r"answers 402 Payment Required"),
    ],
)
def test_what_cannot_be_mended_by_waiting_ends_at_once(connect: Connect, status: int, says: str) -> None:
    script = Script(lambda number, request: error(status, f"Incorrect API key provided: {KEY}"))
    with pytest.raises(ConfigError, match=says) as caught:
        connect(script)
    assert str(caught.value).startswith("embed.url=http://127.0.0.1:")
    assert KEY not in str(caught.value)
    assert "***" in str(caught.value)
    assert len(script.asked) == 1


def test_an_account_without_money_ends_at_once(connect: Connect) -> None:
    script = Script(once(as_json(429, {"error": {"message": "no quota", "code": "insufficient_quota"}})))
    encoder = connect(script, requests=1)
    with pytest.raises(StageError, match="429 Too Many Requests: no quota"):
        encoder.encode(TEXTS)
    assert len(script.asked) <= 2


def test_without_a_key_the_remedy_is_named(connect: Connect) -> None:
    with pytest.raises(ConfigError, match=r"refuses a request without a key: 401.*embed\.key_env names the env"):
        connect(Script(lambda number, request: error(401)), key_env=None)


def test_a_variable_without_a_key_is_refused_before_anything_is_sent(connect: Connect) -> None:
    script = Script()
    with pytest.raises(ConfigError, match=r"embed\.key_env: the environment variable COVEY_NO_KEY is not set on"):
        connect(script, key_env="COVEY_NO_KEY")
    assert script.asked == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused_and_the_key_stays(connect: Connect, status: int) -> None:
    other = Script()
    with serving(other) as there:
        script = Script(lambda number, request: (status, {"Location": f"{there}/embeddings"}, b""))
        with pytest.raises(ConfigError, match=rf"redirects to {there.removesuffix('/v1')}; set embed\.url to the"):
            connect(script)
    assert other.asked == []


def test_nothing_that_listens_is_said_in_time(connect: Connect) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
    with pytest.raises(ConfigError, match=rf"embed\.url={url}: Cannot connect .*tried \d+ times in 1 s"):
        connect(Script(), url=url, patience_s=0.6)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for this machine from nobody known, with its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed; it makes the certificate of this test")
    words = "req -x509 -newkey rsa:2048 -nodes -days 30 -keyout key -out own.pem -subj /CN=own -addext"
    subprocess.run(
        ["openssl", *words.split(), "subjectAltName=IP:127.0.0.1"], cwd=tmp_path, check=True, capture_output=True
    )
    with (tmp_path / "own.pem").open("a") as file:
        file.write((tmp_path / "key").read_text())
    return tmp_path / "own.pem"


def test_a_certificate_of_nobody_known_is_refused_at_once_and_one_that_is_named_is_taken(
    connect: Connect, certificate: Path
) -> None:
    script = Script()
    with serving(script, certificate=certificate) as url:
        with pytest.raises(ConfigError, match=r"its certificate is not accepted: .*self.signed.* SSL_CERT_FILE in the"):
            connect(Script(), url=url)
        assert script.asked == []
        cfg = f"EmbedSection(encoder='openai', url='{url}', model='small', patience_s=9)"
        code = "from clustering.config.sections import EmbedSection; from clustering.encoders.loading import served_dim"
        done = subprocess.run(
            [sys.executable, "-c", f"{code}; print(served_dim({cfg}))"],
            env={**os.environ, "SSL_CERT_FILE": str(certificate)}, capture_output=True, text=True,
        )  # fmt: skip
    assert done.stdout == f"{DIM}\n", done.stderr


def changed(dim: int) -> Reply:
    rows = np.ones((1, dim), np.float32).tolist()
    return as_json(200, {"data": [{"index": 0, "embedding": row} for row in rows]})


def test_another_dimension_than_before_is_another_model(connect: Connect) -> None:
    encoder = connect(Script(once(changed(DIM + 1))))
    with pytest.raises(StageError, match=rf"vectors of {DIM + 1} dimensions, and gave {DIM} before; has it another"):
        encoder.encode(["flood"])


ONE = base64.b64encode(np.ones(DIM, np.float32).tobytes()).decode()


def data_of(*items: tuple[Any, Any]) -> bytes:
    return json.dumps({"data": [{"index": index, "embedding": vector} for index, vector in items]}).encode()


MALFORMED = {
    "an HTML page": b"<html>Bad gateway</html>",
    "nothing": b"",
    "not UTF-8": b'{"data": "\xff\xfe"}',
    "brackets without end": b"[" * 200_000,
    "null": b"null",
    "an error with a good status": b'{"error": "overloaded"}',
    "no vector": data_of(),
    "a vector too many": data_of((0, ONE), (1, ONE)),
    "another number": data_of((1, ONE)),
    "a number that is text": data_of(("0", ONE)),
    "a fraction": data_of((0.5, ONE)),
    "no base64": data_of((0, "!!!")),
    "bytes missing": data_of((0, ONE[:-4])),
    "an empty vector": data_of((0, [])),
    "words": data_of((0, ["a", "b"])),
    "vectors in vectors": data_of((0, [[1.0] * DIM])),
    "a huge number": b'{"data": [{"index": 0, "embedding": [1' + b"0" * 400 + b"]}]}",
    "an object": data_of((0, {"float": [1.0]})),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_reply_is_asked_for_three_times_and_told(connect: Connect, body: bytes) -> None:
    script = Script(lambda number, request: None if request.texts == ["Covey"] else (200, {}, body))
    encoder = connect(script)
    with pytest.raises(StageError, match=r"its reply is malformed: .* \(tried 3 times in \d s"):
        encoder.encode(["flood"])
    assert len(script.asked) == openai.TRIES


def test_a_compressed_reply_and_one_without_end_are_refused(connect: Connect) -> None:
    packed = (200, {"Content-Encoding": "gzip"}, gzip.compress(b" " * 1000))
    encoder = connect(Script(once(packed)))
    with pytest.raises(StageError, match=r"its reply is compressed \(gzip\), which was not asked for"):
        encoder.encode(["flood"])
    encoder = connect(Script(once((200, {}, b" " * 600_000))))
    with pytest.raises(StageError, match="its reply is longer than 524,288 bytes"):
        encoder.encode(["flood"])


def test_a_reply_in_chunks_is_read(connect: Connect) -> None:
    def chunks(number: int, request: Request) -> Reply:
        status, headers, content = good(request, vectors_of(request.texts), ("float",), {})
        pieces = [content[start : start + 700] for start in range(0, len(content), 700)]
        body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])
        return status, {"Transfer-Encoding": "chunked", **headers}, body

    script = Script(chunks)
    assert_right(connect(script), TEXTS[:9])


def test_counts_that_are_none_are_left_out(connect: Connect) -> None:
    def first(number: int, request: Request) -> Reply | None:
        usage = {"prompt_tokens": "many", "total_tokens": None}
        return as_json(200, {"data": [{"embedding": ONE}], "usage": usage})

    assert connect(Script(first)).encode(["flood"]).tokens == 0


def test_of_several_requests_the_first_error_ends_the_others(connect: Connect) -> None:
    def first(number: int, request: Request) -> Reply | None:
        return error(401) if number == 3 and request.texts != ["Covey"] else None

    script = Script(first)
    encoder = connect(script, requests=1, tokens_per_batch=64)
    with pytest.raises(StageError, match="refuses the key"):
        encoder.encode(TEXTS)
    time.sleep(0.2)
    assert len(script.asked) <= 5
    assert_right(encoder)  # it goes on to work


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "20"}, 20),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "soon"}, 0),
        ({"Retry-After": "-3"}, 0),
        ({"Retry-After": "9" * 400}, np.inf),
        ({"Retry-After": "Mon, 01 Jan 2024 00:00:00 +99999999999999999999"}, 0),
        ({"Retry-After": "Mon, 01 Jan 99999 00:00:00 GMT"}, 0),
        ({"retry-after-ms": "250", "Retry-After": "1"}, 0.25),
        ({"x-ratelimit-reset-requests": "6m0s"}, 360),
        ({"x-ratelimit-reset-tokens": "20ms", "x-ratelimit-reset-requests": "1h2s"}, 3602),
        ({"x-ratelimit-reset-tokens": "9s", "x-ratelimit-remaining-tokens": "5"}, 0),
        ({}, 0),
    ],
)
def test_the_headers_that_say_how_long_to_wait(headers: dict[str, str], seconds: float) -> None:
    assert _wait_s(headers) == seconds


def test_a_date_without_a_zone_is_that_of_greenwich(monkeypatch: pytest.MonkeyPatch) -> None:
    """The form of C's asctime, which a client has to read (RFC 9110)."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert 57 < _wait_s({"Retry-After": time.asctime(time.gmtime(time.time() + 60))}) <= 60
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_wait_may_be_a_date_or_a_time() -> None:
    assert 57 < _wait_s({"Retry-After": email.utils.formatdate(time.time() + 60, usegmt=True)}) <= 60
    assert _wait_s({"Retry-After": email.utils.formatdate(time.time() - 60, usegmt=True)}) == 0
    assert 58 < _seconds(str(time.time() + 60)) <= 60
