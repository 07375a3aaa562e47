"""sample.py: generated headlines with planted stories, the same for the same seed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from sklearn.neighbors import NearestNeighbors

from clustering import sample
from clustering.config.sections import EmbedSection, ReadSection
from clustering.encoders.loading import load_encoder
from clustering.errors import ConfigError
from clustering.kernels.graph.diffusion import NeighborLists
from clustering.kernels.graph.group_sizes import count_breaks, mean_squared_distance
from clustering.runs.directory import RunDir
from clustering.runs.parts import read_columns
from clustering.sample import COPY_SHARE, LEAST, NOISE_SHARE, STORY_DAYS, write_sample
from clustering.sources.detection import find_files
from clustering.workers.graph.families import find_families, scan_texts
from clustering.workers.tasks import collect, make_pieces


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
    assert from_parquet.column_names == ["id", "title", "story", "time", "source", "url"]


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
    assert sizes.min() >= LEAST
    assert 200 < sizes.max() < 0.15 * 5000
    assert (story < 0).mean() == NOISE_SHARE


def test_a_story_has_many_wordings_over_some_days_in_many_outlets(tmp_path: Path) -> None:
    write_sample(tmp_path / "a.parquet", 5000, seed=3)
    table = pq.read_table(tmp_path / "a.parquet")
    story, source = table["story"].to_numpy(), np.array(table["source"].to_pylist())
    time = table["time"].to_numpy().astype("datetime64[s]")
    words = np.array([re.split(r" - | \| | \(", title)[0] for title in table["title"].to_pylist()])
    large = np.flatnonzero(np.bincount(story[story >= 0]) >= 80)
    assert large.size > 10
    for one in large:
        own = story == one
        assert len(set(words[own])) >= 30
        assert len(set(source[own])) >= 10
        assert 2 < np.ptp(time[own]) / np.timedelta64(1, "D") <= STORY_DAYS + 0.5
    assert np.ptp(time) / np.timedelta64(1, "D") > 20
    urls = table["url"].to_pylist()
    assert len(set(urls)) == 5000
    for url, outlet in zip(urls, source, strict=True):
        assert url.startswith(f"https://{outlet.replace(' ', '').lower()}.example/")


def test_outlets_carry_what_others_had_under_their_own_name(tmp_path: Path) -> None:
    write_sample(tmp_path / "a.parquet", 5000, seed=3)
    table = pq.read_table(tmp_path / "a.parquet")
    titles, text_story = np.unique(table["title"].to_pylist(), return_index=True)
    copies = np.ones(len(titles), np.int32)
    _, _, found, _ = find_families(make_pieces, [make_pieces(4, scan_texts, [pa.array(titles)], copies)])
    families = collect(found)
    story = table["story"].to_numpy()[text_story]
    n_families = int(families.leads.sum())
    assert 0.03 * 5000 < 5000 - len(titles) < COPY_SHARE * 5000  # the same headline to the letter
    assert 0.4 * 5000 < n_families < (1 - COPY_SHARE) * 5000  # of the wordings, some nearly agree
    held = np.unique(np.stack([families.row, story]), axis=1)
    assert held.shape[1] - n_families < 0.06 * n_families  # and hold one story
    families_of = np.bincount(held[1][held[1] >= 0])
    assert np.median(families_of[np.bincount(story[story >= 0]) >= 80]) >= 30  # no story is one family


@pytest.mark.parametrize("seed", [0, 1])
def test_lists_of_the_sample_are_like_those_of_real_headlines(
    seed: int, read_here: Callable[..., tuple[RunDir, dict[str, Any]]], tmp_path: Path
) -> None:
    """Of 6,366 real headlines, 28 % of the lists break off, and 85 % of the ten nearest are of the same story."""
    write_sample(tmp_path / "a.parquet", 3000, seed)
    cfg = ReadSection(paths=(str(tmp_path / "a.parquet"),), text_columns=("title",), id_column="id", keep=("story",))
    run, _ = read_here(cfg, near="fold")
    members, texts = (read_columns(run / name, columns) for name, columns in
                      (("members", ["row", "story"]), ("texts", ["row", "text"])))  # fmt: skip
    story = np.empty(len(texts), np.int64)
    story[members["row"].to_numpy()] = members["story"].to_numpy()
    encoded = load_encoder(EmbedSection(encoder="static")).encode(texts["text"].to_pylist())
    distances, indices = NearestNeighbors(n_neighbors=50, algorithm="brute").fit(encoded.vectors).kneighbors()
    lists = NeighborLists(np.arange(len(texts) + 1) * 50, indices.ravel(), distances.astype(np.float32).ravel())
    broken = count_breaks(lists, mean_squared_distance(encoded.vectors)).sum() / len(texts)
    assert 0.15 < broken < 0.4
    planted = story >= 0
    assert 0.8 < (story[indices[:, :10]] == story[:, None])[planted].mean() < 0.92


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
