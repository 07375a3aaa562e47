"""configuration.py and keys: what files and settings on a command line mean, and what settings there are."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clustering.cli.configuration import build_from_words
from clustering.cli.main import main
from clustering.config.loading import load_config
from clustering.config.reference import list_keys
from clustering.errors import ConfigError
from clustering.runs.directory import RunDir

ROWS = ["key,headline,when,outlet,href,desk"] + [
    f"k{n},Town {n} is shaken by the strongest quake of year {n},2024-05-{n % 28 + 1:02d},Post,https://x.example/{n},sport"
    for n in range(40)
]


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """The messages of Covey's log."""
    messages: list[str] = []
    handler, log = logging.Handler(), logging.getLogger("covey")
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield messages
    log.removeHandler(handler)
    log.setLevel(level)


@pytest.fixture
def news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "My news.csv.d").mkdir()
    path = tmp_path / "my news.csv"
    path.write_text("\n".join(ROWS), "utf-8")
    return path


def test_a_file_alone_is_clustered_with_what_it_has(news: Path, logged: list[str]) -> None:
    config = build_from_words(None, ["my news.csv"])
    read = config.read
    assert (read.paths, read.text_columns, read.id_column) == (("my news.csv",), ("headline",), "key")
    assert (read.time_column, read.source_column, read.link_column, read.keep) == ("when", "outlet", "href", ("desk",))
    assert config.run.dir == "runs/my_news"
    assert (config.embed, config.store, config.search) == (
        (laptop := load_config("laptop")).embed, laptop.store, laptop.search
    )  # fmt: skip
    assert logged == [
        "columns: text: headline; id: key; time: when; source: outlet; link: href; kept: desk"
    ]  # fmt: skip


def test_settings_come_before_what_is_found(news: Path) -> None:
    words = ["my news.csv", "read.id_column=null", "read.text_columns=[desk, headline]", "read.keep=[]", "search.k=70"]
    config = build_from_words(None, [*words, "run.dir=here"])
    assert (config.read.id_column, config.read.text_columns, config.read.keep) == (None, ("desk", "headline"), ())
    assert (config.read.time_column, config.search.k, config.run.dir) == ("when", 70, "here")


def test_a_scale_of_times_is_taken_where_a_column_of_times_is_found(news: Path) -> None:
    config = build_from_words(None, ["my news.csv", "cluster.time_scale=2"])
    assert (config.read.time_column, config.time_scale) == ("when", 2.0)
    news.write_text(news.read_text("utf-8").replace("when", "note").replace("2024-05-", "note "), "utf-8")
    with pytest.raises(ConfigError, match=r"cluster\.time_scale=2, but read\.time_column is not given; set it to none"):
        build_from_words(None, ["my news.csv", "cluster.time_scale=2"])


def test_with_a_configuration_files_take_the_place_of_its_own(news: Path) -> None:
    config = build_from_words("tutorial", ["my news.csv", "other.csv", "search.k=90"])
    assert config.read.paths == ("my news.csv", "other.csv")
    assert config.read.text_columns == load_config("tutorial").read.text_columns
    assert config.search.k == 90
    with pytest.raises(ConfigError, match=r"my news\.csv and read\.paths= both say what to cluster"):
        build_from_words("tutorial", ["my news.csv", "read.paths=[other.csv]"])


def test_another_input_of_the_same_name_gets_a_folder_of_its_own(news: Path, tmp_path: Path) -> None:
    config = build_from_words(None, ["my news.csv"])
    run = RunDir(config.run.dir)
    with run.locked():
        run.begin({}, config=config.as_dict())
    assert build_from_words(None, [str(news), "search.k=90"]).run.dir == "runs/my_news", "the same file"
    other = tmp_path / "sub" / news.name
    other.parent.mkdir()
    other.write_bytes(news.read_bytes())
    assert build_from_words(None, ["sub/my news.csv"]).run.dir == "runs/my_news-2"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name a file (covey run news.csv)"),
        (["search.k=5"], "name a file (covey run news.csv)"),
        (["gone.csv"], "no such file: gone.csv"),
        (["my news.csv", "search.k"], "'search.k' is not an override; write section.key=value"),
        (["my news.csv", "serch.k=5"], "unknown section 'serch'"),
        (["my news.csv", "k=5"], "'k=5' is not an override"),
        (
            ["my news.csv", "read.paths=b.csv"],
            "my news.csv and read.paths= both say what to cluster; name all files as",
        ),
        (
            ["s3://me:secret@bucket/a.csv", "read.collection.uri=http://x"],
            "s3://***@bucket/a.csv and read.collection.uri=",
        ),
    ],
)
def test_what_is_wrong_is_told(news: Path, words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_from_words(None, words)
    assert said in str(error.value)
    assert "secret" not in str(error.value)


def test_all_columns_of_texts_that_are_named_are_said(news: Path, logged: list[str]) -> None:
    build_from_words(None, ["my news.csv", "read.text_columns=[headline, desk]"])
    assert logged == ["columns: text: headline, desk; id: key; time: when; source: outlet; link: href"]


def test_a_folder_with_an_equals_sign_is_a_path(news: Path, tmp_path: Path) -> None:
    folder = tmp_path / "date=2024-05-01"
    folder.mkdir()
    (folder / "part.csv").write_bytes(news.read_bytes())
    assert build_from_words(None, [folder.name]).read.paths == ("date=2024-05-01",)
    assert build_from_words("laptop", ["s3://bucket/date=1/x.csv"]).read.paths == ("s3://bucket/date=1/x.csv",)


def test_a_file_without_a_header_is_doubted(tmp_path: Path, logged: list[str]) -> None:
    path = tmp_path / "plain.csv"
    path.write_text("\n".join(f"{n},Town {n} is shaken by quakes" for n in range(30)), "utf-8")
    build_from_words(None, [str(path)])
    assert "the text column's name is 'Town 0 is shaken by quakes'; is that a record?" in logged[-1]
    assert build_from_words(None, [str(path), "read.csv.header=none"]).read.text_columns == ("2",)


# --- the settings ---


def test_every_key_is_listed_with_its_default_and_a_meaning() -> None:
    keys = {key.name: key for key in list_keys()}
    assert all(key.meaning for key in keys.values())
    defaults = {name: key.default for name, key in keys.items() if key.default != "(needed)"}
    assert load_config(None, [f"{name}={value}" for name, value in defaults.items() if value not in ("null", "'\\n'")
                              and name.count(".") == 1]) == load_config(None)  # fmt: skip
    assert keys["cluster.selection"].meaning.startswith("One of modularity, eom, leaf. ")
    assert keys["read.collection.uri"].default == "(needed)"
    assert keys["plot.points"].default == "1000000"


def test_an_empty_value_is_told_as_it_is_typed() -> None:
    """``key=none`` is text, and ``key=null`` no value; so ``none:`` stands only where it is one of the key's words."""
    told = [key.name for key in list_keys() if re.search(r"\bnone:", key.meaning, re.IGNORECASE)]
    assert told == ["read.csv.quote", "read.csv.header"]


def test_keys_are_found_by_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "granularity"]) == 0
    assert capsys.readouterr().out.startswith("cluster.granularity=null\n    texts; less is finer")
    assert main(["keys", "matryoshka", "vectors"]) == 0
    assert capsys.readouterr().out.startswith("embed.dimensions=null\n")
    assert main(["keys", "nonesuch"]) == 2
    assert "no setting's name or meaning holds nonesuch" in capsys.readouterr().err


# --- a run's pages ---


def test_a_page_is_opened_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: not opened.append(url) and len(opened) < 3)
    for name in ("report.html", "map.html"):
        (tmp_path / name).write_text("<p>")
    assert main(["open", str(tmp_path)]) == 0
    assert main(["open", str(tmp_path), "--map"]) == 0
    assert opened == [(tmp_path / name).as_uri() for name in ("report.html", "map.html")]
    capsys.readouterr()
    assert main(["open", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"no browser was found; open it by hand: {tmp_path / 'report.html'}\n"
    (tmp_path / "map.html").unlink()
    assert main(["open", str(tmp_path), "--map"]) == 2
    assert "has no map.html; covey status --run" in capsys.readouterr().err
    assert main(["open", "s3://bucket/run"]) == 2
