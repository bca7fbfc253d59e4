"""Time in a connector's calls against timelines made by hand: all of it hidden or exposed."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.accounting.cases import ENGINE, step
from vllm_codesign.accounting import timelines
from vllm_codesign.analysis.kv import KV
from vllm_codesign.analysis.kv_sheets import kv_sheets
from vllm_codesign.analysis.kv_waits import GatheredWaits, Waits
from vllm_codesign.model.step import ConnectorCall, DeviceInterval, RankStep, Step


def on_device(number: int, start: int, end: int, *calls: ConnectorCall, ranks: int = 1) -> Step:
    """A step whose device has a clock of its own; rank 0 makes the calls."""
    made = step(number, start - 20)
    work = (DeviceInterval(start, end, "model", "events"),)
    return replace(
        made,
        ranks=tuple(
            RankStep(rank, device=work if rank == ranks - 1 else (), connector=calls * (not rank))
            for rank in range(ranks)
        ),
    )


def waits(*steps: Step) -> dict[str, Waits]:
    found = GatheredWaits()
    engines = timelines(found.watch(steps))
    return {each.work: each for each in found.summary(engines)}


def test_a_save_that_reaches_beyond_the_devices_work() -> None:
    found = waits(on_device(1, 1_000, 1_100, ConnectorCall("save", 1_070, 1_150, 4, 9)))
    assert found["save"] == Waits(ENGINE, "save", 1, 30, 50, 9)
    assert found["save"].total_ns == 80
    assert found["load"] == Waits(ENGINE, "load", 0, 0, 0, 4), "its layers, told by the save"


def test_the_step_before_hides_a_load() -> None:
    """Asynchronous scheduling: the batch is made while the device is at the one before."""
    found = waits(
        on_device(1, 1_000, 1_100),
        on_device(2, 1_120, 1_200, ConnectorCall("load", 1_050, 1_130)),
    )
    assert (found["load"].hidden_ns, found["load"].exposed_ns) == (60, 20)


def test_any_rank_at_work_hides_it() -> None:
    found = waits(on_device(1, 1_000, 1_100, ConnectorCall("save", 1_020, 1_040), ranks=2))
    assert (found["save"].hidden_ns, found["save"].exposed_ns) == (20, 0)


def test_without_any_device_time_all_is_exposed() -> None:
    made = replace(
        step(1, 1_000), ranks=(RankStep(0, connector=(ConnectorCall("load", 1_010, 1_030),)),)
    )
    assert waits(made)["load"] == Waits(ENGINE, "load", 1, 0, 20, 0)


def test_a_save_is_not_work_of_a_device_that_is_the_hosts() -> None:
    """`wall`: from the forward at 1020 to 1070; the save is cut out of it."""
    made = step(1, 1_000)
    rank = replace(made.ranks[0], connector=(ConnectorCall("save", 1_050, 1_060),))
    found = waits(replace(made, ranks=(rank,)))
    assert (found["save"].hidden_ns, found["save"].exposed_ns) == (0, 10)


def test_no_connector_no_figure() -> None:
    assert waits(step(1, 1_000)) == {}


times = st.integers(0, 300)
lengths = st.integers(0, 120)


@given(
    st.lists(st.tuples(times, lengths), min_size=1, max_size=6),
    st.lists(st.tuples(times, lengths), min_size=1, max_size=6),
)
def test_hidden_and_exposed_are_all_of_it(
    worked: list[tuple[int, int]], called: list[tuple[int, int]]
) -> None:
    calls = tuple(ConnectorCall("save", at, at + length) for at, length in sorted(called))
    steps = [
        on_device(number, at, at + length, *(calls if number == 1 else ()))
        for number, (at, length) in enumerate(sorted(worked), 1)
    ]
    busy = {ns for at, length in worked for ns in range(at, at + length)}
    hidden = sum(len(busy & set(range(c.start_ns, c.end_ns))) for c in calls)
    found = waits(*steps)["save"]
    assert found.hidden_ns == hidden
    assert found.hidden_ns + found.exposed_ns == sum(length for _, length in called)


def test_what_is_printed() -> None:
    (sheet,) = kv_sheets(
        KV((), (), (), 0, 0), [Waits(7, "save", 1_200, 2_500_000, 1_000_000, 40_000)]
    )
    assert sheet.title.startswith("workers in the connector's calls (throughput, per fleet)")
    assert sheet.rows == (("7", "save", "1,200", "3.50", "2.50", "1.00", "0.04"),)
