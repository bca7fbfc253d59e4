"""The arithmetic of docs/cold_and_warm.md, on the study's own figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

STUDY = Path(__file__).resolve().parents[3] / "shared" / "data" / "study_mi300x.json"


@pytest.fixture(scope="module")
def arms() -> dict[str, dict[str, Any]]:
    if not STUDY.is_file():
        pytest.skip(f"{STUDY} is not here: the study's figures lie beside the repository alone")
    found = json.loads(STUDY.read_text())["arms"]
    return {arm: {row["scenario"]: row for row in rows} for arm, rows in found.items()}


@pytest.mark.parametrize(
    ("scenario", "batches", "cold", "warm"),
    [("conc32_100k", 2, 54.8, 2.3), ("conc16_32k", 3, 4.0, 0.47)],
)
def test_one_cold_batch_and_warm_ones(
    arms: dict[str, dict[str, Any]], scenario: str, batches: int, cold: float, warm: float
) -> None:
    """What the others took, where one batch took the p95 and the mean is over all of them."""
    prefill = arms["lmcache_dram"][scenario]["prefill_ms"]
    rest = (batches * prefill["mean"] - prefill["p95"]) / (batches - 1)
    assert prefill["p95"] / 1e3 == pytest.approx(cold, rel=0.01)
    assert rest / 1e3 == pytest.approx(warm, rel=0.01)
    # ... which is what every batch took in the arm without LMCache.
    assert rest == pytest.approx(arms["hbm_prefix_cache"][scenario]["prefill_ms"]["mean"], rel=0.08)


def test_the_median_lies_between_the_two_batches(arms: dict[str, dict[str, Any]]) -> None:
    row = arms["lmcache_dram"]["conc32_100k"]
    prefill = row["prefill_ms"]
    warm = 2 * prefill["mean"] - prefill["p95"]
    assert prefill["p50"] == pytest.approx((warm + prefill["p95"]) / 2, rel=0.02)
    # Half of the requests have a third of the CPU % only because they took so long in all.
    assert row["cpu_percent"]["p50"] == pytest.approx(5.12, abs=0.01)
    rest = 2 * row["cpu_percent"]["mean"] - row["cpu_percent"]["p50"]
    other = arms["hbm_prefix_cache"]["conc32_100k"]["cpu_percent"]["mean"]
    assert rest == pytest.approx(other, rel=0.04)


def test_one_arm_had_computed_the_prompt_before(arms: dict[str, dict[str, Any]]) -> None:
    hbm, lmcache = arms["hbm_prefix_cache"], arms["lmcache_dram"]
    assert set(hbm) - set(lmcache) == {"single_32k", "single_100k"}
    assert hbm["conc32_100k"]["server"]["prefix_hit_percent"] > 99.9
    assert hbm["conc16_32k"]["server"]["prefix_hit_percent"] > 99.9
    assert all("server" not in row for row in lmcache.values())
