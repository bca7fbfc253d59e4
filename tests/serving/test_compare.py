"""`codesign compare` on real servers: silent about nothing, and right about what was planted.

Whether it is silent is asked of one server: its batches are dealt out to two sides again and again,
one of each two neighbours to either, so that the sides differ by chance alone.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.support.plugin import SLEEPING, install
from tests.support.serving import serve, wait_until
from vllm_codesign.analysis.compare import Comparison, compare
from vllm_codesign.analysis.samples import Samples
from vllm_codesign.analysis.sides import Server, Side, side
from vllm_codesign.bench import results
from vllm_codesign.bench.run import Plan, execute
from vllm_codesign.cli.compare import command
from vllm_codesign.model.bench import Scenario
from vllm_codesign.store.capture import Capture

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

TOKENIZER_S = 0.020
SCENARIOS = (
    Scenario(name="single_300", concurrency=1, prompt_tokens=300, max_tokens=12, repeats=40),
    Scenario(name="conc4_600", concurrency=4, prompt_tokens=600, max_tokens=12, repeats=40),
    Scenario(name="conc8_1k", concurrency=8, prompt_tokens=1_000, max_tokens=12, repeats=40),
)
TRIES, MORE_TRIES = 20, 200


def run(folder: Path, **env: str) -> Path:
    """All scenarios against one server of its own, results and capture in `folder`."""
    if env:
        path = install(folder / "plugin", {"sleeping": SLEEPING})
        env |= {"VLLM_PLUGINS": "codesign,sleeping", "PYTHONPATH": path}
    with serve(folder, env=env) as serving:
        asyncio.run(execute(Plan(SCENARIOS, warm_up=8), serving.url, folder / "results.json"))
        capture = serving.capture
    wait_until(lambda: _complete(capture), 30, "a closed capture")
    found = results.read(folder / "results.json")
    assert found is not None
    assert all(row.status == "ok" for row in found.requests)
    noted = found.model_copy(update={"capture": str(capture.path)})
    results.write(folder / "results.json", noted)
    return folder


def _complete(capture: Capture) -> bool:
    return capture.load().complete


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("plain"))


def dealt(samples: Samples, generator: np.random.Generator) -> tuple[Side, Side]:
    """Two sides of one server's batches: one of batches 0 and 1 to each, one of 2 and 3, ..."""
    halves = Samples(), Samples()
    for scenario, by_key in samples.values.items():
        batches = max(map(len, by_key.values()))
        first = generator.integers(0, 2, batches // 2)
        for key, found in by_key.items():
            for which, half in enumerate(halves):
                half.values.setdefault(scenario, {})[key] = {
                    batch: found[batch]
                    for pair, turned in enumerate(first)
                    if (batch := 2 * pair + (which ^ int(turned))) in found
                }
    a, b = (
        Side(name, (Server(Path(name), None, None, half),))
        for name, half in zip("AB", halves, strict=True)
    )
    return a, b


def tries(samples: Samples, count: int) -> Iterator[Comparison]:
    generator = np.random.default_rng(7)
    for _ in range(count):
        yield compare(*dealt(samples, generator))


def test_the_same_server_is_within_noise(plain: Path) -> None:
    (server,) = side(plain).servers
    assert server.view is not None
    assert not server.view.lossy
    silent = quiet = 0
    for number, found in enumerate(tries(server.samples, MORE_TRIES), start=1):
        assert [each.scenario for each in found.scenarios] == [s.name for s in SCENARIOS]
        assert {each.drawn for each in found.scenarios} == {"batches"}
        assert {each.units for each in found.scenarios} == {(20, 20)}
        silent += not any(each.headline.beyond_noise for each in found.scenarios)
        quiet += not any(fig.beyond_noise for each in found.scenarios for fig in each.figures)
        if number in (TRIES, MORE_TRIES):
            figures = len(found.scenarios[0].figures)
            print(
                f"same server against itself, {number} tries of 3 scenarios: {silent} within noise "
                f"in every scenario, {quiet} with none of about {figures} figures beyond it"
            )
        if number == TRIES:
            assert silent >= 19
    assert silent >= 0.93 * MORE_TRIES


def test_a_planted_sleep_is_found_and_named(plain: Path, tmp_path: Path) -> None:
    planted = run(tmp_path / "planted", SLEEP_IN_TOKENIZER=str(TOKENIZER_S))
    arguments = [str(plain), str(planted)]
    text = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert text.exit_code == 0
    print(text.stdout)
    found = CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False)
    scenarios = {each["scenario"]: each for each in json.loads(found.stdout)["scenarios"]}
    assert list(scenarios) == [s.name for s in SCENARIOS]
    sleep_ms = TOKENIZER_S * 1e3
    for scenario in SCENARIOS:
        said = scenarios[scenario.name]
        assert said["within_noise"] is False
        encode = said["figures"]["phase.tokenize_run"]
        assert encode["within_noise"] is False
        assert encode["difference_ms"] == pytest.approx(sleep_ms, abs=4)
        assert "tokenize.encode" in said["sentence"]
        if scenario.concurrency == 1:
            assert said["causes"][0] == "phase.tokenize_run"
            total = said["figures"]["client.total"]["interval"]
            assert total["low"] <= sleep_ms + 5
            assert total["high"] >= sleep_ms - 5
        else:  # the others wait for it in the pool of one thread
            assert said["causes"][0] == "phase.tokenize_wait"
            wait = said["figures"]["phase.tokenize_wait"]["difference_ms"]
            assert wait == pytest.approx(sleep_ms * (scenario.concurrency - 1) / 2, rel=0.3)
