"""The packages of the wheel: the library, and cluster_configs as clustering.configs; the rest is pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["clustering*"]), "clustering.configs"],
    package_dir={"clustering.configs": "cluster_configs"},
)
