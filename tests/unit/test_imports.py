"""The rooms of the library: each has one role, imports go down only, heavy packages stay with their owners."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parents[2] / "clustering"
MODULES = sorted(LIBRARY.rglob("*.py"))
FOLDERS = sorted({path.parent for path in MODULES})
# From the ground up: a module imports its own room and those on lower floors.
FLOORS = [
    {"errors", "schema"},
    {"kernels"},
    {"config", "http_client"},
    {"text", "encoders", "estimator"},
    {"runs"},
    {"sample", "monitoring"},
    {"workers"},
    {"milvus"},
    {"sources", "viewer"},
    {"stages"},
    {"fingerprints", "preflight", "compile_ahead", "collection_lifecycle"},
    {"pipeline"},
    {"finished"},
    {"cli"},
    {"__init__"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MOST_MODULES, MOST_LINES = 12, 400
OWNERS = {
    "ray": {"workers", "monitoring.metrics"},
    "pymilvus": {"milvus"},
    "grpc": {"milvus"},
    "torch": {"encoders.torch", "encoders.packed", "encoders.triton_kernels"},
    "triton": {"encoders.triton_kernels"},
    "sentence_transformers": {"encoders.torch"},
    "onnxruntime": {"encoders.minilm"},
    "openvino": {"encoders.minilm"},
    "aiohttp": {"http_client", "encoders.openai", "text.titles"},
    "umap": {"stages.project"},
    "matplotlib": {"text.fonts", "viewer.picture", "finished.views"},
    "plotly": {"finished.results"},
}


def dotted(path: Path) -> str:
    """A module's name below clustering; a package's is that of its folder."""
    inner = path.relative_to(LIBRARY).with_suffix("").parts
    return ".".join(inner[:-1] if inner[-1] == "__init__" and len(inner) > 1 else inner)


NAMES = {dotted(path) for path in MODULES}


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it; of the library's own, the module and not the name in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            module = node.module or ""
            for alias in node.names:
                inner = f"{module}.{alias.name}".removeprefix("clustering.")
                yield f"clustering.{inner}" if inner in NAMES else module


def of_the_library(path: Path) -> set[str]:
    """Modules of clustering that a file imports, without the prefix."""
    return {name.removeprefix("clustering.") for name in imported(path) if name.startswith("clustering.")}


def room_of(module: str) -> str:
    return module.split(".")[0]


def test_the_reader_of_imports_finds_them(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    lines = ["import ray.data", "def f():", "    from clustering.kernels import topk, graph", "    import os"]
    path.write_text("\n".join([*lines, "    from clustering.stages.read import read_texts as r"]), encoding="utf-8")
    assert next(imported(path)) == "ray.data"
    assert of_the_library(path) == {"kernels.topk", "kernels.graph", "stages.read"}


def test_every_module_has_a_floor() -> None:
    assert {room_of(name) for name in NAMES} == set(FLOOR)


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_imports_go_down_only(path: Path) -> None:
    here = room_of(dotted(path))
    wrong = {
        name for name in of_the_library(path)
        if room_of(name) != here and (FLOOR[room_of(name)] >= FLOOR[here] and here != "__init__")
    }  # fmt: skip
    assert wrong == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    needs = {dotted(path): of_the_library(path) - {dotted(path)} for path in MODULES if dotted(path) != "__init__"}
    while free := {name for name, others in needs.items() if not others & needs.keys()}:
        needs = {name: others for name, others in needs.items() if name not in free}
    assert needs == {}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_a_folder_has_a_dozen_modules_at_most(folder: Path) -> None:
    assert len(list(folder.glob("*.py"))) <= MOST_MODULES


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_a_module_is_short_and_opens_with_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    assert ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("path", [path for path in MODULES if room_of(dotted(path)) == "kernels"], ids=dotted)
def test_a_kernel_knows_only_numpy_scipy_and_numba(path: Path) -> None:
    known = {"numpy", "scipy", "numba", *sys.stdlib_module_names}
    assert {name.split(".")[0] for name in imported(path) if not name.startswith("clustering.kernels")} <= known


@pytest.mark.parametrize("path", sorted((LIBRARY / "stages").glob("*.py")), ids=dotted)
def test_no_stage_imports_another(path: Path) -> None:
    assert {name for name in of_the_library(path) if name.startswith("stages.")} == set()


@pytest.mark.parametrize("package", OWNERS)
def test_a_heavy_package_stays_with_its_owners(package: str) -> None:
    users = {dotted(path) for path in MODULES if package in {name.split(".")[0] for name in imported(path)}}
    assert {name for name in users if not {name, room_of(name)} & OWNERS[package]} == set()


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_no_private_module_of_ray_is_used(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    froms = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    used = {*imported(path), *(f"{node.module}.{alias.name}" for node in froms for alias in node.names)}
    used |= set(re.findall(r"\bray(?:\.\w+)+", text))
    assert {name for name in used if re.match(r"ray\.(\w+\.)*_", name)} == set()


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_parts_of_pyarrow_are_imported_where_they_are_used(path: Path) -> None:
    """``import pyarrow`` alone brings neither; that another module has imported them is luck."""
    used = set(re.findall(r"\bpa\.(csv|fs)\.", path.read_text(encoding="utf-8")))
    assert {f"pyarrow.{name}" for name in used} <= set(imported(path))


def test_nothing_imports_the_jobs() -> None:
    assert {dotted(path) for path in MODULES if "jobs" in {name.split(".")[0] for name in imported(path)}} == set()


def loaded_by(code: str) -> set[str]:
    """Which heavy packages a fresh interpreter has loaded after some imports."""
    code += "\nimport sys; print(*({'ray', 'pymilvus', 'torch', 'hdbscan', 'umap', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_library_loads_neither_ray_nor_milvus() -> None:
    assert loaded_by("import clustering") == set()


def test_kernels_and_configuration_need_neither_ray_nor_milvus() -> None:
    names = [f"clustering.{name}" for name in NAMES if room_of(name) == "kernels"]
    code = f"import {', '.join(sorted(names))}\nfrom clustering import RunConfig, RunDir, load_config, load_graph"
    assert loaded_by(code) == set()


def test_who_embeds_without_words_spares_the_memory_of_numba() -> None:
    code = "import sys, clustering.stages.embed; print('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_everything_the_library_promises_is_there() -> None:
    import clustering

    for name in clustering.__all__:
        assert getattr(clustering, name).__name__ == name
    with pytest.raises(AttributeError, match="module 'clustering' has no attribute 'nonsense'"):
        _ = clustering.nonsense


def test_print_stays_what_numba_can_compile() -> None:
    words = "import builtins, clustering; from ray.experimental.tqdm_ray import instance; instance(); print(print)"
    said = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True).stdout
    assert said == "<built-in function print>\n"
