"""sample.py: generated headlines with planted stories, the same for the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from clustering import sample
from clustering.config.sections import ReadSection
from clustering.errors import ConfigError
from clustering.sample import COPY_SHARE, NOISE_SHARE, write_sample
from clustering.sources.detection import find_files


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_the_same_seed_gives_the_same_file(ending: str, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.{ending}" for number in range(3)]
    for path, seed in zip(files, (1, 1, 2), strict=True):
        write_sample(path, 500, seed)
    one, same, other = (path.read_bytes() for path in files)
    assert one == same
    assert one != other


def test_a_sample_goes_where_a_uri_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_sample(f"file://{tmp_path}/a%20b.csv", 5)
    assert [path.name for path in tmp_path.iterdir()] == ["a b.csv"]


def test_csv_and_parquet_hold_the_same_rows(tmp_path: Path) -> None:
    for name in ("a.csv", "a.parquet"):
        write_sample(tmp_path / name, 700, seed=5)
    from_csv, from_parquet = pyarrow.csv.read_csv(tmp_path / "a.csv"), pq.read_table(tmp_path / "a.parquet")
    assert from_csv.to_pydict() == from_parquet.to_pydict()
    assert from_parquet.column_names == ["id", "title", "story"]


@pytest.mark.parametrize("n_texts", [1, 2, 10, 999])
def test_there_are_as_many_headlines_as_asked_for(n_texts: int, tmp_path: Path) -> None:
    figures = write_sample(tmp_path / "a.parquet", n_texts)
    table = pq.read_table(tmp_path / "a.parquet")
    assert figures["records"] == len(table) == n_texts
    assert len(set(table["id"].to_pylist())) == n_texts
    assert all(title.strip() == title != "" for title in table["title"].to_pylist())


def test_stories_have_the_planted_sizes(tmp_path: Path) -> None:
    figures = write_sample(tmp_path / "a.parquet", 5000, seed=3)
    story = pq.read_table(tmp_path / "a.parquet")["story"].to_numpy()
    sizes = np.bincount(story[story >= 0])
    assert len(sizes) == figures["stories"] > 50
    assert sizes.min() >= 5
    assert sizes.max() <= 500
    assert (story < 0).mean() == pytest.approx(NOISE_SHARE, abs=0.09)  # the last story may run over


def test_some_headlines_are_exact_copies_within_their_story(tmp_path: Path) -> None:
    write_sample(tmp_path / "a.parquet", 5000, seed=3)
    table = pq.read_table(tmp_path / "a.parquet")
    story_of: dict[str, set[int]] = {}
    for title, story in zip(table["title"].to_pylist(), table["story"].to_pylist(), strict=True):
        story_of.setdefault(title, set()).add(story)
    assert len(table) - len(story_of) >= COPY_SHARE * len(table) / 2
    assert max(map(len, story_of.values())) <= 2


def test_headlines_of_a_story_share_words_that_others_lack(tmp_path: Path) -> None:
    write_sample(tmp_path / "a.parquet", 2000, seed=0)
    table = pq.read_table(tmp_path / "a.parquet")
    story = table["story"].to_numpy()
    words = [set(title.lower().split()) for title in table["title"].to_pylist()]
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, len(words), (20_000, 2))
    pairs = pairs[(pairs[:, 0] != pairs[:, 1]) & (story[pairs[:, 0]] >= 0)]
    overlap = np.array([len(words[a] & words[b]) / len(words[a] | words[b]) for a, b in pairs])
    same = story[pairs[:, 0]] == story[pairs[:, 1]]
    assert overlap[same].mean() > 5 * overlap[~same].mean()


def test_blocks_repeat_no_story_and_no_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "BLOCK", 1000)
    figures = write_sample(tmp_path / "a.parquet", 2500, seed=1)
    table = pq.read_table(tmp_path / "a.parquet")
    story = table["story"].to_numpy()
    blocks = [set(story[start : start + 1000].tolist()) - {-1} for start in (0, 1000, 2000)]
    assert len(set().union(*blocks)) == sum(map(len, blocks)) == figures["stories"]
    assert len(set(table["id"].to_pylist())) == 2500
    titles = table["title"].to_pylist()
    assert len(set(titles[:1000]) & set(titles[1000:2000])) < 10


@pytest.mark.parametrize("name", ["a.json", "a", "a.csv.gz"])
def test_another_ending_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"{name}: the ending says the format; use \.csv or \.parquet"):
        write_sample(tmp_path / name, 10)
    assert list(tmp_path.iterdir()) == []


def test_a_uri_is_no_folder_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It left the sample in ./s3:/bucket and said that all was well."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="a bucket knows no steps"):
        write_sample("s3://bucket/../a.csv", 10)
    write_sample(f"file://{tmp_path}/b.csv", 10)
    assert [path.name for path in tmp_path.iterdir()] == ["b.csv"]


@pytest.mark.parametrize("n_texts", [0, -5])
def test_no_headlines_at_all_are_refused(n_texts: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"--texts {n_texts}: at least 1 is needed"):
        write_sample(tmp_path / "a.csv", n_texts)


def test_a_sample_is_an_input(tmp_path: Path) -> None:
    write_sample(tmp_path / "a.csv", 20)
    cfg = ReadSection(paths=(str(tmp_path / "a.csv"),), text_columns=("title",), id_column="id")
    assert [file.name for file in find_files(cfg)] == ["a.csv"]
