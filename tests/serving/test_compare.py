"""`codesign compare` on real servers: silent about nothing, and right about what was planted.

Whether it is silent is asked of one server: its batches are dealt out to two sides again and again,
so that the sides differ by chance alone. A server with a planted sleep runs beside it and the two
are loaded in turn, so that neither has the machine's better minutes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from tests.support.plugin import SLEEPING, install
from tests.support.serving import serve, wait_until
from vllm_codesign.analysis.compare import compare
from vllm_codesign.analysis.samples import Samples
from vllm_codesign.analysis.sides import Server, Side, side
from vllm_codesign.bench import results
from vllm_codesign.bench.run import Plan, execute
from vllm_codesign.cli.compare import command
from vllm_codesign.model.bench import BenchRun, Scenario
from vllm_codesign.store.capture import Capture

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

TOKENIZER_S = 0.020
ROUNDS, IN_A_ROUND = 15, 4
_SIZES = {"single_300": (1, 300), "conc4_600": (4, 600), "conc8_1k": (8, 1_000)}
SCENARIOS = tuple(
    Scenario(name=name, concurrency=clients, prompt_tokens=tokens, max_tokens=4, repeats=IN_A_ROUND)
    for name, (clients, tokens) in _SIZES.items()
)
BATCHES = ROUNDS * IN_A_ROUND
TRIES, MORE_TRIES = 20, 200


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Results and captures of a plain server and of one whose tokenizer sleeps."""
    plain, planted = (tmp_path_factory.mktemp(name) for name in ("plain", "planted"))
    sleeping = {
        "VLLM_PLUGINS": "codesign,sleeping",
        "PYTHONPATH": install(planted / "plugin", {"sleeping": SLEEPING}),
        "SLEEP_IN_TOKENIZER": str(TOKENIZER_S),
    }
    with serve(plain) as first, serve(planted, env=sleeping) as second:
        rounds: dict[Path, list[BenchRun]] = {plain: [], planted: []}
        for number in range(ROUNDS):
            turn = [(plain, first), (planted, second)]
            for folder, serving in turn if number % 2 else reversed(turn):
                path = folder / f"round-{number}" / "results.json"
                plan = Plan(SCENARIOS, warm_up=4)
                rounds[folder].append(
                    asyncio.run(execute(plan, serving.url, path, progress=lambda _line: None))
                )
        captures = {plain: first.capture, planted: second.capture}
    for folder, runs in rounds.items():
        capture = captures[folder]
        wait_until(lambda capture=capture: capture.load().complete, 60, "a closed capture")
        results.write(folder / "results.json", _joined(runs, capture))
    return plain, planted


def _joined(runs: Sequence[BenchRun], capture: Capture) -> BenchRun:
    """One run of all rounds, their batches numbered on."""
    rows = [
        row.model_copy(update={"repeat": IN_A_ROUND * number + row.repeat})
        for number, run in enumerate(runs)
        for row in run.requests
    ]
    assert all(row.status == "ok" for row in rows)
    return runs[0].model_copy(
        update={
            "requests": rows,
            "scenarios": [each.model_copy(update={"repeats": BATCHES}) for each in SCENARIOS],
            "capture": str(capture.path),
            "finished_unix_ns": runs[-1].finished_unix_ns,
        }
    )


def neighbours(batches: int, generator: np.random.Generator) -> set[int]:
    """One of batches 0 and 1, one of 2 and 3, ...: two captures that were made in turn."""
    return {2 * pair + int(generator.integers(0, 2)) for pair in range(batches // 2)}


def halves(batches: int, generator: np.random.Generator) -> set[int]:
    """Any half of them: what drifts over the run is chance as well."""
    return set(generator.permutation(batches)[: batches // 2].tolist())


def dealt(samples: Samples, chosen: Mapping[str, set[int]]) -> tuple[Side, Side]:
    """The chosen batches of each scenario to A, the others to B."""
    a, b = Samples(), Samples()
    for scenario, by_key in samples.values.items():
        for key, found in by_key.items():
            for half, wanted in ((a, True), (b, False)):
                half.values.setdefault(scenario, {})[key] = {
                    batch: values
                    for batch, values in found.items()
                    if (batch in chosen[scenario]) is wanted
                }
    first, second = (
        Side(name, (Server(Path(name), None, None, half),)) for name, half in (("A", a), ("B", b))
    )
    return first, second


@pytest.mark.parametrize("deal", [neighbours, halves])
def test_the_same_server_is_within_noise(
    folders: tuple[Path, Path], deal: Callable[[int, np.random.Generator], set[int]]
) -> None:
    (server,) = side(folders[0]).servers
    assert server.view is not None
    assert not server.view.lossy
    generator = np.random.default_rng(7)
    silent = quiet = 0
    for number in range(1, MORE_TRIES + 1):
        chosen = {each.name: deal(BATCHES, generator) for each in SCENARIOS}
        found = compare(*dealt(server.samples, chosen))
        assert [each.scenario for each in found.scenarios] == [s.name for s in SCENARIOS]
        assert {each.drawn for each in found.scenarios} == {"batches"}
        assert {each.units for each in found.scenarios} == {(BATCHES // 2, BATCHES // 2)}
        silent += not any(each.headline.beyond_noise for each in found.scenarios)
        quiet += not any(fig.beyond_noise for each in found.scenarios for fig in each.figures)
        if number in (TRIES, MORE_TRIES):
            figures = len(found.scenarios[0].figures)
            print(
                f"same server, {deal.__name__}, {number} tries of 3 scenarios: {silent} within "
                f"noise in every scenario, {quiet} with none of about {figures} figures beyond it"
            )
    # Of 200 tries that each err once in 20, fewer than 181 pass once in 200 runs.
    assert silent >= 181


def test_a_planted_sleep_is_found_and_named(folders: tuple[Path, Path]) -> None:
    arguments = [str(folder) for folder in folders]
    text = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert text.exit_code == 0
    print(text.stdout)
    found = CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False)
    scenarios = {each["scenario"]: each for each in json.loads(found.stdout)["scenarios"]}
    assert list(scenarios) == [s.name for s in SCENARIOS]
    sleep_ms = TOKENIZER_S * 1e3
    for scenario in SCENARIOS:
        said = scenarios[scenario.name]
        # Four that no longer come at once win back in prefill about what the sleep costs them.
        total_moves = scenario.concurrency != 4
        assert said["within_noise"] is False or not total_moves
        encode = said["figures"]["phase.tokenize_run"]
        assert encode["within_noise"] is False
        assert encode["difference_ms"] == pytest.approx(sleep_ms, abs=4)
        assert meets(encode, sleep_ms, sleep_ms + 1)
        assert "tokenize.encode" in said["sentence"]
        if scenario.concurrency == 1:
            assert said["causes"][0] == "phase.tokenize_run"
            assert meets(said["figures"]["client.total"], sleep_ms - 1, sleep_ms + 1)
        else:  # the others wait for it in the pool of one thread
            assert said["causes"][0] == "phase.tokenize_wait"
            assert "tokenize.wait" in said["sentence"]
            wait = said["figures"]["phase.tokenize_wait"]
            assert wait["within_noise"] is False
            # Those that arrive later find fewer before them.
            longest = sleep_ms * (scenario.concurrency - 1) / 2
            assert meets(wait, 0.8 * longest, longest)


def meets(figure: Mapping[str, Any], low_ms: float, high_ms: float) -> bool:
    """Whether a true difference between these lies in the interval that was found."""
    interval = figure["interval"]
    return bool(interval["low"] <= high_ms and interval["high"] >= low_ms)
