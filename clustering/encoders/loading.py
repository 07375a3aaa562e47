"""The section ``embed`` in; the encoder that it names out, or what is wrong with it before any work."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from clustering.config.sections import EmbedSection
from clustering.encoders.base import Encoder, package_folder
from clustering.encoders.minilm import MiniLMEncoder, minilm_files
from clustering.encoders.static import StaticEncoder
from clustering.encoders.torch import TorchEncoder
from clustering.encoders.weights import model_location
from clustering.errors import ConfigError
from clustering.kernels.printable import one_line

CLASSES: dict[str, Callable[[EmbedSection], Encoder]] = {"static": StaticEncoder, "minilm": MiniLMEncoder}
ENGLISH_ENCODERS = ("static", "minilm")  # with the weights of their packages
ENGLISH = re.compile(r"(?i)[/_-]en([-_.]|$)|english|all-(minilm|mpnet|distilroberta)")  # in a model's name


def load_encoder(cfg: EmbedSection, commit: str | None = None) -> Encoder:
    """Load the configured encoder into this process.

    commit : of a model of the hub, see ``weights.resolve_commit``; None takes the latest of the hub or the cache
    Raises: ConfigError when its package or its files are missing or damaged.
    """
    try:
        encoder = CLASSES.get(cfg.encoder)
        return encoder(cfg) if encoder else TorchEncoder(cfg, commit)
    except (ConfigError, RuntimeError, MemoryError):  # torch raises a RuntimeError when a GPU's memory is full
        raise
    except Exception as error:  # the libraries that read weights and vocabularies raise errors of many kinds
        raise ConfigError([_unreadable(model_location(cfg) if cfg.model else cfg.encoder, error)]) from error


def _unreadable(model: str, error: Exception) -> str:
    reason = one_line(str(error), 200)
    return f"embed.model: {model} cannot be loaded: {reason}. Is a file damaged, cut off, or of another model?"


def english_only(cfg: EmbedSection) -> bool:
    """Whether the encoder is known to read English alone."""
    if cfg.encoder in ENGLISH_ENCODERS:
        return cfg.model is None
    return cfg.encoder != "bge-m3" and bool(ENGLISH.search(cfg.model or cfg.encoder))


def check_encoder(cfg: EmbedSection) -> int | None:
    """The dimension of the vectors, from small files, without loading a model; None where only the model knows it.

    Raises: ConfigError when a package or a file that the encoder needs is missing.
    """
    if cfg.encoder == "static":
        return load_encoder(cfg).dim
    if cfg.encoder == "minilm":
        minilm_files(cfg)
        package_folder("onnxruntime", "minilm")
        return 384
    package_folder("torch", "bge")
    package_folder("sentence_transformers", "bge")
    model = model_location(cfg)
    config, modules = Path(model) / "config.json", Path(model) / "modules.json"
    if not config.is_file():
        if model.startswith((".", "/")) and not modules.is_file():
            raise ConfigError([f"embed.model: {model} holds no config.json; give a sentence-transformers folder"])
        return None
    try:
        if modules.is_file():
            kinds = {module["type"].rpartition(".")[2] for module in json.loads(modules.read_text(encoding="utf-8"))}
            if not kinds <= {"Transformer", "Pooling", "Normalize"}:
                return None  # a Dense layer, for example, changes the dimension
        dim = json.loads(config.read_text(encoding="utf-8")).get("hidden_size")  # DistilBERT has another name for it
        return None if dim is None else int(dim)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ConfigError([_unreadable(model, error)]) from None
