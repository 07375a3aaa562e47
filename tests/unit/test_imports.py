"""Imports go down only: jobs, pipeline, stages, kernels; heavy packages stay in the modules that need them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parents[2] / "clustering"
KERNELS = sorted((LIBRARY / "kernels").glob("*.py"))
MODULES = sorted(LIBRARY.rglob("*.py"))
STAGES = ["read", "embed", "store", "search", "graph", "forest", "cluster", "describe", "project", "plot", "report"]
SHARED = ["config", "typed", "schema", "errors", "storage", "inventory", "locks", "manifest", "rundir"]
OWNERS = {
    "pymilvus": {"milvus", "patience", "wire", "store", "index", "bulk", "collection"},
    "grpc": {"milvus", "patience"},
    "torch": {"encoders", "packed", "packed_triton"},
    "triton": {"packed_triton"},
    "sentence_transformers": {"encoders"},
    "onnxruntime": {"encoders"},
    "umap": {"project"},
    "matplotlib": {"fonts", "plot"},
    "plotly": {"plot"},
}


def imported(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def of_the_library(path: Path) -> set[str]:
    """Modules of clustering that a file imports, without the prefix."""
    parts = [name.split(".") for name in imported(path) if name.startswith("clustering.")]
    return {part[1] for part in parts}


def test_the_reader_of_imports_finds_them(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("import ray.data\ndef f():\n    from clustering import graph, read as r\n", encoding="utf-8")
    assert imported(path) == {"ray.data", "clustering", "clustering.stages.graph", "clustering.stages.read"}
    assert of_the_library(path) == {"graph", "read"}


def test_there_are_modules_to_check() -> None:
    assert {path.stem for path in MODULES} >= {*STAGES, *SHARED, "topk", "forest"}


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_a_kernel_knows_only_numpy_scipy_and_numba(path: Path) -> None:
    outside = {
        name for name in imported(path)
        if name.split(".")[0] not in {"numpy", "scipy", "numba", *sys.stdlib_module_names}
        and not name.startswith("clustering.kernels")
    }  # fmt: skip
    assert outside == set()


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_imports_another(stage: str) -> None:
    assert of_the_library(LIBRARY / f"{stage}.py") & set(STAGES) == set()


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_imports_the_pipeline_or_a_job(stage: str) -> None:
    path = LIBRARY / f"{stage}.py"
    assert "pipeline" not in of_the_library(path)
    assert not {name for name in imported(path) if name.split(".")[0] == "jobs"}


@pytest.mark.parametrize("name", SHARED)
def test_what_all_share_knows_no_stage_and_no_ray(name: str) -> None:
    path = LIBRARY / f"{name}.py"
    assert of_the_library(path) <= {*SHARED, "kernels"}
    assert not {one for one in imported(path) if one.split(".")[0] in ("ray", "pymilvus")}


@pytest.mark.parametrize("package", OWNERS)
def test_a_heavy_package_stays_with_its_owners(package: str) -> None:
    users = {path.stem for path in MODULES if any(name.split(".")[0] == package for name in imported(path))}
    assert users <= OWNERS[package]


def loaded_by(code: str) -> set[str]:
    """Which heavy packages a fresh interpreter has loaded after some imports."""
    code += "\nimport sys; print(*({'ray', 'pymilvus', 'torch', 'hdbscan', 'umap', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_library_loads_neither_ray_nor_milvus() -> None:
    assert loaded_by("import clustering") == set()


def test_kernels_and_configuration_need_neither_ray_nor_milvus() -> None:
    names = [f"clustering.kernels.{path.stem}" for path in KERNELS if path.stem != "__init__"]
    code = f"import {', '.join(names)}\nfrom clustering import RunConfig, RunDir, load_config, load_graph"
    assert loaded_by(code) == set()


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
