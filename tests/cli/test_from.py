"""`codesign analyze --from`: its options, its output, and its errors of one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.backends import known
from tests.backends.fake import FakeJaeger
from tests.backends.otlp import document
from tests.support import traces
from vllm_codesign.cli.main import main


@pytest.fixture
def file(tmp_path: Path) -> Path:
    requests = known.requests()
    path = tmp_path / "traces.json"
    path.write_text(json.dumps(document([*requests, *known.steps(requests)])) + "\n")
    return path


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_a_file_and_a_folder(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyze", "--from", f"otlp-json:{file}", "--json"]) == 0
    remote = json.loads(capsys.readouterr().out)
    assert remote["capture"] == f"otlp-json:{file}"
    assert (remote["run"], remote["host"], remote["lossy"]) == (None, None, [])
    assert remote["scenarios"][0]["outcomes"] == {"completed": known.COUNT}

    capture = traces.write_capture(tmp_path, known.requests())
    one = f"{known.requests()[7].trace_id:x}"
    assert main(["analyze", "--from", str(capture.path), "--trace", one, "--json"]) == 0
    local = json.loads(capsys.readouterr().out)
    assert local["capture"] == str(capture.path)
    assert local["scenarios"][0]["outcomes"] == {"completed": 1}


def test_of_several_servers_one_has_to_be_named(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their clocks do not compare, and their engines may have the same process ids."""
    document = json.loads(file.read_text())
    both = {"resourceSpans": []}
    for instance, shift in (("a", 0), ("b", 1)):
        for of_resource in json.loads(json.dumps(document))["resourceSpans"]:
            attributes = of_resource["resource"]["attributes"]
            attributes.append({"key": "service.instance.id", "value": {"stringValue": instance}})
            for of_scope in of_resource["scopeSpans"]:
                for span in of_scope["spans"]:
                    for name in ("traceId", "spanId"):
                        span[name] = f"{int(span[name], 16) + shift:0{len(span[name])}x}"
            both["resourceSpans"].append(of_resource)
    two = tmp_path / "two.json"
    two.write_text(json.dumps(both))
    assert main(["analyze", "--from", f"otlp-json:{two}"]) == 1
    assert "2 servers have sent these requests (a, b): name one with --instance" in (
        capsys.readouterr().err
    )
    assert main(["analyze", "--from", f"otlp-json:{two}", "--instance", "b", "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert one["scenarios"][0]["outcomes"] == {"completed": known.COUNT}


def test_passwords_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "--from", "jaeger:http://bob:s3cret@127.0.0.1:1"]) == 1
    said = capsys.readouterr().err
    assert "s3cret" not in said
    assert "credentials go into --header" in said


def test_lmcaches_spans_in_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    requests = known.requests()
    with FakeJaeger([*requests, *known.lmcache(requests[:2])]) as fake:
        asked = ["analyze", "--from", f"jaeger:{fake.url}", "--since", "2025-10-09T00:00Z"]
        assert main(asked) == 0
        shown = printed(capsys)
        assert "LMCache's own spans (beside the accounting)" in shown
        assert "mp.lookup_prefetch 2 2 3.00 3.00" in shown
        assert "request 2 2 8.00 8.00" in shown
        assert f"req-{requests[0].trace_id:x}-0 request 2.00 8.00" in shown
        assert main([*asked, "--lmcache-service", "elsewhere"]) == 0
        assert "LMCache" not in printed(capsys)


def test_perfetto_from_a_back_end(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "trace.pftrace"
    asked = ["analyze", "--from", f"otlp-json:{file}", "--export", "perfetto", str(out)]
    assert main(asked) == 0
    assert out.stat().st_size > 10_000


def test_headers_are_sent(capsys: pytest.CaptureFixture[str]) -> None:
    with FakeJaeger([]) as fake:
        asked = ["analyze", "--from", f"jaeger:{fake.url}", "--header", "X-Scope-OrgID: a:b"]
        assert main(asked) == 1
        assert fake.headers[0]["x-scope-orgid"] == "a:b"
    assert capsys.readouterr().err.startswith("codesign: no request of 'vllm' in the last hour")


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (["--trace", "1"], 2, "--trace goes with --from"),
        (["--lmcache-service", "x"], 2, "--lmcache-service goes with --from"),
        ([".", "--from", "jaeger:http://x"], 2, "name a capture or --from, not both"),
        (["--from", "jaeger:http://x", "--header", "x"], 2, "--header is not 'NAME: VALUE'"),
        (["--from", "jaeger:http://x", "--limit", "0"], 2, "0 is not in the range x>=1"),
        (["--from", "jaeger:http://x", "--since", "then"], 1, "'then' is no time: write 10m"),
        (["--from", "jaeger:http://x", "--trace", "xyz"], 1, "'xyz' is no trace id"),
        (["--from", "otlp-json:x", "--limit", "5"], 1, "--header go with jaeger: and tempo:"),
        (["--from", ".", "--header", "a: b"], 1, "--header go with jaeger: and tempo:"),
        (["--from", "tempo:localhost:3200"], 1, "'localhost:3200' is no URL of Tempo: write"),
    ],
)
def test_errors(
    arguments: list[str], status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyze", *arguments]) == status
    assert line in capsys.readouterr().err
