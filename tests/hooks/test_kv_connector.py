"""Connector hooks on plain objects: classes that are wrapped, what each call leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.hooks.engine import Scheduler, queue, request, step
from vllm_codesign.hooks import engine_core, kv_connector, kv_scheduler, session_start
from vllm_codesign.hooks.block_life import BLOCKS
from vllm_codesign.hooks.engine_state import ENGINE
from vllm_codesign.hooks.installer import Installer
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

    def output(**more: Any) -> Any:
        told = {"finished_recving": None, "finished_sending": None, **more}
        return SimpleNamespace(kv_connector_output=SimpleNamespace(**told))

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


def test_what_failed_is_what_was_expected_less_what_is_left(recording: Any) -> None:
    scheduler, a, connector = engine(), request("a"), make(hit=(48, True))
    queue(scheduler, a)
    ENGINE.requests["a"].hit = 16
    admit(connector, scheduler, a, 48)
    schedule(scheduler)
    recording.take()
    a.num_computed_tokens = 32
    scheduler.requests["a"] = a
    kv_scheduler.invalidated(0, 5, ({"a"}, 32, set()), scheduler)
    kv_scheduler.failed(0, 6, {"a"}, scheduler, {"a"})
    some, all_of_it = recording.take()
    assert (some.kind, some.t0, some.a) == (Kind.KV_FAILED, 5, 32)
    assert (all_of_it.t0, all_of_it.a) == (6, 64)


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
    assert save.a > 0
    assert [(r.key, r.a) for r in done] == [
        (key_of("s"), KVDone.SENT),
        (key_of("r"), KVDone.RECEIVED),
    ]


def test_outside_a_step_nothing_is_told(recording: Any) -> None:
    connector = make()
    connector.start_load_kv(None)
    connector.wait_for_save()
    assert recording.take() == []


def test_what_a_layer_raises_comes_through() -> None:
    with pytest.raises(OSError, match="gone"):
        make(fails=True).wait_for_layer_load("a")
    assert not LAYERS.inside


def test_dormant_it_only_calls(recording: Any) -> None:
    recording.session.level = 0
    assert make(hit=(48, True)).get_num_new_matched_tokens(request("a"), 0) == (48, True)
    assert recording.take() == []
    assert CONNECTORS.calls == []
