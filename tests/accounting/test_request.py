"""One request's parts, on timelines with a known answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.accounting.cases import ENGINE, ROOT, STEP_NS, in_engine, member, span, step, trace
from vllm_codesign import semconv as S
from vllm_codesign.accounting import account, bottleneck, exposed_ns, timelines
from vllm_codesign.model.trace import SpanEvent


def test_a_request_alone_in_two_steps_gives_every_part_its_length():
    mine = (member(),)
    first = step(1, 1000, members=(member(phase="prefill"),))
    second = step(2, 1000 + STEP_NS + 7, before=7, members=mine)
    done = second.end_ns
    request = trace(
        900,
        done + 12,
        span(S.HTTP_RECEIVE.name, 900, 920, **{S.RECEIVE_BODY.key: 8}),
        span(S.TOKENIZE_WAIT.name, 920, 955),
        span(S.TOKENIZE_ENCODE.name, 955, 970),
        span(S.ENGINE_DISPATCH.name, 970, 995, **{S.DISPATCH_CLIENT.key: 5}),
        in_engine(S.ENGINE_QUEUE.name, 995, 1000),
        in_engine(S.PREFILL.name, 1000, first.end_ns),
        in_engine(S.DECODE.name, first.end_ns, done),
        span(
            S.ENGINE_RETURN.name,
            done,
            done + 9,
            **{
                S.RETURN_TRANSIT.key: 4,
                S.RETURN_OUTPUT_QUEUE.key: 3,
                S.RETURN_PROCESS.key: 2,
            },
        ),
        span(S.FRONTEND_RUN.name, done + 9, done + 11),
    )
    found = account(request, timelines([second, first]))
    assert found.parts == {
        "frontend.wait": 8 + 35 + 3,
        "frontend.cpu": 12 + 15 + 5 + 2 + 2,
        "ipc": 20 + 4,
        "device.prefill": 60,
        "device.decode": 60,
        "device.gap.schedule": 20,
        "device.gap.ipc": 2 * (5 + 3 + 4),
        "device.gap.prepare": 10,
        "device.gap.update": 12,
        "device.gap.output": 7,
        # 5 between the queue and the first step, which says nothing of what came before it,
        # and 1 after the last phase
        "unattributed": 6,
    }
    assert found.total_ns == request.root.duration_ns
    assert found.hidden_ns == 0
    assert bottleneck(found) == "frontend.wait"
    assert exposed_ns(found) == found.total_ns - 120 - 6


def test_a_load_comes_before_gaps_and_queue_and_after_the_device():
    """Asynchronous from 960 to 1010, in the queue and in schedule(); synchronous over the worker's
    preparing and the model's first 10 ns."""
    made = step(1, 1000, members=(member(phase="prefill"),))
    (rank,) = made.ranks
    begins = rank.forward[0]
    request = trace(
        950,
        made.end_ns,
        in_engine(S.ENGINE_QUEUE.name, 950, 1000),
        in_engine(S.KV_LOAD.name, 960, 1010),
        in_engine(S.PREFILL.name, 1000, made.end_ns),
        in_engine(S.KV_LOAD.name, begins - 5, begins + 10),
    )
    found = account(request, timelines([made]))
    assert found.parts["kv.load"] == 50 + 5
    assert found.parts["device.prefill"] == 60
    assert "device.gap.prepare" not in found.parts
    assert "device.gap.schedule" not in found.parts
    assert found.total_ns == request.root.duration_ns
    assert bottleneck(found) == "kv.load"
    assert exposed_ns(found) == found.total_ns - 60 - 55 - found.parts["unattributed"]


def test_below_level_step_an_asynchronous_load_is_a_part_too():
    request = trace(
        950,
        1100,
        in_engine(S.ENGINE_QUEUE.name, 950, 1000),
        in_engine(S.KV_LOAD.name, 960, 990),
        in_engine(S.PREFILL.name, 1000, 1100),
        level="request",
    )
    assert account(request, {}).parts == {"kv.load": 30, "engine.queue": 20, "engine.prefill": 100}


def test_waiting_is_capacity_while_the_device_works_for_others_and_host_while_it_idles():
    others = step(1, 1000, members=(member(span_id=5, request="r5"),))
    mine = step(2, 1000 + STEP_NS, members=(member(phase="prefill"),))
    request = trace(
        1000,
        mine.end_ns,
        in_engine(S.ENGINE_QUEUE.name, 1000, 1000 + STEP_NS),
        in_engine(S.PREFILL.name, 1000 + STEP_NS, mine.end_ns),
    )
    parts = account(request, timelines([others, mine])).parts
    assert parts["queue.capacity"] == 60
    assert parts["queue.host"] == STEP_NS - 60
    assert parts["device.prefill"] == 60


@pytest.mark.parametrize("reason", ["no_free_blocks", "preemption"])
def test_waiting_for_blocks_is_capacity_whatever_the_device_does(reason: str):
    full = step(1, 1000, members=(member(span_id=5, request="r5"),), blocked_by=reason)
    mine = step(2, 1000 + STEP_NS, members=(member(phase="prefill"),))
    request = trace(
        1000,
        mine.end_ns,
        in_engine(S.ENGINE_QUEUE.name, 1000, 1000 + STEP_NS),
        in_engine(S.PREFILL.name, 1000 + STEP_NS, mine.end_ns),
    )
    parts = account(request, timelines([full, mine])).parts
    # From the end of the schedule() that found no blocks; before it nobody knew.
    assert parts["queue.capacity"] == STEP_NS - 10
    assert parts["queue.host"] == 10


@pytest.mark.parametrize(("reason", "part"), [("no_free_blocks", "capacity"), ("no_slot", "host")])
def test_a_preempted_request_waits_for_blocks_as_one_in_the_queue_does(reason: str, part: str):
    """Its span goes on; that it is in no step says that it waits."""
    others = (member(span_id=5, request="r5"),)
    steps = [
        step(1, 1000, members=(member(), *others)),
        step(2, 1000 + STEP_NS, members=others, blocked_by=reason),
        step(3, 1000 + 2 * STEP_NS, members=others, blocked_by=reason),
        step(4, 1000 + 3 * STEP_NS, members=others),
    ]
    decode = in_engine(S.DECODE.name, 1000, steps[2].end_ns)
    preempted = SpanEvent(S.EVENT_PREEMPTED, decode.start_ns + STEP_NS + 5, {})
    request = trace(1000, steps[2].end_ns, replace(decode, events=(preempted,)))
    parts = account(request, timelines(steps)).parts
    assert parts["device.decode"] == 60
    # A live timeline ends with the step before the one that comes after the request.
    assert account(request, timelines(steps[:3])).parts == parts
    # Without the event nobody knows why it is in no step; and nothing else changes.
    lost = account(trace(1000, steps[2].end_ns, decode), timelines(steps)).parts
    moved = lost.get("device.gap.other", 0)
    assert lost["queue.capacity"] + moved == parts["queue.capacity"]
    assert lost.get("queue.host") == parts.get("queue.host")
    assert (moved > 0) == (part == "capacity")
    idle = 2 * (STEP_NS - 60)
    found = {"capacity": parts["queue.capacity"], "host": parts.get("queue.host", 0)}
    if part == "capacity":
        # Until the schedule() that found no blocks had returned nobody knew.
        assert found == {"capacity": 2 * 60 + idle - 10, "host": 10}
    else:
        assert found == {"capacity": 2 * 60, "host": idle}


def test_enginecore_waits_for_a_result_no_longer_than_it_said():
    busy = replace(step(1, 1000, members=(member(),)), waited_ns=30)
    assert busy.update == (1087, 1093)
    parts = account(
        trace(1000, 1093, in_engine(S.DECODE.name, 1000, 1093)), timelines([busy])
    ).parts
    # Before the worker had its batch EngineCore did something else, and nobody knows what.
    assert parts["device.gap.other"] == 5
    assert parts["device.gap.ipc"] == 3 + 4


def test_a_preempted_request_that_is_back_runs_again():
    others = (member(span_id=5, request="r5"),)
    steps = [
        step(1, 1000, members=(member(), *others)),
        step(2, 1000 + STEP_NS, members=others, blocked_by="preemption"),
        step(3, 1000 + 2 * STEP_NS, members=(member(), *others), blocked_by="no_free_blocks"),
        step(4, 1000 + 3 * STEP_NS, members=others, blocked_by="no_free_blocks"),
        step(5, 1000 + 4 * STEP_NS, members=others),
    ]
    decode = in_engine(S.DECODE.name, 1000, steps[3].end_ns)
    preempted = SpanEvent(S.EVENT_PREEMPTED, decode.start_ns + STEP_NS + 5, {})
    request = trace(1000, steps[3].end_ns, replace(decode, events=(preempted,)))
    parts = account(request, timelines(steps)).parts
    # Left out of the fourth step it was not preempted again: nobody knows why it idles there.
    assert parts["device.gap.other"] == STEP_NS - 60
    assert parts["device.decode"] == 2 * 60


def test_a_step_whose_members_are_unknown_is_nobodys_device_time():
    request = trace(1000, 1093, in_engine(S.DECODE.name, 1000, 1093))
    parts = account(request, timelines([step(1, 1000, members=None)])).parts
    assert parts == {"unattributed": 60, "device.gap.other": 33}


def test_schedule_of_the_next_step_hides_behind_the_device():
    mine = (member(),)
    first = step(1, 1000, model=200, members=mine)
    # Planned while the device works on the first: asynchronous scheduling.
    second = step(2, 1050, schedule=30, reach=200, members=mine)
    request = trace(1000, second.end_ns, in_engine(S.DECODE.name, 1000, second.end_ns))
    found = account(request, timelines([first, second]))
    assert found.parts["device.gap.schedule"] == 10  # the first step's own
    assert found.hidden_ns >= 30
    assert found.total_ns == request.root.duration_ns


def test_a_worker_that_prepares_for_others_holds_the_device_up_whatever_enginecore_does():
    mine = step(1, 1000, update=30, members=(member(),))
    # Planned before the first result came back; prepared while EngineCore deals with that.
    others = step(
        2, 1015, schedule=5, reach=69, prepare=40, members=(member(span_id=5, request="r5"),)
    )
    assert mine.update == (1087, 1117)
    assert others.ranks[0].execute[0] == 1089  # type: ignore[index]
    request = trace(1000, 1117, in_engine(S.DECODE.name, 1000, 1117))
    parts = account(request, timelines([mine, others])).parts
    assert parts["device.gap.update"] == 2
    assert parts["queue.host"] == 28
    # Whose batch it was is not known: nobody says why the device is idle.
    unknown = replace(others, members=None)
    parts = account(request, timelines([mine, unknown])).parts
    assert parts["device.gap.update"] == 2
    assert parts["device.gap.other"] == 28
    assert "queue.host" not in parts


def test_below_step_level_the_engine_phases_stand_for_themselves():
    request = trace(
        1000,
        1100,
        in_engine(S.ENGINE_QUEUE.name, 1000, 1010),
        in_engine(S.PREFILL.name, 1010, 1050),
        in_engine(S.DECODE.name, 1050, 1090),
        level="request",
    )
    found = account(request, timelines([step(1, 1010, members=(member(),))]))
    assert found.parts == {
        "engine.queue": 10,
        "engine.prefill": 40,
        "engine.decode": 40,
        "unattributed": 10,
    }


def test_several_choices_count_once():
    both = (member(request="r1"), member(request="r2", phase="prefill"))
    request = trace(
        1000, 1093, in_engine(S.DECODE.name, 1000, 1093), in_engine(S.PREFILL.name, 1000, 1093)
    )
    found = account(request, timelines([step(1, 1000, members=both)]))
    assert found.parts["device.prefill"] == 60
    assert found.total_ns == 93


def test_on_two_engines_each_instant_has_the_part_that_comes_first_on_any():
    here = step(1, 1000, members=(member(phase="prefill"),))
    there = replace(
        step(1, 1040, members=(member(phase="prefill", request="r2"),)), engine=ENGINE + 1
    )
    request = trace(
        1000,
        1133,
        in_engine(S.PREFILL.name, 1000, 1093),
        in_engine(S.ENGINE_QUEUE.name, 1000, 1040, engine=ENGINE + 1),
        in_engine(S.PREFILL.name, 1040, 1133, engine=ENGINE + 1),
    )
    found = account(request, timelines([here, there]))
    # Here the device works in [1020, 1070) and [1073, 1083), there in [1060, 1110) and
    # [1113, 1123).
    assert found.parts["device.prefill"] == 90 + 10
    assert found.total_ns == 133
    # Alone each idle stretch has the same names as on one engine.
    assert set(found.parts) <= {
        "device.prefill",
        "device.gap.schedule",
        "device.gap.ipc",
        "device.gap.prepare",
        "device.gap.update",
    }


def test_up_to_the_first_token():
    request = trace(1000, 1093, in_engine(S.PREFILL.name, 1000, 1093))
    found = account(request, timelines([step(1, 1000, members=(member(),))]), until_ns=30)
    assert found.total_ns == 30
    assert found.parts["device.decode"] == 10


def test_a_root_without_its_start_on_the_host_s_clock_is_refused():
    request = trace(1000, 1093)
    del request.root.attributes[S.MONOTONIC.key]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=f"{ROOT:016x} lacks codesign.monotonic_ns"):
        account(request, {})
