"""Gauges from samples: by role, by GPU, the worst of the loops."""

from __future__ import annotations

from tests.support.measured import measured
from vllm_codesign import semconv as S
from vllm_codesign.exporter.metrics.sampled import STALE_NS, Sampled
from vllm_codesign.exporter.samplers.sampler import Sample
from vllm_codesign.semconv import metrics as M


def process(pid: int, role: str, cores: float) -> Sample:
    of = {S.PROCESS_PID.key: pid, S.PROCESS_ROLE.key: role}
    return Sample(1, S.PROCESS_CPU, cores, of)


def lag(pid: int, statistic: str, seconds: float) -> Sample:
    of = {S.PROCESS_PID.key: pid, S.STATISTIC.key: statistic}
    return Sample(1, S.EVENT_LOOP_LAG, seconds, of)


def gpu(index: int, at_ns: int, watts: float) -> Sample:
    of = {
        S.HW_ID.key: f"GPU-{index}",
        S.HW_NAME.key: "MI300X",
        S.HW_TYPE.key: "gpu",
        S.HW_VENDOR.key: "AMD",
        S.GPU_INDEX.key: index,
    }
    return Sample(at_ns, S.HW_POWER, watts, of)


def test_processes_are_summed_by_role_and_never_told_by_pid() -> None:
    made = measured()
    sampled = Sampled(made.board)
    for sample in (
        process(1, "worker", 1.0),
        process(2, "worker", 0.5),
        process(3, "api_server", 2),
    ):
        sampled.take(sample)
    sampled.show(1, [1, 2, 3])
    by_role = made.exported().by(M.PROCESS_CORES, "codesign_process_role")
    assert by_role == {"worker": 1.5, "api_server": 2}
    assert "process_pid" not in made.text()
    sampled.show(2, [1, 2, 3])
    assert made.exported().by_labels(M.PROCESS_CORES) == [], "nobody was asked in this round"


def test_a_loop_that_stands_still_keeps_its_lag_until_its_process_is_gone() -> None:
    made = measured()
    sampled = Sampled(made.board)
    for sample in (
        lag(1, "max", 0.2),
        lag(1, "mean", 0.05),
        lag(2, "max", 0.1),
        lag(2, "mean", 0.09),
    ):
        sampled.take(sample)
    for _ in range(2):
        sampled.show(1, [1, 2])
        assert made.exported().by(M.LOOP_LAG, "codesign_statistic") == {"max": 0.2, "mean": 0.09}
    sampled.show(1, [2])
    assert made.exported().by(M.LOOP_LAG, "codesign_statistic") == {"max": 0.1, "mean": 0.09}


def test_the_last_sample_of_each_gpu_until_it_is_old() -> None:
    made = measured()
    sampled = Sampled(made.board)
    for sample in (gpu(0, 10, 100.0), gpu(0, 20, 300.0), gpu(1, 20, 50.0)):
        sampled.take(sample)
    sampled.show(20, [])
    (power,) = (m for m in M.HARDWARE if m.name == S.HW_POWER.name)
    assert made.exported().by(power, "codesign_gpu_index") == {"0": 300.0, "1": 50.0}
    sampled.take(gpu(1, 30 + STALE_NS, 60.0))
    sampled.show(30 + STALE_NS, [])
    assert made.exported().by(power, "codesign_gpu_index") == {"1": 60.0}
    assert "GPU-1" not in made.text()


def test_the_exporters_cpu_time() -> None:
    made = measured()
    sampled = Sampled(made.board)
    sampled.take(Sample(1, S.EXPORTER_CPU_TIME, 2.5, {S.PROCESS_PID.key: 7}))
    sampled.show(1, [])
    assert made.exported().by_labels(M.EXPORTER_CPU) == [2.5]
