"""Rows in, columns out, whatever came in between."""

from __future__ import annotations

import random

import numpy as np
import pytest

from vllm_codesign.accounting.columns import Columns


def test_columns_are_what_was_added() -> None:
    columns = Columns(2)
    assert len(columns) == 0
    assert columns[0].tolist() == []
    columns.append((1, 10))
    assert len(columns) == 1
    columns.append((2, 20))
    assert (columns[0].tolist(), columns[1].tolist()) == ([1, 2], [10, 20])


@pytest.mark.parametrize("seed", range(5))
def test_any_order_of_adding_looking_and_dropping(seed: int) -> None:
    rng = random.Random(seed)
    columns, expected = Columns(3), []
    handed_out = []
    for number in range(12_000):
        row = (number, rng.randrange(1 << 60), -number)
        columns.append(row)
        expected.append(row)
        if rng.random() < 0.002:
            column = rng.randrange(3)
            handed_out.append((columns[column], [r[column] for r in expected]))
        if rng.random() < 0.001:
            count = rng.randrange(len(expected) + 1)
            columns.drop(count)
            del expected[:count]
        assert len(columns) == len(expected)
    assert np.array_equal(np.stack([columns[i] for i in range(3)]).T, np.array(expected))
    assert len(handed_out) > 5
    for column, values in handed_out:
        assert column.tolist() == values, "what was handed out stays as it was"


def test_rows_wait_in_bounded_number() -> None:
    columns = Columns(1)
    for number in range(100_000):
        columns.append((number,))
    assert len(columns._new) < 5_000
