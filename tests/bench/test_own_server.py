import pytest

from tests.support import fake_vllm_command
from vllm_codesign.bench import results
from vllm_codesign.bench.own_server import OwnServer, execute_with
from vllm_codesign.bench.run import Plan
from vllm_codesign.model.bench import Scenario
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.store.capture import captures

PLAN = Plan((Scenario(name="s", concurrency=2, prompt_tokens=20, max_tokens=3, repeats=2),))


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.delenv("CODESIGN_STORE", raising=False)
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    monkeypatch.setenv("FAKE_VLLM", "capture")
    return OwnServer("tiny", python=str(fake_vllm_command.write(tmp_path)))


def test_the_server_is_traced_and_its_capture_noted(own, tmp_path):
    out = tmp_path / "out"
    run = execute_with(own, PLAN, out, lambda _line: None)

    (capture,) = captures(out / "capture-store")
    assert run.capture == str(capture.path)
    assert run.server_command[3:5] == ["serve", "tiny"]
    assert [row.status for row in run.requests] == ["ok"] * 4
    assert results.read(out / "results.json") == run
    assert (out / "server.log").exists()


def test_a_complete_run_starts_no_server(own, tmp_path):
    first = execute_with(own, PLAN, tmp_path, lambda _line: None)

    assert execute_with(own, PLAN, tmp_path, (lines := []).append) == first
    assert lines == [f"{tmp_path / 'results.json'} is complete: nothing to do"]


def test_another_run_is_refused_before_the_server_starts(own, tmp_path):
    execute_with(own, PLAN, tmp_path, lambda _line: None)

    with pytest.raises(CodesignError, match="another server"):
        execute_with(OwnServer("tiny", ("--x",), own.python), PLAN, tmp_path, (lines := []).append)
    assert lines == []


def test_the_users_store_is_used_and_only_a_new_capture_counts(own, tmp_path, monkeypatch):
    monkeypatch.setenv("CODESIGN_STORE", str(tmp_path / "mine"))
    first = execute_with(own, PLAN, tmp_path / "a", lambda _line: None)
    monkeypatch.setenv("FAKE_VLLM", "")
    second = execute_with(own, PLAN, tmp_path / "b", lambda _line: None)

    assert first.capture.startswith(str(tmp_path / "mine"))
    assert second.capture is None


def test_a_run_over_two_servers_has_no_single_capture(own, tmp_path):
    def interrupt(line: str) -> None:
        if line.startswith("s 1/2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute_with(own, PLAN, tmp_path, interrupt)
    half = results.read(tmp_path / "results.json")
    assert half is not None
    assert half.capture is not None

    done = execute_with(own, PLAN, tmp_path, (lines := []).append)

    assert done.capture is None
    assert len(done.requests) == 4
    assert any("spread over several captures" in line for line in lines)
