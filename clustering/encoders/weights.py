"""The section ``embed`` in; what decides an encoder's vectors out: packages, weights, commit and prompt of a model."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from clustering.config.sections import ENCODERS, SERVED, TORCH_PACKAGES, EmbedSection, EncoderPackages
from clustering.errors import ConfigError
from clustering.kernels.printable import one_line

BGE_M3 = "BAAI/bge-m3"
UNKNOWN = "unknown"  # in a manifest: a commit that could not be found out
HUB_TIMEOUT_S = 5
COMMIT = re.compile("[0-9a-f]{40}")
E5 = re.compile("(?i)(?:^|[_-])e5(?:[_-]|$)")  # in a model's name
MOST_HEADER_BYTES = 100_000_000  # of a safetensors file, by its format
STATIC_FILES = [f"{folder}{name}" for folder in ("", "0_StaticEmbedding/") for name in (
    "config.json", "model.safetensors", "tokenizer.json")]  # fmt: skip


def hub_name(cfg: EmbedSection) -> str | None:
    """The name on the hub of the model that is loaded; None where the weights lie in a folder or a package."""
    if cfg.encoder == SERVED or (_packages(cfg).weights and (cfg.model is None or cfg.encoder == "minilm")):
        return None
    name = model_location(cfg)
    return None if os.path.isdir(name) else name


def hub_key(cfg: EmbedSection) -> str | None:
    """The hub model with the revision that is asked for, as a manifest names it; None for other models."""
    name = hub_name(cfg)
    return f"{name}@{cfg.revision}" if name and cfg.revision else name


def model_location(cfg: EmbedSection) -> str:
    """The folder or the name of the model whose weights are loaded; ~ is this user's home, as in ``run.dir``."""
    return os.path.expanduser(cfg.model or (BGE_M3 if cfg.encoder == "bge-m3" else cfg.encoder))


def model_folder(cfg: EmbedSection, commit: str | None = None) -> Path:
    """The folder of ``embed.model``; the files of a static model of the hub are downloaded to this machine's cache.

    Raises: ConfigError where there is neither a folder nor such a model.
    """
    name = model_location(cfg)
    if os.path.isdir(name):
        return Path(name)
    if name.startswith((".", "/")) or name.count("/") != 1:
        raise ConfigError([f"embed.model: {name} is no folder here, and no name of a model of the hub (owner/model)"])
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, revision=commit or cfg.revision, allow_patterns=STATIC_FILES))


def encoder_fingerprint(cfg: EmbedSection, commit: str | None = None) -> dict[str, Any]:
    """What the vectors of an encoder depend on, ready for JSON: the encoder's share of a run's fingerprint.

    commit : of a model of the hub, see ``resolve_commit``
    """
    # A run without these keeps the fingerprint that it had before there were such keys.
    keys = {"prompt": cfg.prompt, "dimensions": cfg.dimensions, "lexical": cfg.words_share}
    further = {key: value for key, value in keys.items() if value}
    if cfg.encoder == SERVED:  # the same host may be reached with and without encryption
        address = embeddings_url(cfg.url or "").partition("://")[2]
        return {"kind": SERVED, "address": address, "model": cfg.model, **further, "max_tokens": cfg.max_tokens}
    (libraries, packages, optional), name = _packages(cfg), hub_name(cfg)
    kind = cfg.encoder if packages else "torch"
    if name is not None:
        weights: dict[str, Any] = {"name": name, "commit": commit}
        if cfg.revision and commit is None:
            weights["revision"] = cfg.revision
    elif packages and not cfg.model:
        weights = {package: _version(package) for package in packages}
    else:
        weights = _folder_fingerprint(model_location(cfg))
    libraries += tuple(library for library in optional if _version(library))
    versions = {library: _version(library, 2) for library in libraries}
    of_auto = "auto" if cfg.gpus_per_actor else "float32"
    dtype = {} if packages else {"dtype": of_auto if cfg.dtype == "auto" else cfg.dtype}
    return {"kind": kind, **dtype, **versions, **weights, **further, "max_tokens": cfg.max_tokens}


def embeddings_url(url: str) -> str:
    """The address that takes requests, for a URL that ends with it or before it."""
    url = url.rstrip("/")
    return url if url.endswith("/embeddings") else f"{url}/embeddings"


def _packages(cfg: EmbedSection) -> EncoderPackages:
    return ENCODERS.get(cfg.encoder, TORCH_PACKAGES)


def _version(package: str, numbers: int | None = None) -> str | None:
    try:
        return ".".join(importlib.metadata.version(package).split(".")[:numbers])
    except importlib.metadata.PackageNotFoundError:
        return None


def _folder_fingerprint(model: str) -> dict[str, Any]:
    """Names, sizes and times of the files of a local model, and digests of the headers of its safetensors files.

    Other weights, or another tokenizer or pooling, in the same folder change them. The folder's own name does not
    count, nor do Markdown files and hidden ones, which download tools write.
    """
    root, files = Path(model), []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        hidden = any(part.startswith(".") for part in name.parts)
        if path.is_file() and not hidden and name.suffix != ".md":
            state = path.stat()
            header = [_header_digest(path)] if name.suffix == ".safetensors" else []
            files.append([name.as_posix(), state.st_size, state.st_mtime_ns, *header])
    return {"files": files}


def _header_digest(path: Path) -> str:
    """A digest of the names, types and shapes of the tensors in a safetensors file; of a damaged file of what is there.

    Source: github.com/huggingface/safetensors: 8 bytes with the header's length, then the header.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return hashlib.sha256(file.read(min(size, MOST_HEADER_BYTES))).hexdigest()[:32]


def model_prompt(cfg: EmbedSection, commit: str | None = None) -> str:
    """The text that is put before each text: ``embed.prompt``, or else what the model wants, which is mostly nothing.

    A model wants the default prompt that its files name. E5, known by its name or by its prompt for queries, wants
    ``query: ``, except for its kinds that follow instructions. A model of the hub is asked for its files only when
    its commit is known.
    Raises: ConfigError when the hub does not tell.
    Source: huggingface.co/intfloat/multilingual-e5-large, whose authors want the prompt for clustering, too.
    """
    if cfg.prompt is not None:
        return cfg.prompt
    if cfg.encoder in ("static", "bge-m3") or (_packages(cfg).weights and not cfg.model):
        return ""
    settings = _model_json(cfg, commit, "config_sentence_transformers.json")
    prompts = settings.get("prompts")
    prompts = prompts if isinstance(prompts, dict) else {}
    default = prompts.get(str(settings.get("default_prompt_name")))
    if isinstance(default, str):
        return default
    paths = [model_location(cfg), str(_model_json(cfg, commit, "config.json").get("_name_or_path", ""))]
    is_e5 = any(E5.search(name) and "instruct" not in name.lower() for name in (Path(path).name for path in paths))
    return "query: " if is_e5 or prompts.get("query") == "query: " else ""


def _model_json(cfg: EmbedSection, commit: str | None, file: str) -> dict[str, Any]:
    """A file of settings of a model; empty where there is none. Raises: ConfigError when the hub does not answer."""
    name = hub_name(cfg)
    if cfg.encoder == SERVED or (name and not commit):
        return {}
    try:
        if name and commit:
            text = _hub_text(full_name(name), commit, file)
        else:
            text = (Path(model_location(cfg)) / file).read_text(encoding="utf-8")
        found = json.loads(text)
    except (ValueError, RecursionError):  # a damaged file is told when the model is loaded
        return {}
    except Exception as error:  # the hub's client raises errors of many kinds
        if name is None:  # there is no such file
            return {}
        raise ConfigError([
            f"embed.prompt: whether {name} wants a text before each text stands in its file {file}, and the hub does "
            f"not give it ({one_line(str(error), 200)}); start again when it does, or set embed.prompt ('' for none)"
        ]) from error  # fmt: skip
    return found if isinstance(found, dict) else {}


def _hub_text(name: str, commit: str, file: str) -> str:
    """A small file of a model, "{}" where it has none: from this machine's cache, or else from the hub.

    Raises: an error of the hub's client.
    """
    from huggingface_hub import get_session, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    cached = try_to_load_from_cache(name, file, revision=commit)
    if isinstance(cached, str):
        return Path(cached).read_text(encoding="utf-8")
    if cached is not None or is_cached(name, commit):  # whoever loaded the model found no such file
        return "{}"
    url = hf_hub_url(name, file, revision=commit)
    response = get_session().get(url, headers=build_hf_headers(), timeout=HUB_TIMEOUT_S)
    if response.status_code == HTTPStatus.NOT_FOUND:
        return "{}"
    response.raise_for_status()
    return str(response.text)


def full_name(name: str) -> str:
    """A name on the hub with its owner, as sentence-transformers completes it."""
    return name if "/" in name else f"sentence-transformers/{name}"


def is_cached(name: str, commit: str) -> bool:
    """Whether the weights of a model of the hub lie in this machine's cache. name : with its owner, or without"""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE) / f"models--{full_name(name).replace('/', '--')}" / "snapshots" / commit
    return any(folder.glob("**/*.safetensors")) or any(folder.glob("**/*.bin"))


def resolve_commit(name: str, known: str | None = None, revision: str | None = None) -> str | None:
    """The commit of a model of the hub: the known one, else that of this machine's cache, else the hub's latest.

    So a run keeps its commit, whether or not the hub answers or the cache has moved on. All workers load this commit.
    known : the commit that an earlier start found, UNKNOWN where it found none, see ``recorded_commit``
    revision : a branch, tag or commit in the place of the latest
    Returns: None where it cannot be found out, for example without the packages or the network.
    Raises: ConfigError when the hub has no such revision.
    """
    if revision and COMMIT.fullmatch(revision):
        return revision
    if known not in (None, UNKNOWN):
        return known
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.constants import HF_HUB_CACHE
        from huggingface_hub.errors import RevisionNotFoundError
    except ImportError:
        return None
    for one in dict.fromkeys([name, full_name(name)]):  # as sentence-transformers looks it up
        refs = Path(HF_HUB_CACHE) / f"models--{one.replace('/', '--')}" / "refs"
        reference = refs / (revision or "main")
        if reference.is_file():
            return reference.read_text(encoding="utf-8").strip()
    if known == UNKNOWN:
        return None
    try:
        return HfApi().model_info(full_name(name), revision=revision, timeout=HUB_TIMEOUT_S).sha
    except RevisionNotFoundError:
        raise ConfigError([
            f"embed.revision={revision}: {full_name(name)} has no such commit, branch or tag on the hub"
        ]) from None  # fmt: skip
    except Exception:  # the hub's client raises errors of many kinds when the hub is out of reach
        return None


def recorded_commit(key: str, *versions: Mapping[str, str] | None) -> str | None:
    """The commit of a model (or UNKNOWN) by the first entry ``versions`` of a manifest that has one; else None.

    key : see ``hub_key``
    """
    found = [entry[key] for entry in versions if entry and key in entry]
    return next((one for one in found if one == UNKNOWN or COMMIT.fullmatch(one)), None)
