"""The section ``embed`` in; the encoder that it names out, or what is wrong with it before any work."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from clustering.config.sections import ENCODERS, SERVED, EmbedSection
from clustering.encoders.base import Encoded, Encoder, package_folder, unit_rows
from clustering.encoders.minilm import MiniLMEncoder, minilm_files
from clustering.encoders.static import StaticEncoder, packaged_dim
from clustering.encoders.torch import TorchEncoder
from clustering.encoders.weights import hub_name, is_cached, model_location, model_prompt
from clustering.errors import ConfigError
from clustering.http_client import check_key
from clustering.kernels.printable import one_line
from clustering.kernels.words import LEXICAL_DIM

if TYPE_CHECKING:
    from clustering.encoders.openai import OpenAIEncoder

CLASSES: dict[str, Callable[[EmbedSection, str | None], Encoder]] = {
    "static": StaticEncoder,
    "minilm": MiniLMEncoder,
    SERVED: lambda cfg, _: _served(cfg),
}
SERVER_START_S = 20.0  # patience with a server of embeddings before the run starts
ENGLISH_ENCODERS = ("static", "minilm")  # with the weights of their packages
# In a model's name.
ENGLISH = re.compile(r"(?i)[/_-]en([-_.]|$)|english|all-(minilm|mpnet|distilroberta)|(potion|m2v)[-_](?!multi)")


def load_encoder(cfg: EmbedSection, commit: str | None = None) -> Encoder:
    """Load the configured encoder into this process, without the words that stand beside it.

    commit : of a model of the hub, see ``weights.resolve_commit``; None takes embed.revision, or the latest
    Raises: ConfigError when its package or its files are missing or damaged.
    """
    kind: Callable[[EmbedSection, str | None], Encoder] | None = CLASSES.get(cfg.encoder)
    cfg = replace(cfg, prompt=model_prompt(cfg, commit))
    try:
        encoder = kind(cfg, commit) if kind else TorchEncoder(cfg, commit)
    except (ConfigError, RuntimeError, MemoryError):  # torch raises a RuntimeError when a GPU's memory is full
        raise
    except Exception as error:  # the libraries that read weights and vocabularies raise errors of many kinds
        raise ConfigError([_unreadable(model_location(cfg) if cfg.model else cfg.encoder, error)]) from error
    return _Shortened(encoder, dim) if (dim := _stored_dim(cfg, encoder.dim)) != encoder.dim else encoder


class _Shortened:
    """A Matryoshka model's vectors, cut to their first numbers and scaled to unit length again.

    Source: Kusupati et al. (2022), arXiv:2205.13147.
    """

    def __init__(self, encoder: Encoder, dim: int) -> None:
        self.encoder, self.dim = encoder, dim

    def encode(self, texts: Sequence[str]) -> Encoded:
        encoded = self.encoder.encode(texts)
        return replace(encoded, vectors=unit_rows(encoded.vectors[:, : self.dim]))


def _stored_dim(cfg: EmbedSection, dim: int) -> int:
    """The dimension of the vectors that are stored. dim : of the model's. Raises: ConfigError when it has fewer."""
    if cfg.dimensions and cfg.dimensions > dim:
        model = model_location(cfg) if cfg.model else cfg.encoder
        raise ConfigError([
            f"embed.dimensions={cfg.dimensions} is above the {dim} dimensions of {model}; lower it, or leave it out"
        ])  # fmt: skip
    return cfg.dimensions or dim


def download_model(cfg: EmbedSection, commit: str) -> None:
    """Load a model of the hub, unless its weights lie in this machine's cache, so that they do afterwards."""
    name = hub_name(cfg)
    if name and not is_cached(name, commit):
        load_encoder(replace(cfg, gpus_per_actor=0), commit)


def served_dim(cfg: EmbedSection) -> int | None:
    """The dimension of the vectors that a server of embeddings gives, by a small request; None for other encoders.

    Raises: ConfigError when it does not answer well within seconds, or refuses the key or the model.
    """
    if cfg.encoder != SERVED:
        return None
    with closing(_served(replace(cfg, patience_s=min(cfg.patience_s, SERVER_START_S)))) as encoder:
        return _stored_dim(cfg, encoder.dim) + words_dim(cfg)


def _served(cfg: EmbedSection) -> OpenAIEncoder:
    from clustering.encoders.openai import OpenAIEncoder  # with an HTTP client, a third of a second to import

    return OpenAIEncoder(cfg)


def words_dim(cfg: EmbedSection) -> int:
    """The dimensions of the words in a vector."""
    return LEXICAL_DIM if cfg.words_share else 0


def _unreadable(model: str, error: Exception) -> str:
    reason = one_line(str(error), 200)
    return f"embed.model: {model} cannot be loaded: {reason}. Is a file damaged, cut off, or of another model?"


def english_only(cfg: EmbedSection) -> bool:
    """Whether the encoder is known to read English alone."""
    if cfg.encoder in ENGLISH_ENCODERS and cfg.model is None:
        return True
    return cfg.encoder != "bge-m3" and bool(ENGLISH.search(cfg.model or cfg.encoder))


def check_encoder(cfg: EmbedSection) -> int | None:
    """The dimension of the vectors, from small files, without loading a model; None where only the model knows it.

    Raises: ConfigError when a package or a file that the encoder needs is missing, for a revision of what is no model
        of the hub, and for more dimensions than the model has.
    """
    if cfg.revision and hub_name(cfg) is None:
        weights = model_location(cfg) if cfg.model or cfg.encoder not in ENCODERS else f"the package of {cfg.encoder}"
        raise ConfigError([f"embed.revision={cfg.revision} is one of the hub, not of {weights}; leave it out"])
    dim = _model_dim(cfg)
    dim = cfg.dimensions if dim is None else _stored_dim(cfg, dim)
    return None if dim is None else dim + words_dim(cfg)


def _model_dim(cfg: EmbedSection) -> int | None:
    if cfg.encoder == "static":
        return load_encoder(cfg).dim if cfg.model or cfg.prompt else packaged_dim()
    if cfg.encoder == SERVED:
        check_key("embed", cfg.url or "", cfg.key_env)
        return None
    if cfg.encoder == "minilm":
        minilm_files(cfg)
        package_folder("onnxruntime", "minilm")
        return 384
    package_folder("torch", "bge")
    package_folder("sentence_transformers", "bge")
    model = model_location(cfg)
    config, modules = Path(model) / "config.json", Path(model) / "modules.json"
    if not os.path.isfile(config):
        if model.startswith((".", "/")) and not os.path.isfile(modules):
            raise ConfigError([f"embed.model: {model} holds no config.json; give a sentence-transformers folder"])
        return None
    try:
        if os.path.isfile(modules):
            kinds = {module["type"].rpartition(".")[2] for module in json.loads(modules.read_text(encoding="utf-8"))}
            if not kinds <= {"Transformer", "Pooling", "Normalize"}:
                return None  # a Dense layer, for example, changes the dimension
        dim = json.loads(config.read_text(encoding="utf-8")).get("hidden_size")  # DistilBERT has another name for it
        return None if dim is None else int(dim)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ConfigError([_unreadable(model, error)]) from None
