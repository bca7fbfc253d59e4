"""`codesign patch`: what it prints, and that each refusal is one line and exit status 1."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patching.example import A0, A1, A2, B0, B1, FIRST, NEW, SECOND, A, B
from tests.support import patches
from vllm_codesign.cli.main import main
from vllm_codesign.patching.hunks import ABSENT, blob
from vllm_codesign.patching.kept import FOLDER

Capture = pytest.CaptureFixture[str]


def say(capsys: Capture, *words: str, status: int = 0) -> str:
    assert main(["patch", *words]) == status
    said = capsys.readouterr()
    assert (said.err if status == 0 else said.out) == ""
    return said.out if status == 0 else said.err


def refused(capsys: Capture, *words: str) -> str:
    line = say(capsys, *words, status=1)
    assert line.count("\n") == 1
    return line.removeprefix("codesign: ").rstrip("\n")


def test_list(site: Path, shipped: Path, capsys: Capture) -> None:
    patches.write(shipped, "0001-other", patches.mail({A: A0}, {A: A2}, "Other", ""), "0.20.0")
    assert say(capsys, "list") == (
        f"vLLM 0.19.0 in {site}\n\n{FIRST}  for vLLM 0.19.0, which is here\n    Change it\n"
        "    Why.\n\n0001-other  for vLLM 0.20.0\n    Other\n"
    )
    document = json.loads(say(capsys, "list", "--json"))
    assert document["vllm"] == {"version": "0.19.0", "site": str(site)}
    assert [(each["name"], each["fits"]) for each in document["patches"]] == [
        (FIRST, True),
        ("0001-other", False),
    ]
    assert document["patches"][0]["files"] == [A, B, NEW]
    assert document["patches"][0]["not_installed"] == ["tests/test_a.py"]


def test_list_where_no_vllm_is(
    shipped: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    monkeypatch.setattr(sys, "meta_path", [])
    assert say(capsys, "list").startswith(f"vLLM is not installed for {sys.executable}: run ")
    assert json.loads(say(capsys, "list", "--json"))["vllm"] is None
    for command in ("status", "apply", "revert"):
        assert refused(capsys, command).startswith("vLLM is not installed for ")


def test_there_and_back(site: Path, capsys: Capture) -> None:
    before = patches.contents(site)
    head = f"vLLM 0.19.0 in {site}\n"
    files = (A, B, NEW)

    def status(said: str, state: str) -> str:
        width = max(map(len, files))
        return head + f"{FIRST}: {said}\n" + "".join(f"    {f:{width}}  {state}\n" for f in files)

    assert say(capsys, "status") == status("not applied", "not applied")
    dry = say(capsys, "apply", "--dry-run")
    assert dry == (
        f"{FIRST}: would apply (3 files)\n"
        "    vllm/a.py       |    3 ++-\n"
        "    vllm/sub/b.py   |    2 +-\n"
        "    vllm/sub/new.py |    1 +\n"
        "    4 lines added, 2 removed\n"
    )
    assert patches.contents(site) == before
    assert say(capsys, "apply") == f"{FIRST}: applied (3 files)\n"
    assert say(capsys, "apply", "0001") == f"{FIRST}: already applied, nothing to do\n"
    assert say(capsys, "status") == status("applied", "applied")
    assert "2 lines added, 4 removed" in say(capsys, "revert", "--dry-run")
    assert (site / A).read_text() == A1
    assert say(capsys, "revert", FIRST) == f"{FIRST}: reverted (3 files)\n"
    assert say(capsys, "revert", "0001") == f"{FIRST}: not applied, nothing to do\n"
    assert say(capsys, "revert") == "no patch is applied, nothing to revert\n"
    assert patches.contents(site) == before


def test_an_interrupted_run(site: Path, capsys: Capture) -> None:
    (site / B).write_text(B1)
    _, patch, *files = say(capsys, "status").splitlines()
    assert patch == (
        f"{FIRST}: partly applied, a run was interrupted or vLLM installed anew: codesign patch "
        f"apply {FIRST} completes it, codesign patch revert {FIRST} undoes it"
    )
    assert [each.split("  ")[-1] for each in files] == ["not applied", "applied", "not applied"]
    assert say(capsys, "revert") == f"{FIRST}: reverted (1 file, the rest)\n"
    assert (site / B).read_text() == B0
    (site / B).write_text(B1)
    assert say(capsys, "apply") == f"{FIRST}: applied (2 files, the rest)\n"
    assert (site / A).read_text() == A1


def test_json(site: Path, capsys: Capture) -> None:
    (patch,) = json.loads(say(capsys, "status", "--json"))["patches"]
    assert (patch["name"], patch["state"], patch["earlier_edition"]) == (
        FIRST,
        "not applied",
        False,
    )
    assert patch["files"][0] == {
        "path": A,
        "state": "not applied",
        "patches_between": [],
        "blob": blob(A0.encode()),
        "blob_before": blob(A0.encode()),
        "blob_after": blob(A1.encode()),
    }
    assert patch["files"][2]["blob"] == ABSENT
    document = json.loads(say(capsys, "apply", "--json", "--dry-run"))
    assert document["dry_run"] is True
    document = json.loads(say(capsys, "apply", "--json"))
    assert document["warnings"] == []
    (patch,) = document["patches"]
    assert (patch["name"], patch["was"]) == (FIRST, "not applied")
    assert patch["files"][0] == {"path": A, "lines_added": 2, "lines_removed": 1}
    (patch,) = json.loads(say(capsys, "revert", "--json"))["patches"]
    assert patch["files"][2] == {"path": A, "lines_added": 1, "lines_removed": 2}
    assert json.loads(say(capsys, "revert", "--json"))["patches"] == []


def test_several(site: Path, second: str, capsys: Capture) -> None:
    assert refused(capsys, "apply") == (
        f"several patches are for vLLM 0.19.0, name one or say --all: {FIRST}, {second}"
    )
    assert refused(capsys, "apply", "000") == f"000 may be {FIRST} or {second}: write more of it"
    assert main(["patch", "apply", "0001", "--all"]) == 2
    capsys.readouterr()
    assert say(capsys, "apply", "--all", "--dry-run").count("would apply") == 2
    assert (site / A).read_text() == A0
    assert say(capsys, "apply", "--all").splitlines() == [
        f"{FIRST}: applied (3 files)",
        f"{SECOND}: applied (1 file)",
    ]
    assert f"    {A}        applied, {second} on top of it\n" in say(capsys, "status")
    assert say(capsys, "revert").splitlines() == [
        f"{SECOND}: reverted (1 file)",
        f"{FIRST}: reverted (3 files)",
    ]


def test_all_or_none(site: Path, shipped: Path, capsys: Capture) -> None:
    patches.write(shipped, SECOND, patches.mail({"vllm/c.py": "c\n"}, {"vllm/c.py": "d\n"}))
    before = patches.contents(site)
    assert refused(capsys, "apply", "--all") == (
        f"{site / 'vllm/c.py'} is missing: reinstall vLLM 0.19.0"
    )
    assert patches.contents(site) == before


def test_another_version(site: Path, shipped: Path, capsys: Capture) -> None:
    (shipped / "vllm-0.19.0").rename(shipped / "vllm-0.20.0")
    before = patches.contents(site)
    assert say(capsys, "status").splitlines()[1:] == [f"{FIRST}: for vLLM 0.20.0, not for this one"]
    for words in (("apply",), ("apply", "--all"), ("apply", FIRST)):
        assert refused(capsys, *words) == (
            "no patch is for vLLM 0.19.0, which is installed here (there are patches for: 0.20.0)"
        )
    assert refused(capsys, "revert", "0001") == (
        f"{FIRST} is for vLLM 0.20.0, and 0.19.0 is installed here: see codesign patch list"
    )
    assert refused(capsys, "revert", "x") == "no patch is called x: see codesign patch list"
    assert patches.contents(site) == before


def test_vllm_was_installed_anew(site: Path, shipped: Path, capsys: Capture) -> None:
    """pip removes and writes what its list names; what is kept beside it is of no use then."""
    say(capsys, "apply")
    for path, text in ((A, A0), (B, B0)):
        (site / path).write_text(text)
    (site / NEW).unlink()
    assert (site / FOLDER).is_dir()
    assert say(capsys, "revert", "--dry-run") == "no patch is applied, nothing to revert\n"
    assert (site / FOLDER).is_dir()
    assert say(capsys, "revert") == "no patch is applied, nothing to revert\n"
    assert not (site / FOLDER).exists()


def test_an_earlier_edition(site: Path, shipped: Path, capsys: Capture) -> None:
    say(capsys, "apply")
    patches.write(shipped, FIRST, patches.mail({A: A0}, {A: A2}))
    assert say(capsys, "status").splitlines()[1:] == [
        f"{FIRST}: its files hold another patch or edition: codesign patch revert {FIRST} first",
        f"    {A}  holds another patch: {FIRST}",
        f"{FIRST} (an earlier edition): applied",
        f"    {A}        applied",
        f"    {B}    applied",
        f"    {NEW}  applied",
    ]
    assert say(capsys, "revert", "0001") == f"{FIRST}: reverted (3 files)\n"
    assert say(capsys, "apply", "0001") == f"{FIRST}: applied (1 file)\n"


def test_a_kept_patch_that_is_damaged(site: Path, capsys: Capture) -> None:
    say(capsys, "apply")
    (kept,) = (site / FOLDER).glob("vllm-0.19.0/*.patch")
    kept.write_bytes(b"no patch")
    assert say(capsys, "status").splitlines()[-1].startswith(f"{kept} cannot be read and is passed")
    assert json.loads(say(capsys, "status", "--json"))["damaged"] == [str(kept)]
    assert "already applied" in say(capsys, "apply")
    say(capsys, "revert")
    assert (site / A).read_text() == A0
    assert (site / B).read_text() == B0
    assert kept.exists(), "nobody knows what it needs"
    kept.unlink()
    say(capsys, "revert")
    assert not (site / FOLDER).exists()


def test_a_patch_that_is_not_fit_for_use(site: Path, shipped: Path, capsys: Capture) -> None:
    file = shipped / "vllm-0.19.0" / f"{FIRST}.patch"
    file.write_bytes(file.read_bytes().replace(b"Subject:", b"X:"))
    for command in ("list", "status", "apply", "revert"):
        assert refused(capsys, command).startswith(f"{file} has no Subject")


SERVER = """
import json, mmap, sys
from pathlib import Path
from vllm_codesign.recorder import active, session
made = session.create(Path(sys.argv[1]), 1, {"argv": ["vllm", "serve", "a/model"]})
active.activate(made, "process", 1 << 15)
with open(sys.argv[2], "rb") as file:
    library = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
print("up", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("ours", [True, False])
def test_a_server_that_runs_is_named(
    site: Path, tmp_path: Path, capsys: Capture, ours: bool
) -> None:
    library = (site if ours else tmp_path) / "torch.so"
    library.write_bytes(b"x" * mmap.PAGESIZE)
    shm = tmp_path / "shm"
    shm.mkdir()
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(shm), str(library)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert server.stdout is not None
    server.stdout.readline()
    try:
        assert main(["patch", "apply"]) == 0
        warning = (
            f"codesign: the server with pid {server.pid} (a/model) seems to run this vLLM and "
            "keeps the code it has loaded: restart it\n"
        )
        assert capsys.readouterr().err == (warning if ours else "")
        # Nothing was done, so there is nothing to warn of.
        assert main(["patch", "apply"]) == 0
        assert capsys.readouterr().err == ""
    finally:
        server.communicate()
