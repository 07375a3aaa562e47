"""A seed in; a csv or parquet file of generated headlines with planted stories out, as many outlets carry them."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from clustering.errors import ConfigError
from clustering.runs.storage import atomic_write, check_writable, locate

BLOCK = 100_000
NOISE_SHARE = 0.15  # single headlines
COPY_SHARE = 0.3  # headlines that another outlet had before, with its name or with theirs
LEAST, MOST, SPREAD = 6, 250, 30  # wordings of a story, and how widely they range
DAYS, STORY_DAYS = 28, 6  # that stories begin in, and that one goes on for
BEGIN = 1_772_409_600  # 2026-03-02, in seconds since 1970
SCHEMA = pa.schema(
    [("id", pa.string()), ("title", pa.string()), ("story", pa.int64()), ("time", pa.timestamp("s")),
     ("source", pa.string()), ("url", pa.string())]
)  # fmt: skip


class _Fact(NamedTuple):
    name: str


class _Kind:
    """A kind of event. Alternatives stand in brackets; {who} {aide} {firm} {where} {what} {n} {m} are a story's own.

    whats : of which a story has one; mains : what has happened; name : how it is called later; sides : what follows,
        the earliest first
    """

    def __init__(self, whats: str, mains: tuple[str, ...], name: str, sides: tuple[str, ...]) -> None:
        self.whats = whats.split("|")
        self.mains, self.sides = [_parse(main) for main in mains], [_parse(side) for side in sides]
        self.name = _parse(name)


def _parse(phrase: str) -> list[Any]:
    """A phrase as pieces: text, a fact, or alternatives, which are phrases."""
    pieces: list[Any] = []
    for text, slot, fact in re.findall(r"([^[{]+)|\[([^]]*)\]|\{(\w+)\}", phrase):
        pieces.append(text or (_Fact(fact) if fact else [_parse(one) for one in slot.split("|")]))
    return pieces


_KINDS = [
    _Kind(
        "electric kettle|baby car seat|e-bike battery|garden heater|pressure cooker|toy drone",
        ("{firm} [recalls|pulls|takes back|withdraws] {n} {what}s [over|after|amid] [fires|burns|safety fears|injury]",
         "[Faulty|Dangerous|Overheating] {what} [forces|prompts] [recall|U-turn] [at|by] {firm}",
         "[Owners|Parents|Customers] [told|urged|asked] to stop using {firm} {what}",
         "{what} from {firm} [blamed for|linked to] [house fire|blaze|injuries] in {where}"),
        "[{firm}|{firm} {what}] recall",
        ("shops in {where} clear shelves", "{aide} [orders|opens] safety inquiry", "{firm} [apologises|offers refunds]",
         "[victims|families] sue {firm}", "{who}, head of {firm}, [resigns|steps down]",
         "regulator fines {firm} {m} million", "shares in {firm} [tumble|slide|recover]"),
    ),
    _Kind(
        "national cup|hockey league|rugby championship|handball supercup|volleyball series",
        ("{where} [beat|crush|stun|edge out] [rivals|favourites|champions] [to win|in final of|to lift] {what}",
         "{who} [scores twice|strikes late|hits winner] as {where} [take|clinch|win] {what}",
         "{what}: {where} [champions|triumphant] [at last|after extra time|on penalties]",
         "[Heroic|Brilliant|Unstoppable] {who} [sinks|beats] holders in {what} final for {where}"),
        "[{where} triumph|{where} {what} final|{where} win by {who}]",
        ("fans flood streets of {where}", "coach {aide} [praises|hails] {who}", "{who} [eyes|rejects] move abroad",
         "losers [protest|appeal] against referee {aide}", "victory parade [planned|draws {n} people]",
         "{who} [injured|doubtful] for weeks", "{where} [extend|renew] contract of {aide}"),
    ),
    _Kind(
        "lower taxes|free buses|hospital reform|cheaper housing|school overhaul",
        ("{who} [wins|sweeps|takes|claims] {where} [election|vote|mayoral race]",
         "{where} [votes|goes to polls|decides]: {who} [ahead|in front|victorious] on [promise|pledge] of {what}",
         "[Landslide|Narrow win|Upset] for {who} in {where}", "Voters in {where} back {what} and {who}"),
        "[{where} election|{who} victory in {where}|{where} vote]",
        ("rival {aide} concedes", "{aide} demands recount", "{who} [promises|pledges] {what}",
         "turnout [hits record|falls to {n} thousand]", "{who} names first ministers",
         "{what} plan [stalls|questioned|costed at {m} billion]", "{who} sworn in"),
    ),
    _Kind(
        "rail line|old bridge|primary school|harbour|main road",
        ("Flood in {where} [forces|drives] {n} from [homes|houses]",
         "{where} [flooded|under water|swamped] after [days of rain|river bursts banks|storm]",
         "[Thousands|Families|Residents] flee [rising water|floods] in {where}",
         "[Rescuers|Boats|Helicopters] [reach|search] {where} as {what} [vanishes|is submerged]"),
        "[{where} flood|{where} deluge|high water in {where}]",
        ("{what} [closed|washed away]", "{aide} [visits|tours] [victims|shelters]", "army fills sandbags around {what}",
         "water level peaks at {m} metres", "insurers expect {n} million in claims",
         "{aide} [promises|announces] aid fund", "clean-up begins, {what} to reopen"),
    ),
    _Kind(
        "software|chip|battery|pharmacy|shipping|furniture",
        ("{firm} [buys|swallows|acquires|snaps up] {where} {what} [maker|group|rival]",
         "{firm} [agrees|seals|announces] {n} million takeover of {what} [business|firm]",
         "[Merger|Deal|Takeover]: {what} [specialist|company] from {where} sold to {firm}",
         "{who} [bets|gambles] on {what} as {firm} [expands|grows] in {where}"),
        "[{firm} takeover|{firm} deal|{firm} {what} merger]",
        ("shares jump {m} percent", "regulator {aide} [examines|questions|delays] bid",
         "union [fears|warns of] {n} job losses",
         "{who} to [lead|chair] new group", "investor {aide} [objects|opposes] price",
         "{firm} [raises|sweetens] offer", "watchdog [clears|approves] {firm}"),
    ),
    _Kind(
        "gene against blindness|salt-eating bacterium|ancient seabed fossil|malaria antibody|dwarf planet with water",
        ("[Scientists|Researchers|Biologists] in {where} [find|discover|identify] {what}",
         "{what} [found|discovered|spotted] by {where} [team|laboratory|university]",
         "{who} of {where} [reports|describes|presents] {what} after {n} [trials|samples|nights]",
         "[Breakthrough|Surprise|Sensation]: {who} of {where} and the {what}"),
        "[{where} discovery|{who} and {what} of {where}|{where} study]",
        ("experts [doubt|question] result on {what}", "{aide} [hails|welcomes] finding",
         "funding of {m} million follows",
         "rival team of {aide} [repeats|confirms] it", "journal publishes data of {who}",
         "{who} [tipped|named] for prize",
         "{where} opens new institute"),
    ),
    _Kind(
        "tax fraud|bribery|insider trading|art forgery|perjury",
        ("{who} [faces|goes on] trial [over|for] {what}", "{who} [denies|rejects|disputes] {what} [charges|claims]",
         "[Court|Judge|Jury] in {where} hears {what} case against {who}",
         "[Prosecutors|Investigators] [accuse|charge] {who} of {what} worth {n} thousand"),
        "[{who} trial|{who} case|{who} {what} scandal]",
        ("witness {aide} [testifies|breaks down]", "lawyer {aide} [seeks|demands] delay",
         "documents of {aide} [vanish|emerge]",
         "{who} [found guilty|convicted]", "{who} [sentenced|jailed] for {m} years", "{who} to appeal",
         "{where} prosecutor praised"),
    ),
    _Kind(
        "vineyard|monastery|mountain village|nature park|observatory",
        ("[Wildfire|Forest fire|Blaze] near {where} [burns|destroys|consumes] {n} hectares",
         "{where} [evacuated|cut off|in smoke] as [fire|flames] [spreads|nears {what}]",
         "[Firefighters|Crews|Pilots] [battle|fight|struggle with] [blaze|inferno] outside {where}",
         "{what} [threatened|saved|lost] in {where} [fire|flames]"),
        "[{where} wildfire|{where} fire|{where} {what} blaze]",
        ("wind [turns|picks up] near {what}", "{aide} [declares|extends] emergency", "planes [arrive|join] over {what}",
         "police [arrest|question] suspected arsonist", "{n} fighters control flames", "residents return to {what}",
         "{aide} [defends|criticises] response"),
    ),
    _Kind(
        "spy thriller|opera film|space comedy|royal drama|detective series",
        ("{who} [to star|cast|takes lead] in [new|long-awaited|costly] {what}",
         "[First|New|Leaked] trailer [shows|reveals] {who} in {what}",
         "{what} [with|about] {who} [opens|premieres|celebrated] in {where}",
         "[Critics|Reviewers|Audiences] [love|hate|split over] {who} {what}"),
        "[{who} film|{who} {what}|{who} premiere]",
        ("director {aide} [leaves|returns]", "shooting starts in {where}", "co-star {aide} [falls ill|joins cast]",
         "tickets earn {n} million", "{who} [wins|misses] award", "sequel with {aide} [announced|planned]",
         "{m} million watch first night"),
    ),
    _Kind(
        "pilot|baggage handler|air traffic controller|security guard|cabin crew",
        ("{where} airport [strike|walkout] [grounds|cancels|delays] {n} flights",
         "[Walkout|Strike|Stoppage] by {what} union [paralyses|shuts|hits] {where} [airport|terminal]",
         "[Passengers|Travellers|Tourists] [stranded|stuck|sleep] at {where} airport",
         "{what} pay [dispute|row] [escalates|deepens] in {where}"),
        "[{where} airport strike|{where} {what} walkout|{where} airport chaos]",
        ("union leader {aide} [threatens|calls] longer action", "airlines [count|claim] {m} million losses",
         "{who} [offers|proposes] mediation", "talks with {aide} [collapse|resume]",
         "court in {where} [bans|allows] walkout",
         "{what} union accepts offer", "{n} flights [resume|return to normal]"),
    ),
    _Kind(
        "folding phone|smart watch|solar laptop|wireless earbud|home robot|gaming console",
        ("{firm} [unveils|presents|shows off|launches] [first|new|cheaper] {what}",
         "[Hands on|Review|First look]: {what} from {firm} [impresses|disappoints|surprises]",
         "{what} by {firm} [goes on sale|arrives|sells out] [at {n}|in {where}]",
         "{firm} [gambles|bets] on {what} to [beat|catch] rivals"),
        "[{firm} {what}|{firm} launch]",
        ("queues form in {where}", "designer {aide} [explains|defends] price", "battery lasts {m} hours",
         "buyers in {where} [report|complain of] scratches", "{firm} [fixes|patches] fault",
         "rivals [cut|match] {firm} prices",
         "{who} promises next version"),
    ),
    _Kind(
        "interest rates|bond purchases|key lending rate|reserve rules",
        ("Central bank of {where} [raises|cuts|holds|changes] {what}",
         "{where} [economy|central bank]: {what} [up|down|unchanged] [again|for first time|by surprise]",
         "[Markets|Stocks|Currency] [jump|drop|waver] as {where} [moves|decides] on {what}",
         "Governor {who} [defends|signals|justifies] new {what} in {where}"),
        "[{where} {what} decision|{where} central bank move|{where} decision by {who}]",
        ("[savers|borrowers] in {where} react", "minister {aide} [criticises|welcomes] step",
         "inflation at {m} percent",
         "lenders in {where} pass it on", "economists expect {n} more points", "{aide} [votes|speaks] against",
         "{where} currency [recovers|steadies]"),
    ),
    _Kind(
        "cathedral|power station|dam|hospital|motorway",
        ("Earthquake of magnitude {m} [shakes|hits|rattles|strikes] {where}",
         "[Strong|Powerful|Violent] [quake|tremor] in {where} [damages|cracks] {what}",
         "{where} [quake|earthquake]: [{n} hurt|dozens missing|no deaths|many homeless]",
         "[Residents|Patients|Tourists] [flee|leave] {what} as ground shakes in {where}"),
        "[{where} earthquake|{where} quake|{where} tremor]",
        ("aftershocks [continue|rattle {where}]", "rescue dogs [find|save] child in {what}",
         "{aide} [visits|flies to] ruins",
         "{what} [closed|inspected]", "tents for {n} people", "donors give {m} million",
         "engineer {aide} blames {what} builders"),
    ),
    _Kind(
        "diesel car|e-scooter|plastic bag|firework|short-term rental",
        ("{where} [bans|outlaws|forbids] {what}s [in centre|from spring|in old town]",
         "[Council|Mayor {who}|Parliament] of {where} [votes|decides] [against|to ban] {what}s",
         "No more {what}s: {where} [tightens|changes] rules",
         "[Shops|Drivers|Owners|Traders] [protest|rally] in {where} over {what}s"),
        "[{where} ban|{where} {what} ban|{where} {what} rules]",
        ("{n} [sign|hand in] petition", "{aide} [praises|attacks] mayor {who}", "fines of {n} announced",
         "court [hears|rejects] complaint by {aide}", "neighbours [follow|copy] {where}",
         "{m} percent [approve|agree] in poll",
         "{who} [allows|grants] exceptions"),
    ),
    _Kind(
        "measles|cholera|dengue fever|bird flu|meningitis",
        ("{what} [outbreak|epidemic] in {where} [infects|sickens] {n}",
         "{where} [hospitals|clinics|wards] [fill up|overwhelmed] as {what} [spreads|returns]",
         "[Doctors|Experts|Officials] [warn of|alarmed by] {what} in {where}",
         "[Vaccine|Medicine] [sent|flown] to {where} to [stop|fight] {what}"),
        "[{where} outbreak|{where} {what} outbreak|{where} {what}]",
        ("schools in {where} [close|stay shut]", "doctor {aide} [asks|begs] for help",
         "source traced to {where} market",
         "{aide} [urges|orders] vaccination", "{n} thousand doses arrive", "cases fall by {m} percent",
         "{where} [declared|considered] free of {what}"),
    ),
    _Kind(
        "tennis|ski jumping|motor racing|boxing|gymnastics|cycling",
        ("{who} [retires|quits|withdraws] from {what} [at {n}|after injury|in tears]",
         "[End of era|Farewell|Goodbye]: {who} [leaves|ends] {what} career",
         "{what} [star|champion|legend] {who} [announces|confirms] [retirement|last season]",
         "[Fans|Rivals|Team-mates] [mourn|thank|honour] {what} great {who}"),
        "[{who} retirement|{who} farewell|{what} without {who}]",
        ("coach {aide} [stunned|in tears]", "last [event|show] in {where}", "{who} [plans|opens] academy",
         "rival {aide} pays tribute", "{where} [names|unveils] street", "sponsor ends {m} million deal",
         "{who} hints at comeback"),
    ),
]  # fmt: skip
_JOINTS = (" as ", ", ", "; ", ", while ")
_AFTER = ("after", "over", "amid", "following")
_ASKED = [
    _parse(one)
    for one in (
        "what we know about {who}", "five questions for {aide}", "what happens next in {where}",
        "the story so far in {where}", "who is to blame, asks {aide}", "{n} days of {who}, a timeline",
    )
]  # fmt: skip
_FIRST = (
    "Alma Bruno Carla Dario Elif Farid Greta Hugo Irina Jonas Kenji Leila Marek Nadia Oskar Priya Rosa Sanjay Tilda"
).split()
_STARTS = "Bar Cal Dor Eld Fen Gar Hal Ist Kor Lin Mar Nor Orm Pel Ras Sol Tar Ulm Vel Wes Yar Zan".split()
_MIDDLES = ("", "", "", "a", "el", "en", "er", "in", "o", "un")
_ENDS = "beck bridge dale den field ford gard holm kirk land lund mere mont nova port sund ton vale wick worth".split()
_TRADES = ("Group", "Works", "Industries", "Brothers", "Labs", "Holding")
_OUTLETS = [  # with how they sign their headlines
    ("Morning Ledger", " - {}"), ("Harbour Post", " | {}"), ("Daily Lantern", ""), ("North Courier", " - {}"),
    ("The Evening Kite", ""), ("Valley Herald", " | {}"), ("City Dispatch", ""), ("Capital Wire", " - {}"),
    ("Lakeside Times", ""), ("The Open Gazette", " | {}"), ("Border Echo", ""), ("First Edition", ""),
    ("Island Monitor", " - {}"), ("The Plain Record", ""), ("Market Bell", " (Video)"), ("Radio Seven", ""),
    ("Southern Star", " | {} News"), ("The Quiet Observer", ""), ("Union Tribune", ""), ("Weekly Compass", ""),
]  # fmt: skip
_SLUG = re.compile("[^a-z0-9]+")


def write_sample(path: str | Path, n_texts: int, seed: int = 0) -> dict[str, int]:
    """Write generated headlines: stories in many wordings over some days, carried by outlets, and single headlines.

    path : ends in .csv or .parquet; columns id, title, story (-1 for a single headline), time (UTC), source, url
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
    stories = 0
    with atomic_write(target) as temporary, temporary.open("wb") as handle:
        make = pa.csv.CSVWriter if suffix == ".csv" else pq.ParquetWriter
        with make(handle, SCHEMA) as writer:
            for start in range(0, n_texts, BLOCK):
                table, stories = _block(Random(f"{seed}/{start}"), start, min(BLOCK, n_texts - start), stories)
                writer.write_table(table)
    return {"records": n_texts, "stories": stories}


def _block(rng: Random, start: int, size: int, stories: int) -> tuple[pa.Table, int]:
    """Headlines from a number on, and how many stories there are so far; a story stays within its block."""
    rows: list[tuple[str, float, int]] = []  # wording, days since BEGIN, story
    n_copies = int(size * COPY_SHARE)
    n_wordings = max(size - n_copies - int(size * NOISE_SHARE), 1)
    while len(rows) < n_wordings:
        left, planted = n_wordings - len(rows), _Story(rng)
        count = min(LEAST + int((rng.random() ** -0.7 - 1) * SPREAD), max(n_wordings // 20, LEAST), MOST)
        if left - count < LEAST:
            count = left
        rows += [(*planted.headline(rng), stories) for _ in range(count)]
        stories += 1
    for _ in range(n_copies):
        words, day, story = rows[int(rng.random() * n_wordings)]
        rows.append((words, day + rng.random() / 2, story))
    while len(rows) < size:
        rows.append((*_Story(rng).headline(rng), -1))
    rng.shuffle(rows)
    titles, sources, urls = [], [], []
    for number, (words, *_) in enumerate(rows, start):
        outlet, sign = _pick(rng, _OUTLETS)
        titles.append(words + sign.format(outlet))
        sources.append(outlet)
        urls.append(f"https://{outlet.replace(' ', '').lower()}.example/{_SLUG.sub('-', words.lower())}-{number}")
    times = [round(day * 86_400) + BEGIN for _, day, _ in rows]
    columns = [[f"h{start + number:08d}" for number in range(size)], titles, [story for *_, story in rows], times]
    return pa.table([*columns, sources, urls], schema=SCHEMA), stories


class _Story:
    """Who did what where; every headline names some of it."""

    def __init__(self, rng: Random) -> None:
        self.kind = _pick(rng, _KINDS)
        n, firm = int(2 + 97 * rng.random()) * 10, _invented(rng)
        self.begin = rng.random() * DAYS
        self.facts = {
            "who": self._person(rng), "aide": self._person(rng), "where": (_invented(rng),),
            "what": (_pick(rng, self.kind.whats),), "firm": (firm, firm, f"{firm} {_pick(rng, _TRADES)}"),
            "n": (f"{n}", f"over {n}", f"nearly {n + 10}"), "m": (f"{1 + 8 * rng.random():.1f}",),
        }  # fmt: skip

    @staticmethod
    def _person(rng: Random) -> tuple[str, str]:
        name = _invented(rng)
        return f"{_pick(rng, _FIRST)} {name}", name

    def headline(self, rng: Random) -> tuple[str, float]:
        """A wording, and the days since BEGIN when it appears: what happened, what follows, or both."""
        age, form = rng.random() ** 2, rng.random()
        sides = self.kind.sides[: 2 + int(age * len(self.kind.sides))]
        side = self._say(rng, _pick(rng, sides if form < 0.6 else (*sides, *_ASKED)))
        main = self._say(rng, _pick(rng, self.kind.mains) if form < 0.6 else self.kind.name)
        if form < 0.6:
            words = main if form < 0.3 else main + _pick(rng, _JOINTS) + side
        else:
            words = f"{side} {_pick(rng, _AFTER)} {main}" if form < 0.8 else f"{main}: {side}"
        return words[0].upper() + words[1:], self.begin + age * STORY_DAYS

    def _say(self, rng: Random, phrase: Any) -> str:
        """A phrase in words: text as it is, of alternatives one, and the story's own facts."""
        words = []
        for piece in phrase:
            if isinstance(piece, str):
                words.append(piece)
            elif isinstance(piece, _Fact):
                words.append(_pick(rng, self.facts[piece.name]))
            else:
                words.append(self._say(rng, _pick(rng, piece)))
        return "".join(words)


def _pick(rng: Random, options: Any) -> Any:
    return options[int(rng.random() * len(options))]


def _invented(rng: Random) -> str:
    return str(_pick(rng, _STARTS) + _pick(rng, _MIDDLES) + _pick(rng, _ENDS))
