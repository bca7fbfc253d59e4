"""Slices in compact columns."""

from vllm_codesign.analysis.slices import Slice, Slices


def test_in_order_of_start_the_longer_first() -> None:
    slices = Slices()
    slices.add(10, 20, "b", key=2)
    slices.add(5, 7, "a", key=1, tag=3)
    slices.add(10, 30, "a", key=3)
    assert list(slices) == [
        Slice(5, 7, "a", 1, 3),
        Slice(10, 30, "a", 3, 0),
        Slice(10, 20, "b", 2, 0),
    ]
    assert (len(slices), slices.first, slices.last) == (3, 5, 30)


def test_shift_moves_all_and_more_may_come() -> None:
    slices = Slices()
    slices.add(1, 2, "a")
    slices.shift(1_760_000_000_000_000_000)
    slices.add(0, 9, "b")
    assert [(s.start, s.end) for s in slices] == [
        (0, 9),
        (1_760_000_000_000_000_001, 1_760_000_000_000_000_002),
    ]
