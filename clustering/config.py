"""YAML file and ``section.key=value`` words in, one frozen RunConfig out; every problem is named at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from clustering import typed
from clustering.errors import ConfigError
from clustering.kernels.printable import CREDENTIALS

EMBEDDED = "embedded"
ENCODERS = ("static", "minilm", "bge-m3")  # any other name is a sentence-transformers model
EMBEDDED_INDEXES = ("FLAT", "IVF_FLAT")  # what Milvus Lite 2.5 offers
SERVER_INDEXES = ("HNSW", "IVF_FLAT", "IVF_SQ8", "FLAT", "AUTOINDEX", "DISKANN", "GPU_CAGRA")
LEAST_SHARE = 0.01  # of a GPU, for one actor
MILVUS_TOP_K = 16_384  # the server's own limit of hits a query

# What an index takes when it is built and when it is searched, with the least and largest values that servers accept.
BUILD_PARAMS: dict[str, dict[str, tuple[int, int]]] = {
    "HNSW": {"M": (2, 2048), "efConstruction": (1, 1 << 31)},
    "IVF_FLAT": {"nlist": (1, 65_536)},
    "IVF_SQ8": {"nlist": (1, 65_536)},
    "GPU_CAGRA": {"intermediate_graph_degree": (1, 1 << 16), "graph_degree": (1, 1 << 16)},
}
SEARCH_PARAMS: dict[str, dict[str, tuple[int, int]]] = {
    "HNSW": {"ef": (1, 32_768)},
    "IVF_FLAT": {"nprobe": (1, 65_536)},
    "IVF_SQ8": {"nprobe": (1, 65_536)},
    "DISKANN": {"search_list": (1, 65_535)},
    "GPU_CAGRA": {"itopk_size": (1, 1 << 16)},
    "AUTOINDEX": {"level": (1, 10)},
}
LISTED = ("ef", "search_list", "itopk_size")  # as many candidates are kept, so no less than k + 1
GPU_PARAMS = ("build_algo", "adapt_for_cpu", "cache_dataset_on_device", "search_width", "min_iterations", "team_size")

SECRET_ENV = {  # addresses of servers, and the key that names the variable with their secret
    "store.uri": "store.token_env",
    "read.collection.uri": "read.collection.token_env",
    "describe.titles.url": "describe.titles.key_env",
}

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=1 << 32)]  # what numpy and scikit-learn take
Filled = Annotated[str, Field(min_length=1)]
_strict = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, config=_strict)
class Prices:
    """What an hour of the machines costs; the report says what each stage cost."""

    cpu_hour: Annotated[float, Field(ge=0)] = 0.0  # of one core
    gpu_hour: Annotated[float, Field(ge=0)] = 0.0  # of one GPU
    currency: str = "USD"


@dataclass(frozen=True, config=_strict)
class RunSection:
    """Where a run lies and how it repeats itself."""

    dir: Filled = "runs/covey"  # a directory that all nodes see, or s3://bucket/prefix, gs://; holds every artefact
    name: str | None = None  # letters, digits, underscores; none: the directory's own name
    seed: Seed = 0
    resume: bool = True  # false: start anew, whatever the directory holds
    check: bool = True  # refuse a run that will not fit into the memory of the nodes; false: try it all the same
    prices: Prices | None = None  # none: no costs in the report
    patience_s: Annotated[float, Field(gt=0)] = 300  # how long a bucket that fails is waited for


@dataclass(frozen=True, config=_strict)
class CollectionInput:
    """Somebody's Milvus collection whose vectors are clustered; nothing in it is changed."""

    uri: str  # the server's address
    name: str
    text_field: str  # also a name in a dynamic field, or a path in a JSON one (info.title)
    vector_field: str | None = None  # none: the only field of float vectors
    id_field: str | None = None  # becomes text_id; none: the primary key
    token_env: str | None = None  # this and the rest as in section store
    token_file: str | None = None
    ca_file: str | None = None
    server_name: str | None = None
    db_name: str | None = None


# What is none in an unquoted cell of csv: what both pandas and pyarrow take for it, and what MySQL, Hive and Postgres
# write.
NULLS = (r"\N", "NULL", "null", "NaN", "nan", "-NaN", "-nan", "N/A", "n/a", "NA", "#N/A", "#N/A N/A", "#NA", "1.#IND",
         "-1.#IND", "1.#QNAN", "-1.#QNAN")  # fmt: skip

OneCharacter = Annotated[str, Field(pattern=r"^[^\x00\r\n\x80-\U0010ffff]$")]  # of ASCII


@dataclass(frozen=True, config=_strict)
class CsvSection:
    """How csv and tsv files are written; what is left out is told from each file's first lines."""

    delimiter: OneCharacter | None = None  # none: comma, semicolon, tab or |, whichever gives the wanted columns
    quote: OneCharacter | Literal["none"] | None = None  # the word none: no quoting; none set: ", and no quoting in tsv
    escape: OneCharacter | None = None  # before a quote within a field; none: doubled quotes, or \\ where files show it
    # first: the first line has the columns' names; none: there are none, so columns go by number; or the names.
    header: Literal["first", "none"] | Annotated[tuple[str, ...], Field(min_length=1)] = "first"
    encoding: str | None = None  # none: UTF-8, what the first bytes tell (UTF-16), or a guess that the report names
    comment: str | None = None  # lines that begin so are left out; none: lines at the top that begin with #
    nulls: tuple[Filled, ...] = NULLS  # unquoted cells of texts that mean none; []: each is a text


@dataclass(frozen=True, config=_strict)
class CleanSection:
    """What is taken out of a text before it is compared with others and embedded; what is shown stays as it was."""

    markup: bool = True  # entities of HTML are decoded, tags removed
    urls: Literal["keep", "drop"] = "keep"
    hashtags: Literal["keep", "words", "drop"] = "keep"  # words: without the #
    case: Literal["keep", "lower"] = "keep"


@dataclass(frozen=True, config=_strict)
class ReadSection:
    """Which records are read, and what of them becomes the text: those of files, or those of a collection."""

    # Files, globs, directories, URIs (where ? begins the options); csv, tsv, jsonl, parquet, each also .gz.
    paths: tuple[Filled, ...] = ()
    collection: CollectionInput | None = None  # instead of paths: texts with the vectors that they already have
    format: Literal["csv", "tsv", "jsonl", "json", "parquet"] | None = None  # of all files; none: by suffix and content
    # Columns of files: a name, a path into nested ones (data.title), or a number from 1 where no column has that name.
    text_columns: Annotated[tuple[str, ...], Field(min_length=1)] = ("title", "description")
    separator: str = "\n"  # stands between two text columns
    id_column: str | None = None  # none: file name and record number
    time_column: str | None = None  # dates, ISO 8601, seconds or milliseconds of the epoch; becomes column time, in UTC
    source_column: str | None = None  # who published it; becomes column source
    link_column: str | None = None  # where it stands; becomes column link
    keep: tuple[str, ...] = ()  # further columns that come out in labels.parquet with their types; [all]: every one
    csv: CsvSection = field(default_factory=CsvSection)
    clean: CleanSection = field(default_factory=CleanSection)
    errors: Literal["strict", "replace"] = "strict"  # bytes that are not text: an end that names them, or U+FFFD
    bad_lines: Literal["refuse", "skip"] = "refuse"  # above 1 % of malformed lines: an end, or they are left out
    limit: Positive | None = None  # only the first records, in the order of the paths or of the collection's keys


@dataclass(frozen=True, config=_strict)
class EmbedSection:
    """Which encoder turns texts into unit vectors, and on how many actors."""

    encoder: Filled = "bge-m3"  # static, minilm, bge-m3, or a sentence-transformers model (name or folder)
    model: Filled | None = None  # a local folder (or hub name) with the weights of `encoder`
    actors: Positive | None = None  # none: one a GPU, or one a CPU core up to 4
    gpus_per_actor: Annotated[float, Field(ge=0)] = 0
    max_tokens: Annotated[int, Field(ge=2, le=8192)] = 512  # longer texts are cut; the report counts them
    tokens_per_batch: Annotated[int, Field(ge=64)] = 16_384  # padded tokens that one forward pass takes
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"  # weights of bge-m3 and other torch models


@dataclass(frozen=True, config=_strict)
class StoreSection:
    """The Milvus that keeps the vectors."""

    uri: str = EMBEDDED  # embedded (Milvus Lite in the run directory), or the address of a server
    token_env: str | None = None  # name of the environment variable that holds the token (or user:password)
    token_file: str | None = None  # or a file that holds it, on every node
    ca_file: str | None = None  # certificate of the authority of an https:// server; none: the system's authorities
    server_name: str | None = None  # name in the server's certificate, where it is not the address's
    db_name: str | None = None
    collection: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,254}$")] | None = None  # none: covey_<run name>
    index: Literal["HNSW", "IVF_FLAT", "IVF_SQ8", "FLAT", "AUTOINDEX", "DISKANN", "GPU_CAGRA"] | None = None
    params: Mapping[str, Any] = field(default_factory=dict)  # of the index: M, efConstruction, nlist
    metric: Literal["L2", "COSINE", "IP"] = "L2"
    load: Literal["stream", "bulk"] = "stream"  # requests by actors, or files that the server imports itself
    bulk_path: str | None = None  # for bulk: a folder that the server sees too, or s3://bucket/prefix of its storage
    keep: bool = True  # false: the collection is dropped when the run is done
    timeout_s: Annotated[float, Field(gt=0)] = 20  # how long an unreachable server is tried before any work
    patience_s: Annotated[float, Field(gt=0)] = 300  # how long one that went away is waited for in the midst of it
    stall_s: Annotated[float, Field(gt=0)] = 3600  # how long its own work (flush, index, load) may stand still

    @property
    def embedded(self) -> bool:
        return self.uri == EMBEDDED

    @property
    def index_type(self) -> str:
        """FLAT (exact) in the embedded store, HNSW on a server, unless the configuration says otherwise."""
        return self.index or ("FLAT" if self.embedded else "HNSW")


@dataclass(frozen=True, config=_strict)
class SearchSection:
    """How many neighbors each text gets, and how they are asked for."""

    k: Annotated[int, Field(ge=1, lt=MILVUS_TOP_K)] = 50  # nearest other texts
    params: Mapping[str, Any] = field(default_factory=dict)  # ef, nprobe
    target_recall: Annotated[float, Field(gt=0, lt=1)] | None = None  # raise ef or nprobe until a sample reaches it
    actors: Positive = 2
    queries_per_request: Annotated[int, Field(ge=1, le=MILVUS_TOP_K)] = 1000  # fewer where bytes would pass the limits
    recall_sample: Annotated[int, Field(ge=0, le=10_000)] = (
        1000  # rows whose neighbors are compared with exact search; 0: none
    )


@dataclass(frozen=True, config=_strict)
class GraphSection:
    """Which of the neighbors become edges."""

    k: Positive | None = None  # nearest neighbors that become edges; none: all that were searched
    max_distance: Annotated[float, Field(gt=0)] | None = None  # in the store's metric; longer edges are dropped
    bridge: Literal["nearest", "none"] = "nearest"  # settle by exact search what the lists leave open, or leave it


@dataclass(frozen=True, config=_strict)
class ClusterSection:
    """The tree on the graph, and which of its clusters are chosen."""

    weights: Literal["diffused", "distance"] = "diffused"  # lengths of the edges; distance is plain HDBSCAN
    selection: Literal["modularity", "eom", "leaf"] = "modularity"
    preset: Literal["events", "topics"] | None = None  # of modularity: small stories, or few broad subjects
    granularity: Positive | None = None  # texts; smaller is finer; none: 20000, less where texts lie in small groups
    min_samples: Positive | None = None  # the core distance reaches to the min_samples-th other text; none: 1, 5 plain
    min_cluster_size: Annotated[int, Field(ge=2)] | None = None  # none: 5, and 3 where texts lie in small groups
    epsilon: Annotated[float, Field(ge=0)] = 0.0  # clusters closer than this are not split
    max_cluster_size: NonNegative = 0  # 0: no limit
    allow_single_cluster: bool = False
    copies: Literal["fold", "weigh"] = "fold"
    layers: Annotated[int, Field(ge=1, le=6)] = 6  # of modularity: from broad to fine, at most so many; 1: the labels
    budget: NonNegative = 100_000  # with distance: texts compared with all others to settle what the lists leave open

    @property
    def core_rank(self) -> int:
        """min_samples, or what it is without a word; 1 with diffused weights means none."""
        return self.min_samples or (1 if self.weights == "diffused" else 5)


@dataclass(frozen=True, config=_strict)
class Titles:
    """An OpenAI-compatible endpoint that writes the clusters' titles."""

    url: Annotated[str, Field(pattern="^https?://")]  # up to /v1; /chat/completions is added
    model: str
    key_env: str | None = None  # name of the environment variable that holds the key


@dataclass(frozen=True, config=_strict)
class DescribeSection:
    """What names a cluster."""

    terms: Positive = 10
    exemplars: Positive = 5
    # Whose stop words are left out of the terms. auto: of the languages that the texts are in, and those that the
    # clusters show: words of many clusters that stand out in none.
    language: Literal["auto", "english", "none"] = "auto"
    titles: Titles | None = None  # none: a cluster's title is its first terms


@dataclass(frozen=True, config=_strict)
class ProjectSection:
    """The map."""

    method: Literal["layout", "umap"] = "layout"  # UMAP's objective, the same for any number of threads; or umap-learn
    n_neighbors: Annotated[int, Field(ge=2)] = 15  # the text itself is one of them, as in umap-learn
    min_dist: Annotated[float, Field(ge=0, le=1)] = 0.1
    sample: Annotated[int, Field(ge=100)] | None = None  # lay out so many texts, the others amid their neighbors
    seed: Seed | None = None  # of layout, none: run.seed; with one, umap is repeatable and runs on one thread


@dataclass(frozen=True, config=_strict)
class PlotSection:
    """What the map shows."""

    points: Positive = 50_000  # the interactive map draws at most so many, sampled evenly
    hover: tuple[Literal["title", "label", "home", "strength", "outlier_score", "copies", "row"], ...] = (
        "label",
        "title",
    )  # shown under the text
    noise: Literal["shown", "hidden"] = "shown"


@dataclass(frozen=True, config=_strict)
class RunConfig:
    """The whole configuration: one section a stage, checked when built, never changed afterwards."""

    run: RunSection = field(default_factory=RunSection)
    read: ReadSection = field(default_factory=ReadSection)
    embed: EmbedSection = field(default_factory=EmbedSection)
    store: StoreSection = field(default_factory=StoreSection)
    search: SearchSection = field(default_factory=SearchSection)
    graph: GraphSection = field(default_factory=GraphSection)
    cluster: ClusterSection = field(default_factory=ClusterSection)
    describe: DescribeSection = field(default_factory=DescribeSection)
    project: ProjectSection = field(default_factory=ProjectSection)
    plot: PlotSection = field(default_factory=PlotSection)

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Plain lists, dicts and scalars, as they go into YAML and JSON."""
        return {section: _plain(keys) for section, keys in asdict(self).items()}

    @property
    def name(self) -> str:
        """The run's name, safe as part of a Milvus collection's name."""
        raw = self.run.name or Path(self.run.dir.partition("?")[0]).name
        return "".join(c if c.isascii() and c.isalnum() else "_" for c in raw) or "run"

    @property
    def collection(self) -> str:
        return self.store.collection or f"covey_{self.name}"

    @property
    def graph_k(self) -> int:
        """Neighbors of each text that become edges."""
        return self.graph.k or self.search.k


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


SECTIONS: dict[str, type] = {field.name: field.default_factory for field in fields(RunConfig)}  # type: ignore[misc]


def load_config(path: str | Path | None, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a YAML file, lay ``section.key=value`` words over it, and check the whole.

    overrides : words such as ``cluster.min_samples=3``. A value that is text is taken as it stands, a list is written
        [a, b], null means none where that is a choice.
    Raises: ConfigError that lists every problem of the file and the words at once.
    """
    if CREDENTIALS.search(str(path)):
        raise ConfigError(["the configuration is a URI with a user or password; name a file of this machine"])
    problems: list[str] = []
    raw = _read_yaml(Path(path), problems) if path is not None else {}
    for word in overrides:
        _override(raw, word, problems)
    return build_config(raw, problems)


def override_config(config: RunConfig, overrides: Iterable[str]) -> RunConfig:
    """The configuration with ``section.key=value`` words laid over it, checked again as a whole."""
    problems: list[str] = []
    raw = config.as_dict()
    for word in overrides:
        _override(raw, word, problems)
    return build_config(raw, problems)


def build_config(raw: Mapping[str, Any], problems: list[str] | None = None) -> RunConfig:
    """Check a nested mapping of sections and build the frozen configuration.

    Raises: ConfigError with ``problems`` and whatever else is wrong in ``raw``.
    """
    problems = list(problems or [])
    if not isinstance(raw, Mapping):
        raise ConfigError([*problems, f"the configuration is a {type(raw).__name__}; expected a mapping of sections"])
    odd = list(typed.odd_values(raw, RunConfig))
    known = _keep_known(raw, problems)
    if odd:
        raise ConfigError(problems + odd)
    problems += _credentials(known) + _broken_addresses(known)
    config: RunConfig | None = None
    try:
        config = TypeAdapter(RunConfig).validate_python(known)
    except ValidationError as error:
        problems += [_in_words(detail) for detail in error.errors()]
    problems += _contradictions(config) if config is not None else []
    if problems or config is None:
        raise ConfigError(problems)
    return config


def _read_yaml(path: Path, problems: list[str]) -> dict[str, Any]:
    raw = typed.read_yaml(path, RunConfig)
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        problems.append(f"{path} holds a {type(raw).__name__}; expected sections such as 'read:' and 'cluster:'")
        return {}
    return {str(section): keys for section, keys in raw.items()}


def _override(raw: dict[str, Any], word: str, problems: list[str]) -> None:
    name, equals, text = word.partition("=")
    section, *parents, last = name.split(".") if "." in name else ("", "")
    if not (equals and section and last and all(parents)):
        problems.append(
            f"{_shown(word)} is not an override; write section.key=value, for instance cluster.min_samples=3"
        )
        return
    try:
        value = typed.word_value(text, typed.hint_at(RunConfig, name.split(".")))
    except yaml.YAMLError:
        problems.append(f"{_shown(word)} is no list; put items that hold a comma, a colon or a # in quotes")
        return
    place: Any = raw
    for parent in (section, *parents):  # store.params.nlist=64 reaches into a mapping
        if not isinstance(place, dict):
            break
        if place.get(parent) is None:
            place[parent] = {}
        place = place[parent]
    if isinstance(place, dict):
        place[last] = value
    else:
        problems.append(f"{_shown(word)} reaches into '{section}', which is not a mapping")


def _keep_known(raw: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    known: dict[str, Any] = {}
    everywhere = {key: name for name, section in SECTIONS.items() for key in _keys(section)}
    for name, keys in raw.items():
        if name not in SECTIONS:
            problems.append(f"unknown section '{typed.shown_key(name)}'{_nearest(name, SECTIONS)}")
        elif keys is None:
            known[name] = {}
        elif not isinstance(keys, dict):
            problems.append(
                f"section '{name}' holds {_shown(keys)}; expected keys such as '{_keys(SECTIONS[name])[0]}:'"
            )
        else:
            allowed = _keys(SECTIONS[name])
            for key in keys:
                if key not in allowed:
                    elsewhere = f"; '{everywhere[key]}.{key}' exists" if key in everywhere else ""
                    shown = typed.shown_key(key)
                    problems.append(f"unknown key '{name}.{shown}'{elsewhere or _nearest(key, allowed, name + '.')}")
            known[name] = {key: _tuples(value) for key, value in keys.items() if key in allowed}
    if isinstance(known.get("read"), dict) and known["read"].get("collection") is not None:
        known["read"]["collection"] = _known_collection(known["read"]["collection"], problems)
    if isinstance(known.get("read"), dict):
        for key in ("paths", "text_columns", "keep"):  # one word stands for a list of one
            if isinstance(known["read"].get(key), str):
                known["read"][key] = (known["read"][key],)
    return known


def _known_collection(given: Any, problems: list[str]) -> dict[str, Any] | None:
    """The known keys of read.collection; values that stand in a wrong place may be secrets, so none is shown."""
    allowed = _keys(CollectionInput)
    needed = [key.name for key in fields(CollectionInput) if key.default is MISSING]
    if not isinstance(given, dict):
        problems.append(f"read.collection holds a {type(given).__name__}; expected the keys {', '.join(needed)}")
        return None
    problems += [
        f"unknown key 'read.collection.{typed.shown_key(key)}'{_nearest(key, allowed, 'read.collection.')}"
        for key in given
        if key not in allowed
    ]
    missing = [key for key in needed if given.get(key) is None]
    if missing:
        problems.append(f"read.collection lacks {', '.join(missing)}; it needs {', '.join(needed)}")
        return None
    return {key: value for key, value in given.items() if key in allowed}


def _keys(section: type) -> list[str]:
    return [field.name for field in fields(section)]


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    known = list(known)
    close = difflib.get_close_matches(typed.shown_key(word), known, n=1, cutoff=0.0)
    return f"; the nearest known one is '{prefix}{close[0]}'" if close else ""


def _shown(value: Any) -> str:
    """A value as messages show it, unless it may hold a password."""
    shown = repr(value)
    if "@" in shown:
        return "a value with '@', which is not shown"
    return shown if len(shown) <= 2 * typed.SHOWN else shown[: 2 * typed.SHOWN] + "..."


def _in_words(detail: Any) -> str:
    place = ".".join(
        typed.shown_key(str(part)) for part in detail["loc"] if not str(part).startswith(("function-", "tuple["))
    )
    misplaced = detail["type"] in ("missing", "unexpected_keyword_argument")  # then what is there may be a secret
    got = "" if misplaced else f", got {_shown(detail['input'])}"
    return f"{place}: {detail['msg'][0].lower()}{detail['msg'][1:]}{got}"


def _credentials(known: Mapping[str, Any]) -> list[str]:
    """The keys that hold a user or password: what they hold is printed and saved, so it is no place for a secret."""
    found = dict.fromkeys(
        place for place, text in _words(known) if CREDENTIALS.search(text) or (place in SECRET_ENV and "@" in text)
    )
    hints = {place: f"name an environment variable with it in {key}" for place, key in SECRET_ENV.items()}
    stores = "object stores take credentials from the environment"
    return [f"{place} holds a user or password; {hints.get(place, stores)}" for place in found]


def _broken_addresses(known: Mapping[str, Any]) -> list[str]:
    """The keys whose value begins like a URI and is none; it may hold a secret, so that it is not shown."""
    found = []
    for place, text in _words(known):
        if "://" not in text or (place in SECRET_ENV and "@" in text):
            continue
        try:
            parts = urlsplit(text)
            wrong = place in SECRET_ENV and not (parts.hostname and parts.port != 0)
        except ValueError as error:  # of the host, or of the port
            found.append(f"{place} is no URI: {str(error).partition(' (')[0][:100]}; got {_shown(text)}")
            continue
        if place in SECRET_ENV and (parts.query or parts.fragment):
            found.append(
                f"{place} goes on after a ? or #, which is not sent and may be a secret, so it is not shown; leave it "
                f"out, and name an environment variable with a secret in {SECRET_ENV[place]}"
            )
        elif wrong:
            found.append(f"{place} names no host, or port 0; write it as http://host:19530; got {_shown(text)}")
    return found


def _words(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every string within, with the key where it stands."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _words(item, f"{place}.{key}".lstrip("."))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _words(item, place)


def _contradictions(config: RunConfig) -> list[str]:
    """What each key allows on its own, but not together with another."""
    search, store, cluster = config.search, config.store, config.cluster
    found = []
    if config.graph_k > search.k:
        found.append(f"graph.k={config.graph_k} is above search.k={search.k}; raise search.k to {config.graph_k}")
    if config.graph_k < cluster.core_rank:
        key = "graph.k" if config.graph.k else "search.k"
        found.append(
            f"{key}={config.graph_k} is smaller than cluster.min_samples={cluster.core_rank}; the core distance "
            f"needs min_samples neighbors of each text: raise {key} to at least {cluster.core_rank}"
        )
    unlike = {
        "preset": cluster.selection == "modularity", "granularity": cluster.selection == "modularity",
        "epsilon": cluster.selection != "modularity", "max_cluster_size": cluster.selection == "eom",
    }  # fmt: skip
    found += [
        f"cluster.{key}={getattr(cluster, key)} has no meaning with cluster.selection={cluster.selection}; leave it "
        f"out (over a saved configuration: cluster.{key}=null)"
        for key, fits in unlike.items()
        if getattr(cluster, key) and not fits
    ]
    if config.project.n_neighbors > search.k:
        found.append(
            f"project.n_neighbors={config.project.n_neighbors} is above search.k={search.k}; the map reuses the "
            f"searched neighbors: lower it, or raise search.k (graph.k keeps the graph at its size)"
        )
    found += _wrong_params(store, search)
    share = config.embed.gpus_per_actor
    if share != int(share) if share > 1 else 0 < share < LEAST_SHARE:
        found.append(
            f"embed.gpus_per_actor={share:g} is neither a whole number nor a share from {LEAST_SHARE} to 1; Ray gives "
            f"no other"
        )
    near = difflib.get_close_matches(config.embed.encoder, ENCODERS, n=1, cutoff=0.7)
    if near and config.embed.encoder not in ENCODERS and config.embed.model is None:
        found.append(f"embed.encoder={config.embed.encoder!r} is not known; the nearest known one is '{near[0]}'")
    if store.embedded and store.index_type not in EMBEDDED_INDEXES:
        found.append(
            f"store.index={store.index} is not offered by the embedded store; take one of "
            f"{', '.join(EMBEDDED_INDEXES)}, or give the address of a server in store.uri"
        )
    if store.load == "bulk" and store.embedded:
        found.append("store.load=bulk needs a server; the embedded store takes stream only")
    elif store.load == "bulk" and not store.bulk_path:
        found.append(
            "store.load=bulk needs store.bulk_path: a folder that the server sees under the same path, or "
            "s3://bucket/prefix in the bucket that it stores in"
        )
    found += _wrong_reading(config.read)
    found += _wrong_address("store", store)
    if config.read.collection is not None:
        found += _wrong_address("read.collection", config.read.collection)
        if config.read.paths:
            found.append("read.paths and read.collection are both given; keep one (read.paths=[] empties the other)")
    return found


def _wrong_reading(read: ReadSection) -> list[str]:
    """Keys of section read that contradict each other, or name no encoding."""
    found = []
    if read.csv.encoding is not None:
        try:
            "a".encode(read.csv.encoding)
        except (LookupError, ValueError):
            found.append(
                f"read.csv.encoding={_shown(read.csv.encoding)} is no encoding; utf-8, utf-16, cp1252 are some"
            )
    marks = {name: getattr(read.csv, name) for name in ("delimiter", "quote", "escape")}
    same = [name for name, mark in marks.items() if mark and list(marks.values()).count(mark) > 1]
    if same:
        found.append(f"read.csv.{' and read.csv.'.join(same)} are both {_shown(marks[same[0]])}; they must differ")
    carried = ("keep", "time_column", "source_column", "link_column")
    given = [f"read.{name}" for name in carried if getattr(read, name)]
    if read.collection is not None and given:
        found.append(
            f"{', '.join(given)}: columns are those of files; of a collection only texts, ids and vectors are read"
        )
    return found


def _wrong_address(place: str, given: StoreSection | CollectionInput) -> list[str]:
    """What is wrong with the address of a server, or contradicts it; ``place`` is where it stands."""
    found = []
    if given.token_env and given.token_file:
        found.append(f"{place}.token_env and {place}.token_file are both given; keep one")
    if (given.ca_file or given.server_name) and not given.uri.startswith("https://"):
        found.append(f"{place}.ca_file and {place}.server_name belong to a {place}.uri that begins with https://")
    takes = f"neither '{EMBEDDED}' nor an" if isinstance(given, StoreSection) else "no"
    embedded = isinstance(given, StoreSection) and given.embedded
    uri = re.split("[?#]", given.uri)[0]
    scheme, mark, rest = uri.partition("://")
    if not (scheme in ("http", "https", "tcp") and mark) and "@" not in given.uri and not embedded:
        found.append(f"{place}.uri={_shown(uri)} is {takes} address such as http://host:19530")
    database = rest.partition("/")[2].strip("/")
    if database and "@" not in database:  # pymilvus's client takes it for a database, and nothing else does
        found.append(f"{place}.uri names more than host and port: /{database[:80]}; set {place}.db_name to a database")
    return found


def _wrong_params(store: StoreSection, search: SearchSection) -> list[str]:
    """Parameters that the index does not take, that are out of range, or that contradict k or each other."""
    found = []
    index = store.index_type
    for section, params, known in (
        ("store", store.params, BUILD_PARAMS.get(index, {})),
        ("search", search.params, SEARCH_PARAMS.get(index, {})),
    ):
        for key, value in params.items():
            if key in known:
                low, high = known[key]
                if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                    found.append(f"{section}.params.{key}={_shown(value)} is not a whole number from {low} to {high}")
            elif key == "mmap.enabled" or (index == "GPU_CAGRA" and key in GPU_PARAMS):
                if not isinstance(value, (bool, int, float, str)):
                    found.append(f"{section}.params.{key}={_shown(value)} is no single value")
            else:
                takes = f"it takes {', '.join(known)}" if known else "it takes none"
                found.append(
                    f"{section}.params.{typed.shown_key(key)} is not a parameter of index {index}; {takes} here"
                )
    for key in LISTED:
        value = search.params.get(key)
        if isinstance(value, int) and value < search.k + 1:
            found.append(f"search.params.{key}={value} is below k + 1 = {search.k + 1}, which Milvus refuses; raise it")
    nprobe, nlist = search.params.get("nprobe"), store.params.get("nlist")
    if isinstance(nprobe, int) and isinstance(nlist, int) and nprobe > nlist:
        found.append(f"search.params.nprobe={nprobe} is above store.params.nlist={nlist}; lower it to {nlist} at most")
    wide, degree = store.params.get("intermediate_graph_degree"), store.params.get("graph_degree")
    if isinstance(wide, int) and isinstance(degree, int) and degree > wide:
        found.append(f"store.params.graph_degree={degree} is above intermediate_graph_degree={wide}; lower it")
    if search.target_recall is not None and index in ("FLAT", "AUTOINDEX"):
        why = "its search is exact" if index == "FLAT" else "it has no parameter that could be raised"
        found.append(f"search.target_recall has no meaning for index {index}: {why}; leave it out")
    if search.target_recall is not None and search.recall_sample < 100:
        found.append(
            f"search.target_recall is measured on search.recall_sample={search.recall_sample} rows; take 100 at least"
        )
    return found
