"""One or two sentences that the figures bear out: what a client's time to headers was."""

from __future__ import annotations

from vllm_codesign.analysis.accounts import Accounts
from vllm_codesign.analysis.tables import NO_CLIENT, Scenario, Tables

NOTHING = "No completed request in this capture: there is nothing to say about it yet."


def finding(tables: Tables) -> str:
    """Of the scenario with the longest time to headers; without clients, of the server alone."""
    # Without streaming the headers come after the last token: all of the engine is in them.
    known = [s for s in tables.scenarios if s.joined is not None and s.streaming]
    if known:
        return _of_client(max(known, key=_headers_ms))
    served = [s for s in tables.scenarios if s.server.get("total") is not None]
    if served:
        return _of_server(max(served, key=lambda s: _means(s)["tokenize_wait"]))
    return NOTHING


def _headers_ms(scenario: Scenario) -> float:
    return scenario.joined.headers_ms if scenario.joined else 0.0


def _means(scenario: Scenario) -> dict[str, float]:
    return {key: stat.mean for key, stat in scenario.server.items() if stat is not None}


def _of_client(scenario: Scenario) -> str:
    assert scenario.joined is not None
    headers_ms, times = scenario.joined.headers_ms, scenario.joined.server
    return (
        f"{scenario.name}: of the {ms(headers_ms)} that the client calls HTTP overhead (time to "
        f"response headers, mean of {scenario.joined.n}), {_parts(times, headers_ms)}"
        f"{_rest(times, headers_ms)}. {_queue(times, headers_ms)}"
    )


def _of_server(scenario: Scenario) -> str:
    times = _means(scenario)
    stat = scenario.server["total"]
    assert stat is not None
    # Without the frontend's own time: part of it comes after the engine.
    keys = ("receive", "template_wait", "template_run", "tokenize_wait", "tokenize_run", "dispatch")
    before_ms = sum(times[key] for key in keys)
    begin = "Of" if scenario.name == NO_CLIENT else f"{scenario.name}: of"
    return (
        f"{begin} the {ms(before_ms)} that receiving, template, tokenizing and dispatch take (mean "
        f"of {stat.n}), {_parts(times, before_ms)}; receiving is "
        f"{_share(times['receive'], before_ms)} and dispatch "
        f"{_share(times['dispatch'], before_ms)}. {_queue(times, before_ms)}"
    )


def _parts(times: dict[str, float], whole_ms: float) -> str:
    return (
        f"{_share(times['tokenize_wait'], whole_ms)} is waiting for the tokenizer "
        f"(tokenize.wait), {_share(times['tokenize_run'], whole_ms)} tokenizing "
        f"(tokenize.encode) and {_share(_template_ms(times), whole_ms)} the chat template"
    )


def _template_ms(times: dict[str, float]) -> float:
    return times["template_wait"] + times["template_run"]


def _rest(times: dict[str, float], whole_ms: float) -> str:
    rest_ms = whole_ms - _template_ms(times) - times["tokenize_wait"] - times["tokenize_run"]
    return f"; {_share(rest_ms, whole_ms)} is anything else" if rest_ms >= 0 else ""


def _queue(times: dict[str, float], whole_ms: float) -> str:
    queue_ms, tokenizing_ms = times["queue"], times["tokenize_wait"] + times["tokenize_run"]
    text = f"The scheduler's own queue (engine.queue) takes {ms(queue_ms)}"
    if queue_ms > tokenizing_ms:
        return f"{text}, more than tokenizing and the wait for it."
    if tokenizing_ms >= whole_ms / 2 and queue_ms < tokenizing_ms / 10:
        return f"{text}: what is waited for is the host's tokenizer, not the scheduler."
    return f"{text}."


def _share(part_ms: float, whole_ms: float) -> str:
    return f"{ms(part_ms)} ({100 * part_ms / whole_ms:.0f} %)" if whole_ms > 0 else ms(part_ms)


def ms(value: float) -> str:
    """A time in ms with as many digits as say something."""
    return f"{number(value)} ms"


def number(value: float) -> str:
    """Three significant digits or so, never an exponent, and no spurious zeros."""
    size = abs(value)
    digits = 0 if size >= 1_000 else 1 if size >= 100 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}"


def bounds(found: Accounts) -> list[str]:
    """What could be had if no host time were exposed (Amdahl)."""
    lines = []
    if found.fleet is not None and found.fleet.busy_ns:
        lines.append(
            f"without exposed host time: at most {found.fleet.speed_up:.2f} x the throughput "
            "while there is work"
        )
    if found.ttft is not None and found.ttft_without_host is not None:
        lines.append(
            f"time to first token {number(found.ttft.mean)} ms, without exposed host time "
            f"{number(found.ttft_without_host.mean)} ms (means)"
        )
    return lines
