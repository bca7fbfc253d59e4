"""Connector hooks on plain objects: classes that are wrapped, what each call leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.hooks.engine import Scheduler, queue, request, step
from vllm_codesign.hooks import (
    engine_core,
    kv_connector,
    kv_scheduler,
    kv_worker,
    session_start,
)
from vllm_codesign.hooks.block_life import BLOCKS
from vllm_codesign.hooks.engine_state import ENGINE
from vllm_codesign.hooks.installer import Installer, getters_for
from vllm_codesign.hooks.kv_metadata import stores_of
from vllm_codesign.hooks.kv_state import CONNECTORS, IN_FLIGHT
from vllm_codesign.hooks.kv_worker import LAYERS
from vllm_codesign.hooks.table import Status
from vllm_codesign.hooks.worker import WORKER
from vllm_codesign.recorder.active import key_of
from vllm_codesign.recorder.layout import Kind, KVCall, KVDone, KVFlag


@pytest.fixture(autouse=True)
def fresh(recording: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(session_start, "installer", Installer())
    monkeypatch.setattr(session_start, "report_hooks", lambda: None)
    parts = (ENGINE, CONNECTORS, IN_FLIGHT, BLOCKS, LAYERS, WORKER)
    for part in parts:
        part.reset()
    ENGINE.block_bytes, ENGINE.block_size = 64, 16
    yield
    for part in parts:
        part.reset()


class KVConnectorBase_V1:  # its name is what marks the base
    def __init__(self) -> None:
        kv_connector._made(self)

    def request_finished(self, request: Any, block_ids: Any) -> Any:
        return False, None

    def get_finished(self, finished_req_ids: Any) -> Any:
        return None, None


def make(base: type = KVConnectorBase_V1, **answers: Any) -> Any:
    """A connector of a class of its own."""

    class Fake(base):  # type: ignore[misc]
        def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> Any:
            return answers.get("hit", (0, False))

        def update_state_after_alloc(
            self, request: Any, blocks: Any, num_external_tokens: int
        ) -> None:
            pass

        def build_connector_meta(self, scheduler_output: Any) -> Any:
            return SimpleNamespace(requests=answers.get("requests", []))

        def request_finished(self, request: Any, block_ids: Any) -> Any:
            return answers.get("kept", False), None

        def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
            pass

        def wait_for_layer_load(self, layer_name: str) -> None:
            if answers.get("fails"):
                raise OSError("gone")

        def wait_for_save(self) -> None:
            pass

        def get_finished(self, finished_req_ids: Any) -> Any:
            return answers.get("finished", (None, None))

    return Fake()


def admit(connector: Any, scheduler: Any, which: Any, tokens: int) -> None:
    connector.get_num_new_matched_tokens(which, 16)
    connector.update_state_after_alloc(which, None, tokens)


def schedule(scheduler: Any, *new: str) -> Any:
    plan = step(new=new, **dict.fromkeys(new, 1)) if new else step()
    engine_core._scheduled(0, 1 << 50, plan, scheduler)
    return plan


def engine() -> Any:
    scheduler = Scheduler()
    scheduler.block_size = 16
    return scheduler


def test_its_class_is_wrapped_once_and_each_method_is_a_row() -> None:
    make()
    assert session_start.installer is not None
    rows = {o.hook.id: o.status for o in session_start.installer.outcomes}
    assert set(rows.values()) == {Status.INSTALLED}
    assert "kv_connector.Fake.get_num_new_matched_tokens" in rows
    assert "kv_connector.Fake.save_kv_layer" not in rows, "it has none of its own"

    class Another(KVConnectorBase_V1):
        def get_finished(self, finished_req_ids: Any) -> Any:
            return None, None

    Another()
    wrapped = Another.get_finished
    Another()
    assert Another.get_finished is wrapped
    assert CONNECTORS.names == ["Fake", "Another", "Another"]


def test_a_method_with_other_parameters_is_left_alone() -> None:
    class Odd(KVConnectorBase_V1):
        def get_num_new_matched_tokens(self, what: Any) -> Any:
            return 1, False

    assert Odd().get_num_new_matched_tokens("x") == (1, False)
    assert session_start.installer is not None
    (row,) = session_start.installer.outcomes
    assert row.status is Status.SIGNATURE_CHANGED
    assert "request" in row.detail


def test_an_asynchronous_load_from_its_plan_to_its_end(recording: Any) -> None:
    scheduler, a, connector = engine(), request("a"), make(hit=(48, True))
    queue(scheduler, a)
    recording.take()
    admit(connector, scheduler, a, 48)
    schedule(scheduler)
    records = {r.kind: r for r in recording.take()}
    assert records[Kind.KV_NAME].payload.rstrip(b"\0") == b"Fake"
    lookup, load = records[Kind.KV_LOOKUP], records[Kind.KV_LOAD]
    assert (lookup.a >> 32, lookup.a & 0xFFFFFFFF, lookup.c) == (84, 48, 1)
    assert (load.a >> 32, load.a & 0xFFFFFFFF, load.c) == (48, 3, 64)
    assert load.s == 1 | KVFlag.ASYNCHRONOUS
    assert (load.t1, load.b) == (1 << 50, 0), "no step starts it"

    kv_scheduler.note_output(7_000, output())
    kv_scheduler.note_output(8_000, output(finished_recving={"a", "unknown"}))
    (loaded,) = recording.take()
    assert (loaded.kind, loaded.key) == (Kind.KV_LOADED, key_of("a"))
    assert (loaded.t0, loaded.t1) == (8_000, 7_000)
    assert not IN_FLIGHT.loading


def test_a_synchronous_load_names_its_step(recording: Any) -> None:
    scheduler, a, connector = engine(), request("a"), make(hit=(48, False))
    recording.session.level = 2
    queue(scheduler, a)
    scheduler.waiting.clear()
    admit(connector, scheduler, a, 48)
    plan = schedule(scheduler, "a")
    (load,) = (r for r in recording.take() if r.kind == Kind.KV_LOAD)
    assert load.b == plan.codesign_step != 0
    assert not load.s & KVFlag.ASYNCHRONOUS
    assert not IN_FLIGHT.loading


def test_ask_again_later(recording: Any) -> None:
    """Its last answer is told even if it never comes in."""
    scheduler, a, connector = engine(), request("a"), make(hit=(None, True))
    queue(scheduler, a)
    for _ in range(3):
        connector.get_num_new_matched_tokens(a, 0)
    a.status = SimpleNamespace(name="FINISHED_ABORTED")
    engine_core._freed(0, 9, None, a)
    (lookup,) = (r for r in recording.take() if r.kind == Kind.KV_LOOKUP)
    assert (lookup.c, lookup.s) == (3, 1 | KVFlag.PENDING)


def output(**more: Any) -> Any:
    """What a step's result says of transfers."""
    told = {"finished_recving": None, "finished_sending": None, "failed_recving": set(), **more}
    return SimpleNamespace(kv_connector_output=SimpleNamespace(**told))


def loading(recording: Any, hit: int = 16, tokens: int = 48) -> tuple[Any, Any]:
    """A scheduler and a request for which `tokens` are loaded behind `hit` found ones."""
    scheduler, a, connector = engine(), request("a"), make(hit=(tokens, True))
    queue(scheduler, a)
    ENGINE.requests["a"].external = tokens
    connector.get_num_new_matched_tokens(a, hit)
    connector.update_state_after_alloc(a, None, tokens)
    schedule(scheduler)
    scheduler.requests["a"] = a
    recording.take()
    return scheduler, a


def test_what_failed_is_what_was_expected_less_what_is_left(recording: Any) -> None:
    scheduler, a = loading(recording)
    a.num_computed_tokens = 32
    kv_scheduler.invalidated(0, 5, ({"a"}, 32, set()), scheduler)
    (some,) = recording.take()
    assert (some.kind, some.t0, some.a) == (Kind.KV_FAILED, 5, 32)
    assert ENGINE.requests["a"].external == 16, "so many of them came"


def test_more_than_was_loaded_did_not_fail(recording: Any) -> None:
    """What was found in the device's cache before is no failure of the load."""
    scheduler, a = loading(recording)
    a.num_computed_tokens = 0
    kv_scheduler.invalidated(0, 5, ({"a"}, 64, set()), scheduler)
    (lost,) = recording.take()
    assert lost.a == 48


def test_a_failure_by_the_requests_id_comes_with_its_end(recording: Any) -> None:
    """As vLLM tells it, through the hook: failed and finished in one output."""
    scheduler, a = loading(recording)

    def update_from_output(self: Any, scheduler_output: Any, model_runner_output: Any) -> Any:
        a.num_computed_tokens = 0  # what `_handle_failed_recving` does
        return {}

    getters = getters_for(update_from_output, ("self", "scheduler_output", "model_runner_output"))
    update = engine_core.make_update(update_from_output, getters)
    update(scheduler, step(), output(finished_recving={"a"}, failed_recving={"a"}))
    failed, loaded = recording.take()
    assert (failed.kind, failed.a) == (Kind.KV_FAILED, 48), "not the 16 found in the cache"
    assert loaded.kind == Kind.KV_LOADED
    assert failed.t0 == loaded.t0
    assert ENGINE.requests["a"].external == 0
    assert not IN_FLIGHT.loading


def test_a_load_after_a_preemption_counts_from_what_it_found(recording: Any) -> None:
    scheduler, a, connector = engine(), request("a"), make(hit=(48, True))
    queue(scheduler, a)
    state = ENGINE.requests["a"]
    state.hit, state.admitted = 0, True  # nothing was found when it came in
    connector.get_num_new_matched_tokens(a, 32)
    connector.update_state_after_alloc(a, None, 48)
    schedule(scheduler)
    recording.take()
    a.num_computed_tokens = 32
    scheduler.requests["a"] = a
    kv_scheduler.invalidated(0, 5, ({"a"}, 48, set()), scheduler)
    (lost,) = recording.take()
    assert lost.a == 48


def test_how_late_an_end_is_known_counts_from_when_it_could_have_been(recording: Any) -> None:
    """A store that nobody waits for does not begin the waiting."""
    told = [_lmcache("a", "STORE", 0, 32)]
    scheduler, a, connector = engine(), request("a"), make(requests=told, kept=True)
    queue(scheduler, a)
    connector.build_connector_meta(step())
    engine_core._scheduled(0, 10, step(), scheduler)
    assert IN_FLIGHT.asked_at == 0
    a.status = SimpleNamespace(name="FINISHED_STOPPED")
    connector.request_finished(a, [])
    since = IN_FLIGHT.asked_at
    assert since > 10
    engine_core._freed(0, 9, None, a)
    recording.take()
    kv_scheduler.note_output(since + 500, output(finished_sending={"a"}))
    (sent,) = recording.take()
    assert (sent.kind, sent.t0, sent.t1) == (Kind.KV_SENT, since + 500, since)


def test_the_end_of_an_aborted_load_is_heard_while_dormant(recording: Any) -> None:
    scheduler, a = loading(recording)
    a.status = SimpleNamespace(name="FINISHED_ABORTED")
    engine_core._freed(0, 9, None, a)
    recording.session.level = 0
    recording.take()

    def update_from_output(self: Any, scheduler_output: Any, model_runner_output: Any) -> Any:
        return {}

    getters = getters_for(update_from_output, ("self", "scheduler_output", "model_runner_output"))
    update = engine_core.make_update(update_from_output, getters)
    update(scheduler, step(), output(finished_recving={"a"}))
    assert not IN_FLIGHT.loading
    assert IN_FLIGHT.asked_at == 0


def test_a_block_of_several_groups_says_no_bytes(recording: Any) -> None:
    ENGINE.block_size = 0
    scheduler, a, connector = engine(), request("a"), make(hit=(48, True))
    queue(scheduler, a)
    recording.take()
    admit(connector, scheduler, a, 48)
    schedule(scheduler)
    (load,) = (r for r in recording.take() if r.kind == Kind.KV_LOAD)
    assert (load.a >> 32, load.a & 0xFFFFFFFF) == (48, 0)


def test_stores_of_one_step_go_to_whom_they_are_of() -> None:
    """ExampleConnector names no request, and two may share their first block."""
    metadata = SimpleNamespace(
        requests=[
            SimpleNamespace(is_store=True, slot_mapping=[*range(16), *range(32, 48)]),
            SimpleNamespace(is_store=True, slot_mapping=[*range(16), *range(64, 96)]),
        ]
    )
    new = [
        SimpleNamespace(req_id="a", block_ids=([0, 2, 9],)),
        SimpleNamespace(req_id="b", block_ids=([0, 4, 5, 7],)),
    ]
    config = SimpleNamespace(cache_config=SimpleNamespace(block_size=16))
    connector = SimpleNamespace(_vllm_config=config)
    plan = SimpleNamespace(scheduled_new_reqs=new)
    assert list(stores_of(metadata, connector, 16, plan)) == [("a", 32, 2), ("b", 48, 3)]


def test_blocks_of_an_offload_are_tokens_where_a_block_says_how_many() -> None:
    job = SimpleNamespace(req_id="a", src_spec=SimpleNamespace(block_ids=[3, 4, 5]))
    metadata = SimpleNamespace(store_jobs={1: job})
    assert list(stores_of(metadata, None, 16, None)) == [("a", 48, 3)]
    assert list(stores_of(metadata, None, 0, None)) == [("a", 0, 3)]


def _lmcache(request_id: str, direction: str, start: int, end: int) -> Any:
    operation = SimpleNamespace(start=start, end=end, block_ids=[list(range(start, end, 16))])
    return SimpleNamespace(request_id=request_id, direction=direction, op=operation)


@pytest.mark.parametrize("kept", [True, False])
def test_stores_are_summed_and_told_at_the_end(recording: Any, kept: bool) -> None:
    told = [_lmcache("a", "STORE", 0, 32), _lmcache("a", "RETRIEVE", 0, 64)]
    scheduler, a, connector = engine(), request("a"), make(requests=told, kept=kept)
    queue(scheduler, a)
    for _ in range(2):
        connector.build_connector_meta(step())
        schedule(scheduler)
    a.status = SimpleNamespace(name="FINISHED_STOPPED")
    connector.request_finished(a, [])
    engine_core._freed(0, 9, None, a)
    (store,) = (r for r in recording.take() if r.kind == Kind.KV_STORE)
    assert (store.a >> 32, store.a & 0xFFFFFFFF) == (64, 4)
    assert bool(store.s & KVFlag.ASYNCHRONOUS) is kept
    assert ("a" in IN_FLIGHT.sending) is kept


def test_each_step_with_a_store_is_named_when_it_is_planned(recording: Any) -> None:
    scheduler, a = engine(), request("a")
    connector = make(requests=[_lmcache("a", "STORE", 0, 32)])
    recording.session.level = 2
    queue(scheduler, a)
    plans = []
    for _ in range(2):
        plan = step(a=1)
        connector.build_connector_meta(plan)
        engine_core._scheduled(0, 1 << 50, plan, scheduler)
        plans.append(plan.codesign_step)
    engine_core._scheduled(0, 1 << 50, step(a=1), scheduler)
    told = [r for r in recording.take() if r.kind == Kind.KV_ORDERED]
    assert [(r.key, r.b, r.s) for r in told] == [(key_of("a"), plan, 1) for plan in plans]


def test_a_connector_in_another_is_told_with_it(recording: Any) -> None:
    inner = make(hit=(32, False))

    class Outer(KVConnectorBase_V1):
        def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> Any:
            return inner.get_num_new_matched_tokens(request, num_computed_tokens)

        def update_state_after_alloc(
            self, request: Any, blocks: Any, num_external_tokens: int
        ) -> None:
            inner.update_state_after_alloc(request, blocks, num_external_tokens)

    scheduler, a, outer = engine(), request("a"), Outer()
    queue(scheduler, a)
    admit(outer, scheduler, a, 32)
    lookups = [r for r in recording.take() if r.kind == Kind.KV_LOOKUP]
    assert [r.s for r in lookups] == [2 << 6 | 1, 2]


def test_a_method_of_its_base_is_not_a_call_of_its_own(recording: Any) -> None:
    parent = type(make(hit=(32, False)))

    class Child(parent):  # type: ignore[misc, valid-type]
        def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> Any:
            return super().get_num_new_matched_tokens(request, num_computed_tokens)

    scheduler, a, child = engine(), request("a"), Child()
    queue(scheduler, a)
    child.get_num_new_matched_tokens(a, 0)
    state = ENGINE.requests["a"].kv
    assert state is not None
    assert [lookup.calls for lookup in state.lookups.values()] == [1]


def test_the_workers_calls(recording: Any) -> None:
    connector = make(finished=({"s"}, {"r"}))
    WORKER.key, WORKER.rank = 9, 1
    connector.start_load_kv(None)
    for layer in "ab":
        connector.wait_for_layer_load(layer)
    connector.wait_for_save()
    connector.get_finished(set())
    load, save, *done = recording.take()
    assert (load.kind, load.key, load.c, load.s) == (Kind.WORKER_KV, 9, KVCall.START_LOAD, 1)
    assert (save.c & 0xFF, save.c >> 8) == (KVCall.WAIT_FOR_SAVE, 2)
    assert (load.a, load.b, save.a > 0) == (0, 0, True)
    assert [(r.key, r.a) for r in done] == [
        (key_of("s"), KVDone.SENT),
        (key_of("r"), KVDone.RECEIVED),
    ]


def test_outside_a_step_nothing_is_told(recording: Any) -> None:
    connector = make()
    connector.start_load_kv(None)
    connector.wait_for_save()
    assert recording.take() == []


def test_layers_outside_a_recorded_step_do_not_read_the_clock(
    monkeypatch: pytest.MonkeyPatch, recording: Any
) -> None:
    """At level `request`, and of a warm-up run."""
    monkeypatch.setattr(kv_worker, "clock", lambda: pytest.fail("the clock was read"))
    make().wait_for_layer_load("a")
    assert (LAYERS.load_ns, LAYERS.calls) == (0, 0)


def test_layers_of_a_step_that_failed_are_not_the_next_ones(recording: Any) -> None:
    connector = make()
    WORKER.key = 8
    for layer in "abc":
        connector.wait_for_layer_load(layer)
    WORKER.key = 9
    connector.start_load_kv(None)
    connector.wait_for_save()
    WORKER.key = 10
    connector.wait_for_layer_load("a")
    connector.start_load_kv(None)  # of asynchronous loads: after the forward
    connector.wait_for_save()
    told = [(r.key, r.c & 0xFF, r.c >> 8, r.a > 0) for r in recording.take()]
    assert told == [
        (9, KVCall.START_LOAD, 0, False),
        (9, KVCall.WAIT_FOR_SAVE, 0, False),
        (10, KVCall.START_LOAD, 0, False),
        (10, KVCall.WAIT_FOR_SAVE, 1, True),
    ]


def test_what_a_layer_raises_comes_through() -> None:
    WORKER.key = 9
    with pytest.raises(OSError, match="gone"):
        make(fails=True).wait_for_layer_load("a")
    assert not LAYERS.inside


def test_dormant_it_only_calls(recording: Any) -> None:
    recording.session.level = 0
    assert make(hit=(48, True)).get_num_new_matched_tokens(request("a"), 0) == (48, True)
    assert recording.take() == []
    assert CONNECTORS.calls == []
