"""`vllm.LLM` in somebody's own script: engine spans, and no server span."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.checks import check_nesting
from tests.support.serving import SHM, Traces, read_all, tiny_model
from vllm_codesign import semconv as S
from vllm_codesign.store import capture as captures
from vllm_codesign.store.capture import RunInfo

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

_SCRIPT = """
import json
import os
import sys

from vllm import LLM, SamplingParams


def main():
    model, out = sys.argv[1:]
    llm = LLM(model=model, enforce_eager=True, max_model_len=2048)
    greedy = SamplingParams(max_tokens=24, ignore_eos=True, temperature=0.0)
    two = SamplingParams(max_tokens=12, ignore_eos=True, temperature=0.8, n=2)
    prompts = [f"def function_{i}(x): return x + {i}" for i in range(5)]
    outputs = llm.generate(prompts, greedy, use_tqdm=False)
    outputs += llm.generate(prompts[:1], two, use_tqdm=False)
    outputs += llm.chat([{"role": "user", "content": "import os"}], greedy, use_tqdm=False)
    with open(out, "w") as file:
        json.dump(
            {
                "pid": os.getpid(),
                "tokens": [len(c.token_ids) for o in outputs for c in o.outputs],
            },
            file,
        )


if __name__ == "__main__":
    main()
"""
CHOICES = 8


@dataclass
class Run:
    said: dict[str, Any]
    traces: Traces
    run: RunInfo
    left: list[Path]
    complete_after_s: float


@pytest.fixture(scope="module", params=["1", "0"], ids=["multiprocessing", "in process"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed: run `make setup`")
    folder = tmp_path_factory.mktemp("offline")
    script, out, store = folder / "script.py", folder / "out.json", folder / "store"
    script.write_text(_SCRIPT)
    environment = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        **os.environ,
        "VLLM_PLUGINS": "codesign",
        "VLLM_ENABLE_V1_MULTIPROCESSING": request.param,
        "CODESIGN_STORE": str(store),
    }
    with (folder / "log").open("w") as log:
        done = subprocess.run(
            [sys.executable, str(script), str(tiny_model()), str(out)],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=600,
        )
    assert done.returncode == 0, (folder / "log").read_text()[-3000:]
    ended = time.monotonic()
    said = json.loads(out.read_text())
    ours = [f for f in SHM.glob("codesign-*") if f.name.split("-")[1] == str(said["pid"])]
    capture = captures.latest(store)
    while time.monotonic() - ended < 20 and not (
        capture.load().complete and not any(f.exists() for f in ours)
    ):
        time.sleep(0.1)
    return Run(
        said,
        read_all(capture),
        capture.load(),
        [f for f in ours if f.exists()],
        time.monotonic() - ended,
    )


def test_one_root_per_choice_and_no_server_span(run: Run) -> None:
    assert len(run.traces.all) == len(run.said["tokens"]) == CHOICES
    for trace in run.traces.all:
        assert trace.root.name == S.ENGINE_REQUEST.name
        assert trace.root.parent_id == 0
        assert trace.root.links == ()
        assert trace.root.attributes[S.OUTCOME.key] == S.Outcome.COMPLETED
        assert all(span.kind != "server" for span in trace.spans)


def test_engine_spans_are_complete(run: Run) -> None:
    check_nesting(run.traces)
    wanted = (S.ENGINE_DISPATCH, S.ENGINE_QUEUE, S.PREFILL, S.DECODE, S.ENGINE_RETURN)
    for trace in run.traces.all:
        for kind in (*wanted, S.KV_PREFIX_LOOKUP, S.KV_ALLOCATE):
            assert len(trace.named(kind.name)) == 1, kind.name
    tokens = [t.named(S.DECODE.name)[0].attributes[S.TOKENS.key] for t in run.traces.all]
    assert sorted(map(str, tokens)) == sorted(map(str, run.said["tokens"]))


def test_the_capture_is_complete_and_nothing_is_left(run: Run) -> None:
    print(f"complete {run.complete_after_s:.1f} s after the script")
    assert run.run.complete
    assert run.left == []
    assert run.complete_after_s < 5
    assert run.run.drops == {}
    assert run.run.counters["hook_errors"] == 0
    # One process has all roles where there is no multiprocessing.
    roles = {role for row in run.run.hooks for role in row.role.split("+")}
    assert roles >= {"api_server", "engine_core"}
