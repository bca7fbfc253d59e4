import sys

import pytest

from tests.support import fake_vllm_command
from vllm_codesign.bench.vllm_platform import device_type
from vllm_codesign.model.errors import CodesignError


def test_vllms_answer_is_found_among_its_log(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_DEVICE", "cuda")

    assert device_type(fake_vllm_command.write(tmp_path)) == "cuda"


def test_no_vllm_is_one_line(tmp_path):
    (tmp_path / "vllm.py").write_text("")  # a module that has no platforms
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)

    with pytest.raises(
        CodesignError, match=r"which device it uses \(ModuleNotFoundError.*\): inst"
    ):
        device_type(python)
    with pytest.raises(CodesignError, match="name a Python that has vLLM"):
        device_type(tmp_path / "none")
