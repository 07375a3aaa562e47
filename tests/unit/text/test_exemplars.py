"""text/exemplars.py: the exemplars of a cluster are of all its parts, and say different things."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clustering.text.exemplars import MEMBER, candidates_of, representatives_of, spread_texts

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


def test_the_parts_of_a_cluster_take_turns_by_the_roots_of_their_sizes() -> None:
    """Cluster 0 holds 1 (64 texts), 2 (9) and noise within; the strongest texts are all of 2."""
    layers = np.array([[0, 1]] * 3 + [[0, 2]] * 3 + [[0, -1], [3, -1], [-1, -1]], np.int32)
    strength = np.array([0.1, 0.3, 0.2, 1, 1, 1, 1, 0.5, 0])[:, None].repeat(2, 1)
    members = candidates_of(layers, strength, np.arange(9), np.array([1, 1, 1, 1, 5, 1, 9, 1, 1]))
    chosen = representatives_of(members, np.array([74, 64, 9, 1]), 6)
    assert chosen["row"][chosen["label"] == 0].tolist() == [1, 2, 4, 0, 3, 6]  # 8/1, 8/2, 3/1, 8/3, 3/2, 1/1
    assert chosen["row"][chosen["label"] == 3].tolist() == [7]
    assert chosen["row"][chosen["label"] == 2].tolist() == [4, 3, 5]


MEMBERS = st.tuples(st.integers(0, 2), st.integers(-1, 3), st.integers(0, 3), st.integers(1, 2), st.integers(0, 3))


@given(st.lists(MEMBERS, min_size=1, max_size=60), st.integers(1, 6))
def test_the_representatives_of_all_are_those_of_what_is_chosen_anywhere(
    drawn: list[tuple[int, int, int, int, int]], most: int
) -> None:
    members = np.array([(label, part, strength, copies, row)
                        for row, (label, part, strength, copies, _) in enumerate(drawn)], MEMBER)  # fmt: skip
    place, texts = np.array([task for *_, task in drawn]), np.array([4, 16, 9, 7])
    chosen = [representatives_of(members[place == task], texts, most) for task in range(4)]
    found = representatives_of(np.concatenate(chosen), texts, most)
    left = sorted(members.tolist(), key=lambda one: (-one[2], -one[3], one[4]))
    for label in range(3):
        taken: list[tuple[int, ...]] = []
        own = [one for one in left if one[0] == label]
        while own and len(taken) < most:
            quotients = [
                (texts[part] if part >= 0 else 1) ** 0.5 / (1 + sum(other[1] == part for other in taken))
                for _, part, *_ in own
            ]
            taken.append(own.pop(quotients.index(max(quotients))))
        assert found["row"][found["label"] == label].tolist() == [row for *_, row in taken]
