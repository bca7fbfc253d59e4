"""Whether a scenario is the same thing on both sides, and what to say where it is not quite."""

from __future__ import annotations

from collections.abc import Iterator

from vllm_codesign.analysis.sides import Side

_LOAD = ("concurrency", "prompt_tokens", "max_tokens", "prompts", "route", "stream", "pause_s")
_TOKENS_DIFFER = 0.02
"""Share by which mean numbers of tokens may differ: prompts are cut to length token by token."""


def differing_load(scenario: str, a: Side, b: Side) -> str | None:
    """Why two scenarios of one name are not the same load; None where they are, or nobody knows."""
    for field in (*_LOAD, "arrival"):
        said = [sorted(_said(side, scenario, field)) for side in (a, b)]
        if all(said) and said[0] != said[1]:
            first, second = (", ".join(each) for each in said)
            return (
                f"{scenario} is not the same load on both sides, so it is not compared: "
                f"{field} {first} in {a.name}, {second} in {b.name}"
            )
    return None


def _said(side: Side, scenario: str, field: str) -> set[str]:
    if field == "arrival":
        return {run.arrival for run in side.runs}
    return {
        str(getattr(each, field))
        for run in side.runs
        for each in run.scenarios
        if each.name == scenario
    }


def same_level(scenario: str, a: Side, b: Side) -> bool:
    """Whether the accounting cuts time into the same parts on both sides."""
    return len(_levels(scenario, a) | _levels(scenario, b)) < 2


def _levels(scenario: str, side: Side) -> set[bool]:
    known = (server.stepwise(scenario) for server in side.servers)
    return {each for each in known if each is not None}


def remarks_on(a: Side, b: Side) -> Iterator[str]:
    """What differs besides what is meant to, one line each."""
    ours, theirs = ({run.model for run in side.runs} for side in (a, b))
    if ours and theirs and ours != theirs:
        yield (
            f"the model is {', '.join(sorted(ours))} in {a.name} and {', '.join(sorted(theirs))} "
            f"in {b.name}: what differs may be the models' own"
        )
    names = [name for name in a.scenarios() if name in b.scenarios()]
    for name in names:
        for which in ("prompt_tokens", "completion_tokens"):
            means = [_mean_tokens(side, name, which) for side in (a, b)]
            first, second = means
            if first and second and abs(second - first) > _TOKENS_DIFFER * first:
                yield (
                    f"{name}: {which} are {first:,.0f} a request in {a.name} and {second:,.0f} in "
                    f"{b.name}, so the requests are not the same work"
                )
    for side in (a, b):
        for server in side.servers:
            for found in server.view.tables.scenarios if server.view is not None else ():
                if found.name in names and found.untraced:
                    yield (
                        f"{found.name}: {found.untraced:,} of {found.client_rows:,} requests have "
                        f"no trace in {server.path}: what the server says is of the others alone"
                    )
    differing = [name for name in names if not same_level(name, a, b)]
    if differing:
        yield (
            f"recorded at different levels ({_level(a, differing[0])} in {a.name}, "
            f"{_level(b, differing[0])} in {b.name}): the parts of the accounting are not the same "
            "ones and are left out; phases are compared"
        )


def _mean_tokens(side: Side, scenario: str, which: str) -> float | None:
    values = [
        value
        for run in side.runs
        for row in run.requests
        if row.scenario == scenario and row.status == "ok"
        if (value := getattr(row, which)) is not None
    ]
    return sum(values) / len(values) if values else None


def _level(side: Side, scenario: str) -> str:
    return " and ".join(
        "step" if each else "request" for each in sorted(_levels(scenario, side), reverse=True)
    )
