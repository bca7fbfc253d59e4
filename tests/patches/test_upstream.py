"""The test file that the patch brings, run by vLLM 0.19.0 as it is and with the patch."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.patches.test_patch_file import TEST
from tests.patches.vllm_019 import PATCH, REPOSITORY, Installed, git, overlay

pytestmark = pytest.mark.vllm
# Importing vLLM takes longer than all the tests.
TIMEOUT_S = 280


def run(installed: Installed, folder: Path, *arguments: str, path: Path | None = None) -> str:
    """Runs the patch's tests in `folder` with `path` before what is installed."""
    done = git("apply", f"--include={TEST}", PATCH, cwd=folder)
    assert done.returncode == 0, done.stderr
    environment = {**os.environ, "VLLM_PLUGINS": "", "PYTHONPATH": str(path or "")}
    finished = subprocess.run(
        [installed.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", TEST, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert finished.returncode == 0, finished.stdout[-4000:] + finished.stderr[-2000:]
    return finished.stdout


def passed(output: str) -> int:
    count = re.search(r"(\d+) passed", output)
    assert count is not None
    return int(count.group(1))


def test_what_did_not_change_passes_without_the_patch(installed: Installed, tmp_path: Path) -> None:
    assert passed(run(installed, tmp_path, "-k", "not parallel")) == 9


def test_all_pass_with_the_patch(installed: Installed, tmp_path: Path) -> None:
    patched = overlay(installed, tmp_path / "overlay")
    done = git("apply", "--include=vllm/*", PATCH, cwd=patched)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "checkout"
    folder.mkdir()
    assert passed(run(installed, folder, path=patched)) == 21


def test_vllms_tokenizers_can_be_copied(installed: Installed) -> None:
    """What the patched renderer does with each when it starts."""
    environment = {**os.environ, "VLLM_PLUGINS": "", "PYTHONPATH": str(REPOSITORY)}
    finished = subprocess.run(
        [installed.python, "-m", "tests.patches.copying"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    kinds = {line.split()[0] for line in finished.stdout.splitlines()}
    assert {"Hugging", "DeepSeek", "Mistral"} <= kinds
