"""A cure names flags that vLLM has, and docs/report.md has the same table."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from vllm_codesign.analysis.cure_texts import AHEAD, NOT_AHEAD, ONE_CPU, SET_BACK, filled, workers
from vllm_codesign.analysis.cures import CURES, LOOP, POOL, Cure, change
from vllm_codesign.analysis.server_settings import ServerSettings, server_settings
from vllm_codesign.semconv import AVOIDABLE_PARTS, Part
from vllm_codesign.store.capture import CpuFacts, ProcessCpus, RunInfo

FLAG = re.compile(r"--[a-z][a-z0-9-]+")


def flags() -> set[str]:
    texts = [way.text for cure in CURES for way in cure.ways]
    texts += [text for cure in CURES for text in (cure.then, cure.old_change)]
    for held in ({}, *({reason: 1.0} for reason in ("no_free_blocks", "no_slot", "token_budget"))):
        texts += filled(ServerSettings(threads=4), 32, held).values()
    return {flag for text in texts for flag in FLAG.findall(text)}


def test_flags_are_vllms() -> None:
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        pytest.skip("vLLM is not installed: run `make setup`")
    # Where its command line is declared; importing it takes as long as all of these tests.
    root = Path(found.origin).parent
    declared = "".join(
        path.read_text()
        for path in (root / "engine" / "arg_utils.py", *root.glob("entrypoints/**/cli_args.py"))
    )
    assert len(flags()) >= 8
    # What is on or off is declared once: argparse makes `--no-x` of `--x`.
    named = {flag.replace("--no-", "--", 1) for flag in flags()}
    assert {flag for flag in named if f'"{flag}"' not in declared} == set()


def test_every_avoidable_part_has_a_cure_of_its_own() -> None:
    assert AVOIDABLE_PARTS - {cure.part for cure in CURES} == {Part.ENGINE_QUEUE}
    causes = [cure.cause for cure in CURES]
    assert len(causes) == len(set(causes))
    assert {c.cause for c in CURES if c.part is Part.FRONTEND_WAIT} == {POOL, LOOP}
    assert all(cure.cause == cure.part for cure in CURES if cure.cause not in (POOL, LOOP))


def run(
    version: str = "0.32.0", cpus: int | None = None, servers: int = 1, argv: str | None = None
) -> RunInfo:
    processes = [
        ProcessCpus(pid=10 + n, role="api_server", cpus="0", cpu_count=cpus)
        for n in range(servers if cpus else 0)
    ]
    return RunInfo(
        run_id="r",
        pid=1,
        started_ns=0,
        versions={"vllm": version},
        settings={} if argv is None else {"argv": argv.split()},
        cpu=CpuFacts(
            processes=[*processes, ProcessCpus(pid=2, role="worker", cpus="", cpu_count=1)]
        ),
    )


def told(cause: str, clients: int | None = 16, threads: int | None = None, **more: object) -> str:
    """What is said of `cause` on such a server."""
    ahead = more.pop("ahead", None)
    queued = more.pop("queued", None)
    server = server_settings(run(**more), threads, ahead)  # type: ignore[arg-type]
    return change(_cure(cause), clients, server, queued)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("clients", "cpus", "wanted"),
    [(None, None, 8), (3, None, 3), (32, 4, 4), (32, 64, 8), (1, 64, 2), (32, 1, 2)],
)
def test_workers(clients: int | None, cpus: int | None, wanted: int) -> None:
    assert workers(clients, server_settings(run(cpus=cpus))) == wanted
    assert workers(clients, ServerSettings()) == max(2, min(8, clients or 8))


def _cure(cause: str) -> Cure:
    return next(cure for cure in CURES if cure.cause == cause)


def test_one_cpu_is_the_cure_where_there_is_but_one() -> None:
    assert told(POOL, cpus=1) == ONE_CPU
    assert told(POOL, cpus=2) == "`--renderer-num-workers 2`"


MORE_CPUS = "more CPUs for the API server (its {} renderer threads may use {})"
MORE_SERVERS = (
    "more API servers ({}), each with a pool of its own (`--renderer-num-workers` is {} already)"
)


@pytest.mark.parametrize(
    ("threads", "clients", "cpus", "said"),
    [
        (1, 32, 4, "`--renderer-num-workers 4`"),
        (3, 32, 4, "`--renderer-num-workers 4`"),
        (4, 32, 4, MORE_CPUS.format(4, 4)),
        (6, 32, 4, MORE_CPUS.format(6, 4)),
        (2, 32, 1, MORE_CPUS.format(2, 1)),
        (4, 4, 64, MORE_SERVERS.format("`--api-server-count`", 4)),
        (8, 32, 64, MORE_SERVERS.format("`--api-server-count`", 8)),
        (16, 32, 64, MORE_SERVERS.format("`--api-server-count`", 16)),
        (7, 32, None, "`--renderer-num-workers 8`"),
        (8, 32, None, MORE_SERVERS.format("`--api-server-count`", 8)),
    ],
)
def test_a_pool_that_has_these_threads_gets_another_cure(
    threads: int, clients: int, cpus: int | None, said: str
) -> None:
    assert told(POOL, clients, threads, cpus=cpus) == said


def test_threads_of_the_command_line_count_where_no_span_says_them() -> None:
    eight = "vllm serve m --renderer-num-workers {}"
    for argv in (
        eight.format(8),
        eight.format("9 --port 1"),
        "vllm serve --renderer_num_workers=8",
    ):
        assert "`--renderer-num-workers 8`" not in told(POOL, cpus=64, argv=argv)
    assert told(POOL, cpus=64, argv=eight.format(4)) == "`--renderer-num-workers 8`"
    # The spans know better: a file may have set it.
    assert "is 8 already" in told(POOL, threads=8, cpus=64, argv="vllm serve --config f.yaml")


def test_more_api_servers_than_there_are() -> None:
    above = "`--api-server-count` above 3"
    assert told(POOL, 32, 8, cpus=64, servers=3) == MORE_SERVERS.format(above, 8)
    assert told(POOL, version="0.19.0", cpus=64, servers=3).startswith(f"{above} (0.19 ")
    assert told(LOOP, cpus=64, servers=3).startswith(f"{above}, or `--stream-interval` against")
    assert told(LOOP, cpus=64, argv="vllm serve m --stream-interval 8").startswith(
        "`--api-server-count`, or `--stream-interval` above 8 against"
    )


def test_nobody_is_told_a_flag_that_vllm_sets_back() -> None:
    schedule = "device.gap.schedule"
    assert told(schedule).startswith(AHEAD)
    assert told(schedule, version="0.32.0+cpu").startswith(NOT_AHEAD)
    assert "uni" in told("device.gap.ipc")
    assert "uni" not in told("device.gap.ipc", version="0.32.0+cpu")


@pytest.mark.parametrize(
    ("argv", "ahead", "said"),
    [
        ("vllm serve m", None, AHEAD),
        ("vllm serve m", True, None),
        ("vllm serve m", False, SET_BACK),
        ("vllm serve m --no-async-scheduling", False, AHEAD),
        ("vllm serve --async-scheduling m", None, None),
        ("vllm serve m --config f.yaml", False, AHEAD),
        ("offline.py", True, None),
        ("offline.py", None, AHEAD),
    ],
)
def test_steps_that_are_planned_ahead_need_not_be(
    argv: str, ahead: bool | None, said: str | None
) -> None:
    schedule = told("device.gap.schedule", argv=argv, ahead=ahead)
    queued = told("queue.host", argv=argv, ahead=ahead)
    if said is None:
        assert schedule == "fewer requests at a time (`--max-num-seqs`)"
        assert queued == "a faster core for EngineCore (steps are planned ahead already)"
    else:
        assert schedule == f"{said}; fewer requests at a time (`--max-num-seqs`)"
        assert queued == said


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("vllm serve --enforce-eager m", "no `--enforce-eager`"),
        ("vllm serve m --config f.yaml", "no `--enforce-eager`"),
        (None, "no `--enforce-eager`"),
        ("vllm serve m", "a faster core for the workers (steps are planned ahead already)"),
        (
            "/x/vllm/entrypoints/openai/api_server.py --no-enforce-eager",
            "a faster core for the workers (steps are planned ahead already)",
        ),
    ],
)
def test_who_is_not_eager_is_not_told_so(argv: str | None, said: str) -> None:
    assert told("device.gap.prepare", argv=argv, ahead=True) == said


def test_numbers_go_beyond_those_that_are_set() -> None:
    argv = "vllm serve m --max-num-seqs=64 --max_num_batched_tokens 4096 --kv-cache-dtype fp8_e5m2"
    argv += " --gpu-memory-utilization 0.9 --distributed-executor-backend uni"
    assert "below 4096" in told("ipc", argv=argv)
    assert "`--max-num-seqs` below 64" in told("device.gap.schedule", argv=argv)
    assert "uni" not in told("device.gap.ipc", argv=argv)
    for held, said in {
        "no_slot": ", or more requests at a time (`--max-num-seqs` above 64)",
        "token_budget": ", or more tokens a step (`--max-num-batched-tokens` above 4096)",
        "no_free_blocks": ", or more KV blocks on them (`--gpu-memory-utilization` above 0.9)",
    }.items():
        assert told("queue.capacity", argv=argv, queued={held: 1.0}) == f"more devices{said}"


def test_a_command_line_that_is_none_is_nothing_known() -> None:
    odd = run()
    for argv in (None, 5, "vllm serve", [], ["x", None]):
        odd.settings["argv"] = argv
        assert not server_settings(odd).all_flags
    assert server_settings(None) == ServerSettings()


@pytest.mark.parametrize(
    ("queued", "flag"),
    [
        ({"behind_head": 90.0, "token_budget": 9.0, "no_free_blocks": 1.0}, "max-num-batched"),
        ({"no_free_blocks": 5.0, "no_slot": 1.0}, "gpu-memory-utilization"),
        ({"preemption": 5.0}, "gpu-memory-utilization"),
        ({"no_slot": 5.0}, "max-num-seqs"),
    ],
)
def test_a_full_device_is_cured_by_what_held_the_queues_head(
    queued: dict[str, float], flag: str
) -> None:
    assert flag in told("queue.capacity", queued=queued)
    assert told("queue.capacity", queued={"behind_head": 9.0}) == "more devices"


@pytest.mark.parametrize("version", ["0.19.0", "0.19.0+cpu", "0.19.1"])
def test_a_version_without_the_flag_gets_another_cure(version: str) -> None:
    assert "--renderer-num-workers" not in told(POOL, 32, version=version)
    assert "--renderer-num-workers" in told(POOL, 32, version="0.32.0")
    assert "--renderer-num-workers" in change(_cure(POOL), 32, ServerSettings())
