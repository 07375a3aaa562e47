"""saved_config.py: an address or a secret's name that only a run directory gives is not used without a word."""

from __future__ import annotations

import json
import socket
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from clustering import collection_lifecycle, pipeline, preflight
from clustering.cli.main import main
from clustering.config.loading import build_config
from clustering.config.sections import RunConfig
from clustering.errors import ConfigError
from clustering.finished import recluster
from clustering.runs.directory import RunDir
from clustering.runs.inventory import STAGE_ARTEFACTS
from clustering.runs.saved_config import apply_overrides, load_run_config, refuse_untrusted, with_trusted_addresses
from clustering.runs.storage import write_json, write_table

TITLES = {"url": "https://titles.example/v1", "model": "small", "key_env": "TITLES_KEY"}
URL, KEY = "describe.titles.url=https://titles.example/v1", "describe.titles.key_env=TITLES_KEY"


@pytest.fixture
def saved() -> RunConfig:
    return build_config({"describe": {"titles": TITLES}})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], False),
        (["cluster.min_cluster_size=9"], False),
        (["describe.titles.model=large"], False),
        ([URL], False),  # the secret is not the user's word
        ([KEY], False),
        ([URL, KEY], True),
        (["describe.titles.url=https://own.example/v1"], False),
        (["describe.titles.url=https://own.example/v1", "describe.titles.key_env=OWN"], True),
        (["describe.titles.url=https://own.example/v1", "describe.titles.key_env=null"], True),
        (["describe.titles={url: 'https://own.example/v1', model: x, key_env: OWN}"], True),
        (["describe.titles=null"], True),
    ],
)
def test_every_address_and_secret_must_be_said(words: list[str], said: bool, saved: RunConfig) -> None:
    assert apply_overrides(saved, words, None, trusted=False)[1] == said
    assert apply_overrides(saved, words, None, trusted=True)[1]


def test_a_directory_that_names_no_address_asks_nothing() -> None:
    assert apply_overrides(RunConfig(), ["cluster.min_cluster_size=9"], None, trusted=False)[1]
    config, said = apply_overrides(RunConfig(), [URL, "describe.titles.model=x"], None, trusted=False)
    assert said
    assert config.describe.titles is not None


@pytest.mark.parametrize(("key", "said"), [("TITLES_KEY", True), ("OTHER_KEY", False)])
def test_a_configuration_file_says_it_too(key: str, said: bool, saved: RunConfig, tmp_path: Path) -> None:
    file = tmp_path / "news.yaml"
    file.write_text(f"describe: {{titles: {{url: 'https://titles.example/v1', model: other, key_env: {key}}}}}\n")
    config, found = apply_overrides(saved, [], file, trusted=False)
    assert found == said
    assert config.describe.titles == saved.describe.titles


def test_the_refusal_shows_what_would_be_sent_where(saved: RunConfig) -> None:
    with pytest.raises(ConfigError) as refused:
        refuse_untrusted(saved, "runs/theirs")
    (said,) = refused.value.problems
    assert said.startswith(
        "runs/theirs has titles written by https://titles.example/v1 with the key in the environment"
    )
    assert f"--trust, or --config with the run's configuration file, or {URL} {KEY}; describe.titles=null" in said


def prepared(folder: Path, sections: dict[str, Any], **entries: Any) -> None:
    """A directory that passes for a finished run."""
    config = build_config({"run": {"dir": str(folder)}, **sections})
    figures = {"texts": 9, "records": 9, "text_bytes": 90}
    entry = {"fingerprint": "0" * 16, "started": 0.0, "finished": 1.0, "seconds": 1.0, "figures": figures}
    held = {"id": "0" * 12, "stages": dict.fromkeys(STAGE_ARTEFACTS, entry), "config": config.as_dict()}
    write_json(RunDir(folder) / "manifest.json", {**held, **entries})
    for name in ("texts", "vectors"):
        write_table(folder / name / "part-000000.parquet", pa.table({"row": [0]}))


def test_recluster_of_a_prepared_directory_sends_nothing(tmp_path: Path, capsys, monkeypatch) -> None:
    prepared(tmp_path, {"describe": {"titles": TITLES}})
    monkeypatch.setenv("TITLES_KEY", "sesame")
    before = (tmp_path / "manifest.json").read_bytes()
    assert main(["recluster", "--run", str(tmp_path), "cluster.min_cluster_size=9"]) == 2
    assert "has titles written by https://titles.example/v1 with the key in" in capsys.readouterr().err
    assert (tmp_path / "manifest.json").read_bytes() == before
    monkeypatch.delenv("TITLES_KEY")
    assert main(["recluster", "--run", str(tmp_path), "--trust"]) == 2
    assert "the environment variable TITLES_KEY is not set" in capsys.readouterr().err


@pytest.mark.parametrize("lost", ["read", "embed", "search", "graph"])
def test_a_directory_without_what_recluster_needs_is_named(lost: str, tmp_path: Path, capsys) -> None:
    entry = {"fingerprint": "0" * 16, "started": 0.0, "finished": 1.0, "seconds": 1.0, "figures": {"texts": 9}}
    stages = {name: entry for name in STAGE_ARTEFACTS if name != lost}
    config = build_config({"run": {"dir": str(tmp_path)}})
    write_json(RunDir(tmp_path) / "manifest.json", {"id": "0" * 12, "stages": stages, "config": config.as_dict()})
    assert main(["recluster", "--run", str(tmp_path)]) == 2
    assert f"has no finished {lost}; finish it with covey run first" in capsys.readouterr().err


def test_recluster_does_not_release_a_collection_that_a_prepared_directory_says_it_has_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its address and the name of its token are those of whoever prepared it."""
    prepared(tmp_path, {"store": {"uri": "http://own.example", "server": {"token_env": "TOKEN"}}}, loaded="0" * 16)
    opened: list[Any] = []
    monkeypatch.setattr(collection_lifecycle, "open_store", lambda *given: opened.append(given) or nullcontext())
    monkeypatch.setattr(recluster, "ray_session", nullcontext)
    monkeypatch.setattr(recluster, "make_plan", lambda *_: None)
    done: list[str] = []
    monkeypatch.setattr(pipeline, "run_stage", lambda *given: done.append(given[3]) or {"texts": 9, "dim": 2})
    recluster.recluster_run(RunDir(tmp_path), ["cluster.min_cluster_size=9"])
    assert opened == []
    assert {"cluster", "describe", "project", "report"} <= set(done)


@pytest.mark.parametrize(
    ("embed", "words", "key"),
    [
        ({"encoder": "/theirs"}, [], "embed.encoder="),
        ({"encoder": "somebody/model"}, [], "embed.encoder="),
        ({"encoder": "static", "model": "/theirs"}, [], "embed.model="),
        ({"encoder": "bge-m3", "model": "/theirs"}, ["embed.encoder=bge-m3"], "embed.model="),
        ({"encoder": "bge-m3", "model": "/theirs"}, ["embed.gpus_per_actor=0"], "embed.model="),
    ],
)
def test_a_model_that_only_the_directory_names_is_not_loaded(
    embed: dict[str, str], words: list[str], key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared(tmp_path, {"embed": embed})
    assert main(["assign", *words, "--run", str(tmp_path), "--input", "new.csv"]) == 2
    said = capsys.readouterr().err
    assert f"has vectors of the model {embed.get('model', embed['encoder'])}, which would be loaded" in said
    assert f"--trust, or --config with the run's configuration file, or {key}" in said


@pytest.mark.parametrize(
    ("embed", "words", "trusted"),
    [
        ({"encoder": "static"}, [], False),
        ({"encoder": "bge-m3"}, [], False),
        ({"encoder": "bge-m3", "model": "/theirs"}, ["embed.model=/own"], False),
        ({"encoder": "bge-m3", "model": "/theirs"}, ["embed.model=null"], False),
        ({"encoder": "somebody/model"}, ["embed.encoder=somebody/model"], False),
        ({"encoder": "somebody/model"}, [], True),
    ],
)
def test_a_model_that_is_known_or_named_is_loaded(embed: dict[str, str], words: list[str], trusted: bool) -> None:
    saved = build_config({"embed": embed})
    found = with_trusted_addresses(saved, words, None, trusted, "runs/theirs")
    assert found.embed.model in ("/own", None)
    assert found.read == saved.read


SERVED = {"encoder": "openai", "url": "https://theirs.example/v1", "model": "small"}
WITH_KEY = {**SERVED, "key_env": "OWN_KEY"}


@pytest.mark.parametrize(
    ("embed", "words", "is_asked"),
    [
        (SERVED, [], False),
        (SERVED, ["embed.model=small"], False),
        (SERVED, ["embed.encoder=openai", "embed.key_env=OWN_KEY"], False),
        (SERVED, ["embed.url=https://own.example/v1"], True),
        (WITH_KEY, ["embed.url=https://own.example/v1"], False),  # the secret is not the user's word
        (WITH_KEY, ["embed.key_env=OWN_KEY"], False),
        (WITH_KEY, ["embed.url=https://own.example/v1", "embed.key_env=OWN_KEY"], True),
        (WITH_KEY, ["embed.url=https://own.example/v1", "embed.key_env=null"], True),
    ],
)
def test_a_server_of_embeddings_that_only_the_directory_names_gets_no_text(
    embed: dict[str, str], words: list[str], is_asked: bool
) -> None:
    saved = build_config({"embed": embed})
    if is_asked:
        found = with_trusted_addresses(saved, words, None, trusted=False, location="runs/theirs").embed
        assert found.url == "https://own.example/v1"
        return
    says = (
        r"runs/theirs has vectors from https://\S+, which would receive the new texts|with the key in the environment"
    )
    with pytest.raises(ConfigError, match=says):
        with_trusted_addresses(saved, words, None, trusted=False, location="runs/theirs")
    assert with_trusted_addresses(saved, words, None, trusted=True, location="runs/theirs").embed.model == "small"


def test_a_configuration_file_names_the_server_of_embeddings_and_its_key(tmp_path: Path) -> None:
    (tmp_path / "news.yaml").write_text("embed: {encoder: openai, url: 'https://own.example/v1', model: small}\n")
    found = with_trusted_addresses(build_config({"embed": WITH_KEY}), [], tmp_path / "news.yaml", False, "theirs").embed
    assert (found.url, found.key_env) == ("https://own.example/v1", None)


def test_a_configuration_file_names_the_model(tmp_path: Path) -> None:
    file = tmp_path / "news.yaml"
    file.write_text("embed: {encoder: bge-m3, model: /own, max_tokens: 64}\n")
    saved = build_config({"embed": {"encoder": "bge-m3", "model": "/theirs", "max_tokens": 128}})
    found = with_trusted_addresses(saved, [], file, trusted=False, location="runs/theirs").embed
    assert (found.model, found.max_tokens) == ("/own", 128)


@pytest.mark.parametrize(
    ("named", "revision"),
    [("encoder: some/model", "v1"), ("encoder: some/model, revision: v2", "v2"), ("encoder: other/model", None)],
)
def test_a_revision_stays_with_its_model(named: str, revision: str | None, tmp_path: Path) -> None:
    file = tmp_path / "news.yaml"
    file.write_text(f"embed: {{{named}}}\n")
    embed = {"encoder": "some/model", "revision": "v1", "prompt": "topic: ", "dimensions": 64}
    found = with_trusted_addresses(build_config({"embed": embed}), [], file, trusted=False, location="runs/theirs")
    assert (found.embed.revision, found.embed.prompt, found.embed.dimensions) == (revision, "topic: ", 64)


SERVER = {"uri": "https://theirs.example", "server": {"token_env": "TOKEN"}, "index": "HNSW"}


@pytest.mark.parametrize(
    ("words", "file", "trusted", "uri", "token"),
    [
        ([], "", False, "embedded", None),
        (["store.server.token_env=OWN"], "", False, "embedded", None),
        (["store.uri=https://own.example"], "", False, "https://own.example", None),  # their secret is not sent there
        (
            ["store.uri=https://theirs.example", "store.server.token_env=OWN"],
            "",
            False,
            "https://theirs.example",
            "OWN",
        ),
        ([], "", True, "https://theirs.example", "TOKEN"),
        ([], "store: {uri: 'https://own.example', server: {token_env: OWN}}", False, "https://own.example", "OWN"),
        ([], "search: {k: 29}", False, "embedded", None),
    ],
)
def test_a_server_that_only_the_directory_names_is_not_asked(
    words: list[str], file: str, trusted: bool, uri: str, token: str | None, tmp_path: Path
) -> None:
    (tmp_path / "news.yaml").write_text(f"{file}\nembed: {{encoder: static}}\n")
    saved = build_config({"store": SERVER, "embed": {"encoder": "static"}})
    found = with_trusted_addresses(saved, words, tmp_path / "news.yaml" if file else None, trusted, "theirs").store
    assert (found.uri, found.server.token_env) == (uri, token)


def test_assign_takes_no_keys_of_other_sections() -> None:
    with pytest.raises(ConfigError, match=r"assign takes keys of embed, .* only, not 'search\.k=3'"):
        with_trusted_addresses(RunConfig(), ["search.k=3"], None, trusted=False, location="runs/theirs")


@pytest.mark.parametrize("command", ["status", "recluster"])
def test_commands_look_at_no_model_that_the_directory_names(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared(tmp_path / "run", {"embed": {"encoder": "static", "model": "/theirs"}})
    looked: list[Any] = []
    monkeypatch.setattr("clustering.monitoring.resources.check_encoder", lambda cfg: looked.append(cfg.model))
    monkeypatch.setattr(recluster, "ray_session", nullcontext)
    monkeypatch.setattr(preflight, "live_nodes", list)
    monkeypatch.setattr(preflight, "node_cpus", lambda: 2)
    monkeypatch.setattr(pipeline, "run_stage", lambda *given: {"texts": 9})
    monkeypatch.setattr(RunDir, "report", {"clusters": {"count": 0, "noise_share": 0.0, "largest_share": 0.0}})
    assert main([command, "--run", str(tmp_path / "run")]) == 0
    assert looked == []


@pytest.mark.parametrize("command", ["status", "recluster"])
def test_a_run_whose_configuration_has_old_names_is_read(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared(tmp_path, {"store": {"uri": "https://own.example", "server": {"token_env": "TOKEN"}}})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["config"]["store"] |= manifest["config"]["store"].pop("server")
    write_json(tmp_path / "manifest.json", manifest)
    config = load_run_config(RunDir(tmp_path))  # also what assign and evaluate begin with
    assert (config.store.server.token_env, config.store.server.db_name) == ("TOKEN", None)
    monkeypatch.setattr(recluster, "ray_session", nullcontext)
    monkeypatch.setattr(recluster, "make_plan", lambda *_: None)
    monkeypatch.setattr(pipeline, "run_stage", lambda *given: {"texts": 9})
    monkeypatch.setattr(RunDir, "report", {"clusters": {"count": 0, "noise_share": 0.0, "largest_share": 0.0}})
    assert main([command, "--run", str(tmp_path)]) == 0
    assert "error" not in capsys.readouterr().err


def test_no_endpoint_that_the_directory_names_as_its_place_before_is_asked(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        before = f"s3://theirs/run?endpoint_override=127.0.0.1:{server.getsockname()[1]}&scheme=http&region=x"
        prepared(tmp_path, {"run": {"dir": before}}, collection="covey_theirs")
        config = build_config({"run": {"dir": str(tmp_path), "name": "own"}})
        assert collection_lifecycle.keep_collection_name(config, RunDir(tmp_path)).collection == "covey_own"
        with pytest.raises(BlockingIOError):
            server.accept()
