"""Each rule of the accounting is held by a test: change one, and some test fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import vllm_codesign

pytestmark = [pytest.mark.full, pytest.mark.timeout(300)]

ROOT = Path(vllm_codesign.__file__).parents[1]
TESTS_FAILED = 1  # pytest's exit code; 2 and above say that it could not run them


@dataclass(frozen=True)
class Mutation:
    """One rule: the line that says it, and what it says instead."""

    name: str
    file: str
    rule: str
    instead: str


MUTATIONS = (
    Mutation(
        "a load comes before gaps and queue",
        "request",
        "    if Fact.KV_LOAD in facts:",
        "    if Fact.KV_LOAD in facts and not (waiting or running):",
    ),
    Mutation(
        "a device idle for a load is not idle for the host",
        "fleet",
        "    label[here & pieces.covered(_BLOCKING)] = rank[IdleCause.KV_LOAD]",
        "",
    ),
    Mutation(
        "a device idle for a load that nothing runs beside is not idle for the host",
        "fleet",
        "    label[here & pieces.covered(_BACKGROUND) & ~others] = rank[IdleCause.KV_LOAD]",
        "",
    ),
    Mutation(
        "a load in the background of a running request is no cause",
        "fleet",
        "    others = pieces.covered(_RUNNING)",
        "    others = np.zeros(len(label), dtype=np.bool_)",
    ),
    Mutation(
        "nor is one beside a step in the making",
        "fleet",
        "        others |= pieces.covered(what)",
        "        pass",
    ),
    Mutation(
        "what lies between two steps is no evidence of one",
        "fleet",
        "_OF_A_STEP = (Row.PREPARE,",
        "_OF_A_STEP = (Row.OUTPUT, Row.PREPARE,",
    ),
    Mutation(
        "a request that waits for its own load does not run",
        "fleet",
        "loads.get(request, ())",
        "()",
    ),
    Mutation(
        "of a root's engine requests one may run while another loads",
        "fleet",
        "            request = span.attributes.get(S.REQUEST_ID.key)",
        "            request = None",
    ),
    Mutation(
        "a load that a worker waits for is told from one in the background",
        "fleet",
        "get(S.KV_ASYNCHRONOUS.key) is False:",
        "get(S.KV_ASYNCHRONOUS.key) is None:",
    ),
    Mutation(
        "host time of a save is not the device's",
        "timeline",
        "                if at < start < end:",
        "                if False:",
    ),
    Mutation(
        "prefill is told from decode",
        "request",
        "        return Part.DEVICE_PREFILL, host_work",
        "        return Part.DEVICE_DECODE, host_work",
    ),
    Mutation(
        "a waiting request has no gaps", "request", "if mine and running:", "if mine or running:"
    ),
    Mutation(
        "lacking blocks is not the host's doing",
        "request",
        "            if Fact.FULL not in facts:",
        "            if True:",
    ),
    Mutation(
        "who runs waits for blocks only where it was preempted",
        "request",
        "waits = not running or Fact.PREEMPTED in facts",
        "waits = True",
    ),
    Mutation(
        "a preempted request waits until the next step that it is in",
        "request",
        "next(b for b in back if b >= min(at, end))",
        "end",
    ),
    Mutation(
        "without a worker's records nobody knows that the device was idle",
        "request",
        "    if not busy and not unseen:",
        "    if not busy:",
    ),
    Mutation(
        "a step of unknown members is not promoted to the next cause",
        "request",
        "in facts:\n            break",
        "in facts:\n            continue",
    ),
    Mutation(
        "only behind the device is host work hidden",
        "request",
        "        if host_work and rank in _DEVICE:",
        "        if host_work:",
    ),
    Mutation(
        "waiting for a result is no host work",
        "request",
        "        Fact.MY_OUTPUT,\n    )",
        "        Fact.MY_OUTPUT,\n        Fact.MY_IPC,\n    )",
    ),
    Mutation(
        "the way to EngineCore is no CPU time",
        "request",
        "(start + client, end, _TRAVELLED)",
        "(start + client, end, _WORKED)",
    ),
    Mutation(
        "a body on its way is waited for",
        "request",
        "[(start, start + body, _WAITED)",
        "[(start, start + body, _WORKED)",
    ),
    Mutation(
        "prefill goes before decode where one root has both",
        "timeline",
        "(roles[index] != PREFILL) | (role != DECODE)",
        "(roles[index] != DECODE) | (role != PREFILL)",
    ),
    Mutation(
        "a step that preempts has no blocks left",
        "timeline",
        "(QueueReason.NO_FREE_BLOCKS, QueueReason.PREEMPTION)",
        "(QueueReason.NO_FREE_BLOCKS,)",
    ),
    Mutation(
        "a worker prepares until its forward begins",
        "timeline",
        "(rank.execute[0], rank.forward[0])",
        "(rank.execute[0], rank.execute[0])",
    ),
    Mutation(
        "what EngineCore does before schedule() is output",
        "timeline",
        "yield _OUTPUT, (planned - step.before_ns, planned)",
        "yield _OUTPUT, (planned, planned)",
    ),
    Mutation(
        "EngineCore waits for a result no longer than it said",
        "timeline",
        "(step.update[0] - step.waited_ns, step.update[0])",
        "(step.schedule[1], step.update[0])",
    ),
    Mutation(
        "a step with records missing is in flight",
        "timeline",
        "        whole = whole and _whole(rank)",
        "        whole = True",
    ),
    Mutation(
        "the worker goes before EngineCore",
        "timeline",
        "CAUSES = (Row.PREPARE, Row.SCHEDULE,",
        "CAUSES = (Row.SCHEDULE, Row.PREPARE,",
    ),
    Mutation(
        "in the fleet waiting for a result hides nothing",
        "fleet",
        "        if what is not Row.IPC:",
        "        if what is not Row.FULL:",
    ),
    Mutation(
        "in the fleet too nobody knows what an unseen device did",
        "fleet",
        "label[here & pieces.covered(Row.UNSEEN)]",
        "label[here & pieces.covered(Row.FULL)]",
    ),
    Mutation(
        "what lies outside the window is cut off",
        "sweep",
        "np.maximum(starts, start), np.minimum(ends, end)",
        "np.maximum(starts, start), ends",
    ),
)


def run_tests(folder: Path) -> subprocess.CompletedProcess[str]:
    """The accounting's tests against the package in `folder`; a shrunk example helps nobody."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "tests/accounting", "-q", "-x"),
            *("-m", "not full", "-p", "no:cacheprovider", "--tb=no"),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("vllm_codesign", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_copy_as_it_is_passes(copy: Path) -> None:
    done = run_tests(copy)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_a_changed_rule_is_noticed(copy: Path, mutation: Mutation) -> None:
    path = copy / "vllm_codesign" / "accounting" / f"{mutation.file}.py"
    source = path.read_text()
    assert source.count(mutation.rule) == 1, "the rule is worded otherwise now"
    path.write_text(source.replace(mutation.rule, mutation.instead))
    done = run_tests(copy)
    assert done.returncode == TESTS_FAILED, done.stdout + done.stderr
