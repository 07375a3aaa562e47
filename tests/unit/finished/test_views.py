"""views.py: which value of a sweep is recommended, what is no sweep, and what a command that fails leaves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from clustering.config.loading import build_config
from clustering.errors import ConfigError
from clustering.finished.views import (
    Sweep,
    Tried,
    _make_view,
    draw_sweep,
    find_view,
    recluster_view,
    recommend,
    sweep,
)
from clustering.runs.directory import RunDir
from clustering.runs.inventory import STAGE_ARTEFACTS
from clustering.runs.parts import part_name
from clustering.runs.storage import write_table

TITLES = {"url": "https://titles.example/v1", "model": "small"}


def tried(*values: str, counts: dict[str, int] | None = None) -> list[Tried]:
    figures = {"count": 1200, "noise_share": 0.05, "largest_share": 0.1, "modularity": 0.9}
    return [
        Tried(
            value,
            RunDir(f"/runs/news-{value}"),
            {**figures, "count": (counts or {}).get(value, 1200)},
            np.zeros(3, np.int32),
        )
        for value in values
    ]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """What a command looks at before it clusters a finished run; titles that nobody has confirmed end it then."""
    run = RunDir(tmp_path / "run")
    config = build_config({"run": {"dir": str(run.path)}, "describe": {"titles": TITLES}})
    run.update_manifest(config=config.as_dict())
    for name in STAGE_ARTEFACTS:
        run.stage(name, "0" * 16, lambda: {"texts": 5})
    for name in ("texts", "vectors"):
        write_table(run / name / part_name(0), pa.table({"row": range(5)}))
    write_table(run / "labels.parquet", pa.table({"label": range(5)}))
    return RunDir(run.path)


def names(run: RunDir) -> set[str]:
    return {path.name for path in run.path.parent.iterdir()}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("agreement", "best"),
    [([0.5, 0.9], 2), ([0.9, 0.5], 0), ([0.8, 0.8], 1), ([0.801, 0.802], 1), ([0.2, 0.9, 0.9, 0.3], 2)],
)
def test_the_value_that_matters_least_is_recommended(agreement: list[float], best: int) -> None:
    values = tried(*"abcde"[: len(agreement) + 1])
    found, reason = recommend("granularity", values, agreement)
    assert found == best
    assert reason.startswith(f"granularity={'abcde'[best]}: its clusters are most like those of the values beside it")
    assert reason.endswith(f"It lies in /runs/news-{'abcde'[best]}")


def test_of_two_values_the_one_with_the_higher_modularity_is_recommended() -> None:
    values = tried("5", "500")
    values[0].figures["modularity"] = -0.17
    found, reason = recommend("granularity", values, [0.4])
    assert found == 1
    assert reason.startswith("granularity=500: its modularity is 0.900, that of the other value -0.170; only of three")
    values[0].figures["modularity"] = values[1].figures["modularity"] = None
    assert recommend("granularity", values, [0.4])[0] == 0


@pytest.mark.parametrize(
    ("agreement", "counts", "best", "says"),
    [
        ([1.0, 0.0, 0.7], {"a": 0, "b": 0}, 3, "d: its clusters are most like"),
        ([1.0, 0.0, 0.7], {"a": 1, "b": 1}, 3, "d: its clusters are most like"),
        ([0.0, 1.0], {"b": 0, "c": 1}, 0, "a: no other value gives more than one cluster. It lies in /runs/news-a"),
        ([1.0], {"a": 0, "b": 1}, None, "no value of k is recommended: none of them gives more than one cluster"),
    ],
)
def test_values_without_clusters_are_not_recommended(
    agreement: list[float], counts: dict[str, int], best: int | None, says: str, tmp_path: Path
) -> None:
    values = tried(*"abcd"[: len(agreement) + 1], counts=counts)
    found, reason = recommend("k", values, agreement)
    assert found == best
    assert says in reason
    draw_sweep(Sweep("k", values, agreement, found, reason), tmp_path / "k.png")
    assert (tmp_path / "k.png").stat().st_size > 1000


def test_the_table_has_a_line_for_each_value_and_the_picture_is_drawn(tmp_path: Path) -> None:
    found = Sweep("granularity", tried("500", "20000"), [0.75], 0, "because")
    assert found.lines() == [
        "granularity  clusters   noise  largest  modularity  like the next",
        "        500     1,200    5.0%    10.0%       0.900           0.75",
        "      20000     1,200    5.0%    10.0%       0.900",
        "because",
    ]
    draw_sweep(found, tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("setting", ["granularity", "granularity=5", "granularity=5,5", "=1,2", "a b=1,2"])
def test_what_is_no_sweep_is_refused(setting: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="write a key of cluster with several values"):
        sweep(RunDir(tmp_path), setting)


def test_a_run_that_is_not_finished_has_no_views(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no finished run"):
        find_view(RunDir(tmp_path / "run"), "fine")
    with pytest.raises(ConfigError, match="needs a run directory on a disk"):
        find_view(RunDir("s3://bucket/run"), "fine")


@pytest.mark.parametrize(
    ("setting", "words", "says"),
    [
        ("granularity=500,many", [], ["cluster.granularity"]),
        ("granularity=500,800", ["cluster.selektion=leaf"], ["selektion"]),
        ("granularity=500,800", ["search.k=9"], ["not 'search.k=9'"]),
        ("granularity=500,-1,many", [], ["got -1", "got 'many'"]),
        (f"granularity=500,{'0' * 80}1", [], ["is no name of a view"]),
    ],
)
def test_every_value_of_a_sweep_is_checked_before_a_view_is_made(
    setting: str, words: list[str], says: list[str], run: RunDir
) -> None:
    with pytest.raises(ConfigError) as refused:
        sweep(run, setting, words)
    assert all(part in str(refused.value) for part in says)
    assert names(run) == {"run"}


def test_a_view_that_was_not_clustered_is_removed_and_one_that_was_there_is_not(run: RunDir) -> None:
    place = find_view(run, "fine")
    for _ in range(2):
        with pytest.raises(ConfigError, match="has titles written by"):
            recluster_view(run, "fine", ["cluster.granularity=500"])
        assert names(run) == {"run"}
    _make_view(run, place)  # what a command that is killed leaves
    view = RunDir(place)
    assert not view.is_complete, "nobody takes the run's own labels for the view's"
    assert not (view / "labels.parquet").exists()
    assert (view / "texts" / part_name(0)).samefile(run / "texts" / part_name(0))
    with pytest.raises(ConfigError, match="has titles written by"):
        recluster_view(run, "fine", ["cluster.granularity=500"])
    assert names(run) == {"run", "run-fine"}
    assert run.is_complete


@pytest.mark.parametrize("stage", ["read", "embed", "search"])
def test_a_view_of_what_the_run_was_before_is_refused(stage: str, run: RunDir) -> None:
    place = find_view(run, "fine")
    _make_view(run, place)
    assert find_view(run, "fine") == place
    run.stage("describe", "1" * 16, lambda: {"clusters": 3})
    assert find_view(run, "fine") == place
    run.stage(stage, "1" * 16, lambda: {"texts": 5})
    with pytest.raises(
        ConfigError, match=r"run-fine is no view of \S+run as it is now: its texts, vectors or neighbors"
    ):
        recluster_view(run, "fine", [])
    assert place.exists()
