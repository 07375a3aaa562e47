"""views.py: which value of a sweep is recommended, and what is no sweep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clustering.errors import ConfigError
from clustering.finished.views import Sweep, Tried, draw_sweep, make_view, recommend, sweep
from clustering.runs.directory import RunDir


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
        make_view(RunDir(tmp_path / "run"), "fine")
    with pytest.raises(ConfigError, match="needs a run directory on a disk"):
        make_view(RunDir("s3://bucket/run"), "fine")
