"""A seed in; a csv or parquet file of generated headlines with planted stories out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from clustering.errors import ConfigError
from clustering.runs.storage import atomic_write, check_writable, locate

BLOCK = 100_000
NOISE_SHARE = 0.15
COPY_SHARE = 0.04
MEAN_STORY = 25  # headlines of an average story; sizes range from 5 to some hundreds
# Each kind of event: phrasings with {who} {where} {what} {n} {m}, and values of {what}.
_EVENTS: list[tuple[list[str], list[str]]] = [
    (["{who} recalls {n} {what} over safety fears", "{n} {what} pulled from shops as {who} admits safety flaw",
      "Safety recall: {who} takes back {what}", "{who} {what} recall widens in {where}"],
     ["electric kettles", "baby car seats", "e-bike batteries", "garden heaters", "pressure cookers", "toy drones"]),
    (["{who} beats {where} to win {what}", "{what}: {who} crushes {where} in the final",
      "{who} lifts {what} trophy after thriller against {where}", "Late goal gives {who} the {what} title"],
     ["national cup", "hockey league", "rugby championship", "handball supercup", "volleyball series"]),
    (["{who} wins {where} election on promise of {what}", "{where} votes: {who} claims victory",
      "Election in {where} goes to {who}, who campaigned on {what}", "{who} to lead {where} after landslide vote"],
     ["lower taxes", "free buses", "a hospital reform", "cheaper housing", "a school overhaul"]),
    (["Flood in {where} forces {n} from homes", "{where} flooded after days of rain, {what} closed",
      "Thousands flee rising water in {where}", "Rescuers search flooded {where}, {what} under water"],
     ["rail lines", "the old bridge", "schools", "the harbour", "main roads"]),
    (["{who} buys {where} rival for {n} million", "{who} agrees takeover of {where} {what} maker",
      "Merger: {where} {what} firm sold to {who}", "Regulator examines {who} bid for {what} group in {where}"],
     ["software", "chip", "battery", "pharmacy", "shipping", "furniture"]),
    (["Scientists in {where} find {what}", "{what} discovered by team from {where}",
      "New study from {where}: {what} could change medicine", "{who} led the {where} group that found {what}"],
     ["a gene against blindness", "a salt-eating bacterium", "an ancient seabed fossil", "a malaria antibody",
      "water on a dwarf planet"]),
    (["{who} faces trial over {what}", "Court in {where}: {who} denies {what}",
      "{who} found guilty of {what}", "Jury hears of {what} in {who} case", "{who} sentenced for {what} in {where}"],
     ["tax fraud", "bribery", "insider trading", "art forgery", "perjury"]),
    (["Wildfire near {where} burns {n} hectares", "{where} evacuated as forest fire spreads",
      "Firefighters battle blaze outside {where}", "Fire around {where} under control, {what} spared"],
     ["vineyards", "the monastery", "villages", "a nature park", "the observatory"]),
    (["{who} to star in {what}", "{what}: first trailer shows {who}", "{who} joins cast of {what}",
      "Critics praise {who} in {what} premiere in {where}"],
     ["a spy thriller", "the opera film", "a space comedy", "a royal drama", "the detective series"]),
    (["{where} airport strike grounds {n} flights", "Walkout of {what} paralyses {where} airport",
      "Passengers stranded in {where} as {what} strike", "Strike over: {what} in {where} return to work"],
     ["pilots", "baggage handlers", "air traffic controllers", "security staff", "cabin crews"]),
    (["{who} unveils {what}", "{who} shows its first {what} in {where}", "Hands on: the {what} from {who}",
      "{what} by {who} goes on sale at {n}", "Review: {who} {what} is fast but costly"],
     ["folding phone", "smart glasses", "solar laptop", "wireless earbuds", "home robot", "gaming console"]),
    (["Central bank of {where} {what}", "{where} economy: central bank {what}", "Markets jump as {where} {what}",
      "Savers in {where} react: bank {what}"],
     ["raises interest rates", "cuts interest rates", "holds rates steady", "ends bond purchases"]),
    (["Earthquake of magnitude {m} shakes {where}", "{where} quake: {what} damaged, no casualties",
      "Aftershocks rattle {where} after magnitude {m} earthquake", "Strong quake hits {where} region"],
     ["cathedral", "power station", "dam", "hospital", "motorway"]),
    (["{where} bans {what} from city centre", "No more {what}: {where} council votes for ban",
      "Ban on {what} in {where} starts in spring", "Shops in {where} protest against ban on {what}"],
     ["diesel cars", "e-scooters", "plastic bags", "fireworks", "short-term rentals"]),
    (["{what} outbreak in {where} infects {n}", "{where} hospitals fill up as {what} spreads",
      "Vaccine sent to {where} to stop {what}", "Doctors warn of {what} in {where}"],
     ["measles", "cholera", "dengue fever", "bird flu", "meningitis"]),
    (["{who} retires from {what}", "End of an era: {who} says farewell to {what}",
      "{what} star {who} announces retirement in {where}", "Fans mourn as {who} leaves {what}"],
     ["tennis", "ski jumping", "Formula racing", "boxing", "gymnastics", "cycling"]),
]  # fmt: skip
_FRAMES = ["Live", "Update", "Breaking", "Analysis", "In pictures", "Watch", "Explained", "Opinion"]
_TAILS = [
    ", report says", ", officials confirm", ": what we know", " - latest", ", residents say", ", sources tell us",
    " after months of doubt", " despite warnings", " as critics object", " on Monday", " on Thursday", " overnight",
    " for the second time this year", ", to the surprise of experts", " - in numbers", ", neighbours react",
    " and nobody was prepared", ", says the mayor", " while talks go on", ": five questions", " this weekend", " again",
]  # fmt: skip
_FIRST = (
    "Alma Bruno Carla Dario Elif Farid Greta Hugo Irina Jonas Kenji Leila Marek Nadia Oskar Priya Rosa Sanjay Tilda"
).split()
_STARTS = "Bar Cal Dor Eld Fen Gar Hal Ist Kor Lin Mar Nor Orm Pel Ras Sol Tar Ulm Vel Wes Yar Zan".split()
_ENDS = "beck bridge dale den field ford gard holm kirk land lund mere mont nova port sund ton vale wick worth".split()


def write_sample(path: str | Path, n_texts: int, seed: int = 0) -> dict[str, int]:
    """Write generated headlines: stories in several phrasings each, single headlines, and exact copies.

    path : ends in .csv or .parquet; columns id, title, story (-1 for a single headline)
    Returns: records and stories. The same seed and n_texts give the same file.
    Raises: ConfigError for another ending, fewer than 1 text, a seed below 0, or a file that cannot be written.
    """
    target = locate(str(path))
    suffix = Path(target.name).suffix
    if suffix not in (".csv", ".parquet"):
        raise ConfigError([f"--output {path}: the ending says the format; use .csv or .parquet"])
    if n_texts < 1:
        raise ConfigError([f"--texts {n_texts}: at least 1 is needed"])
    if seed < 0:
        raise ConfigError([f"--seed {seed}: no number below 0 is taken"])
    check_writable(target, "--output")
    schema = pa.schema([("id", pa.string()), ("title", pa.string()), ("story", pa.int64())])
    stories = 0
    with atomic_write(target) as temporary, temporary.open("wb") as handle:
        make = pa.csv.CSVWriter if suffix == ".csv" else pq.ParquetWriter
        with make(handle, schema) as writer:
            for table, stories_so_far in _blocks(n_texts, seed, schema):
                writer.write_table(table)
                stories = stories_so_far
    return {"records": n_texts, "stories": stories}


def _blocks(n_texts: int, seed: int, schema: pa.Schema) -> Iterator[tuple[pa.Table, int]]:
    """Tables of at most BLOCK headlines with the number of stories so far; a story stays within its block."""
    stories = 0
    for start in range(0, n_texts, BLOCK):
        rng = np.random.default_rng([seed, start])
        size = min(BLOCK, n_texts - start)
        titles: list[str] = []
        story: list[int] = []
        while len(titles) < size * (1 - NOISE_SHARE - COPY_SHARE):
            one_story = _Story(rng)
            count = 5 + int(rng.pareto(1.6) * (MEAN_STORY - 5) * 0.6)
            titles += [one_story.headline(rng) for _ in range(min(count, 400))]
            story += [stories] * (len(titles) - len(story))
            stories += 1
        copies = rng.integers(0, len(titles), int(size * COPY_SHARE)).tolist()
        titles, story = titles + [titles[row] for row in copies], story + [story[row] for row in copies]
        while len(titles) < size:
            titles.append(_Story(rng).headline(rng))
            story.append(-1)
        order = rng.permutation(size)
        ids = [f"h{start + number:08d}" for number in range(size)]
        columns = {"id": ids, "title": [titles[row] for row in order], "story": [story[row] for row in order]}
        yield pa.table(columns, schema), stories


class _Story:
    """Who did what where; every headline of the story names most of it."""

    def __init__(self, rng: np.random.Generator) -> None:
        phrasings, subjects = _EVENTS[rng.integers(len(_EVENTS))]
        self.phrasings = phrasings
        self.facts = {
            "who": f"{rng.choice(_FIRST)} {rng.choice(_STARTS)}{rng.choice(_ENDS)}",
            "where": f"{rng.choice(_STARTS)}{rng.choice(_ENDS)}",
            "what": str(rng.choice(subjects)),
            "n": str(rng.integers(2, 99) * 10),
            "m": f"{rng.integers(45, 79) / 10:.1f}",
        }

    def headline(self, rng: np.random.Generator) -> str:
        words = str(rng.choice(self.phrasings)).format(**self.facts)
        words = words[0].upper() + words[1:]
        if rng.random() < 0.25:
            words = f"{rng.choice(_FRAMES)}: {words}"
        if rng.random() < 0.75:
            words = f"{words}{rng.choice(_TAILS)}"
        return words
