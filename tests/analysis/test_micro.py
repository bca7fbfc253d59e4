"""The tables of `codesign micro`, its file, and the study's figures beside it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.micro import growth, run
from vllm_codesign.analysis.micro import at, by_reason, read
from vllm_codesign.analysis.micro_sheets import micro_sheets, ms, verdict
from vllm_codesign.analysis.study_components import published
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.micro import Skipped

STUDY = Path(__file__).parents[3] / "shared/data/study_mi300x.json"


def test_tables() -> None:
    components, study, scheduler, grows, skipped = micro_sheets(run())
    assert components.columns == (
        "call", "kind", "1,000\ntokens", "10,000\ntokens", "100,000\ntokens", "of any\nsize",
        "widest\n95 %",
    )  # fmt: skip
    assert components.rows[0] == ("encode", "", "2.00", "20.0", "200", "–", "±10 %")
    assert components.rows[-1] == ("sse_parse", "", "–", "–", "–", "0.00195", "±10 %")
    assert scheduler.rows[1] == ("schedule", "decode", "16", *["0.0160"] * 3, "±10 %")
    assert grows.rows[0] == (
        "encode", "", "tokens", "1,000 to 100,000", "–", "1.00 [0.98, 1.02]", "–", "linear",
    )  # fmt: skip
    assert grows.rows[2][2:5] == ("requests", "1,000 to 100,000", "1,000 tokens")
    assert skipped.rows == (("lmcache_key", "lmcache is not installed"),)
    assert ("encode", "", "1,000", "1.50", "2.00", "1.33 x") in study.rows
    assert ("encode", "", "8,000", "13.6", "16.0", "1.17 x") in study.rows, "between two sizes"
    assert ("sse_parse", "", "any", "0.00195", "0.00195", "1.00 x") in study.rows
    assert ("detokenize_step", "fast", "any", "0.00211", "0.00150", "0.71 x") in study.rows


def test_of_the_schedulers_growths_those_beside_the_largest_are_shown() -> None:
    small, large = (
        growth("schedule", 1.0, group="scheduler", against="requests", at=at) for at in (1_000, 9)
    )
    (sheet,) = micro_sheets(run().model_copy(
        update={"timings": [], "skipped": [], "growths": [large, small]}
    ))  # fmt: skip
    assert [row[4] for row in sheet.rows] == ["1,000 tokens"]


def test_of_the_schedulers_growths_the_widest_are_shown() -> None:
    about = {"group": "scheduler", "against": "requests"}
    wide = growth("schedule", 1.1, at=1_000, sizes=[1, 4, 64, 1_024], **about)
    large = growth("schedule", 0.6, at=100_000, sizes=[1, 4, 16], **about)
    (sheet,) = micro_sheets(run().model_copy(
        update={"timings": [], "skipped": [], "growths": [large, wide]}
    ))  # fmt: skip
    assert [row[3:5] for row in sheet.rows] == [("1 to 1,024", "1,000 tokens")]


def test_three_sizes_are_sure_of_nothing() -> None:
    assert verdict(growth("schedule", 0.6, sizes=[1, 4, 16])) == "below linear, not surely"


def test_an_interval_of_two_rounds_is_none() -> None:
    few = run().timings[0].model_copy(update={"samples_ns": [1.0, 2.0]})
    (components,) = (
        sheet
        for sheet in micro_sheets(run().model_copy(update={"timings": [few]}))
        if sheet.title.startswith("Components")
    )
    assert components.rows[0][-1] == "–"


def test_a_claim_holds_or_does_not() -> None:
    timed = run()
    slow = timed.timings[2].model_copy(update={"component": "block_hash", "variant": "sha256"})
    fast = slow.model_copy(update={"variant": "xxhash", "median_ns": 9e5})
    (study,) = (
        sheet
        for sheet in micro_sheets(timed.model_copy(update={"timings": [slow, fast]}))
        if sheet.title.startswith("Beside")
    )
    assert study.rows == (
        ("block_hash", "sha256", "100,000", "< 1.00", "200", "does not hold: 200.0 x"),
        ("block_hash", "xxhash", "100,000", "< 1.00", "0.900", "holds"),
    )


@pytest.mark.parametrize(
    ("exponent", "half", "said"),
    [
        (0.0, 0.02, "no growth"),
        (-0.3, 0.02, "no growth"),
        (0.5, 0.02, "below linear"),
        (1.0, 0.02, "linear"),
        (1.09, 0.05, "linear, not surely"),
        (1.3, 0.02, "above linear"),
        (0.5, 0.6, "below linear, not surely"),
    ],
)
def test_growth_in_words(exponent: float, half: float, said: str) -> None:
    found = growth("encode", exponent, low=exponent - half, high=exponent + half)
    assert verdict(found) == said


@pytest.mark.parametrize(
    ("nanoseconds", "said"),
    [(1_949.626, "0.00195"), (1.8317e8, "183"), (1.5e6, "1.50"), (3.6e9, "3,600"), (0, "0")],
)
def test_three_digits(nanoseconds: float, said: str) -> None:
    assert ms(nanoseconds) == said


def test_between_two_sizes_and_outside() -> None:
    encode = [t for t in run().timings if t.component == "encode"]
    assert at(encode, 10_000) == 2e7
    assert at(encode, 31_623) == pytest.approx(2_000.0 * 31_623)
    assert at(encode, 999) is None
    assert at(encode, 100_001) is None
    assert at(encode, None) == 2e6


def test_a_file_is_read_back_or_told_why_not(tmp_path: Path) -> None:
    path = tmp_path / "micro.json"
    path.write_text(run().model_dump_json())
    assert read(path) == run()
    path.write_text('{"schema_version": 9}')
    with pytest.raises(CodesignError, match=r"not a file of this version's `codesign micro` \("):
        read(path)
    with pytest.raises(CodesignError, match="cannot be read"):
        read(tmp_path / "none.json")


def test_figures_are_those_of_the_study() -> None:
    if not STUDY.exists():
        pytest.skip("the study's data is not beside this checkout")
    data = json.loads(STUDY.read_text())
    source, figures = published()
    assert data["source"].startswith(source.partition("; ")[0])
    held = 0
    for figure in figures:
        if figure.path is None:
            assert figure.said
            continue
        value, above = data, data
        for name in figure.path.split("."):
            above, value = value, value[int(name) if isinstance(value, list) else name]
        assert figure.ms == value
        named = re.search(r"_(\d+)\.mean_ms$", figure.path)
        assert figure.tokens == (int(named[1]) if named else above.get("tokens"))
        if "actual_tokens" in above:
            assert figure.tokens == pytest.approx(above["actual_tokens"], rel=0.01)
        held += 1
    assert held == 18


def test_a_reason_is_said_once() -> None:
    late = [Skipped(component=f"case {number}", reason="no time") for number in range(5)]
    gone = Skipped(component="lmcache_key", reason="not installed")
    assert by_reason([*late, gone]) == [
        ("case 0; case 1; case 2; 2 more", "no time"),
        ("lmcache_key", "not installed"),
    ]
