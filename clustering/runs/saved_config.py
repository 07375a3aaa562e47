"""The configuration of a run directory in; what a command may use of it out, because anybody may have prepared it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from clustering.config.loading import build_saved_config, load_config, override_config
from clustering.config.sections import ENCODERS, EmbedSection, RunConfig, Titles
from clustering.errors import ConfigError
from clustering.runs.directory import RunDir


def load_run_config(run: RunDir) -> RunConfig:
    """The configuration of a run.

    Raises: ConfigError when the directory holds no run.
    """
    saved = run.results.get("config")
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


def with_trusted_encoder(
    saved: RunConfig, overrides: list[str], file: str | Path | None, trusted: bool, location: object
) -> RunConfig:
    """The saved configuration with an encoder of Covey's own, or one that the user has named.

    overrides : words of section embed; file : a configuration that names the encoder, such as the run's
    Raises: ConfigError for words of other sections, and for a folder or hub model that only the directory names.
    """
    wrong = [word for word in overrides if not word.startswith("embed.")]
    if wrong:
        raise ConfigError([f"assign takes keys of embed only, not '{word}'" for word in wrong])
    if file is not None:
        named = load_config(file).embed
        saved = replace(saved, embed=replace(saved.embed, encoder=named.encoder, model=named.model))
    embed = override_config(saved, overrides).embed
    key = "encoder" if embed.model is None else "model"
    confirmed = any(word.startswith(f"embed.{key}=") for word in overrides)
    if trusted or file is not None or confirmed or is_builtin_encoder(embed):
        return replace(saved, embed=embed)
    problem = (
        f"{location} has vectors of the model {embed.model or embed.encoder}, which would be loaded. Say that this is "
        f"meant: --trust, or --config with the run's configuration file, or embed.{key}= with its name or folder"
    )
    raise ConfigError([problem])
