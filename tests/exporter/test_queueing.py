"""Waiting time by reason: the parts sum to the whole, always."""

from hypothesis import given
from hypothesis import strategies as st

from vllm_codesign.exporter.queueing import _KEEP, HeadTimeline, split
from vllm_codesign.recorder.layout import REASON_NUMBERS, Kind
from vllm_codesign.recorder.reader import Record

ME, OTHER = 1, 2
NO_SLOT = REASON_NUMBERS.index("no_slot") + 1
NO_BLOCKS = REASON_NUMBERS.index("no_free_blocks") + 1
KV_LOAD = REASON_NUMBERS.index("kv_load") + 1


def head(at: int, key: int, reason: int) -> Record:
    return Record(0, Kind.ENG_HEAD, reason, 0, key, at, 0, 0, 0)


def deferred(at: int, reason: int) -> Record:
    return Record(0, Kind.ENG_DEFERRED, reason, 0, ME, at, 0, 0, 0)


def timeline(*records: Record) -> HeadTimeline:
    made = HeadTimeline()
    for record in records:
        made.add(record)
    return made


def test_before_the_head_moves_up_and_after() -> None:
    heads = timeline(head(50, OTHER, NO_BLOCKS), head(130, ME, NO_BLOCKS), head(150, ME, NO_SLOT))
    assert split(100, 200, ME, heads, []) == {
        "behind_head": 30,
        "no_free_blocks": 20,
        "no_slot": 50,
    }


def test_an_empty_queue_at_the_last_step_says_nothing() -> None:
    assert split(100, 200, ME, timeline(), []) == {"other": 100}
    heads = timeline(head(50, OTHER, NO_SLOT), head(90, 0, 0), head(160, ME, NO_SLOT))
    assert split(100, 200, ME, heads, []) == {"other": 60, "no_slot": 40}


def test_own_reasons_go_before_the_heads() -> None:
    heads = timeline(head(0, OTHER, NO_SLOT))
    own = [deferred(170, 0), deferred(120, KV_LOAD)]  # any order
    assert split(100, 200, ME, heads, own) == {"behind_head": 50, "kv_load": 50}
    assert split(100, 200, ME, heads, [deferred(50, KV_LOAD)]) == {"kv_load": 100}
    assert split(100, 200, ME, heads, [deferred(300, KV_LOAD)]) == {"behind_head": 100}


def test_changes_at_the_very_ends() -> None:
    heads = timeline(head(100, ME, NO_SLOT), head(200, ME, NO_BLOCKS))
    assert split(100, 200, ME, heads, []) == {"no_slot": 100}
    assert split(100, 200, ME, timeline(head(100, ME, NO_SLOT), head(100, ME, 1)), []) == {
        "no_free_blocks": 100
    }


def test_no_time_no_reason() -> None:
    assert split(100, 100, ME, timeline(head(0, ME, NO_SLOT)), []) == {}
    assert split(100, 90, ME, timeline(head(0, ME, NO_SLOT)), []) == {}


def test_history_is_bounded() -> None:
    heads = HeadTimeline()
    for at in range(2 * _KEEP + 1):
        heads.add(head(at, ME, NO_SLOT))
    assert len(heads._times) == _KEEP + 1
    assert split(2 * _KEEP - 10, 2 * _KEEP, ME, heads, []) == {"no_slot": 10}


REASONS = st.integers(0, len(REASON_NUMBERS))
TIMES = st.integers(0, 1000)


@given(
    start=TIMES,
    end=TIMES,
    heads=st.lists(st.tuples(TIMES, st.sampled_from([0, ME, OTHER]), REASONS), max_size=20),
    own=st.lists(st.tuples(TIMES, REASONS), max_size=10),
)
def test_the_parts_sum_exactly(
    start: int,
    end: int,
    heads: list[tuple[int, int, int]],
    own: list[tuple[int, int]],
) -> None:
    times = split(
        start,
        end,
        ME,
        timeline(*(head(*each) for each in sorted(heads))),
        [deferred(*each) for each in own],
    )
    assert sum(times.values()) == max(end - start, 0)
    assert all(length > 0 for length in times.values())
    assert set(times) <= set(REASON_NUMBERS)
