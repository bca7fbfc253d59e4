"""Raw records come back as they were, also after an exporter that was killed."""

from pathlib import Path

import pytest

from tests.exporter.records import api_records, engine_records
from vllm_codesign.exporter.keep import RecordKeeper, encode, read_records
from vllm_codesign.recorder.layout import Kind
from vllm_codesign.recorder.reader import Record, decode
from vllm_codesign.recorder.ring import Ring


@pytest.mark.parametrize("record", [*api_records(), *engine_records()])
def test_encode_is_the_inverse_of_decode(record: Record) -> None:
    assert decode(encode(record)) == record


def test_bytes_are_those_of_the_ring(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "x.ring", 1 << 16)
    ring.emit(Kind.REQ, 2**64 - 1, -1, 2, -3, 4, 5, 6)
    ring.emit_text(Kind.TEXT, 7, 1, 1, b"text")
    for number in range(2):
        raw = ring._map[4096 + 64 * number : 4096 + 64 * (number + 1)]
        assert encode(decode(raw)) == raw


def keep(folder: Path, pid: int, records: list[Record]) -> None:
    keeper = RecordKeeper(folder)
    for record in records:
        keeper.add(pid, record)
    keeper.close()


def test_one_file_a_process_in_order(tmp_path: Path) -> None:
    keep(tmp_path / "records", 1, api_records())
    keep(tmp_path / "records", 2, [])
    assert [p.name for p in (tmp_path / "records").iterdir()] == ["1.records"]
    kept = list(read_records(tmp_path / "records" / "1.records"))
    assert [r.kind for r in kept] == [r.kind for r in api_records()]


@pytest.mark.parametrize("torn", [0, 1, 15, 16, 63])
def test_a_second_exporter_goes_on_in_whole_records(tmp_path: Path, torn: int) -> None:
    """The first one's buffer was written out half way when it was killed."""
    first, second = api_records()[:3], api_records()[3:6]
    path = tmp_path / "1.records"
    keep(tmp_path, 1, first)
    with path.open("ab") as file:
        file.write(encode(first[0])[:torn])
    if torn:
        with pytest.raises(ValueError, match=f"ends within a record, {torn} bytes into it"):
            list(read_records(path))
    keep(tmp_path, 1, second)
    assert list(read_records(path)) == first + second


def test_a_header_that_was_cut_is_written_again(tmp_path: Path) -> None:
    (tmp_path / "1.records").write_bytes(b"CDSNR")
    records = api_records()[:2]
    keep(tmp_path, 1, records)
    assert list(read_records(tmp_path / "1.records")) == records


def test_a_full_disk_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = RecordKeeper(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    for record in api_records():
        keeper.add(1, record)
    keeper.close()
    assert [r.message for r in caplog.records] == [
        "codesign: raw records are no longer kept: [Errno 28] No space left on device"
    ]
