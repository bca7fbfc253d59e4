"""The recorder of this process: dormant, joined, forked."""

import os

import pytest

from vllm_codesign.exporter.facts import EngineFacts, Facts
from vllm_codesign.recorder import active
from vllm_codesign.recorder import session as sessions
from vllm_codesign.recorder.layout import Field, Kind
from vllm_codesign.recorder.reader import RingReader
from vllm_codesign.recorder.session import Session

pytestmark = pytest.mark.usefixtures("dormant")


def only_ring(session: Session) -> RingReader:
    (path,) = session.rings()
    return RingReader(path)


def test_dormant_until_there_is_a_session() -> None:
    assert not active.is_active()
    assert active.LEVEL.byte[0] == 0
    active.emit(Kind.REQ, 1, 2)
    active.emit_string(1, Field.MODEL, "nowhere")
    before = active.swallowed
    active.count_error()
    assert active.swallowed == before + 1


def test_the_level_byte_is_the_sessions(session: Session) -> None:
    level = active.LEVEL
    active.activate(session, "process", 1 << 16)
    assert level.byte[0] == 1
    session.level = 0
    assert level.byte[0] == 0
    sessions.join(session.folder).level = 2  # what `codesign level` does in another process
    assert level.byte[0] == 2


def test_activating_twice_makes_one_ring(session: Session) -> None:
    active.activate(session, "process", 1 << 16)
    active.emit(Kind.REQ, 1, 2)
    active.activate(session, "worker", 1 << 16)
    active.emit(Kind.REQ, 3, 4)
    ring = only_ring(session)
    assert ring.path.name == f"process-{os.getpid()}.ring"
    assert [r.key for r in ring.read()] == [1, 3]


def test_no_ring_without_room_for_a_useful_one(session: Session) -> None:
    with pytest.raises(OSError, match="used up"):
        active.activate(session, "process", 8192)
    assert session.rings() == []
    assert not active.is_active()


def test_a_forked_child_makes_its_own_ring(session: Session) -> None:
    active.activate(session, "process", 1 << 16)
    active.emit(Kind.REQ, 1, 0)
    child = os.fork()
    if child == 0:
        ok = not active.is_active() and active.LEVEL.byte[0] == 0
        active.emit(Kind.REQ, 666, 0)  # goes nowhere, not into the parent's ring
        active.activate(session, "process", 1 << 16)
        active.emit(Kind.REQ, 2, 0)
        os._exit(0 if ok else 1)
    assert os.waitpid(child, 0)[1] == 0
    active.emit(Kind.REQ, 3, 0)
    rings = {ring.pid: [r.key for r in ring.read()] for ring in map(RingReader, session.rings())}
    assert rings == {os.getpid(): [1, 3], child: [2]}


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", 1),
        ("x", 1),
        ("x" * 32, 1),
        ("x" * 33, 2),
        ("Ünïcödé – 東京 🚀" * 10, 9),
        ("x" * 2048, 64),
    ],
)
def test_strings_come_back(session: Session, text: str, pieces: int) -> None:
    active.activate(session, "process", 1 << 16)
    active.emit_string(9, Field.MODEL, text)
    facts = Facts(9, 1)
    records = list(only_ring(session).read())
    for record in reversed(records):
        facts.add(record)
    assert facts.text(Field.MODEL) == text
    assert len(records) == pieces


@pytest.mark.parametrize("text", ["x" * 5000, "é" * 1025, "xé" * 1000, "東" * 1000, "🚀" * 1000])
def test_long_strings_are_cut_between_characters(session: Session, text: str) -> None:
    active.activate(session, "process", 1 << 16)
    active.emit_string(9, Field.MODEL, text)
    facts = Facts(9, 1)
    for record in only_ring(session).read():
        facts.add(record)
    got = facts.text(Field.MODEL)
    assert text.startswith(got)
    assert 2048 - 3 <= len(got.encode()) <= 2048


def test_a_string_with_a_piece_missing_is_none(session: Session) -> None:
    active.activate(session, "process", 1 << 16)
    active.emit_string(9, Field.MODEL, "x" * 100)
    facts = Facts(9, 1)
    first, _, *rest = only_ring(session).read()
    for record in (first, *rest):
        facts.add(record)
    assert facts.text(Field.MODEL) == ""


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 100])
def test_intervals_come_back_in_order(session: Session, count: int) -> None:
    values = [2**32 - 1 - n for n in range(count)]
    active.activate(session, "process", 1 << 16)
    active.emit_intervals(9, values)
    facts = EngineFacts(9, 1)
    for record in only_ring(session).read():
        facts.add(record)
    assert facts.intervals_us() == tuple(values)


def test_intervals_with_a_piece_missing_are_none(session: Session) -> None:
    active.activate(session, "process", 1 << 16)
    active.emit_intervals(9, list(range(24)))
    facts = EngineFacts(9, 1)
    first, _, last = only_ring(session).read()
    for record in (first, last):
        facts.add(record)
    assert facts.intervals_us() == ()


def test_an_interval_of_over_an_hour_does_not_end_the_hook(session: Session) -> None:
    active.activate(session, "process", 1 << 16)
    active.emit_intervals(9, [2**33, -5])
    facts = EngineFacts(9, 1)
    for record in only_ring(session).read():
        facts.add(record)
    assert facts.intervals_us() == (2**32 - 1, 0)


def test_keys_are_the_same_in_every_process() -> None:
    # The number is part of what two processes of different versions must agree on.
    assert active.key_of("chatcmpl-1") == 14298812294282006021
