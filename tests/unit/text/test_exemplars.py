"""text/exemplars.py: the exemplars of a cluster say different things."""

from __future__ import annotations

from clustering.text.exemplars import spread_texts

OUTLETS = ["Reuters", "Fox News", "BBC News", "(Video)"]


def test_no_two_exemplars_differ_in_the_outlet_or_the_last_words() -> None:
    same = [f"Apple releases iOS 7.1 with CarPlay and Siri - {outlet}" for outlet in OUTLETS]
    others = ["iPhone update brings the car display", "Siri sounds more natural now", "Bugs fixed in the new release"]
    assert spread_texts([*same, *others], 5) == [same[0], *others]
    assert spread_texts(same, 5) == same[:1]
    assert spread_texts([same[0], *others], 2) == [same[0], others[0]]


def test_texts_without_spaces_are_compared_by_their_characters() -> None:
    assert spread_texts(["王者荣耀新英雄上线", "王者荣耀新英雄上线了", "复仇者联盟票房破纪录"], 3) == [
        "王者荣耀新英雄上线",
        "复仇者联盟票房破纪录",
    ]


def test_texts_without_words_are_kept_apart() -> None:
    assert spread_texts(["🙂", "🙃", "12"], 3) == ["🙂", "🙃", "12"]
