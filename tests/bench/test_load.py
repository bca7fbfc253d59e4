import math

import pytest

from vllm_codesign.bench.client import Job, Target
from vllm_codesign.bench.load import Arrival, open_load
from vllm_codesign.model.bench import Scenario
from vllm_codesign.model.errors import CodesignError


def jobs(count: int, concurrency: int) -> list[Job]:
    scenario = Scenario(name="s", concurrency=concurrency, prompt_tokens=10)
    return [Job(scenario, i // concurrency, i % concurrency, f"word{i}") for i in range(count)]


async def run(server, work: list[Job], arrival: str):
    async with open_load(Target(server.url, "fake")) as load:
        return await load.run(work, Arrival.parse(arrival))


async def test_a_batch_is_sent_at_once_over_connections_that_are_open(server):
    server.headers_s = 0.2

    rows = await run(server, jobs(8, 8), "batch")

    assert [row.index for row in rows] == list(range(8))
    assert server.most_in_flight == 8
    times = [seen.at for seen in server.seen]
    assert max(times) - min(times) < 0.1


async def test_a_closed_loop_keeps_as_many_in_flight_as_it_has_clients(server):
    server.headers_s = 0.03

    rows = await run(server, jobs(12, 3), "closed")

    assert [(row.repeat, row.index) for row in rows] == [(i // 3, i % 3) for i in range(12)]
    assert server.most_in_flight == 3
    assert len(server.connections) == 3


async def test_poisson_sends_whatever_is_in_flight_at_the_asked_rate(server):
    server.headers_s = 0.3

    rows = await run(server, jobs(40, 1), "poisson:100")

    assert all(row.status == "ok" for row in rows)
    assert server.most_in_flight > 10
    times = [seen.at for seen in server.seen]
    assert 0.2 < times[-1] - times[0] < 0.8  # 40 at 100 a second


async def test_a_failure_stays_in_its_row(server):
    server.fault = "refuse"

    rows = await run(server, jobs(3, 3), "batch")

    assert [row.status for row in rows] == ["error"] * 3


async def test_nothing_to_do(server):
    assert await run(server, [], "batch") == []


@pytest.mark.parametrize("text", ["batch", "closed", "poisson:0.5", "poisson:20"])
def test_an_arrival_reads_back_as_it_was_written(text):
    assert str(Arrival.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "burst", "closed:4", "batch:", "poisson", "poisson:"),
        *("poisson:0", "poisson:-1", "poisson:nan", "poisson:inf"),
    ],
)
def test_a_bad_arrival_is_refused_with_the_cure(text):
    with pytest.raises(CodesignError, match="use batch, closed or poisson:RATE"):
        Arrival.parse(text)


def test_the_rate_is_requests_a_second():
    assert math.isclose(Arrival.parse("poisson:2.5").rate, 2.5)
