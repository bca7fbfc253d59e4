"""Segments close by age and size, appear whole, and failures are said once and counted."""

import os
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support import traces
from vllm_codesign.model.trace import SpanLink
from vllm_codesign.store.writer import LINKS_A_ROW, SegmentWriter, SeriesWriter, StoreError

SPANS = traces.traces()[0].spans


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_segment_closes_when_it_is_ten_seconds_old(tmp_path: Path) -> None:
    now = 100.0
    writer = SegmentWriter(tmp_path / "traces", clock=lambda: now)
    assert writer.poll() is False
    writer.add(SPANS, traces.RESOURCE)
    assert writer.poll(109.9) is False
    assert writer.poll(110.0) is True
    (name,) = names(tmp_path / "traces")
    assert name.startswith("000001-")
    assert pq.read_metadata(tmp_path / "traces" / name).num_rows == len(SPANS)
    assert (writer.written, writer.lost) == (len(SPANS), 0)
    assert writer.poll(200.0) is False


def test_segment_closes_when_it_is_full(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, max_rows=len(SPANS) + 1)
    writer.add(SPANS, traces.RESOURCE)
    assert names(tmp_path) == []
    writer.add(SPANS, traces.RESOURCE)
    assert len(names(tmp_path)) == 1


def test_links_count_towards_a_full_segment(tmp_path: Path) -> None:
    """A step with 256 requests is a row that holds more than all others of its trace."""
    step = replace(SPANS[0], links=tuple(SpanLink(1, number) for number in range(1, 257)))
    writer = SegmentWriter(tmp_path, max_rows=3 * (1 + 256 // LINKS_A_ROW))
    for _ in range(2):
        writer.add([step], traces.RESOURCE)
    assert names(tmp_path) == []
    writer.add([step], traces.RESOURCE)
    assert len(names(tmp_path)) == 1
    writer.add([step], traces.RESOURCE)
    assert len(names(tmp_path)) == 1, "counted anew for each segment"


def test_successor_goes_on_counting_and_cleans_up(tmp_path: Path) -> None:
    first = SegmentWriter(tmp_path)
    first.add(SPANS, traces.RESOURCE)
    first.close()
    (tmp_path / ".000002-x.parquet.tmp").write_bytes(b"half")
    second = SegmentWriter(tmp_path)
    second.add(SPANS, traces.RESOURCE)
    second.close()
    assert [name[:7] for name in names(tmp_path)] == ["000001-", "000002-"]


def test_failure_is_raised_once_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = True
    write_table = pq.write_table

    def write(*args: object, **more: object) -> None:
        write_table(*args, **more)
        if full:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", write)
    writer = SegmentWriter(tmp_path)
    writer.add(SPANS, traces.RESOURCE)
    with pytest.raises(StoreError, match=r"cannot write .*: No space left on device; \d+ rows"):
        writer.close()
    assert names(tmp_path) == []
    writer.add(SPANS, traces.RESOURCE)
    writer.close()
    assert writer.lost == 2 * len(SPANS)
    full = False
    writer.add(SPANS, traces.RESOURCE)
    writer.close()
    assert writer.written == len(SPANS)
    full = True
    writer.add(SPANS, traces.RESOURCE)
    with pytest.raises(StoreError):
        writer.close()


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    writer = SegmentWriter(tmp_path / "file" / "traces")
    writer.add(SPANS, traces.RESOURCE)
    with pytest.raises(StoreError, match="Not a directory") as caught:
        writer.close()
    assert isinstance(caught.value, OSError)


def test_store_emptied_under_a_running_server(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path / "traces")
    writer.add(SPANS, traces.RESOURCE)
    writer.close()
    for path in (tmp_path / "traces").iterdir():
        path.unlink()
    (tmp_path / "traces").rmdir()
    writer.add(SPANS, traces.RESOURCE)
    writer.close()
    assert [name[:7] for name in names(tmp_path / "traces")] == ["000002-"]


def test_series(tmp_path: Path) -> None:
    writer = SeriesWriter(tmp_path)
    writer.add(traces.EPOCH_NS, "hw.gpu.utilization", "1", 0.25, {"hw.id": "0"})
    writer.add(traces.EPOCH_NS + 1, "hw.gpu.memory.usage", "By", 7)
    writer.close()
    table = pq.read_table(next(tmp_path.glob("*.parquet")))
    assert table.column_names == ["time_ns", "name", "unit", "value", "attributes"]
    assert table["time_ns"].cast("int64").to_pylist() == [traces.EPOCH_NS, traces.EPOCH_NS + 1]
    assert table["value"].to_pylist() == [0.25, 7.0]
    assert table["attributes"].to_pylist() == [[("hw.id", "0")], []]
