from pathlib import Path

import pytest

from tests.patches import vllm_019


@pytest.fixture(scope="session")
def installed() -> vllm_019.Installed:
    found = vllm_019.installed()
    if found is None:
        pytest.skip("vLLM 0.19.0 is not installed here; `make setup VERSION=0.19.0` does it")
    return found


@pytest.fixture
def sources(installed: vllm_019.Installed, tmp_path: Path) -> Path:
    """The two files as vLLM 0.19.0 has them, in their folders."""
    tree = tmp_path / "tree"
    vllm_019.copy_sources(installed, tree)
    return tree


@pytest.fixture
def patched(sources: Path) -> Path:
    done = vllm_019.git("apply", "--include=vllm/*", vllm_019.PATCH, cwd=sources)
    assert done.returncode == 0, done.stderr
    return sources
