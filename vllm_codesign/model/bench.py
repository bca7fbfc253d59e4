"""`results.json`: what a load generator saw, request by request.

It is read back by `analyze` and `report`, and written by nobody but `codesign bench`;
a file from elsewhere is checked by these models. A run with `--arm` has a `results.json` for
each server, and one above them that names them all.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Scenario(_Strict):
    """One load: `concurrency` requests at a time of about `prompt_tokens` each."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    concurrency: int = Field(ge=1, le=4096)
    prompt_tokens: int = Field(ge=1, le=10_000_000, description="nominal; the true one is measured")
    max_tokens: int = Field(default=100, ge=1, le=1_000_000)
    repeats: int = Field(default=5, ge=1, le=10_000, description="batches of that concurrency")
    pause_s: float = Field(default=0.0, ge=0, le=3600, description="rest between two batches")
    prompts: Literal["identical", "unique", "shared-prefix"] = "unique"
    route: Literal["chat", "completions"] = "chat"
    stream: bool = True


class RequestResult(_Strict):
    """One request as its client saw it. Times in milliseconds; absent where never reached.

    The definitions are those of the MI300X study: `serialize_ms` to encode the body,
    `http_overhead_ms` from sending to the response headers, `prefill_ms` from the headers
    to the first token, `decode_ms` from the first token to the last, `total_ms` their sum
    as one stopwatch took it, `parse_ms` the time spent decoding response chunks.
    """

    scenario: str
    repeat: int = Field(ge=0)
    index: int = Field(ge=0)
    trace_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    start_unix_ns: int
    status: Literal["ok", "error"]
    error: str | None = None
    http_status: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    serialize_ms: float | None = None
    http_overhead_ms: float | None = None
    prefill_ms: float | None = None
    decode_ms: float | None = None
    parse_ms: float | None = None
    ttft_ms: float | None = None
    total_ms: float | None = None


class BenchRun(_Strict):
    """A whole run: what was asked for, of whom, and every request's result."""

    schema_version: Literal[1] = 1
    tool_version: str
    url: str
    model: str
    arrival: str = "batch"
    server_command: list[str] | None = None
    capture: str | None = Field(default=None, description="capture folder of the server, if known")
    started_unix_ns: int
    finished_unix_ns: int | None = None
    scenarios: list[Scenario]
    requests: list[RequestResult]


_Role = Literal["api_server", "engine_core", "worker", "exporter"]


class Arm(_Strict):
    """A server configuration with a name."""

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$", description="a folder's, too")
    flags: list[str] = Field(default=[], description="for vllm serve, besides those of every arm")
    env: dict[str, str] = Field(default={}, description="added to the environment")
    python: str | None = Field(default=None, description="interpreter of another environment")
    cores: dict[_Role, str] = Field(
        default={}, description="cores by role, as 0-3,8; set once the server is up"
    )
    nice: dict[_Role, Annotated[int, Field(ge=1, le=19)]] = Field(
        default={}, description="niceness by role; set once the server is up"
    )
    lmcache: bool = Field(default=False, description="an LMCache server behind it")


class ArmRepeat(_Strict):
    """One server of an arm, all scenarios done."""

    arm: str
    repeat: int = Field(ge=1)
    folder: str = Field(description="of its results.json, from the folder of this file")
    capture: str | None = Field(default=None, description="capture folder of the server, if known")
    started_unix_ns: int
    finished_unix_ns: int


class ArmsRun(_Strict):
    """The same scenarios against several configurations, each started `repeats` times."""

    schema_version: Literal[1] = 1
    tool_version: str
    model: str
    server_flags: list[str] = Field(description="of every arm, besides the arm's own")
    arrival: str = "batch"
    warm_up: int = Field(ge=0)
    arms: list[str] = Field(min_length=1, description="the first is what others are compared with")
    definitions: list[Arm] = Field(default=[], description="of arms that are not built in")
    lmcache_gib: float | None = Field(default=None, description="host memory of LMCache's server")
    repeats: int = Field(ge=1)
    started_unix_ns: int
    scenarios: list[Scenario]
    servers: list[ArmRepeat] = Field(description="in the order of time")
