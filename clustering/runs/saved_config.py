"""The configuration that lies in a run directory in; what of it a command may use, for anybody may have prepared it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from clustering.config.loading import build_saved_config, load_config, override_config
from clustering.config.sections import ENCODERS, EmbedSection, RunConfig, Titles
from clustering.errors import ConfigError
from clustering.runs.directory import RunDir


def load_run_config(run: RunDir) -> RunConfig:
    """The configuration that a run was made with.

    Raises: ConfigError when the directory holds no run.
    """
    saved = run.results.get("config")
    if saved is None:
        raise ConfigError([f"{run.path} holds no run (no manifest.json with a configuration)"])
    return build_saved_config(saved)


ABSENT = Titles(url="https://not.given.invalid", model="-", key_env="NOT_GIVEN")  # in place of what nobody has said


def apply_overrides(
    saved: RunConfig, overrides: list[str], file: str | Path | None, trusted: bool
) -> tuple[RunConfig, bool]:
    """The saved configuration with words laid over it, and whether each address and secret in it is the user's own.

    file : a configuration that names the same addresses, such as that of the run
    trusted : the user has said that the directory is his own
    """
    config = override_config(saved, overrides)
    titles = config.describe.titles
    if titles is None or trusted:
        return config, True
    named = load_config(file).describe.titles if file is not None else None
    known = replace(saved, describe=replace(saved.describe, titles=_hidden(saved.describe.titles, named)))
    said = override_config(known, overrides).describe.titles
    return config, said is not None and (said.url, said.key_env) == (titles.url, titles.key_env)


def _hidden(saved: Titles | None, named: Titles | None) -> Titles | None:
    """What the directory says of titles, with the address and the secret's name of a file in place of its own."""
    if saved is None:
        return None
    known = named or ABSENT
    return replace(saved, url=known.url, key_env=known.key_env if saved.key_env or named else None)


def refuse_untrusted(config: RunConfig, place: object) -> None:
    """Raises: ConfigError that shows the address and the secret's name, and how to say that they are meant."""
    titles = config.describe.titles
    if titles is None:
        return
    key = f" with the key in the environment variable {titles.key_env}" if titles.key_env else ""
    words = f"describe.titles.url={titles.url}" + (
        f" describe.titles.key_env={titles.key_env}" if titles.key_env else ""
    )
    raise ConfigError(
        [
            f"{place} has titles written by {titles.url}{key}, which would be given texts of the run. Say that this is "
            f"meant: --trust, or --config with the run's configuration file, or {words}; describe.titles=null does "
            f"without"
        ]
    )


def is_builtin_encoder(embed: EmbedSection) -> bool:
    """Whether the model is one that Covey knows by itself, not a folder or a name that somebody gave."""
    return embed.model is None and embed.encoder in ENCODERS


def with_trusted_encoder(
    saved: RunConfig, overrides: list[str], file: str | Path | None, trusted: bool, place: object
) -> RunConfig:
    """The saved configuration with an encoder that the user means: one of Covey's own, or one that he has named.

    overrides : words of section embed; file : a configuration that names the encoder, such as that of the run
    Raises: ConfigError for words of other sections, and for a folder or a model of the hub that only the directory
        names.
    """
    wrong = [word for word in overrides if not word.startswith("embed.")]
    if wrong:
        raise ConfigError([f"assign takes keys of embed only, not '{word}'" for word in wrong])
    if file is not None:
        named = load_config(file).embed
        saved = replace(saved, embed=replace(saved.embed, encoder=named.encoder, model=named.model))
    embed = override_config(saved, overrides).embed
    key = "encoder" if embed.model is None else "model"
    said = any(word.startswith(f"embed.{key}=") for word in overrides)
    if trusted or file is not None or said or is_builtin_encoder(embed):
        return replace(saved, embed=embed)
    raise ConfigError(
        [
            f"{place} has vectors of the model {embed.model or embed.encoder}, which would be loaded. Say that this is "
            f"meant: --trust, or --config with the run's configuration file, or embed.{key}= with its name or folder"
        ]
    )
