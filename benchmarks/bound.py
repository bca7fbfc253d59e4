"""Figure (b): how often each thing happens times what it costs, as a share of the process's time.

An upper bound where a choice had to be made; `ASSUMPTIONS` go into the output beside it.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from benchmarks.intervals import Interval
from benchmarks.ring_counts import Tally

UNRECORDED_CALLS = 6
"""Hooked calls of a request in the API server that leave no record of their own: the first
byte, process_inputs, AsyncLLM.add_request, and those whose record is written later: the message
to the engine, the end of tokenization, the collector's end."""

IN_ROOT = ("ROOT_BEGIN", "ROOT_PARENT", "ROOT_RECEIVED", "ROOT_PARAMS", "ROOT_STREAM", "ROOT_END")
"""Records that the costs `endpoint` (root and endpoint together) holds."""

IN_OUTPUTS = ("REQ_SEND", "REQ_OUT", "REQ_RETURN", "REQ_DETOKENIZE")
"""Records written within process_outputs, whose call is charged as a batch."""

IN_BURST = ("RESUMED", "TAKEN")
"""Records that the root writes with its others; the calls that noted them are charged alone."""

IN_STEP = ("STEP", "STEP_STATE", "STEP_UPDATE")
"""Records that the costs `schedule` and `update` hold, which are those at level `step`."""

KV_OF_WORKER = ("WORKER_KV", "WORKER_KV_DONE")
"""Records of a KV connector's calls in a worker; without a connector there are none."""

KEYS = {"api_server": 1, "engine_core": 2}
"""Hashes of a request id per request."""

ENGINE_DECODES = 1
"""Messages of a request that EngineCore decodes with the hooked class."""

ASSUMPTIONS = (
    "the root and its endpoint cost what they do around stand-ins, records, trace id and model "
    "name included; every other record that is no text is charged a hooked call of its own, but "
    "those that are written in a burst: with the last output, and with the root's own",
    f"a request has {UNRECORDED_CALLS} further hooked calls in the API server that record "
    "nothing then, and its id as a string; inter-token times are charged by eight",
    "output batches in the API server are as many as steps; each has one decode and one "
    "process_outputs with a hooked call's cost, and each output in it one output's cost",
    "calls of the detokenizer, of send and of allocate_slots are those that the records count; "
    "each allocate_slots has one get_new_blocks inside, which is more than there are",
    "schedule, update and execute_model cost what they do at level `step`, in a step of the same "
    "requests as the one before; those that tell their requests anew are charged each piece of "
    "eight as a call",
    "with a KV connector each step has one plan and one poll of it that leave no record, and each "
    "of its layers' calls costs what it does around nothing; what it records is charged as hooked "
    "calls",
    "per-request work of EngineCore is spread over the steps of the same load",
    "a step lasts from one execute_model of the worker to the next, median; EngineCore's step is "
    "the same one",
    "the costs are those of a warm cache in a loop (figure a)",
)


@dataclass(frozen=True, slots=True)
class Item:
    """Something that happens `count` times per request or step and costs `ns` each time."""

    what: str
    count: float
    ns: float

    @property
    def us(self) -> float:
        return self.count * self.ns / 1e3


@dataclass(frozen=True, slots=True)
class Bound:
    """What recording costs one process, per request or per step."""

    process: str
    per: str
    items: tuple[Item, ...]
    base_us: float
    """CPU time per request, or duration of a step."""

    @property
    def us(self) -> float:
        return sum(item.us for item in self.items)

    @property
    def share(self) -> float:
        return self.us / self.base_us


def bounds(tally: Tally, ns: dict[str, Interval], api_cpu_us: float) -> list[Bound]:
    """One bound per process; `api_cpu_us` is the API server's CPU time per request."""
    cost = {name: max(figure.median, 0.0) for name, figure in ns.items()}
    requests, steps = tally.requests, tally.steps
    step_us = statistics.median(tally.step_ns) / 1e3

    def per_request(count: float) -> float:
        return count / requests

    def per_step(count: float) -> float:
        return count / steps

    kinds = tally.kinds["api_server"]
    in_root = sum(kinds[kind] for kind in IN_ROOT)
    in_outputs = sum(kinds[kind] for kind in IN_OUTPUTS)
    in_burst = sum(kinds[kind] for kind in IN_BURST)
    others = tally.total("api_server") - tally.text("api_server") - in_root - in_outputs - in_burst
    api = Bound(
        "api_server",
        "request",
        (
            Item("root and endpoint", 1, cost["endpoint"]),
            Item("other hooked calls with record", per_request(others), cost["hooked_call"]),
            Item("hooked calls without record", UNRECORDED_CALLS, cost["counting_call"]),
            Item("records of the last output", per_request(in_outputs), cost["record"]),
            Item("records in the root's bursts", per_request(in_burst), cost["record"]),
            Item("strings", 1, cost["string"]),
            Item("hashed ids", KEYS["api_server"], cost["key"]),
            Item("inter-token times", per_request(kinds["ITL"]), cost["intervals"] / 4),
            Item("output batches", per_request(2 * steps), cost["counting_call"]),
            Item("outputs", per_request(tally.outputs), cost["output"]),
            Item("detokenizer calls", per_request(tally.detokenizer_calls), cost["detokenize"]),
            Item("sends", per_request(tally.sends), cost["send"]),
        ),
        api_cpu_us,
    )
    in_worker = tally.kinds["worker"]
    in_connector = sum(in_worker[kind] for kind in KV_OF_WORKER)
    in_step = sum(tally.kinds["engine_core"][kind] for kind in IN_STEP)
    records = tally.total("engine_core") - in_step
    engine = Bound(
        "engine_core",
        "step",
        (
            Item("records", per_step(records), cost["hooked_call"]),
            Item("schedule", 1, cost["schedule"]),
            Item("update_from_output", 1, cost["update"]),
            Item("allocate_slots", per_step(tally.allocate_calls), cost["allocate"]),
            Item("get_new_blocks", per_step(tally.allocate_calls), cost["counting_call"]),
            Item("hashed ids", per_step(KEYS["engine_core"] * requests), cost["key"]),
            Item("decoded messages", per_step(ENGINE_DECODES * requests), cost["counting_call"]),
            Item("plans of a connector", bool(in_connector), cost["connector_plan"]),
        ),
        step_us,
    )
    worker = Bound(
        "worker",
        "step",
        (
            Item("execute_model", per_step(in_worker["WORKER_EXECUTE"]), cost["execute"]),
            Item("sample_tokens", per_step(in_worker["WORKER_SAMPLE"]), cost["sample"]),
            Item("records of a connector", per_step(in_connector), cost["hooked_call"]),
            Item("polls of a connector", bool(in_connector), cost["connector_poll"]),
            Item("its layers", per_step(tally.connector_layers), cost["connector_layer"]),
        ),
        step_us,
    )
    return [api, engine, worker]
