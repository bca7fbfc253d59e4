"""What is said of two sides: made-up servers with a known answer, and how often it is right."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.support.made_samples import CLIENTS, made, side
from vllm_codesign.analysis import figures
from vllm_codesign.analysis.compare import Comparison, compare
from vllm_codesign.analysis.compare_sheet import (
    causes,
    compare_sheet,
    plain,
    remarks,
    sentence,
)
from vllm_codesign.model.errors import CodesignError


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def found(a, b) -> Comparison:
    return compare(side("before", *a), side("after", *b))


def test_two_of_the_same_are_within_noise_in_every_scenario() -> None:
    """Of 20 tries at least 19; of many, at least as many as are promised."""
    silent, quiet = [], []
    for seed in range(80):
        generator = rng(1_000 + seed)
        made_of = found([made(generator)], [made(generator)])
        assert len(made_of.scenarios) == len(CLIENTS)
        silent.append(not any(each.headline.beyond_noise for each in made_of.scenarios))
        quiet.append(not any(f.beyond_noise for each in made_of.scenarios for f in each.figures))
    print(f"{sum(silent[:20])} of 20, {sum(silent)} of 80; no figure at all: {sum(quiet)} of 80")
    assert sum(silent[:20]) >= 19
    assert sum(silent) / 80 >= 0.93
    assert sum(quiet) / 80 >= 0.90


@pytest.mark.parametrize("servers", [1, 4])
def test_a_planted_wait_is_found_and_named(servers: int) -> None:
    generator = rng(3)
    made_of = found(
        [made(generator, server_ms=generator.normal(0, 1)) for _ in range(servers)],
        [made(generator, server_ms=generator.normal(0, 1), wait_ms=60) for _ in range(servers)],
    )
    for each in made_of.scenarios:
        assert each.drawn == ("batches" if servers == 1 else "repeats")
        assert each.headline.figure is figures.CLIENT_TOTAL
        assert each.headline.beyond_noise
        assert each.headline.interval.low < 60 < each.headline.interval.high
        assert [cause.figure.label for cause in causes(each)] == ["tokenize.wait"]
        wait = each.of("phase.tokenize_wait")
        assert wait.interval.low < 60 < wait.interval.high
        text = sentence(each)
        assert text.startswith(f"{each.scenario}: total ")
        assert ", beyond noise; TTFT " in text
        assert " % of the difference in total; nothing else changed beyond noise" in text
        assert each.of("client.decode").beyond_noise is False


def test_intervals_and_verdicts_agree() -> None:
    generator = rng(4)
    made_of = found([made(generator)], [made(generator, wait_ms=8, decode_ms=5)])
    for each in made_of.scenarios:
        for figure in each.figures:
            inside = figure.interval.low <= 0 <= figure.interval.high
            assert figure.beyond_noise is not inside
            assert figure.value == pytest.approx(figure.interval.value)
            assert (figure.judged.p < 0.05) is figure.beyond_noise


def test_totals_are_corrected_for_scenarios_alone() -> None:
    made_of = found([made(rng(5))], [made(rng(6))])
    confidences = [each.headline.judged.confidence for each in made_of.scenarios]
    assert confidences == pytest.approx([1 - 0.05 / 3] * 3)


def test_what_explains_a_total_that_moved_is_held_against_fewer() -> None:
    generator = rng(7)
    made_of = found([made(generator)], [made(generator, decode_ms=200)])
    for each in made_of.scenarios:
        others = [f for f in each.figures if f is not each.headline]
        assert min(f.judged.confidence for f in others) >= 0.95
        assert max(f.judged.confidence for f in others) == pytest.approx(1 - 0.05 / len(others))
    still = found([made(rng(8))], [made(rng(9))])
    beside = sum(len(each.figures) - 1 for each in still.scenarios)
    assert max(
        f.judged.confidence for each in still.scenarios for f in each.figures
    ) == pytest.approx(1 - 0.05 / beside)


def test_a_part_may_move_where_the_total_does_not() -> None:
    """What is won in one place and lost in another."""
    generator = rng(10)
    made_of = found([made(generator)], [made(generator, wait_ms=40, decode_ms=-40)])
    (each,) = [s for s in made_of.scenarios if s.scenario == "single"]
    assert not each.headline.beyond_noise
    assert causes(each)[0].figure.label == "tokenize.wait"
    text = sentence(each)
    assert ", within noise; TTFT " in text
    assert ", beyond noise; tokenize.wait " in text
    assert " % of the difference in TTFT" in text


def test_few_batches_give_an_interval_and_no_verdict() -> None:
    made_of = found([made(rng(11), batches=4)], [made(rng(12), batches=4)])
    for each in made_of.scenarios:
        assert each.drawn == "requests"
        assert each.headline.interval is not None
        assert each.headline.judged is None
        assert "no verdict: fewer than 5 batches of a server" in sentence(each)
        assert {row[-1] for row in compare_sheet(each).rows if row[1]} == {"–"}
    said = " ".join(remarks(made_of))
    assert "drawn again: requests, each by itself; no verdict" in said
    assert "Servers that are started alike differ too" in said
    assert "Holm" not in said


def test_three_servers_a_side_are_what_is_drawn() -> None:
    """Servers that differ by more than the sides: batches alone would call it sure."""
    off = (0.0, 40.0, 80.0)
    generator = rng(13)
    made_of = found(
        [made(generator, server_ms=each) for each in off],
        [made(generator, server_ms=each + 15) for each in off],
    )
    for each in made_of.scenarios:
        assert (each.drawn, each.units) == ("repeats", (3, 3))
        assert not each.headline.beyond_noise
    assert any("whole servers (3 of A, 3 of B)" in line for line in remarks(made_of))
    alone = found([made(generator)], [made(generator, server_ms=15)])
    assert all(each.of("part.device.prefill").beyond_noise for each in alone.scenarios)


def test_a_part_that_phases_do_not_show_is_named_itself() -> None:
    generator = rng(14)
    b = made(generator, decode_ms=100)
    for scenario in b.values.values():
        del scenario["phase.decode"]
    (each, *_) = found([made(generator)], [b]).scenarios
    assert causes(each)[0].figure.label == "device.decode"
    # Without the accounting phases are all there is.
    a, b = made(generator), made(generator, wait_ms=100)
    for scenario in b.values.values():
        for key in [key for key in scenario if key.startswith("part.")]:
            del scenario[key]
    (each, *_) = found([a], [b]).scenarios
    assert causes(each)[0].figure.label == "tokenize.wait"


def test_the_servers_total_where_a_side_has_no_client() -> None:
    a, b = made(rng(15)), made(rng(16))
    for scenario in b.values.values():
        for key in [key for key in scenario if key.startswith("client.")]:
            del scenario[key]
    made_of = found([a], [b])
    assert {each.headline.figure for each in made_of.scenarios} == {figures.SERVER_TOTAL}
    assert all(each.of(figures.TTFT.key) is None for each in made_of.scenarios)


def test_plain_is_json_and_has_every_figure() -> None:
    made_of = found([made(rng(17))], [made(rng(18), wait_ms=60)])
    document = json.loads(json.dumps(plain(made_of)))
    first = document["scenarios"][0]
    assert first["headline"] == "client.total"
    assert first["within_noise"] is False
    assert first["figures"]["phase.tokenize_wait"]["label"] == "tokenize.wait"
    assert set(first["figures"]) == {f.figure.key for f in made_of.scenarios[0].figures}
    assert first["units"] == [10, 10]
    assert first["causes"] == ["phase.tokenize_wait"]


def test_a_side_is_not_compared_with_itself() -> None:
    one = side("a", made(rng(19)))
    with pytest.raises(CodesignError, match="both sides have the server"):
        compare(one, one)


def test_nothing_in_common() -> None:
    a, b = made(rng(20)), made(rng(21))
    b.values = {"other": b.values["single"]}
    with pytest.raises(CodesignError, match="before has single, conc4, conc16; after has other"):
        found([a], [b])


def test_what_fewer_servers_know_has_no_verdict() -> None:
    """Two of three captures are there: their batches do not say how servers differ."""
    a, b = ([made(rng(30 + 3 * which + n)) for n in range(3)] for which in range(2))
    for scenario in a[0].values.values():
        for key in [key for key in scenario if not key.startswith("client.")]:
            del scenario[key]
    for each in found(a, b).scenarios:
        assert each.drawn == "repeats"
        assert each.headline.judged is not None
        part = each.of("part.frontend.wait")
        assert part.interval.drawn == "batches"
        assert part.judged is None


def test_a_change_that_hides_in_the_total_is_told_as_such() -> None:
    """Nothing to be a share of: neither the total nor the time to the first token has moved."""
    generator = rng(40)
    a, b = made(generator), made(generator)
    for key in ("part.frontend.cpu", "phase.tokenize_run"):
        for values in b.values["conc16"][key].values():
            for place in range(len(values)):
                values[place] += 5.0
    (each,) = [s for s in found([a], [b]).scenarios if s.scenario == "conc16"]
    assert not each.headline.beyond_noise
    assert ", within noise; beyond it tokenize.encode +" in sentence(each)
    assert "%" not in sentence(each)
