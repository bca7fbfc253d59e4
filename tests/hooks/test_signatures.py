"""Every table row against the parameters that its targets have in each supported vLLM."""

import json
from typing import Any

import pytest

from tests.hooks.signatures import generate
from vllm_codesign.hooks.installer import vllm_version
from vllm_codesign.hooks.resolve import resolve
from vllm_codesign.hooks.table import Hook, Status
from vllm_codesign.plugin import TABLES

ROWS = [(table.TABLE, hook) for table in TABLES for hook in table.HOOKS]
SNAPSHOTS = {path.stem: json.loads(path.read_text()) for path in generate.FOLDER.glob("*.json")}

# Rows that do not end as installed, by version.
EXPECTED = {
    "vllm-0.19.0": {"kv.lookup_for_connector": Status.VERSION_SKIPPED},
    "vllm-0.32.0": {
        "renderer.batch_tokenizer": Status.VERSION_SKIPPED,
        "kv.can_fit": Status.VERSION_SKIPPED,
    },
}


def test_the_versions_that_must_be_covered_are() -> None:
    assert set(SNAPSHOTS) == set(EXPECTED)


@pytest.mark.parametrize("name", sorted(SNAPSHOTS))
def test_status_of_every_row(name: str) -> None:
    snapshot = SNAPSHOTS[name]
    outcomes = [
        resolve(table, hook, lambda t: names_of(snapshot, t), snapshot["vllm"])
        for table, hook in ROWS
    ]
    not_installed = {o.hook.id: o.status for o in outcomes if o.status is not Status.INSTALLED}
    assert not_installed == EXPECTED[name]


def names_of(snapshot: dict[str, Any], target: str) -> list[str] | None:
    assert target in snapshot["targets"], f"{target}: run {generate.__file__} in each environment"
    parameters = snapshot["targets"][target]
    return None if parameters is None else [parameter for parameter, _ in parameters]


@pytest.mark.parametrize("name", sorted(SNAPSHOTS))
def test_nothing_stale_is_kept(name: str) -> None:
    targets = {target for _, hook in ROWS for target in hook.targets}
    assert set(SNAPSHOTS[name]["targets"]) == targets


def test_ids_are_unique_and_targets_well_formed() -> None:
    ids = [hook.id for _, hook in ROWS]
    assert len(ids) == len(set(ids))
    for _, hook in ROWS:
        for target in hook.targets:
            module, _, path = target.partition(":")
            assert module
            assert path, target


def test_a_row_with_several_targets_has_them_in_one_module() -> None:
    """Else whichever module is imported first would win over the order of preference."""
    for _, hook in ROWS:
        assert len({target.partition(":")[0] for target in hook.targets}) == 1, hook.id


def row(*targets: str, reads: tuple[str, ...] = (), **more: Any) -> Hook:
    return Hook("a.row", targets, lambda original, _: original, reads, **more)


@pytest.mark.parametrize(
    ("hook", "known", "version", "status", "target"),
    [
        (row("m:A.f", "m:B.f"), {"m:A.f": [], "m:B.f": []}, "0.32", "installed", "m:A.f"),
        (row("m:A.f", "m:B.f"), {"m:B.f": ["self"]}, "0.32", "installed", "m:B.f"),
        (
            row("m:A.f", "m:B.f", reads=("x",)),
            {"m:A.f": ["y"], "m:B.f": ["x"]},
            "0.32",
            "installed",
            "m:B.f",
        ),
        (row("m:A.f", reads=("x", "z")), {"m:A.f": ["x"]}, "0.32", "signature_changed", "m:A.f"),
        (row("m:A.f"), {}, "0.32.0+cpu", "missing", ""),
        (row("m:A.f", versions=("0.19", "0.32")), {}, "0.32.0", "version_skipped", ""),
        (row("m:A.f", versions=("0.33", "")), {}, "0.32.1", "version_skipped", ""),
        (row("m:A.f", versions=("0.19", "0.32"), foreign=True), {}, "0.32.0", "missing", ""),
        (row("m:A.f", versions=("0.19", "0.32")), {}, "", "missing", ""),
    ],
)
def test_resolve(
    hook: Hook, known: dict[str, list[str]], version: str, status: str, target: str
) -> None:
    outcome = resolve("t", hook, known.get, version)
    assert (outcome.status, outcome.target) == (status, target)


@pytest.mark.vllm
def test_snapshot_of_the_installed_version_is_what_it_was() -> None:
    pytest.importorskip("vllm", reason="needs vLLM")
    name = f"vllm-{vllm_version().split('+')[0]}"
    if name not in SNAPSHOTS:
        pytest.skip(f"no snapshot of {name}")
    # In this process other tests may have wrapped what is to be looked at.
    assert generate.in_new_process() == (generate.FOLDER / f"{name}.json").read_text()
