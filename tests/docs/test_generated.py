"""Generated pages are what their generators write, and the generators see what they should."""

from __future__ import annotations

import ast
import re
from types import ModuleType

import pytest

from docs import (
    generate_code_map,
    generate_commands,
    generate_compatibility,
    generate_messages,
    generate_settings,
)
from docs.generate import generators
from docs.markdown_text import code, table
from vllm_codesign import settings
from vllm_codesign.cli.main import COMMANDS

GENERATORS = {each.PAGE.name: each for each in generators()}


def test_every_generator_is_found() -> None:
    assert {"spans.md", "settings.md", "commands.md", "messages.md"} <= GENERATORS.keys()
    assert {"compatibility.md", "code_map.md"} <= GENERATORS.keys()


@pytest.mark.parametrize("name", GENERATORS)
def test_generating_again_changes_nothing(name: str) -> None:
    generator = GENERATORS[name]
    assert generator.PAGE.read_text(encoding="utf-8") == generator.page(), "run `make docs`"


@pytest.mark.parametrize("generator", GENERATORS.values(), ids=GENERATORS)
def test_a_generated_page_names_its_generator_first(generator: ModuleType) -> None:
    first = generator.page().splitlines()[0]
    assert f"docs/{generator.__name__.rpartition('.')[2]}.py" in first


def test_commands_have_all_and_each_has_its_help() -> None:
    page = generate_commands.page()
    for name in COMMANDS:
        assert f"\n## codesign {name}\n" in page
        assert f"Usage: codesign {name} [OPTIONS]" in page


def test_settings_have_every_variable_with_its_default_and_the_line_for_a_bad_one() -> None:
    page = generate_settings.page()
    names = generate_settings.variables()
    assert settings.ENV_LEVEL in names
    for name in names:
        assert f"| `{name}` |" in page
    assert "`CODESIGN_LEVEL='all' is not one of off, request, step; using step`" in page


def test_opentelemetrys_variables_are_those_that_are_asked_for() -> None:
    asked = generate_settings.asked()
    assert {"OTEL_SERVICE_NAME", "OTEL_EXPORTER_OTLP_ENDPOINT"} <= set(asked)
    assert {"OTEL_TRACES_SAMPLER_ARG", "OTEL_BSP_MAX_QUEUE_SIZE"} <= set(asked)
    assert not [name for name in asked if name.startswith("OTEL_EXPORTER_OTLP_TRACES_")]


def test_no_variable_of_opentelemetrys_is_read_in_silence() -> None:
    page = generate_settings.page()
    package = generate_code_map.ROOT / generate_code_map.PACKAGE
    named = {
        name
        for file in package.rglob("*.py")
        for name in re.findall(r'"(OTEL_[A-Z_]+[A-Z])"', file.read_text())
    }
    assert "OTEL_TRACES_SAMPLER" in named
    assert {name for name in named if f"| `{name}` |" not in page} == set()


def test_compatibility_has_every_snapshot_and_tells_what_is_not_there() -> None:
    found = generate_compatibility.snapshots()
    assert list(found) == ["0.19.0", "0.32.0"]
    lines = generate_compatibility.page().splitlines()
    (row,) = (line for line in lines if line.startswith("| `renderer.batch_tokenizer` |"))
    assert "| installed | not there |" in row
    (row,) = (line for line in lines if line.startswith("| `scheduler.schedule` |"))
    assert "| yes | installed | installed |" in row


def test_a_hook_that_is_gone_is_said_by_its_status() -> None:
    targets = dict(generate_compatibility.snapshots()["0.32.0"])
    targets["vllm.v1.core.sched.scheduler:Scheduler.schedule"] = None
    targets["vllm.v1.core.kv_cache_manager:KVCacheManager.allocate_slots"] = []
    statuses = {
        each.hook.id: each.status.value
        for each in generate_compatibility.outcomes(targets, "0.32.0")
    }
    assert statuses["scheduler.schedule"] == "missing"
    assert statuses["kv.allocate"] == "signature_changed"


def test_the_map_has_every_module() -> None:
    page = generate_code_map.page()
    package = generate_code_map.ROOT / generate_code_map.PACKAGE
    for file in package.rglob("*.py"):
        room = file.relative_to(package)
        if len(room.parts) == 1:
            wanted = room.stem
        elif room.name == "__init__.py" and len(room.parts) == 2:
            wanted = room.parts[0]
        else:
            wanted = "/".join(room.parts[1:])
        assert f"| `{wanted}` |" in page or wanted == "__init__", room


SAID = """
raise CodesignError(f"{path} is no folder: name another" + more) from error
logger.warning("codesign: %d of %.1f records were lost", lost, all)
log.debug("nobody is told of this one")
yield Finding("note", "store", "captures go somewhere")
yield Finding("error", "store", f"{there} is not writable")
raise ValueError("not for people, this one")
raise CodesignError(str(error))
"""


def test_messages_are_read_from_what_raises_and_logs() -> None:
    texts = [generate_messages._text(e) for e in generate_messages._arguments(ast.parse(SAID))]
    assert sorted(texts) == [
        "codesign: … of … records were lost",
        "…",
        "… is no folder: name another…",
        "… is not writable",
    ]


def test_markdown_of_bars_and_backticks() -> None:
    assert code("a") == "`a`"
    assert code("run `x`") == "`` run `x` ``"
    assert table(("a", ""), [("x|y", "z")]) == ["| a |  |", "|---|---|", "| x\\|y | z |"]
