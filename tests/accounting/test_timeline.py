"""Whether an engine plans a step while the one before runs is seen in its steps."""

from __future__ import annotations

from dataclasses import replace

from tests.accounting.cases import STEP_NS, step
from vllm_codesign.accounting import timelines


def test_steps_one_after_the_other_are_not_planned_ahead() -> None:
    engine = timelines(step(n, n * (STEP_NS + 5)) for n in range(1, 6)).popitem()[1]
    assert (engine.followed, engine.ahead) == (4, 0)
    # The very instant at which the result of the one before is there is none before it.
    at_once = timelines(step(n, n * STEP_NS) for n in range(1, 6)).popitem()[1]
    assert (at_once.followed, at_once.ahead) == (4, 0)


def test_steps_that_begin_before_the_result_of_the_last_are() -> None:
    engine = timelines(step(n, n * (STEP_NS - 20)) for n in range(1, 6)).popitem()[1]
    assert (engine.followed, engine.ahead) == (4, 4)


def test_a_result_that_is_not_known_says_nothing_of_the_next() -> None:
    lost = replace(step(1, 100), update=None)
    engine = timelines([lost, step(2, 110), step(3, 400)]).popitem()[1]
    assert (engine.followed, engine.ahead) == (1, 0)
