"""The patch as a file: whom it fits, what it makes of them, and that its order is safe."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.patches import vllm_019
from tests.patches.vllm_019 import FILES, PATCH, git, hash_of, hashes

TEST = "tests/utils_/test_async_microbatch_tokenizer.py"


def test_files_and_full_hashes_in_the_order_of_replacing_them() -> None:
    found = hashes()
    assert list(found) == [*FILES, TEST]
    for old, new in found.values():
        assert re.fullmatch("[0-9a-f]{40}", old)
        assert re.fullmatch("[0-9a-f]{40}", new)
    assert set(found[TEST][0]) == {"0"}, "a new file"


def test_mail_that_says_since_when_and_until_when(tmp_path: Path) -> None:
    done = subprocess.run(
        ["git", "mailinfo", tmp_path / "message", tmp_path / "diff"],
        stdin=PATCH.open(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Subject: [Frontend]" not in done.stdout, "mailinfo takes brackets away"
    assert "Subject: Encode prompts on all renderer workers" in done.stdout
    message = (tmp_path / "message").read_text()
    why = " ".join(message.split("\n\n")[0].split())
    assert why.startswith("From v0.19.0, which introduces it, to v0.23.0"), "as `list` shows it"
    assert "Since: the flag is new in v0.19.0" in message
    assert "Until: v0.23.0" in message
    first, second = (message.index(name) for name in FILES)
    assert first < second


def test_the_new_test_file_is_whole(tmp_path: Path) -> None:
    done = git("apply", f"--include={TEST}", PATCH, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.rglob("*.py")] == [Path(TEST).name]
    assert hash_of(tmp_path / TEST) == hashes()[TEST][1]


def test_it_is_for_the_sources_of_the_version(sources: Path) -> None:
    assert {name: hash_of(sources / name) for name in FILES} == {
        name: hashes()[name][0] for name in FILES
    }


def test_in_an_installed_package_it_brings_no_tests(patched: Path) -> None:
    assert {name: hash_of(patched / name) for name in FILES} == {
        name: hashes()[name][1] for name in FILES
    }
    assert not (patched / "tests").exists()


def test_in_a_checkout(sources: Path) -> None:
    git("init", "--quiet", cwd=sources)
    done = git("apply", "--index", PATCH, cwd=sources)
    assert done.returncode != 0, "--index asks for files that git knows"
    git("add", ".", cwd=sources)
    done = git("apply", "--index", PATCH, cwd=sources)
    assert done.returncode == 0, done.stderr
    assert {name: hash_of(sources / name) for name in hashes()} == {
        name: new for name, (_, new) in hashes().items()
    }


def test_an_overlay_leaves_the_installed_files_alone(
    installed: vllm_019.Installed, tmp_path: Path
) -> None:
    tree = vllm_019.overlay(installed, tmp_path)
    assert {path.name for path in (tree / "vllm").iterdir() if not path.is_symlink()} == {
        "utils",
        "renderers",
    }
    assert (tree / "vllm" / "__init__.py").resolve().parent.parent == installed.site_packages
    for name in FILES:
        assert not (tree / name).is_symlink()
        (tree / name).write_text("")
        assert hash_of(installed.site_packages / name) == hashes()[name][0]


def test_reverted_it_leaves_the_old_files(patched: Path) -> None:
    done = git("apply", "--reverse", "--include=vllm/*", PATCH, cwd=patched)
    assert done.returncode == 0, done.stderr
    assert [hash_of(patched / name) for name in FILES] == [hashes()[name][0] for name in FILES]


@pytest.mark.parametrize("name", FILES)
def test_refused_where_a_file_is_another(sources: Path, name: str) -> None:
    other = sources / name
    other.write_text(other.read_text().replace("executor", "pool"))
    before = {file: hash_of(sources / file) for file in FILES}
    assert git("apply", "--include=vllm/*", PATCH, cwd=sources).returncode != 0
    assert {file: hash_of(sources / file) for file in FILES} == before


def test_first_file_new_and_second_old(sources: Path) -> None:
    """What a server finds that starts between the two: one job at a time, as ever."""
    done = git("apply", f"--include={FILES[0]}", PATCH, cwd=sources)
    assert done.returncode == 0, done.stderr
    assert hash_of(sources / FILES[1]) == hashes()[FILES[1]][0]
    renderer = (sources / FILES[1]).read_text()
    call = re.search(r"AsyncMicrobatchTokenizer\(\s*(.*?)\s*\)\n", renderer, re.DOTALL)
    assert call is not None
    assert call.group(1) == "self.get_tokenizer(), executor=self._executor"
    pytest.importorskip("transformers")
    assert vllm_019.module_of(sources).AsyncMicrobatchTokenizer.__init__.__defaults__[-1] is None
