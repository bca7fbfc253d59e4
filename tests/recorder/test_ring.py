"""Records go in on one end and come out whole on the other, or are counted."""

import errno
import os
import struct
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from vllm_codesign.recorder import layout as L
from vllm_codesign.recorder.layout import Kind
from vllm_codesign.recorder.process import start_ticks
from vllm_codesign.recorder.reader import NotARing, Record, RingReader
from vllm_codesign.recorder.ring import Ring

MakeRing = Callable[[int], Ring]


def test_a_record_comes_back_as_it_went_in(ring_of: MakeRing) -> None:
    ring = ring_of(8)
    ring.emit(Kind.REQ, 2**64 - 1, -1, 2**63 - 1, -(2**63), 5, 2**32 - 1, 2**16 - 1)
    ring.emit(Kind.ENG_QUEUED, 7, 1000)
    ring.emit_text(Kind.TEXT, 7, 1, 1 << 16 | 2, b"abc")
    assert list(RingReader(ring.path).read()) == [
        Record(0, 16, 2**16 - 1, 2**32 - 1, 2**64 - 1, -1, 2**63 - 1, -(2**63), 5),
        Record(1, 33, 0, 0, 7, 1000, 0, 0, 0),
        Record(2, 128, 1, 1 << 16 | 2, 7, 0, 0, 0, 0, b"abc".ljust(32, b"\0")),
    ]


def test_header(ring_of: MakeRing) -> None:
    ring = ring_of(8)
    assert ring.path.stat().st_size == 4096 + 8 * 64
    assert ring.path.stat().st_mode & 0o777 == 0o600
    reader = RingReader(ring.path)
    assert (reader.pid, reader.ticks) == (os.getpid(), start_ticks(os.getpid()))
    assert (reader.capacity, reader.position, reader.lost, reader.errors) == (8, 0, 0, 0)


def test_a_number_that_does_not_fit_leaves_no_hole(ring_of: MakeRing) -> None:
    """The reader would wait for that slot until the writer has been round the ring."""
    ring = ring_of(8)
    reader = RingReader(ring.path)
    with pytest.raises(struct.error):
        ring.emit(Kind.ROOT_PARAMS, 1, 1 << 63)
    with pytest.raises(struct.error):
        ring.emit_text(Kind.TEXT, 1, 1 << 16, 0, b"")
    ring.emit(Kind.REQ, 2, 0)
    assert [r.kind for r in reader.read()] == [Kind.VOID, Kind.VOID, Kind.REQ]
    assert reader.lost == 0


def test_reading_gives_the_slots_back(ring_of: MakeRing) -> None:
    ring = ring_of(8)
    reader = RingReader(ring.path)
    for n in range(100):
        ring.emit(Kind.REQ, n, n)
        assert [r.key for r in reader.read()] == [n]
    assert (reader.lost, reader.drops()) == (0, {})


def test_a_second_reader_goes_on_where_the_first_ended(ring_of: MakeRing) -> None:
    ring = ring_of(8)
    for n in range(5):
        ring.emit(Kind.REQ, n, 0)
    first = RingReader(ring.path)
    assert len(list(first.read())) == 5
    first.close()
    ring.emit(Kind.REQ, 5, 0)
    assert [r.key for r in RingReader(ring.path).read()] == [5]


def test_what_is_overwritten_is_counted_by_kind(ring_of: MakeRing) -> None:
    ring = ring_of(64)
    reader = RingReader(ring.path)
    kinds = [Kind.REQ, Kind.REQ_SEND, Kind.REQ, Kind.ENG_QUEUED]
    for n in range(150):
        ring.emit(kinds[n % 4], n, n)
    read = [r.number for r in reader.read()]
    # 86 is the oldest that is left; a few more are passed over to get out of the writer's way.
    assert read == list(range(91, 150))
    lost = Counter(int(kinds[n % 4]) for n in range(91))
    assert reader.drops() == lost
    assert reader.lost == lost.total() == 91
    # And nothing is counted twice once the reader has caught up.
    for n in range(150, 150 + 64):
        ring.emit(Kind.REQ, n, n)
    assert len(list(reader.read())) == 64
    assert reader.drops() == lost


def test_a_reader_that_comes_back_after_many_laps(ring_of: MakeRing) -> None:
    ring = ring_of(64)
    reader = RingReader(ring.path)
    written = read = 0
    for burst in (10, 1000, 3, 64, 65, 640, 1):
        for _ in range(burst):
            ring.emit(Kind.REQ, written, written)
            written += 1
        got = list(reader.read())
        assert all(r.key == r.t0 == r.number for r in got)
        read += len(got)
        assert read + reader.lost == written
        assert sum(reader.drops().values()) == reader.lost


def test_what_is_copied_out_is_not_lost_while_it_is_dealt_with(ring_of: MakeRing) -> None:
    ring = ring_of(64)
    reader = RingReader(ring.path)
    for n in range(64):
        ring.emit(Kind.REQ, n, n)
    records = reader.read()
    assert next(records).key == 0
    for n in range(64, 100):
        ring.emit(Kind.REQ, n, n)
    assert len(list(records)) == 99
    assert (reader.lost, reader.drops()) == (0, {})


def test_losses_outlive_the_reader(ring_of: MakeRing) -> None:
    ring = ring_of(64)
    first = RingReader(ring.path)
    for n in range(150):
        ring.emit(Kind.REQ, n, n)
    list(first.read())
    second = RingReader(ring.path)
    assert (second.lost, second.drops()) == (first.lost, first.drops()) == (91, {Kind.REQ: 91})


@pytest.mark.parametrize("tail_is_old", [True, False])
def test_a_torn_record_is_waited_for(ring_of: MakeRing, tail_is_old: bool) -> None:
    ring = ring_of(8)
    for n in range(3):
        ring.emit(Kind.REQ, n, n)
    buffer = ring._map
    begin = L.HEADER_BYTES + 1 * L.RECORD_BYTES
    whole = buffer[begin : begin + 64]
    # The writer has written the head of record 1 and not yet its tail, or nothing at all.
    torn = whole[:56] + struct.pack("<Q", 0) if tail_is_old else bytes(64)
    buffer[begin : begin + 64] = torn
    reader = RingReader(ring.path)
    assert [r.key for r in reader.read()] == [0]
    buffer[begin : begin + 64] = whole
    assert [r.key for r in reader.read()] == [1, 2]
    assert reader.lost == 0


def test_the_hole_of_a_killed_writer_is_stepped_over_at_the_end(ring_of: MakeRing) -> None:
    ring = ring_of(8)
    for n in range(5):
        ring.emit(Kind.REQ, n, n)
    for n in (1, 2, 4):
        begin = L.HEADER_BYTES + n * L.RECORD_BYTES
        ring._map[begin : begin + 64] = bytes(64)
    reader = RingReader(ring.path)
    assert [r.key for r in reader.read()] == [0]
    assert [r.key for r in reader.read(final=True)] == [3]
    assert reader.lost == 2, "nothing is known of record 4: it may never have been"


def test_several_threads_and_a_slow_reader(ring_of: MakeRing) -> None:
    """Nothing comes out that was not put in, nothing twice, and what is missing is counted."""
    ring = ring_of(512)
    reader = RingReader(ring.path)
    per_thread, threads = 20_000, 4
    start = threading.Barrier(threads + 1)

    def write(thread: int) -> None:
        start.wait()
        for n in range(per_thread):
            ring.emit(Kind.REQ, thread, n, -n, thread * n, n ^ 0x5555, n & 0xFFFF, thread)

    writers = [threading.Thread(target=write, args=(t,)) for t in range(threads)]
    for writer in writers:
        writer.start()
    start.wait()
    got: list[Record] = []
    while any(writer.is_alive() for writer in writers):
        got.extend(reader.read())
    got.extend(reader.read(final=True))
    for r in got:
        thread, n = r.key, r.t0
        assert (r.s, r.t1, r.a, r.b, r.c) == (thread, -n, thread * n, n ^ 0x5555, n & 0xFFFF)
    numbers = [r.number for r in got]
    assert numbers == sorted(set(numbers))
    for thread in range(threads):
        own = [r.t0 for r in got if r.key == thread]
        assert own == sorted(set(own)), "a thread's records keep their order"
    assert len(got) + reader.lost == per_thread * threads
    assert len(got) > 512


def test_errors_are_counted_from_several_threads(ring_of: MakeRing) -> None:
    ring = ring_of(8)
    threads = [
        threading.Thread(target=lambda: [ring.count_error() for _ in range(500)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert RingReader(ring.path).errors == 2000


def test_no_room_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        Ring(tmp_path / "x.ring", 1 << 16)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_not_overwritten(ring_of: MakeRing) -> None:
    ring = ring_of(8)
    with pytest.raises(FileExistsError):
        Ring(ring.path, 1 << 16)
    assert RingReader(ring.path).capacity == 8


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:100], "100 bytes"),
        (lambda raw: b"\0" * 8 + raw[8:], "x.ring"),
        (lambda raw: raw[:8] + b"\x09" + raw[9:], "format 9, this reader knows 1"),
        (lambda raw: raw[:-64], "bytes for 8 records"),
    ],
)
def test_what_is_no_ring_is_told(
    ring_of: MakeRing, damage: Callable[[bytes], bytes], message: str
) -> None:
    path = ring_of(8).path
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(NotARing, match=message):
        RingReader(path)
