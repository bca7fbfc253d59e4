"""The oldest segments go first, a live run keeps its newest, and the count is kept."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import traces
from vllm_codesign.store import retention
from vllm_codesign.store.capture import Capture, Removed, create
from vllm_codesign.store.errors import StoreError

NOW_S = 2_000_000_000.0
DAY_S = 86_400.0


def segment(capture: Capture, name: str, age_s: float, size: int = 1_000) -> Path:
    path = capture.traces / name
    path.write_bytes(b"x" * size)
    os.utime(path, (NOW_S - age_s, NOW_S - age_s))
    return path


def run(store: Path, pid: int, complete: bool = True, age_s: float = 0) -> Capture:
    capture = create(store, traces.run_info(pid=pid, complete=complete, host="elsewhere"))
    os.utime(capture.run_file, (NOW_S - age_s, NOW_S - age_s))
    return capture


def test_within_the_caps_nothing_goes(tmp_path: Path) -> None:
    path = segment(run(tmp_path, 1), "000001-a.parquet", 6 * DAY_S)
    assert retention.enforce(tmp_path, now_s=NOW_S) == Removed()
    assert path.exists()


def test_oldest_go_first_across_runs(tmp_path: Path) -> None:
    one, two = run(tmp_path, 1), run(tmp_path, 2)
    kept = [segment(one, "000002-a.parquet", 10), segment(two, "000001-a.parquet", 20)]
    gone = [segment(one, "000001-a.parquet", 40), segment(two, "000000-a.parquet", 30)]
    removed = retention.enforce(tmp_path, max_bytes=2_000, now_s=NOW_S)
    assert removed == Removed(segments=2, bytes=2_000)
    assert [p.exists() for p in (*kept, *gone)] == [True, True, False, False]
    assert one.load().removed == Removed(segments=1, bytes=1_000)
    assert two.load().removed == Removed(segments=1, bytes=1_000)
    segment(one, "000003-a.parquet", 5)
    retention.enforce(tmp_path, max_bytes=1_000, now_s=NOW_S)
    assert one.load().removed == Removed(segments=2, bytes=2_000)


def test_old_segments_go_and_empty_runs_with_them(tmp_path: Path) -> None:
    old, recent = run(tmp_path, 1), run(tmp_path, 2)
    segment(old, "000001-a.parquet", 8 * DAY_S)
    (old.traces / ".000002-b.parquet.tmp").write_bytes(b"half")
    segment(recent, "000001-a.parquet", DAY_S)
    assert retention.enforce(tmp_path, now_s=NOW_S).segments == 1
    assert not old.path.exists()
    assert recent.path.exists()


def test_live_run_keeps_its_newest_segment_and_the_open_file(tmp_path: Path) -> None:
    live = run(tmp_path, 1, complete=False)
    gone = segment(live, "000001-a.parquet", 9 * DAY_S)
    newest = segment(live, "000002-a.parquet", 8 * DAY_S, size=5_000)
    being_written = segment(live, ".000003-a.parquet.tmp", 8 * DAY_S)
    assert retention.enforce(tmp_path, max_bytes=0, now_s=NOW_S).segments == 1
    assert (gone.exists(), newest.exists(), being_written.exists()) == (False, True, True)
    assert live.is_live(NOW_S), "counting must not count as a sign of life, nor end one"


def test_run_that_ended_without_requests_goes_when_old(tmp_path: Path) -> None:
    capture = run(tmp_path, 1)
    retention.enforce(tmp_path, now_s=capture.path.stat().st_mtime + 6 * DAY_S)
    assert capture.path.exists()
    retention.enforce(tmp_path, now_s=capture.path.stat().st_mtime + 8 * DAY_S)
    assert not capture.path.exists()


def test_foreign_files_stay(tmp_path: Path) -> None:
    capture = run(tmp_path, 1)
    segment(capture, "000001-a.parquet", 8 * DAY_S)
    (capture.path / "notes.txt").write_text("mine")
    retention.enforce(tmp_path, now_s=NOW_S)
    assert (capture.path / "notes.txt").exists()


def test_several_exporters_count_each_segment_once(tmp_path: Path) -> None:
    capture = run(tmp_path, 1)
    segment(capture, "000999-a.parquet", 1)
    for number in range(200):
        segment(capture, f"{number:06d}-a.parquet", 100 + number)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(retention.enforce, tmp_path, 1_000, now_s=NOW_S) for _ in range(4)]
    assert sum(job.result().segments for job in jobs) == 200
    assert capture.load().removed == Removed(segments=200, bytes=200_000)


def test_store_that_cannot_be_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segment(run(tmp_path, 1), "000001-a.parquet", 8 * DAY_S)

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(StoreError, match="within its caps: Read-only file system"):
        retention.enforce(tmp_path, now_s=NOW_S)


def test_no_store_is_no_error(tmp_path: Path) -> None:
    assert retention.enforce(tmp_path / "none") == Removed()
