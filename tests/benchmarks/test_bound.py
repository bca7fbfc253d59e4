import json

import pytest

from benchmarks.bound import bounds
from benchmarks.intervals import Interval
from benchmarks.load import WORDS, prompt
from benchmarks.micro_cases import engine_cases, frontend_cases, general_cases
from benchmarks.micro_kv_cases import connector_cases
from benchmarks.ring_counts import Tally, position, since
from vllm_codesign.recorder.layout import Kind
from vllm_codesign.recorder.ring import Ring


@pytest.fixture
def ring(tmp_path):
    return Ring(tmp_path / "process-1.ring", 4096 + 64 * 64)


def test_counting_begins_where_the_load_began(ring):
    ring.emit(Kind.ROOT_END, 1, 10)
    start = position(ring.path)
    assert start == 1
    ring.emit(Kind.ROOT_STREAM, 1, 10, 20, 0, 0, 33)
    ring.emit(Kind.REQ_OUT, 1, 10, 20, 32, 32)
    ring.emit(Kind.REQ_DETOKENIZE, 1, 10, 20, 0, 0, 32)
    ring.emit_text(Kind.TEXT, 1, 1, 1, b"x" * 32)
    tally = Tally(1)
    tally.add("api_server", since(ring.path, start))
    assert (tally.sends, tally.outputs, tally.detokenizer_calls) == (34, 32, 32)
    assert (tally.total("api_server"), tally.text("api_server")) == (4, 1)


def test_steps_come_from_the_worker(ring):
    for number in range(3):
        begin = number * 1000
        ring.emit(Kind.WORKER_EXECUTE, 7, begin, begin + 5, begin + 1, begin + 4, 16)
        ring.emit(Kind.WORKER_SAMPLE, 7, begin + 6, begin + 7)
    ring.emit(Kind.WORKER_EXECUTE, 0, 9000, 9001)  # an empty step
    tally = Tally(16)
    tally.add("worker", since(ring.path, 0))
    assert (tally.steps, tally.tokens, tally.step_ns) == (3, 48, [1000, 1000])
    assert json.loads(json.dumps(tally.as_dict()))["kinds"] == {
        "worker": {"WORKER_EXECUTE": 4, "WORKER_SAMPLE": 3}
    }


def test_overwritten_records_are_an_error(ring):
    for number in range(ring.capacity + 1):
        ring.emit(Kind.ROOT_END, 1, number)
    with pytest.raises(RuntimeError, match="overwritten"):
        since(ring.path, 0)


def test_bound_is_counts_times_costs():
    names = [case.name for case in general_cases() + engine_cases() + frontend_cases()]
    names += [case.name for case in connector_cases()]
    ns = {name: Interval(1000.0, 900.0, 1100.0, 9) for name in names}
    tally = Tally(
        requests=10,
        sends=340,
        outputs=320,
        detokenizer_calls=320,
        allocate_calls=320,
        steps=40,
        tokens=320,
        step_ns=[20_000_000] * 39,
    )
    tally.kinds["api_server"].update(
        {"ROOT_END": 10, "REQ_OUT": 20, "REQ": 60, "TEXT": 50, "ITL": 40, "TAKEN": 10}
    )
    tally.kinds["engine_core"].update(
        {"ENG_QUEUED": 40, "STEP": 40, "STEP_STATE": 40, "STEP_UPDATE": 40}
    )
    tally.kinds["worker"].update({"WORKER_EXECUTE": 40, "WORKER_SAMPLE": 40})
    api, engine, worker = bounds(tally, ns, api_cpu_us=5000.0)
    # root 1, calls 6 and 6, last output 2, burst 1, string, key, times, batches 8, outputs 32,
    # calls 32, sends 34
    assert api.us == pytest.approx(125)
    assert api.share == pytest.approx(125 / 5000)
    # records 1, schedule 1, update 1, allocate 8, blocks 8, keys 0.5, decoded 0.25
    assert engine.us == pytest.approx(19.75)
    assert engine.share == pytest.approx(19.75 / 20_000)
    assert worker.us == pytest.approx(2)


def test_a_connector_costs_where_there_is_one():
    names = [case.name for case in general_cases() + engine_cases() + frontend_cases()]
    names += [case.name for case in connector_cases()]
    ns = {name: Interval(1000.0, 900.0, 1100.0, 9) for name in names}
    tally = Tally(requests=10, steps=40, tokens=320, step_ns=[20_000_000] * 39)
    tally.kinds["worker"].update({"WORKER_EXECUTE": 40, "WORKER_SAMPLE": 40})
    _, without, alone = bounds(tally, ns, api_cpu_us=5000.0)
    tally.kinds["worker"].update({"WORKER_KV": 80, "WORKER_KV_DONE": 20})
    tally.connector_layers = 160
    _, engine, worker = bounds(tally, ns, api_cpu_us=5000.0)
    assert engine.us - without.us == pytest.approx(1)  # a plan
    assert worker.us - alone.us == pytest.approx(2.5 + 1 + 4)  # records, a poll, four layers


def test_layers_of_a_connector_are_counted(ring):
    ring.emit(Kind.WORKER_KV, 7, 10, 20, 5, 6, 4 << 8 | 1)
    ring.emit(Kind.WORKER_KV, 7, 30, 40, 5, 6, 2 << 8 | 2)
    tally = Tally(1)
    tally.add("worker", since(ring.path, 0))
    assert tally.connector_layers == 6


def test_prompts_differ_and_are_of_one_length():
    assert prompt("slot1", 0) == prompt("slot1", 0)
    assert len({prompt("slot1", 0), prompt("slot1", 1), prompt("slot2", 0)}) == 3
    assert len(prompt("slot1", 0).split()) == WORDS + 2
