"""When a request is complete, whatever the order in which the rings are read."""

from itertools import zip_longest

import pytest

from tests.exporter.records import (
    API,
    ENGINE,
    SPAN,
    TRACE,
    api_records,
    assembled,
    builder,
    dispatched,
    engine_records,
    feed,
    finished,
    rec,
    returned,
    root_begin,
    root_end,
    scheduled,
    text,
    us,
)
from vllm_codesign.exporter.assemble import (
    FORGET_NS,
    GIVE_UP_NS,
    GRACE_NS,
    REMEMBER,
    SETTLE_NS,
    Assembler,
)
from vllm_codesign.exporter.facts import Origin, RootFacts
from vllm_codesign.recorder.layout import Ending, Field, Kind

END = us(9_000)
LATER = END + SETTLE_NS
ORIGIN = Origin(TRACE, SPAN, END)


def complete(assembler: Assembler, at: int, final: bool = False) -> list[RootFacts]:
    return list(assembler.complete(at, final))


def orders() -> list[list[tuple[int, object]]]:
    api = [(API, r) for r in api_records()]
    engine = [(ENGINE, r) for r in engine_records()]
    mixed = [x for pair in zip_longest(api, engine) for x in pair if x is not None]
    return [api + engine, engine + api, mixed]


@pytest.mark.parametrize("order", range(3))
def test_any_order_of_rings_gives_the_same_trace(order: int) -> None:
    assembler = Assembler()
    for pid, record in orders()[order]:
        assembler.take(pid, record)
    (root,) = complete(assembler, LATER)
    assert root.pid == API
    (engine,) = root.engines
    assert (engine.pid, engine.engine_pid, engine.finished) == (API, ENGINE, True)
    made = builder(assembler).request(root, LATER)
    reference = assembled(api_records(), engine_records())
    (other,) = complete(reference, LATER)
    assert made == builder(reference).request(other, LATER)
    assert (assembler.open, assembler.orphans, assembler.engines) == (0, 0, {})
    assert complete(assembler, LATER) == []
    assert list(assembler.leftovers(LATER, final=True)) == []


def test_nothing_is_complete_before_it_has_settled() -> None:
    assembler = assembled(api_records(), engine_records())
    assert complete(assembler, LATER - 1) == []
    assert assembler.open == 1
    assert len(complete(assembler, LATER)) == 1


def test_a_root_waits_for_its_engine_requests_and_not_for_ever() -> None:
    engine = [r for r in engine_records() if r.kind != Kind.ENG_FINISHED]
    assembler = assembled(api_records(), engine)
    assert complete(assembler, END + GRACE_NS - 1) == []
    (root,) = complete(assembler, END + GRACE_NS)
    assert not root.engines[0].finished
    assert list(assembler.engines) == [11], "told again when the engine is done with it"


def test_late_engine_records_complete_it_in_time() -> None:
    assembler = assembled(api_records(), engine_records()[:-1])
    assert complete(assembler, LATER) == []
    feed(assembler, [], [finished()])
    assert len(complete(assembler, LATER)) == 1


def test_a_background_response_goes_on_after_its_root() -> None:
    """The engine request is told up to the response's end, the rest in a trace of its own."""
    background = [*root_begin(), *dispatched(), *root_end(at=4_000)]
    assembler = assembled(background, scheduled())
    at = us(4_000) + GRACE_NS
    (root,) = complete(assembler, at)
    (first,) = builder(assembler).request(root, at)
    assembler.remember(root.key, Origin(TRACE, SPAN, us(4_000)))
    assert list(assembler.leftovers(at)) == [], "the engine still works on it"
    feed(assembler, returned(), [finished()])
    assert list(assembler.leftovers(us(8_600))) == [], "not settled"
    (engine,) = assembler.leftovers(us(8_600) + SETTLE_NS + 1)
    rest = builder(assembler).engine(engine, assembler.ended[1], at)
    assert rest is not None
    (link,) = rest.root.links
    assert (link.trace_id, link.span_id) == (TRACE, SPAN)
    (before,), (after,) = first.named("prefill"), rest.named("prefill")
    assert before.end_ns == after.start_ns == first.root.end_ns
    assert [s.name for s in rest.children] == ["prefill", "decode", "engine.return", "detokenize"]
    assert assembler.engines == {}


def test_work_handed_in_after_the_response_is_linked() -> None:
    assembler = assembled([*root_begin(), *root_end(at=900)], [])
    at = us(900) + SETTLE_NS
    (root,) = complete(assembler, at)
    assert root.engines == []
    assembler.remember(1, Origin(TRACE, SPAN, us(900)))
    feed(assembler, [*dispatched(), *returned()], [*scheduled(), finished()])
    (engine,) = assembler.leftovers(us(8_600) + SETTLE_NS + 1)
    trace = builder(assembler).engine(engine, assembler.ended[engine.root_key], at)
    assert trace is not None
    assert trace.root.links[0].trace_id == TRACE
    assert [s.name for s in trace.children if not s.parent_id] == []
    assert trace.named("engine.dispatch") != ()


def test_an_abort() -> None:
    """The client leaves; the engine hears of it a little later."""
    api = [
        *root_begin(),
        *dispatched(),
        rec(Kind.REQ_OUT, 11, 5_500, 6_000, a=2, b=2, s=3),
        rec(Kind.ROOT_END, 1, 6_500, s=Ending.DISCONNECTED),
    ]
    assembler = assembled(api, [*scheduled(), finished(at=7_000, finish=3)])
    (root,) = complete(assembler, us(6_500) + SETTLE_NS)
    (trace,) = builder(assembler).request(root, LATER)
    assert trace.root.attributes["codesign.outcome"] == "aborted"
    assert trace.root.end_ns == trace.root.start_ns + us(6_500) - us(0.001)
    assert all(s.end_ns <= trace.root.end_ns for s in trace.children)


def test_offline_requests_have_no_root() -> None:
    assembler = assembled([*dispatched(root=0), *returned()], [*scheduled(), finished()])
    assert assembler.open == 1
    (engine,) = assembler.leftovers(us(8_600) + SETTLE_NS + 1)
    trace = builder(assembler).engine(engine, None, LATER)
    assert trace is not None
    assert (trace.root.name, trace.root.parent_id, trace.root.links) == ("engine.request", 0, ())
    assert trace.root.end_ns - trace.root.start_ns == us(8_700) - us(1_000)
    assert assembler.open == 0


def test_records_without_a_beginning_are_orphans() -> None:
    """An exporter that was restarted in the middle of a request."""
    assembler = assembled(api_records()[1:], engine_records())
    assert assembler.orphans == len(root_begin()) - 1 + len(root_end())
    assert complete(assembler, LATER) == []


def test_engine_records_of_unknown_origin_are_forgotten() -> None:
    assembler = assembled([], engine_records())
    last = us(8_600)
    assert list(assembler.leftovers(last + FORGET_NS)) == []
    assert len(assembler.engines) == 1
    assert list(assembler.leftovers(last + FORGET_NS + 1)) == []
    assert (assembler.engines, assembler.orphans) == ({}, 6)


def test_a_request_whose_last_words_were_lost_is_handed_out_in_the_end() -> None:
    assembler = assembled(dispatched(root=0), scheduled())
    (facts,) = assembler.engines.values()
    assert list(assembler.leftovers(LATER + GIVE_UP_NS)) == []
    facts.lossy = True
    assert list(assembler.leftovers(LATER + GIVE_UP_NS)) == [facts]
    assert assembler.engines == {}


def test_the_end_hands_out_everything() -> None:
    """The server was killed: what never ended is told as far as it came."""
    assembler = assembled([*root_begin(), *dispatched()], scheduled())
    feed(assembler, [*dispatched(12, root=0)], [])
    (root,) = complete(assembler, LATER, final=True)
    (trace,) = builder(assembler).request(root, LATER, final=True)
    assert trace.root.end_ns - trace.root.start_ns == LATER - us(0.001)
    assert trace.root.attributes["codesign.outcome"] == "failed"
    assert trace.root.attributes["error.type"] == "server_died"
    assert [engine.key for engine in assembler.leftovers(LATER, final=True)] == [12]
    assert (assembler.open, assembler.engines) == (0, {})


def test_roots_of_a_killed_process_do_not_wait() -> None:
    assembler = assembled([*root_begin(), *dispatched()], scheduled())
    assert complete(assembler, LATER) == []
    (root,) = assembler.complete(LATER, gone={API})
    assert root.key == 1


def test_strings_may_come_in_any_order() -> None:
    assembler = assembled(root_begin(), [])
    pieces = [
        text(1, Field.ERROR_TYPE, "x" * 32)._replace(c=0 << 16 | 3),
        text(1, Field.ERROR_TYPE, "y" * 32)._replace(c=1 << 16 | 3),
        text(1, Field.ERROR_TYPE, "z")._replace(c=2 << 16 | 3),
    ]
    for piece in (pieces[2], pieces[0]):
        assembler.take(API, piece)
    assert assembler.roots[1].text(Field.ERROR_TYPE) == ""
    assembler.take(API, pieces[1])
    assert assembler.roots[1].text(Field.ERROR_TYPE) == "x" * 32 + "y" * 32 + "z"


def test_only_so_many_ended_roots_are_remembered() -> None:
    assembler = Assembler()
    for key in range(REMEMBER + 5):
        assembler.remember(key, ORIGIN)
    assert len(assembler.ended) == REMEMBER
    assert min(assembler.ended) == 5


def test_what_goes_on_is_told_on_the_clock_of_its_root() -> None:
    """The anchor was refreshed in between: the rest must not begin before the root's end."""
    assembler = assembled([*root_begin(), *dispatched(), *root_end(at=4_000)], scheduled())
    at = us(4_000) + GRACE_NS
    (root,) = complete(assembler, at)
    made = builder(assembler)
    (first,) = made.request(root, at)
    origin = Origin(TRACE, SPAN, us(4_000), first.root.end_ns - us(4_000))
    feed(assembler, returned(), [finished()])
    (engine,) = assembler.leftovers(us(8_600) + SETTLE_NS + 1)
    before = made.to_unix
    made.to_unix = lambda monotonic: before(monotonic) - 1_000
    rest = made.engine(engine, origin, at)
    assert rest is not None
    assert rest.root.start_ns == first.root.end_ns
