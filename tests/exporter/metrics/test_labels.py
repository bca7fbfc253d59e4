"""Whatever clients send, attributes have few values; and what is lost is counted from 0."""

from __future__ import annotations

from dataclasses import replace

from tests.exporter.records import api_records, engine_records, the_trace
from tests.support.measured import measured
from vllm_codesign import semconv as S
from vllm_codesign.exporter.facts import EngineFacts
from vllm_codesign.exporter.metrics import queue
from vllm_codesign.exporter.metrics.losses import Losses
from vllm_codesign.exporter.metrics.models import MAX_MODELS, OTHER, UNKNOWN, Models
from vllm_codesign.exporter.metrics.sessions import IN_USE_NS, Sessions
from vllm_codesign.exporter.tally import LOSSES, Before
from vllm_codesign.model.trace import RequestTrace
from vllm_codesign.recorder.layout import Kind
from vllm_codesign.recorder.reader import Record
from vllm_codesign.semconv import metrics as M


def test_the_first_models_keep_their_names() -> None:
    models = Models()
    assert models.name("typo", served=False) == OTHER
    names = [models.name(f"m{n}", served=True) for n in range(MAX_MODELS + 2)]
    assert names == [*(f"m{n}" for n in range(MAX_MODELS)), OTHER, OTHER]
    assert models.name("m0", served=False) == "m0"
    assert models.name("typo", served=True) == OTHER
    assert models.name("", served=True) == models.name(None, served=False) == UNKNOWN


def in_session(name: str) -> RequestTrace:
    trace = the_trace(api_records(), engine_records())
    attributes = {**trace.root.attributes, S.SESSION_ID.key: name}
    return RequestTrace(replace(trace.root, attributes=attributes), ())


def test_sessions_are_counted_for_five_minutes() -> None:
    made = measured()
    sessions = Sessions(made.board)
    for at, name in enumerate(("a", "b", "a", "c")):
        sessions.take(in_session(name), at)
    counts = []
    for now in (4, IN_USE_NS + 1, IN_USE_NS + 2, IN_USE_NS + 3, IN_USE_NS + 4):
        sessions.look(now)
        counts.append(made.exported().value(M.SESSIONS))
    assert counts == [3, 3, 2, 1, 0], "b is the first to go: a came again"


def test_losses_and_drops_stand_at_0_from_the_start() -> None:
    made = measured()
    losses = Losses(made.board, Before(since_ns=1))
    said = made.exported()
    assert said.by(M.LOSSES, "codesign_loss") == dict.fromkeys(LOSSES, 0)
    kinds = said.by(M.RECORDS_DROPPED, "codesign_record_kind")
    assert kinds == {k.name.lower(): 0 for k in Kind if k is not Kind.VOID}
    losses.show({"root_begin": 3, "kind_99": 2}, {"requests_lost": 4, "spans": 7})
    said = made.exported()
    assert said.value(M.RECORDS_DROPPED) == 5
    assert said.value(M.RECORDS_DROPPED, codesign_record_kind="root_begin") == 3
    assert said.by(M.LOSSES, "codesign_loss")["requests_lost"] == 4
    assert said.value(M.LOSSES) == 4


def facts(*records: tuple[Kind, int], pid: int = 7, lossy: bool = False) -> EngineFacts:
    made = EngineFacts(1, 1, engine_pid=pid, lossy=lossy)
    for kind, at in records:
        made.add(Record(0, kind, 0, 0, 1, at, 0, 0, 0))
    return made


def test_who_runs_and_who_waits() -> None:
    queued, scheduled = (Kind.ENG_QUEUED, 1), (Kind.ENG_SCHEDULED, 2)
    preempted, ended = (Kind.ENG_PREEMPTED, 3), (Kind.ENG_FINISHED, 9)
    made = measured()
    engines = [
        facts(queued),
        facts(queued, scheduled),
        facts(queued, scheduled, preempted),
        facts(queued, scheduled, preempted, (Kind.ENG_SCHEDULED, 4)),
        facts(queued, scheduled, ended),
        facts(),
        facts(queued, pid=8),
        facts(queued, lossy=True),
    ]
    queue.count(made.board, engines, gone=frozenset({8}))
    assert made.exported().by(M.ENGINE_REQUESTS, "codesign_request_state") == {
        "running": 2,
        "waiting": 2,
    }
    queue.count(made.board, [], gone=frozenset())
    assert made.exported().value(M.ENGINE_REQUESTS) == 0
