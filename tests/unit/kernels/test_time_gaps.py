"""time_gaps.py: the scale that times ask for, and lists lengthened by the time between texts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from clustering.kernels.graph.time_gaps import GIVEN, HOUR, MOST, TimeScale, lengthen_by_time, measure_time_scale

FLOOR = 1e-6


def planted(spread: float, seed: int = 0, n_texts: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    """Gaps between texts of one story, and the times of all; stories begin within 30 days and last about ``spread``."""
    rng = np.random.default_rng(seed)
    begin = rng.uniform(0, 30, n_texts // 10)
    times = (np.repeat(begin, 10) + rng.normal(0, spread, n_texts)).astype(np.float32).reshape(-1, 10)
    return np.abs(np.diff(times, axis=1)).ravel(), times.ravel()


def test_the_scale_follows_how_long_stories_last() -> None:
    hours, days = (measure_time_scale(*planted(spread)) for spread in (0.1, 4.0))
    assert 0.1 < hours.days < 0.6
    assert 4 < days.days < 12
    assert hours.share == MOST
    assert 0.2 < days.share == days.difference < MOST < hours.difference


def test_times_that_tell_nothing_are_left_aside() -> None:
    near, times = planted(2.0)
    mixed = np.random.default_rng(1).permutation(times)
    found = measure_time_scale(np.abs(mixed[::2] - mixed[1::2]), times)
    assert found.share == 0
    assert found.difference < 0.05
    near, times = planted(9.0)
    many, few = measure_time_scale(near, times), measure_time_scale(near[:30], times[:40])
    assert 0.1 < many.share < 0.3
    assert few.difference > 0.1
    assert few.share == 0  # chance makes such a difference of so few


def test_few_pairs_with_times_among_many_texts_do_not_count() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        near, times = rng.uniform(0, 30, (2, 12)), rng.uniform(0, 30, 700).astype(np.float32)
        assert measure_time_scale(np.abs(np.subtract(*near)).astype(np.float32), times).share == 0


def test_a_given_scale_counts_wherever_there_are_times() -> None:
    near, times = planted(2.0)
    nothing, two = np.full(5, np.nan, np.float32), np.array([np.nan, 1, np.nan, 9], np.float32)
    assert measure_time_scale(nothing, nothing, 3.0) == TimeScale(3.0, 0.0, 0.0)
    assert measure_time_scale(nothing, two[:3], 3.0) == TimeScale(3.0, 0.0, 0.0)
    assert measure_time_scale(nothing, two, 3.0) == TimeScale(3.0, GIVEN, 0.0)
    assert measure_time_scale(near, times, 3.0).days == 3
    assert GIVEN < measure_time_scale(near, times, 3.0).share <= MOST


def test_the_scale_is_no_shorter_than_the_steps_of_the_times() -> None:
    near, times = planted(0.01)
    assert measure_time_scale(near, times).days == pytest.approx(HOUR, rel=0.5)
    whole = measure_time_scale(np.zeros(5000, np.float32), np.repeat(np.arange(30, dtype=np.float32), 100))
    assert whole.days == 1
    equal = measure_time_scale(np.zeros(9000, np.float32), np.zeros(3000, np.float32))
    assert (equal.days, equal.share, equal.difference) == (HOUR, 0, 0)


def slow_lists(lists: list[list[tuple[int, float]]], days: list[float], scale: TimeScale, metric: str) -> list:
    found = []
    for row, entries in enumerate(lists):
        longer = []
        for other, distance in entries:
            gap = abs(days[row] - days[other])
            gap = scale.days if np.isnan(gap) else gap
            cosine = 1 - distance**2 / 2 if metric == "L2" else 1 - distance
            if distance > FLOOR and cosine > 0:
                cosine *= 1 - scale.share * (1 - np.exp(-gap / scale.days))
                distance = (2 - 2 * cosine) ** 0.5 if metric == "L2" else 1 - cosine
            longer.append((other, distance))
        found.append(sorted(longer, key=lambda one: (np.float32(one[1]), one[0])))
    return found


@given(st.data(), st.sampled_from(["L2", "COSINE", "IP"]))
def test_entries_are_lengthened_as_in_the_slow_way(data: st.DataObject, metric: str) -> None:
    n_texts = data.draw(st.integers(2, 6))
    length = st.floats(0, 2, width=32)
    lists = [
        [(other, data.draw(length)) for other in range(n_texts) if other != row and data.draw(st.booleans())]
        for row in range(n_texts)
    ]
    days = data.draw(st.lists(st.floats(0, 1000, width=32) | st.just(np.nan), min_size=n_texts, max_size=n_texts))
    scale = TimeScale(data.draw(st.floats(0.05, 100)), data.draw(st.floats(0.01, 1)), 1.0)
    listed = np.array([len(one) for one in lists])
    others = np.array([other for one in lists for other, _ in one], np.int32)
    distances = np.array([distance for one in lists for _, distance in one], np.float32)
    lengthen_by_time(listed, others, distances, 0, np.array(days, np.float32), scale, metric, FLOOR)
    slow = [entry for one in slow_lists(lists, days, scale, metric) for entry in one]
    assert_allclose(distances, [distance for _, distance in slow], rtol=1e-5, atol=1e-6)
    for start, stop in zip(np.cumsum(listed) - listed, np.cumsum(listed), strict=True):
        own = list(zip(distances[start:stop].tolist(), others[start:stop].tolist(), strict=True))
        assert own == sorted(own)
        assert sorted(others[start:stop]) == sorted(other for other, _ in slow[start:stop])


def test_both_ends_see_the_same_length_and_equal_vectors_stay_together() -> None:
    others, distances = np.array([1, 2, 0, 0]), np.array([0.0, 0.8, 0.0, 0.8], np.float32)
    days = np.array([0, 100, 3], np.float32)
    lengthen_by_time(np.array([2, 1, 1]), others, distances, 0, days, TimeScale(3.0, 0.5, 0.5), "L2", FLOOR)
    assert_array_equal(others, [1, 2, 0, 0])
    assert distances[0] == distances[2] == 0
    assert distances[1] == distances[3] == pytest.approx((2 - 2 * 0.68 * (1 - 0.5 * (1 - np.exp(-1)))) ** 0.5)
