"""The configuration of a run directory in; what a command may use of it out, because anybody may have prepared it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from clustering.config.loading import build_saved_config, load_config, override_config
from clustering.config.sections import EMBEDDED, ENCODERS, SERVED, EmbedSection, RunConfig, ServerSection, Titles
from clustering.errors import ConfigError
from clustering.runs.directory import RunDir

log = logging.getLogger("covey")


def load_run_config(run: RunDir, original: bool = False) -> RunConfig:
    """The configuration of a run.

    original : that of covey run, also where recluster has taken another since
    Raises: ConfigError when the directory holds no run.
    """
    saved = run.results.get("origin") if original else None
    saved = saved or run.results.get("config")
    if saved is None:
        raise ConfigError([f"{run.path} holds no run (no manifest.json with a configuration)"])
    return build_saved_config(saved)


ABSENT = Titles(url="https://not.given.invalid", model="-", key_env="NOT_GIVEN")  # replaces what the user has not named


def apply_overrides(
    saved: RunConfig, overrides: list[str], file: str | Path | None, trusted: bool
) -> tuple[RunConfig, bool]:
    """The saved configuration with overrides, and whether the user named each URL and secret in it.

    overrides : words such as ``cluster.min_samples=3``; file : a configuration that names the same URL
    trusted : the user said that he trusts the directory
    """
    config = override_config(saved, overrides)
    titles = config.describe.titles
    if titles is None or trusted:
        return config, True
    named = load_config(file).describe.titles if file is not None else None
    known = replace(saved, describe=replace(saved.describe, titles=_hidden(saved.describe.titles, named)))
    confirmed = override_config(known, overrides).describe.titles
    return config, confirmed is not None and (confirmed.url, confirmed.key_env) == (titles.url, titles.key_env)


def _hidden(saved: Titles | None, named: Titles | None) -> Titles | None:
    """The directory's settings of titles, with the URL and the secret's name replaced by those of the user's file."""
    if saved is None:
        return None
    known = named or ABSENT
    return replace(saved, url=known.url, key_env=known.key_env if saved.key_env or named else None)


def refuse_untrusted(config: RunConfig, location: object) -> None:
    """Raises: ConfigError with the URL and the secret's name, and how to confirm them."""
    titles = config.describe.titles
    if titles is None:
        return
    key = f" with the key in the environment variable {titles.key_env}" if titles.key_env else ""
    key_word = f" describe.titles.key_env={titles.key_env}" if titles.key_env else ""
    problem = (
        f"{location} has titles written by {titles.url}{key}, which would receive texts of the run. Say that this is "
        f"meant: --trust, or --config with the run's configuration file, or describe.titles.url={titles.url}"
        f"{key_word}; describe.titles=null does without"
    )
    raise ConfigError([problem])


def is_builtin_encoder(embed: EmbedSection) -> bool:
    """Whether the encoder is one of Covey's own, not a folder or a model that somebody named."""
    return embed.model is None and embed.encoder in ENCODERS


def _is_confirmed(embed: EmbedSection, overrides: list[str]) -> bool:
    """Whether the encoder is Covey's own, or words of the user name its model, or its server and the secret's name."""
    keys = ["encoder" if embed.model is None else "model"]
    if embed.encoder == SERVED:
        keys = ["url", "key_env"] if embed.key_env else ["url"]
    return is_builtin_encoder(embed) or all(any(word.startswith(f"embed.{key}=") for word in overrides) for key in keys)


def _unconfirmed(embed: EmbedSection) -> str:
    """What a directory would have done, and how the user says that it is meant."""
    meant = "Say that this is meant: --trust, or --config with the run's configuration file, or"
    if embed.encoder == SERVED:
        key = f" with the key in the environment variable {embed.key_env}" if embed.key_env else ""
        word = f" embed.key_env={embed.key_env}" if embed.key_env else ""
        return (
            f"has vectors from {embed.url}{key}, which would receive the new texts. {meant} embed.url={embed.url}{word}"
        )
    key = "encoder" if embed.model is None else "model"
    model = embed.model or embed.encoder
    return f"has vectors of the model {model}, which would be loaded. {meant} embed.{key}= with its name or folder"


def with_trusted_addresses(
    saved: RunConfig, overrides: list[str], file: str | Path | None, trusted: bool, location: object
) -> RunConfig:
    """The saved configuration with an encoder of Covey's own, or one that the user has named, and a store likewise.

    A server that only the directory names is not asked: the store counts as embedded, which leaves exact search.

    overrides : words of the sections embed and store; file : a configuration that names the same, such as the run's
    Raises: ConfigError for words of other sections, and for a folder or hub model that only the directory names.
    """
    wrong = [word for word in overrides if not word.startswith(("embed.", "store.uri=", "store.server."))]
    if wrong:
        takes = "keys of embed, store.uri and store.server only"
        raise ConfigError([f"assign takes {takes}, not '{word}'" for word in wrong])
    store, embed, named = saved.store, saved.embed, load_config(file) if file is not None else None
    if not trusted:  # no secret is sent that the user has not named
        store = replace(store, server=ServerSection())
    if named is not None:
        theirs, same = named.embed, (embed.encoder, embed.model) == (named.embed.encoder, named.embed.model)
        revision = theirs.revision or (embed.revision if same else None)
        embed = replace(
            embed, encoder=theirs.encoder, model=theirs.model, revision=revision, url=theirs.url, key_env=theirs.key_env
        )
        if not named.store.embedded:
            store = replace(store, uri=named.store.uri, server=named.store.server)
    known = override_config(replace(saved, store=store, embed=embed), overrides)
    if not (trusted or file is not None or _is_confirmed(known.embed, overrides)):
        raise ConfigError([f"{location} {_unconfirmed(known.embed)}"])
    names_server = named is not None and not named.store.embedded
    if trusted or names_server or any(word.startswith("store.uri=") for word in overrides) or saved.store.embedded:
        return known
    log.info(
        "%s has its vectors at %s, which is not asked unless you say so: --trust, --config with the run's "
        "configuration file, or store.uri=%s", location, saved.store.uri, saved.store.uri,
    )  # fmt: skip
    return replace(known, store=replace(known.store, uri=EMBEDDED, server=ServerSection()))
