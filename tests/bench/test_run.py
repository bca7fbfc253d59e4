import dataclasses
import itertools

import pytest

from vllm_codesign.bench import results
from vllm_codesign.bench.load import Arrival
from vllm_codesign.bench.run import Plan, execute, normal_url
from vllm_codesign.model.bench import Scenario
from vllm_codesign.model.errors import CodesignError

SMALL = Scenario(name="small", concurrency=1, prompt_tokens=20, max_tokens=3, repeats=2)
WIDE = Scenario(name="wide", concurrency=3, prompt_tokens=50, max_tokens=3, repeats=2)
PLAN = Plan((SMALL, WIDE))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.json"


async def run(server, path, plan=PLAN, lines=None):
    progress = (lines if lines is not None else []).append
    return await execute(plan, server.url, path, progress=progress)


async def test_a_run_has_a_row_for_every_request_and_is_on_disk(server, path):
    done = await run(server, path)

    assert [(r.scenario, r.repeat, r.index) for r in done.requests] == [
        *(("small", 0, 0), ("small", 1, 0)),
        *(("wide", repeat, index) for repeat in range(2) for index in range(3)),
    ]
    assert {(r.scenario, r.prompt_tokens) for r in done.requests} == {("small", 20), ("wide", 50)}
    assert (done.model, done.url, done.arrival) == ("fake", server.url, "batch")
    assert done.started_unix_ns < done.finished_unix_ns
    assert results.read(path) == done


async def test_the_warm_up_is_sent_and_not_reported(server, path):
    done = await run(server, path, dataclasses.replace(PLAN, warm_up=2))

    assert len(server.seen) == len(done.requests) + 4
    traces = {seen.headers["traceparent"].split("-")[1] for seen in server.seen}
    assert {row.trace_id for row in done.requests} < traces
    prompts = [seen.prompt for seen in server.seen]
    assert len(set(prompts)) == len(prompts)


async def test_an_interrupted_run_goes_on_after_its_last_batch(server, path):
    class Stop(Exception):
        pass

    def progress(line: str) -> None:
        if line.startswith("wide 1/2"):
            raise Stop

    with pytest.raises(Stop):
        await execute(PLAN, server.url, path, progress=progress)
    before = results.read(path)
    assert before is not None
    assert len(before.requests) == 5
    assert before.finished_unix_ns is None
    server.seen.clear()

    done = await run(server, path, lines=(lines := []))

    assert done.requests[:5] == before.requests
    assert len(done.requests) == 8
    assert done.started_unix_ns == before.started_unix_ns
    assert len(server.seen) == 1 + 3  # a warm-up and the missing batch
    assert "5 requests are there, going on after them" in lines[0]


async def test_a_complete_run_asks_for_nothing(server, path):
    done = await run(server, path)
    server.seen.clear()

    assert await run(server, path) == done
    assert server.seen == []


async def test_another_run_is_not_mixed_in(server, path):
    await run(server, path)

    with pytest.raises(CodesignError, match="another arrival"):
        await run(server, path, dataclasses.replace(PLAN, arrival=Arrival("closed")))
    with pytest.raises(CodesignError, match=r"other scenarios.*--out"):
        await run(server, path, Plan((SMALL,)))


@pytest.mark.parametrize("arrival", ["closed", "poisson:200"])
async def test_a_stream_is_one_batch(server, path, arrival):
    plan = Plan((WIDE,), Arrival.parse(arrival))
    done = await run(server, path, plan, lines := [])

    assert [(r.repeat, r.index) for r in done.requests] == [(i // 3, i % 3) for i in range(6)]
    assert len(lines) == 1
    assert await run(server, path, plan) == done


async def test_a_long_batch_says_how_far_it_is(server, path, monkeypatch):
    monkeypatch.setattr("vllm_codesign.bench.run._TELL_EVERY_S", 0.05)
    server.headers_s = 0.2
    await run(server, path, Plan((WIDE,)), lines := [])

    assert lines[0] == "  wide 1/2: 0 of 3 answered, 0 s"
    assert lines[-1].startswith("wide 2/2: 3 ok")


async def test_failures_are_rows_and_lines(server, path):
    server.fault = "refuse"
    done = await run(server, path, Plan((WIDE,)), lines := [])

    assert {row.error for row in done.requests} == {"HTTP 400: too long"}
    assert "wide 1/2: 0 ok, 3 failed (HTTP 400: too long)" in lines[0]


async def test_a_server_that_goes_away_ends_the_run_and_keeps_what_there_is(server, path):
    def progress(line: str) -> None:
        if line.startswith("small 2/2"):
            server.fault = "drop"
            server.gone = True

    with pytest.raises(CodesignError, match=r"stopped answering: start it again; the same command"):
        await execute(PLAN, server.url, path, progress=progress)

    kept = results.read(path)
    assert kept is not None
    assert [row.scenario for row in kept.requests] == ["small", "small"]


async def test_a_prompt_that_does_not_fit_is_refused_before_anything_is_sent(server, path):
    server.room = 40
    with pytest.raises(CodesignError, match="wide needs 53 tokens and the server takes 40"):
        await run(server, path)

    assert server.seen == []
    assert not path.exists()


async def test_a_server_that_cannot_count_is_said(server, path):
    server.can_tokenize = False
    await run(server, path, Plan((SMALL,)), lines := [])

    assert "the server has no /tokenize; prompt lengths are estimated" in lines[0]


async def test_nobody_there(path):
    with pytest.raises(CodesignError, match=r"no server answers at http://127\.0\.0\.1:1 "):
        await execute(PLAN, "http://127.0.0.1:1", path)


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("http://h:8000", "http://h:8000"),
        ("http://h:8000/", "http://h:8000"),
        ("http://h:8000/v1/", "http://h:8000"),
        ("https://h/proxy/v1", "https://h/proxy"),
    ],
)
def test_urls(url, normal):
    assert normal_url(url) == normal


@pytest.mark.parametrize("url", ["h:8000", "ftp://h", "http://", "http://[::1", ""])
def test_what_is_no_url(url):
    with pytest.raises(CodesignError, match="is not a URL: write it like"):
        normal_url(url)


async def test_a_password_is_sent_and_written_nowhere(server, path):
    url = server.url.replace("http://", "http://bob:s3cret@")
    done = await execute(PLAN, url, path, progress=(lines := []).append)

    assert {seen.headers["Authorization"] for seen in server.seen} == {"Basic Ym9iOnMzY3JldA=="}
    assert done.url == server.url.replace("http://", "http://...@")
    assert "s3cret" not in path.read_text()
    assert not any("s3cret" in line for line in lines)
    assert await execute(PLAN, url, path, progress=lines.append) == done

    for wrong in ("ftp://bob:s3cret@h", "http://bob:s3cret@127.0.0.1:1", "http://bob:s3cret@h:x"):
        with pytest.raises(CodesignError) as error:
            await execute(PLAN, wrong, path, progress=lines.append)
        assert "s3cret" not in str(error.value)


async def test_a_key_is_sent_and_written_nowhere(server, path, monkeypatch):
    server.key = "k3y"
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    with pytest.raises(CodesignError, match=r"401: give .* in VLLM_API_KEY, or"):
        await run(server, path)
    assert not path.exists()

    monkeypatch.setenv("VLLM_API_KEY", "k3y")
    lines: list[str] = []
    done = await run(server, path, lines=lines)
    assert {row.status for row in done.requests} == {"ok"}
    assert "k3y" not in path.read_text() + "".join(lines)


async def test_a_header_of_ones_own_goes_before_the_key(server, path, monkeypatch):
    server.key = "k3y"
    monkeypatch.setenv("VLLM_API_KEY", "another")
    headers = {"authorization": "Bearer k3y", "X-Tenant": "a"}
    plan = dataclasses.replace(PLAN, headers=headers)
    done = await run(server, path, plan)

    assert {row.status for row in done.requests} == {"ok"}
    assert {seen.headers["X-Tenant"] for seen in server.seen} == {"a"}
    assert "k3y" not in repr(plan)

    with pytest.raises(CodesignError, match="has a user, and --header an Authorization"):
        await execute(plan, server.url.replace("//", "//bob:s3cret@"), path)


async def test_a_user_in_the_url_goes_before_the_key(server, path, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "another")
    await execute(PLAN, server.url.replace("//", "//bob:s3cret@"), path, progress=lambda _: None)

    assert {seen.headers["Authorization"] for seen in server.seen} == {"Basic Ym9iOnMzY3JldA=="}


async def test_a_key_that_no_header_can_have(server, path, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "s3cret\n")
    with pytest.raises(CodesignError, match="VLLM_API_KEY cannot go into a header") as error:
        await run(server, path)
    assert "s3cret" not in str(error.value)


async def test_there_is_a_rest_between_two_batches_and_none_before_the_first(server, path):
    resting = SMALL.model_copy(update={"pause_s": 0.4, "repeats": 3})
    done = await run(server, path, Plan((resting,)))

    starts = [row.start_unix_ns for row in done.requests]
    assert done.requests[0].start_unix_ns - done.started_unix_ns < 0.4e9
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert all(gap >= 0.4e9 for gap in gaps)
