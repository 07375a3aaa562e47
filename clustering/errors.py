"""The errors that a caller can act on."""

from __future__ import annotations


class CoveyError(Exception):
    """Any error that Covey raises on purpose; its text gives what happened, the value, and the remedy."""


class ConfigError(CoveyError):
    """The configuration or the input is wrong (exit status 2); ``problems`` holds one line for each finding."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type, tuple[list[str]]]:
        return type(self), (self.problems,)  # Ray sends errors between processes


class InputError(ConfigError):
    """An input file cannot be read as what its name says (exit status 2)."""


class StoreError(CoveyError):
    """The vector store has wrong content, or stopped answering (exit status 1)."""


class StageError(CoveyError):
    """A stage cannot finish (exit status 1)."""
