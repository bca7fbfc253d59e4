"""Steps out of the records of several processes, in whatever order those come."""

from __future__ import annotations

import random
import struct
from collections import defaultdict
from itertools import count
from typing import Any

import pytest

from tests.exporter.records import dispatched, rec, root_begin
from vllm_codesign.exporter.facts import EngineFacts, RootFacts
from vllm_codesign.exporter.steps import (
    DEVICE_NS,
    GIVE_UP_NS,
    SETTLE_NS,
    STRAY_NS,
    STUCK_NS,
    StepAssembler,
)
from vllm_codesign.model.step import DeviceInterval, Member, RankStep, Step
from vllm_codesign.recorder.layout import DECODING, DeviceWork, Kind
from vllm_codesign.recorder.reader import Record

ENGINE, RANKS = 4242, (5000, 5001)
T = 10**12
NEVER = 1 << 62

_record_numbers = count()


def raw(kind: Kind, **fields: Any) -> Record:
    blank = {"s": 0, "c": 0, "key": 0, "t0": 0, "t1": 0, "a": 0, "b": 0, "payload": b""}
    return Record(next(_record_numbers), kind, **{**blank, **fields})


def key(number: int) -> int:
    return ENGINE << 40 | number


def eight(*numbers: int) -> bytes:
    return struct.pack("<8I", *numbers, *[0] * (8 - len(numbers)))


def begins(number: int) -> int:
    return T + number * 1_000_000


def plan(
    number: int,
    members: list[tuple[int, int, bool]] | None = None,
    told_with: int | None = None,
    **more: Any,
) -> list[Record]:
    """EngineCore's records of `schedule()`: pieces first, as the hooks write them."""
    at = begins(number)
    decodes = [n for n, tokens, decodes in members or () if decodes and tokens == 1]
    chunks = [m for m in members or () if not (m[2] and m[1] == 1)]
    payloads = [
        (Kind.STEP_DECODES, decodes[i : i + 8], decodes[i : i + 8])
        for i in range(0, len(decodes), 8)
    ]
    for i in range(0, len(chunks), 4):
        four = chunks[i : i + 4]
        flat = [x for n, tokens, d in four for x in (n, tokens | (DECODING if d else 0))]
        payloads.append((Kind.STEP_CHUNKS, four, flat))  # type: ignore[arg-type]
    pieces = [
        raw(kind, key=key(number), s=len(each), c=index, payload=eight(*flat))
        for index, (kind, each, flat) in enumerate(payloads)
    ]
    with_ = number if told_with is None else told_with
    step = raw(
        Kind.STEP,
        key=key(number),
        t0=at,
        t1=at + 100,
        a=7 << 32 | 3,
        b=11,
        c=2,
        s=more.get("reason", 0),
    )
    state = raw(
        Kind.STEP_STATE,
        key=key(number),
        t0=at + 10,
        t1=at + 60,
        a=9 << 32 | 40,
        b=key(with_),
        c=1 << 16 | len(pieces),
        s=4,
    )
    return [*pieces, step, state]


def update(number: int) -> Record:
    at = begins(number) + 900
    return raw(Kind.STEP_UPDATE, key=key(number), t0=at, t1=at + 50, a=5 << 32 | 2, b=700, c=1)


def ran(number: int, rank: int = 0) -> list[Record]:
    at = begins(number) + 150 + rank
    return [
        raw(
            Kind.WORKER_EXECUTE,
            key=key(number),
            t0=at,
            t1=at + 500,
            a=at + 30,
            b=at + 400,
            c=7,
            s=rank,
        ),
        raw(Kind.WORKER_SAMPLE, key=key(number), t0=at + 510, t1=at + 600, s=rank),
    ]


def on_device(number: int, rank: int = 0, *works: DeviceWork) -> list[Record]:
    at = begins(number) + 300 + rank
    times = {
        DeviceWork.MODEL: (0, 200),
        DeviceWork.SAMPLE: (220, 300),
        DeviceWork.DRAFT: (250, 290),
    }
    return [
        raw(
            Kind.WORKER_DEVICE,
            key=key(number),
            t0=at + times[work][0],
            t1=at + times[work][1],
            a=at if work == DeviceWork.MODEL else 0,
            b=at + 150 if work == DeviceWork.MODEL else 0,
            c=work,
            s=rank,
        )
        for work in works or (DeviceWork.MODEL, DeviceWork.SAMPLE)
    ]


class Requests:
    """Requests in the making, as the assembler keeps them."""

    def __init__(self) -> None:
        self.engines: dict[int, EngineFacts] = {}
        self.roots: dict[int, RootFacts] = {}

    def add(self, request: int, root: int = 0) -> None:
        facts = self.engines[request] = EngineFacts(request, 1, root_key=root)
        for record in dispatched(request, root):
            facts.add(record)
        if root and root not in self.roots:
            found = self.roots[root] = RootFacts(root, 1)
            for record in root_begin(root):
                found.add(record)


@pytest.fixture
def requests() -> Requests:
    made = Requests()
    made.add(11, root=1)
    made.add(12, root=1)
    made.add(13)
    return made


@pytest.fixture
def made(requests: Requests) -> StepAssembler:
    found = StepAssembler(requests.engines, requests.roots)
    for number, request in ((1, 11), (2, 12), (3, 13)):
        found.take(ENGINE, rec(Kind.ENG_QUEUED, request)._replace(t1=number))
    return found


def feed(made: StepAssembler, records: list[Record], pid: int = ENGINE) -> None:
    for record in records:
        made.take(pid, record)


def settled(number: int) -> int:
    return begins(number) + 950 + SETTLE_NS


ALL = [(1, 1, True), (2, 3, True), (3, 16, False)]


def test_a_step(made: StepAssembler, requests: Requests) -> None:
    feed(made, [*plan(1, ALL, reason=3), update(1)])
    feed(made, [*ran(1), *on_device(1, 0, *DeviceWork)], RANKS[0])
    assert list(made.complete(settled(1) - 1)) == []
    assert made.open_since() == begins(1)
    (step,) = made.complete(settled(1))
    at = begins(1)
    root = requests.roots[1].one[Kind.ROOT_PARENT]
    trace_id = root.t0 << 64 | root.t1
    own_trace, own_span = requests.engines[13].own_ids()
    assert step == Step(
        engine=ENGINE,
        number=1,
        schedule=(at, at + 100),
        before_ns=11,
        update=(at + 900, at + 950),
        waited_ns=700,
        ranks=(
            RankStep(
                0,
                (at + 150, at + 650),
                (at + 180, at + 550),
                (at + 660, at + 750),
                (at + 300, at + 450),
                (
                    DeviceInterval(at + 300, at + 500, "model", "events"),
                    DeviceInterval(at + 520, at + 600, "sample", "events"),
                    DeviceInterval(at + 550, at + 590, "draft", "events"),
                ),
            ),
        ),
        members=(
            Member(trace_id, root.a, "cmpl-11", 1, "decode"),
            Member(trace_id, root.a, "cmpl-12", 3, "decode"),
            Member(own_trace, own_span, "cmpl-13", 16, "prefill"),
        ),
        requests=3,
        tokens=7,
        waiting=4,
        running=9,
        blocked_by="token_budget",
        allocate=(at + 10, at + 60),
        allocate_ns=40,
        allocate_calls=2,
        preempted=1,
        drafted=5,
        accepted=2,
    )
    assert made.open_since() == NEVER
    assert made.root_keys == {root.a: 1}


def test_on_the_cpu_the_wall_stands_in(made: StepAssembler) -> None:
    feed(made, [*plan(1, ALL), update(1), *ran(1)])
    (step,) = made.complete(settled(1))
    (rank,) = step.ranks
    assert rank.forward is not None
    assert rank.execute is not None
    assert rank.sample is not None
    assert rank.device == (
        DeviceInterval(rank.forward[0], rank.execute[1], "model", "wall"),
        DeviceInterval(*rank.sample, "sample", "wall"),
    )
    assert rank.forward_device == rank.forward


def everything() -> dict[int, list[Record]]:
    """By process: four steps of two ranks, with asynchronous scheduling."""
    engine = [
        *plan(1, ALL),
        *plan(2, [(1, 1, True), (2, 1, True)]),
        update(1),
        *plan(3, told_with=2),
        update(2),
        *plan(4, told_with=2),
        update(3),
        update(4),
    ]
    found = defaultdict(list, {ENGINE: engine})
    for number in (1, 2, 3, 4):
        for rank, pid in enumerate(RANKS):
            found[pid] += [*ran(number, rank), *on_device(number, rank)]
    return found


@pytest.mark.parametrize("seed", range(20))
def test_any_interleaving_gives_the_same_steps(requests: Requests, seed: int) -> None:
    def fresh() -> StepAssembler:
        made = StepAssembler(requests.engines, requests.roots)
        for number, request in ((1, 11), (2, 12), (3, 13)):
            made.take(ENGINE, rec(Kind.ENG_QUEUED, request)._replace(t1=number))
        return made

    reference = fresh()
    for pid, records in everything().items():
        feed(reference, records, pid)
    expected = list(reference.complete(settled(4)))
    assert [step.number for step in expected] == [1, 2, 3, 4]
    assert all(len(step.ranks) == 2 and step.members for step in expected)
    assert expected[2].members == expected[3].members == expected[1].members

    made, source, found = fresh(), random.Random(seed), []
    queues = {pid: iter(records) for pid, records in everything().items()}
    while queues:
        pid = source.choice(list(queues))
        for _ in range(source.randint(1, 6)):
            record = next(queues[pid], None)
            if record is None:
                del queues[pid]
                break
            made.take(pid, record)
        found += made.complete(T)  # nothing has settled yet
    assert found == []
    assert list(made.complete(settled(4))) == expected
    assert (made.lost, made.late) == (0, 0)


def test_steps_come_in_order_though_a_later_one_is_complete(made: StepAssembler) -> None:
    feed(made, [*plan(1, ALL), *plan(2, ALL), update(2)])
    assert list(made.complete(settled(2))) == []
    feed(made, [update(1)])
    assert [step.number for step in made.complete(settled(2))] == [1, 2]


def test_a_lost_piece_leaves_the_members_unknown(made: StepAssembler) -> None:
    records = plan(1, [(1, 1, True)] * 9)
    feed(
        made, [*records[1:], update(1), *plan(2, told_with=1), update(2), *plan(3, ALL), update(3)]
    )
    one, two, three = made.complete(settled(3))
    assert (one.members, one.requests) == (None, 3)
    assert two.members is None, "it refers to what was lost"
    assert len(three.members or ()) == 3


def test_a_lost_state_leaves_the_members_unknown(made: StepAssembler) -> None:
    feed(made, [*plan(1, ALL)[:-1], update(1), *plan(2, told_with=1), update(2)])
    one, two = made.complete(settled(2))
    assert (one.members, one.waiting, one.running, one.allocate) == (None, 0, 0, None)
    assert two.members is None


def test_a_step_of_untraced_requests_has_no_members(made: StepAssembler) -> None:
    feed(made, [*plan(1, []), update(1)])
    (step,) = made.complete(settled(1))
    assert (step.members, step.requests) == ((), 3)


def test_members_whose_request_is_not_known_are_left_out(made: StepAssembler) -> None:
    feed(made, [*plan(1, [(1, 1, True), (99, 1, True)]), update(1)])
    (step,) = made.complete(settled(1))
    assert [member.request_id for member in step.members or ()] == ["cmpl-11"]


def test_members_are_known_after_their_request_has_gone(
    made: StepAssembler, requests: Requests
) -> None:
    feed(made, [*plan(1, [(1, 1, True)]), update(1), *plan(2, told_with=1), update(2)])
    (one,) = made.complete(settled(1))
    requests.engines.clear()
    requests.roots.clear()
    (two,) = made.complete(settled(2))
    assert one.members == two.members != ()


def test_a_lost_result_is_not_waited_for(made: StepAssembler) -> None:
    feed(made, [*plan(1, ALL), *ran(1), *plan(2, ALL), *ran(2), update(2)])
    later = begins(2) + 950 + STUCK_NS
    assert list(made.complete(later)) == []
    one, two = made.complete(later + 1)
    assert (one.number, one.update, one.waited_ns, one.drafted) == (1, None, 0, 0)
    assert (two.number, two.update) == (2, (begins(2) + 900, begins(2) + 950))


def test_a_step_in_flight_is_not_taken_for_one_whose_result_was_lost(made: StepAssembler) -> None:
    """The one before it had its result long ago, and waited for times of the device."""
    feed(made, [*on_device(0), *plan(1, ALL), update(1), *ran(1), *plan(2, ALL)])
    at = begins(1) + 950 + max(STUCK_NS, DEVICE_NS) + 1
    assert [step.number for step in made.complete(at)] == [1]
    assert list(made.complete(at + STUCK_NS)) == []
    feed(made, [update(2)])
    assert [step.update is not None for step in made.complete(at + STUCK_NS)] == [True]


def test_a_step_without_a_result_does_not_stay_for_ever(made: StepAssembler) -> None:
    """The level was switched off between its plan and its result, and nothing follows."""
    feed(made, plan(1, ALL))
    over = begins(1) + 100 + GIVE_UP_NS
    assert list(made.complete(over)) == []
    assert [step.number for step in made.complete(over + 1)] == [1]
    assert made.open_since() == NEVER


def test_the_last_step_of_a_killed_engine_is_handed_out(made: StepAssembler) -> None:
    feed(made, [*plan(1, ALL), *ran(1)])
    soon = begins(1) + 100 + SETTLE_NS + 1
    assert list(made.complete(soon)) == []
    assert list(made.complete(soon, gone={RANKS[0]})) == []
    (step,) = made.complete(soon, gone={ENGINE})
    assert (step.update, len(step.ranks)) == (None, 1)


def test_the_end_hands_out_everything(made: StepAssembler) -> None:
    feed(made, [*plan(1, ALL), update(1), *plan(2, told_with=1)])
    one, two = made.complete(begins(2), final=True)
    assert (one.update is None, two.update is None) == (False, True)
    assert one.members == two.members
    assert made.open_since() == NEVER


def test_device_times_are_waited_for_where_they_are_to_be_expected(made: StepAssembler) -> None:
    feed(made, [*plan(1, ALL), update(1), *ran(1)])
    (one,) = made.complete(settled(1))
    assert one.ranks[0].device[0].source == "wall"
    feed(made, [*plan(2, ALL), update(2), *ran(2), *on_device(2)])
    (two,) = made.complete(settled(2))
    assert two.ranks[0].device[0].source == "events"
    feed(made, [*plan(3, ALL), update(3), *ran(3)])
    updated = begins(3) + 950
    assert list(made.complete(settled(3))) == []
    assert list(made.complete(updated + DEVICE_NS)) == []
    feed(made, on_device(3))
    (three,) = made.complete(updated + DEVICE_NS)
    assert three.ranks[0].device[0].source == "events"
    feed(made, [*plan(4, ALL), update(4), *ran(4)])
    (four,) = made.complete(begins(4) + 950 + DEVICE_NS + 1)
    assert four.number == 4


def test_what_comes_after_its_step_was_handed_out_is_counted(made: StepAssembler) -> None:
    feed(made, [*plan(1, ALL), update(1)])
    assert len(list(made.complete(settled(1)))) == 1
    feed(made, on_device(1))
    assert (made.late, made.lost, made._early) == (2, 0, {})


def test_device_times_without_the_workers_record_are_left_out(made: StepAssembler) -> None:
    """They stand on the worker's spans: a capture has no place for them, so neither have we."""
    execute, sample = ran(1)
    feed(made, [*plan(1, ALL), update(1), execute, *on_device(1)])
    (one,) = made.complete(settled(1))
    assert [d.work for d in one.ranks[0].device] == ["model"]
    feed(made, [*plan(2, ALL), update(2), ran(2)[1], *on_device(2)])
    (two,) = made.complete(settled(2))
    assert [d.work for d in two.ranks[0].device] == ["sample"]
    assert two.ranks[0].forward_device is None
    assert (sample.t0, one.ranks[0].sample) == (begins(1) + 660, None)


def test_workers_may_be_read_first(made: StepAssembler) -> None:
    for rank, pid in enumerate(RANKS):
        feed(made, ran(1, rank), pid)
    assert list(made.complete(begins(1))) == []
    feed(made, [*plan(1, ALL), update(1)])
    (step,) = made.complete(settled(1))
    assert [rank.rank for rank in step.ranks] == [0, 1]


def test_pieces_are_kept_until_their_step_is_read(made: StepAssembler) -> None:
    """EngineCore writes them first, and a round of reading may end in between."""
    for number in range(100, 200):
        feed(made, ran(number), RANKS[0])
    pieces = plan(1, ALL)
    feed(made, pieces[:2])
    assert list(made.complete(begins(1))) == []
    feed(made, [*pieces[2:], update(1)])
    (step,) = made.complete(settled(1))
    assert len(step.members or ()) == 3


def test_records_of_steps_that_were_lost_are_forgotten(made: StepAssembler) -> None:
    feed(made, [*plan(1, ALL), update(1)])
    feed(made, ran(2), RANKS[0])  # and EngineCore's records of it are lost
    feed(made, [*plan(3, ALL), update(3), *plan(5, ALL), update(5)])
    assert len(list(made.complete(settled(5)))) == 3
    assert made._early == {}
    assert made.lost == 2, "steps 2 and 4"
    feed(made, ran(7), RANKS[0])
    assert list(made.complete(T)) == []
    assert list(made.complete(T + STRAY_NS)) == []
    assert len(made._early) == 1
    assert list(made.complete(T + STRAY_NS + 1)) == []
    assert made._early == {}


def test_two_engines_do_not_wait_for_each_other(made: StepAssembler) -> None:
    other = ENGINE + 1

    def of_other(record: Record) -> Record:
        shift = (other - ENGINE) << 40
        b = record.b + shift if record.kind == Kind.STEP_STATE else record.b
        return record._replace(key=record.key + shift, b=b)

    feed(made, plan(1, ALL))
    feed(made, [of_other(r) for r in (*plan(2, []), update(2))], other)
    (step,) = made.complete(settled(2))
    assert (step.engine, step.number) == (other, 2)
    assert made.open_since() == begins(1)
