"""torch.profiler's kernels in a Perfetto trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.accounting.cases import UNIX, step, trace
from tests.analysis.perfetto_reading import drawn
from vllm_codesign.analysis.slices import Slices
from vllm_codesign.analysis.torch_profile import Profile
from vllm_codesign.model.errors import CodesignError


def profile(*pieces: tuple[int, int, str], kind: str = "device") -> Profile:
    slices = Slices()
    for start, end, name in pieces:
        slices.add(UNIX + start, UNIX + end, name)
    return Profile(Path("rank0.pt.trace.json"), 0, {(kind, 0, 7): slices})


def test_kernels_land_in_their_device_interval() -> None:
    # Unix time runs 200 ns in 59 us faster than the host's clock: READINGS.
    made = step(1, 29_000, model=10_000)
    (interval, _) = made.ranks[0].device
    start, end = interval.start_ns, interval.end_ns

    def unix(monotonic: int) -> int:
        return monotonic + (monotonic - 1_000) * 200 // 59_000

    kernels = profile((unix(start) + 5, unix(start) + 90, "gemm"), (unix(end) - 90, unix(end), "x"))
    read = drawn([trace(0, 90_000)], [made], profiles=[kernels])
    (model,) = [s for s in read.on("worker rank 0", "device rank 0") if s.name == "model"]
    drawn_kernels = read.on("torch.profiler rank 0 (rank0.pt.trace.json)", "stream 7")
    assert [s.name for s in drawn_kernels] == ["gemm", "x"]
    assert all(model.start <= s.start < s.end <= model.end for s in drawn_kernels)
    assert abs(drawn_kernels[0].start - (start + 5)) <= 1
    assert abs(drawn_kernels[1].end - end) <= 1


def test_operators_nest_on_their_thread() -> None:
    operators = profile((5_000, 5_500, "execute"), (5_100, 5_200, "aten::mm"), kind="host")
    read = drawn([trace(0, 9_000)], profiles=[operators])
    assert [s.name for s in read.on("torch.profiler rank 0 (rank0.pt.trace.json)", "thread 7")] == [
        "execute",
        "aten::mm",
    ]


@pytest.mark.parametrize("away_s", [-30, 40_000])
def test_a_profile_of_another_run(away_s: int) -> None:
    at = away_s * 1_000_000_000
    with pytest.raises(CodesignError) as caught:
        drawn([trace(0, 9_000)], profiles=[profile((at, at + 5, "gemm"))])
    assert f"lies {abs(away_s):,} s away from the requests of this capture" in str(caught.value)
