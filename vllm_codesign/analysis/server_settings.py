"""What a server was started with, as far as a capture tells, so that a cure goes beyond it.

How many threads the renderer pool has is on the spans that waited for it, whoever set it, and
the steps tell whether they are planned ahead. Flags are those of the command line in `run.json`;
one that is not there has its default, unless a file (`--config`) may have set it or another
program than `vllm serve` made the engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import PurePath

from vllm_codesign.store.capture import RunInfo

_API_SERVER = "api_server"
_OFF = ("false", "0")


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """None, 0 or nothing where it is not known."""

    version: tuple[int, ...] = ()
    """The first two numbers of vLLM's."""
    on_cpu: bool = False
    """vLLM's CPU backend."""
    cpus: int | None = None
    """How many the API server may use; of several the one with the fewest."""
    api_servers: int | None = None
    threads: int | None = None
    """Of one API server's renderer pool."""
    plans_ahead: bool | None = None
    """Whether EngineCore plans a step while the one before runs."""
    flags: Mapping[str, str] = field(default_factory=dict)
    """By name, with dashes; one without a value has the empty text."""
    all_flags: bool = False
    """Whether what is not in `flags` was not set."""

    def number(self, flag: str) -> int | None:
        text = self.flags.get(flag, "")
        return int(text) if text.isascii() and text.isdecimal() else None

    def on(self, flag: str) -> bool | None:
        """Of a flag that is on or off, as vLLM has them: `--x`, `--no-x`; None where it has its
        default, or nobody knows."""
        if f"--no-{flag.removeprefix('--')}" in self.flags:
            return False
        if flag not in self.flags:
            return None
        # What follows may be the model.
        return self.flags[flag].lower() not in _OFF

    def unset(self, flag: str) -> bool:
        """Whether it is known to have its default."""
        return self.all_flags and self.on(flag) is None


def server_settings(
    run: RunInfo | None, threads: int | None = None, plans_ahead: bool | None = None
) -> ServerSettings:
    """`threads` is what the requests' spans say of the pool, `plans_ahead` what the steps do."""
    if run is None:
        return ServerSettings(threads=threads, plans_ahead=plans_ahead)
    version = run.versions.get("vllm", "")
    processes = run.cpu.processes if run.cpu is not None else []
    servers = [each for each in processes if _API_SERVER in each.role]
    words = _words(run)
    flags = dict(_flags(words))
    found = ServerSettings(
        version=tuple(int(piece) for piece in version.split(".")[:2] if piece.isdigit()),
        on_cpu=version.endswith("+cpu"),
        cpus=min((each.cpu_count for each in servers), default=None),
        api_servers=len({each.pid for each in servers}) or None,
        threads=threads,
        plans_ahead=plans_ahead,
        flags=flags,
        all_flags=_is_serve(words) and "--config" not in flags,
    )
    if threads is not None:
        return found
    return replace(found, threads=found.number("--renderer-num-workers"))


def _words(run: RunInfo) -> list[str]:
    argv = run.settings.get("argv")
    return [str(word) for word in argv] if isinstance(argv, list) else []


def _is_serve(words: Sequence[str]) -> bool:
    """`vllm serve ...`, `python -m vllm.entrypoints.openai.api_server ...`."""
    if not words:
        return False
    return "serve" in words[1:2] or PurePath(words[0]).name == "api_server.py"


def _flags(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """vLLM takes underscores for dashes in a name, and `--x=1` as well as `--x 1`."""
    for word, after in zip_longest(words, words[1:], fillvalue=""):
        if not word.startswith("--"):
            continue
        name, equals, value = word.partition("=")
        if not equals and not after.startswith("-"):
            value = after
        yield name.replace("_", "-"), value
