"""Every command in the README and in docs/ is one that a test runs, or is listed as not run; links lead somewhere."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from clustering.config import load_config
from jobs.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TOOLS = ("covey", "python -m", "ray", "docker", "kubectl", "make", "pip", "pytest", "milvus-server", "aws", "export")
NOT_RUN = (ROOT / "docs/operations.md").read_text(encoding="utf-8").partition("## Commands that no test runs")[2]
# By its first words, where a command is run: a file that holds these words, or them as a list's.
RUN_IN = {
    "ray job submit": "tests/integration/test_submit.py",
    "ray job logs": "tests/integration/test_submit.py",
    "ray start": "tests/integration/test_submit.py",
    "pip install": ".ci/run",
    "pytest": ".ci/run",
    "python -m jobs": "tests/integration/test_submit.py",
    "python -m benchmarks": "benchmarks",
    "export": "tests/integration/test_submit.py",
}


def commands(text: str) -> Iterator[str]:
    """The commands in blocks of code and between backticks."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += [
        " ".join(found.split()) for found in re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    ]
    for line in lines:
        for command in re.split(r" && |; ", line):
            command = command.strip()
            if command.startswith(tuple(f"{tool} " for tool in TOOLS)) or command in ("covey", "pytest"):
                yield command


ALL = sorted({(page.name, command) for page in PAGES for command in commands(page.read_text(encoding="utf-8"))})

OURS = [(page, command) for page, command in ALL if command.startswith(("covey ", "python -m jobs."))]


def test_the_reader_of_commands_finds_them() -> None:
    text = "`covey run --config FILE` or `ray\n  up x`.\n```sh\n# note\ncovey sample --output a && pytest -q\n```\n`no`"
    assert sorted(commands(text)) == ["covey run --config FILE", "covey sample --output a", "pytest -q", "ray up x"]
    assert len(ALL) > 30


@pytest.mark.parametrize(("page", "command"), OURS)
def test_a_command_of_ours_is_understood(page: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the command's own parser, and its words by the configuration."""
    command = re.sub(r" \[.*\]$|=?\.\.\.", "", command) if " [" in command or "..." in command else command
    words = ["9" if word == "N" else word for word in shlex.split(command)]
    modules = {module: name for name, module in COMMANDS.items()}
    name, rest = (modules[words[2]], words[3:]) if words[0] == "python" else (words[1], words[2:])
    seen: list[argparse.Namespace] = []

    def parse(self: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
        given, unknown = self.parse_known_args(argv)
        assert unknown == []
        seen.append(given)
        raise KeyboardInterrupt

    if rest:
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
        with pytest.raises(KeyboardInterrupt):
            importlib.import_module(COMMANDS[name]).main(rest)
        config = getattr(seen[0], "config", None)
        load_config(ROOT / config if config and config.endswith(".yaml") else None, getattr(seen[0], "overrides", ()))


@pytest.mark.parametrize(("page", "command"), ALL)
def test_a_command_is_run_by_a_test_or_listed_as_not_run(page: str, command: str) -> None:
    first = command.split()[:3]
    if first[0] == "covey":
        tests = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
        assert len(first) == 1 or first[1] in ("COMMAND", "--help") or re.search(rf'"{first[1]}"', tests)
        return
    heads = [head for head in RUN_IN if command.startswith(head)]
    listed = [head for head in re.findall(r"`([^`]+)`", NOT_RUN) if command.startswith(" ".join(head.split()))]
    assert heads or listed, command
    for head in heads:
        place = ROOT / RUN_IN[head]
        files = place.glob("*.py") if place.is_dir() else [place]
        held = " ".join(path.read_text(encoding="utf-8") for path in files)
        assert all(word in held for word in head.split()[1:]), f"{RUN_IN[head]} does not run {head}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    folders = "cluster_configs|docker|tests|clustering|benchmarks|docs"
    named = re.findall(rf"`((?:{folders})/[\w./-]+\.\w+)`", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []
