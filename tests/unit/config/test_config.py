"""config/: every problem is named at once, with what to do; what is accepted stays as it is."""

from __future__ import annotations

import json
import time
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from clustering.config.loading import RENAMED, build_config, build_saved_config, load_config, override_config
from clustering.config.sections import RunConfig
from clustering.config.values import hint_at
from clustering.errors import ConfigError
from clustering.fingerprints import later_fingerprints

CONFIGS = Path(__file__).resolve().parents[3] / "cluster_configs"
FILES = sorted(CONFIGS.glob("*.yaml"))
READY = ("gpu", "laptop", "tutorial")


def problems(raw: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build_config(raw)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def problem(raw: dict[str, Any]) -> str:
    (found,) = problems(raw)
    return found


# --- the files that come with Covey ---


def test_there_are_configurations_to_check() -> None:
    assert {path.name for path in FILES} >= {"laptop.yaml", "tutorial.yaml"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_configuration_loads_and_survives_a_round_trip(path: Path) -> None:
    config = load_config(path)
    assert build_config(config.as_dict()) == config
    assert build_config(json.loads(json.dumps(config.as_dict()))) == config


def test_the_tutorials_own_numbers_stand() -> None:
    config = load_config(CONFIGS / "tutorial.yaml")
    assert (config.search.k, config.graph.k) == (80, 50)
    assert (config.store.index, config.store.metric) == ("FLAT", "L2")
    assert (config.cluster.min_samples, config.cluster.min_cluster_size) == (3, 3)
    assert (config.cluster.weights, config.cluster.selection) == ("distance", "eom")
    assert (config.project.n_neighbors, config.project.min_dist) == (80, 0.1)


# --- what is accepted ---


def test_no_file_gives_the_defaults() -> None:
    assert load_config(None) == build_config({}) == RunConfig()


def test_an_empty_section_gives_its_defaults() -> None:
    assert build_config({"search": None, "cluster": {}}) == RunConfig()


def test_one_word_stands_for_a_list_of_one() -> None:
    config = build_config({"read": {"paths": "news.csv", "text_columns": "title"}})
    assert config.read.paths == ("news.csv",)
    assert config.read.text_columns == ("title",)


def test_a_configuration_never_changes() -> None:
    config = build_config({})
    with pytest.raises(FrozenInstanceError):
        config.search.k = 3  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        config.search = config.search  # type: ignore[misc]


@pytest.mark.parametrize(
    ("run", "name"), [({"dir": "runs/news-24"}, "news_24"), ({"name": "a.b"}, "a_b"), ({"dir": "/"}, "run")]
)
def test_the_collection_has_a_name_that_milvus_takes(run: dict[str, str], name: str) -> None:
    config = build_config({"run": run})
    assert config.name == name
    assert config.collection == f"covey_{name}"


def test_long_names_of_runs_give_names_that_milvus_takes_and_tell_them_apart() -> None:
    """A manifest with a longer one was taken for damaged by the run that had written it."""
    names = [build_config({"run": {"name": "n" * 260 + end}}).collection for end in ("", "a", "b")]
    assert len({*names}) == 3
    assert all(build_config({"store": {"collection": name}}).collection == name for name in names)


def test_a_collection_of_ones_own_is_kept() -> None:
    assert build_config({"store": {"collection": "headlines"}}).collection == "headlines"


@pytest.mark.parametrize(("store", "index"), [({}, "FLAT"), ({"uri": "http://milvus:19530"}, "HNSW")])
def test_the_index_follows_the_store(store: dict[str, str], index: str) -> None:
    assert build_config({"store": store}).store.index_type == index


def test_the_graph_takes_all_searched_neighbors_unless_told_otherwise() -> None:
    assert build_config({"search": {"k": 30}}).graph_k == 30
    assert build_config({"search": {"k": 30}, "graph": {"k": 20}}).graph_k == 20


# --- overrides ---


@pytest.mark.parametrize(
    "value",
    ["/x/team #2", "a: b", "[x", "no", "1", "007", "~", " a ", "a=b", "a\tb", "'a'", "2024-01-01", "1e3", "{a}"],
)
def test_text_is_taken_as_it_stands(value: str) -> None:
    words = [f"run.dir={value}", f"read.id_column={value}", f"read.text_columns={value}", f"read.paths={value}",
             "read.collection.uri=http://h:1", f"read.collection.name={value}"]  # fmt: skip
    for word in words[:4]:
        _, _, key = word.partition("=")[0].partition(".")
        config = load_config(None, [word])
        given = getattr(config.run, key) if word.startswith("run.") else getattr(config.read, key)
        assert given in (value, (value,))
    found = load_config(None, [*words[4:], f"read.collection.text_field={value}"]).read.collection
    assert found is not None
    assert (found.name, found.text_field) == (value, value)


def test_two_directories_that_differ_after_a_hash_stay_two() -> None:
    assert load_config(None, ["run.dir=/x/team #2"]).run.dir != load_config(None, ["run.dir=/x/team #3"]).run.dir


def test_names_of_columns_stay_names(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("read: {text_columns: [1, no, 007], id_column: 2024-01-01}\nrun: {name: 1e3}\n", encoding="utf-8")
    read = load_config(path).read
    assert (read.text_columns, read.id_column) == (("1", "no", "007"), "2024-01-01")
    assert load_config(path).run.name == "1e3"
    words = load_config(None, ["read.text_columns=[1, no, 'a, b', null]", "read.id_column=no"]).read
    assert (words.text_columns, words.id_column) == (("1", "no", "a, b", "null"), "no")
    assert load_config(path, ["read.id_column=null"]).read.id_column is None
    assert load_config(path, ["read.id_column="]).read.id_column == ""  # a column without a name


def test_numbers_are_those_that_are_written() -> None:
    config = load_config(None, ["search.k=064", "cluster.granularity=1e3", "project.n_neighbors=1_0", "graph.k=0x10"])
    found = (config.search.k, config.cluster.granularity, config.project.n_neighbors, config.graph.k)
    assert found == (64, 1000, 10, 16)


def test_a_list_that_is_none_is_told() -> None:
    with pytest.raises(ConfigError, match=r"^'read.text_columns=\[title #1\]' is no list; put items that hold a comma"):
        load_config(None, ["read.text_columns=[title #1]"])


def test_keys_within_what_a_file_leaves_empty_are_set(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("describe: {titles: null}\n", encoding="utf-8")
    titles = load_config(path, ["describe.titles.url=http://h", "describe.titles.model=m"]).describe.titles
    assert titles is not None
    assert titles.model == "m"


def test_overrides_are_read_by_the_type_of_their_key() -> None:
    words = [
        "search.k=64", "cluster.allow_single_cluster=true", "graph.max_distance=0.5", "run.name=null",
        "read.text_columns=[title, body]", "store.params.nlist=128", "store.index=IVF_FLAT", "run.dir=a=b",
    ]  # fmt: skip
    config = load_config(None, words)
    assert config.search.k == 64
    assert config.cluster.allow_single_cluster is True
    assert config.graph.max_distance == 0.5
    assert config.run.name is None
    assert config.read.text_columns == ("title", "body")
    assert config.store.params == {"nlist": 128}
    assert config.run.dir == "a=b"


def test_overrides_lie_over_the_file_and_leave_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "store: {uri: 'http://milvus:19530', params: {M: 8}}\nsearch: {k: 40}\ncluster:\n", encoding="utf-8"
    )
    config = load_config(path, ["store.params.efConstruction=90", "cluster.min_samples=3"])
    assert config.search.k == 40
    assert config.store.params == {"M": 8, "efConstruction": 90}
    assert config.cluster.min_samples == 3


def test_a_configuration_is_overridden_without_being_changed() -> None:
    config = load_config(None, ["store.index=IVF_FLAT", "store.params.nlist=128"])
    other = override_config(config, ["store.params.nlist=64", "cluster.selection=leaf"])
    assert (config.store.params["nlist"], config.cluster.selection) == (128, "modularity")
    assert (other.store.params["nlist"], other.cluster.selection) == (64, "leaf")


@pytest.mark.parametrize("word", ["search.k", "k=3", "=3", ".k=3", "search.=3", ""])
def test_a_word_that_is_no_override_is_shown_how(word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [word])
    assert caught.value.problems == [
        f"'{word}' is not an override; write section.key=value, for instance cluster.min_samples=3"
    ]


def test_an_override_into_a_plain_value_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"'cluster\.min_samples\.x=3' reaches into 'cluster', which is not a mapping"
    ):
        load_config(None, ["cluster.min_samples=2", "cluster.min_samples.x=3"])


# --- what is refused, and how ---


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("serch: {k: 3}\nsearch: {k: many, limitt: 2}\ncluster: [1]\nread: {limit: 0}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["nonsense", "plot.points=-1"])
    found = caught.value.problems
    assert len(found) == 7
    named = ("'nonsense' is not", "section 'serch'", "'search.limitt'", "search.k:", "section 'cluster' holds [1]",
             "read.limit:", "plot.points:")  # fmt: skip
    for expected in named:
        assert sum(expected in line for line in found) == 1, expected


def test_contradictions_are_named_at_once() -> None:
    raw = {"search": {"k": 4, "params": {"ef": 3}}, "graph": {"k": 6}, "store": {"index": "HNSW"}}
    assert len(problems(raw)) == 4  # graph.k, ef, n_neighbors, index


def test_an_unknown_section_names_the_nearest() -> None:
    assert problem({"clusters": {}}) == "unknown section 'clusters'; the nearest known one is 'cluster'"


def test_an_unknown_key_names_the_nearest() -> None:
    assert problem({"cluster": {"min_sample": 3}}) == (
        "unknown key 'cluster.min_sample'; the nearest known one is 'cluster.min_samples'"
    )


def test_a_key_of_another_section_names_that_section() -> None:
    assert problem({"cluster": {"k": 3}}) == "unknown key 'cluster.k'; 'graph.k' exists"
    assert problem({"search": {"min_samples": 3}}) == "unknown key 'search.min_samples'; 'cluster.min_samples' exists"


def test_a_key_that_is_no_word_is_unknown_too() -> None:
    assert "unknown key 'search.5'" in problem({"search": {5: 1}})


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("search.k=many", "search.k: input should be a valid integer"),
        ("search.k=0", "search.k: input should be greater than or equal to 1, got 0"),
        ("search.k=16384", "search.k: input should be less than 16384, got 16384"),
        ("search.k=2.5", "search.k: input should be a valid integer"),
        ("search.k=true", "search.k: input should be a number, got True"),
        ("search.k=1:30", "search.k: input should be a valid integer"),
        ("search.k=2024-13-45", "search.k: input should be a valid integer"),
        ("embed.gpus_per_actor=.inf", "embed.gpus_per_actor: input should be a finite number, got inf"),
        ("run.seed=4294967296", "run.seed: input should be less than 4294967296, got 4294967296"),
        ("project.seed=4294967296", "project.seed: input should be less than 4294967296, got 4294967296"),
        ("run.dir=http://[::1", "run.dir is no URI: Invalid IPv6 URL"),
        ("run.dir=a\udcffb", "run.dir: U+DCFF stands in it, which no text holds"),
        ("store.uri=http://h:99999", "store.uri is no URI: Port out of range"),
        ("store.uri=http://:1", "store.uri names no host"),
        ("search.params=[1]", "search.params: input should be a valid dictionary, got (1,)"),
        ("run.seed=-1", "run.seed: input should be greater than or equal to 0, got -1"),
        ("run.dir=", "run.dir: string should have at least 1 character, got ''"),
        ("read.paths=[a, {b: c}]", "read.paths.1: input should be a valid string, got {'b': 'c'}"),
        ("read.text_columns=[]", "read.text_columns: tuple should have at least 1 item"),
        ("cluster.min_cluster_size=1", "cluster.min_cluster_size: input should be greater than or equal to 2, got 1"),
        ("cluster.selection=best", "cluster.selection: input should be "),
        ("cluster.allow_single_cluster=perhaps", "cluster.allow_single_cluster: input should be a valid boolean"),
        ("cluster.epsilon=.nan", "cluster.epsilon: input should be a finite number, got nan"),
        ("graph.max_distance=0", "graph.max_distance: input should be greater than 0, got 0"),
        ("store.metric=JACCARD", "store.metric: input should be 'L2', 'COSINE' or 'IP', got 'JACCARD'"),
        ("project.min_dist=2", "project.min_dist: input should be less than or equal to 1, got 2"),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_itself(word: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [word])
    (found,) = caught.value.problems
    assert found.startswith(says)
    assert ", got " in found or "; got " in found


def test_a_section_that_is_no_mapping_is_shown_what_it_holds() -> None:
    assert problem({"read": "news.csv"}) == "section 'read' holds 'news.csv'; expected keys such as 'paths:'"


def test_fewer_neighbors_than_min_samples_are_refused() -> None:
    low = {"search": {"k": 15}, "cluster": {"min_samples": 20}}
    assert problem(low).startswith("search.k=15 is smaller than cluster.min_samples=20")
    assert problem(low).endswith("raise search.k to at least 20")
    assert problem({"graph": {"k": 3}, "cluster": {"min_samples": 4}}).endswith("raise graph.k to at least 4")
    assert build_config({"search": {"k": 20}, "cluster": {"min_samples": 20}}).graph_k == 20


def test_times_count_where_there_are_some_and_the_preset_takes_them() -> None:
    timed = {"read": {"time_column": "when"}}
    assert build_config({}).time_scale is None
    assert build_config(timed).time_scale == "auto"
    assert build_config({**timed, "cluster": {"time_scale": 2}}).time_scale == 2.0
    assert build_config({**timed, "cluster": {"time_scale": "none"}}).time_scale is None
    assert build_config({**timed, "cluster": {"preset": "topics"}}).time_scale is None
    assert build_config({**timed, "cluster": {"preset": "topics", "time_scale": 30}}).time_scale == 30.0
    assert build_config({**timed, "cluster": {"weights": "distance", "selection": "eom"}}).time_scale is None
    given = {"cluster": {"time_scale": 2}}
    assert problem(given).startswith("cluster.time_scale=2, but read.time_column is not given; set it to none")
    given["cluster"] |= {"weights": "distance"}
    assert problem({**timed, **given}).startswith("cluster.time_scale=2, but cluster.weights=distance takes no times")
    assert load_config(None, ["read.time_column=when", "cluster.time_scale=0.5"]).time_scale == 0.5
    with pytest.raises(ConfigError, match=r"cluster\.time_scale"):
        load_config(None, ["read.time_column=when", "cluster.time_scale=0"])


def test_only_runs_whose_times_count_make_their_graph_anew_for_another_scale() -> None:
    def graph(**sections: dict[str, Any]) -> str:
        return later_fingerprints(build_config(sections), "searched")["graph"]

    timed, scale = {"time_column": "when"}, {"time_scale": 2}
    assert graph() == graph(read=timed, cluster={"time_scale": "none"}) == graph(cluster={"time_scale": "none"})
    assert len({graph(), graph(read=timed), graph(read=timed, cluster=scale)}) == 3
    clusters = [later_fingerprints(build_config({"cluster": one}), "s")["cluster"] for one in ({}, {"layers": 1})]
    assert clusters[0] != clusters[1]


def test_keys_that_the_selection_does_not_read_are_refused() -> None:
    for keys, named in (
        ({"epsilon": 0.2}, "cluster.epsilon=0.2 has no meaning with cluster.selection=modularity"),
        ({"selection": "eom", "preset": "topics"}, "cluster.preset=topics has no meaning with cluster.selection=eom"),
        ({"selection": "leaf", "granularity": 9}, "cluster.granularity=9 has no meaning with cluster.selection=leaf"),
        ({"selection": "leaf", "max_cluster_size": 9}, "cluster.max_cluster_size=9 has no meaning with"),
    ):
        assert problem({"cluster": keys}).startswith(named)


def test_what_is_not_said_of_min_samples_depends_on_the_weights() -> None:
    assert build_config({}).cluster.core_rank == 1
    assert build_config({"cluster": {"weights": "distance"}}).cluster.core_rank == 5
    assert build_config({"cluster": {"weights": "diffused", "min_samples": 3}}).cluster.core_rank == 3


def test_more_edges_than_neighbors_are_refused() -> None:
    assert problem({"search": {"k": 50}, "graph": {"k": 51}}) == (
        "graph.k=51 is above search.k=50; raise search.k to 51"
    )


def test_a_map_of_more_neighbors_than_were_searched_is_refused() -> None:
    found = problem({"search": {"k": 50}, "project": {"n_neighbors": 51}})
    assert found.startswith("project.n_neighbors=51 is above search.k=50")
    assert "raise search.k" in found


@pytest.mark.parametrize("ef", [1, 50])
def test_an_ef_that_milvus_refuses_is_refused(ef: int) -> None:
    raw = {"store": {"uri": "http://milvus:19530"}, "search": {"k": 50, "params": {"ef": ef}}}
    assert problem(raw) == f"search.params.ef={ef} is below k + 1 = 51, which Milvus refuses; raise it"


def test_an_ef_above_k_is_accepted() -> None:
    raw = {"store": {"uri": "http://milvus:19530"}, "search": {"k": 50, "params": {"ef": 51}}}
    assert build_config(raw).search.params == {"ef": 51}


def test_more_probes_than_lists_are_refused() -> None:
    raw = {"store": {"index": "IVF_FLAT", "params": {"nlist": 16}}, "search": {"params": {"nprobe": 17}}}
    assert problem(raw) == "search.params.nprobe=17 is above store.params.nlist=16; lower it to 16 at most"
    raw["search"]["params"] = {"nprobe": 16}
    assert build_config(raw).search.params == {"nprobe": 16}


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"sq_type": "SQ4"}, "store.params.sq_type='SQ4' is none of SQ6, SQ8, BF16, FP16"),
        ({"sq_type": ["SQ8"]}, "store.params.sq_type=['SQ8'] is none of SQ6, SQ8, BF16, FP16"),
        ({"refine": "yes"}, "store.params.refine='yes' is none of True, False"),
        ({"sq_type": "FP16", "refine": True, "refine_type": "SQ8"}, "store.params.refine_type=SQ8 is no finer than"),
        ({"mmap.enabled": "yes"}, "store.params.mmap.enabled='yes' is neither true nor false"),
        (
            {"nlist": 9},
            "store.params.nlist is not a parameter of index HNSW_SQ; it takes M, efConstruction, sq_type, r",
        ),
    ],
)
def test_what_quantized_graphs_do_not_take_is_refused(params: dict[str, object], says: str) -> None:
    raw = {"store": SERVER | {"index": "HNSW_SQ", "params": params}}
    assert problem(raw).startswith(says)


@pytest.mark.parametrize(
    ("store", "exact"),
    [
        ({}, True),
        ({"index": "IVF_SQ8"}, False),
        ({"index": "HNSW_SQ", "params": {"sq_type": "SQ8"}}, False),
        ({"index": "HNSW_SQ", "params": {"refine": True, "refine_type": "FP16"}}, False),
        ({"index": "HNSW_SQ", "params": {"refine": True, "refine_type": "FP32", "M": 8}}, True),
        ({"index": "DISKANN"}, True),
        ({"vector_type": "bfloat16"}, False),
    ],
)
def test_which_indexes_give_the_distances_of_the_vectors_themselves(store: dict[str, object], exact: bool) -> None:
    assert build_config({"store": SERVER | store}).store.exact_distances == exact


@pytest.mark.parametrize(("key", "value"), [("vector_type", "float16"), ("shards", 2), ("replicas", 3)])
def test_the_embedded_store_has_one_way_to_keep_vectors(key: str, value: object) -> None:
    assert problem({"store": {key: value}}).startswith(f"store.{key}={value} needs a server; the embedded store has ")
    assert getattr(build_config({"store": SERVER | {key: value}}).store, key) == value


@pytest.mark.parametrize("index", ["HNSW", "IVF_SQ8", "DISKANN", "GPU_CAGRA", "AUTOINDEX"])
def test_the_embedded_store_refuses_what_it_has_not(index: str) -> None:
    found = problem({"store": {"index": index}})
    assert found.startswith(f"store.index={index} is not offered by the embedded store; take one of FLAT, IVF_FLAT")
    assert build_config({"store": {"index": index, "uri": "http://milvus:19530"}}).store.index_type == index


def test_an_address_without_a_scheme_is_refused() -> None:
    assert problem({"store": {"uri": "milvus:19530"}}) == (
        "store.uri='milvus:19530' is neither 'embedded' nor an address such as http://host:19530"
    )


SERVER = {"uri": "https://milvus:19530"}
THEIRS = {"uri": "http://milvus:19530", "name": "articles", "text_field": "title"}


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"store": {"params": {"M": 16}}}, "store.params.M is not a parameter of index FLAT; it takes none here"),
        ({"store": SERVER | {"params": {"M": 1}}}, "store.params.M=1 is not a whole number from"),
        (
            {"store": SERVER | {"params": {"nlist": 64}}},
            "store.params.nlist is not a parameter of index HNSW; it takes M",
        ),
        ({"store": SERVER, "search": {"params": {"ef": "many"}}}, "search.params.ef='many' is not a whole number from"),
        (
            {"store": SERVER | {"index": "DISKANN"}, "search": {"params": {"search_list": 50}}},
            "search.params.search_list=50 is below k + 1 = 51",
        ),
        (
            {"store": SERVER | {"index": "GPU_CAGRA", "params": {"intermediate_graph_degree": 32, "graph_degree": 64}}},
            "store.params.graph_degree=64 is above intermediate_graph_degree=32",
        ),
        ({"search": {"target_recall": 0.9}}, "search.target_recall has no meaning for index FLAT: its search is exact"),
        (
            {"store": SERVER, "search": {"target_recall": 0.9, "recall_sample": 50}},
            "search.target_recall is measured on search.recall_sample=50 rows; take 100 at least",
        ),
        ({"store": {"actors": 4}}, "store.actors=4, but the embedded store takes one writer"),
        ({"store": {"load": "bulk"}}, "store.load=bulk needs a server"),
        ({"store": SERVER | {"load": "bulk"}}, "store.load=bulk needs store.bulk_path"),
        (
            {"store": SERVER | {"server": {"token_env": "TOKEN", "token_file": "/run/token"}}},
            "store.server.token_env and store.server.token_file are both given; keep one",
        ),
        (
            {"store": {"uri": "http://milvus:19530", "server": {"ca_file": "ca.pem"}}},
            "store.server.ca_file and store.server.server_name belong to a store.uri that begins with https://",
        ),
        ({"read": {"paths": ["a.csv"], "collection": THEIRS}}, "read.paths and read.collection are both given"),
        (
            {"read": {"collection": {"uri": "http://milvus:19530"}}},
            "read.collection lacks name, text_field; it needs uri",
        ),
        ({"read": {"collection": THEIRS | {"field": "x"}}}, "unknown key 'read.collection.field'"),
        ({"read": {"collection": THEIRS | {"uri": "milvus"}}}, "read.collection.uri='milvus' is no address such as"),
        ({"read": {"collection": "articles"}}, "read.collection holds a str; expected the keys uri, name, text_field"),
    ],
)
def test_what_a_server_would_refuse_is_refused_before_any_work(raw: dict[str, Any], says: str) -> None:
    assert problem(raw).startswith(says)


# --- names that keys had before ---


def test_old_names_are_told_with_the_new_ones_all_at_once(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("store: {uri: 'https://milvus', token_env: TOKEN, db_name: news}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["store.ca_file=null", f"read.collection={json.dumps(THEIRS | {'server_name': 'hush'})}"])
    assert sorted(caught.value.problems) == [
        "'read.collection.server_name' has a new name: 'read.collection.server.server_name'",
        "'store.ca_file' has a new name: 'store.server.ca_file'",
        "'store.db_name' has a new name: 'store.server.db_name'",
        "'store.token_env' has a new name: 'store.server.token_env'",
    ]


def test_every_new_name_is_a_key_and_no_old_one_is() -> None:
    for old, new in RENAMED.items():
        assert hint_at(RunConfig, old.split(".")) is Any
        assert not new or hint_at(RunConfig, new.split(".")) is not Any


def test_a_key_that_nobody_needs_is_told_and_left_out_of_what_a_run_has_saved() -> None:
    old = {"search": {"k": 30, "queries_per_request": 500}}
    assert problem(old) == "'search.queries_per_request' is no longer a key; leave it out"
    assert build_saved_config(old) == build_config({"search": {"k": 30}})


def test_a_saved_configuration_with_old_names_is_the_same_with_new_ones() -> None:
    reached = {"token_file": "/run/token", "token_env": None, "ca_file": None, "server_name": None, "db_name": "news"}
    old = {"store": SERVER | reached, "read": {"collection": THEIRS | reached}}
    new = {"store": SERVER | {"server": reached}, "read": {"collection": THEIRS | {"server": reached}}}
    assert build_saved_config(old) == build_saved_config(new) == build_config(new)
    assert "token_file" in old["store"], "what was saved is left as it is"


@pytest.mark.parametrize(
    "raw", [[], {"store": 5}, {"read": {"collection": []}}, {"store": {"server": 5, "ca_file": "x"}}]
)
def test_a_saved_configuration_that_is_none_is_told(raw: Any) -> None:
    with pytest.raises(ConfigError):
        build_saved_config(raw)


def test_a_key_within_a_section_within_another_names_the_nearest() -> None:
    assert problem({"store": {"server": {"token": "hush"}}}) == (
        "unknown key 'store.server.token'; the nearest known one is 'store.server.token_env'"
    )
    assert problem({"store": {"server": "hush"}}) == ("store.server holds a str; expected keys such as 'token_env:'")
    assert build_config({"store": {"server": None}}) == RunConfig()


# --- ready configurations ---


def test_a_ready_configuration_goes_by_its_name_unless_a_file_has_it(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert {name: load_config(name) for name in READY} == {path.stem: load_config(path) for path in FILES}
    (tmp_path / "laptop").mkdir()
    assert load_config("laptop", ["search.k=20"]).search.k == 20
    (tmp_path / "gpu").write_text("search: {k: 7}\n", encoding="utf-8")
    assert load_config("gpu", ["project.n_neighbors=5"]).search.k == 7


def test_an_unknown_name_lists_the_ready_ones() -> None:
    with pytest.raises(ConfigError, match=r"configuration laptopp: No such file.*Ready .*: gpu, laptop, tutorial$"):
        load_config("laptopp")


# --- files that cannot be read ---


def test_a_missing_file_names_its_neighbors(tmp_path: Path) -> None:
    (tmp_path / "laptop.yaml").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*lapptop\.yaml: No such file.*laptop\.yaml"):
        load_config(tmp_path / "lapptop.yaml")


@pytest.mark.parametrize("content", [b"read: [", b"a: b: c", b"\xff\xfe"])
def test_a_file_that_is_no_yaml_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"run\.yaml is not valid YAML: \S+"):
        load_config(path)


def test_a_file_that_holds_a_list_is_told_what_was_expected(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("- read\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"holds a list; expected sections such as 'read:' and 'cluster:'"):
        load_config(path)


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("# nothing yet\n", encoding="utf-8")
    assert load_config(path) == RunConfig()


NESTED = "a: " + "[" * 500
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(9)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} {{<<: [{', '.join(['*' + chr(97 + n)] * 10)}]}}\n" for n in range(9)
)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("read: &r {paths: [*r]}", "an alias stands within itself, line 1"),
        ("search:\n  k: 3\n  k: 4\n", "the key 'k' is given twice, in lines 2 and 3; keep one"),
        ("read: {}\nrun: {}\nread: {}\n", "the key 'read' is given twice, in lines 1 and 3; keep one"),
        (BOMB, "it holds more than 100,000 values, aliases written out, line "),
        (MERGES, "it holds more than 100,000 values, aliases written out, line "),
        (NESTED, "maps and lists lie more than 20 deep within each other"),
        ("search: {k: !!python/object/apply:os.system [id]}", "the tag '.*os.system' is not known, line 1"),
        ("run: {dir: !!python/name:os.system x}", "could not determine a constructor for the tag"),
        ("run: {dir: !!binary aGk=}", "could not determine a constructor for the tag"),
        ("search:\n\tk: 3\n", "found character '.t' that cannot start any token"),
        ("search: {? [a]: 3}", "a key is neither text nor a number, line 1"),
        ("run: {}\n---\nrun: {}\n", "expected a single document"),
        ("run: {dir: a\0b}", "unacceptable character #x0000"),
        ("a: " + "x" * (1 << 20), "longer than 1,048,576 bytes"),
        ("\xff".encode("latin-1"), "its byte 0 is no UTF-8; save it as UTF-8 text"),
        ("run: {}".encode("utf-16"), "its byte 0 is no UTF-8; save it as UTF-8 text"),
    ],
    ids=lambda one: str(one)[:30],
)
def test_a_file_that_is_no_configuration_is_told(content: str | bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    began = time.process_time()
    with pytest.raises(ConfigError, match=rf"run\.yaml is .*{says}"):
        load_config(path)
    assert time.process_time() - began < 20


def test_an_alias_beside_its_anchor_and_a_mark_of_order_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("search: &s {k: 64}\ngraph: *s\n", encoding="utf-8-sig")
    assert load_config(path).graph.k == 64


@pytest.mark.parametrize("path", ["", ".", "/", "/dev/null/x", "x" * 5000, "a\0b", "/dev/zero", "\udcff"])
def test_what_is_no_file_is_told(path: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration|no configuration is"):
        load_config(path)


def test_a_mapping_that_holds_itself_is_told() -> None:
    ring: dict[str, Any] = {}
    ring["paths"] = ring
    assert "deep within each other, or within themselves" in problem({"read": ring})


# --- secrets ---


STRINGS = [("run.dir", "environment"), ("store.bulk_path", "environment"), ("embed.model", "environment"),
           ("store.uri", "store.server.token_env"), ("read.collection.uri", "read.collection.server.token_env"),
           ("describe.titles.url", "describe.titles.key_env"), ("read.paths", "environment"),
           ("embed.url", "embed.key_env")]  # fmt: skip


@pytest.mark.parametrize(("key", "hint"), STRINGS)
@pytest.mark.parametrize(
    "uri", ["https://root:hush@host/x", "s3://hush@bucket", "s3://key:hu/sh@bucket/x", "file://a:1hush@"]
)
def test_a_user_or_password_in_a_uri_is_refused_without_printing_it(key: str, hint: str, uri: str) -> None:
    *parents, last = key.split(".")
    raw: dict[str, Any] = {last: [uri, "fine.csv"] if key == "read.paths" else uri}
    for parent in reversed(parents):
        raw = {parent: raw}
    if "collection" in raw.get("read", {}):
        raw["read"]["collection"] |= {"name": "articles", "text_field": "title"}
    if "titles" in raw.get("describe", {}):
        raw["describe"]["titles"]["model"] = "any"
    found = problems(raw)
    assert sum(line.startswith(f"{key} holds a user or password; ") and hint in line for line in found) == 1
    assert not any("hush" in line or "hu/sh" in line for line in found)


@pytest.mark.parametrize(
    "raw",
    [
        {"store": {"uri": "root:hush@milvus:19530"}},
        {"store": {"uri": ["root:hush@milvus"]}},
        {"store": {"uri": "http://milvus", "params": {"M": "http://root:hush@milvus"}}},
        {"read": "s3://key:hush@bucket"},
        {"read": {"limit": "s3://key:hush@bucket"}},
        {"run": {"prices": {"cpu_hour": "key:hush@"}}},
        {"describe": {"titles": {"url": "key:hush@titles", "model": "any"}}},
        {"describe": {"titles": {"key": "hush", "model": "any"}}},
        {"embed": {"url": "key:hush@titles"}},
        {"embed": {"encoder": "openai", "url": "https://host/v1", "model": "any", "key_env": "sk-hush"}},
        {"describe": {"titles": {"url": "https://host/v1", "model": "any", "key_env": "sk-hush"}}},
        {"store": {"uri": "https://host:19530", "server": {"token_env": "root:hush"}}},
        {"read": {"collection": {"uri": "https://host:19530", "name": "a", "server": {"token_env": "root:hush"}}}},
    ],
)
def test_what_may_be_a_secret_stands_in_no_message(raw: dict[str, Any]) -> None:
    assert "hush" not in "\n".join(problems(raw))


@pytest.mark.parametrize("word", ["s3://key:hush@bucket", "run.dir=s3://key:hush@bucket", "run.dir.x=key:hush@bucket"])
def test_a_secret_in_an_override_is_not_printed(word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["run.dir=here", word])
    assert "hush" not in str(caught.value)


def test_a_file_that_is_no_yaml_is_not_quoted(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("store:\n  uri: http://root: hush@milvus\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"run\.yaml.* line 2, column") as caught:
        load_config(path)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("uri", ["https://host:1?token=hush", "http://host/v1?api_key=hush", "http://host#hush"])
@pytest.mark.parametrize("key", ["store.uri", "read.collection.uri", "describe.titles.url", "embed.url"])
def test_a_secret_behind_the_address_of_a_server_is_refused_without_printing_it(key: str, uri: str) -> None:
    section, *_ = key.split(".")
    more = {"name": "a", "text_field": "t"} if section == "read" else {"model": "any"}
    raw = {"store": {"uri": uri}, "read": {"collection": {"uri": uri, **more}},
           "describe": {"titles": {"url": uri, **more}},
           "embed": {"encoder": "openai", "url": uri, **more}}  # fmt: skip
    found = problems({section: raw[section]})
    assert sum(line.startswith(f"{key} goes on after a ? or #") for line in found) == 1
    assert "hush" not in "\n".join(found)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("http://milvus:19530/news", "store.uri names more than host and port: /news; set store.server.db_name"),
        ("HTTPS://milvus:19530", "store.uri='HTTPS://milvus:19530' is neither 'embedded' nor an address such as"),
        ("s3://bucket", "store.uri='s3://bucket' is neither 'embedded' nor an address such as"),
    ],
)
def test_an_address_that_client_and_channel_would_take_for_different_ones_is_refused(uri: str, words: str) -> None:
    """Of /news the client made a database, and the channel wrote into the default one; HTTPS was TLS for one only."""
    assert any(line.startswith(words) for line in problems({"store": {"uri": uri}}))
    assert (
        build_config({"store": {"uri": "https://milvus/", "server": {"db_name": "news"}}}).store.server.db_name
        == "news"
    )


def test_a_path_may_hold_an_at_sign() -> None:
    paths = [
        "s3://bucket/a@b.csv",
        "gs://bucket/a:b@c?scheme=http",
        "data/a@b.csv",
        "s3://bucket/x?endpoint_override=h:1",
    ]
    assert build_config({"read": {"paths": paths}}).read.paths == tuple(paths)
    assert build_config({"run": {"dir": "hdfs://host:8020/a@b"}}).run.dir == "hdfs://host:8020/a@b"


@pytest.mark.parametrize(
    ("embed", "says"),
    [
        ({"encoder": "openai"}, "embed.encoder=openai needs embed.url and embed.model: the server's address, such as"),
        ({"encoder": "openai", "url": "http://h/v1"}, "embed.encoder=openai needs embed.model: the server's address"),
        ({"url": "http://h/v1", "key_env": "KEY"}, "embed.url, embed.key_env: only embed.encoder=openai asks a server"),
        (
            {"encoder": "openai", "url": "http://h/v1", "model": "any", "gpus_per_actor": 1},
            "embed.gpus_per_actor=1, but with embed.encoder=openai actors only wait for the server; set it to 0",
        ),
        (
            {"encoder": "openai", "url": "tei:8080", "model": "any"},
            "embed.url: string should match pattern '^https?://'",
        ),
        ({"encoder": "openai", "url": "http://", "model": "any"}, "embed.url names no host, or port 0"),
    ],
)
def test_what_a_server_of_embeddings_lacks_is_told(embed: dict[str, Any], says: str) -> None:
    assert any(line.startswith(says) for line in problems({"embed": embed}))


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 1, 2, 1.5, 0.0001])
def test_a_share_of_a_gpu_is_one_that_ray_gives(share: float) -> None:
    raw = {"embed": {"gpus_per_actor": share}}
    if share in (1.5, 0.0001):
        assert "neither a whole number nor a share from 0.01 to 1" in problem(raw)
    else:
        assert build_config(raw).embed.gpus_per_actor == share


@pytest.mark.parametrize("encoder", ["BAAI/bge-m3", "./bge-m3", "models/minilm", "beg-m3"])
def test_an_encoder_with_a_slash_or_of_a_folder_is_no_misspelt_name(
    encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beg-m3").mkdir()
    assert build_config({"embed": {"encoder": encoder}}).embed.encoder == encoder
    assert problem({"embed": {"encoder": "bgem3"}}).endswith("is not known; the nearest known one is 'bge-m3'")
