"""What `dump` prints by is complete, and says the same as the docstrings in `layout`."""

from itertools import combinations

import pytest

from vllm_codesign.recorder.fields import PARTS, Part
from vllm_codesign.recorder.layout import TEXT_KINDS, Kind
from vllm_codesign.recorder.reader import Record

RECORD = Record(0, 1, s=0x1234, c=0xAAAA5555, key=0, t0=-1, t1=7, a=3 << 32 | 9, b=1 << 40)


def test_every_kind_is_there() -> None:
    assert set(PARTS) == set(Kind)


@pytest.mark.parametrize("kind", Kind)
def test_names_are_unique_and_places_exist(kind: Kind) -> None:
    names = [part.name for part in PARTS[kind]]
    assert len(names) == len(set(names))
    slots = {part.place.split(">>")[0].split("&")[0] for part in PARTS[kind]}
    assert slots <= ({"s", "c"} if kind in TEXT_KINDS else {"s", "c", "t0", "t1", "a", "b"})
    for one, other in combinations(PARTS[kind], 2):
        assert one.place != other.place


@pytest.mark.parametrize(
    ("place", "value"),
    [("t0", -1), ("s", 0x1234), ("a>>32", 3), ("a&32", 9), ("c>>16", 0xAAAA), ("c&8", 0x55)],
)
def test_places(place: str, value: int) -> None:
    assert Part("x", place).of(RECORD) == value
