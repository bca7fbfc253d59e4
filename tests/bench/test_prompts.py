import pytest

from tests.support.fake_vllm import TEMPLATE_TOKENS, tokens_in
from vllm_codesign.bench.client import Target
from vllm_codesign.bench.load import open_load
from vllm_codesign.bench.prompts import SHARED_FRACTION, PromptSource, calibrate, server_counter
from vllm_codesign.model.bench import Scenario


def scenario(**changes: object) -> Scenario:
    fields = {"name": "s", "concurrency": 4, "prompt_tokens": 500, **changes}
    return Scenario.model_validate(fields)


async def counted(text: str) -> int:
    return TEMPLATE_TOKENS + tokens_in(text)


async def source_of(**changes: object) -> PromptSource:
    return await calibrate(scenario(**changes), counted)


@pytest.mark.parametrize("tokens", [10, 100, 501, 8_000, 100_000])
@pytest.mark.parametrize("prompts", ["identical", "unique", "shared-prefix"])
async def test_every_prompt_has_the_nominal_number_of_tokens(tokens, prompts):
    source = await source_of(prompt_tokens=tokens, prompts=prompts)

    assert source.counted == tokens
    for index in range(3):
        assert await counted(source.prompt(1, index)) == tokens
    assert await counted(source.warm_up(0)) == tokens


async def test_fewer_tokens_than_the_template_has_give_one_word():
    source = await source_of(prompt_tokens=1)

    assert len(source.words) == 1
    assert source.counted == TEMPLATE_TOKENS + 1


async def test_identical_prompts_are_one():
    source = await source_of(prompts="identical")

    assert source.prompt(0, 0) == source.prompt(4, 3)
    assert source.prompt(0, 0) == (await source_of(prompts="identical")).prompt(1, 1)


async def test_a_shorter_identical_prompt_begins_a_longer_one():
    short = await source_of(prompts="identical", prompt_tokens=1_000)
    long = await source_of(prompts="identical", prompt_tokens=8_000)

    same = len(short.words) - 10  # the fillers at its end are its own
    assert short.words[:same] == long.words[:same]


async def test_unique_prompts_share_no_beginning():
    source = await source_of(prompts="unique")
    prompts = [source.prompt(repeat, index) for repeat in range(3) for index in range(4)]
    prompts += [source.warm_up(0), (await source_of(prompts="unique")).prompt(0, 0)]

    assert len({" ".join(prompt.split()[:8]) for prompt in prompts}) == len(prompts)
    assert source.prompt(1, 2) == source.prompt(1, 2)


async def test_prompts_with_a_shared_prefix_share_that_and_no_more():
    source = await source_of(prompts="shared-prefix")
    first, second = source.prompt(0, 0).split(), source.prompt(0, 1).split()

    shared = round(len(first) * SHARED_FRACTION)
    assert first[:shared] == second[:shared]
    assert first[shared : shared + 8] != second[shared : shared + 8]


@pytest.mark.parametrize("prompts", ["identical", "shared-prefix"])
async def test_the_warm_up_leaves_nothing_in_the_cache(prompts):
    source = await source_of(prompts=prompts)

    assert source.warm_up(0).split()[:8] != source.prompt(0, 0).split()[:8]


@pytest.mark.parametrize("route", ["chat", "completions"])
async def test_the_server_counts_as_it_will_for_the_request(server, route):
    async with open_load(Target(server.url, "fake")) as load:
        count = server_counter(load.session, server.url, "fake", scenario(route=route))
        tokens = await count("one two three")

    assert tokens == tokens_in("one two three") + (TEMPLATE_TOKENS if route == "chat" else 0)


async def test_a_server_that_cannot_count_gets_an_estimate(server):
    server.can_tokenize = False
    async with open_load(Target(server.url, "fake")) as load:
        count = server_counter(load.session, server.url, "fake", scenario())
        source = await calibrate(scenario(prompt_tokens=1_000), count)

    assert source.counted is None
    assert 400 < len(source.words) < 800
