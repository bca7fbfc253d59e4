"""Pieces of a window, at its edges."""

from __future__ import annotations

import numpy as np
import pytest

from vllm_codesign.accounting.sweep import Pieces, table


def pieces(start: int, end: int, *rows: tuple[int, int, int], count: int = 5) -> Pieces:
    found = table(rows)
    return Pieces(start, end, found[0], found[1], found[2], count)


def test_nothing_but_a_window() -> None:
    found = pieces(10, 30)
    assert found.cuts.tolist() == [10, 30]
    assert list(found.by_pattern()) == [(0, 20)]
    assert found.covered(3).tolist() == [False]


def test_a_window_of_no_length() -> None:
    found = pieces(10, 10, (0, 20, 1))
    assert list(found.by_pattern()) == []
    assert found.total(found.covered(1)) == 0


def test_what_lies_outside_is_cut_off() -> None:
    found = pieces(10, 30, (0, 12, 1), (25, 99, 2), (40, 50, 3), (20, 15, 4))
    assert dict(found.by_pattern()) == {1 << 1: 2, 0: 13, 1 << 2: 5}


def test_kinds_overlap_themselves_and_one_another() -> None:
    found = pieces(0, 100, (0, 50, 0), (25, 75, 0), (40, 60, 4))
    assert dict(found.by_pattern()) == {1: 55, 17: 20, 0: 25}
    assert found.total(found.covered(0)) == 75
    assert found.total(found.covered(4)) == 20
    assert found.total(found.covered(2)) == 0


@pytest.mark.parametrize("seed", range(20))
def test_as_counted_instant_by_instant(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [
        (int(a), int(a + length), int(kind))
        for a, length, kind in zip(
            rng.integers(-20, 120, 40),
            rng.integers(-5, 30, 40),
            rng.integers(0, 5, 40),
            strict=True,
        )
    ]
    expected: dict[int, int] = {}
    for instant in range(100):
        pattern = 0
        for begun, over, kind in rows:
            if begun <= instant < over:
                pattern |= 1 << kind
        expected[pattern] = expected.get(pattern, 0) + 1
    assert dict(pieces(0, 100, *rows).by_pattern()) == expected
