import json

import pytest
from click.testing import CliRunner

from tests.support.scenario_file import SCENARIO_FILE
from vllm_codesign.cli.bench import command
from vllm_codesign.model.errors import CodesignError


@pytest.fixture
def codesign(tmp_path):
    def run(*arguments: str):
        # First: what follows -- belongs to the server.
        return CliRunner().invoke(command, ["--out", str(tmp_path), *arguments])

    return run


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(SCENARIO_FILE)
    return str(path)


def test_a_run_prints_its_table(server, codesign, file):
    result = codesign("--url", server.url, "--scenarios", file)

    assert result.exit_code == 0, result.output
    assert "tiny 2/2: 2 ok" in result.stderr
    for text in ("tiny", "HTTP OH", "p95", "30", "4 requests"):
        assert text in result.stdout
    assert "…" not in result.stdout


def test_json_is_all_that_stdout_has(server, codesign, file):
    result = codesign(
        *("--url", server.url, "--scenarios", file, "--repeats", "3", "--max-tokens", "2"),
        *("--prompts", "identical", "--session-id", "agents", "--json"),
    )

    document = json.loads(result.stdout)
    (scenario,) = document["scenarios"]
    assert (scenario["scenario"], scenario["n"], scenario["errors"]) == ("tiny", 6, {})
    assert scenario["prompt_tokens"] == [30, 30]
    assert set(scenario["figures"]["total"]) == {"mean", "p50", "p95", "n"}
    assert server.seen[-1].body["max_tokens"] == 2
    assert len({seen.prompt for seen in server.seen}) == 1 + 1  # the warm-up has its own
    assert {seen.headers["X-Session-ID"] for seen in server.seen} == {"agents-0", "agents-1"}


def test_headers_are_sent(server, codesign, file):
    server.key = "k3y"
    result = codesign(
        *("--url", server.url, "--scenarios", file),
        *("--header", "Authorization: Bearer k3y", "--header", "X-Tenant: a:b"),
    )

    assert result.exit_code == 0
    assert {seen.headers["X-Tenant"] for seen in server.seen} == {"a:b"}


@pytest.mark.parametrize(
    "header", ["s3cret", ": s3cret", "a b: s3cret", "a: s3\ncret", "a: s3crét"]
)
def test_what_is_no_header_is_not_shown(codesign, header):
    result = codesign("--url", "http://h", "--header", header)

    assert result.exit_code == 2
    assert "--header is not 'NAME: VALUE' in printable ASCII" in result.output
    assert "s3cr" not in result.output


def test_failures_are_shown_and_end_it_only_when_nothing_worked(server, codesign, file):
    server.fault = "refuse"
    result = codesign("--url", server.url, "--scenarios", file)

    assert isinstance(result.exception, CodesignError)
    assert str(result.exception).startswith("all 4 requests failed, 4 of them with 'HTTP 400")
    assert "tiny: 4 failed: HTTP 400: too long" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name a server with --url or a model to serve with --model"),
        (["--url", "http://h", "--model", "m"], "not both"),
        (["--url", "http://h", "--", "--enforce-eager"], "--enforce-eager: flags after -- are for"),
        (["--url", "http://h", "--", "--api-key=s3cret"], "--api-key=...: flags after -- are for"),
        (["--url", "h"], "'h' is not a URL"),
        (["--url", "http://127.0.0.1:1"], "no server answers at http://127.0.0.1:1"),
        (["--url", "http://h", "--arrival", "all"], "arrival 'all' is not known"),
        (["--url", "http://h", "--scenario", "x"], "no scenario is called 'x'"),
        (["--url", "http://h", "--scenarios", "none.toml"], "none.toml: cannot be read"),
        (["--url", "http://h", "--session-id", "a\nb"], "cannot go into a header"),
        (["--model", "m", "--", "--port", "1"], "--port: the address is chosen here"),
    ],
)
def test_bad_input_is_one_line(codesign, arguments, says):
    result = codesign(*arguments)

    assert isinstance(result.exception, CodesignError), result.output
    assert says in str(result.exception)
    assert "\n" not in str(result.exception)


def test_a_folder_that_cannot_be_written(server, file, tmp_path):
    (tmp_path / "taken").write_text("")
    result = CliRunner().invoke(
        command,
        ["--url", server.url, "--scenarios", file, "--out", str(tmp_path / "taken" / "x")],
    )

    assert isinstance(result.exception, CodesignError)
    assert "--out" in str(result.exception)


def test_help_has_an_example(codesign):
    result = CliRunner().invoke(command, ["--help"])

    assert "codesign bench --url http://127.0.0.1:8000 --set quick" in result.output
