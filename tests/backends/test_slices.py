"""A limited search finds everything, by halves, or says that it did not."""

from __future__ import annotations

import random

from vllm_codesign.backends.slices import Slice, search


class Limited:
    """Times in a back end that hands out `most` of them at once, whichever it likes."""

    def __init__(self, times: list[int], most: int) -> None:
        self.times, self.most = times, most
        self.found: set[int] = set()
        self.asked: list[tuple[int, int]] = []

    def find(self, since: int, until: int) -> Slice:
        self.asked.append((since, until))
        inside = [t for t in self.times if since <= t <= until]
        handed = random.Random(len(inside)).sample(inside, min(self.most, len(inside)))
        return Slice(len(handed), lambda: self.found.update(handed))

    def search(self, until: int, enough: int | None = None) -> bool:
        def satisfied() -> bool:
            return enough is not None and len(self.found) >= enough

        return search(0, until, self.find, self.most, 10, satisfied)


def test_one_question_where_one_is_enough() -> None:
    few = Limited([1, 5, 99], most=4)
    assert few.search(100)
    assert few.asked == [(0, 100)]
    assert few.found == {1, 5, 99}


def test_everything_is_found_by_halves() -> None:
    times = random.Random(3).sample(range(100_000), 2_000)
    many = Limited(times, most=50)
    assert many.search(100_000)
    assert many.found == set(times)


def test_more_at_once_than_a_slice_can_hand_out_is_said() -> None:
    crowd = Limited([500] * 3 + [*range(501, 509)], most=5)
    assert not crowd.search(1_000)
    assert len(crowd.asked) < 50


def test_the_newest_first_and_no_more_than_enough() -> None:
    many = Limited([*range(0, 10_000, 10)], most=20)
    assert not many.search(10_000, enough=60)
    assert many.found == set(sorted(many.times)[-len(many.found) :])
    assert 60 <= len(many.found) < 100
    assert len(many.asked) < 20
