"""The workers' side of a step: the real wrappers around stand-ins for vLLM's worker."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_codesign.hooks import worker as hooks
from vllm_codesign.hooks.installer import getters_for
from vllm_codesign.hooks.steps import ATTRIBUTE
from vllm_codesign.hooks.worker import WORKER
from vllm_codesign.recorder.layout import DeviceWork, Kind

REQUEST, STEP = 1, 2
HOOKS = {hook.id: hook for hook in hooks.HOOKS}


class Device:
    """Notes what it was told of the step."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: self.calls.append((name, *args))


class Speculator:
    """The V2 model runner's drafter."""

    def __init__(self, rank: Rank) -> None:
        self.rank = rank

    def propose(self) -> None:
        self.rank._take("draft")


class Rank:
    """A worker with a V1 or V2 model runner whose calls take 10 ns each, under the real hooks."""

    rank = 3

    def __init__(self, style: str) -> None:
        self.style = style
        self.now = 1_000
        self.calls = 0
        self.fails: dict[str, BaseException] = {}
        self.device = SimpleNamespace(type="cpu")
        rank = self

        def execute_model(self: Any, scheduler_output: Any) -> str:
            rank.calls += 1
            rank._take("prepare")
            if scheduler_output.total_num_scheduled_tokens:
                rank.forward()
            rank._take("execute")
            return "executed"

        def sample_tokens(self: Any, grammar_output: Any) -> str:
            rank._take("sample")
            rank._draft()
            return "sampled"

        self._execute = self._hook("worker.execute_model", execute_model)
        self._sample = self._hook("worker.sample_tokens", sample_tokens)
        self._forward = self._hook("worker.forward", lambda: self._take("forward"))
        self._before = self._hook("worker.before_forward", lambda: self._take("pre_forward"))
        self._after = self._hook("worker.after_forward", lambda: self._take("post_forward"))
        if style == "V1":
            self._draft = self._hook("worker.draft", lambda: self._take("draft"))
        else:
            speculator = self._hook("worker.draft.v2", lambda config: Speculator(self))(None)
            assert isinstance(speculator, Speculator)
            self._draft = speculator.propose

    @staticmethod
    def _hook(row: str, original: Callable[..., Any]) -> Callable[..., Any]:
        hook = HOOKS[row]
        return hook.make(original, getters_for(original, hook.reads))

    def _take(self, what: str) -> None:
        self.now += 10
        if what in self.fails:
            raise self.fails.pop(what)

    def forward(self) -> None:
        if self.style == "V1":
            self._forward()
        else:
            self._before()
            self._take("forward")
            self._after()

    def execute(self, key: int = 0, tokens: int = 8) -> None:
        output = SimpleNamespace(total_num_scheduled_tokens=tokens)
        if key:
            setattr(output, ATTRIBUTE, key)
        assert self._execute(self, output) == "executed"

    def sample(self) -> None:
        assert self._sample(self, None) == "sampled"


@pytest.fixture(params=["V1", "V2"])
def rank(
    request: pytest.FixtureRequest, recording: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Rank]:
    WORKER.reset()
    made = Rank(request.param)
    monkeypatch.setattr(hooks, "clock", lambda: made.now)
    recording.session.level = STEP
    yield made
    WORKER.reset()


@pytest.fixture
def device(rank: Rank, monkeypatch: pytest.MonkeyPatch) -> Device:
    found = Device()
    monkeypatch.setattr(hooks, "device_clock", lambda worker: found)
    return found


def test_a_step(rank: Rank, recording: Any) -> None:
    rank.execute(key=77, tokens=8)
    rank.now += 5
    rank.sample()
    execute, sample = recording.take()
    before = {"V1": 10, "V2": 20}[rank.style]  # the connector's pre_forward is not the model's
    after = {"V1": 10, "V2": 20}[rank.style]
    assert (execute.kind, execute.key, execute.s, execute.c) == (Kind.WORKER_EXECUTE, 77, 3, 8)
    assert execute.t0 == 1_000
    assert (execute.a, execute.b) == (1_000 + before, 1_000 + before + 10)
    assert execute.t1 == execute.b + after
    assert (sample.kind, sample.key, sample.s) == (Kind.WORKER_SAMPLE, 77, 3)
    assert (sample.t0, sample.t1) == (execute.t1 + 5, execute.t1 + 25)


def test_samples_belong_to_the_step_before_them(rank: Rank, recording: Any) -> None:
    for key in (5, 6, 7):
        rank.execute(key=key)
        rank.sample()
    rank.sample()
    assert [(r.kind, r.key) for r in recording.take()] == [
        (Kind.WORKER_EXECUTE, 5),
        (Kind.WORKER_SAMPLE, 5),
        (Kind.WORKER_EXECUTE, 6),
        (Kind.WORKER_SAMPLE, 6),
        (Kind.WORKER_EXECUTE, 7),
        (Kind.WORKER_SAMPLE, 7),
        (Kind.WORKER_SAMPLE, 0),
    ]


def test_a_step_without_a_forward(rank: Rank, recording: Any) -> None:
    """Nothing to compute: the connector only is told of finished requests."""
    rank.execute(key=5)
    rank.execute(key=6, tokens=0)
    first, second = recording.take()
    assert first.a > 0
    assert (second.key, second.a, second.b, second.c) == (6, 0, 0, 0)


def test_dummy_runs_outside_a_step_leave_nothing(rank: Rank, recording: Any) -> None:
    rank.forward()
    rank._draft()
    assert recording.take() == []
    rank.execute(key=5)
    rank.forward()
    stamps = (WORKER.forward_from, WORKER.forward_to)
    (execute,) = recording.take()
    assert stamps == (execute.a, execute.b)
    rank.sample()
    rank.forward()
    rank._draft()
    assert recording.kinds() == [Kind.WORKER_SAMPLE]


def test_below_level_step_the_key_is_zero(rank: Rank, recording: Any, device: Device) -> None:
    recording.session.level = REQUEST
    rank.execute(tokens=4)
    rank.sample()
    assert [(r.kind, r.key, r.c) for r in recording.take()] == [
        (Kind.WORKER_EXECUTE, 0, 4),
        (Kind.WORKER_SAMPLE, 0, 0),
    ]
    assert device.calls == [], "no events below level step"


def test_a_step_is_recorded_whole_though_the_level_changes(rank: Rank, recording: Any) -> None:
    """EngineCore has decided on it."""
    recording.session.level = 0
    rank.execute(key=5)
    rank.sample()
    rank.execute()
    rank.sample()
    assert [(r.kind, r.key) for r in recording.take()] == [
        (Kind.WORKER_EXECUTE, 5),
        (Kind.WORKER_SAMPLE, 5),
    ]


@pytest.mark.parametrize("level", [0, REQUEST, STEP])
@pytest.mark.parametrize("where", ["prepare", "forward", "execute"])
def test_an_exception_passes_once_and_leaves_nothing_behind(
    rank: Rank, recording: Any, device: Device, where: str, level: int
) -> None:
    error = RuntimeError("out of memory")
    recording.session.level = level
    rank.fails[where] = error
    with pytest.raises(RuntimeError) as raised:
        rank.execute(key=5 if level == STEP else 0)
    assert raised.value is error
    assert rank.calls == 1
    assert (WORKER.key, WORKER.in_execute, WORKER.device) == (0, False, None)
    if level == STEP:
        assert device.calls[-1] == ("end_range",)
    device.calls.clear()
    recording.take()
    recording.session.level = STEP
    rank.sample()
    rank.forward()
    (sample,) = recording.take()
    assert (sample.kind, sample.key) == (Kind.WORKER_SAMPLE, 0)
    assert device.calls == []


def test_an_exception_while_sampling(rank: Rank, recording: Any, device: Device) -> None:
    rank.execute(key=5)
    rank.fails["sample"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        rank.sample()
    assert recording.kinds() == [Kind.WORKER_EXECUTE]
    assert (WORKER.key, WORKER.device) == (0, None)
    rank.execute(key=6)
    rank.sample()
    assert [r.key for r in recording.take()] == [6, 6]


def test_what_goes_wrong_in_ours_does_not_reach_vllm(
    rank: Rank, recording: Any, lenient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(worker: Any) -> Any:
        raise OSError("no such device")

    monkeypatch.setattr(hooks, "device_clock", broken)
    rank.execute(key=5)
    rank.sample()
    assert recording.ring.errors == 1
    assert [(r.kind, r.key) for r in recording.take()] == [(Kind.WORKER_SAMPLE, 0)]


def test_the_device_is_told_what_it_works_on(rank: Rank, device: Device) -> None:
    rank.execute(key=5)
    rank.sample()
    model, sample, draft = DeviceWork.MODEL, DeviceWork.SAMPLE, DeviceWork.DRAFT
    assert device.calls == [
        ("begin_step", 5),
        ("begin", model),
        ("forward_ended",),
        ("end_range",),
        ("end", model),
        ("begin", sample),
        ("begin", draft),
        ("end", draft),
        ("end", sample),
        ("collect",),
    ]


def test_a_forked_child_has_no_step(rank: Rank, device: Device) -> None:
    rank.execute(key=5)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, bytes([WORKER.key, WORKER.device is None]))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 2) == bytes([0, 1])
    os.close(read)
    os.close(write)
    assert WORKER.key == 5
