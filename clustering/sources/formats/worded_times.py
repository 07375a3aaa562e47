"""An English date whose month stands in letters in; its time in UTC out."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

_MONTH_NAMES = "january february march april may june july august september october november december".split()
MONTHS = {name: number for number, full in enumerate(_MONTH_NAMES, 1) for name in (full, full[:3])} | {"sept": 9}
# Hours behind or ahead of UTC: those of RFC 5322, which takes CST for America's, and such as mean one place everywhere.
ZONES = {
    "z": 0, "ut": 0, "utc": 0, "gmt": 0, "est": -5, "edt": -4, "cst": -6, "cdt": -5, "mst": -7, "mdt": -6, "pst": -8,
    "pdt": -7, "wet": 0, "west": 1, "cet": 1, "cest": 2, "mez": 1, "mesz": 2, "eet": 2, "eest": 3, "msk": 3, "hkt": 8,
    "sgt": 8, "jst": 9, "kst": 9, "aest": 10, "aedt": 11, "nzst": 12, "nzdt": 13,
}  # fmt: skip
EPOCH, MICROSECOND = datetime(1970, 1, 1), timedelta(microseconds=1)
OLDEST_SHORT_YEAR = 50  # of two digits, by RFC 5322: 49 is 2049, 50 is 1950

_WEEKDAY = r"(?:(?:mon|tues?|wed(?:nes)?|thu(?:rs?)?|fri|sat(?:ur)?|sun)(?:day)?\.?,? ?)?"
_DAY, _MONTH = r"(?P<day>\d\d?)(?:st|nd|rd|th)?", r"(?P<month>[a-z]{3,9})\.?"
_TIME = (
    r"(?P<hour>\d\d?):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9}))?)?"
    r"(?: ?(?P<half>[ap])\.?m\b\.?)?"
)
_OFFSET = (
    r"(?:utc|gmt|ut)? ?(?P<sign>[+-])(?:(?P<hours>\d\d?)(?::(?P<minutes>\d\d))?|(?P<joined>\d{4}))(?: ?\([^()]*\))?"
)
_ZONE = rf"(?: ?(?:{_OFFSET}|(?P<zone>[a-z]+)|\((?P<braced>[a-z]+)\)))?"
_END = rf"(?:,? ?(?:(?:at|-) )?{_TIME}{_ZONE})?"
_FORMS = [
    re.compile(_WEEKDAY + form, re.I)
    for form in (
        rf"{_MONTH} {_DAY}(?:, ?| )(?P<year>\d{{4}}){_END}",  # March 1, 2024
        rf"{_DAY}[ -]{_MONTH}(?:, ?|[ -])(?P<year>\d{{4}}){_END}",  # 1 March 2024
        rf"{_DAY}[ -]{_MONTH}[ -](?P<year>\d\d) {_TIME}{_ZONE}",  # Fri, 01 Mar 24 10:00:00 +0200
        rf"{_MONTH} {_DAY},? {_TIME}{_ZONE} (?P<year>\d{{4}})",  # Fri Mar 1 10:00:00 +0000 2024
    )
]


def worded_time(text: str) -> int | None:
    """Microseconds since 1970; None for another text, for a day that is none, and for a zone that is not known.

    text : with single spaces. A time without a zone is in UTC.
    """
    found = next((match for form in _FORMS if (match := form.fullmatch(text))), None)
    if found is None:
        return None
    held = {name: value.lower() for name, value in found.groupdict().items() if value}
    month, hour, offset_s = MONTHS.get(held["month"]), _hour(held), _offset_s(held)
    if month is None or hour is None or offset_s is None:
        return None
    year = int(held["year"])
    if len(held["year"]) == 2:
        year += 1900 if year >= OLDEST_SHORT_YEAR else 2000
    fraction = int(held.get("fraction", "").ljust(6, "0")[:6])
    try:
        time = datetime(
            year, month, int(held["day"]), hour, int(held.get("minute", 0)), int(held.get("second", 0)), fraction
        )
    except ValueError:  # 30 February
        return None
    return (time - EPOCH) // MICROSECOND - offset_s * 1_000_000


def _hour(held: dict[str, str]) -> int | None:
    """From 0 to 23. 17:00 PM is 17, but 17:00 AM is none."""
    hour, half = int(held.get("hour", 0)), held.get("half")
    if half is None:
        return hour
    if half == "a":
        return None if hour > 12 else hour % 12
    return hour if hour > 12 else None if hour == 0 else hour % 12 + 12


def _offset_s(held: dict[str, str]) -> int | None:
    """Seconds ahead of UTC."""
    if name := held.get("zone") or held.get("braced"):
        hours = ZONES.get(name)
        return None if hours is None else hours * 3600
    if "sign" not in held:
        return 0
    joined = held.get("joined", "")
    hours, minutes = int(joined[:2] or held["hours"]), int(joined[2:] or held.get("minutes", "0"))
    size = hours * 3600 + minutes * 60
    return None if hours > 23 or minutes > 59 else -size if held["sign"] == "-" else size
