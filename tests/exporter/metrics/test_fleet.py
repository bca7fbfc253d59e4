"""The live fleet against `accounting.fleet` over the whole run."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from tests.accounting.cases import ENGINE, STEP_NS, in_engine, span, step, trace
from vllm_codesign import semconv as S
from vllm_codesign.accounting import Timeline, Work, fleet, timelines
from vllm_codesign.exporter.metrics.board import Board
from vllm_codesign.exporter.metrics.fleet import LiveFleet
from vllm_codesign.model.step import Step
from vllm_codesign.model.trace import RequestTrace
from vllm_codesign.semconv import metrics as M


def times(board: Board) -> dict[str, int]:
    """Nanoseconds by cause, `work` where busy; those that never were are left out."""
    found = {
        str(of[M.IDLE_CAUSE.key]): round(seconds * 1e9) for of, seconds in board.read(M.DEVICE_TIME)
    }
    return {cause: ns for cause, ns in found.items() if ns}


def served(start: int, end: int) -> RequestTrace:
    """In the frontend for 30 ns, on its way for 10, then in the engine but for its last 20."""
    handed = start + 30
    return trace(
        start,
        end,
        span(S.ENGINE_DISPATCH.name, handed, handed + 10),
        in_engine(S.ENGINE_QUEUE.name, handed + 10, handed + 20),
        in_engine(S.PREFILL.name, handed + 20, end - 20),
    )


def until(request: RequestTrace, at: int) -> RequestTrace:
    """As it is known at `at`: what has not begun is not there, what has not ended goes on."""
    start = request.root.attributes[S.MONOTONIC.key]
    assert isinstance(start, int)
    shift = request.root.start_ns - start
    never = 1 << 61
    children = [
        span(s.name, s.start_ns - shift, never if s.end_ns - shift > at else s.end_ns - shift)
        if s.name == S.ENGINE_DISPATCH.name
        else in_engine(
            s.name, s.start_ns - shift, never if s.end_ns - shift > at else s.end_ns - shift
        )
        for s in request.children
        if s.start_ns - shift <= at
    ]
    return trace(start, never, *children)


def run(
    requests: Sequence[RequestTrace], steps: Sequence[Step], closings: Sequence[int]
) -> tuple[Board, dict[int, Timeline]]:
    """Each is handed out when it has ended, and each window closed when all before is known."""
    board = Board()
    live = LiveFleet(board)
    found: dict[int, Timeline] = {}
    events = sorted(
        [
            *((s.end_ns, 0, s) for s in steps),
            *(((r.root.attributes[S.MONOTONIC.key] + r.root.duration_ns), 1, r) for r in requests),  # type: ignore[operator]
            *((at, 2, None) for at in closings),
        ],
        key=lambda e: e[:2],
    )
    ended: list[RequestTrace] = []
    for at, _, what in events:
        if isinstance(what, Step):
            found.setdefault(what.engine, Timeline(what.engine)).add(what)
            live.begin(what)
        elif what is not None:
            ended.append(what)
            live.take(what)
        else:
            begun = min((s.schedule[0] - s.before_ns for s in steps if s.end_ns > at), default=at)

            def open_work(before: int, now: int = at) -> Work:
                work = Work()
                for request in requests:
                    start = request.root.attributes[S.MONOTONIC.key]
                    if request not in ended and start < before:  # type: ignore[operator]
                        work.take(until(request, now))
                return work

            live.close(min(at - 50, begun), found, open_work, ())
    return board, found


@pytest.mark.parametrize("seed", range(20))
def test_windows_sum_to_the_whole_runs_fleet(seed: int) -> None:
    rng = random.Random(seed)
    steps, at = [], 1_000
    for number in range(1, 60):
        before = rng.choice((0, 5, 40))
        at += before + rng.randrange(200)
        steps.append(step(number, at, before=before, model=rng.randrange(20, 90)))
        at = steps[-1].end_ns
    requests = [
        served(start, start + rng.randrange(100, 2_000))
        for start in sorted(rng.randrange(900, at) for _ in range(15))
    ]
    last = at + 5_000
    closings = [*sorted(rng.randrange(1_000, last) for _ in range(30)), last]
    board, found = run(requests, steps, closings)
    work = Work()
    for request in requests:
        work.take(request)
    window = (steps[0].schedule[0], last - 50)
    (whole,) = fleet(work, timelines(steps), window).engines
    assert times(board) == {"work": whole.busy_ns, **whole.idle_ns}
    assert sum(times(board).values()) == window[1] - window[0], "wall time, to the nanosecond"
    assert set(found) == {ENGINE}
    assert len(whole.idle_ns) > 4, "a run in which most causes occur"


def test_a_request_that_has_not_ended_counts_as_work() -> None:
    long = served(1_000, 100_000)
    board, _ = run([long], [step(1, 1_050)], [1_050 + STEP_NS + 500])
    assert "no_work" not in times(board)
    assert times(board)["other"] > 0


def test_causes_are_there_at_zero_from_the_first_step_on() -> None:
    board = Board()
    LiveFleet(board).begin(step(1, 1_000))
    causes = {of[M.IDLE_CAUSE.key] for of, _ in board.read(M.DEVICE_TIME)}
    assert causes == {"work", *(cause.value for cause in S.IdleCause)}


def test_while_no_steps_are_recorded_nothing_is_told() -> None:
    """And what was told once is not told again when they are."""
    board = Board()
    live = LiveFleet(board)
    timeline = Timeline(ENGINE)
    first, late, second = step(1, 1_000), step(2, 1_200), step(3, 9_000)
    timeline.add(first)
    live.begin(first)
    live.close(1_500, {ENGINE: timeline}, lambda _: Work(), ())
    assert sum(times(board).values()) == 500
    live.pause()
    timeline.add(late)
    live.begin(late)
    live.pause()
    live.close(5_000, {ENGINE: timeline}, lambda _: Work(), ())
    assert sum(times(board).values()) == 500
    timeline.add(second)
    live.begin(second)
    live.close(9_700, {ENGINE: timeline}, lambda _: Work(), ())
    assert sum(times(board).values()) == 500 + 700


def test_an_engine_that_is_gone_has_a_last_window() -> None:
    board = Board()
    live = LiveFleet(board)
    timeline = Timeline(ENGINE)
    timeline.add(step(1, 1_000))
    live.begin(step(1, 1_000))
    for until_ns in (2_000, 3_000):
        live.close(until_ns, {ENGINE: timeline}, lambda _: Work(), {ENGINE})
    live.begin(step(2, 2_500))
    live.close(4_000, {ENGINE: timeline}, lambda _: Work(), {ENGINE})
    assert sum(times(board).values()) == 1_000
    assert live.needs_since == 1 << 62
