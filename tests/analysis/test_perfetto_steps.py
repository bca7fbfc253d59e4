"""Steps, devices and flows in a Perfetto trace."""

from __future__ import annotations

from dataclasses import replace

from tests.accounting.cases import ENGINE, ROOT, STEP_NS, in_engine, member, step, trace
from tests.analysis.perfetto_reading import drawn
from vllm_codesign import semconv as S
from vllm_codesign.model.step import DeviceInterval, RankStep, Step


def test_a_step_on_engine_worker_and_device() -> None:
    made = replace(
        step(3, 1_000, blocked_by="no_free_blocks"),
        allocate=(1_002, 1_005),
        tokens=40,
        requests=2,
        waiting=5,
    )
    read = drawn([trace(0, 5_000)], [made])
    main = read.on("EngineCore", "EngineCore main")
    assert [(s.name, *s.time) for s in main] == [
        ("schedule", 1_000, 1_010),
        ("kv.allocate", 1_002, 1_005),
        ("waiting", 1_010, 1_087),
        ("update", 1_087, 1_093),
    ]
    assert main[0].notes == {
        "step": 3,
        "tokens": 40,
        "requests": 2,
        "waiting": 5,
        "blocked_by": "no_free_blocks",
    }
    assert {s.notes["step"] for s in main} == {3}
    assert read.named("worker rank 0", "host rank 0") == [
        ("worker.prepare", 1_015, 1_020),
        ("worker.forward", 1_020, 1_070),
        ("worker.sample", 1_073, 1_083),
    ]
    device = read.on("worker rank 0", "device rank 0")
    assert [(s.name, *s.time) for s in device] == [
        ("model", 1_020, 1_070),
        ("sample", 1_073, 1_083),
    ]
    assert device[0].notes == {"step": 3, "source": "wall"}
    (thread,) = [d.thread for d in read.descriptors.values() if d.HasField("thread")]
    assert (thread.pid, thread.tid) == (ENGINE, ENGINE)
    assert read.pid("worker rank 0") == 5_000


def test_a_device_track_for_each_rank() -> None:
    events = DeviceInterval(1_025, 1_080, "model", "events")
    made = step(1, 1_000, ranks=2)
    first, second = made.ranks
    late = replace(second, device=(events, DeviceInterval(1_085, 1_090, "draft", "events")))
    made = replace(made, ranks=(first, replace(late, forward_device=(1_030, 1_075))))
    read = drawn([trace(0, 5_000)], [made])
    assert read.named("worker rank 0", "device rank 0") == [
        ("model", 1_020, 1_070),
        ("sample", 1_073, 1_083),
    ]
    assert read.named("worker rank 1", "device rank 1") == [
        ("model", 1_025, 1_080),
        ("forward", 1_030, 1_075),
        ("draft", 1_085, 1_090),
    ]
    assert {s.notes["source"] for s in read.on("worker rank 1", "device rank 1")} == {"events"}
    assert read.pid("worker rank 0") == 5_000
    assert read.pid("worker rank 1") > 1 << 22, "not known: no process has this id"


def test_steps_in_any_order_that_meet_at_an_instant() -> None:
    """The next schedule() begins as the last update ends, the device without a pause."""
    made = [step(n, n * STEP_NS) for n in range(50)]
    packed = [
        replace(
            s,
            ranks=(
                RankStep(
                    0,
                    device=(
                        DeviceInterval(s.number * 100, s.number * 100 + 100, "model", "events"),
                    ),
                ),
            ),
        )
        for s in made
    ]
    read = drawn([trace(0, 10_000)], packed[::-1])
    device = read.on("worker rank 0", "device rank 0")
    assert [(s.notes["step"], *s.time) for s in device] == [
        (n, n * 100, n * 100 + 100) for n in range(50)
    ]
    main = read.on("EngineCore", "EngineCore main")
    assert len(main) == 150
    assert {s.track[1] for s in read.slices if s.track[0] == "EngineCore"} == {"EngineCore main"}
    assert {d.name for d in read.descriptors.values()} & {"device rank 0 (2)"} == set()


def test_several_engines_have_workers_of_their_own() -> None:
    other = replace(step(1, 500), engine=99)
    read = drawn([trace(0, 5_000)], [step(1, 1_000), other])
    assert read.named("worker rank 0 of EngineCore 99", "device rank 0")[0] == ("model", 520, 570)
    assert read.named(f"worker rank 0 of EngineCore {ENGINE}", "device rank 0")[0] == (
        "model",
        1_020,
        1_070,
    )
    pids = [d.process.pid for d in read.descriptors.values() if d.HasField("process")]
    assert len(pids) == len(set(pids)) == 5


def served(decodes: int) -> list[Step]:
    """Two prefill chunks, then decodes, of a request; another one is in every step."""
    other = member(99, "decode", "not here")
    phases = ["prefill", "prefill", *["decode"] * decodes]
    made = [
        step(n, 1_000 + n * STEP_NS, members=(member(ROOT, phase), other), ranks=2)
        for n, phase in enumerate(phases, 1)
    ]
    # The forward alone begins with the model's interval and ends before it.
    return [
        replace(
            s,
            ranks=tuple(
                replace(r, forward_device=(r.device[0].start_ns, r.device[0].end_ns - 1))
                for r in s.ranks
            ),
        )
        for s in made
    ]


def test_a_flow_from_a_request_to_its_steps() -> None:
    steps = served(decodes=5)
    first_token = steps[1].end_ns
    last_token = steps[-1].end_ns
    read = drawn(
        [
            trace(
                0,
                9_000,
                in_engine(S.PREFILL.name, steps[0].schedule[0], first_token),
                in_engine(S.DECODE.name, first_token, last_token),
            )
        ],
        steps[::-1],
    )
    (flow,) = {flow for s in read.slices for flow in s.flows}
    joined = sorted((s for s in read.slices if s.flows), key=lambda s: s.start)
    assert [(s.track[1], s.name, s.notes.get("step")) for s in joined] == [
        ("requests 1", S.PREFILL.name, None),
        ("device rank 0", "model", 1),
        ("device rank 0", "model", 2),
        ("requests 1", S.DECODE.name, None),
        ("device rank 0", "model", 3),
        ("device rank 0", "model", 7),
    ]
    assert all(s.flows == (flow,) for s in joined)


def test_flows_do_not_grow_with_tokens() -> None:
    def arrows(decodes: int) -> int:
        children = (in_engine(S.PREFILL.name, 1_000, 1_200), in_engine(S.DECODE.name, 1_200, 1_300))
        read = drawn([trace(0, 9_000_000, *children)], served(decodes))
        return sum(len(s.flows) for s in read.slices)

    assert arrows(2) == arrows(500) == 6
    assert arrows(0) == 4


def test_without_device_times_flows_lead_to_schedule() -> None:
    steps = [replace(s, ranks=()) for s in served(decodes=1)]
    read = drawn([trace(0, 9_000, in_engine(S.PREFILL.name, 1_093, 1_300))], steps)
    joined = [(s.name, s.notes.get("step")) for s in read.slices if s.flows]
    assert sorted(joined, key=str) == [
        (S.PREFILL.name, None),
        ("schedule", 1),
        ("schedule", 2),
        ("schedule", 3),
    ]
