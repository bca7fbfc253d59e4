"""What must hold of the accounting whatever the timeline (hypothesis)."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.accounting.cases import ENGINE, UNIX, in_engine, load, member, span, trace
from vllm_codesign import semconv as S
from vllm_codesign.accounting import Work, account, exposed_ns, fleet, timelines
from vllm_codesign.model.step import DeviceInterval, Member, RankStep, Step
from vllm_codesign.model.trace import RequestTrace, Span
from vllm_codesign.semconv import Part

SINKS = {Part.UNATTRIBUTED.value, Part.GAP_OTHER.value}

Serving = tuple[RequestTrace, list[Step]]

lengths = st.integers(0, 60)
REASONS = ("", "", "no_free_blocks", "no_slot", "preemption")


class _Core:
    """EngineCore's one thread and its workers, as they would run: what `step` is made from."""

    def __init__(self, start: int) -> None:
        self.now = start
        self.free = 0  # tensor-parallel ranks keep step: each waits for the last
        self.pending: list[Step] = []
        self.done: list[Step] = []

    def plan(self, draw: st.DrawFn, number: int, ranks: int) -> None:
        """The next step, planned as soon as EngineCore gets to it."""
        gap = draw(lengths)
        start = self.now + gap
        planned = start + draw(lengths)
        running = []
        for rank in range(ranks):
            entered = max(planned + draw(lengths), self.free)
            forward = entered + draw(lengths)
            launched = forward + draw(lengths)
            computed = launched + draw(lengths)
            sampling = computed + draw(lengths)
            sampled = sampling + draw(lengths)
            running.append(
                RankStep(
                    rank,
                    (entered, computed),
                    (forward, launched),
                    (sampling, sampled),
                    (forward, launched),
                    (
                        DeviceInterval(forward, computed, "model", "wall"),
                        DeviceInterval(sampling, sampled, "sample", "wall"),
                    ),
                )
            )
        self.free = max(rank.sample[1] for rank in running if rank.sample)
        self.pending.append(
            Step(
                engine=ENGINE,
                number=number,
                schedule=(start, planned),
                before_ns=gap if self.done or self.pending else 0,
                ranks=tuple(running),
                members=(),
                blocked_by=draw(st.sampled_from(REASONS)),
            )
        )
        self.now = planned

    def take_back(self, draw: st.DrawFn) -> None:
        """The oldest step's result."""
        one = self.pending.pop(0)
        ready = max(rank.sample[1] for rank in one.ranks if rank.sample) + draw(lengths)
        start = max(self.now, ready)
        end = start + draw(lengths)
        self.done.append(replace(one, update=(start, end), waited_ns=start - self.now))
        self.now = end


@st.composite
def servings(draw: st.DrawFn) -> tuple[RequestTrace, list[Step]]:
    """A request of one choice and the steps that served it and others.

    Synchronous and asynchronous scheduling, one rank and two, chunks, preemption, waiting for
    blocks, spans that were never recorded.
    """
    core = _Core(1000)
    ranks, depth = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    for number in range(1, draw(st.integers(2, 7)) + 1):
        core.plan(draw, number, ranks)
        if len(core.pending) >= depth:
            core.take_back(draw)
    while core.pending:
        core.take_back(draw)
    found = core.done
    first = draw(st.integers(0, len(found) - 1))
    last = draw(st.integers(first, len(found) - 1))
    chunks = draw(st.integers(1, 3))
    for index, one in enumerate(found):
        here: list[Member] = [member(span_id=5, request="r5")] if draw(st.booleans()) else []
        # Between its first and its last step it may be left out: preempted, or no budget.
        if index in (first, last) or (first < index < last and draw(st.integers(0, 3))):
            phase = "prefill" if index < first + chunks else "decode"
            here.append(member(phase=phase))
        found[index] = replace(one, members=tuple(here), requests=len(here))
    return _request(draw, found, first, last, chunks), found


def _request(
    draw: st.DrawFn, found: list[Step], first: int, last: int, chunks: int
) -> RequestTrace:
    admitted = found[first].schedule[0]
    done = found[last].end_ns
    token = found[min(first + chunks - 1, last)].end_ns
    queued = admitted - draw(st.integers(0, 200))
    at = start = queued - draw(st.integers(5, 300))
    names = [
        S.HTTP_RECEIVE.name,
        S.TOKENIZE_WAIT.name,
        S.TOKENIZE_ENCODE.name,
        S.FRONTEND_RUN.name,
    ]
    children: list[Span] = []
    for name in names:
        end = draw(st.integers(at, queued))
        children.append(span(name, at, end))
        at = end
    client = draw(st.integers(0, queued - at))
    children += [
        span(S.ENGINE_DISPATCH.name, at, queued, **{S.DISPATCH_CLIENT.key: client}),
        in_engine(S.ENGINE_QUEUE.name, queued, admitted),
        in_engine(S.PREFILL.name, admitted, token),
        in_engine(S.DECODE.name, token, done),
    ]
    half = draw(lengths)
    children.append(
        span(
            S.ENGINE_RETURN.name,
            done,
            done + 2 * half,
            **{S.RETURN_TRANSIT.key: half, S.RETURN_PROCESS.key: half},
        )
    )
    end = done + 2 * half
    children.append(span(S.FRONTEND_WAIT.name, end, end + draw(lengths)))
    kept = [child for child in children if draw(st.integers(0, 19))]
    level = draw(st.sampled_from(["step", "step", "step", "step", "request"]))
    return trace(start, end + draw(lengths), *kept, level=level)


@given(servings())
@settings(max_examples=300, deadline=None)
def test_parts_sum_to_the_wall_time_and_none_is_negative(serving: Serving) -> None:
    request, found = serving
    result = account(request, timelines(found))
    assert result.total_ns == request.root.duration_ns
    assert all(ns > 0 for ns in result.parts.values())
    assert {Part(part) for part in result.parts} <= set(Part)
    device = sum(result.parts.get(p, 0) for p in (Part.DEVICE_PREFILL, Part.DEVICE_DECODE))
    assert 0 <= result.hidden_ns <= device
    assert 0 <= exposed_ns(result) <= result.total_ns


@given(servings(), st.randoms())
@settings(max_examples=100, deadline=None)
def test_the_order_of_records_does_not_matter(serving: Serving, rng: random.Random) -> None:
    request, found = serving
    shuffled = list(found)
    rng.shuffle(shuffled)
    children = list(request.children)
    rng.shuffle(children)
    ranks = [replace(s, ranks=tuple(reversed(s.ranks))) for s in shuffled]
    assert account(RequestTrace(request.root, tuple(children)), timelines(ranks)) == account(
        request, timelines(found)
    )


@given(servings(), st.integers(-(10**12), 10**12))
@settings(max_examples=50, deadline=None)
def test_nothing_depends_on_when_it_was(serving: Serving, shift: int) -> None:
    request, found = serving
    shift = max(shift, -800)
    root = replace(
        request.root,
        attributes={
            **request.root.attributes,
            S.MONOTONIC.key: request.root.attributes[S.MONOTONIC.key] + shift,
        },  # type: ignore[operator]
    )
    moved = [_shifted(one, shift) for one in found]
    assert account(RequestTrace(root, request.children), timelines(moved)) == account(
        request, timelines(found)
    )


def _shifted(one: Step, by: int) -> Step:
    def move(stretch: tuple[int, int] | None) -> tuple[int, int] | None:
        return None if stretch is None else (stretch[0] + by, stretch[1] + by)

    return replace(
        one,
        schedule=move(one.schedule),  # type: ignore[arg-type]
        update=move(one.update),
        ranks=tuple(
            RankStep(
                r.rank,
                move(r.execute),
                move(r.forward),
                move(r.sample),
                move(r.forward_device),
                tuple(replace(d, start_ns=d.start_ns + by, end_ns=d.end_ns + by) for d in r.device),
            )
            for r in one.ranks
        ),
    )


def _without_sample(one: RankStep) -> RankStep:
    kept = tuple(d for d in one.device if d.work != "sample")
    return replace(one, sample=None, device=kept)


def _without_execute(one: RankStep) -> RankStep:
    kept = tuple(d for d in one.device if d.work != "model")
    return replace(one, execute=None, forward=None, forward_device=None, device=kept)


def _without_forward(one: RankStep) -> RankStep:
    kept = tuple(d for d in one.device if d.work != "model")
    return replace(one, forward=None, forward_device=None, device=kept)


LEFT_OUT = {
    "update": lambda s: replace(s, update=None, waited_ns=0),
    "execute_model": lambda s: replace(s, ranks=tuple(map(_without_execute, s.ranks))),
    "forward": lambda s: replace(s, ranks=tuple(map(_without_forward, s.ranks))),
    "sample_tokens": lambda s: replace(s, ranks=tuple(map(_without_sample, s.ranks))),
    "members": lambda s: replace(s, members=None),
}


@given(servings(), st.sampled_from([*LEFT_OUT, "schedule"]))
@settings(max_examples=400, deadline=None)
def test_time_of_a_step_hook_left_out_goes_to_the_unexplained_and_nowhere_else(
    serving: Serving, which: str
) -> None:
    request, found = serving
    whole = account(request, timelines(found)).parts
    if which == "schedule":
        rest = []
    else:
        rest = [LEFT_OUT[which](one) for one in found]
    less = account(request, timelines(rest)).parts
    grown = {part for part in less if less[part] > whole.get(part, 0)}
    assert grown <= SINKS, (which, whole, less)


@given(servings())
@settings(max_examples=150, deadline=None)
def test_time_of_a_span_left_out_goes_to_the_unexplained_and_nowhere_else(serving: Serving) -> None:
    request, found = serving
    engines = timelines(found)
    whole = account(request, engines).parts
    for left_out in request.children:
        rest = tuple(child for child in request.children if child is not left_out)
        less = account(RequestTrace(request.root, rest), engines).parts
        grown = {part for part in less if less[part] > whole.get(part, 0)}
        assert grown <= SINKS, (left_out.name, whole, less)


@given(st.lists(servings(), max_size=4), servings())
@settings(max_examples=150, deadline=None)
def test_the_fleet_s_busy_and_idle_times_fill_its_window(
    found: list[Serving], these: Serving
) -> None:
    engines = timelines(these[1])
    work = Work()
    for request, _ in found:
        work.take(request)
    total = fleet(work, engines, window=(900, 4000), strip=True)
    for engine in total.engines:
        assert engine.window_ns == 3100
        assert all(ns > 0 for ns in engine.idle_ns.values())
        assert engine.hidden_ns <= engine.busy_ns
        assert engine.strip[0][0] == 900
        assert engine.strip[-1][1] == 4000
        assert all(a[1] == b[0] and a[2] != b[2] for a, b in pairwise(engine.strip))
        busy = sum(end - start for start, end, kind in engine.strip if kind == "busy")
        assert busy == engine.busy_ns


@given(servings(), st.integers(900, 3500), st.integers(1, 2000), st.booleans())
@settings(max_examples=200, deadline=None)
def test_an_asynchronous_load_explains_only_what_no_other_request_runs_in(
    these: Serving, start: int, length: int, of_its_own: bool
) -> None:
    """And nothing else of the device's time is told otherwise for it."""
    request, steps = these
    engines = timelines(steps)
    name = "r1" if of_its_own else "r2"
    waits = in_engine(S.ENGINE_QUEUE.name, start, start + length, request=name)
    loads = load(start, start + length, True, name)
    if of_its_own:
        plain, loaded = (
            [RequestTrace(request.root, (*request.children, *more))]
            for more in ((waits,), (waits, loads))
        )
    else:
        plain, loaded = (
            [request, trace(start, start + length, *more)] for more in ((waits,), (waits, loads))
        )
    found = []
    for traces in (plain, loaded):
        work = Work()
        for each in traces:
            work.take(each)
        found.append(fleet(work, engines, window=(900, 4000), strip=True).engines)
    running = [
        (s.start_ns - UNIX, s.end_ns - UNIX)
        for s in request.children
        if s.name in (S.PREFILL.name, S.DECODE.name) and not of_its_own
    ]
    for before, after in zip(*found, strict=True):
        assert after.busy_ns == before.busy_ns
        assert after.exposed_ns <= before.exposed_ns
        told = [_at(each.strip) for each in (before, after)]
        for at, (was, became) in enumerate(zip(*told, strict=True), start=900):
            if became == was:
                continue
            assert became == "kv_load"
            assert start <= at < start + length
            assert was in ("output", "other")
            assert not any(a <= at < b for a, b in running)


def _at(strip: tuple[tuple[int, int, str], ...]) -> list[str]:
    return [kind for start, end, kind in strip for _ in range(start, end)]
