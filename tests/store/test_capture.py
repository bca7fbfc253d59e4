"""Captures are made, taken up again, and found; every failure is one clear line."""

import json
import os
import socket
import time
from pathlib import Path

import pytest

from tests.support import traces
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.store.capture import Capture, Removed, captures, create, latest, resolve
from vllm_codesign.store.errors import StoreError

DAY_S = 86_400


def test_folder_is_named_by_time_and_process(tmp_path: Path) -> None:
    capture = create(tmp_path, traces.run_info())
    assert capture.path.name == "20251009T085320Z-4711"
    assert capture.load() == traces.run_info()
    assert sorted(os.listdir(capture.path)) == [".lock", "run.json", "series", "traces"]


def test_taken_up_again_keeps_what_was_written(tmp_path: Path) -> None:
    run = traces.run_info(drops={"api_server": 3})
    create(tmp_path, run)
    assert create(tmp_path, traces.run_info()).load() == run


def test_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot make .*: Not a directory"):
        create(tmp_path / "file", traces.run_info())
    with pytest.raises(StoreError, match=r"cannot write .*run\.json: Not a directory"):
        Capture(tmp_path / "file" / "run").save(traces.run_info())


def test_save_keeps_what_retention_counted(tmp_path: Path) -> None:
    capture = create(tmp_path, traces.run_info())
    gone = Removed(segments=2, bytes=100)
    capture.update(lambda run: run.model_copy(update={"removed": gone}))
    capture.save(traces.run_info(counters={"spans": 7}))
    assert capture.load() == traces.run_info(counters={"spans": 7}, removed=gone)


def test_newer_fields_are_ignored_and_other_schemas_refused(tmp_path: Path) -> None:
    capture = create(tmp_path, traces.run_info())
    content = json.loads(capture.run_file.read_text())
    capture.run_file.write_text(json.dumps({**content, "added_later": 1}))
    assert capture.load() == traces.run_info()
    capture.run_file.write_text(json.dumps({**content, "schema_version": 2}))
    with pytest.raises(CodesignError, match="not a run of this version: schema_version"):
        capture.load()
    capture.run_file.write_text("{")
    with pytest.raises(CodesignError, match="not a run of this version: the file"):
        capture.load()


def test_live_is_a_run_that_gives_signs_of_life(tmp_path: Path) -> None:
    host = socket.gethostname()
    running = create(tmp_path, traces.run_info(complete=False, host=host, pid=os.getpid()))
    ended = create(tmp_path, traces.run_info(complete=True, pid=2))
    elsewhere = create(tmp_path, traces.run_info(complete=False, host="elsewhere", pid=3))
    now_s = time.time()
    assert [c.is_live(now_s) for c in (running, ended, elsewhere)] == [True, False, True]
    later = now_s + DAY_S
    assert [c.is_live(later) for c in (running, ended, elsewhere)] == [True, False, False]


def test_resolve(tmp_path: Path) -> None:
    old = traces.write_capture(tmp_path / "store", [], traces.run_info(pid=1, started_ns=10**18))
    new = traces.write_capture(tmp_path / "store", [], traces.run_info(pid=2))
    assert captures(tmp_path / "store") == [old, new]
    assert latest(tmp_path / "store") == new
    assert resolve(tmp_path / "store") == new
    assert resolve(old.path) == old
    assert resolve(old.run_file) == old
    demo = tmp_path / "demo"
    (demo / "capture").mkdir(parents=True)
    inside = traces.write_capture(demo / "capture", [])
    assert resolve(demo) == inside
    assert resolve(tmp_path / "store" / old.path.name) == Capture(old.path)


def test_resolve_says_what_is_wrong(tmp_path: Path) -> None:
    for path, text in (
        (tmp_path / "none", "does not exist"),
        (tmp_path, "is not a capture: no run.json"),
    ):
        with pytest.raises(CodesignError, match=text) as caught:
            resolve(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(CodesignError, match=r"no capture in .*: run `VLLM_PLUGINS=codesign"):
        latest(tmp_path / "none")
    with pytest.raises(CodesignError, match=r"cannot read .*run\.json"):
        Capture(tmp_path).load()
