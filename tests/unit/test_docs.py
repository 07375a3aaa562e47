"""Commands on the pages are run by a test or listed as not run; links lead somewhere; docs/api.md is true."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import shlex
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import clustering
from clustering import schema
from clustering.cli.configuration import SETTING
from clustering.cli.main import COMMANDS, main, parse_words
from clustering.config.loading import load_config
from tests.unit.test_imports import FLOOR, LIBRARY, room_of

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md"), reverse=True), *sorted((ROOT / "docs").rglob("*.md"))]  # README.md first
TOOLS = ("covey", "python -m", "ray", "docker", "kubectl", "make", "pip", "pytest", "milvus-server", "aws", "export")
NOT_RUN = (ROOT / "docs/operations.md").read_text(encoding="utf-8").partition("## Commands that no test runs")[2]
# By its first words, how a command is run: words that follow each other in a call or a list of a test.
RUN_AS = {
    "ray job submit": ["tool", "job", "submit"],
    "ray job logs": ["tool", "job", "logs"],
    "ray start --head": ["start", "--head"],
    "python -m jobs.cluster_texts": ["-m", "jobs.cluster_texts"],
    "export RAY_AUTH_MODE=token": ["RAY_AUTH_MODE", "token"],
}

SCRIPTS = {
    f"jobs.{path.stem}": re.findall(r"``covey (\w+)``", path.read_text(encoding="utf-8"))[0]
    for path in (ROOT / "jobs").glob("[a-z]*.py")
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
def test_a_command_of_ours_is_understood(page: str, command: str) -> None:
    """By the command's own parser, and its words by the configuration."""
    command = re.sub(r" \[.*\]$|=?\.\.\.", "", command) if " [" in command or "..." in command else command
    words = ["9" if word == "N" else word for word in shlex.split(command)]
    name, rest = (SCRIPTS[words[2]], words[3:]) if words[0] == "python" else (words[1], words[2:])
    if rest:
        args = parse_words([name, *rest])
        config = getattr(args, "config", None)
        settings = filter(SETTING.match, getattr(args, "overrides", ()))
        load_config(ROOT / config if config and config.endswith(".yaml") else None, settings)


def words_of(node: ast.AST) -> list[object]:
    """The words of a call (its name first), a list or a dict; None for each that is not written out."""
    if isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else None
        first = node.args[0].elts if node.args and isinstance(node.args[0], ast.List) else node.args
        return [name, *(getattr(word, "value", None) for word in first)]
    if isinstance(node, ast.Dict):
        return [getattr(word, "value", None) for pair in zip(node.keys, node.values, strict=True) for word in pair]
    return [getattr(word, "value", None) for word in node.elts] if isinstance(node, ast.List) else []


def run_by_ci(script: str, readme: str) -> list[str]:
    """The commands of the script, and those under the README's headings that it names."""
    lines = [line.strip() for line in script.splitlines()]
    for heading in re.findall(r"\(readme '(.+?)'\)", script):
        lines += re.findall(rf"^# {heading}\n(.*)", readme, re.MULTILINE)
    return [part for line in lines for part in line.split(" && ")]


RUN = [words_of(node) for path in (ROOT / "tests").rglob("test_*.py") if path.name != "test_docs.py"
       for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]  # fmt: skip
RUN_BY_CI = run_by_ci((ROOT / ".ci/run").read_text(encoding="utf-8"), PAGES[0].read_text(encoding="utf-8"))


def is_run(command: str, run: list[list[object]], run_by_ci: list[str]) -> bool:
    first = command.split()[:2]
    if first in (["covey"], ["covey", "COMMAND"], ["covey", "--help"], ["covey", "--version"]):
        return True
    if first[0] == "covey":
        scripts = [["-m", script] for script, name in SCRIPTS.items() if name == first[1]]
        forms = [["covey", first[1]], ["main", first[1]], ["main_of", first[1]], *scripts]
    else:
        forms = [words for head, words in RUN_AS.items() if command.startswith(head)]
    held = any(words[at : at + len(form)] == form for form in forms for words in run for at in range(len(words)))
    tool = first[: 1 if first[0] == "pytest" else 2]
    return held or any(line.split()[: len(tool)] == tool for line in run_by_ci)


def is_listed(command: str, listed: str) -> bool:
    return any(command.startswith(" ".join(head.split())) for head in re.findall(r"`([^`]+)`", listed))


@pytest.mark.parametrize(("page", "command"), ALL)
def test_a_command_is_run_by_a_test_or_listed_as_not_run(page: str, command: str) -> None:
    assert is_run(command, RUN, RUN_BY_CI) or is_listed(command, NOT_RUN)


def test_a_command_that_is_only_mentioned_does_not_pass_for_run() -> None:
    test = """
    def test_one(covey):
        \"\"\"As ``covey("plan")`` says.\"\"\"
        status = "status"  # main(["assign"])
        covey("run", *words)
        main(["evaluate", "--run", run])
        tool("job", "submit", "--", "true")
        [python, "-m", "jobs.recluster"]
    """
    run = [words_of(node) for node in ast.walk(ast.parse(textwrap.dedent(test)))]
    commands = [f"covey {name}" for name in COMMANDS] + [
        "ray job submit x",
        "ray job logs x",
        "pip install a",
        "pytest",
    ]
    found = [command for command in commands if is_run(command, run, ["pip install -q b", "echo pytest"])]
    assert found == ["covey run", "covey recluster", "covey evaluate", "ray job submit x", "pip install a"]
    assert not is_listed("make lock", "`make audit` and make lock")
    assert not is_run("python -m benchmarks.graph_to_labels", RUN, RUN_BY_CI)


def test_benchmarks_that_are_named_exist() -> None:
    named = {name for _, command in ALL for name in re.findall(r"python -m (benchmarks\.\w+)", command)}
    assert len(named) > 5
    assert [name for name in named if not (ROOT / f"{name.replace('.', '/')}.py").exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    folders = "cluster_configs|docker|tests|clustering|benchmarks|docs"
    named = re.findall(rf"`((?:{folders})/[\w./-]+\.\w+)`", text)
    rooms = "|".join(room for room in FLOOR if (LIBRARY / room).is_dir())
    named += [f"clustering/{name}.py" for name in re.findall(rf"`((?:{rooms})/[\w/]*\w)`", text)]
    assert [name for name in named if not (ROOT / name).exists()] == []


PLANS = re.findall(
    r"```text\n(.*?)```", (ROOT / "docs/operations.md").read_text(encoding="utf-8").partition("## What a run needs")[2],
    re.DOTALL,
)[:2]  # fmt: skip


@pytest.mark.parametrize(("texts", "nodes", "page"), [(100_000_000, 16, 0), (10_000_000, 4, 1)])
def test_the_plans_on_the_page_are_those_of_the_commands_above_them(
    texts: int, nodes: int, page: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    words = f"--texts {texts} --config cluster_configs/gpu.yaml --nodes {nodes} --cpus 16 --memory 64GiB --gpus 1"
    assert main(["plan", *words.split()]) == 0
    assert PLANS[page] == capsys.readouterr().out, "paste the plan's output again"


def rows_under(page: str, heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    part = (ROOT / page).read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_api_page_has_the_columns_of_the_results() -> None:
    schemas = {"labels": schema.LABELS, "clusters": schema.CLUSTERS, "layers": schema.LAYERS, "tree": schema.TREE,
               "families": schema.FAMILIES, "assignment": schema.ASSIGNMENT}  # fmt: skip
    rows = {row[0]: row[2].partition(";")[0] for row in rows_under("docs/api.md", "Runs") if len(row) == 3}
    listed = {name: re.findall(r"`(\w+)`", rows[f"`{name}.parquet`"]) for name in schemas}
    assert listed == {name: of.names for name, of in schemas.items()}


def test_the_table_of_rooms_names_each_from_the_top_down() -> None:
    floors = [[FLOOR[room_of(name)] for name in re.findall(r"`(?:clustering/)?(\w+)[/.`]", first)]
              for first, *_ in rows_under("docs/architecture.md", "Rooms")]  # fmt: skip
    assert {floor for row in floors for floor in row} == set(FLOOR.values())
    assert [min(row) for row in floors] == sorted((min(row) for row in floors), reverse=True)


def test_ten_changes_touch_files_that_exist() -> None:
    rows = rows_under("CONTRIBUTING.md", "Ten changes and the files they touch")
    assert len(rows) == 10
    named = [name for row in rows for name in re.findall(r"`([\w/.]+\.(?:py|json))`", row[1])]
    known = [root / name for name in named for root in (ROOT, ROOT / "clustering") if (root / name).exists()]
    assert len(known) == len(named)


def test_the_commit_hooks_have_the_linter_of_the_project() -> None:
    pinned = re.findall(r"ruff==[\d.]+", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    hooks = re.findall(r"ruff==[\d.]+", (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert set(hooks) == set(pinned) != set()


def definitions() -> dict[str, ast.FunctionDef | ast.ClassDef]:
    """What docs/api.md defines in its blocks of Python, by name."""
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    nodes = [node for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) for node in ast.parse(block).body]
    return {node.name: node for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}


DEFINED = definitions()


def same_form(function: Callable[..., Any]) -> str:
    """The signature as ``ast`` writes it; annotations are those of the source, without quotes."""
    signature = inspect.signature(function)
    strings = [param.replace(annotation=inspect._empty) for param in signature.parameters.values()]
    bare = str(inspect.Signature(strings))
    node = ast.parse(f"def f{bare}: ...").body[0]
    assert isinstance(node, ast.FunctionDef)
    several = [arg for arg in (node.args.vararg, node.args.kwarg) if arg]
    for arg in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, *several]:
        annotation = signature.parameters[arg.arg].annotation
        if annotation is not inspect._empty:
            arg.annotation = ast.parse(annotation, mode="eval").body
    return f"({ast.unparse(node.args)}) -> {ast.unparse(ast.parse(signature.return_annotation, mode='eval'))}"


def written_form(node: ast.FunctionDef) -> str:
    assert node.returns is not None
    return f"({ast.unparse(node.args)}) -> {ast.unparse(node.returns)}"


def test_the_api_page_defines_what_the_library_promises() -> None:
    assert set(DEFINED) == set(clustering.__all__)


@pytest.mark.parametrize("name", sorted(DEFINED))
def test_the_api_page_has_the_real_signatures(name: str) -> None:
    node, real = DEFINED[name], getattr(clustering, name)
    if isinstance(node, ast.FunctionDef):
        assert written_form(node) == same_form(real)
        return
    assert [base.__name__ for base in real.__bases__] == [ast.unparse(base) for base in node.bases] or not node.bases
    for part in node.body:
        if isinstance(part, ast.FunctionDef):
            found = inspect.getattr_static(real, part.name)
            assert isinstance(found, property) == bool(part.decorator_list)
            assert written_form(part) == same_form(found.fget if isinstance(found, property) else found)
    fields = {
        ast.unparse(part.target): ast.unparse(part.annotation) for part in node.body if isinstance(part, ast.AnnAssign)
    }
    if fields:
        assert fields == {field.name: field.type for field in dataclasses.fields(real)}
