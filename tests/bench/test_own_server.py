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


def test_a_secret_is_used_and_written_nowhere(own, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_VLLM", "capture,args")
    out = tmp_path / "out"
    keyed = OwnServer(
        "tiny",
        ("--api-key", "s3cret-key", "--hf-token=hf_s3cret"),
        own.python,
        env={"HF_TOKEN": "hf_s3cret-too", "VLLM_CPU_KVCACHE_SPACE": "1"},
    )
    run = execute_with(keyed, PLAN, out, (lines := []).append)

    assert run.server_command[-3:] == ["--api-key", "...", "--hf-token=..."]
    log = (out / "server.log").read_text()
    assert "'--api-key', '...', '--hf-token=...'" in log
    assert "key of 10 letters\ntoken ...\n" in log
    written = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert b"s3cret" not in written
    assert not any("s3cret" in line for line in lines)

    other = OwnServer("tiny", ("--api-key", "an0ther-key", "--hf-token=hf_x"), own.python)
    assert execute_with(other, PLAN, out, lambda _line: None) == run, "a key is no other server"
    with pytest.raises(CodesignError, match="another server") as error:
        execute_with(OwnServer("tiny", ("--api-key", "k3y", "--x"), own.python), PLAN, out)
    assert "k3y" not in str(error.value)


def test_a_file_of_before_goes_on_without_its_secret(own, tmp_path):
    keyed = OwnServer("tiny", ("--api-key", "s3cret-key"), own.python)
    done = execute_with(keyed, PLAN, tmp_path, lambda _line: None)
    old = [word.replace("...", "s3cret-key") for word in done.server_command]
    half = done.model_copy(update={"requests": done.requests[:2], "server_command": old})
    results.write(tmp_path / "results.json", half)

    again = execute_with(keyed, PLAN, tmp_path, lambda _line: None)
    assert len(again.requests) == 4
    assert "s3cret" not in (tmp_path / "results.json").read_text()


def test_a_server_that_dies_says_why_without_its_secret(own, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_VLLM", "die,args")
    keyed = OwnServer("tiny", ("--api-key", "no such model"), own.python)
    with pytest.raises(CodesignError, match=r"ValueError: \.\.\.") as error:
        execute_with(keyed, PLAN, tmp_path, lambda _line: None)
    assert "no such model" not in str(error.value)
